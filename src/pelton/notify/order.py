"""Keeps notifications of one group in order: what is over is never told before what fired.

Pure bookkeeping of `notify/sending.py`, one per destination. In memory: after a restart, notifications that
wait for another attempt may be overtaken once by what was decided later.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

__all__ = ["LONGEST_S", "GroupOrder"]

LONGEST_S: Final = 900.0
"""Seconds that a notification waits for older ones of its group; then it goes, whatever became of them."""


class GroupOrder:
    """Which notifications of which groups are being sent, or wait for another attempt."""

    def __init__(self) -> None:
        self._open: dict[str, dict[str, float]] = {}

    def enter(
        self, key: str, id: str, created_at: float, now: float, *, beside: Collection[str] = ()
    ) -> bool:
        """Tell whether a notification may be sent now; if so, it counts until `leave`.

        Args:
            key: Its group; "" = none, nothing holds it back.
            id: Its own, the same for each attempt.
            created_at: When it was decided, Unix seconds; parts of one notification have the same.
            now: Unix seconds.
            beside: Ids of notifications that go in the same message.
        """
        if not key:
            return True
        group = self._open.setdefault(key, {})
        older = any(at < created_at for other, at in group.items() if other != id and other not in beside)
        if older and now - created_at < LONGEST_S:
            return False
        group[id] = created_at
        return True

    def leave(self, key: str, id: str) -> None:
        """Note that a notification was accepted or given up; safe for one that never entered."""
        group = self._open.get(key)
        if group is not None:
            group.pop(id, None)
            if not group:
                del self._open[key]
