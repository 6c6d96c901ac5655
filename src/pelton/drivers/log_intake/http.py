"""Records over HTTP as Fluent Bit's `http` output sends them: JSON in three layouts, or MessagePack.

Answers 200 when everything is finished, 503 when it could not be within the time that a shipper waits, 4xx
for what no repetition makes better (Fluent Bit drops it then). Called by `bus.py`.
Source: `log-notification` contract, section 2.2.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

import httptools

from pelton.drivers.log_intake import msgpack
from pelton.drivers.log_intake.intake import Intake, Record
from pelton.drivers.log_intake.listener import Listener
from pelton.drivers.log_intake.records import encode, from_shipper
from pelton.errors import DeliveryError
from pelton.log import get

__all__ = ["HttpOptions", "HttpServer", "read_body"]

LARGEST: Final = 32 * 1024 * 1024
"""Bytes of a body, also when it is inflated."""

FINISH_S: Final = 25.0
"""Seconds within which records have to be finished; Fluent Bit waits 60 s for an answer."""

_IDLE_S: Final = 120.0
_READ: Final = 64 * 1024
_CONNECTIONS: Final = 256

_log = get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """How requests are read.

    Attributes:
        user, password: Basic authentication; "" for none.
        tag_header: Header that names the tag, as the output's `header_tag`; "" for none.
        date_key: Key of a record that holds its time, as the output's `json_date_key`.
    """

    user: str = ""
    password: str = ""
    tag_header: str = ""
    date_key: str = "date"


def read_body(body: bytes, content_type: str, *, date_key: str) -> list[tuple[float | None, dict[Any, Any]]]:
    """Return (epoch seconds or None, record) for each record of a body.

    Raises:
        ValueError: It is neither JSON nor MessagePack, as the content type has it.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind in {"application/msgpack", "application/x-msgpack"}:
        found = msgpack.decode_all(body)
        if len(found) == 1 and isinstance(found[0], list) and (not found[0] or isinstance(found[0][0], list)):
            found = found[0]
        return [_pair(entry) for entry in found]
    return [_dated(record, date_key) for record in _json_values(body.decode(errors="replace"))]


def _pair(entry: Any) -> tuple[float | None, dict[Any, Any]]:
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], dict):
        raise msgpack.BrokenError("an entry is [time, record]")
    moment = entry[0][0] if isinstance(entry[0], list) and entry[0] else entry[0]
    return (round(float(moment), 6) if isinstance(moment, int | float) else None), entry[1]


