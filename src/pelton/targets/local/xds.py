"""The delta xDS server: named byte strings out to Envoy, and a verdict on each of them back.

Knows the protocol, not the content: `gateway_config.py` renders resources, `envoy.py` decides which exist.
One gRPC stream per Envoy carries all types. A version is a hash of the bytes, so an Envoy that outlived a
control plane names the versions it holds and is sent only what differs. At most one response per type is
under way; what changes meanwhile goes out together in the next one. Source: xDS protocol, incremental
variant; contract sheet gateway-network, section 2.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as Packed

from pelton.errors import GatewayError
from pelton.log import get
from pelton.proto import xds_pb2 as xds
from pelton.targets.local.gateway_config import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET

__all__ = ["Change", "DeltaServer", "RefusedError"]

METHOD: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
ORDER: Final = (CLUSTER, ENDPOINTS, SECRET, LISTENER, ROUTES)
"""What refers to a thing is sent after it; to remove, the caller applies in the opposite order."""

_WILDCARD_TYPES: Final = frozenset({CLUSTER, LISTENER})
_LAST: Final = frozenset({LISTENER, ROUTES})
"""Wait while clusters are under way; not for endpoints, of which a busy machine always has some under way."""
_CHILD: Final = {CLUSTER: ENDPOINTS, LISTENER: ROUTES}
_UNKNOWN: Final = "?"
"""Stands for the version of a resource of which only Envoy knows whether it has it."""

_log = get(__name__)


class RefusedError(GatewayError):
    """Envoy looked at a resource and kept the previous version."""

    code = "PEL-GATEWAY-001"


@dataclass(frozen=True, slots=True)
class Change:
    """One resource as it should be from now on.

    Attributes:
        type_url: One of ORDER.
        name: Unique within its type.
        payload: The encoded message; None removes it.
    """

    type_url: str
    name: str
    payload: bytes | None


@dataclass(slots=True)
class _Entry:
    version: str
    encoded: bytes  # as the field of a DeltaDiscoveryResponse that holds it


@dataclass(slots=True)
class _Flight:
    nonce: str
    names: dict[str, None]
    change: int


@dataclass(slots=True)
class _Subscription:
    """One resource type on one stream.

    Attributes:
        wildcard: Envoy wants all names.
        names: Names it asked for.
        held: Name -> version it has or was sent last.
        dirty: Names to look at before the next response, in order.
        batches: Parts of a refused response, to be sent again on their own.
        flight: The response that has no verdict yet.
        refused: Name -> why Envoy does not take the version it was sent last.
    """

    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    held: dict[str, str] = field(default_factory=dict)
    dirty: dict[str, None] = field(default_factory=dict)
    batches: deque[tuple[str, ...]] = field(default_factory=deque)
    flight: _Flight | None = None
    refused: dict[str, str] = field(default_factory=dict)

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def open(self, name: str) -> bool:
        """Whether a verdict on this name is still to come."""
        return (
            name in self.dirty
            or (self.flight is not None and name in self.flight.names)
            or any(name in batch for batch in self.batches)
        )


class _Wait:
    """Somebody waiting for verdicts; `left` counts them."""

    def __init__(self) -> None:
        self.left = 0
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(self, error: RefusedError | None) -> None:
        self.left -= 1
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        elif self.left == 0:
            self.future.set_result(None)


class _Stream:
    """One connected Envoy."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.types: dict[str, _Subscription] = {}
        self.out: asyncio.Queue[bytes] = asyncio.Queue()  # bounded by one response per type
        self.waiting: dict[tuple[str, str], list[tuple[int, _Wait]]] = {}
        self.nonce = 0

    def expects(self, type_url: str, name: str) -> bool:
        """Whether Envoy will still say something about this name."""
        sub = self.types.get(type_url)
        if sub is not None and sub.wants(name):
            return sub.open(name)
        # A cluster asks for its endpoints, and a listener for its routes, only after Envoy has taken it in.
        if type_url == ENDPOINTS:
            parent = self.types.get(CLUSTER)
            return (
                parent is not None
                and name not in parent.refused
                and (parent.open(name) or name in parent.held)
            )
        if type_url == ROUTES:
            parent = self.types.get(LISTENER)
            return parent is not None and any(one not in parent.refused for one in parent.held)
        return False

    def await_verdict(self, change: Change, number: int, wait: _Wait) -> None:
        if self.expects(change.type_url, change.name):
            wait.left += 1
            self.waiting.setdefault((change.type_url, change.name), []).append((number, wait))

    def settle(self, type_url: str, name: str, upto: int, error: RefusedError | None = None) -> None:
        """Tell those who wait for this name's state as of change `upto` or before."""
        waiting = self.waiting.pop((type_url, name), None)
        if waiting is None:
            return
        later = []
        for number, wait in waiting:
            if number <= upto:
                wait.settle(error)
            else:
                later.append((number, wait))
        if later:
            self.waiting[type_url, name] = later

    def end(self) -> None:
        """Let everybody go: the next connection starts from the newest state anyway."""
        for waiting in self.waiting.values():
            for _, wait in waiting:
                wait.settle(None)
        self.waiting.clear()


