"""The Extensions API over a socket: registration, events, and everything that is refused."""

import asyncio
import json
import uuid

import pytest

from pelton.compat.aws_lambda.api import Pending, RuntimeApi
from pelton.compat.aws_lambda.calls import LambdaCall
from pelton.compat.aws_lambda.context import FunctionInfo
from pelton.compat.aws_lambda.extensions import Extensions, Tell

INFO = FunctionInfo(
    name="hello",
    version="$LATEST",
    handler="main.handler",
    memory_mb="128",
    region="eu-west-1",
    account="012345678912",
    log_group="group",
    log_stream="stream",
    task_root="/",
    timeout_s=30.0,
    options={},
)
BASE = "/2020-01-01/extension/"


class Host:
    """Stands for the runtime's owner."""

    def __init__(self):
        self.address = ""
        self.failures: list[tuple[str, ...]] = []
        tell = Tell(moved=lambda: self.api.pump(), failed=lambda *what: self.failures.append(what))
        self.extensions = Extensions(INFO, ["outside"], tell)
        self.api = RuntimeApi(self)

    def polled(self):
        self.extensions.closed = True

    def init_failed(self, result):
        raise AssertionError(result)

    def may_invoke(self):
        return self.extensions.ready

    def invoked(self, pending, deadline_ms):
        self.extensions.invoke(pending, deadline_ms)

    def other(self, request):
        return self.extensions.accept(request)


@pytest.fixture
async def host():
    host = Host()
    host.address = await host.api.open()
    yield host
    host.api.close()
    await asyncio.sleep(0)


