"""HTTP/1.1 by its rules, one test each, on real sockets with raw bytes."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pelton.dataplane.http import Connection, Limits, Shared
from pelton.dataplane.http_reply import plain_reply
from pelton.model.invocation import Reply

HOST = b"Host: a\r\n"
CLOSE = b"Connection: close\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST
POST = b"POST / HTTP/1.1\r\n" + HOST


async def echo(invocation):
    body = b"%s %s %s" % (invocation.method.encode(), invocation.target, invocation.body)
    return Reply(headers=[(b"content-type", b"text/plain")], body=body)


def statuses(data):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


def body_of(data):
    return data.partition(b"\r\n\r\n")[2]


async def test_connection_stays_open_between_requests(start_worker):
    worker = await start_worker(echo)
    client = await worker.connect()

    first = await client.get("/one")
    second = await client.get("/two")

    assert first == (200, {"content-type": "text/plain", "content-length": "9"}, b"GET /one ")
    assert second[2] == b"GET /two "


async def test_pipelined_answers_come_in_order_though_the_first_is_slower(start_worker):
    async def slow_first(invocation):
        if invocation.target == b"/0":
            await asyncio.sleep(0.02)
        return Reply(body=invocation.target)

    worker = await start_worker(slow_first)
    client = await worker.connect()
    client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(50)))

    bodies = [(await client.response())[2] for _ in range(50)]

    assert bodies == [b"/%d" % number for number in range(50)]


async def test_pipelining_reads_ahead_a_bounded_number_of_requests(start_worker, poll):
    release = asyncio.Event()

    async def wait(invocation):
        await release.wait()
        return Reply(body=b"x")

    worker = await start_worker(wait)
    client = await worker.connect()
    request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Fill: " + b"f" * 1000 + b"\r\n\r\n"
    client.send(request * 4000)
    (connection,) = await first_connection(worker, poll)
    await poll(lambda: connection._reading_paused)

    assert len(connection._pending) <= 64
    release.set()
    for _ in range(4000):
        assert (await client.response())[0] == 200


async def first_connection(worker, poll):
    await poll(lambda: worker.worker._server.shared.connections)
    return worker.worker._server.shared.connections


async def test_chunked_request_is_joined_and_trailers_are_ignored(start_worker):
    worker = await start_worker(echo)
    client = await worker.connect()
    client.send(
        POST
        + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nHost: b\r\nX-T: 1\r\n\r\n"
    )

    assert (await client.response())[2] == b"POST / abcde"
    assert (await client.get("/next"))[0] == 200


async def test_streamed_answer_is_chunked(start_worker):
    async def stream(_invocation):
        async def chunks():
            yield b"one"
            yield b""
            yield b"three"

        return Reply(headers=[(b"content-type", b"text/plain")], body=chunks())

    worker = await start_worker(stream)
    client = await worker.connect()
    client.send(GET + b"\r\n")

    assert await client.until(b"0\r\n\r\n") == (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"
        b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"
    )
    client.send(GET + b"\r\n")
    assert (await client.until(b"0\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_streamed_answer_with_a_length_is_not_chunked(start_worker):
    async def stream(_invocation):
        async def chunks():
            yield b"ab"
            yield b"c"

        return Reply(headers=[(b"content-length", b"3")], body=chunks())

    worker = await start_worker(stream)
    client = await worker.connect()

    assert await client.get() == (200, {"content-length": "3"}, b"abc")


@pytest.mark.parametrize("length", [b"2", b"4"])
async def test_stream_that_breaks_its_announced_length_ends_the_connection(start_worker, length):
    async def stream(_invocation):
        async def chunks():
            yield b"abc"

        return Reply(headers=[(b"content-length", length)], body=chunks())

    worker = await start_worker(stream)

    data = await worker.ask(GET + b"\r\n")

    assert len(body_of(data)) != int(length)
    assert any("content-length" in line for line in worker.spooled())


async def test_stream_that_fails_midway_ends_without_the_last_chunk(start_worker):
    async def stream(_invocation):
        async def chunks():
            yield b"abc"
            raise ValueError("midway")

        return Reply(body=chunks())

    worker = await start_worker(stream)

    data = await worker.ask(GET + b"\r\n")

    assert data.endswith(b"3\r\nabc\r\n")
    assert "ValueError: midway" in worker.spooled()


async def test_stream_goes_no_faster_than_the_client_reads(start_worker, poll):
    produced = 0

    async def stream(_invocation):
        async def chunks():
            nonlocal produced
            for _ in range(1000):
                produced += 1
                yield b"x" * 65536

        return Reply(body=chunks())

    worker = await start_worker(stream)
    client = await worker.connect()
    client.send(GET + b"\r\n")
    (connection,) = await first_connection(worker, poll)
    await poll(lambda: connection._write_paused and connection._writable is not None)

    assert produced < 200
    total = 0
    while total < 1000 * 65536:
        total += len(await client.reader.read(1 << 20))
    assert produced == 1000


async def test_streaming_body_reaches_the_function_while_it_arrives(start_worker):
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def read(invocation):
        if invocation.stream is None:
            return Reply(body=b"at once: " + invocation.body)
        size = 0
        async for chunk in invocation.stream:
            size += len(chunk)
            seen.put_nowait(chunk)
        return Reply(body=b"%d" % size)

    worker = await start_worker(read, loaded={"streams_body": True})
    client = await worker.connect()
    client.send(POST + b"Content-Length: 6\r\n\r\nabc")
    assert await asyncio.wait_for(seen.get(), 30) == b"abc"
    client.send(b"def")

    assert (await client.response())[2] == b"6"
    # What is whole when the function begins needs no stream.
    assert (await client.get())[2] == b"at once: "
    client.send(POST + b"Content-Length: 6\r\n\r\nabcdef")
    assert (await client.response())[2] == b"at once: abcdef"


async def test_streaming_body_that_is_not_read_stops_the_sender(start_worker, poll):
    go = asyncio.Event()

    async def read(invocation):
        await go.wait()
        return Reply(body=b"%d" % sum([len(chunk) async for chunk in invocation.stream]))

    worker = await start_worker(read, loaded={"streams_body": True}, body_limit_bytes=1000)
    client = await worker.connect()
    size = 4 * 1024 * 1024
    client.send(POST + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
    (connection,) = await first_connection(worker, poll)
    await poll(lambda: connection._reading_paused)

    assert connection._stream.buffered < 1024 * 1024
    go.set()
    assert (await client.response())[2] == b"%d" % size


async def test_streaming_body_with_bad_framing_is_400(start_worker):
    async def read(invocation):
        async for _chunk in invocation.stream:
            pass
        return Reply()

    worker = await start_worker(read, loaded={"streams_body": True})

    data = await worker.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n")

    assert statuses(data) == [400]


async def test_answer_before_the_end_of_a_streaming_body_ends_the_connection(start_worker):
    async def ignore(_invocation):
        return Reply(body=b"enough")

    worker = await start_worker(ignore, loaded={"streams_body": True})

    data = await worker.ask(POST + b"Content-Length: 100\r\n\r\nabc")

    assert b"connection: close" in data
    assert body_of(data) == b"enough"


async def test_expectation_is_answered_before_the_body(start_worker):
    worker = await start_worker(echo)
    client = await worker.connect()
    client.send(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")

    assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"abc")
    assert (await client.response())[2] == b"POST / abc"


async def test_expectation_of_a_later_request_waits_for_the_earlier_answer(start_worker):
    go = asyncio.Event()

    async def wait(invocation):
        await go.wait()
        return Reply(body=invocation.body or b"first")

    worker = await start_worker(wait)
    client = await worker.connect()
    client.send(GET + b"\r\n" + POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    await asyncio.sleep(0)
    go.set()

    assert (await client.response())[2] == b"first"
    assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"abc")
    assert (await client.response())[2] == b"abc"


async def test_expectation_in_a_streaming_request_is_answered_when_the_function_reads(start_worker):
    async def read(invocation):
        if invocation.target == b"/refuse":
            return Reply(status=403)
        return Reply(body=b"".join([chunk async for chunk in invocation.stream]))

    worker = await start_worker(read, loaded={"streams_body": True})
    client = await worker.connect()
    client.send(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    client.send(b"abc")
    assert (await client.response())[2] == b"abc"

    client.send(b"POST /refuse HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert (await client.response())[:1] == (403,)


async def test_unknown_expectation_is_417(start_worker):
    worker = await start_worker(echo)

    assert statuses(await worker.ask(POST + b"Expect: tea\r\nContent-Length: 3\r\n\r\nabc")) == [417]


async def test_expectation_does_not_stick_to_the_next_request(start_worker):
    worker = await start_worker(echo)
    client = await worker.connect()

    assert (await client.get("/", "Expect: 100-continue"))[0] == 200
    client.send(POST + b"Content-Length: 3\r\n\r\n")
    await asyncio.sleep(0.01)
    client.send(b"abc")
    assert (await client.response())[0] == 200


@pytest.mark.parametrize("pieces", [1, 50])
async def test_headers_over_the_limit_are_431(start_worker, pieces):
    worker = await start_worker(echo, header_limit_bytes=8192)
    client = await worker.connect()
    data = GET + b"".join(b"X-%d: %s\r\n" % (number, b"v" * 90) for number in range(90)) + b"\r\n"
    step = len(data) // pieces + 1
    for begin in range(0, len(data), step):
        client.send(data[begin : begin + step])
        await asyncio.sleep(0)

    assert statuses(await client.all()) == [431]


async def test_endless_header_is_431_without_being_kept(start_worker):
    worker = await start_worker(echo)

    assert statuses(await worker.ask(GET + b"X: " + b"v" * 200_000)) == [431]


async def test_headers_just_under_the_limit_pass(start_worker):
    worker = await start_worker(echo)
    client = await worker.connect()

    assert (await client.get("/", "X: " + "v" * 65_000))[0] == 200


async def test_endless_trailer_is_refused(start_worker):
    worker = await start_worker(echo)

    data = await worker.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"v" * 200_000)

    assert statuses(data) == [431]


async def test_announced_body_over_the_limit_is_413_at_once(start_worker):
    worker = await start_worker(echo, body_limit_bytes=10)

    data = await worker.ask(POST + b"Expect: 100-continue\r\nContent-Length: 11\r\n\r\n")

    assert statuses(data) == [413]
    assert b"connection: close" in data


async def test_chunked_body_over_the_limit_is_413(start_worker):
    worker = await start_worker(echo, body_limit_bytes=10)

    data = await worker.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n8\r\nabcdefgh\r\n8\r\nabcdefgh\r\n")

    assert statuses(data) == [413]


async def test_body_of_exactly_the_limit_passes(start_worker):
    worker = await start_worker(echo, body_limit_bytes=10)

    assert statuses(await worker.ask(POST + CLOSE + b"Content-Length: 10\r\n\r\n0123456789")) == [200]


async def test_large_body_arrives_whole(start_worker):
    async def size(invocation):
        return Reply(body=b"%d %d" % (len(invocation.body), invocation.body.count(b"x")))

    worker = await start_worker(size)
    count = 3_000_000

    data = await worker.ask(POST + CLOSE + b"Content-Length: %d\r\n\r\n" % count + b"x" * count)

    assert body_of(data) == b"%d %d" % (count, count)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="tls"),
        pytest.param(b"get / HTTP/1.1\r\n" + HOST + b"\r\n", id="lower-case method"),
        pytest.param(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", id="space before colon"),
        pytest.param(GET + b"X: a\r\n folded\r\n\r\n", id="folded line"),
        pytest.param(GET + b"X: a\x00b\r\n\r\n", id="nul"),
        pytest.param(GET + b"X: a\rb\r\n\r\n", id="bare cr"),
        pytest.param(b"GET / HTTP/1.1\nHost: a\n\n", id="bare lf"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(GET + HOST + b"\r\n", id="two hosts"),
        pytest.param(POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="cl te"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", id="te cl"),
        pytest.param(POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", id="two lengths"),
        pytest.param(POST + b"Content-Length: +3\r\n\r\nabc", id="signed length"),
        pytest.param(POST + b"Content-Length: 3, 3\r\n\r\nabc", id="length list"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", id="chunk size"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", id="chunk too long"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", id="chunk lf"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", id="chunk overflow"),
        pytest.param(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="chunked in 1.0"),
    ],
)
async def test_malformed_request_is_400_and_ends_the_connection(start_worker, data):
    worker = await start_worker(echo)

    answer = await worker.ask(data)

    assert statuses(answer) == [400]
    assert b"connection: close" in answer
    assert worker.page.read().total == 0


async def test_unknown_transfer_coding_is_501(start_worker):
    worker = await start_worker(echo)

    assert statuses(await worker.ask(POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n")) == [501]


async def test_unknown_http_version_is_505(start_worker):
    worker = await start_worker(echo)

    assert statuses(await worker.ask(b"GET / HTTP/2.0\r\n" + HOST + b"\r\n")) == [505]


async def test_refusal_waits_for_the_answers_before_it(start_worker):
    worker = await start_worker(echo)

    data = await worker.ask(GET + b"\r\n" + GET + b"\r\n" + b"nonsense\r\n\r\n")

    assert statuses(data) == [200, 200, 400]


async def test_refused_client_may_finish_its_sentence_over_tcp(start_worker):
    worker = await start_worker(echo, tcp=True, body_limit_bytes=10)
    client = await worker.connect()
    client.send(POST + b"Content-Length: 2000000\r\n\r\n")
    for _ in range(20):
        client.send(b"x" * 100_000)
        await asyncio.sleep(0)

    assert statuses(await client.all()) == [413]


async def test_http_1_0_gets_a_closed_connection_unless_it_asks(start_worker):
    worker = await start_worker(echo)

    assert b"connection: close" in await worker.ask(b"GET / HTTP/1.0\r\n\r\n")

    client = await worker.connect()
    client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    status, headers, _body = await client.response()
    assert (status, headers["connection"]) == (200, "keep-alive")
    client.send(b"GET /2 HTTP/1.0\r\n\r\n")
    assert body_of(await client.all()) == b"GET /2 "


async def test_http_1_0_gets_no_chunks(start_worker):
    async def stream(_invocation):
        async def chunks():
            yield b"one"
            yield b"two"

        return Reply(body=chunks())

    worker = await start_worker(stream)

    assert body_of(await worker.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")) == b"onetwo"


async def test_head_has_the_length_and_no_body(start_worker):
    async def reply(invocation):
        return Reply(headers=[(b"content-length", b"99")] if invocation.target == b"/99" else [], body=b"abc")

    worker = await start_worker(reply)
    client = await worker.connect()
    for path, length in (("/", "3"), ("/99", "99")):
        client.send(f"HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        head = await client.until(b"\r\n\r\n")
        assert f"content-length: {length}\r\n".encode() in head

    assert (await client.get("/"))[2] == b"abc"


async def test_head_of_a_streamed_answer_does_not_run_the_stream(start_worker):
    ran = []

    async def stream(_invocation):
        async def chunks():
            ran.append(1)
            yield b"x"

        return Reply(body=chunks())

    worker = await start_worker(stream)
    client = await worker.connect()
    client.send(b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n")

    assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 200 OK\r\n\r\n"
    assert not ran


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_content_have_no_body(start_worker, status):
    async def reply(invocation):
        return Reply(status=status, body=b"forbidden")

    worker = await start_worker(reply)

    data = await worker.ask(GET + CLOSE + b"\r\n")

    assert data.endswith(b"\r\n\r\n")
    assert statuses(data) == [status]
    assert b"content-length" not in data


async def test_close_is_honoured_and_nothing_after_it_is_read(start_worker):
    worker = await start_worker(echo)

    data = await worker.ask(GET + CLOSE + b"\r\n" + GET + b"\r\n")

    assert statuses(data) == [200]
    assert worker.page.read().total == 1


async def test_upgrade_is_ignored(start_worker):
    worker = await start_worker(echo)
    client = await worker.connect()

    assert (await client.get("/", "Connection: Upgrade", "Upgrade: websocket"))[0] == 200
    client.send(POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc" + GET + b"\r\n")
    assert (await client.response())[2] == b"POST / abc"
    assert (await client.response())[2] == b"GET / "


async def test_connect_is_refused(start_worker):
    worker = await start_worker(echo)

    assert statuses(await worker.ask(b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n")) == [501]


async def test_absolute_target_becomes_a_path(start_worker):
    worker = await start_worker(echo)
    client = await worker.connect()
    client.send(b"GET http://a:80/p?q=http://x HTTP/1.1\r\n" + HOST + b"\r\n")

    assert (await client.response())[2] == b"GET /p?q=http://x "
    client.send(b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (await client.response())[2] == b"OPTIONS * "


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x", b"a\r\nset-cookie: b")],
        [(b"x", b"a\nb")],
        [(b"x", b"a\x00b")],
        [(b"x\r\ny", b"a")],
        [(b"x y", b"a")],
        [(b"", b"a")],
        [("x", "text")],
        [(b"x", 1)],
        [b"x"],
        [[b"x", b"y"]],
        3,
    ],
)
async def test_header_that_cannot_be_sent_is_500(start_worker, headers):
    async def reply(_invocation):
        return Reply(headers=headers, body=b"secret")

    worker = await start_worker(reply)

    data = await worker.ask(GET + CLOSE + b"\r\n")

    assert statuses(data) == [500]
    assert b"secret" not in data
    assert b"set-cookie" not in data.partition(b"\r\n\r\n")[0]


@pytest.mark.parametrize("status", [100, 199, 600, 0, "200", None])
async def test_status_that_cannot_be_sent_is_500(start_worker, status):
    async def reply(_invocation):
        return Reply(status=status)

    worker = await start_worker(reply)

    assert statuses(await worker.ask(GET + CLOSE + b"\r\n")) == [500]


async def test_framing_headers_of_the_function_are_not_sent(start_worker):
    async def reply(_invocation):
        headers = [(b"content-length", b"1"), (b"Transfer-Encoding", b"chunked"), (b"connection", b"upgrade")]
        return Reply(headers=headers, body=b"three")

    worker = await start_worker(reply)
    client = await worker.connect()

    assert await client.get() == (200, {"content-length": "5"}, b"three")


async def test_forwarding_headers_hold_on_unix_sockets_only(start_worker):
    async def show(invocation):
        names = {name for name, _value in invocation.headers}
        assert b"x-pelton-function" not in names
        return Reply(body=f"{invocation.client} {invocation.scheme}".encode())

    forwarded = ("X-Forwarded-For: 9.9.9.9, 10.1.2.3", "X-Forwarded-Proto: https", "X-Pelton-Function: n/f")
    unix = await (await start_worker(show)).connect()
    tcp = await (await start_worker(show, tcp=True)).connect()

    assert (await unix.get("/", *forwarded))[2] == b"10.1.2.3 https"
    assert (await unix.get("/"))[2] == b" http"
    assert (await tcp.get("/", *forwarded))[2] == b"127.0.0.1 http"


async def test_request_id_becomes_the_invocation_id_if_it_is_fit_for_logs(start_worker):
    async def show(invocation):
        return Reply(body=invocation.id.encode())

    worker = await start_worker(show)
    client = await worker.connect()

    assert (await client.get("/", "X-Request-Id: 7f1e-abc"))[2] == b"7f1e-abc"
    own = [(await client.get("/", "X-Request-Id: with space"))[2], (await client.get("/"))[2]]
    assert len(set(own)) == 2
    assert all(re.fullmatch(rb"[0-9a-f]{12}-\d+", value) for value in own)


async def test_slow_head_is_cut_off_on_tcp(start_worker):
    worker = await start_worker(echo, tcp=True, head_timeout_s=0.1)
    silent = await worker.connect()
    slow = await worker.connect()
    slow.send(b"GET / HTTP/1.1\r\nHo")
    kept = await worker.connect()
    await kept.get()

    assert await silent.all() == b""
    assert await slow.all() == b""
    assert (await kept.get())[0] == 200


async def test_idle_gateway_connection_is_never_closed(start_worker, poll):
    worker = await start_worker(echo, head_timeout_s=0.05)
    silent = await worker.connect()
    other = await start_worker(echo, tcp=True, head_timeout_s=0.05)
    assert await (await other.connect()).all() == b""  # as long as a TCP client is given

    assert (await silent.get())[0] == 200


# --- the same bytes in other pieces -----------------------------------------------------------------------


class Recorder(asyncio.Transport):
    """A transport without a socket, and an application that echoes."""

    def __init__(self):
        super().__init__()
        self.streams_body = False
        self.out = b""
        self.closed = False
        self.eof = False

    def get_extra_info(self, name, default=None):
        return default

    def write(self, data):
        assert not self.closed
        self.out += data

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass

    def can_write_eof(self):
        return False

    def close(self):
        self.closed = True

    def begin(self, connection, invocation):
        names = b",".join(name for name, _value in invocation.headers)
        text = b"%s %s %s %s" % (invocation.method.encode(), invocation.target, names, invocation.body)
        if b"refuse" in invocation.target:
            connection.reply(plain_reply(503, "no", "id"))
        else:
            connection.reply(Reply(body=text))

    def gone(self, connection):
        raise AssertionError

    def quiet(self):
        pass

    def refusal(self, status, text, invocation):
        return plain_reply(status, text)

    def upgrade(self, connection, invocation, rest):
        return False


REQUESTS = st.sampled_from(
    [
        GET + b"\r\n",
        b"GET /refuse HTTP/1.1\r\n" + HOST + b"\r\n",
        b"HEAD /h HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        POST + b"Content-Length: 5\r\n\r\nhello",
        POST + b"Content-Length: 0\r\n\r\n",
        POST + b"Expect: 100-continue\r\nX-Request-Id: a\r\n\r\n",
        POST
        + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\nX-Trailer: 1\r\nHost: t\r\n\r\n",
        GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nGET",
        POST + b"Content-Length: 50\r\n\r\n" + b"b" * 50,
        GET + b"X-Long: " + b"v" * 300 + b"\r\n\r\n",
        GET + CLOSE + b"\r\n",
        POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        GET + b"X-Huge: " + b"v" * 3000 + b"\r\n\r\n",
    ]
)


def converse(pieces):
    """Feed pieces to a connection; returns what it answered and whether it closed."""
    recorder = Recorder()
    shared = Shared(recorder, Limits(head_bytes=1024, body_bytes=40))
    shared.id_prefix = "id-"
    connection = Connection(shared, trusted=True)
    connection.connection_made(recorder)
    for piece in pieces:
        if recorder.closed:
            break
        connection.data_received(piece)
        while connection._held and not recorder.closed:
            connection._feed_held()
    return recorder.out, recorder.closed


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(REQUESTS, min_size=1, max_size=6), st.data())
async def test_answers_do_not_depend_on_how_the_bytes_are_split(requests, data):
    stream = b"".join(requests)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a < b]

    whole = converse([stream])

    assert converse(pieces) == whole
    assert converse([stream[i : i + 1] for i in range(len(stream))]) == whole