def _json_values(text: str) -> list[Any]:
    """Return the values of an array, or of objects that follow one another, with or without line ends."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while True:
        while at < len(text) and text[at] in " \t\r\n":
            at += 1
        if at >= len(text):
            break
        try:
            value, at = decoder.raw_decode(text, at)
        except RecursionError:
            raise ValueError("nested too deep") from None
        found.append(value)
    if len(found) == 1 and isinstance(found[0], list):
        return found[0]
    return found


def _dated(record: Any, date_key: str) -> tuple[float | None, dict[Any, Any]]:
    if not isinstance(record, dict):
        return None, {"log": record if isinstance(record, str) else json.dumps(record)}
    seconds = _seconds(record.get(date_key)) if "@timestamp" not in record else None
    if seconds is None:
        return None, record
    return seconds, {key: value for key, value in record.items() if key != date_key}


def _seconds(value: Any) -> float | None:
    """Return epoch seconds of a date as any `json_date_format` writes it; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return round(value / 1000 if value > 1e11 else value, 6)
        except OverflowError:  # more digits than any time has
            return None
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class _Refusal(Exception):
    """An answer that is none of 200."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class _Request:
    """One request, as the parser tells of it."""

    def __init__(self, expects: Callable[[], None]) -> None:
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.whole = False
        self.too_large = False
        self._expects = expects

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        length = self.headers.get("content-length", "")
        self.too_large = length.isdecimal() and int(length) > LARGEST
        if self.headers.get("expect", "").lower() == "100-continue" and not self.too_large:
            self._expects()

    def on_body(self, data: bytes) -> None:
        if len(self.body) + len(data) > LARGEST:
            self.too_large = True
        if not self.too_large:
            self.body += data

    def on_message_complete(self) -> None:
        self.whole = True


class HttpServer(Listener):
    """Listens for shippers.

    Args:
        intake: Where records go.
        options: See there.
        where: For messages.
    """

    def __init__(self, intake: Intake, options: HttpOptions, *, where: str) -> None:
        self._intake = intake
        self._options = options
        self._where = where
        super().__init__(read_bytes=_READ)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if len(self._tasks) > _CONNECTIONS:
                await _answer(writer, HTTPStatus.SERVICE_UNAVAILABLE, "too many connections", last=True)
                return
            while await self._one(reader, writer):
                pass
        except (ConnectionError, TimeoutError):
            pass  # an idle or broken connection
        except asyncio.CancelledError:
            pass  # the streams' own task: there is nobody to hear of it
        finally:
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False when the connection is done with."""
        request = _Request(lambda: writer.write(b"HTTP/1.1 100 Continue\r\n\r\n"))
        counted = 0
        try:
            parser = httptools.HttpRequestParser(request)
            while not request.whole and not request.too_large:
                async with asyncio.timeout(_IDLE_S):
                    data = await reader.read(_READ)
                if not data:
                    return False
                counted += len(data)
                self._intake.reading(len(data))
                parser.feed_data(data)
            method = parser.get_method().decode("latin-1")
            last = request.too_large or not parser.should_keep_alive()
            try:
                await self._take(method, request)
            except _Refusal as refusal:
                await _answer(writer, refusal.status, refusal.text, last=last)
            else:
                await _answer(writer, HTTPStatus.OK, "", last=last)
            return not last
        except httptools.HttpParserError:
            await _answer(writer, HTTPStatus.BAD_REQUEST, "no HTTP", last=True)
        except DeliveryError as exc:
            await _answer(writer, HTTPStatus.SERVICE_UNAVAILABLE, exc.message, last=True)
        finally:
            self._intake.reading(-counted)
        return False

    async def _take(self, method: str, request: _Request) -> None:
        options = self._options
        if options.user:
            login = base64.b64encode(f"{options.user}:{options.password}".encode()).decode()
            given = request.headers.get("authorization", "").partition(" ")[2].strip()
            if not hmac.compare_digest(given.encode(), login.encode()):
                raise _Refusal(HTTPStatus.UNAUTHORIZED, "user and password are wrong")
        if method != "POST":
            raise _Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "records are sent by POST")
        if request.too_large:
            raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {LARGEST} bytes")
        if self._intake.full:
            raise _Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too much is under way")
        body = _inflated(bytes(request.body), request.headers)
        tag = request.headers.get(options.tag_header.lower(), "") if options.tag_header else ""
        try:
            found = read_body(
                body, request.headers.get("content-type", "application/json"), date_key=options.date_key
            )
        except ValueError as exc:
            raise _Refusal(HTTPStatus.BAD_REQUEST, f"the body cannot be read: {exc}") from exc
        records = [
            Record(tag, encode(from_shipper(record, seconds=seconds, tag=tag))) for seconds, record in found
        ]
        try:
            # The same body under another tag is another chunk.
            digest = hashlib.sha256(tag.encode() + b"\n" + body).hexdigest()[:32]
            chunk = self._intake.take(f"http:{digest}", records)
            async with asyncio.timeout(FINISH_S):
                await asyncio.shield(chunk.finished)
        except TimeoutError:
            raise _Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"not finished within {FINISH_S:g} s") from None
        except DeliveryError as exc:
            raise _Refusal(HTTPStatus.SERVICE_UNAVAILABLE, exc.message) from exc


def _inflated(body: bytes, headers: Mapping[str, str]) -> bytes:
    how = headers.get("content-encoding", "identity").strip().lower()
    if how in {"", "identity"}:
        return body
    if how != "gzip":
        raise _Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "only gzip is known as an encoding")
    inflate = zlib.decompressobj(wbits=31)
    try:
        made = inflate.decompress(body, LARGEST)
    except zlib.error as exc:
        raise _Refusal(HTTPStatus.BAD_REQUEST, "the body cannot be inflated") from exc
    if inflate.unconsumed_tail:
        raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body inflates to at most {LARGEST} bytes")
    if not inflate.eof:
        raise _Refusal(HTTPStatus.BAD_REQUEST, "the body is cut off")
    return made


async def _answer(writer: asyncio.StreamWriter, status: HTTPStatus, text: str, *, last: bool) -> None:
    if status != HTTPStatus.OK:
        _log.warning("a request with log records is answered with %d: %s", status, text)
    body = (text + "\n").encode() if text else b""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: text/plain\r\n{'Connection: close' if last else 'Connection: keep-alive'}\r\n\r\n"
    )
    writer.write(head.encode("latin-1") + body)
    await writer.drain()
