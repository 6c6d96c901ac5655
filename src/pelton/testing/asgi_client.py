"""Calls an ASGI application without a network: what tests of `apiserver.rest` and of ASGI conventions need.

Nothing is simulated beyond the protocol: bodies arrive in the pieces given, streams are read as they are
sent, and leaving a stream early is a disconnect.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

__all__ = ["Answer", "AsgiClient"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response: status, headers (lower-case name, value) in order, body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)

    def all(self, name: str) -> list[str]:
        """Return the values of a header, given in lower case."""
        return [value for key, value in self.headers if key == name]


class AsgiClient:
    """A client of one application.

    Args:
        app: The application.
        headers: Sent with every request; a request's own headers come after them and win.
        timeout_s: Longest wait for an answer or for the next line of a stream, seconds.
    """

    def __init__(self, app: Any, *, headers: Mapping[str, str] | None = None, timeout_s: float = 5.0) -> None:
        self._app = app
        self._headers = dict(headers or {})
        self._timeout_s = timeout_s

    async def request(
        self,
        method: str,
        target: str,
        body: bytes | Iterable[bytes] | Any = b"",
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request and return the whole answer.

        Args:
            method: HTTP method.
            target: Path with query.
            body: Bytes; a list of bytes arrives in pieces; a mapping is sent as JSON.
            headers: Added to the client's.
        """
        pieces = _pieces(body)
        sent: list[dict[str, Any]] = []
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def receive() -> dict[str, Any]:
            if pieces:
                return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}
            await never
            return {"type": "http.disconnect"}

        async def send(message: Mapping[str, Any]) -> None:
            sent.append(dict(message))

        async with asyncio.timeout(self._timeout_s):
            await self._app(self._scope(method, target, headers), receive, send)
        start = sent[0]
        return Answer(
            start["status"],
            tuple((key.decode("latin-1"), value.decode("latin-1")) for key, value in start["headers"]),
            b"".join(message.get("body", b"") for message in sent[1:]),
        )

    @asynccontextmanager
    async def lines(
        self, target: str, *, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[AsyncIterator[Any]]:
        """Open a GET stream of JSON lines.

        Entering waits for the first piece of the body, so that what the caller does next comes after the
        stream began; leaving disconnects and waits for the application.
        """
        messages: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()
        asked = [{"type": "http.request", "body": b"", "more_body": False}]
        left = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if asked:
                return asked.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            try:
                await self._app(self._scope("GET", target, headers), receive, messages.put)
            finally:
                await messages.put(None)

        task = asyncio.create_task(run())
        try:
            async with asyncio.timeout(self._timeout_s):
                await messages.get()  # the head
                first = await messages.get()
            yield self._lines(messages, first)
        finally:
            left.set()
            async with asyncio.timeout(self._timeout_s):
                await task

    async def _lines(
        self, messages: asyncio.Queue[Mapping[str, Any] | None], message: Mapping[str, Any] | None
    ) -> AsyncIterator[Any]:
        rest = b""
        while message is not None:
            rest += message.get("body", b"")
            *whole, rest = rest.split(b"\n")
            for line in whole:
                yield json.loads(line)
            async with asyncio.timeout(self._timeout_s):
                message = await messages.get()

    def _scope(self, method: str, target: str, headers: Mapping[str, str] | None) -> dict[str, Any]:
        path, _, query = target.partition("?")
        merged = {**self._headers, **(headers or {})}
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in merged.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }


def _pieces(body: Any) -> list[bytes]:
    if isinstance(body, bytes):
        return [body]
    if isinstance(body, Mapping):
        return [json.dumps(body).encode()]
    return list(body) or [b""]
