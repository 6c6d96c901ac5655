"""The HTTP/1.1 client; what needs a whole worker is in tests/conformance/test_process.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from pelton.model.invocation import Invocation, Reply
from pelton.sdk.forward import ForwardError, TooLongError, Upstream

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A server on a unix socket; `heads` are the requests' heads."""

    def __init__(self, path: Path, answer: Serve) -> None:
        self.path = str(path)
        self.heads: list[bytes] = []
        self.connections = 0
        self._answer = answer
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Upstream:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        self.upstream = Upstream(self.path, body_limit_bytes=1_000_000)
        return self.upstream

    async def __aexit__(self, *exc: object) -> None:
        self.upstream.close()
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def asks(method: str = "GET", *headers: tuple[bytes, bytes], **more: object) -> Invocation:
    return Invocation("id-1", method, b"/x?y", list(headers), **more)  # type: ignore[arg-type]


async def body_of(reply: Reply) -> bytes:
    if isinstance(reply.body, bytes):
        return reply.body
    return b"".join([chunk async for chunk in reply.body])


async def _ok(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


async def test_a_connection_is_used_again(tmp_path: Path) -> None:
    server = Server(tmp_path / "s", _ok)
    async with server as upstream:
        for _ in range(3):
            assert (await upstream.forward(asks())).body == b"ok"
        await asyncio.gather(*(upstream.forward(asks()) for _ in range(4)))

    assert server.connections == 4


async def test_a_connection_may_serve_the_next_before_the_last_has_gone_on(tmp_path: Path) -> None:
    server = Server(tmp_path / "s", _ok)
    async with server as upstream:

        async def ask_often() -> None:
            for _ in range(50):
                assert (await upstream.forward(asks())).body == b"ok"

        await asyncio.wait_for(asyncio.gather(*(ask_often() for _ in range(16))), 4)

    assert len(server.heads) == 800


async def test_what_belongs_to_a_connection_is_not_forwarded(tmp_path: Path) -> None:
    server = Server(tmp_path / "s", _ok)
    async with server as upstream:
        await upstream.forward(
            asks(
                "DELETE",
                (b"x-private", b"1"),
                (b"connection", b"keep-alive, X-Private"),
                (b"keep-alive", b"timeout=5"),
                (b"expect", b"100-continue"),
                (b"host", b"a.example"),
                (b"cookie", b"a=1"),
                (b"cookie", b"b=2"),
                (b"x-forwarded-for", b"1.2.3.4"),
            )
        )

    assert server.heads == [
        b"DELETE /x?y HTTP/1.1\r\nhost: a.example\r\ncookie: a=1\r\ncookie: b=2\r\n"
        b"x-forwarded-for: 1.2.3.4\r\nx-request-id: id-1\r\n\r\n"
    ]


@pytest.mark.parametrize("text", [b"1\r\nx-evil: 1", b"1\nx-evil: 1", b"1\rx", b"1\0x"])
async def test_what_would_end_a_line_of_the_head_is_refused(tmp_path: Path, text: bytes) -> None:
    server = Server(tmp_path / "s", _ok)
    async with server as upstream:
        with pytest.raises(ForwardError):
            await upstream.forward(asks("GET", (b"x-a", text)))
        with pytest.raises(ForwardError):
            await upstream.forward(Invocation("id-1", "GET", b"/" + text, []))
        reply = await upstream.forward(asks("POST", body=b"x"))

    assert (reply.status, len(server.heads)) == (200, 1)


async def test_a_body_is_forwarded_while_it_arrives_and_answered_before_its_end(tmp_path: Path) -> None:
    got: list[bytes] = []
    go_on = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b"one\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n")
        got.append(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(b"0\r\nx-trailer: 1\r\n\r\n")

    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        await go_on.wait()
        yield b"two"

    server = Server(tmp_path / "s", answer)
    async with server as upstream:
        for _ in range(2):
            go_on.clear()
            reply = await upstream.forward(asks("POST", (b"transfer-encoding", b"chunked"), stream=body()))
            chunks = reply.body
            assert not isinstance(chunks, bytes)
            assert await anext(chunks) == b"yes"
            go_on.set()
            assert [chunk async for chunk in chunks] == []

    assert got == [b"3\r\none\r\n", b"3\r\ntwo\r\n0\r\n\r\n"] * 2
    assert server.connections == 1


async def test_a_streamed_answer_is_held_back_by_a_slow_reader(tmp_path: Path) -> None:
    written = 0

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 20000000\r\n\r\n")
        for _ in range(200):
            writer.write(bytes(100_000))
            await writer.drain()
            written += 100_000

    async with Server(tmp_path / "s", answer) as upstream:
        reply = await upstream.forward(asks())
        before = -1
        while before != written:
            before = written
            await asyncio.sleep(0.05)
        assert written < 5_000_000

        assert len(await body_of(reply)) == 20_000_000


async def test_leaving_a_streamed_answer_closes_the_connection(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nstart")
        await reader.read()
        ended.set()

    async with Server(tmp_path / "s", answer) as upstream:
        reply = await upstream.forward(asks())
        assert not isinstance(reply.body, bytes)
        assert await anext(reply.body) == b"start"
        await reply.body.aclose()  # type: ignore[attr-defined]  # as the worker calls it
        await asyncio.wait_for(ended.wait(), 30)


async def test_cancelling_closes_the_connection(tmp_path: Path) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        begun.set()
        await reader.read()
        ended.set()

    async with Server(tmp_path / "s", answer) as upstream:
        task = asyncio.create_task(upstream.forward(asks()))
        await asyncio.wait_for(begun.wait(), 30)
        task.cancel()
        await asyncio.wait_for(ended.wait(), 30)


@pytest.mark.parametrize(("method", "outcome"), [("GET", b"ok"), ("POST", None)])
async def test_only_what_may_be_repeated_is_tried_again_on_a_new_connection(
    tmp_path: Path, method: str, outcome: bytes | None
) -> None:
    turns = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal turns
        turns += 1
        if turns == 2:
            raise ConnectionError
        await _ok(reader, writer)

    server = Server(tmp_path / "s", answer)
    async with server as upstream:
        await upstream.forward(asks())
        if outcome is None:
            with pytest.raises(ForwardError, match="before it answered"):
                await upstream.forward(asks(method))
        else:
            assert (await upstream.forward(asks(method))).body == outcome

    assert turns == (2 if outcome is None else 3)


async def test_a_body_over_the_limit_is_not_forwarded(tmp_path: Path) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(100_000)

    async def swallow(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with Server(tmp_path / "s", swallow) as upstream:
        with pytest.raises(TooLongError):
            await upstream.forward(asks("POST", (b"content-length", b"2000000"), stream=body()))
        with pytest.raises(TooLongError):
            await upstream.forward(asks("POST", (b"transfer-encoding", b"chunked"), stream=body()))


async def test_a_head_answer_without_a_length_is_given_none(tmp_path: Path) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-a: 1\r\n\r\n")

    server = Server(tmp_path / "s", answer)
    async with server as upstream:
        for _ in range(2):
            reply = await upstream.forward(asks("HEAD"))
            assert not isinstance(reply.body, bytes)
            assert (await body_of(reply), reply.headers) == (b"", [(b"x-a", b"1")])

    assert server.connections == 1


async def test_nobody_there_is_an_error_at_once(tmp_path: Path) -> None:
    upstream = Upstream(str(tmp_path / "nothing"))

    with pytest.raises(ForwardError, match="no connection"):
        await upstream.forward(asks())


async def test_a_second_answer_to_one_request_is_not_taken_for_the_firsts_body(tmp_path: Path) -> None:
    async def twice(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" * 2)

    server = Server(tmp_path / "s", twice)
    async with server as upstream:
        for _ in range(2):
            assert (await upstream.forward(asks())).body == b"ok"

    assert server.connections == 2


async def test_a_head_without_end_is_an_error(tmp_path: Path) -> None:
    async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nx: ")
        while True:
            writer.write(b"a" * 65536)
            await writer.drain()

    async with Server(tmp_path / "s", endless) as upstream:
        with pytest.raises(ForwardError, match="the head of the program's answer exceeds"):
            await upstream.forward(asks())
