"""How many events of one lane are with a worker at once. Pure.

Many save what messages cost and keep the worker from waiting, but they all wait for each other, and after its
death they go one by one. So the number grows while events are over quickly and shrinks when they are not:
slow functions hold one event at a time, fast ones hundreds. `dispatcher.py` measures and asks.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BATCH_BYTES", "RunLength"]

BATCH_BYTES: Final = 64 * 1024
"""Payload bytes after which a message takes no further event: its worker begins while the next is made."""

_AIM_S: Final = 0.05


class RunLength:
    """How many events may be with a worker.

    Begins with 1, doubles while that many take under half of 50 ms, and falls to what takes 50 ms.

    Args:
        most: Upper bound, at least 1.

    Attributes:
        events: The number.
    """

    __slots__ = ("_most", "events")

    def __init__(self, most: int) -> None:
        self._most = most
        self.events = 1

    def took(self, events: int, seconds: float) -> None:
        """Take into account how long events took that followed one another.

        Args:
            events: How many, more than 0.
            seconds: For all of them.
        """
        whole_s = seconds / events * self.events
        if whole_s > _AIM_S:
            self.events = max(1, int(self.events * _AIM_S / whole_s))
        elif whole_s < _AIM_S / 2:
            self.events = min(2 * self.events, self._most)
