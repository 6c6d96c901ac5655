"""Functions that answer by themselves (`LoadedFunction.serve`): on a real worker, over real sockets."""

import asyncio

import pytest

from pelton.dataplane import worker as worker_module
from pelton.model.invocation import Event, Reply

EVENT = Event(
    kind="topic",
    component="bus",
    component_type="pubsub.jetstream",
    topic="t",
    data=b"x",
    content_type="text/plain",
)


@pytest.fixture
def serve(start_worker):
    async def run(function, **options):
        loaded = {"serve": function, "streams_body": True, **options.pop("loaded", {})}
        return await start_worker(None, loaded=loaded, **options)

    return run


async def test_answer_leaves_before_the_work_behind_it_is_done(serve, poll):
    go, ended = asyncio.Event(), []

    async def function(invocation, answer):
        answer.reply(Reply(body=b"now"))
        await go.wait()
        ended.append(invocation.id)

    worker = await serve(function)
    client = await worker.connect()

    assert (await client.get())[2] == b"now"
    assert (await client.get())[2] == b"now"  # on the same connection, while the first goes on
    assert worker.page.read().in_flight == 2
    go.set()
    await poll(lambda: len(ended) == 2 and worker.page.read().in_flight == 0)


async def test_work_behind_the_answer_has_no_time_limit_but_the_answer_has(serve, poll):
    begun, ended = [], []

    async def function(invocation, answer):
        begun.append(answer)
        if invocation.target == b"/quick":
            answer.reply(Reply(body=b"quick"))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(invocation.target)
            raise

    worker = await serve(function, request_timeout_s=0.05)
    client = await worker.connect()

    assert (await client.get("/quick"))[2] == b"quick"
    assert (await client.get("/slow"))[0] == 504
    await poll(lambda: ended == [b"/slow"])
    assert worker.page.read().in_flight == 1


async def test_streamed_answer_comes_in_pieces_and_keeps_the_connection(serve):
    go = asyncio.Event()

    async def function(invocation, answer):
        answer.start(Reply(200, [(b"x-kind", b"stream")]))
        await answer.write(b"one")
        await go.wait()
        await answer.write(b"two")
        answer.end()

    worker = await serve(function)
    client = await worker.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

    assert (await client.until(b"one\r\n")).endswith(b"3\r\none\r\n")
    go.set()
    assert await client.until(b"0\r\n\r\n") == b"3\r\ntwo\r\n0\r\n\r\n"
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await client.until(b"0\r\n\r\n")


async def test_fast_stream_waits_for_a_slow_reader(serve, poll):
    written = 0

    async def function(invocation, answer):
        nonlocal written
        answer.start(Reply(200))
        for _ in range(1000):
            await answer.write(b"x" * 65536)
            written += 1
        answer.end()

    worker = await serve(function)
    client = await worker.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await client.until(b"\r\n\r\n")
    await poll(lambda: any(c._write_paused for c in worker.worker._server.shared.connections))

    assert written < 500
    read = 0
    while read < 1000 * 65536:
        read += len(await client.reader.read(1 << 20))
    assert written == 1000


async def test_client_that_leaves_is_told_and_the_function_is_not_cancelled(serve, poll):
    seen = []

    async def function(invocation, answer):
        gone = asyncio.Event()
        answer.on_gone = gone.set
        seen.append("begun")
        await gone.wait()
        seen.append(answer.gone)
        answer.reply(Reply(body=b"to nobody"))
        with pytest.raises(ConnectionError):
            answer.start(Reply())
        seen.append("ended")

    worker = await serve(function)
    client = await worker.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await poll(lambda: seen == ["begun"])
    client.close()

    await poll(lambda: seen == ["begun", True, "ended"] and worker.page.read().in_flight == 0)


async def test_stream_to_a_client_that_left_raises_and_is_no_failure(serve, poll):
    seen = []

    async def function(invocation, answer):
        answer.start(Reply())
        gone = asyncio.Event()
        answer.on_gone = gone.set
        await answer.write(b"x")
        await gone.wait()
        try:
            await answer.write(b"y")
        except ConnectionError as exc:
            seen.append(type(exc).__name__)
            raise RuntimeError("what a framework makes of it") from exc

    worker = await serve(function)
    client = await worker.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await client.until(b"x\r\n")
    client.close()

    await poll(lambda: seen and worker.page.read().in_flight == 0)
    assert seen == ["ClientGoneError"]
    assert worker.spooled() == []


async def test_stream_that_does_not_notice_that_its_client_left_is_cancelled(serve, poll, monkeypatch):
    monkeypatch.setattr(worker_module, "_LEFT_S", 0.02)
    ended = []

    async def function(invocation, answer):
        answer.start(Reply())
        await answer.write(b"x")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    worker = await serve(function)
    client = await worker.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await client.until(b"x\r\n")
    client.close()

    await poll(lambda: ended and worker.page.read().in_flight == 0)


@pytest.mark.parametrize("pieces", [0, 1])
async def test_exception_is_500_before_the_answer_and_a_broken_connection_after(serve, pieces):
    async def function(invocation, answer):
        if pieces:
            answer.start(Reply())
            await answer.write(b"half")
        raise ValueError("secret")

    worker = await serve(function, loaded={"on_error": lambda exc: Reply(500, [], b"mine")})

    data = await worker.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    if pieces:
        assert data.endswith(b"4\r\nhalf\r\n")
    else:
        assert data.startswith(b"HTTP/1.1 500 ") and data.endswith(b"mine")
    assert "ValueError: secret" in worker.spooled()[-1]


async def test_stream_without_an_end_breaks_the_connection(serve):
    async def function(invocation, answer):
        answer.start(Reply(200))
        await answer.write(b"half")

    worker = await serve(function)

    data = await worker.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

    assert data.endswith(b"half\r\n")


async def test_answer_that_cannot_be_sent_is_500(serve):
    async def function(invocation, answer):
        answer.reply(Reply(200, [(b"bad name", b"x")]))

    worker = await serve(function)
    client = await worker.connect()

    assert (await client.get())[0] == 500


@pytest.mark.parametrize(
    ("outcome", "status", "streamed"), [("ok", 204, False), ("error", 500, False), ("ok", 200, True)]
)
async def test_event_gets_its_outcome_when_the_function_has_ended(serve, poll, outcome, status, streamed):
    go, outcomes, answered = asyncio.Event(), [], []

    async def function(invocation, answer):
        if streamed:
            answer.start(Reply(status))
            await answer.write(b"ignored")
            answer.end()
        else:
            answer.reply(Reply(status))
        answered.append(True)
        await go.wait()
        raise RuntimeError("behind the answer")

    async def note(_peer, items):
        outcomes.extend(items)

    worker = await serve(function, control=True)
    peer = await worker.peer({"outcomes": note})
    peer.note("events", [["e-1", EVENT, 5.0]])

    await poll(lambda: bool(answered))
    assert outcomes == []
    go.set()
    await poll(lambda: bool(outcomes))
    assert outcomes[0][:2] == ["e-1", outcome]
