"""HTTP/2 passed through and counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.sdk.h2 import PREFACE, FrameScanner, Splice, StreamCount, refusal

DATA, HEADERS, RST, SETTINGS, GOAWAY = 0, 1, 3, 4, 7


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


class Counter:
    """Counts what is open."""

    def __init__(self) -> None:
        self.open = 0
        self.begun = 0

    def begin(self) -> Callable[[], None]:
        self.open += 1
        self.begun += 1
        ended = False

        def end() -> None:
            nonlocal ended
            assert not ended
            ended = True
            self.open -= 1

        return end


@given(
    frames=st.lists(
        st.tuples(
            st.sampled_from([0, 1, 2, 3, 4, 6, 8, 9]),
            st.integers(0, 255),
            st.integers(0, 2**31 - 1),
            st.binary(max_size=40),
        ),
        max_size=12,
    ),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=10),
)
def test_scanner_finds_the_same_frames_however_the_bytes_are_cut(
    frames: list[tuple[int, int, int, bytes]], cuts: list[int]
) -> None:
    data = PREFACE + b"".join(frame(*one) for one in frames)
    seen: list[tuple[int, int, int]] = []
    scanner = FrameScanner(lambda *found: seen.append(found), skip=len(PREFACE))

    at = turn = 0
    while at < len(data):
        step = cuts[turn % len(cuts)]
        scanner.feed(data[at : at + step])
        at += step
        turn += 1

    assert seen == [one[:3] for one in frames]


def test_a_stream_is_open_from_its_headers_until_both_sides_ended() -> None:
    counter = Counter()
    streams = StreamCount(counter.begin)

    streams.client.feed(
        PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 4, 1, b"x") + frame(DATA, 0, 1, b"y")
    )
    assert counter.open == 1
    streams.server.feed(frame(SETTINGS, 0, 0) + frame(HEADERS, 4, 1, b"x") + frame(HEADERS, 5, 1, b"trailer"))
    assert counter.open == 1
    streams.client.feed(frame(DATA, 1, 1))

    assert (counter.open, counter.begun) == (0, 1)


def test_trailers_of_a_request_open_no_second_stream() -> None:
    counter = Counter()
    streams = StreamCount(counter.begin)

    streams.client.feed(PREFACE + frame(HEADERS, 4, 1) + frame(HEADERS, 5, 1))
    streams.server.feed(frame(HEADERS, 5, 1))
    streams.client.feed(frame(HEADERS, 5, 1))  # late, for a stream that is closed

    assert (counter.open, counter.begun) == (0, 1)


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_reset_by_either_side_ends_a_stream(side: str) -> None:
    counter = Counter()
    streams = StreamCount(counter.begin)
    streams.client.feed(PREFACE + frame(HEADERS, 4, 1) + frame(HEADERS, 4, 3))

    getattr(streams, side).feed(frame(RST, 0, 1, bytes(4)))

    assert streams.open == (3,)


def test_goaway_ends_the_streams_that_the_server_will_not_look_at() -> None:
    counter = Counter()
    streams = StreamCount(counter.begin)
    streams.client.feed(PREFACE + frame(HEADERS, 4, 1) + frame(HEADERS, 4, 3) + frame(HEADERS, 4, 5))

    goaway = frame(GOAWAY, 0, 0, (3).to_bytes(4, "big") + bytes(4) + b"debug")
    streams.server.feed(goaway[:11])
    assert counter.open == 3
    streams.server.feed(goaway[11:])
    assert streams.open == (1, 3)
    streams.close()

    assert counter.open == 0


def test_a_refusal_is_one_header_frame_per_stream() -> None:
    seen: list[tuple[int, int, int]] = []
    answer = refusal((1, 3), "because: 100 % é " + "long " * 40)

    FrameScanner(lambda *found: seen.append(found)).feed(answer)

    assert seen == [(SETTINGS, 0, 0), (SETTINGS, 1, 0), (HEADERS, 5, 1), (HEADERS, 5, 3), (GOAWAY, 0, 3)]
    assert b"because: 100 %25 %C3%A9 long" in answer


class _Sink(asyncio.Protocol):
    """Keeps what arrives."""

    def __init__(self) -> None:
        self.data = b""
        self.transport: asyncio.Transport
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream's

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


class Pair:
    """A client, a Splice and a server."""

    def __init__(self, folder: Path, **how: object) -> None:
        self.folder = folder
        self.how = how
        self.counter = Counter()
        self.servers: list[_Sink] = []

    async def __aenter__(self) -> Pair:
        loop = asyncio.get_running_loop()

        def server() -> _Sink:
            self.servers.append(_Sink())
            return self.servers[-1]

        async def connect(factory: Callable[[], asyncio.Protocol]) -> object:
            return (await loop.create_unix_connection(factory, str(self.folder / "server")))[0]

        self.listeners = [
            await loop.create_unix_server(server, str(self.folder / "server")),
            await loop.create_unix_server(
                lambda: Splice(connect, self.counter.begin, **self.how),  # type: ignore[arg-type]
                str(self.folder / "splice"),
            ),
        ]
        _, self.client = await loop.create_unix_connection(_Sink, str(self.folder / "splice"))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.client.transport.abort()
        for sink in self.servers:
            sink.transport.abort()
            await sink.lost
        for listener in self.listeners:
            listener.close()
        await until(lambda: self.counter.open == 0)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_splice_passes_bytes_both_ways_and_counts(tmp_path: Path) -> None:
    async with Pair(tmp_path) as pair:
        sent = PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 5, 1, b"request")
        pair.client.transport.write(sent[:10])
        pair.client.transport.write(sent[10:])
        await until(lambda: pair.servers and pair.servers[0].data == sent)
        assert pair.counter.open == 1

        answer = frame(SETTINGS, 0, 0) + frame(HEADERS, 5, 1, b"answer")
        pair.servers[0].transport.write(answer)

        await until(lambda: pair.client.data == answer)
        assert pair.counter.open == 0
        pair.servers[0].transport.close()
        await pair.client.lost


async def test_a_farewell_follows_the_servers_first_frame(tmp_path: Path) -> None:
    async with Pair(tmp_path, farewell=True) as pair:
        pair.client.transport.write(PREFACE + frame(HEADERS, 5, 1))
        await until(lambda: pair.servers)
        first, second = frame(SETTINGS, 0, 0, bytes(12)), frame(HEADERS, 5, 1, b"answer")
        pair.servers[0].transport.write(first[:7])
        await until(lambda: pair.servers[0].data)
        pair.servers[0].transport.write(first[7:] + second)

        expected = first + frame(GOAWAY, 0, 0, b"\x7f\xff\xff\xff" + bytes(4)) + second
        await until(lambda: len(pair.client.data) >= len(expected))
        assert pair.client.data == expected


async def test_a_failed_connect_is_answered_per_stream(tmp_path: Path) -> None:
    failures: list[tuple[str, tuple[int, ...]]] = []

    def failed(exc: Exception, streams: tuple[int, ...]) -> bytes:
        failures.append((type(exc).__name__, streams))
        return b"sorry"

    async with Pair(tmp_path, failed=failed) as pair:
        pair.listeners[0].close()
        (tmp_path / "server").unlink(missing_ok=True)
        pair.client.transport.write(PREFACE + frame(HEADERS, 5, 1) + frame(HEADERS, 5, 3))
        await pair.client.lost

    assert pair.client.data == b"sorry"
    assert failures == [("FileNotFoundError", (1, 3))]


async def test_another_protocol_counts_as_one_while_it_is_connected(tmp_path: Path) -> None:
    async with Pair(tmp_path) as pair:
        pair.client.transport.write(b"GET / HTTP/1.1\r\n\r\n")
        await until(lambda: pair.servers and pair.servers[0].data)

        assert (pair.counter.open, pair.counter.begun) == (1, 1)
