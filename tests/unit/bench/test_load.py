"""The load generator: what counts as an answer, and how a server that refuses is asked again."""

import asyncio

import pytest

from bench.load import Refused, ask, load, quantile, turn

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
REQUEST = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.fixture
async def serve(tmp_path):
    """Return the path of a server whose answers come from a function of the request's number."""
    servers: list[asyncio.AbstractServer] = []

    async def start(answer):
        count = 0

        async def talk(reader, writer):
            nonlocal count
            try:
                while await reader.readuntil(b"\r\n\r\n"):
                    count += 1
                    writer.write(answer(count))
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        path = str(tmp_path / f"{len(servers)}.sock")
        servers.append(await asyncio.start_unix_server(talk, path))
        return path

    yield start
    for server in servers:
        server.close()
        await server.wait_closed()


async def test_every_answer_is_one_latency(serve):
    path = await serve(lambda number: OK)
    done = await load(path, REQUEST, seconds=0.05, connections=4, size=len(OK))
    assert len(done.latencies_s) >= 4
    assert done.per_s == len(done.latencies_s) / done.seconds


async def test_another_status_is_refused_when_asked_and_under_load(serve):
    path = await serve(lambda number: BUSY)
    with pytest.raises(Refused, match="503"):
        await ask(path, REQUEST)
    with pytest.raises(Refused, match="503"):
        await load(path, REQUEST, seconds=0.05, connections=1, size=len(OK))


async def test_a_turn_that_was_refused_is_taken_again_and_counted(serve):
    path = await serve(lambda number: BUSY if number == 5 else OK)
    done, refused = await turn(path, REQUEST, seconds=0.05, connections=2)
    assert refused == 1
    assert done.latencies_s


async def test_a_server_that_goes_on_refusing_is_an_error(serve):
    path = await serve(lambda number: OK if number == 1 else BUSY)
    with pytest.raises(Refused, match="503"):
        await turn(path, REQUEST, seconds=0.05, connections=2)


def test_a_quantile_is_one_of_the_values():
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([3.0, 1.0, 2.0], 1.0) == 3.0
