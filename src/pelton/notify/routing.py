"""Which receivers an alert goes to, and why not to the others.

Pure: `notify/pipeline.py` makes a Routing whenever an object changes and asks it for each alert of a batch.
Without a NotificationManager every object is everybody's. Source: contracts, log and notification, sections
4.4, 4.6, 6.2 to 6.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from pelton.manifest.notification_timing import timing
from pelton.model.notification import LabelSelector, matches, pattern_matches
from pelton.model.notification_routing import Config, NotificationManager, Router, RouterReceivers, Silence
from pelton.notify.groups import HOLDING, Place

__all__ = ["Owner", "Routing", "Target", "Verdict", "Way", "config_for", "owner"]

_NAMESPACE_RULE = ("rule_level", "namespace")
"""Label of alerts that a namespace's own rule made: only they go to tenants."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose an object is; `tenant` is "" unless `kind` is `tenant`."""

    kind: Literal["global", "tenant", "default", "nobody"]
    tenant: str = ""


EVERYBODY = Owner("global")


def owner(labels: Mapping[str, str], manager: NotificationManager | None) -> Owner:
    """Return whose an object with these labels is."""
    if manager is None:
        return EVERYBODY
    if _any_pair(manager.global_selector, labels):
        return EVERYBODY
    tenant = labels.get(manager.tenant_key, "")
    if tenant and _any_pair(manager.tenant_selector, labels):
        return Owner("tenant", tenant)
    return Owner("default" if matches(manager.config_selector, labels) else "nobody")


