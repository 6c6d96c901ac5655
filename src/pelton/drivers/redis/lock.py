"""`lock.redis`: a key per lock that holds its owner and expires, as Dapr keeps them.

Implements `ports.Lock`. A script gives a lock back, so that nobody takes it between looking and deleting.
Source: `dapr-components` contract, section 5 (`lock.redis`).
"""

from __future__ import annotations

from typing import Final

from pelton.clock import Clock
from pelton.drivers.redis.link import RedisLink
from pelton.errors import ComponentError
from pelton.model.desired import Component
from pelton.ports import Unlocked

__all__ = ["RedisLocks"]

_UNLOCK: Final = """
local owner = redis.call('GET', KEYS[1])
if not owner then return 0 end
if owner ~= ARGV[1] then return 1 end
redis.call('DEL', KEYS[1])
return 2
"""
_ANSWERS: Final = (Unlocked.ABSENT, Unlocked.OTHERS, Unlocked.SUCCESS)


class RedisLocks:
    """Locks in a Redis database.

    Args:
        component: The keys of every Redis component.
        clock: Unused; the server's clock counts.
    """

    def __init__(self, component: Component, *, clock: Clock) -> None:
        self._link = RedisLink(component)

    async def try_lock(self, resource: str, owner: str, expiry_s: int) -> bool:
        """Take a lock if nobody has it; see `ports.Lock`."""
        with self._link.translated(ComponentError):
            return bool(await self._link.client.set(resource, owner, nx=True, ex=max(1, expiry_s)))

    async def unlock(self, resource: str, owner: str) -> Unlocked:
        """Give a lock back; see `ports.Lock`."""
        with self._link.translated(ComponentError):
            answer: int = await self._link.client.eval(_UNLOCK, 1, resource, owner)
        return _ANSWERS[answer]

    async def close(self) -> None:
        """Close the connections; safe to repeat."""
        await self._link.close()
