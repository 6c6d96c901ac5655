"""Sends finished traces to a collector: batches of JSON over HTTP, with nothing but asyncio's streams.

Used by `sdk/trace_export.py` (functions) and `dataplane/span_store.py` (the platform). It never holds anybody
up: the queue is bounded, a batch is tried once, what is lost is counted and told. Nothing runs while nothing
is queued.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

__all__ = ["QUEUE_LIMIT", "Sender", "pairs", "timeout_s"]

QUEUE_LIMIT: Final = 2048
"""Traces that wait to be sent; more are dropped and counted."""
_BATCH: Final = 256
_DELAY_S: Final = 1.0
_TIMEOUT_S: Final = 10.0
_LAST_S: Final = 2.0

T = TypeVar("T")


class Sender(Generic[T]):
    """Sends what is offered to one URL.

    Args:
        url: `http:` or `https:`, path included.
        encode: Turns a batch into a JSON value.
        logger: Told when things are lost, and when that is over.
        headers: Further request headers.
        timeout_s: Seconds that one request may take.
        gzip: Whether bodies are compressed.

    Attributes:
        sent, dropped: Items that the collector took, and that were lost.
    """

    def __init__(
        self,
        url: str,
        encode: Callable[[Sequence[T]], Any],
        logger: logging.Logger,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _TIMEOUT_S,
        gzip: bool = False,
    ) -> None:
        self._url = url
        self._encode = encode
        self._logger = logger
        self._headers = dict(headers or {})
        self._timeout_s = timeout_s
        self._gzip = gzip
        self._queue: deque[T] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waking = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._trouble = ""
        self.sent = 0
        self.dropped = 0

    async def start(self) -> None:
        """Begin to send, in this loop."""
        self._loop = asyncio.get_running_loop()
        if self._queue:
            self._wake()

    async def stop(self) -> None:
        """Send what is left, for two seconds at most."""
        if self._timer is not None:
            self._timer.cancel()
        try:
            async with asyncio.timeout(_LAST_S):
                if self._task is not None:
                    await self._task
                await self._drain()
        except TimeoutError:
            self._lose(len(self._queue), "the instance ended")
        self._loop = None

    def offer(self, item: T) -> None:
        """Take one; from any thread, never waits, never raises."""
        if len(self._queue) >= QUEUE_LIMIT:
            self.dropped += 1
            return
        self._queue.append(item)
        if not self._waking and self._loop is not None:
            self._waking = True
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:  # the loop has ended, and the process with it
                self.dropped += 1

    def _wake(self) -> None:
        self._waking = True
        if self._loop is not None and self._timer is None:
            self._timer = self._loop.call_later(_DELAY_S, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._task = asyncio.ensure_future(self._drain())
        self._task.add_done_callback(self._done)

    def _done(self, _task: asyncio.Task[None]) -> None:
        self._task = None
        self._waking = False
        if self._queue:
            self._wake()

    async def _drain(self) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
            try:
                body = json.dumps(self._encode(batch), separators=(",", ":")).encode()
                async with asyncio.timeout(self._timeout_s):
                    await self._post(body)
            except (OSError, ValueError, TimeoutError, EOFError, asyncio.IncompleteReadError) as exc:
                self._lose(len(batch), f"{type(exc).__name__}: {exc}".rstrip(": "))
            except asyncio.CancelledError:
                self._lose(len(batch), "the instance ended")
                raise
            else:
                self.sent += len(batch)
                if self._trouble:
                    self._trouble = ""
                    self._logger.warning("traces are sent again; %d were lost so far", self.dropped)

    def _lose(self, count: int, why: str) -> None:
        self.dropped += count
        if count and why != self._trouble:
            self._trouble = why
            self._logger.warning(
                "%d traces were lost (%d so far): %s: %s", count, self.dropped, self._url, why
            )

    async def _post(self, body: bytes) -> None:
        from urllib.parse import urlsplit

        url = urlsplit(self._url)
        secure = url.scheme == "https"
        host, port = url.hostname or "", url.port or (443 if secure else 80)
        headers = {
            "Host": url.netloc.rpartition("@")[2],
            "Content-Type": "application/json",
            "Connection": "close",
            **self._headers,
        }
        if self._gzip:
            import zlib

            packer = zlib.compressobj(wbits=31)
            body = packer.compress(body) + packer.flush()
            headers["Content-Encoding"] = "gzip"
        headers["Content-Length"] = str(len(body))
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        reader, writer = await asyncio.open_connection(host, port, ssl=True if secure else None)
        try:
            writer.write(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
            await writer.drain()
            status = await reader.readline()
        finally:
            writer.close()
        words = status.split(None, 2)
        if len(words) < 2 or not words[1].isdigit() or not 200 <= int(words[1]) < 300:
            raise ValueError(f"the collector answered {status.decode('latin-1').strip() or 'nothing'}")


def pairs(text: str) -> dict[str, str]:
    """Read `name=value,name=value`; what could break a header out of its line is left out."""
    from urllib.parse import unquote

    found = {}
    for part in text.split(","):
        name, separator, value = part.partition("=")
        value = unquote(value.strip())
        if separator and name.strip().replace("-", "").replace("_", "").isalnum() and value.isprintable():
            found[name.strip()] = value
    return found


def timeout_s(text: str) -> float:
    """Read `10s`, `500ms`, or milliseconds as OpenTelemetry's variables have them."""
    text = text.strip().lower()
    for suffix, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("", 0.001)):
        number = text.removesuffix(suffix) if suffix else text
        if text.endswith(suffix) and number.replace(".", "", 1).isdigit():
            return max(0.001, float(number) * factor)
    return _TIMEOUT_S
