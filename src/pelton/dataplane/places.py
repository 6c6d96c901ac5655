"""Who waits for room in instances that take a limited number of requests at once: first come, first served.

The activator's requests wait here (through `dataplane/instances.py`) while every instance of a function with
a hard limit is full, so that an instance that comes up takes the oldest of them. Only the head of the queue
looks: when it is told that a place may be free, and every LOOK_S besides, since places that Envoy and events
took come free unannounced.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["LOOK_S", "Places"]

LOOK_S: Final = 0.02
"""Seconds between two looks without a hint."""

T = TypeVar("T")


class Places:
    """The queue of one revision."""

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns: deque[asyncio.Event] = deque()

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._turns)

    async def take(self, find: Callable[[], T | None]) -> T:
        """Return what `find` finds, once it is this caller's turn and there is something.

        Cancelling leaves the queue; the next one looks at once.

        Args:
            find: Returns a free place or None; what it raises ends the wait of this caller alone.
        """
        if not self._turns:
            found = find()
            if found is not None:
                return found
        turn = asyncio.Event()
        self._turns.append(turn)
        try:
            while True:
                if self._turns[0] is turn:
                    found = find()
                    if found is not None:
                        return found
                    try:
                        async with asyncio.timeout(LOOK_S):
                            await turn.wait()
                    except TimeoutError:
                        pass
                else:
                    await turn.wait()
                turn.clear()
        finally:
            self._turns.remove(turn)
            self.freed()

    def freed(self) -> None:
        """Say that a place may be free."""
        if self._turns:
            self._turns[0].set()
