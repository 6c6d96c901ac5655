"""Instances as Pods: keeps the API's read-only view of them up to date, and reads their logs for it.

Asks the node twice a second which instances there are, since nothing else needs to know at once; a node that
is being restarted leaves the view as it was. Run by `cli/control_plane.py`.
"""

from __future__ import annotations

import asyncio
import platform
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from pelton.apiserver.builtin.pods import FUNCTION, KEY, LogRequest, pod
from pelton.apiserver.rules import same
from pelton.apiserver.store import ObjectStore, decode
from pelton.clock import Clock, rfc3339
from pelton.drivers.logs import follow_logs, read_logs
from pelton.errors import NotFoundError, PeltonError, ProtocolError
from pelton.log import get

__all__ = ["PodMirror", "logs_of", "replicas_of"]

_EVERY_S = 0.5
_GONE_S = 1.0  # how often a followed log looks whether its instance is still there
_CHUNK = 500  # lines between two turns of the loop
_log = get(__name__)


class PodMirror:
    """Keeps the Pods in the store equal to the instances of the node.

    Args:
        store: Where Pods are shown.
        instances: Asks the node: [{namespace, name, id, revision, pid, state}, ...].
        clock: Time.
    """

    def __init__(
        self,
        store: ObjectStore,
        instances: Callable[[], Awaitable[list[dict[str, Any]]]],
        clock: Clock,
    ) -> None:
        self._store = store
        self._instances = instances
        self._clock = clock
        self._node = platform.node().lower() or "localhost"

    async def run(self) -> None:
        """Mirror until cancelled."""
        while True:
            try:
                await self.mirror(await self._instances())
            except (PeltonError, OSError, TimeoutError) as error:
                _log.debug("instances are not known now: %s", error)
            await self._clock.sleep(_EVERY_S)

    async def mirror(self, instances: Iterable[dict[str, Any]]) -> None:
        """Make the Pods equal to what the node told."""
        wanted = {(item["namespace"], item["id"]): item for item in instances}
        for entry in self._store.entries(KEY):
            if (entry.namespace, entry.name) not in wanted:
                self._store.discard(KEY, entry, decode(entry.raw))
        for (namespace, name), item in wanted.items():
            await self._show(namespace, name, item)

    async def _show(self, namespace: str, name: str, item: dict[str, Any]) -> None:
        now = rfc3339(self._clock.now())
        try:
            entry = self._store.entry(KEY, namespace, name)
        except NotFoundError:
            await self._store.create(KEY, self._pod(namespace, name, item, now), keep_status=True)
            return
        old = decode(entry.raw)
        new = self._pod(namespace, name, item, old["metadata"]["creationTimestamp"])
        new["metadata"] = {**old["metadata"], **new["metadata"]}
        if item["state"] == "draining":
            new["metadata"].setdefault("deletionTimestamp", now)
        if not same(new, old):
            self._store.swap(KEY, entry, new)

    def _pod(self, namespace: str, name: str, item: dict[str, Any], seen: str) -> dict[str, Any]:
        return pod(
            namespace=namespace,
            function=item["name"],
            instance=name,
            revision=item["revision"],
            state=item["state"],
            node=self._node,
            seen=seen,
            pid=item["pid"],
        )


def replicas_of(store: ObjectStore) -> Callable[[dict[str, Any]], int]:
    """Return what counts the instances of a Function, for its scale subresource."""

    def count(function: dict[str, Any]) -> int:
        metadata = function["metadata"]
        entries = store.entries(KEY, metadata["namespace"])
        return sum(entry.labels.get(FUNCTION) == metadata["name"] for entry in entries)

    return count


def logs_of(store: ObjectStore, logs: Path, clock: Clock) -> Callable[[LogRequest], AsyncIterator[bytes]]:
    """Return the reader of logs for `pods/log`.

    Args:
        store: Tells whether an instance is still there.
        logs: Directory of all logs.
        clock: Time.
    """

    async def read(request: LogRequest) -> AsyncIterator[bytes]:
        since = _since(request, clock)
        left = request.limit_bytes or -1
        last: deque[dict[str, Any]] = deque(maxlen=request.tail)
        seen: dict[str, Any] = {}
        records = read_logs(logs, request.namespace, request.function, since=since)
        for number, found in enumerate(records, 1):
            if number % _CHUNK == 0:
                await asyncio.sleep(0)
            if _is_of(found, request):
                seen = found
                last.append(found)
        for found in last:
            line = _line(found, request)[: left if left >= 0 else None]
            left -= len(line) if left >= 0 else 0
            yield line
            if left == 0:
                return
        if not request.follow:
            return
        after = seen.get("@timestamp", since)
        async for found in _new_lines(store, logs, clock, request, after):
            if found == seen or not _is_of(found, request):
                continue
            line = _line(found, request)[: left if left >= 0 else None]
            left -= len(line) if left >= 0 else 0
            yield line
            if left == 0:
                return

    return read


async def _new_lines(
    store: ObjectStore, logs: Path, clock: Clock, request: LogRequest, after: float
) -> AsyncIterator[dict[str, Any]]:
    """Yield records as they come, until the instance is gone and nothing of it is left."""
    records = follow_logs(logs, request.namespace, request.function, clock, since=after)
    coming: asyncio.Task[dict[str, Any]] | None = None
    try:
        while True:
            coming = coming or asyncio.create_task(anext(records))  # type: ignore[arg-type] # a coroutine
            done, _ = await asyncio.wait([coming], timeout=_GONE_S)
            if done:
                found, coming = coming.result(), None
                yield found
            elif not _exists(store, request):
                return
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


def _exists(store: ObjectStore, request: LogRequest) -> bool:
    try:
        store.entry(KEY, request.namespace, request.instance)
    except NotFoundError:
        return False
    return True


def _since(request: LogRequest, clock: Clock) -> float:
    if request.since_time:
        try:
            return datetime.fromisoformat(request.since_time).timestamp()
        except ValueError as error:
            raise ProtocolError(f"sinceTime={request.since_time} is not a time") from error
    return clock.now().timestamp() - request.since_s if request.since_s else 0.0


def _is_of(record: dict[str, Any], request: LogRequest) -> bool:
    return bool(record.get("kubernetes", {}).get("pod_name") == request.instance)


def _line(record: dict[str, Any], request: LogRequest) -> bytes:
    text = str(record.get("log", ""))
    return (f"{record.get('time', '')} {text}" if request.timestamps else text).encode()
