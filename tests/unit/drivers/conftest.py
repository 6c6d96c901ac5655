"""A provider of a chat's API that answers as told: a real HTTP server on this machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest


@dataclass(frozen=True)
class Asked:
    """One request: path without query, the query's first values, headers in lower case, JSON body."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class Provider:
    """Answers each path from its own list of JSON answers, the last one for ever.

    An answer may be `(status, headers, body)`; None hangs.
    """

    def __init__(self, answers: dict[str, list[Any]]) -> None:
        self.answers = answers
        self.asked: list[Asked] = []
        self._handlers: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for task in self._handlers:
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await self._server.wait_closed()

    def bodies(self, path: str) -> list[Any]:
        return [asked.body for asked in self.asked if asked.path == path]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")[:-2]
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                method, target, _ = first.split(" ")
                parts = urlsplit(target)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self.asked.append(
                    Asked(method, parts.path, query, headers, json.loads(body) if body else None)
                )
                answers = self.answers[parts.path]
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if answer is None:
                    await asyncio.Event().wait()
                status, extra, found = answer if isinstance(answer, tuple) else (200, {}, answer)
                text = found if isinstance(found, bytes) else json.dumps(found).encode()
                extra = {"content-length": str(len(text)), **extra}
                rest = "".join(f"{name}: {value}\r\n" for name, value in extra.items())
                writer.write(f"HTTP/1.1 {status} x\r\n{rest}\r\n".encode() + text)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client or the test has ended it
        finally:
            self._handlers.discard(task)
            writer.close()


@pytest.fixture
async def provider() -> AsyncIterator[Callable[[dict[str, list[Any]]], Awaitable[Provider]]]:
    made: list[Provider] = []

    async def start(answers: dict[str, list[Any]]) -> Provider:
        server = Provider(answers)
        await server.start()
        made.append(server)
        return server

    yield start
    for server in made:
        await server.stop()
