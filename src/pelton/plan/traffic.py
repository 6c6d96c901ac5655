"""Which revisions of a function get how much of its traffic, and under which tags.

`read` understands the annotation `pelton.dev/traffic`, `layout` decides, `arrange` turns the decision and the
planned revisions into one Desired. `controlplane/reconciler` calls them with what `plan/rollout` says about a
rollout under way. Pure.

Events go to one revision, the primary: that with the largest share, the newest of equals; during a rollout
the one that is being replaced, so that events change over once, at the end.
Source: contracts, gateway-network, section 8 (tags, splits); the entries are Knative's traffic targets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pelton.model.desired import Desired, Route, Workload, revision_key
from pelton.model.function import Function
from pelton.plan.problem import Problem

__all__ = [
    "LATEST",
    "TRAFFIC",
    "VISIBILITY",
    "Layout",
    "TrafficTarget",
    "annotation",
    "arrange",
    "internal",
    "layout",
    "missing",
    "read",
    "referred",
    "shares",
    "speaks_h2c",
    "traffic_status",
]

TRAFFIC = "pelton.dev/traffic"
"""Annotation: list of revisions with their percentage and tag, as YAML or JSON."""
LATEST = "latest"
"""Stands for the revision of the Function as it is written now."""
VISIBILITY = "networking.knative.dev/visibility"
"""Label: `cluster-local` for functions that are reached from inside only."""
_MAX_ENTRIES = 20
_TAG = re.compile(r"[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?")
_FIELDS = frozenset({"revision", "revisionName", "latestRevision", "percent", "tag"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficTarget:
    """One entry of the annotation.

    Attributes:
        revision: Its name, or LATEST.
        percent: Share of the traffic, 0 to 100.
        tag: Name under which it can be reached alone; "" for none.
    """

    revision: str = LATEST
    percent: int = 0
    tag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Who gets what.

    Attributes:
        primary: The revision that events go to, and all traffic when `split` has one entry.
        split: (revision, weight) in descending order of weight; weights above 0 with the sum 100.
        tags: (tag, revision), by tag.
    """

    primary: str
    split: tuple[tuple[str, int], ...]
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def live(self) -> tuple[str, ...]:
        """All revisions that can be reached, the primary first."""
        return tuple(
            dict.fromkeys([self.primary, *(one for one, _ in self.split), *(one for _, one in self.tags)])
        )


def annotation(function: Function, name: str) -> tuple[str, str]:
    """Return (text, path) of an annotation; that of spec.serving wins; ("", "") when there is none."""
    serving = function.serving.annotations if function.serving else {}
    for path, notes in (
        ("spec.serving.annotations", serving),
        ("metadata.annotations", function.annotations),
    ):
        if name in notes:
            return notes[name].strip(), f"{path}[{name}]"
    return "", ""


def internal(function: Function) -> bool:
    """Tell whether a Function asks to be reached from inside only, in Knative's words."""
    return "cluster-local" in (
        function.labels.get(VISIBILITY, ""),
        function.serving.labels.get(VISIBILITY, "") if function.serving else "",
    )


def read(function: Function) -> tuple[tuple[TrafficTarget, ...], list[Problem]]:
    """Return the traffic that a Function asks for, in written order, and what is wrong with it.

    Empty: all of it to the latest revision. Whether the revisions exist is for `missing` to say.
    """
    text, path = annotation(function, TRAFFIC)
    if not text:
        return (), []
    problems: list[Problem] = []

    def bad(message: str) -> None:
        problems.append(Problem(reason="InvalidAnnotation", path=path, message=message))

    # Imported where it is needed: nearly no function has this annotation.
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        entries = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, RecursionError, ValueError) as error:
        bad(f"is neither YAML nor JSON: {' '.join(str(error).split())[:200]}")
        return (), problems
    if not isinstance(entries, list) or not 1 <= len(entries) <= _MAX_ENTRIES:
        bad(
            f"must be a list of 1 to {_MAX_ENTRIES} entries such as "
            '[{"revision": "latest", "percent": 10}, {"revision": "NAME", "percent": 90, "tag": "old"}]'
        )
        return (), problems
    targets = [_target(entry, f"entry {index}", bad) for index, entry in enumerate(entries)]
    tags = [target.tag for target in targets if target.tag]
    for tag in sorted({tag for tag in tags if tags.count(tag) > 1}):
        bad(f'the tag "{tag}" is there more than once')
    total = sum(target.percent for target in targets)
    if not problems and total != 100:
        bad(f"the percentages add up to {total}, not to 100")
    return tuple(targets), problems


def _target(entry: Any, where: str, bad: Callable[[str], None]) -> TrafficTarget:
    if not isinstance(entry, dict):
        bad(f"{where} is no mapping")
        return TrafficTarget()
    for field in sorted(str(field) for field in entry if field not in _FIELDS):
        bad(f'{where} has the unknown field "{field}"; known are {", ".join(sorted(_FIELDS))}')
    revision = entry.get("revision", entry.get("revisionName"))
    is_latest = entry.get("latestRevision")
    if not (is_latest is None or isinstance(is_latest, bool)):
        bad(f"{where}: latestRevision is true or false")
    if is_latest is True and revision not in (None, LATEST):
        bad(f"{where} names a revision and asks for the latest one")
    if revision is None:
        if is_latest is False:
            bad(f"{where} names no revision")
        revision = LATEST
    if not isinstance(revision, str) or not revision:
        bad(f"{where}: revision is the name of one, or {LATEST}")
        revision = LATEST
    percent = entry.get("percent", 0)
    if percent is None:
        percent = 0
    if not isinstance(percent, int) or isinstance(percent, bool) or not 0 <= percent <= 100:
        bad(f"{where}: percent is a whole number from 0 to 100")
        percent = 0
    tag = entry.get("tag") or ""
    if tag and (not isinstance(tag, str) or not _TAG.fullmatch(tag)):
        bad(f"{where}: a tag has up to 32 lower-case letters, digits and dashes, and begins with a letter")
        tag = ""
    return TrafficTarget(revision=revision, percent=percent, tag=tag)


