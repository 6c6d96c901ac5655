"""Groups of alerts over time: what is due when, what is said, and what was said last.

A state machine without clock and I/O: `notify/timed.py` puts alerts in with the time, asks what is due,
carries a Flush out durably, and only then settles it here. So whatever fails in between happens again. A
group is one route's alerts with the same values of its labels; the record of what it last told (`Sent`)
outlives the group, as Alertmanager's log of notifications does. Source: contracts, log and notification, 9.3.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pelton.model.notification_timing import ALL_LABELS, Timing
from pelton.notify.alert import FIRING, Alert
from pelton.notify.alert_table import Tracked, merge, shown

__all__ = [
    "HOLDING",
    "AlertGroup",
    "Flush",
    "Groups",
    "Place",
    "Saved",
    "Sent",
    "group_key",
    "labels_of",
    "send_reason",
]

HOLDING = Timing(group_wait_s=0.0, group_interval_s=5.0, repeat_interval_s=float("inf"), send_resolved=False)
"""For alerts of a receiver without timers that something keeps back: sent once, when nothing does so."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an alert belongs: a receiver's block, by which Router ("" = by none), and when it notifies.

    Attributes:
        receiver, block, route: As said.
        timing: Of the groups there.
        holding: Whether only alerts that something keeps back come here.
    """

    receiver: str
    block: str
    route: str
    timing: Timing
    holding: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """What a group told last.

    Attributes:
        at: Unix seconds.
        firing, resolved: Fingerprints, as they were told.
        expires: Unix seconds after which nobody needs to know.
    """

    at: float
    firing: frozenset[str]
    resolved: frozenset[str]
    expires: float


@dataclass(frozen=True, slots=True)
class Saved:
    """What a group has to remember over a restart; its alerts are kept for themselves."""

    key: str
    next_flush: float
    flushed: bool


@dataclass(slots=True, eq=False)
class AlertGroup:
    """One group.

    Attributes:
        key: Its identity as text, see `group_key`.
        place: Where its alerts go.
        labels: Values that made it; labels with an empty value are left out.
        next_flush: Unix seconds of the next look.
        flushed: Whether it was looked at before.
        members: Fingerprint -> alert; over or not.
    """

    key: str
    place: Place
    labels: dict[str, str]
    next_flush: float
    flushed: bool = False
    members: dict[str, Tracked] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flush:
    """What one look at a group came to.

    Attributes:
        group: The group.
        at: Unix seconds.
        reason: Why it notifies; "" = it does not.
        alerts: What is told.
        sent: The record that replaces the last one; None keeps that.
        leaving: Members that are over and not needed any more.
        muted: Members that something keeps back, over or not.
        next_flush: When it is looked at next.
        empty: Whether it ends, unless something comes in before it is settled.
    """

    group: AlertGroup
    at: float
    reason: str
    alerts: list[Alert]
    sent: Sent | None
    leaving: list[Tracked]
    muted: int
    next_flush: float
    empty: bool


def group_key(place: Place, labels: dict[str, str]) -> str:
    """Return a group's identity, e.g. `ops/webhook:{alertname="DiskFull"}`."""
    values = ", ".join(f"{name}={json.dumps(labels[name], ensure_ascii=False)}" for name in sorted(labels))
    route = f"@{place.route}" if place.route else ""
    return f"{'held ' if place.holding else ''}{place.receiver}/{place.block}{route}:{{{values}}}"


def labels_of(place: Place, alert: Alert) -> dict[str, str]:
    """Return the labels of the group that an alert belongs to; those with an empty value are left out."""
    labels = alert.labels
    if place.timing.group_by == (ALL_LABELS,):
        return {name: labels[name] for name in sorted(labels) if labels[name]}
    return {name: labels[name] for name in place.timing.group_by if labels.get(name)}


def send_reason(
    last: Sent | None, firing: frozenset[str], resolved: frozenset[str], now: float, timing: Timing
) -> str:
    """Return why a group has to notify, or "".

    Args:
        last: What it told last.
        firing: Fingerprints that fire and that nothing keeps back.
        resolved: The same of those that are over.
        now: Unix seconds.
        timing: The group's.

    Returns:
        `first`, `new alerts`, `all resolved`, `some resolved`, `repeat` or "".
    """
    if last is None:
        return "first" if firing else ""
    if not firing <= last.firing:
        return "new alerts" if last.firing else "first"
    if not firing:
        return "all resolved" if last.firing else ""
    if timing.send_resolved and not resolved <= last.resolved:
        return "some resolved"
    # Strictly: at equality the original is late by what its last sending took, and waits for the next look.
    return "repeat" if last.at + timing.repeat_interval_s < now else ""


