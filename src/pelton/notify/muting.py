"""What keeps alerts back at a moment: silences of both kinds, and alerts that inhibit others.

Pure: a snapshot that `notify/pipeline.py` makes once per round and asks for each alert. Source: contracts,
log and notification, 6.2, 6.4, 9.4 and 9.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pelton.notify.inhibition import Inhibition
from pelton.notify.routing import Owner, Routing
from pelton.notify.silences import SilenceIndex

__all__ = ["KeptBack", "Muting", "Placed"]


@dataclass(frozen=True, slots=True)
class KeptBack:
    """By what an alert is kept back; all empty = by nothing.

    Attributes:
        silences: Names of Silence resources.
        posted: Ids of silences that were posted.
        inhibited_by: Fingerprint of an alert.
    """

    silences: tuple[str, ...] = ()
    posted: tuple[str, ...] = ()
    inhibited_by: str = ""

    def __bool__(self) -> bool:
        return bool(self.silences or self.posted or self.inhibited_by)


NOTHING = KeptBack()


@dataclass(frozen=True, slots=True)
class Placed:
    """Where an alert belongs at a moment.

    Attributes:
        groups: (receiver, labels of its group there).
        kept: What keeps it back from at least one of them.
    """

    groups: tuple[tuple[str, Mapping[str, str]], ...]
    kept: KeptBack = NOTHING

    @property
    def receivers(self) -> list[str]:
        """Names of the receivers, each once."""
        return list(dict.fromkeys(receiver for receiver, _ in self.groups))


class Muting:
    """A snapshot.

    Args:
        routing: Knows the Silence resources.
        posted: Those that are active.
        inhibition: Knows the alerts that inhibit.
        now: Unix seconds.
    """

    def __init__(self, routing: Routing, posted: SilenceIndex, inhibition: Inhibition, now: float) -> None:
        self._routing = routing
        self._active = routing.active(datetime.fromtimestamp(now, UTC))
        self._posted = posted
        self._inhibition = inhibition
        self._now = now
        self.idle = not self._active and not posted and not inhibition.rules
        """Whether nothing keeps anything back."""

    def keeps_back(self, labels: Mapping[str, str], fingerprint: str, whose: Owner) -> KeptBack:
        """Return what keeps an alert back from a target of that owner."""
        if self.idle:
            return NOTHING
        silences = self._routing.silenced_by(labels, whose, self._active) if self._active else ()
        posted = [each.id for each in self._posted.matching(labels)] if self._posted else ()
        inhibited_by = self._inhibition.inhibited_by(labels, fingerprint, self._now)
        if not (silences or posted or inhibited_by):
            return NOTHING
        return KeptBack(tuple(silences), tuple(posted), inhibited_by)
