"""`pelton revisions` and `pelton rollback`: the revisions of a function that are kept, and going back to one.

Servings record them (`plan/history.py`); going back writes the spec that a Serving has kept into the
Function, and names the revision, so that its own build is used (`controlplane/building.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pelton.cli.client import Client
from pelton.cli.home import Home
from pelton.cli.objects import wait_settled
from pelton.cli.printing import print_columns
from pelton.cli.status import collect
from pelton.clock import SystemClock
from pelton.errors import ConflictError, NotFoundError, PeltonError
from pelton.manifest import kinds
from pelton.plan.history import FUNCTION_LABEL, FUNCTION_SPEC, FUNCTION_VERSION, REVISION
from pelton.plan.rollout import OWN, ROLLED_BACK_TO

__all__ = ["Revision", "restored", "revisions", "revisions_of", "rollback"]

_TRIES = 5
_OF_REVISION = ("pelton.dev/", "knative.dev/", "openfunction.io/", "dapr.io/")
"""Annotations with such a domain are part of what a revision is; others are its user's own."""
_RECORD = (REVISION, FUNCTION_VERSION, FUNCTION_SPEC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One kept revision.

    Attributes:
        name: Its name.
        serving: Its Serving, as stored.
        percent: Its share of the traffic.
        tags: Names under which it can be reached alone.
        latest: Whether it is the newest.
        instances: Its instances, ready or starting.
    """

    name: str
    serving: dict[str, Any]
    percent: int = 0
    tags: tuple[str, ...] = ()
    latest: bool = False
    instances: int = 0

    @property
    def state(self) -> str:
        """`Serving`, `Tagged`, `Kept`, or the state of a Serving that does not run."""
        state = str((self.serving.get("status") or {}).get("state", ""))
        if state != "Running":
            return state
        return "Serving" if self.percent else "Tagged" if self.tags else "Kept"

    @property
    def created(self) -> str:
        """When it was made, RFC 3339."""
        return str(self.serving["metadata"].get("creationTimestamp", ""))


def revisions(home: Home, name: str, namespace: str, *, output: str) -> int:
    """Print the revisions of a function, the newest first."""
    with Client(home) as client:
        function = client.get(kinds.by_resource("functions"), namespace, name)
        found = revisions_of(function, client.list(kinds.by_resource("servings"), namespace)["items"])
    counts = _instances(home, namespace, name)
    now = SystemClock().now()
    if output == "json":
        print(json.dumps([_plain(one, counts) for one in found], indent=2))
        return 0
    print_columns(
        ("REVISION", "AGE", "TRAFFIC", "TAGS", "INSTANCES", "STATE", "SERVING"),
        [
            (
                one.name + (" (latest)" if one.latest else ""),
                _age(one.created, now),
                f"{one.percent}%",
                ",".join(one.tags) or "-",
                str(counts.get(one.name, 0)),
                one.state,
                one.serving["metadata"]["name"],
            )
            for one in found
        ],
    )
    return 0


def revisions_of(function: dict[str, Any], servings: list[dict[str, Any]]) -> list[Revision]:
    """Return a Function's revisions, the newest first, from the Servings of its namespace."""
    uid, status = function["metadata"].get("uid"), function.get("status") or {}
    traffic = status.get("traffic") or []
    own = [
        serving
        for serving in servings
        if serving["metadata"].get("labels", {}).get(FUNCTION_LABEL)
        and any(owner.get("uid") == uid for owner in serving["metadata"].get("ownerReferences") or ())
    ]
    own.sort(key=_order, reverse=True)
    found: dict[str, Revision] = {}
    for serving in own:
        name = (serving["metadata"].get("annotations") or {}).get(REVISION, "")
        entries = [entry for entry in traffic if entry.get("revisionName") == name]
        if not name or name in found:  # one that came back has a newer Serving
            continue
        found[name] = Revision(
            name=name,
            serving=serving,
            percent=sum(int(entry.get("percent", 0)) for entry in entries),
            tags=tuple(entry["tag"] for entry in entries if entry.get("tag")),
            latest=(status.get("serving") or {}).get("revision") == name,
        )
    return list(found.values())


def _order(serving: dict[str, Any]) -> tuple[str, int]:
    metadata = serving["metadata"]
    version = str((metadata.get("annotations") or {}).get(FUNCTION_VERSION, ""))
    return metadata.get("creationTimestamp", ""), int(version) if version.isdecimal() else 0


def _instances(home: Home, namespace: str, name: str) -> dict[str, int]:
    for function in collect(home)["functions"]:
        if (function["namespace"], function["name"]) == (namespace, name):
            return {one["revision"]: one["instances"] for one in function["revisions"]}
    return {}


def _plain(one: Revision, counts: dict[str, int]) -> dict[str, Any]:
    return {
        "revision": one.name,
        "created": one.created,
        "percent": one.percent,
        "tags": list(one.tags),
        "latest": one.latest,
        "instances": counts.get(one.name, 0),
        "state": one.state,
        "serving": one.serving["metadata"]["name"],
    }


def _age(created: str, now: datetime) -> str:
    try:
        seconds = max(0, int((now - datetime.fromisoformat(created)).total_seconds()))
    except ValueError:
        return "<unknown>"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size * 2:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def rollback(home: Home, name: str, namespace: str, *, to_revision: str, timeout_s: float) -> int:
    """Give a Function the spec of a kept revision again, and wait until that serves."""
    kind = kinds.by_resource("functions")
    with Client(home) as client:
        chosen, new = _go_back(client, namespace, name, to_revision)
        if not wait_settled(client, kind, new, timeout_s=timeout_s):
            return 1
    print(f"function {namespace}/{name} is at revision {chosen.name} again")
    return 0


def _go_back(client: Client, namespace: str, name: str, wanted: str) -> tuple[Revision, dict[str, Any]]:
    """Return the revision gone back to, and the Function as it was written."""
    kind = kinds.by_resource("functions")
    tries = 0
    while True:
        function = client.get(kind, namespace, name)
        found = revisions_of(function, client.list(kinds.by_resource("servings"), namespace)["items"])
        chosen = _choose(function, found, wanted)
        try:
            return chosen, client.update(kind, restored(function, chosen))
        except ConflictError:
            tries += 1
            if tries == _TRIES:
                raise


def _choose(function: dict[str, Any], found: list[Revision], wanted: str) -> Revision:
    """Return the revision to go back to: the one asked for, else the one before the newest.

    Raises:
        NotFoundError: There is none, or none of that name.
    """
    metadata = function["metadata"]
    where = f"function {metadata['namespace']}/{metadata['name']}"
    serving = (function.get("status") or {}).get("serving") or {}
    usable = [one for one in found if (one.serving.get("status") or {}).get("state") == "Running"]
    if wanted:
        for one in found:
            if one.name == wanted:
                return one
        known = ", ".join(one.name for one in usable) or "none"
        raise NotFoundError(f"no revision {wanted} is kept", where=where, hint=f"kept: {known}")
    others = [one for one in usable if not one.latest]
    # While the newest one failed, or is being rolled out, that is what serves.
    before = [
        one for one in others if one.serving["metadata"]["name"] == serving.get("lastSuccessfulResourceRef")
    ]
    if not others:
        raise NotFoundError(
            "there is no earlier revision to go back to",
            where=where,
            hint="see: pelton revisions, and the annotation pelton.dev/revision-history-limit",
        )
    return (before or others)[0]


def restored(function: dict[str, Any], to: Revision) -> dict[str, Any]:
    """Return the Function with the spec of a revision, and the annotations that belong to it.

    Raises:
        PeltonError: The Serving does not say what the spec was.
    """
    metadata = function["metadata"]
    kept = to.serving["metadata"].get("annotations") or {}
    try:
        spec = json.loads(kept[FUNCTION_SPEC])
    except (KeyError, ValueError):
        raise PeltonError(
            f"Serving {to.serving['metadata']['name']} does not say what the spec of {to.name} was",
            where=f"function {metadata['namespace']}/{metadata['name']}",
            hint="apply the manifest of that time instead",
        ) from None
    own = {
        key: value
        for key, value in (metadata.get("annotations") or {}).items()
        if key in OWN or not _of_revision(key)
    }
    then = {key: value for key, value in kept.items() if key not in _RECORD and _of_revision(key)}
    annotations = {**own, **then, ROLLED_BACK_TO: to.name}
    return {**function, "metadata": {**metadata, "annotations": annotations}, "spec": spec}


def _of_revision(key: str) -> bool:
    domain, slash, _ = key.partition("/")
    return bool(slash) and f".{domain}/".endswith(tuple(f".{known}" for known in _OF_REVISION))