class Groups:
    """All groups.

    Args:
        most: Memberships at once, >= 1; above that `put` refuses new ones.
    """

    def __init__(self, *, most: int = 200_000) -> None:
        self._most = most
        self._count = 0
        self._groups: dict[tuple[str, ...], AlertGroup] = {}
        self._keys: dict[str, tuple[str, ...]] = {}
        self._due: list[tuple[float, int, AlertGroup]] = []
        self._number = 0
        self._saved: dict[str, Saved] = {}
        self._sent: dict[str, Sent] = {}

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def count(self) -> int:
        """Memberships: an alert counts once per group."""
        return self._count

    def __iter__(self) -> Iterator[AlertGroup]:
        return iter(list(self._groups.values()))

    def put(self, place: Place, alert: Tracked, now: float) -> AlertGroup | None:
        """Add an alert, or what is new about it; returns its group, or None when there is no room."""
        values = _values(place, alert)
        group = self._groups.get(values)
        if group is None:
            group = self._group(place, alert, values, now)
            if group is None:
                return None
        members = group.members
        name = alert.alert.fingerprint
        known = members.get(name)
        if known is None:
            if self._count >= self._most:
                return None
            self._count += 1
            members[name] = alert
        else:
            alert = members[name] = merge(known, alert)
        if not group.flushed and group.next_flush > now and alert.starts + place.timing.group_wait_s < now:
            # It waited elsewhere already.
            self._schedule(group, now)
        return group

    def _group(self, place: Place, alert: Tracked, values: tuple[str, ...], now: float) -> AlertGroup | None:
        if self._count >= self._most:
            return None
        labels = labels_of(place, alert.alert)
        key = group_key(place, labels)
        saved = self._saved.pop(key, None)
        group = AlertGroup(key, place, labels, 0.0)
        if saved is not None:
            group.flushed = saved.flushed
            # Never later than a fresh look would be, whatever the clock did meanwhile.
            longest = max(place.timing.group_wait_s, place.timing.group_interval_s)
            self._schedule(group, min(max(saved.next_flush, now), now + longest))
        else:
            self._schedule(group, now + place.timing.group_wait_s)
        self._groups[values] = group
        self._keys[key] = values
        return group

    def alerts(self) -> list[Tracked]:
        """Return all alerts of all groups, each once."""
        return list({name: each for group in self for name, each in group.members.items()}.values())

    def has(self, place: Place, alert: Tracked) -> bool:
        """Tell whether an alert is in its group at a place."""
        group = self._groups.get(_values(place, alert)) if self._groups else None
        return group is not None and alert.alert.fingerprint in group.members

    def hasten(self, group: AlertGroup, now: float) -> None:
        """Have a group looked at now."""
        if group.next_flush > now:
            self._schedule(group, now)

    def discard(self, place: Place, alert: Tracked) -> bool:
        """Take an alert out of its group; returns whether it was there."""
        group = self._groups.get(_values(place, alert))
        if group is None or group.members.pop(alert.alert.fingerprint, None) is None:
            return False
        self._count -= 1
        if not group.members:
            self._drop(group)
        return True

    def get(self, key: str) -> AlertGroup | None:
        """Return a group by its identity."""
        values = self._keys.get(key)
        return self._groups.get(values) if values is not None else None

    def find(self, place: Place, alert: Alert) -> tuple[str, AlertGroup | None, Sent | None]:
        """Return the key of the group that an alert belongs to, the group, and what it told last."""
        key = group_key(place, labels_of(place, alert))
        return key, self.get(key), self.last(key)

    def last(self, key: str) -> Sent | None:
        """Return what a group told last, whether it still exists or not."""
        return self._sent.get(key)

    def next_wake(self) -> float | None:
        """Return when something is due next, Unix seconds; None = nothing ever."""
        due = self._due
        while due and due[0][0] != due[0][2].next_flush:
            heapq.heappop(due)
        return due[0][0] if due else None

    def due(self, now: float) -> list[AlertGroup]:
        """Return the groups to look at, those that waited longest first; they stay due until settled."""
        found = []
        seen: set[int] = set()
        while (at := self.next_wake()) is not None and at <= now:
            group = heapq.heappop(self._due)[2]
            if self.get(group.key) is group and id(group) not in seen:
                seen.add(id(group))
                found.append(group)
        # Put back, so that one that could not be carried out is due again.
        for group in found:
            self._schedule(group, group.next_flush)
        return found

    def look(self, group: AlertGroup, now: float, muted: Callable[[Alert], bool]) -> Flush:
        """Decide what a group has to tell; changes nothing.

        Args:
            group: One that is due.
            now: Unix seconds.
            muted: Whether something keeps an alert back from this group's receiver.
        """
        place = group.place
        timing = place.timing
        firing: list[Alert] = []
        resolved: list[Alert] = []
        leaving: list[Tracked] = []
        kept_back = 0
        for tracked in group.members.values():
            alert = shown(tracked, now)
            if tracked.over(now):
                leaving.append(tracked)
            if muted(alert):
                kept_back += 1
            elif alert.status == FIRING:
                firing.append(alert)
            else:
                resolved.append(alert)
        firing_names = frozenset(alert.fingerprint for alert in firing)
        resolved_names = frozenset(alert.fingerprint for alert in resolved)
        last = self._sent.get(group.key)
        reason = send_reason(last, firing_names, resolved_names, now, timing)
        told = [*firing, *resolved] if timing.send_resolved else firing
        if place.holding and last is not None:
            told = [alert for alert in firing if alert.fingerprint not in last.firing]
        sent = None
        if reason:
            # Kept for twice the interval at which it would repeat; long enough for any look that may come.
            keep_s = min(2 * timing.repeat_interval_s, 5 * 24 * 3600.0)
            sent = Sent(now, firing_names, resolved_names, now + max(keep_s, 2 * timing.group_interval_s))
        return Flush(
            group=group,
            at=now,
            reason=reason if told else "",
            alerts=told if reason else [],
            sent=sent,
            leaving=leaving,
            muted=kept_back,
            # From the moment it was due, so that looks do not drift; after a pause, from now.
            next_flush=_after(group.next_flush, timing.group_interval_s, now),
            empty=len(leaving) == len(group.members),
        )

    def settle(self, flush: Flush) -> bool:
        """Note that a Flush was carried out; returns whether the group ended with it."""
        group = flush.group
        if self.get(group.key) is not group:
            return False
        group.flushed = True
        if flush.sent is not None:
            self._sent[group.key] = flush.sent
        for tracked in flush.leaving:
            name = tracked.alert.fingerprint
            # One that fires again meanwhile stays.
            if group.members.get(name) is tracked:
                del group.members[name]
                self._count -= 1
        if not group.members:
            self._drop(group)
            return True
        self._schedule(group, flush.next_flush)
        return False

    def rearrange(self, places: Callable[[Tracked], Iterable[Place]], now: float) -> list[AlertGroup]:
        """Put all alerts where they belong now; returns the groups that are no more.

        Groups that stay keep their times and what they told. Held alerts stay held while their receiver is
        one without timers.

        Args:
            places: Returns where an alert belongs; a `holding` place says that it may be held there.
            now: Unix seconds.
        """
        old = list(self._groups.values())
        alerts: dict[str, Tracked] = {}
        held: dict[str, set[tuple[str, str]]] = {}
        for group in old:
            self._saved[group.key] = Saved(group.key, group.next_flush, group.flushed)
            for name, tracked in group.members.items():
                alerts[name] = merge(alerts.get(name), tracked)
                if group.place.holding:
                    held.setdefault(name, set()).add((group.place.receiver, group.place.block))
        self._groups, self._keys, self._due, self._count = {}, {}, [], 0
        for name, tracked in alerts.items():
            for place in places(tracked):
                if place.holding and (place.receiver, place.block) not in held.get(name, ()):
                    continue
                self.put(place, tracked, now)
        self._saved.clear()
        return [group for group in old if group.key not in self._keys]

    def restore(self, saved: Iterable[Saved], sent: Iterable[tuple[str, Sent]]) -> None:
        """Take what was kept over a restart; the alerts follow by `put`, then `restored`."""
        self._saved = {each.key: each for each in saved}
        self._sent = dict(sent)

    def restored(self) -> list[str]:
        """End a restoration; returns the keys of kept groups that no alert belongs to any more."""
        left = list(self._saved)
        self._saved.clear()
        return left

    def rebase(self, now: float) -> None:
        """Bring looks nearer that lie too far ahead because the clock was set back."""
        for group in self._groups.values():
            timing = group.place.timing
            latest = now + max(timing.group_wait_s, timing.group_interval_s)
            if group.next_flush > latest:
                self._schedule(group, latest)

    def forget(self, now: float) -> list[str]:
        """Drop records that nobody needs any more; returns their keys."""
        gone = [key for key, sent in self._sent.items() if sent.expires <= now and key not in self._keys]
        for key in gone:
            del self._sent[key]
        return gone

    def _drop(self, group: AlertGroup) -> None:
        values = self._keys.pop(group.key, None)
        if values is not None:
            self._groups.pop(values, None)

    def _schedule(self, group: AlertGroup, at: float) -> None:
        group.next_flush = at
        self._number += 1
        heapq.heappush(self._due, (at, self._number, group))


def _values(place: Place, alert: Tracked) -> tuple[str, ...]:
    labels = alert.alert.labels
    # An empty first part of three cannot be a receiver's name, so held groups never meet others.
    head = (f"={place.receiver}" if place.holding else place.receiver, place.block, place.route)
    if place.timing.group_by == (ALL_LABELS,):
        return (*head, alert.alert.fingerprint)
    return (*head, *[labels.get(name, "") for name in place.timing.group_by])


def _after(due: float, interval_s: float, now: float) -> float:
    """Return the next look: on the group's own beat when it was punctual, else one interval from now."""
    following = due + interval_s
    return following if following > now else now + interval_s