@pytest.fixture
async def ask(host):
    """Send a request on a connection of its own; returns (status, headers, document or None)."""
    writers = []

    async def ask(method, path, body=b"", **headers):
        name, port = host.address.split(":")
        reader, writer = await asyncio.open_connection(name, int(port))
        writers.append(writer)
        lines = "".join(f"{key.replace('_', '-')}: {value}\r\n" for key, value in headers.items())
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        writer.write(
            f"{method} {path} HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        found = dict(line.split(": ", 1) for line in head[1:] if line)
        text = await reader.readexactly(int(found["Content-Length"]))
        writer.close()
        return int(head[0].split()[1]), found, json.loads(text) if text.startswith(b"{") else None

    yield ask
    for writer in writers:
        writer.close()


@pytest.fixture
def register(ask):
    async def register(name="outside", *events, **headers):
        return await ask("POST", BASE + "register", {"events": events}, Lambda_Extension_Name=name, **headers)

    return register


@pytest.fixture
def listen(ask):
    def listen(identifier):
        return asyncio.create_task(ask("GET", BASE + "event/next", Lambda_Extension_Identifier=identifier))

    return listen


async def _waiting(host, name="outside"):
    async with asyncio.timeout(30):
        while not host.extensions._agents[name].waiting:
            await asyncio.sleep(0.001)


def _identifier(answer):
    status, headers, _ = answer
    assert status == 200
    return str(uuid.UUID(headers["Lambda-Extension-Identifier"]))


async def test_registration_tells_who_the_function_is(register):
    status, _, document = await register("outside", "INVOKE", "SHUTDOWN")

    assert status == 200
    assert document == {"functionName": "hello", "functionVersion": "$LATEST", "handler": "main.handler"}


async def test_registration_tells_the_account_when_asked(register):
    _, _, document = await register("outside", Lambda_Extension_Accept_Feature="other, accountId")

    assert document["accountId"] == "012345678912"


async def test_invoke_event_says_all_and_holds_the_next_invocation_back(host, ask, register, listen):
    identifier = _identifier(await register("outside", "INVOKE"))
    listening = listen(identifier)
    await _waiting(host)
    loop = asyncio.get_running_loop()
    call = LambdaCall(request_id="id-1", body=b"1", trace_id="Root=1")
    host.api.submit(Pending(call, loop.create_future()))

    await ask("GET", "/2018-06-01/runtime/invocation/next")
    status, headers, event = await listening

    assert status == 200
    uuid.UUID(headers["Lambda-Extension-Event-Identifier"])
    deadline_ms = event.pop("deadlineMs")
    assert isinstance(deadline_ms, int)
    assert event == {
        "eventType": "INVOKE",
        "requestId": "id-1",
        "invokedFunctionArn": "arn:aws:lambda:eu-west-1:012345678912:function:hello",
        "tracing": {"type": "X-Amzn-Trace-Id", "value": "Root=1"},
    }
    await ask("POST", "/2018-06-01/runtime/invocation/id-1/response", b"1")
    host.api.submit(Pending(LambdaCall(request_id="id-2", body=b"2"), loop.create_future()))
    runtime = asyncio.create_task(ask("GET", "/2018-06-01/runtime/invocation/next"))
    done, _ = await asyncio.wait({runtime}, timeout=0.05)
    assert not done
    listening = listen(identifier)
    assert (await runtime)[1]["Lambda-Runtime-Aws-Request-Id"] == "id-2"
    assert (await listening)[2]["requestId"] == "id-2"


async def test_shutdown_event_reaches_who_waits_and_who_comes_later(host, register, listen):
    identifier = _identifier(await register("outside", "SHUTDOWN"))

    assert host.extensions.shut_down("spindown", 123)

    event = (await listen(identifier))[2]
    assert event == {"eventType": "SHUTDOWN", "deadlineMs": 123, "shutdownReason": "spindown"}


async def test_nobody_hears_of_a_shutdown_without_having_asked(host, register):
    await register("outside", "INVOKE")

    assert not host.extensions.shut_down("spindown", 123)


async def _kind(answer, status=403):
    found, _, document = await answer
    assert found == status
    assert set(document) == {"errorMessage", "errorType"}
    return document["errorType"]


async def test_bad_registrations_are_refused_by_name(ask, register, host):
    assert await _kind(register("")) == "Extension.InvalidExtensionName"
    bad = ask("POST", BASE + "register", b"no json", Lambda_Extension_Name="outside")
    assert await _kind(bad) == "InvalidRequestFormat"
    old = {"events": [], "configurationKeys": ["a"]}
    assert (
        await _kind(ask("POST", BASE + "register", old, Lambda_Extension_Name="a")) == "InvalidRequestFormat"
    )
    assert await _kind(register("outside", "OTHER")) == "Extension.InvalidEventType"
    assert await _kind(register("inside", "SHUTDOWN")) == "Extension.InvalidEventType"
    _identifier(await register("outside", "SHUTDOWN"))
    assert await _kind(register("outside")) == "Extension.InvalidExtensionState"
    _identifier(await register("inside", "INVOKE"))
    assert await _kind(register("inside")) == "Extension.InvalidExtensionState"
    for number in range(8):
        _identifier(await register(f"more-{number}"))
    assert await _kind(register("eleventh")) == "Extension.TooManyExtensions"


async def test_registration_is_closed_when_the_runtime_has_asked_for_work(host, ask, register):
    polling = asyncio.create_task(ask("GET", "/2018-06-01/runtime/invocation/next"))
    async with asyncio.timeout(30):
        while not host.extensions.closed:
            await asyncio.sleep(0.001)

    assert await _kind(register("inside")) == "Extension.RegistrationClosed"
    polling.cancel()


@pytest.mark.parametrize(
    ("method", "what"), [("GET", "event/next"), ("POST", "init/error"), ("POST", "exit/error")]
)
async def test_identifier_is_needed_everywhere(ask, method, what):
    path = BASE + what

    assert await _kind(ask(method, path)) == "Extension.MissingExtensionIdentifier"
    bad = ask(method, path, Lambda_Extension_Identifier="me")
    assert await _kind(bad) == "Extension.InvalidExtensionIdentifier"
    unknown = ask(method, path, Lambda_Extension_Identifier=str(uuid.uuid4()))
    assert await _kind(unknown) == "Extension.UnknownExtensionIdentifier"


async def test_errors_need_their_type_and_end_the_extension(host, ask, register):
    who = {"Lambda_Extension_Identifier": _identifier(await register("outside"))}

    assert await _kind(ask("POST", BASE + "exit/error", **who)) == "Extension.MissingHeader"
    said = {**who, "Lambda_Extension_Function_Error_Type": "Extension.Sorry"}
    assert (await ask("POST", BASE + "exit/error", **said))[0] == 202
    assert host.failures == [("Extension.ExitError", "the extension outside reported Extension.Sorry")]
    assert await _kind(ask("GET", BASE + "event/next", **who)) == "Extension.InvalidExtensionState"
    assert await _kind(ask("POST", BASE + "init/error", **said)) == "Extension.InvalidExtensionState"


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/2022-07-01/telemetry", "Telemetry.NotSupported"), ("/2020-08-15/logs", "Logs.NotSupported")],
)
async def test_telemetry_says_that_it_is_not_offered(ask, path, kind):
    assert await _kind(ask("PUT", path, {"types": ["platform"]}), 202) == kind
    assert (await ask("POST", path))[0] == 405


async def test_unknown_paths_are_404(ask):
    assert (await ask("GET", BASE + "other"))[0] == 404
    assert (await ask("GET", "/2020-01-01"))[0] == 404