def _any_pair(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return any(labels.get(name) == value for name, value in selector.items())


def config_for(
    labels: Mapping[str, str],
    selector: LabelSelector | None,
    configs: Iterable[Config],
    manager: NotificationManager | None,
) -> Config | None:
    """Choose the Config of a receiver.

    A tenant's receiver looks among that tenant's Configs first, then among the default ones, there without
    its selector. The lowest label `priority` wins, then the name.

    Args:
        labels: The receiver's.
        selector: Its block's config selector.
        configs: Those that have the block's type.
        manager: None = every Config is a default one.
    """
    ranked = sorted(configs, key=lambda config: (_priority(config), config.name))
    mine = owner(labels, manager)
    theirs = [(config, owner(config.labels, manager)) for config in ranked]
    if mine.kind == "tenant":
        for config, whose in theirs:
            if whose == mine and matches(selector, config.labels):
                return config
        selector = None
    return next(
        (
            config
            for config, whose in theirs
            if (manager is None or whose.kind == "default") and matches(selector, config.labels)
        ),
        None,
    )


def _priority(config: Config) -> float:
    try:
        return int(config.labels.get("priority", ""))
    except ValueError:
        return float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One block of one Receiver.

    Attributes:
        receiver: The Receiver's name.
        block: As in the Receiver, e.g. `slack`.
        selector: Alerts that it wants; None = all.
        labels, annotations: The Receiver's.
    """

    receiver: str
    block: str
    selector: LabelSelector | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How an alert gets to a target.

    Attributes:
        target: The target.
        owner: Whose it is.
        router: Name of the Router that leads there and has timers of its own, else "".
        place: Where it waits in groups; None = it is sent as it comes.
        hold: Where it waits while something keeps it back, when it is sent as it comes.
    """

    target: Target
    owner: Owner
    router: str
    place: Place | None
    hold: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of an alert.

    Attributes:
        silences: Names of everybody's Silences that keep it back; then nobody gets it.
        ways: Where it goes, and how.
        refused: Where it does not go, each with the reason in a few words.
    """

    silences: tuple[str, ...] = ()
    ways: tuple[Way, ...] = ()
    refused: tuple[tuple[Target, str], ...] = ()

    @property
    def taken(self) -> tuple[Target, ...]:
        """Where it goes."""
        return tuple(way.target for way in self.ways)


class Routing:
    """The objects of one moment.

    Args:
        targets: Blocks that something can be sent by.
        routers: Those that are disabled do not count.
        silences: As above.
        manager: None = everything is everybody's.
        group_labels: Labels that make groups where nothing else says which.
    """

    def __init__(
        self,
        targets: Sequence[Target] = (),
        *,
        routers: Iterable[Router] = (),
        silences: Iterable[Silence] = (),
        manager: NotificationManager | None = None,
        group_labels: Sequence[str] = (),
    ) -> None:
        self.manager = manager
        self._group_labels = tuple(group_labels)
        self._targets = tuple((target, owner(target.labels, manager)) for target in targets)
        self._routers = tuple((router, self._named(router.receivers)) for router in routers if router.enabled)
        # A Router without timers of its own makes no difference to when its alerts are sent.
        self._timed_routers = tuple(
            router.name for router, _ in self._routers if timing(router.annotations) is not None
        )
        annotations = {router.name: router.annotations for router, _ in self._routers}
        self._ways = {
            (target.receiver, target.block, name): self._way(target, whose, name, annotations.get(name, {}))
            for target, whose in self._targets
            for name in ("", *self._timed_routers)
        }
        # A Silence has to have all labels of the selector, where any suffices for a Receiver.
        self._silences = tuple(
            (silence, whose) for silence in silences for whose in [self._silence_owner(silence)] if whose
        )

    def _way(self, target: Target, whose: Owner, router: str, annotations: Mapping[str, str]) -> Way:
        manager = self.manager
        labels = (manager.group_labels if manager is not None else ()) or self._group_labels
        found = timing(
            manager.annotations if manager is not None else {},
            target.annotations,
            annotations,
            block=target.block,
            group_labels=labels,
        )
        place = Place(target.receiver, target.block, router, found) if found is not None else None
        held = replace(HOLDING, group_by=labels)
        hold = Place(target.receiver, target.block, "", held, holding=True)
        return Way(target=target, owner=whose, router=router, place=place, hold=hold)

    def way(self, receiver: str, block: str) -> Way | None:
        """Return the way to a target by no Router, or None when there is no such target."""
        return self._ways.get((receiver, block, ""))

    def _silence_owner(self, silence: Silence) -> Owner | None:
        manager = self.manager
        if manager is None or manager.global_selector.items() <= silence.labels.items():
            return EVERYBODY
        tenant = silence.labels.get(manager.tenant_key, "")
        return (
            Owner("tenant", tenant)
            if tenant and manager.tenant_selector.items() <= silence.labels.items()
            else None
        )

    def _named(self, receivers: RouterReceivers | None) -> frozenset[tuple[str, str]]:
        """Return the (receiver, block) pairs that a Router leads to."""
        found: set[tuple[str, str]] = set()
        for target, whose in self._targets if receivers is not None else ():
            if whose.kind not in ("global", "tenant") or receivers is None:
                continue
            named = (
                target.receiver in receivers.names
                or (receivers.regex != "" and pattern_matches(receivers.regex, target.receiver, whole=False))
                or (receivers.selector is not None and matches(receivers.selector, target.labels))
            )
            channel = any(
                whose == Owner("tenant", each.tenant) and (not each.types or target.block in each.types)
                for each in receivers.channels
            )
            if (named and receivers.type in ("", target.block)) or channel:
                found.add((target.receiver, target.block))
        return frozenset(found)

    def active(self, now: datetime) -> tuple[tuple[Silence, Owner], ...]:
        """Return the Silences that count at a moment, for `decide`; worked out once per batch."""
        return tuple(pair for pair in self._silences if pair[0].active(now))

    def decide(self, labels: Mapping[str, str], active: Sequence[tuple[Silence, Owner]] = ()) -> Verdict:
        """Decide where an alert with these labels goes.

        Args:
            labels: The alert's.
            active: What `active` returned.
        """
        hits = [(silence, whose) for silence, whose in active if matches(silence.matcher, labels)]
        if kept := tuple(silence.name for silence, whose in hits if whose == EVERYBODY):
            return Verdict(silences=kept)
        routed = [
            (router, pairs) for router, pairs in self._routers if matches(router.alert_selector, labels)
        ]
        by_router = frozenset().union(*(pairs for _, pairs in routed)) if routed else frozenset()
        policy = self.manager.route_policy if self.manager is not None else "All"
        routers_only = policy == "RouterOnly" or (policy == "RouterFirst" and bool(by_router))
        name, value = _NAMESPACE_RULE
        tenant = labels.get("namespace", "") if labels.get(name) == value else ""
        ways: list[Way] = []
        refused: list[tuple[Target, str]] = []
        for target, whose in self._targets:
            reason = ""
            pair = (target.receiver, target.block)
            if pair not in by_router:
                reason = _unreached(whose, tenant, routers_only)
            if not reason and hits and whose.kind == "tenant":
                own = [silence.name for silence, whom in hits if whom == whose]
                reason = f"silenced by {', '.join(own)}" if own else ""
            if not reason and not matches(target.selector, labels):
                reason = "its alertSelector does not match"
            if reason:
                refused.append((target, reason))
                continue
            via = ""
            if routed and self._timed_routers:
                named = (each.name for each, pairs in routed if pair in pairs)
                via = next((each for each in named if each in self._timed_routers), "")
            ways.append(self._ways[(*pair, via)])
        return Verdict(ways=tuple(ways), refused=tuple(refused))

    def silenced_by(
        self, labels: Mapping[str, str], whose: Owner, active: Sequence[tuple[Silence, Owner]]
    ) -> list[str]:
        """Return the names of the Silences that keep an alert back from a target of that owner."""
        return [
            silence.name
            for silence, whom in active
            if whom in (EVERYBODY, whose) and matches(silence.matcher, labels)
        ]


def _unreached(whose: Owner, tenant: str, routers_only: bool) -> str:
    """Return why a target gets an alert that no Router sends there, or "" when it does get it."""
    if whose.kind not in ("global", "tenant"):
        return "no selector of the NotificationManager takes its labels"
    if routers_only:
        return "no Router names it, and the route policy asks for one"
    if whose.kind == "tenant" and whose.tenant != tenant:
        return f"the alert is not one of tenant {whose.tenant}"
    return ""
