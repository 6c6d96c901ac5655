"""The alerts that fire at present, for whoever lists them.

`cli/runtime.py` fills it with what was accepted, `notify/alertmanager.py` shows it. In memory, as in
Alertmanager: what has to be sent waits on the bus, not here. Bounded; what is pushed out is counted. Source:
contracts, log and notification, 9.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pelton.notify.alert import RESOLVE_TIMEOUT, RESOLVED, ZERO_TIME, Alert, fingerprint

__all__ = ["AlertTable", "Firing"]


@dataclass(frozen=True, slots=True)
class Firing:
    """An alert of the table: when it counts as over, and when it was last received."""

    alert: Alert
    ends_at: datetime
    updated_at: datetime


class AlertTable:
    """Alerts by label set.

    Args:
        most: Alerts at once, >= 1; beyond that the one that was received longest ago goes.
    """

    def __init__(self, *, most: int = 100_000) -> None:
        self._most = most
        self._firing: dict[str, Firing] = {}
        self.pushed_out = 0

    def note(self, alerts: Iterable[Alert], *, now: datetime) -> None:
        """Take what was received: the earliest start and the latest annotations of a label set count."""
        for received in alerts:
            alert = received
            key = fingerprint(alert.labels)
            known = self._firing.pop(key, None)
            if alert.status == RESOLVED:
                continue
            if known is not None and known.ends_at > now:
                earliest = min(known.alert.starts_at, alert.starts_at, key=datetime.fromisoformat)
                alert = replace(alert, starts_at=earliest)
            ends_at = (
                now + RESOLVE_TIMEOUT if alert.ends_at == ZERO_TIME else datetime.fromisoformat(alert.ends_at)
            )
            self._firing[key] = Firing(replace(alert, fingerprint=key), ends_at, now)
            if len(self._firing) > self._most:
                self.pushed_out += 1
                del self._firing[next(iter(self._firing))]

    def firing(self, now: datetime) -> Sequence[Firing]:
        """Return those that are not over, sorted by label set; forget the others."""
        self._firing = {key: item for key, item in self._firing.items() if item.ends_at > now}
        return [self._firing[key] for key in sorted(self._firing)]
