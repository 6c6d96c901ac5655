"""The forward protocol of Fluentd and Fluent Bit: a server that acknowledges a chunk when it is finished.

Takes all four modes, with a shared key and a user where the component asks for them. Without a chunk id in a
message the sender does not wait, and what it sent is lost with this process: that is the protocol's. Reading
stops while too much is under way. Called by `bus.py`.
Source: `log-notification` contract, section 2.3.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from pelton.clock import Clock
from pelton.drivers.log_intake import msgpack
from pelton.drivers.log_intake.intake import Intake, Record
from pelton.drivers.log_intake.listener import Listener
from pelton.drivers.log_intake.records import encode, from_shipper
from pelton.errors import DeliveryError
from pelton.log import get

__all__ = ["ForwardServer", "Keys", "Sent", "read_message"]

LARGEST: Final = 32 * 1024 * 1024
"""Bytes of a message, and of what one is inflated to twice that."""

_READ: Final = 64 * 1024
_HANDSHAKE_S: Final = 10.0
_CONNECTIONS: Final = 256

_log = get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What a client has to know: a key that all share, and a user of its own; "" for none."""

    shared: str = ""
    user: str = ""
    password: str = ""
    hostname: str = "pelton"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A message that was read.

    Attributes:
        tag: Its tag.
        entries: (epoch seconds, record) in order.
        chunk: Id to acknowledge; "" for none.
    """

    tag: str
    entries: tuple[tuple[float, Mapping[Any, Any]], ...]
    chunk: str = ""


def read_message(value: Any, *, now: float) -> Sent:
    """Return what a message says, in whichever mode it is.

    Args:
        value: The decoded message.
        now: Epoch seconds for entries that say 0 or nothing.

    Raises:
        msgpack.BrokenError: It is no message of the protocol.
    """
    if not isinstance(value, list) or len(value) < 2 or not isinstance(value[0], str):
        raise msgpack.BrokenError("a message is [tag, ...]")
    tag, second, rest = value[0], value[1], value[2:]
    if isinstance(second, list):
        entries = list(second)
    elif isinstance(second, bytes | str):
        raw = second.encode(errors="surrogateescape") if isinstance(second, str) else second
        options = rest[0] if rest and isinstance(rest[0], dict) else {}
        entries = msgpack.decode_all(_inflated(raw, str(options.get("compressed") or "text")))
    else:
        if not rest:
            raise msgpack.BrokenError("a message without a record")
        entries, rest = [[second, rest[0]]], rest[1:]
    options = rest[0] if rest and isinstance(rest[0], dict) else {}
    if options.get("fluent_signal") not in {None, 0}:
        _log.warning("metrics or traces of %s are dropped: only logs are taken", tag)
        entries = []
    chunk = options.get("chunk") or ""
    return Sent(
        tag=tag,
        entries=tuple(_entry(entry, now) for entry in entries),
        chunk=chunk.decode(errors="replace") if isinstance(chunk, bytes) else str(chunk),
    )


def _entry(entry: Any, now: float) -> tuple[float, Mapping[Any, Any]]:
    """Return time and record of `[time, record]`, or of the newer `[[time, metadata], record]`."""
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], dict):
        raise msgpack.BrokenError("an entry is [time, record]")
    moment = entry[0]
    if isinstance(moment, list) and moment:
        moment = moment[0]
    if not isinstance(moment, int | float):
        raise msgpack.BrokenError("an entry has no time")
    return round(float(moment), 6) or now, entry[1]


def _inflated(data: bytes, how: str) -> bytes:
    if how == "text":
        return data
    if how != "gzip":
        raise msgpack.BrokenError(f"compression {how!r} is unknown")
    made = bytearray()
    while data:
        inflate = zlib.decompressobj(wbits=31)
        try:
            made += inflate.decompress(data, 2 * LARGEST - len(made) + 1)
        except zlib.error as exc:
            raise msgpack.BrokenError(f"it cannot be inflated: {exc}") from exc
        if len(made) > 2 * LARGEST or inflate.unconsumed_tail:
            raise msgpack.BrokenError(f"it inflates to more than {2 * LARGEST} bytes")
        if not inflate.eof:
            raise msgpack.BrokenError("what is compressed is cut off")
        data = inflate.unused_data
    return bytes(made)


class ForwardServer(Listener):
    """Listens for shippers.

    Args:
        intake: Where records go.
        keys: Who may send.
        clock: The time of entries that say none.
        where: For messages.
    """

    def __init__(self, intake: Intake, keys: Keys, *, clock: Clock, where: str) -> None:
        self._intake = intake
        self._clock = clock
        self._keys = keys
        self._where = where
        super().__init__(read_bytes=_READ)
        self._connections = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        acknowledging: set[asyncio.Task[None]] = set()
        messages = _Messages(reader, self._intake)
        try:
            if self._connections > _CONNECTIONS:
                _log.warning("%s: more than %d connections", self._where, _CONNECTIONS)
                return
            if self._keys.shared:
                async with asyncio.timeout(_HANDSHAKE_S):
                    if not await self._handshake(messages, writer):
                        return
            while (value := await messages.next()) is not None:
                await self._intake.room()
                sent = read_message(value, now=self._clock.now().timestamp())
                self._take(sent, writer, acknowledging)
        except msgpack.BrokenError as exc:
            _log.warning("%s: a connection is closed: %s", self._where, exc)
        except (ConnectionError, TimeoutError, DeliveryError) as exc:
            _log.info("%s: a connection ended: %s", self._where, str(exc) or type(exc).__name__)
        except asyncio.CancelledError:
            pass  # the streams' own task: there is nobody to hear of it
        finally:
            self._connections -= 1
            messages.close()
            for each in acknowledging:
                each.cancel()
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    def _take(self, sent: Sent, writer: asyncio.StreamWriter, acknowledging: set[asyncio.Task[None]]) -> None:
        records = [
            Record(sent.tag, encode(from_shipper(record, seconds=seconds, tag=sent.tag)))
            for seconds, record in sent.entries
        ]
        chunk = self._intake.take(f"forward:{sent.chunk or secrets.token_hex(8)}", records)
        if sent.chunk:
            task = asyncio.create_task(_acknowledge(chunk.finished, sent.chunk, writer))
            acknowledging.add(task)
            task.add_done_callback(acknowledging.discard)

    async def _handshake(self, messages: _Messages, writer: asyncio.StreamWriter) -> bool:
        keys, nonce, salt = self._keys, secrets.token_hex(16), secrets.token_hex(16)
        options = {"nonce": nonce, "auth": salt if keys.user else "", "keepalive": True}
        writer.write(msgpack.encode(["HELO", options]))
        await writer.drain()
        ping = await messages.next()
        if not isinstance(ping, list) or len(ping) < 4 or ping[0] != "PING":
            raise msgpack.BrokenError("the first message of a client is PING")
        _, host, client_salt, digest, *rest = ping
        reason = ""
        if not _same(digest, _digest(client_salt, host, nonce, keys.shared)):
            reason = "shared_key mismatch"
        elif keys.user:
            user, secret = (*rest, "", "")[:2]
            if user != keys.user or not _same(secret, _digest(salt, keys.user, keys.password)):
                reason = "username/password mismatch"
        own = _digest(client_salt, keys.hostname, nonce, keys.shared) if not reason else ""
        writer.write(msgpack.encode(["PONG", not reason, reason, keys.hostname, own]))
        await writer.drain()
        if reason:
            _log.warning("%s: a client was refused: %s", self._where, reason)
        return not reason


class _Messages:
    """Reads one value after the other."""

    def __init__(self, reader: asyncio.StreamReader, intake: Intake) -> None:
        self._reader = reader
        self._intake = intake
        self._data = bytearray()
        self._scanner = msgpack.Scanner(LARGEST)

    async def next(self) -> Any:
        """Return the next value; None when the client is done."""
        while not (end := self._scanner.end(self._data)):
            more = await self._reader.read(_READ)
            if not more:
                if self._data:
                    raise msgpack.BrokenError("the connection ended within a message")
                return None
            self._data += more
            self._intake.reading(len(more))
        value, _ = msgpack.decode(bytes(self._data[:end]))
        del self._data[:end]
        self._intake.reading(-end)
        return value

    def close(self) -> None:
        """Let go of what was read."""
        self._intake.reading(-len(self._data))
        self._data.clear()


async def _acknowledge(finished: asyncio.Future[None], chunk: str, writer: asyncio.StreamWriter) -> None:
    """Answer when a chunk is finished; one that fails closes the connection, so that it is sent again."""
    try:
        await asyncio.shield(finished)
        writer.write(msgpack.encode({"ack": chunk}))
        await writer.drain()
    except (DeliveryError, ConnectionError):
        writer.close()


def _parts(parts: tuple[Any, ...]) -> Iterator[bytes]:
    for part in parts:
        yield part if isinstance(part, bytes) else str(part).encode(errors="surrogateescape")


def _digest(*parts: Any) -> str:
    return hashlib.sha512(b"".join(_parts(parts))).hexdigest()


def _same(given: Any, expected: str) -> bool:
    return hmac.compare_digest(b"".join(_parts((given,))), expected.encode())