class DeltaServer:
    """Serves resources to any number of Envoys on a unix socket; an async context manager.

    Nothing is sent before `open()`: after a restart of the control plane an Envoy is back at once, and
    answering it from tables that are not filled yet would take its routes away.

    Args:
        socket: Path of the socket, made on entry; an old file there is replaced.
    """

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._tables: dict[str, dict[str, _Entry]] = {type_url: {} for type_url in ORDER}
        self._streams: set[_Stream] = set()
        self._change = 0
        self._streams_seen = 0
        self._opened = False
        self._scheduled = False
        self._progress = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> DeltaServer:
        self._server = grpc.aio.server(
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 * 1024 * 1024)]
        )
        self._server.add_generic_rpc_handlers((_Method(self._serve),))
        try:
            self._server.add_insecure_port(f"unix:{self._socket}")
        except RuntimeError as error:
            raise GatewayError(
                "the gateway's configuration cannot be served on this socket",
                where=self._socket,
                hint="The path must be writable and at most 107 bytes long.",
            ) from error
        await self._server.start()
        Path(self._socket).chmod(0o600)  # as every socket of the platform, whatever the umask
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None

    @property
    def connected(self) -> int:
        """Number of Envoys with an open stream."""
        return len(self._streams)

    @property
    def opened(self) -> bool:
        """Whether Envoys are answered."""
        return self._opened

    def open(self) -> None:
        """Begin to answer; the tables are complete. Safe to repeat."""
        self._opened = True
        self._schedule()

    def record(self, changes: Iterable[Change]) -> int:
        """Take changes over without waiting for Envoy; returns the number of this state."""
        self._change += 1
        for change in changes:
            self._record(change)
        self._schedule()
        return self._change

    async def apply(self, changes: Sequence[Change], *, timeout_s: float) -> None:
        """Take changes over and wait until every connected Envoy has taken them too.

        Returns at once where no Envoy is connected. Cancelling leaves the changes in place.

        Raises:
            RefusedError: Envoy refused one, with its reason; the new state stays recorded.
            GatewayError: No verdict within `timeout_s` seconds; Envoy gets the state when it is back.
        """
        number = self.record(changes)
        if not self._opened or not self._streams:
            return
        wait = _Wait()
        for stream in self._streams:
            for change in changes:
                stream.await_verdict(change, number, wait)
        if wait.left == 0:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await wait.future
        except TimeoutError:
            raise GatewayError(
                f"Envoy did not confirm {len(changes)} change(s) within {timeout_s:g} s",
                where=_label(changes[0].type_url, changes[0].name),
                hint="See Envoy's log; the change is kept and sent again when Envoy reconnects.",
            ) from None

    async def settled(self, type_url: str, *, timeout_s: float) -> None:
        """Wait until some Envoy holds everything of a type.

        Raises:
            RefusedError: Envoy refused one of them.
            GatewayError: Not within `timeout_s` seconds.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self._is_settled(type_url):
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            raise GatewayError(
                f"Envoy did not take its configuration within {timeout_s:g} s",
                where=_label(type_url, "*"),
                hint="See Envoy's log.",
            ) from None

    def _is_settled(self, type_url: str) -> bool:
        table = self._tables[type_url]
        for stream in self._streams:
            sub = stream.types.get(type_url)
            if sub is None:
                continue
            for name, reason in sub.refused.items():
                if name in table and sub.held.get(name) == table[name].version:
                    raise RefusedError(f"Envoy refused it: {reason}", where=_label(type_url, name))
            if all(name in sub.held and not sub.open(name) for name in table):
                return True
        return False

    def _record(self, change: Change) -> None:
        table = self._tables[change.type_url]
        before = table.get(change.name)
        if change.payload is None:
            if table.pop(change.name, None) is None:
                return
        else:
            entry = _encode(change.type_url, change.name, change.payload)
            table[change.name] = entry
            if before is not None and before.version == entry.version:
                for stream in self._streams:
                    self._retry(stream, change.type_url, change.name)
                return
        for stream in self._streams:
            sub = stream.types.get(change.type_url)
            if sub is not None and sub.wants(change.name):
                sub.dirty[change.name] = None
            if before is not None and change.payload is not None:
                self._renew_children(stream, change)

    def _retry(self, stream: _Stream, type_url: str, name: str) -> None:
        """Send a refused resource again when it is asked for again: the reason may be gone, a port free."""
        sub = stream.types.get(type_url)
        if sub is not None and sub.refused.pop(name, None) is not None and sub.wants(name):
            sub.held[name] = _UNKNOWN
            sub.dirty[name] = None

    def _renew_children(self, stream: _Stream, change: Change) -> None:
        """A changed cluster or listener warms up anew and waits for a child it does not ask for again."""
        sub = stream.types.get(_CHILD.get(change.type_url, ""))
        if sub is None:
            return
        for name in [change.name] if change.type_url == CLUSTER else list(self._tables[ROUTES]):
            if sub.wants(name):
                sub.held[name] = _UNKNOWN
                sub.dirty[name] = None

    # ---- one stream ----------------------------------------------------------------------------------------

    async def _serve(
        self, requests: AsyncIterator[xds.DeltaDiscoveryRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        self._streams_seen += 1
        stream = _Stream(self._streams_seen)
        self._streams.add(stream)
        writer = asyncio.create_task(self._write(stream, context), name=f"xds-{stream.number}")
        _log.info("Envoy connected stream=%d", stream.number)
        try:
            async for request in requests:
                self._read(stream, request)
                self._schedule()
        finally:
            self._streams.discard(stream)
            stream.end()
            self._progress.set()
            _log.info("Envoy disconnected stream=%d", stream.number)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, stream: _Stream, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        while True:
            await context.write(await stream.out.get())

    def _read(self, stream: _Stream, request: xds.DeltaDiscoveryRequest) -> None:
        type_url = request.type_url
        if type_url not in self._tables:
            _log.warning("Envoy asks for a type that is not served type=%s", type_url)
            return
        sub = stream.types.get(type_url)
        if sub is None:
            sub = stream.types[type_url] = _Subscription()
            sub.held.update(request.initial_resource_versions)
            if type_url in _WILDCARD_TYPES and not request.resource_names_subscribe:
                self._subscribe_all(type_url, sub)
            self._subscribe(sub, type_url, request.resource_names_subscribe, again=False)
        else:
            self._subscribe(sub, type_url, request.resource_names_subscribe, again=True)
        for name in request.resource_names_unsubscribe:
            if name == "*":
                sub.wildcard = False
                continue
            sub.names.discard(name)
            if not sub.wildcard:
                sub.held.pop(name, None)
                sub.dirty.pop(name, None)
                stream.settle(type_url, name, self._change)
        if request.response_nonce:
            reason = request.error_detail.message if request.HasField("error_detail") else None
            self._verdict(stream, type_url, sub, request.response_nonce, reason)

    def _subscribe_all(self, type_url: str, sub: _Subscription) -> None:
        sub.wildcard = True
        sub.dirty.update(dict.fromkeys([*self._tables[type_url], *sub.held]))

    def _subscribe(self, sub: _Subscription, type_url: str, names: Iterable[str], *, again: bool) -> None:
        for name in names:
            if name == "*":
                self._subscribe_all(type_url, sub)
                continue
            sub.names.add(name)
            if again:
                sub.held[name] = _UNKNOWN  # it has dropped what it had
            else:
                # Also what does not exist wants an answer, or its cluster waits until a timeout.
                sub.held.setdefault(name, _UNKNOWN)
            sub.dirty[name] = None

    def _verdict(
        self, stream: _Stream, type_url: str, sub: _Subscription, nonce: str, reason: str | None
    ) -> None:
        flight = sub.flight
        if flight is None or flight.nonce != nonce:
            return
        sub.flight = None
        self._progress.set()
        if reason is None:
            for name in flight.names:
                sub.refused.pop(name, None)
                # What did not change again since is up to date, whatever number asks.
                stream.settle(type_url, name, flight.change if sub.open(name) else self._change)
        elif len(flight.names) > 1:
            # Envoy names one culprit at best and may have stopped there: halve until each has its verdict.
            for name in flight.names:
                sub.held[name] = _UNKNOWN
            names, middle = tuple(flight.names), len(flight.names) // 2
            sub.batches.extend((names[:middle], names[middle:]))
        else:
            (name,) = flight.names
            sub.refused[name] = reason
            _log.error("Envoy refused %s reason=%s", _label(type_url, name), reason)
            error = RefusedError(f"Envoy refused it: {reason}", where=_label(type_url, name))
            stream.settle(type_url, name, flight.change if sub.open(name) else self._change, error)
            child = _CHILD.get(type_url)
            if child == ENDPOINTS:
                stream.settle(child, name, self._change, error)
            elif child == ROUTES:
                for route in self._tables[ROUTES]:
                    stream.settle(ROUTES, route, self._change)

    # ---- sending -------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Send at the end of this turn of the loop, so that changes made together travel together."""
        if not self._scheduled and self._opened and self._streams:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        for stream in self._streams:
            for type_url in ORDER:
                sub = stream.types.get(type_url)
                if sub is None:
                    continue
                if sub.flight is None and not (type_url in _LAST and self._clusters_pending(stream)):
                    self._respond(stream, type_url, sub)

    def _clusters_pending(self, stream: _Stream) -> bool:
        clusters = stream.types.get(CLUSTER)
        return clusters is not None and clusters.flight is not None

    def _respond(self, stream: _Stream, type_url: str, sub: _Subscription) -> None:
        while sub.dirty or sub.batches:
            if sub.batches:
                names: Sequence[str] = sub.batches.popleft()
            else:
                names = list(sub.dirty)
                sub.dirty.clear()
            sent, parts, removed = self._select(stream, type_url, sub, names)
            if not sent:
                continue
            stream.nonce += 1
            sub.flight = _Flight(str(stream.nonce), dict.fromkeys(sent), self._change)
            head = xds.DeltaDiscoveryResponse(
                system_version_info=str(self._change),
                type_url=type_url,
                nonce=sub.flight.nonce,
                removed_resources=removed,
            )
            stream.out.put_nowait(b"".join([head.SerializeToString(), *parts]))
            return
        self._progress.set()

    def _select(
        self, stream: _Stream, type_url: str, sub: _Subscription, names: Iterable[str]
    ) -> tuple[list[str], list[bytes], list[str]]:
        """Return the names that need a response, their encoded resources, and the removed ones among them."""
        table = self._tables[type_url]
        sent: list[str] = []
        parts: list[bytes] = []
        removed: list[str] = []
        for name in names:
            entry = table.get(name)
            if entry is None and name in sub.held:
                del sub.held[name]
                removed.append(name)
            elif entry is not None and sub.held.get(name) != entry.version:
                sub.held[name] = entry.version
                parts.append(entry.encoded)
            else:
                stream.settle(type_url, name, self._change)
                continue
            sub.refused.pop(name, None)
            sent.append(name)
        return sent, parts, removed


class _Method(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """The one method, by its path: generated service code would need Envoy's whole package."""

    def __init__(self, serve: Any) -> None:
        self._handler = grpc.stream_stream_rpc_method_handler(
            serve, request_deserializer=xds.DeltaDiscoveryRequest.FromString, response_serializer=None
        )

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a call, or None for "not implemented"."""
        return self._handler if handler_call_details.method == METHOD else None


def _encode(type_url: str, name: str, payload: bytes) -> _Entry:
    version = hashlib.blake2b(payload, digest_size=8).hexdigest()
    resource = xds.Resource(version=version, name=name, resource=Packed(type_url=type_url, value=payload))
    return _Entry(version, xds.DeltaDiscoveryResponse(resources=[resource]).SerializeToString())


def _label(type_url: str, name: str) -> str:
    return f"{type_url.rpartition('.')[2]} {name}"
