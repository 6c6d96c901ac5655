"""`bindings.redis`: single values, set, read, deleted and counted up.

Implements `ports.Binding`.
Source: `dapr-components` contract, section 4 (`bindings.redis`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pelton.drivers.redis.link import RedisLink
from pelton.errors import ComponentError
from pelton.model.desired import Component
from pelton.model.invocation import Delivered
from pelton.model.settings import truthy

__all__ = ["RedisBinding"]

_OPERATIONS: Final = ("create", "get", "delete", "increment")


class RedisBinding:
    """Values of one server.

    Args:
        component: The keys of every Redis component.
    """

    def __init__(self, component: Component) -> None:
        self._link = RedisLink(component)

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> Delivered:
        """Carry out one operation on the key that the metadata name; see `ports.Binding`.

        Args:
            operation: create, get (with `delete` true the value is taken away), delete, or increment, which
                answers with the new number.
            data: The value to set.
            metadata: `key`, and `ttlInSeconds` for create and increment.
        """
        name = operation.lower()
        given = {key.lower(): value for key, value in metadata.items()}
        if name not in _OPERATIONS:
            raise ComponentError(
                f"bindings.redis has no operation {operation!r}",
                where=self._link.where,
                hint=f"Use one of {', '.join(_OPERATIONS)}.",
            )
        key = given.get("key", "")
        if not key:
            raise ComponentError("the request's metadata have no `key`", where=self._link.where)
        ttl_s = self._ttl(given.get("ttlinseconds", ""))
        client = self._link.client
        with self._link.translated():
            if name == "create":
                await client.set(key, data, ex=ttl_s or None)
                return Delivered(ok=True)
            if name == "get":
                value = await (client.getdel(key) if truthy(given.get("delete", "")) else client.get(key))
                return Delivered(ok=True, data=value or b"")
            if name == "delete":
                await client.delete(key)
                return Delivered(ok=True)
            async with client.pipeline(transaction=True) as pipe:
                pipe.incr(key)
                if ttl_s:
                    pipe.expire(key, ttl_s)
                number = (await pipe.execute())[0]
        return Delivered(ok=True, data=str(number).encode())

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()

    def _ttl(self, text: str) -> int:
        if not text.strip():
            return 0
        try:
            return max(0, int(text))
        except ValueError as exc:
            raise ComponentError(
                "`ttlInSeconds` is not a whole number of seconds", where=self._link.where
            ) from exc
