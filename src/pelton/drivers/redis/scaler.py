"""Scalers `redis` and `redis-streams`, of one server, a cluster, or one that sentinels know.

Implements `ports.Scaler`. Has a client of its own: the triggers' keys, and the forms of clusters, are not
those of components. What the numbers mean is in `autoscale/scalers/redis.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError

from pelton.autoscale.scalers.redis import LENGTH_COMMANDS, RedisScaling, measure
from pelton.clock import Clock
from pelton.errors import ScalerError
from pelton.model.scaler import ScalerReading

__all__ = ["RedisScaler"]

_ANSWER_S: Final = 3.0
_LAG_SINCE: Final = 7
"""Major version of the server that first tells a group's lag."""


class RedisScaler:
    """A list or stream.

    Args:
        settings: Of the trigger.
        clock: Unused; deadlines are the client's.
        where: For messages.
    """

    def __init__(self, settings: RedisScaling, *, clock: Clock, where: str) -> None:
        del clock
        self._settings = settings
        self._where = where
        self._client: Any = None
        self._sentinel: Any = None

    async def read(self) -> Sequence[ScalerReading]:
        """Return the length or lag; see `ports.Scaler`."""
        try:
            async with asyncio.timeout(2 * _ANSWER_S):
                count = await self._count()
        except (AuthenticationError, AuthorizationError) as error:
            raise self._failed("rejected the credentials", "check username and password") from error
        except ResponseError as error:
            if str(error).startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
                raise self._failed("rejected the credentials", "check username and password") from error
            raise self._failed(f"refused: {error}", "check the name of the key") from error
        except (RedisError, OSError, TimeoutError) as error:
            await self.close()  # the next reading connects anew
            why = str(error) or type(error).__name__
            raise self._failed(f"was not reached: {why}", "check address and port") from error
        return [measure(self._settings, count)]

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        sentinel, self._sentinel = self._sentinel, None
        if client is not None:
            await client.aclose()
        for one in getattr(sentinel, "sentinels", ()):
            await one.aclose()

    async def _count(self) -> int:
        client, settings = self._opened(), self._settings
        key = settings.key
        if settings.mode == "list":
            kind = await client.type(key)
            command = LENGTH_COMMANDS.get(_text(kind))
            if command is None:
                raise self._failed(f"has {key} as a {_text(kind)}", "name a list, set, sorted set or hash")
            # By the client's method: a cluster's client finds the node by it.
            return int(await getattr(client, command.lower())(key))
        if settings.mode == "length":
            return int(await client.xlen(key))
        if settings.mode == "pending":
            try:
                return int((await client.xpending(key, settings.group))["pending"])
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                raise self._failed(
                    f"has no stream {key} with a group {settings.group}",
                    "create the group, or check stream and consumerGroup",
                ) from error
        return await self._lag(client)

    async def _lag(self, client: Any) -> int:
        settings = self._settings
        info = await client.info("server")
        servers = info.values() if settings.kind == "cluster" and "redis_version" not in info else (info,)
        versions = [str(one.get("redis_version", "0")) for one in servers]
        if any(int(version.partition(".")[0]) < _LAG_SINCE for version in versions):
            raise self._failed(
                f"has version {min(versions)}, which does not know the lag of a group",
                f"use Redis {_LAG_SINCE} or newer, or pendingEntriesCount in place of lagCount",
            )
        try:
            groups = await client.xinfo_groups(settings.key)
        except ResponseError as error:
            if "no such key" in str(error):
                return 0
            raise
        for group in groups:
            if _text(group["name"]) == settings.group and group.get("lag") is not None:
                return int(group["lag"])
        # No such group, or the server cannot tell its lag until it has read on, as after a deletion.
        return int(await client.xlen(settings.key))

    def _opened(self) -> Any:
        if self._client is None:
            settings = self._settings
            options = self._options()
            if settings.kind == "cluster":
                nodes = [ClusterNode(host, port) for host, port in settings.addresses]
                self._client = RedisCluster(startup_nodes=nodes, **options)
            elif settings.kind == "sentinel":
                login = {
                    "username": settings.sentinel_username or None,
                    "password": settings.sentinel_password or None,
                }
                self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
                    list(settings.addresses),
                    sentinel_kwargs={**login, "socket_timeout": _ANSWER_S},
                    db=settings.database,
                    **options,
                )
                self._client = self._sentinel.master_for(settings.sentinel_master)
            else:
                host, port = settings.addresses[0]
                self._client = Redis(host=host, port=port, db=settings.database, **options)
        return self._client

    def _options(self) -> dict[str, Any]:
        settings = self._settings
        options: dict[str, Any] = {
            "username": settings.username or None,
            "password": settings.password or None,
            "socket_timeout": _ANSWER_S,
            "socket_connect_timeout": _ANSWER_S,
            "retry": Retry(NoBackoff(), 0),  # the next look asks again
        }
        if settings.tls:
            options["ssl"] = True
            if not settings.verify:
                options |= {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
            if settings.ca:
                options["ssl_ca_data"] = settings.ca
            if settings.certificate:
                raise self._failed(
                    "asks for a client certificate, which cannot be given here", "use username and password"
                )
        return options

    def _failed(self, what: str, hint: str) -> ScalerError:
        places = ", ".join(f"{host}:{port}" for host, port in self._settings.addresses)
        return ScalerError(f"Redis at {places} {what}", where=self._where, hint=hint)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