def referred(targets: Iterable[TrafficTarget]) -> frozenset[str]:
    """Return the names of revisions that a Function refers to, which are therefore kept."""
    return frozenset(target.revision for target in targets if target.revision != LATEST)


def missing(function: Function, targets: Iterable[TrafficTarget], known: Iterable[str]) -> list[Problem]:
    """Return a problem per revision that a Function refers to and that is not kept (any more)."""
    _, path = annotation(function, TRAFFIC)
    kept = sorted(known)
    return [
        Problem(
            reason="RevisionMissing",
            path=path,
            message=f'there is no revision "{name}"; kept are {", ".join(kept) or "none"}, see '
            f"`pelton revisions {function.name}`",
        )
        for name in sorted(referred(targets))
        if name not in kept
    ]


def layout(
    latest: str, targets: Iterable[TrafficTarget] = (), *, stable: str = "", weight: int = 100
) -> Layout:
    """Decide who gets what.

    Args:
        latest: The revision of the Function as it is written.
        targets: What the annotation says; empty for everything to `latest`. Its revisions exist.
        stable: During a rollout the revision that `latest` replaces; "" without one.
        weight: During a rollout the percentage that `latest` has got so far, 0 to 100.
    """
    wanted = tuple(targets) or (TrafficTarget(percent=100),)
    shares: dict[str, int] = {}
    tags: dict[str, str] = {}
    for target in wanted:
        name = latest if target.revision == LATEST else target.revision
        if target.tag:
            tags[target.tag] = name
        if stable and name == latest:
            # Of what the latest shall have, a rollout gives it its part; the rest stays where it was.
            given = target.percent * weight // 100
            shares[latest] = shares.get(latest, 0) + given
            shares[stable] = shares.get(stable, 0) + target.percent - given
        else:
            shares[name] = shares.get(name, 0) + target.percent
    # Of equals the newest: `latest` first, then as they are written.
    order = [name for name in dict.fromkeys([latest, *shares]) if shares.get(name)]
    order.sort(key=lambda name: -shares[name])
    return Layout(
        primary=layout(stable, wanted).primary if stable else order[0],
        split=tuple((name, shares[name]) for name in order),
        tags=tuple(sorted(tags.items())),
    )


def arrange(decided: Layout, latest: Desired, revisions: Mapping[str, Desired]) -> Desired:
    """Return everything that the Function needs, its live revisions included.

    Args:
        decided: Who gets what.
        latest: The Function as it is written; its route is that of all revisions.
        revisions: Name -> what that revision needs, for each that is live; may have more.
    """
    found = {**revisions, latest.revision: latest}
    live = [found[name] for name in decided.live]
    primary, others = live[0], live[1:]
    return replace(
        primary,
        route=_route(decided, latest.route, live) if latest.route is not None else None,
        partial=latest.partial,
        others=tuple(replace(other, route=None, subscriptions=(), partial=(), others=()) for other in others),
    )


def _route(decided: Layout, route: Route, live: list[Desired]) -> Route:
    timeouts = [one.workload.request_timeout_s for one in live]
    common = replace(
        route,
        h2c=speaks_h2c(live[0].workload),
        timeout_s=0.0 if 0.0 in timeouts else max(timeouts),
    )
    if len(live) == 1 and not decided.tags:
        return common
    keys = {one.revision: revision_key(route.namespace, route.name, one.revision) for one in live}
    return replace(
        common,
        split=tuple((keys[name], weight) for name, weight in decided.split),
        tags=tuple((tag, keys[name]) for tag, name in decided.tags),
        h2c_keys=tuple(keys[one.revision] for one in live if speaks_h2c(one.workload)),
    )


def speaks_h2c(workload: Workload) -> bool:
    """Tell whether a revision's program speaks HTTP/2 itself."""
    return workload.options.get("protocol", "").strip().lower() in {"h2c", "grpc"}


def shares(live: Desired) -> tuple[tuple[str, int], ...]:
    """Return (revision, percentage) of what shares the traffic, the largest first."""
    split = live.route.split if live.route is not None else ()
    return tuple((key.partition(":")[2], weight) for key, weight in split) or ((live.revision, 100),)


def traffic_status(live: Desired, *, latest: str) -> list[dict[str, Any]]:
    """Return status.traffic: an entry per share and per tag, in Knative's words.

    Args:
        live: What the target was told.
        latest: The Function's newest revision.
    """
    if live.route is None:
        return []
    host = next((one for one in live.route.hosts if not one.startswith("*")), "")
    entries: list[dict[str, Any]] = [
        {"revisionName": name, "percent": percent, "latestRevision": name == latest}
        for name, percent in shares(live)
    ]
    for tag, key in live.route.tags:
        name = key.partition(":")[2]
        entry = {"revisionName": name, "percent": 0, "latestRevision": name == latest, "tag": tag}
        entries.append({**entry, "host": f"{tag}-{host}"} if host else entry)
    return entries
