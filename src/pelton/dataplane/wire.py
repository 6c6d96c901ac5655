"""How Pelton's processes talk: length-prefixed msgpack messages over unix sockets, one module, versioned.

Frame: 4-byte big-endian length, then a msgpack array [kind, id, op, body]. Kinds: HELLO (body: version),
CALL, RESULT, ERROR (body: {code, message}), NOTE (no answer). Both ends may call. `Peer` is the asyncio form;
`send_frame` and `FrameReader` are the blocking form for zygote and templates, which have no event loop and
may pass file descriptors along. Standard library and msgspec only: workers import this.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from pelton import errors
from pelton.dataplane.peers import is_function
from pelton.log import get

__all__ = [
    "KEEP_SOCKET",
    "MAX_FRAME_BYTES",
    "VERSION",
    "Direct",
    "FrameReader",
    "Handlers",
    "Peer",
    "connect",
    "encode",
    "send_frame",
    "serve",
]

VERSION: Final = 1
MAX_FRAME_BYTES: Final = 128 * 1024 * 1024
HELLO, CALL, RESULT, ERROR, NOTE = range(5)

# From 3.13 on a server removes its socket's file when it closes, and looks at it when it starts. A worker may
# not even see the directory, and the file is the zygote's business.
KEEP_SOCKET: Final[dict[str, Any]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


class Direct:
    """A handler of notes that come by the thousand: called where they are read, with the body undecoded.

    Args:
        take: Takes (peer, body as msgpack); must not block, nor keep the body: its memory is used again.
    """

    __slots__ = ("take",)

    def __init__(self, take: Callable[[Peer, msgspec.Raw], None]) -> None:
        self.take = take


Handlers = Mapping[str, Callable[..., Awaitable[Any]] | Direct]
"""Op name -> coroutine function taking (peer, body), or Direct."""

_log = get(__name__)
_length = struct.Struct(">I")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()
_frame = msgspec.msgpack.Decoder(tuple[int, int, str, msgspec.Raw])
# What a connection reads into: small, since most say little; larger while more than that comes at once. Above
# the second size memory is given back with the frame that needed it: pages that are fresh each time cost more
# than what is done with their bytes.
_BUFFER: Final = 16 * 1024
_KEPT_BUFFER: Final = 256 * 1024


def encode(message: Any) -> bytes:
    """Return one frame; raises ProtocolError when it would exceed MAX_FRAME_BYTES."""
    head, payload = _frame_of(message)
    return head + payload


def _frame_of(message: Any) -> tuple[bytes, bytes]:
    payload = _encoder.encode(message)
    if len(payload) > MAX_FRAME_BYTES:
        raise errors.PayloadTooLargeError(f"a message of {len(payload)} bytes exceeds {MAX_FRAME_BYTES}")
    return _length.pack(len(payload)), payload


class Peer(asyncio.BufferedProtocol):
    """One connection between two processes: calls in both directions, answers matched by id.

    Args:
        handlers: Ops that this end serves.
        name: For logs.
        on_connect: Called with it once it is connected; False ends the connection at once.

    A call whose connection breaks raises `ConnectionError`; one that outlives its timeout raises
    `TimeoutError`, and its late answer is dropped. `closed` is set when the connection has ended for any
    reason. Bytes are decoded where they were received, into one buffer per connection.
    """

    def __init__(
        self,
        handlers: Handlers,
        *,
        name: str = "",
        on_connect: Callable[[Peer, asyncio.Transport], bool] | None = None,
    ) -> None:
        self.name = name
        self.closed = asyncio.Event()
        self.state: dict[str, Any] = {}
        self._handlers = handlers
        self._on_connect = on_connect
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._next_id = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._notes: set[asyncio.Task[Any]] = set()
        self._buffer = memoryview(bytearray(_BUFFER))
        self._first = self._last = 0  # of the bytes that are not decoded yet
        self._writable = asyncio.Event()
        self._writable.set()

    # --- what the event loop calls --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; see asyncio.BaseProtocol."""
        self._transport = transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        if self._on_connect is not None and not self._on_connect(self, transport):
            self._end()
            return
        self._write([HELLO, 0, "", VERSION])

    def connection_lost(self, _exc: Exception | None) -> None:
        """End; see asyncio.BaseProtocol."""
        self._end()

    def pause_writing(self) -> None:
        """Let `drain` wait; see asyncio.BaseProtocol."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let `drain` go on; see asyncio.BaseProtocol."""
        self._writable.set()

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Return where the next bytes go; see asyncio.BufferedProtocol."""
        return self._buffer[self._last :]

    def buffer_updated(self, nbytes: int) -> None:
        """Handle the frames that are complete; see asyncio.BufferedProtocol."""
        self._last += nbytes
        wanted = 4
        try:
            while self._last - self._first >= 4 and not self.closed.is_set():
                (size,) = _length.unpack_from(self._buffer, self._first)
                if size > MAX_FRAME_BYTES:
                    raise errors.ProtocolError(f"{self.name}: frame of {size} bytes")
                wanted = 4 + size
                if self._last - self._first < wanted:
                    break
                begin = self._first + 4
                self._first += wanted
                wanted = 4
                self._take(self._buffer[begin : self._first])
        except Exception:
            _log.exception("connection %s broke its protocol", self.name)
            self._end()
            return
        self._make_room(wanted)

    def _make_room(self, wanted: int) -> None:
        """Have room behind what is not decoded: for the rest of its frame of `wanted` bytes, or for more."""
        left = self._last - self._first
        size = len(self._buffer)
        full = self._last == size
        if not left:
            self._first = self._last = 0
            if not full and size <= _KEPT_BUFFER:
                return
        if full or size - self._first < wanted or size > _KEPT_BUFFER:
            size = max(wanted, min(2 * size, _KEPT_BUFFER) if full else min(size, _KEPT_BUFFER))
        elif size - self._last >= size // 2:
            return
        old = self._buffer[self._first : self._last]
        if size != len(self._buffer):
            self._buffer = memoryview(bytearray(size))
        self._buffer[:left] = old
        self._first, self._last = 0, left

    # --- what this process does -----------------------------------------------------------------------------

    async def call(self, op: str, body: Any = None, *, timeout: float | None = 30.0) -> Any:
        """Call the other end and return its answer's body.

        Raises:
            PeltonError: The other end's handler raised one; code and message are kept.
            ConnectionError: The connection ended first.
            TimeoutError: No answer within `timeout` seconds.
        """
        if self.closed.is_set():
            raise ConnectionError(f"{self.name or 'peer'} is gone")
        self._next_id += 1
        call_id = self._next_id
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[call_id] = future
        try:
            self._write([CALL, call_id, op, body])
            if timeout is None:
                return await future
            async with asyncio.timeout(timeout):
                return await future
        finally:
            self._waiting.pop(call_id, None)

    def note(self, op: str, body: Any = None) -> None:
        """Tell the other end something; no answer, dropped when the connection is gone."""
        if not self.closed.is_set():
            self._write([NOTE, 0, op, body])

    def notes(self, op: str, bodies: Iterable[Any]) -> None:
        """Tell several of one kind in one go; as `note` for each."""
        if not self.closed.is_set():
            self._transport.writelines([part for body in bodies for part in _frame_of([NOTE, 0, op, body])])

    async def drain(self) -> None:
        """Wait until the send buffer is below its high-water mark, or the connection has ended."""
        await self._writable.wait()

    async def close(self) -> None:
        """End the connection after what is already written; running handlers of calls are cancelled."""
        self._end()
        await asyncio.sleep(0)  # transport and handlers take note in the next turn

    def _write(self, message: Any) -> None:
        # In one call of the system; not joined, which would copy a batch of events once more.
        self._transport.writelines(_frame_of(message))

    def _take(self, frame: memoryview) -> None:
        kind, call_id, op, raw = _frame.decode(frame)
        if kind == NOTE:
            handler = self._handlers.get(op)
            if isinstance(handler, Direct):
                try:
                    handler.take(self, raw)
                except Exception:
                    _log.exception("operation %s failed", op)
                return
        self._dispatch(kind, call_id, op, _decoder.decode(raw))

    def _dispatch(self, kind: int, call_id: int, op: str, body: Any) -> None:
        if kind == RESULT:
            future = self._waiting.get(call_id)
            if future is not None and not future.done():
                future.set_result(body)
        elif kind in (CALL, NOTE):
            # CPython 3.11 asks the system for its process id each time it looks for the running loop.
            task = self._loop.create_task(self._serve(kind, call_id, op, body))
            # A note that came before the end is still handled: it may be the outcome of an event.
            kept = self._tasks if kind == CALL else self._notes
            kept.add(task)
            task.add_done_callback(kept.discard)
        elif kind == ERROR:
            future = self._waiting.get(call_id)
            if future is not None and not future.done():
                future.set_exception(_error_from(body))
        elif kind == HELLO and body != VERSION:
            raise errors.ProtocolError(f"{self.name} speaks wire version {body}, this is {VERSION}")

    async def _serve(self, kind: int, call_id: int, op: str, body: Any) -> None:
        try:
            handler = self._handlers.get(op)
            if handler is None or isinstance(handler, Direct):
                raise errors.ProtocolError(f"unknown operation {op!r}")
            result = await handler(self, body)
        except Exception as exc:
            if not isinstance(exc, errors.PeltonError):
                _log.exception("operation %s failed", op)
            if kind == CALL and not self.closed.is_set():
                self._write([ERROR, call_id, op, _error_to(exc)])
            return
        if kind == CALL and not self.closed.is_set():
            self._write([RESULT, call_id, op, result])

    def _end(self) -> None:
        if self.closed.is_set():
            return
        self.closed.set()
        self._writable.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionError(f"{self.name or 'peer'} is gone"))
        current = asyncio.current_task()
        for task in list(self._tasks):
            if task is not current:
                task.cancel()
        self._transport.close()


async def connect(path: str | socket.socket, handlers: Handlers | None = None, *, name: str = "") -> Peer:
    """Connect to a unix socket, or take over one that is; raises OSError when nobody listens."""
    loop = asyncio.get_running_loop()
    peer = Peer(handlers or {}, name=name or str(path))
    if isinstance(path, socket.socket):
        await loop.create_unix_connection(lambda: peer, sock=path)
    else:
        await loop.create_unix_connection(lambda: peer, path)
    return peer


async def serve(
    path: str | socket.socket,
    handlers: Handlers,
    *,
    name: str = "",
    on_connect: Callable[[Peer], None] | None = None,
) -> asyncio.AbstractServer:
    """Listen on a unix socket path (mode 0600, a stale file is replaced) or on a listening socket.

    A connection from a function's process is refused, whatever user it has.
    """

    def accept(peer: Peer, transport: asyncio.Transport) -> bool:
        if is_function(transport.get_extra_info("socket")):
            _log.warning("a function tried to use %s; refused", name or "a socket of the platform")
            return False
        if on_connect is not None:
            on_connect(peer)
        return True

    def made() -> Peer:
        return Peer(handlers, name=name, on_connect=accept)

    loop = asyncio.get_running_loop()
    if isinstance(path, socket.socket):
        return await loop.create_unix_server(made, sock=path, **KEEP_SOCKET)
    if os.path.exists(path):  # noqa: PTH110 -- pathlib costs a worker 8 ms of imports
        os.unlink(path)  # noqa: PTH108 -- as above
    server = await loop.create_unix_server(made, path)
    os.chmod(path, 0o600)  # noqa: PTH101 -- as above
    return server


def send_frame(sock: socket.socket, message: Any, fds: Sequence[int] = ()) -> None:
    """Send one frame on a blocking socket, with file descriptors attached to its first byte."""
    data = encode(message)
    if not fds:
        sock.sendall(data)
        return
    sent = socket.send_fds(sock, [data], list(fds))
    if sent < len(data):
        sock.sendall(data[sent:])


class FrameReader:
    """Reads frames and the descriptors that travel with them from a socket, blocking or not.

    Descriptors belong to the frame whose first byte they were sent with; a sender puts at most one such frame
    on the wire per `sendmsg`, so `fds` collects them in order.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self.fds: list[int] = []

    def read(self) -> list[Any]:
        """Read what is there once and return the complete messages; raises EOFError at the end."""
        data, fds, _flags, _addr = socket.recv_fds(self._sock, 256 * 1024, 16)
        self.fds.extend(fds)
        if not data:
            raise EOFError
        self._buffer += data
        messages = []
        while len(self._buffer) >= 4:
            (size,) = _length.unpack_from(self._buffer)
            if size > MAX_FRAME_BYTES:
                raise errors.ProtocolError(f"frame of {size} bytes")
            if len(self._buffer) < 4 + size:
                break
            messages.append(_decoder.decode(bytes(self._buffer[4 : 4 + size])))
            del self._buffer[: 4 + size]
        return messages

    def take_fds(self, count: int) -> list[int]:
        """Take the oldest `count` descriptors received."""
        taken, self.fds = self.fds[:count], self.fds[count:]
        return taken


def _error_to(exc: BaseException) -> dict[str, Any]:
    if isinstance(exc, errors.BuildError):
        return {
            "type": type(exc).__name__,
            "message": exc.message,
            "hint": exc.hint,
            "log_tail": exc.log_tail,
        }
    if isinstance(exc, errors.PeltonError):
        return {"type": type(exc).__name__, "message": exc.message, "where": exc.where, "hint": exc.hint}
    return {"type": "PeltonError", "message": f"{type(exc).__name__}: {exc}"}


def _error_from(body: dict[str, Any]) -> errors.PeltonError:
    cls = getattr(errors, body.get("type", ""), errors.PeltonError)
    message, hint = body.get("message", ""), body.get("hint", "")
    if isinstance(cls, type) and issubclass(cls, errors.BuildError):
        return cls(message, log_tail=tuple(body.get("log_tail", ())), hint=hint)
    if isinstance(cls, type) and issubclass(cls, errors.PeltonError):
        return cls(message, where=body.get("where", ""), hint=hint)
    return errors.PeltonError(message, hint=hint)
