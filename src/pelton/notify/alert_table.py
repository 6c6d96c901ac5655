"""The alerts that fire at present: what was last heard of each label set.

`notify/pipeline.py` fills the table with what was accepted, `notify/alertmanager.py` shows it;
`notify/groups.py` keeps the same records of those that wait to be sent. `merge` is how two reports of one
alert become one. In memory: what has to survive is kept by `notify/group_store.py` and on the bus. Bounded;
what is pushed out is counted. Source: contracts, log and notification, 9.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pelton.clock import rfc3339
from pelton.model.notification_timing import RESOLVE_TIMEOUT_S
from pelton.notify.alert import FIRING, RESOLVED, ZERO_TIME, Alert

__all__ = ["UPSTREAM_TIMEOUT_S", "AlertTable", "Tracked", "merge", "shown", "track"]

_LAST_S = datetime.max.replace(microsecond=0, tzinfo=UTC).timestamp()

UPSTREAM_TIMEOUT_S = 4 * 3600.0 + 300.0
"""Seconds that an alert of an Alertmanager counts: it says when one is over, and repeats it every 4 h."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """What is known of an alert.

    Attributes:
        alert: As last received, with its earliest start; `fingerprint` is over its labels.
        starts: Unix seconds.
        ends: Unix seconds from which it counts as over.
        assumed: Whether nobody said when it ends, so that each report puts the end off.
        updated: Unix seconds of the last report.
    """

    alert: Alert
    starts: float
    ends: float
    assumed: bool
    updated: float

    def over(self, now: float) -> bool:
        """Tell whether it is over."""
        return self.ends <= now


def track(alert: Alert, *, received: float, resolve_timeout_s: float = RESOLVE_TIMEOUT_S) -> Tracked:
    """Return what a report says.

    Args:
        alert: As stored, its fingerprint over its labels.
        received: Unix seconds.
        resolve_timeout_s: How long it counts when it says no end.
    """
    starts = _seconds(alert.starts_at) if alert.starts_at != ZERO_TIME else received
    if alert.ends_at == ZERO_TIME:
        if alert.status == RESOLVED:
            return Tracked(alert, starts, received, False, received)
        timeout_s = UPSTREAM_TIMEOUT_S if alert.upstream else resolve_timeout_s
        return Tracked(alert, starts, received + timeout_s, True, received)
    ends = _seconds(alert.ends_at)
    # Who says "resolved", or "firing", is believed, wherever the sender's clock stands.
    if alert.status == RESOLVED:
        return Tracked(alert, starts, min(ends, received), False, received)
    if ends <= received:
        return Tracked(alert, starts, received + resolve_timeout_s, True, received)
    return Tracked(alert, starts, ends, False, received)


def merge(known: Tracked | None, heard: Tracked) -> Tracked:
    """Return what is known after a report: the earliest start, the latest words, the end that counts.

    Reports may come in any order; the later one's words stand. Those whose times do not overlap are two
    occurrences: the later one stands alone.
    """
    if known is None:
        return heard
    if heard.updated < known.updated:
        known, heard = heard, known
    if not (known.starts <= heard.ends and heard.starts <= known.ends):
        return heard
    ends, assumed = heard.ends, heard.assumed
    if heard.over(heard.updated):
        if known.over(known.updated):
            ends = max(known.ends, heard.ends)
    elif known.ends > heard.ends and not known.assumed:
        # An end that somebody said outlives one that is assumed.
        ends, assumed = known.ends, False
    if known.starts >= heard.starts and ends == heard.ends and assumed == heard.assumed:
        return heard
    alert = heard.alert
    if known.starts < heard.starts:
        alert = replace(alert, starts_at=known.alert.starts_at)
    return Tracked(alert, min(known.starts, heard.starts), ends, assumed, heard.updated)


def shown(tracked: Tracked, now: float) -> Alert:
    """Return an alert as it is told to receivers: one that fires has no end yet."""
    alert = tracked.alert
    if not tracked.over(now):
        if alert.status == FIRING and alert.ends_at == ZERO_TIME:
            return alert
        return replace(alert, status=FIRING, ends_at=ZERO_TIME)
    if alert.status == RESOLVED and alert.ends_at != ZERO_TIME:
        return alert
    return replace(alert, status=RESOLVED, ends_at=_text(tracked.ends))


class AlertTable:
    """Alerts by label set.

    Args:
        most: Alerts at once, >= 1; beyond that the one that was received longest ago goes.
    """

    def __init__(self, *, most: int = 100_000) -> None:
        self._most = most
        self._known: dict[str, Tracked] = {}
        self.pushed_out = 0

    def note(
        self, alerts: Iterable[Alert], *, now: datetime, resolve_timeout_s: float = RESOLVE_TIMEOUT_S
    ) -> None:
        """Take what was received."""
        received = now.timestamp()
        known = self._known
        for alert in alerts:
            heard = track(alert, received=received, resolve_timeout_s=resolve_timeout_s)
            old = known.pop(alert.fingerprint, None)
            found = merge(old, heard)
            if found.over(received):
                continue
            known[alert.fingerprint] = found
            if len(known) > self._most:
                self.pushed_out += 1
                del known[next(iter(known))]

    def restore(self, alerts: Iterable[Tracked]) -> None:
        """Take what was known before a restart; what has been received since counts more."""
        for tracked in alerts:
            if len(self._known) < self._most:
                self._known.setdefault(tracked.alert.fingerprint, tracked)

    def same(self, alert: Alert) -> Alert:
        """Return the table's own object where it is equal to an alert, else the alert."""
        known = self._known.get(alert.fingerprint)
        return known.alert if known is not None and known.alert == alert else alert

    def firing(self, now: datetime) -> Sequence[Tracked]:
        """Return those that are not over, sorted by fingerprint; forget the others."""
        moment = now.timestamp()
        self._known = {key: item for key, item in self._known.items() if not item.over(moment)}
        return [self._known[key] for key in sorted(self._known)]


def _seconds(text: str) -> float:
    # An offset may carry the last hours of the year 9999 out of what a time can be.
    return min(datetime.fromisoformat(text).timestamp(), _LAST_S)


def _text(moment: float) -> str:
    return rfc3339(datetime.fromtimestamp(moment, UTC), fraction=True)
