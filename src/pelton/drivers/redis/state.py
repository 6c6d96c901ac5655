"""`state.redis`: a hash per key with the fields `data` and `version`, as Dapr keeps them.

Implements `ports.StateStore`. The etag is the version, which begins with 1 and grows with every write; 0 is
that of a key without a value, and can be given to make one. One
script looks at all etags and then writes, so that changes happen together or not at all. A third field
`binary` marks values that are no JSON; Dapr does not look at it. Times to live are the server's.
Source: `dapr-components` contract, section 3 (`state.redis`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pelton.clock import Clock, rfc3339
from pelton.drivers.redis.link import RedisLink
from pelton.errors import ComponentError
from pelton.model.desired import Component
from pelton.model.state import StateChange, StateItem, check_etag, check_form

__all__ = ["RedisStates"]

_FIELDS: Final = ("data", "version", "binary")
# Six arguments per key: expectation (any, is, none), its etag, delete or save, data, binary, seconds to live.
# Answers with the place of the first change that does not fit and the version found there, or with nothing.
_WRITE: Final = """
local versions = {}
for index, key in ipairs(KEYS) do
  local at = (index - 1) * 6
  local version = versions[key]
  if version == nil then version = redis.call('HGET', key, 'version') or '' end
  local expects, etag = ARGV[at + 1], ARGV[at + 2]
  if etag == '0' then etag = '' end
  if (expects == 'is' and version ~= etag) or (expects == 'none' and version ~= '') then
    return {index, version}
  end
  if ARGV[at + 3] == 'delete' then versions[key] = ''
  else versions[key] = string.format('%.0f', (tonumber(version) or 0) + 1) end
end
for index, key in ipairs(KEYS) do
  local at = (index - 1) * 6
  if ARGV[at + 3] == 'delete' then redis.call('DEL', key)
  else
    redis.call('HINCRBY', key, 'version', 1)
    redis.call('HSET', key, 'data', ARGV[at + 4])
    if ARGV[at + 5] == '1' then redis.call('HSET', key, 'binary', '1')
    else redis.call('HDEL', key, 'binary') end
    if ARGV[at + 6] == '0' then redis.call('PERSIST', key) else redis.call('EXPIRE', key, ARGV[at + 6]) end
  end
end
return {}
"""


class RedisStates:
    """A store in a Redis database.

    Args:
        component: The keys of every Redis component, and `ttlInSeconds`, the time to live of values that
            bring none of their own.
        clock: Tells when values end; the server's own counts for the end itself.
        folder: Unused; other stores keep files there.
    """

    def __init__(self, component: Component, *, clock: Clock, folder: Path | None = None) -> None:
        self._link = RedisLink(component)
        self._clock = clock
        self._ttl_s = max(0, self._link.settings.number("ttlInSeconds", 0))

    async def get(self, keys: Sequence[str]) -> list[StateItem]:
        """Return an item per key; see `ports.StateStore`."""
        if not keys:
            return []
        with self._link.translated(ComponentError):
            async with self._link.client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hmget(key, list(_FIELDS))
                    pipe.ttl(key)
                rows = await pipe.execute()
        now = self._clock.now()
        return [
            _item(key, row, now + timedelta(seconds=ttl_s) if ttl_s > 0 else None)
            for key, row, ttl_s in zip(keys, rows[::2], rows[1::2], strict=True)
        ]

    async def write(self, changes: Sequence[StateChange]) -> None:
        """Carry out all changes or none; see `ports.StateStore`."""
        if not changes:
            return
        words: list[Any] = []
        for change in changes:
            words += self._words(change)
        keys = [change.key for change in changes]
        with self._link.translated(ComponentError):
            answer = await self._link.client.eval(_WRITE, len(keys), *keys, *words)
        if answer:
            check_etag(changes[answer[0] - 1], answer[1].decode())

    async def scan(self, prefix: str, *, limit: int) -> list[StateItem]:
        """Return items whose key begins so, in order of their keys; looks at every key of the database."""
        pattern = "".join(f"\\{char}" if char in "*?[]\\" else char for char in prefix) + "*"
        keys = set[str]()
        with self._link.translated(ComponentError):
            async for key in self._link.client.scan_iter(match=pattern, count=1000, _type="HASH"):
                keys.add(key.decode(errors="replace"))
        found = list[StateItem]()
        ordered = sorted(keys)
        for start in range(0, len(ordered), 500):
            if len(found) >= limit:
                break
            found += [item for item in await self.get(ordered[start : start + 500]) if item.data is not None]
        return found[:limit]

    async def close(self) -> None:
        """Close the connections; safe to repeat."""
        await self._link.close()

    def _words(self, change: StateChange) -> list[Any]:
        check_form(change, number=True)
        check_etag(change, change.etag)  # only the mode can be wrong here
        expects = "any"
        if change.concurrency != "last-write":
            if change.etag:
                expects = "is"
            elif change.concurrency == "first-write" and not change.delete:
                expects = "none"
        own = any(name.lower() == "ttlinseconds" for name in change.metadata)
        ttl_s = change.ttl_s() if own else self._ttl_s
        if change.delete:
            return [expects, change.etag, "delete", b"", "0", "0"]
        return [expects, change.etag, "save", change.data, "0" if change.json else "1", str(ttl_s)]


def _item(key: str, row: Sequence[bytes | None], ends: datetime | None) -> StateItem:
    data, version, binary = row
    if data is None:
        return StateItem(key=key)
    return StateItem(
        key=key,
        data=data,
        json=binary is None,
        etag=(version or b"").decode(),
        expires=rfc3339(ends) if ends is not None else "",
    )
