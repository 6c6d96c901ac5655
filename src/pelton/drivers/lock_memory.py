"""`lock.in-memory`: locks between the apps of one process, for tests and for one machine.

Implements `ports.Lock`. Dapr has no such type; it keeps to what `lock.redis` does.
"""

from __future__ import annotations

from pelton.clock import Clock
from pelton.model.desired import Component
from pelton.ports import Unlocked

__all__ = ["MemoryLocks"]


class MemoryLocks:
    """Locks in memory.

    Args:
        component: Has no settings of its own.
        clock: Ends what has expired.
    """

    def __init__(self, component: Component, *, clock: Clock) -> None:
        self._clock = clock
        self._held: dict[str, tuple[str, float]] = {}

    async def try_lock(self, resource: str, owner: str, expiry_s: int) -> bool:
        """Take a lock if nobody has it; see `ports.Lock`."""
        now = self._clock.monotonic()
        # Whoever takes a lock sweeps: there are as many entries as locks that were not given back.
        self._held = {name: held for name, held in self._held.items() if held[1] > now}
        if resource in self._held:
            return False
        self._held[resource] = (owner, now + expiry_s)
        return True

    async def unlock(self, resource: str, owner: str) -> Unlocked:
        """Give a lock back; see `ports.Lock`."""
        held = self._held.get(resource)
        if held is None or held[1] <= self._clock.monotonic():
            return Unlocked.ABSENT
        if held[0] != owner:
            return Unlocked.OTHERS
        del self._held[resource]
        return Unlocked.SUCCESS

    async def close(self) -> None:
        """Do nothing: there is no connection."""
