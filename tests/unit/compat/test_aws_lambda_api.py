"""The Runtime API over raw sockets: what a runtime sends, byte by byte, and what it gets."""

import asyncio
import base64
import json
import time

import pytest

from pelton.compat.aws_lambda.api import Pending, RuntimeApi
from pelton.compat.aws_lambda.calls import PAYLOAD_LIMIT_BYTES, LambdaCall

NEXT = b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n"


class Watcher:
    def __init__(self):
        self.seen = []
        self.allowed = True

    def polled(self):
        self.seen.append("polled")

    def init_failed(self, result):
        self.seen.append(result)

    def may_invoke(self):
        return self.allowed

    def invoked(self, pending, deadline_ms):
        self.seen.append(pending.call.request_id)

    def other(self, request):
        return False


class Client:
    """A runtime's connection: heads as (status, headers with names as sent), bodies as bytes."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self):
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers.pop("Content-Length", "0")))
        return int(first.split()[1]), headers, body

    async def ask(self, data):
        await self.send(data)
        return await self.receive()

    async def post(self, path, body=b"", *lines):
        head = "".join(f"{line}\r\n" for line in lines)
        return await self.ask(
            f"POST {path} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        )

    async def quiet(self):
        """Nothing arrives, although the server has had every chance."""
        try:
            async with asyncio.timeout(0.05):
                data = await self.reader.read(1)
        except TimeoutError:
            return True
        return not data and False


def _path(request_id, what="response"):
    return f"/2018-06-01/runtime/invocation/{request_id}/{what}"


def _refusal(answer):
    status, _, body = answer
    document = json.loads(body)
    assert set(document) == {"errorMessage", "errorType"}
    return status, document["errorType"]


@pytest.fixture
async def connect(api):
    writers = []
    address = await api.open()

    async def connect():
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writers.append(writer)
        return Client(reader, writer)

    yield connect
    for writer in writers:
        writer.close()
    api.close()
    await asyncio.sleep(0)


@pytest.fixture
def watcher():
    return Watcher()


@pytest.fixture
def options():
    return {}


@pytest.fixture
def api(watcher, options):
    return RuntimeApi(watcher, **options)


@pytest.fixture
async def client(connect):
    return await connect()


@pytest.fixture
def invoke(api):
    def invoke(request_id="id-1", body=b'{"a": 1}', **more):
        future = asyncio.get_running_loop().create_future()
        pending = Pending(LambdaCall(request_id=request_id, body=body, **more), future)
        api.submit(pending)
        return pending

    return invoke


async def _handed(client, invoke, *arguments, **more):
    pending = invoke(*arguments, **more)
    status, headers, body = await client.ask(NEXT)
    assert (status, headers["Lambda-Runtime-Aws-Request-Id"], body) == (
        200,
        pending.call.request_id,
        pending.call.payload,
    )
    return pending


async def test_ping_answers_pong(client):
    status, _, body = await client.ask(b"GET /2018-06-01/ping HTTP/1.1\r\n\r\n")

    assert (status, body) == (200, b"pong")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/2018-06-01",
        "/2018-06-01/runtime/invocation/x",
        "/2018-06-01/runtime/invocation/x/other",
        "/2018-06-01/runtime/invocation/x/response/y",
        "/2018-06-01/runtime/restore/next",
        "/2018-06-01/runtime/restore/error",
    ],
)
async def test_unknown_path_is_404_and_the_connection_goes_on(client, path):
    status, _, _ = await client.ask(f"GET {path} HTTP/1.1\r\n\r\n".encode())

    assert status == 404
    assert (await client.ask(b"GET /2018-06-01/ping HTTP/1.1\r\n\r\n"))[2] == b"pong"


async def test_wrong_method_is_405(client):
    status, headers, _ = await client.post("/2018-06-01/runtime/invocation/next")

    assert (status, headers["Allow"]) == (405, "GET")
    status, headers, _ = await client.ask(f"GET {_path('x')} HTTP/1.1\r\n\r\n".encode())
    assert (status, headers["Allow"]) == (405, "POST")


async def test_next_gives_all_headers_as_the_platform_writes_them(client, invoke):
    before = time.time()
    invoke(
        deadline=time.monotonic() + 30,
        arn="arn:aws:lambda:us-east-1:1:function:f",
        trace_id="Root=1-2-3",
        client_context='{"custom": {"a": "b"},\r\n "env": {}}',
        identity='{"cognitoIdentityId": "i"}',
        tenant="blue",
        content_type="text/plain",
        body=b"hello",
    )

    status, headers, body = await client.ask(NEXT)

    assert (status, body) == (200, b"hello")
    deadline = int(headers.pop("Lambda-Runtime-Deadline-Ms"))
    assert before + 29 < deadline / 1000 < time.time() + 31
    assert headers == {
        "Content-Type": "text/plain",
        "Lambda-Runtime-Aws-Request-Id": "id-1",
        "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:1:function:f",
        "Lambda-Runtime-Trace-Id": "Root=1-2-3",
        "Lambda-Runtime-Client-Context": '{"custom": {"a": "b"},   "env": {}}',
        "Lambda-Runtime-Cognito-Identity": '{"cognitoIdentityId": "i"}',
        "Lambda-Runtime-Aws-Tenant-Id": "blue",
    }


async def test_next_leaves_empty_headers_out(client, invoke):
    invoke()

    _, headers, _ = await client.ask(NEXT)

    assert set(headers) == {
        "Content-Type",
        "Lambda-Runtime-Aws-Request-Id",
        "Lambda-Runtime-Deadline-Ms",
    }
    assert headers["Content-Type"] == "application/json"


async def test_next_waits_for_an_invocation(client, invoke, watcher):
    await client.send(NEXT)
    assert await client.quiet()
    assert watcher.seen == ["polled"]

    invoke()

    assert (await client.receive())[0] == 200
    assert watcher.seen == ["polled", "id-1"]


async def test_response_reaches_the_caller(client, invoke):
    pending = await _handed(client, invoke)

    status, headers, body = await client.post(_path("id-1"), b'"done"', "Content-Type: application/unknown")

    assert (status, json.loads(body), headers["Content-Type"]) == (202, {"status": "OK"}, "application/json")
    result = await pending.future
    assert (result.payload, result.content_type, result.error) == (b'"done"', "application/unknown", False)


async def test_keep_alive_carries_many_invocations(client, invoke):
    for number in range(50):
        pending = await _handed(client, invoke, f"id-{number}", b"%d" % number)
        await client.post(_path(f"id-{number}"), b"[%d]" % number)
        assert (await pending.future).payload == b"[%d]" % number


async def test_error_reaches_the_caller_with_type_and_message(client, invoke):
    pending = await _handed(client, invoke)
    document = {"errorMessage": "no", "errorType": "ValueError", "stackTrace": [], "requestId": "id-1"}

    status, _, _ = await client.post(_path("id-1", "error"), json.dumps(document).encode())

    assert status == 202
    result = await pending.future
    assert (result.error, result.error_type, result.error_message) == (True, "ValueError", "no")
    assert json.loads(result.payload) == document


@pytest.mark.parametrize(
    ("said", "body", "kind"),
    [
        ("Function.Broken", b"{}", "Function.Broken"),
        ("Function.broken", b"no json", "Function.Unknown"),
        ("Anything", b"[]", "Runtime.Unknown"),
    ],
)
async def test_error_type_header_counts_when_the_document_has_none(client, invoke, said, body, kind):
    pending = await _handed(client, invoke)

    await client.post(_path("id-1", "error"), body, f"Lambda-Runtime-Function-Error-Type: {said}")

    result = await pending.future
    assert (result.error_type, result.payload) == (kind, body)


async def test_error_with_cause_loses_the_cause(client, invoke):
    pending = await _handed(client, invoke)
    document = {"errorMessage": "no", "errorType": "E", "stackTrace": ["x"], "errorCause": {"a": 1}}
    kind = "Content-Type: application/vnd.aws.lambda.error.cause+json"

    await client.post(_path("id-1", "error"), json.dumps(document).encode(), kind)

    result = await pending.future
    del document["errorCause"]
    assert (json.loads(result.payload), result.content_type) == (document, "application/json")


async def test_error_takes_an_xray_cause_of_a_megabyte(client, invoke):
    pending = await _handed(client, invoke)
    cause = f"Lambda-Runtime-Function-XRay-Error-Cause: {'x' * 1024 * 1024}"

    assert (await client.post(_path("id-1", "error"), b"{}", cause))[0] == 202
    assert (await pending.future).error


async def test_unknown_and_answered_ids_are_refused(client, invoke):
    assert _refusal(await client.post(_path("id-1"), b"1")) == (400, "InvalidRequestID")
    await _handed(client, invoke)
    assert _refusal(await client.post(_path("id-2"), b"1")) == (400, "InvalidRequestID")
    await client.post(_path("id-1"), b"1")
    assert _refusal(await client.post(_path("id-1"), b"1")) == (400, "InvalidRequestID")
    assert _refusal(await client.post(_path("id-1", "error"), b"1")) == (400, "InvalidRequestID")


async def test_next_twice_while_ready_gives_both_the_same_invocation(client, connect, invoke):
    other = await connect()
    await client.send(NEXT)
    await other.send(NEXT)
    assert await client.quiet()

    invoke()

    first, second = await client.receive(), await other.receive()
    assert first == second


async def test_next_twice_while_running_repeats_id_and_body(client, invoke):
    await _handed(client, invoke)
    invoke("id-2", b"other")

    _, headers, body = await client.ask(NEXT)

    assert (headers["Lambda-Runtime-Aws-Request-Id"], body) == ("id-1", b'{"a": 1}')


async def test_next_while_an_answer_is_on_its_way_is_forbidden(client, connect, invoke):
    pending = await _handed(client, invoke)
    await client.send(f"POST {_path('id-1')} HTTP/1.1\r\nContent-Length: 4\r\n\r\n12".encode())
    other = await connect()
    while (await other.ask(NEXT))[0] != 403:  # until the head of the answer has been read
        pass

    assert _refusal(await other.post(_path("id-1"), b"x")) == (403, "InvalidStateTransition")
    await client.send(b"34")
    assert (await client.receive())[0] == 202
    assert (await pending.future).payload == b"1234"


async def test_init_error_is_told_and_ends_polling(client, watcher):
    body = b'{"errorMessage": "no module", "errorType": "Runtime.ImportModuleError"}'

    status, _, _ = await client.post(
        "/2018-06-01/runtime/init/error",
        body,
        "Lambda-Runtime-Function-Error-Type: Runtime.ImportModuleError",
    )

    assert status == 202
    (result,) = watcher.seen
    assert (result.error_type, result.error_message) == ("Runtime.ImportModuleError", "no module")
    assert _refusal(await client.ask(NEXT)) == (403, "InvalidStateTransition")
    again = await client.post("/2018-06-01/runtime/init/error", body)
    assert _refusal(again) == (403, "InvalidStateTransition")


async def test_init_error_after_next_is_forbidden(client, invoke):
    await _handed(client, invoke)

    answer = await client.post("/2018-06-01/runtime/init/error", b"{}")

    assert _refusal(answer) == (403, "InvalidStateTransition")


async def test_payload_of_exactly_the_limit_passes_and_one_more_byte_does_not(client, invoke):
    pending = await _handed(client, invoke)
    assert (await client.post(_path("id-1"), b"x" * PAYLOAD_LIMIT_BYTES))[0] == 202
    assert len((await pending.future).payload) == PAYLOAD_LIMIT_BYTES
    pending = await _handed(client, invoke, "id-2")

    answer = await client.post(_path("id-2"), b"x" * (PAYLOAD_LIMIT_BYTES + 1))

    assert _refusal(answer) == (413, "RequestEntityTooLarge")
    assert str(PAYLOAD_LIMIT_BYTES) in answer[2].decode()
    result = await pending.future
    assert (result.error, result.error_type) == (True, "Function.ResponseSizeTooLarge")
    await _handed(client, invoke, "id-3")  # and the runtime goes on


async def test_expect_100_continue_is_answered_at_once(client, invoke):
    pending = await _handed(client, invoke)
    head = f"POST {_path('id-1')} HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"

    await client.send(head.encode())

    assert (await client.receive())[0] == 100
    assert (await client.ask(b"42"))[0] == 202
    assert (await pending.future).payload == b"42"


async def test_wrong_response_mode_is_refused_and_fails_the_invocation(client, invoke):
    pending = await _handed(client, invoke)

    answer = await client.post(_path("id-1"), b"x", "Lambda-Runtime-Function-Response-Mode: Streaming")

    assert _refusal(answer) == (400, "InvalidFunctionResponseMode")
    assert (await pending.future).error_type == "Runtime.InvalidResponseModeHeader"
    await _handed(client, invoke, "id-2")


def _chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


STREAM = (
    f"POST {_path('id-1')} HTTP/1.1\r\nLambda-Runtime-Function-Response-Mode: streaming\r\n"
    "Content-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n"
).encode()


async def test_streamed_response_reaches_the_caller_as_it_comes(client, invoke):
    pending = await _handed(client, invoke, wants_stream=True)

    await client.send(STREAM + _chunk(b"one"))
    result = await pending.future
    stream = result.stream
    assert (await anext(stream), result.content_type) == (b"one", "text/html")
    await client.send(_chunk(b"two"))
    assert await anext(stream) == b"two"
    assert (await client.ask(b"0\r\n\r\n"))[0] == 202

    assert [chunk async for chunk in stream] == []
    assert result.stream_error() is None


async def test_trailers_report_a_failure_on_the_way(client, invoke):
    pending = await _handed(client, invoke, wants_stream=True)
    document = b'{"errorMessage": "half", "errorType": "E"}'
    trailers = (
        b"Lambda-Runtime-Function-Error-Type: Function.Half\r\nLambda-Runtime-Function-Error-Body: "
        + base64.b64encode(document)
    )

    status, _, _ = await client.ask(STREAM + _chunk(b"one") + b"0\r\n" + trailers + b"\r\n\r\n")

    assert status == 202
    result = await pending.future
    assert [chunk async for chunk in result.stream] == [b"one"]
    assert result.stream_error() == ("Function.Half", document)


async def test_streamed_response_for_a_caller_without_streams_is_gathered(client, invoke):
    pending = await _handed(client, invoke)

    await client.ask(STREAM + _chunk(b"one") + _chunk(b"two") + b"0\r\n\r\n")

    assert (await pending.future).payload == b"onetwo"


async def test_gathered_stream_with_an_error_trailer_is_an_error(client, invoke):
    pending = await _handed(client, invoke)

    await client.ask(STREAM + _chunk(b"x") + b"0\r\nLambda-Runtime-Function-Error-Type: Runtime.Half\r\n\r\n")

    assert (await pending.future).error_type == "Runtime.Half"


async def test_slow_reader_of_a_stream_holds_the_runtime_back(client, invoke):
    pending = await _handed(client, invoke, wants_stream=True)
    total = 64 * 1024 * 1024
    piece = _chunk(b"x" * 65536)
    sent = 0

    async def pour():
        nonlocal sent
        client.writer.write(STREAM)
        for _ in range(total // 65536):
            await client.send(piece)
            sent += 65536
        await client.send(b"0\r\n\r\n")

    pouring = asyncio.create_task(pour())
    stream = (await pending.future).stream
    while True:  # until it stands still
        before = sent
        await asyncio.sleep(0.05)
        if sent == before:
            break
    assert sent < total / 2

    received = 0
    async for chunk in stream:
        received += len(chunk)
    await pouring
    assert received == total


async def test_reader_that_leaves_a_stream_does_not_hold_the_runtime_up(client, invoke):
    pending = await _handed(client, invoke, wants_stream=True)
    await client.send(STREAM + _chunk(b"one"))
    stream = (await pending.future).stream
    assert await anext(stream) == b"one"

    await stream.aclose()
    await client.send(b"".join(_chunk(b"x" * 65536) for _ in range(32)))

    assert (await client.ask(b"0\r\n\r\n"))[0] == 202


async def test_body_that_ends_too_early_is_refused_and_fails_the_invocation(client, invoke):
    pending = await _handed(client, invoke)

    await client.send(f"POST {_path('id-1')} HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345".encode())
    client.writer.write_eof()

    assert _refusal(await client.receive()) == (400, "TruncatedHTTPRequest")
    result = await pending.future
    assert (result.error_type, result.error) == ("Runtime.TruncatedResponse", True)
    assert await client.reader.read() == b""


async def test_connection_that_breaks_within_a_stream_ends_it_with_an_error(client, connect, invoke):
    pending = await _handed(client, invoke, wants_stream=True)
    await client.send(STREAM + _chunk(b"one"))
    result = await pending.future

    client.writer.transport.abort()

    assert [chunk async for chunk in result.stream] == [b"one"]
    assert result.stream_error()[0] == "Runtime.TruncatedResponse"
    await _handed(await connect(), invoke, "id-2")


async def test_client_that_sends_one_byte_at_a_time_is_served(client, invoke):
    pending = invoke()

    for byte in NEXT:
        await client.send(bytes([byte]))
        await asyncio.sleep(0)
    assert (await client.receive())[0] == 200
    for byte in f"POST {_path('id-1')} HTTP/1.1\r\nContent-Length: 2\r\n\r\n42".encode():
        await client.send(bytes([byte]))
        await asyncio.sleep(0)

    assert (await client.receive())[0] == 202
    assert (await pending.future).payload == b"42"


async def test_pipelined_requests_are_answered_in_order(client, invoke):
    pending = invoke()
    post = f"POST {_path('id-1')} HTTP/1.1\r\nContent-Length: 2\r\n\r\n42".encode()

    await client.send(NEXT + post + NEXT + b"GET /nowhere HTTP/1.1\r\n\r\n")

    assert (await client.receive())[0] == 200
    assert (await client.receive())[0] == 202
    assert (await pending.future).payload == b"42"
    assert await client.quiet()
    invoke("id-2")
    assert (await client.receive())[1]["Lambda-Runtime-Aws-Request-Id"] == "id-2"
    assert (await client.receive())[0] == 404


async def test_thousands_of_pipelined_requests_are_answered_without_piling_up(client):
    count = 20_000
    ping = b"GET /2018-06-01/ping HTTP/1.1\r\n\r\n"
    sending = asyncio.create_task(client.send(ping * count))

    for _ in range(count):
        assert (await client.receive())[0] == 200
    await sending


async def test_what_is_pipelined_behind_a_waiting_next_is_not_read_without_limit(client):
    await client.send(NEXT)
    ping = b"GET /2018-06-01/ping HTTP/1.1\r\n\r\n" * 4096
    sent = 0
    try:
        async with asyncio.timeout(0.3):
            while sent < 64 * 1024 * 1024:
                await client.send(ping)
                sent += len(ping)
    except TimeoutError:
        pass

    assert sent < 32 * 1024 * 1024  # the sockets' buffers, and no more


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nA: " + b"x" * 3_000_000,
        b"GET /" + b"x" * 3_000_000,
        b"POST /2018-06-01/runtime/init/error HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: "
        + b"x" * 3_000_000,
    ],
)
async def test_head_or_trailer_without_an_end_is_refused(client, data):
    try:
        await client.send(data)
    except ConnectionError:
        return
    try:
        status, headers, _ = await client.receive()
    except (ConnectionError, asyncio.IncompleteReadError):
        return

    assert (status, headers["Connection"]) == (431, "close")


async def test_no_http_is_refused_and_the_connection_ended(client):
    status, headers, _ = await client.ask(b"\x16\x03\x01 hello\r\n\r\n")

    assert (status, headers["Connection"]) == (400, "close")
    assert await client.reader.read() == b""


async def test_connection_close_is_kept(client):
    status, headers, _ = await client.ask(b"GET /2018-06-01/ping HTTP/1.1\r\nConnection: close\r\n\r\n")

    assert (status, headers["Connection"]) == (200, "close")
    assert await client.reader.read() == b""


async def test_next_of_a_client_that_left_is_forgotten(api, client, connect, invoke):
    await client.send(NEXT)
    assert await client.quiet()
    client.writer.close()
    await api.drained(5)

    pending = invoke()

    other = await connect()
    assert (await other.ask(NEXT))[0] == 200
    await other.post(_path("id-1"), b"1")
    assert (await pending.future).payload == b"1"


async def test_invocation_waits_until_everything_else_is_ready(api, client, watcher, invoke):
    watcher.allowed = False
    await client.send(NEXT)
    invoke()
    assert await client.quiet()

    watcher.allowed = True
    api.pump()

    assert (await client.receive())[0] == 200


async def test_reset_forgets_the_runtime_and_keeps_what_it_was_not_handed(api, client, connect, invoke):
    pending = await _handed(client, invoke)
    waiting = invoke("id-2")

    assert api.reset() == [pending]

    assert await client.reader.read() == b""
    other = await connect()
    assert _refusal(await other.post(_path("id-1"), b"1")) == (400, "InvalidRequestID")
    assert (await other.ask(NEXT))[1]["Lambda-Runtime-Aws-Request-Id"] == "id-2"
    assert not waiting.over


@pytest.mark.parametrize("options", [{"several": True}])
async def test_several_pollers_get_an_invocation_each(client, connect, invoke):
    other = await connect()
    await client.send(NEXT)
    await other.send(NEXT)
    first, second = invoke("id-1"), invoke("id-2")

    ids = [(await c.receive())[1]["Lambda-Runtime-Aws-Request-Id"] for c in (client, other)]
    assert sorted(ids) == ["id-1", "id-2"]
    await client.post(_path("id-2"), b"2")
    await other.post(_path("id-1"), b"1")

    assert [(await p.future).payload for p in (first, second)] == [b"1", b"2"]


@pytest.mark.parametrize("options", [{"caching": True}])
async def test_restore_is_served_with_init_caching(client, watcher):
    status, _, body = await client.ask(b"GET /2018-06-01/runtime/restore/next HTTP/1.1\r\n\r\n")
    assert (status, body) == (200, b"")

    answer = await client.post("/2018-06-01/runtime/restore/error", b'{"errorType": "E"}')

    assert answer[0] == 202
    assert watcher.seen[0].error_type == "E"
