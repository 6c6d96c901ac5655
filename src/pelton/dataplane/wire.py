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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

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
    """A handler of notes that come by the thousand: called in the reading loop, with the body undecoded.

    Args:
        take: Takes (peer, body as msgpack); must not block.
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
# A reader stops reading at twice this many bytes; batches of events are larger than the default of 64 KiB.
_READ_LIMIT: Final = 1024 * 1024


def encode(message: Any) -> bytes:
    """Return one frame; raises ProtocolError when it would exceed MAX_FRAME_BYTES."""
    payload = _encoder.encode(message)
    if len(payload) > MAX_FRAME_BYTES:
        raise errors.PayloadTooLargeError(f"a message of {len(payload)} bytes exceeds {MAX_FRAME_BYTES}")
    return _length.pack(len(payload)) + payload


class Peer:
    """One connection between two processes: calls in both directions, answers matched by id.

    Args:
        reader, writer: The stream pair.
        handlers: Ops that this end serves.
        name: For logs.

    A call whose connection breaks raises `ConnectionError`; one that outlives its timeout raises
    `TimeoutError`, and its late answer is dropped. `closed` is set when the connection has ended for any
    reason.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handlers: Handlers,
        *,
        name: str = "",
    ) -> None:
        self.name = name
        self.closed = asyncio.Event()
        self.state: dict[str, Any] = {}
        self._reader = reader
        self._writer = writer
        self._handlers = handlers
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._next_id = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._notes: set[asyncio.Task[Any]] = set()
        self._writer.write(encode([HELLO, 0, "", VERSION]))
        self._loop_task = asyncio.create_task(self._read_loop(), name=f"wire-{name}")

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
            self._writer.write(encode([CALL, call_id, op, body]))
            if timeout is None:
                return await future
            async with asyncio.timeout(timeout):
                return await future
        finally:
            self._waiting.pop(call_id, None)

    def note(self, op: str, body: Any = None) -> None:
        """Tell the other end something; no answer, dropped when the connection is gone."""
        if not self.closed.is_set():
            self._writer.write(encode([NOTE, 0, op, body]))

    async def drain(self) -> None:
        """Wait until the send buffer is below its high-water mark."""
        await self._writer.drain()

    async def close(self) -> None:
        """End the connection; running handlers of calls are cancelled."""
        self._loop_task.cancel()
        await asyncio.gather(self._loop_task, return_exceptions=True)

    async def _read_loop(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(4)
                (size,) = _length.unpack(head)
                if size > MAX_FRAME_BYTES:
                    raise errors.ProtocolError(f"{self.name}: frame of {size} bytes")
                kind, call_id, op, raw = _frame.decode(await self._reader.readexactly(size))
                if kind == NOTE:
                    handler = self._handlers.get(op)
                    if isinstance(handler, Direct):
                        self._take(handler, op, raw)
                        continue
                self._dispatch(kind, call_id, op, _decoder.decode(raw))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError, OSError):
            pass
        except Exception:
            _log.exception("connection %s broke its protocol", self.name)
        finally:
            self._end()

    def _take(self, handler: Direct, op: str, raw: msgspec.Raw) -> None:
        try:
            handler.take(self, raw)
        except Exception:
            _log.exception("operation %s failed", op)

    def _dispatch(self, kind: int, call_id: int, op: str, body: Any) -> None:
        if kind == RESULT:
            future = self._waiting.get(call_id)
            if future is not None and not future.done():
                future.set_result(body)
        elif kind in (CALL, NOTE):
            task = asyncio.create_task(self._serve(kind, call_id, op, body))
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
                self._writer.write(encode([ERROR, call_id, op, _error_to(exc)]))
            return
        if kind == CALL and not self.closed.is_set():
            self._writer.write(encode([RESULT, call_id, op, result]))

    def _end(self) -> None:
        self.closed.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionError(f"{self.name or 'peer'} is gone"))
        current = asyncio.current_task()
        for task in list(self._tasks):
            if task is not current:
                task.cancel()
        self._writer.close()


async def connect(path: str, handlers: Handlers | None = None, *, name: str = "") -> Peer:
    """Connect to a unix socket; raises OSError when nobody listens."""
    reader, writer = await asyncio.open_unix_connection(path, limit=_READ_LIMIT)
    return Peer(reader, writer, handlers or {}, name=name or path)


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

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if is_function(writer.get_extra_info("socket")):
            _log.warning("a function tried to use %s; refused", name or "a socket of the platform")
            writer.close()
            return
        peer = Peer(reader, writer, handlers, name=name)
        if on_connect is not None:
            on_connect(peer)

    if isinstance(path, socket.socket):
        return await asyncio.start_unix_server(accept, sock=path, limit=_READ_LIMIT, **KEEP_SOCKET)
    if os.path.exists(path):  # noqa: PTH110 -- pathlib costs a worker 8 ms of imports
        os.unlink(path)  # noqa: PTH108 -- as above
    server = await asyncio.start_unix_server(accept, path=path, limit=_READ_LIMIT)
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
