import json

import pytest

from pelton.compat import azure
from pelton.compat.azure import custom
from pelton.compat.azure.settings import Host, Keys
from pelton.errors import FunctionLoadError
from pelton.model.invocation import Delivered, Invocation, LoadRequest, Reply

HTTP = [
    {"type": "httpTrigger", "name": "req", "route": "work/{id}", "authLevel": "anonymous"},
    {"type": "http", "direction": "out", "name": "res"},
    {"type": "queue", "direction": "out", "name": "sent"},
]


@pytest.fixture
def sent():
    return []


@pytest.fixture
def request_for(tmp_path, sent):
    async def send_async(output):
        sent.append((output.name, output.data, output.content_type))
        return Delivered(ok=output.name == "sent", error="unknown output")

    def make(handler, bindings=HTTP):
        (tmp_path / "host.json").write_text(json.dumps({"customHandler": handler}))
        (tmp_path / "Work").mkdir(exist_ok=True)
        (tmp_path / "Work/function.json").write_text(json.dumps({"bindings": bindings}))
        return LoadRequest(
            source=str(tmp_path),
            target="",
            signature="custom-handler",
            context={},
            send=lambda _: Delivered(ok=False),
            send_async=send_async,
            bundle=str(tmp_path),
        )

    return make


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({}, "names no program"),
        ({"defaultExecutablePath": "none-such"}, "'none-such' is not there"),
        ({"defaultExecutablePath": "host.json"}, "'host.json' is not executable"),
    ],
)
def test_program_that_cannot_run_is_refused_when_the_app_is_loaded(request_for, description, message):
    with pytest.raises(FunctionLoadError, match=message):
        azure.load(request_for({"description": description}))


def answering(request_for, monkeypatch, reply, bindings=HTTP):
    """Return a loaded app whose handler answers with one reply, and what the handler was asked."""
    loaded = azure.load(request_for({"description": {"defaultExecutablePath": "sh"}}, bindings))
    handler = getattr(loaded.call, "__self__")  # noqa: B009 -- mypy knows no __self__ of a Callable
    asked = []

    class Upstream:
        async def forward(self, invocation):
            asked.append(invocation)
            return reply

    monkeypatch.setattr(handler, "_upstream", Upstream())
    return loaded, asked


def call(loaded, body=b"", headers=()):
    return loaded.call(Invocation("i-1", "POST", b"/api/work/7?a=1&a=2", list(headers), body))


async def test_call_carries_data_and_metadata_and_its_outputs_are_sent(request_for, sent, monkeypatch):
    answer = {"outputs": {"res": {"status": "202", "Body": "done"}, "sent": {"n": 1}}, "ReturnValue": None}
    loaded, asked = answering(request_for, monkeypatch, Reply(200, [], json.dumps(answer).encode()))

    reply = await call(loaded, b"\xff", [(b"host", b"h"), (b"x-a", b"1"), (b"x-a", b"2")])

    assert (reply.status, reply.body) == (202, b"done")
    assert sent == [("sent", b'{"n": 1}', "application/json")]
    (invocation,) = asked
    content = json.loads(invocation.body)
    assert invocation.target == b"/Work"
    assert invocation.header(b"x-azure-functions-invocationid") == b"i-1"
    assert content["Data"]["req"] == {
        "Url": "http://h/api/work/7?a=1&a=2",
        "Method": "POST",
        "Query": {"a": "1,2"},
        "Headers": {"host": ["h"], "x-a": ["1,2"]},
        "Params": {"id": "7"},
        "Identities": [],
        "Body": "/w==",
    }
    assert content["Metadata"]["id"] == "7"
    assert content["Metadata"]["sys"]["MethodName"] == "Work"


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(404), "the handler answered 404"),
        (Reply(200, [], b"text"), "is no JSON"),
        (Reply(200, [], b"[]"), "is no JSON object"),
        (Reply(200, [], b'{"outputs": {"res": {"status": "ok"}}}'), "answered status 'ok'"),
    ],
)
async def test_answer_that_is_none_fails_the_call_with_the_reason(request_for, monkeypatch, reply, message):
    loaded, _ = answering(request_for, monkeypatch, reply)

    with pytest.raises(custom.HandlerError, match=message):
        await call(loaded)


@pytest.mark.parametrize(
    ("value", "status", "body"),
    [
        ({}, 204, b""),
        ({"ReturnValue": "text"}, 200, b"text"),
        ({"ReturnValue": {"a": 1}}, 200, b'{"a": 1}'),
        ({"Outputs": {"res": {"statusCode": 201, "body": [1]}}}, 201, b"[1]"),
    ],
)
async def test_answer_of_an_http_function_is_its_output_or_return_value(
    request_for, monkeypatch, value, status, body
):
    loaded, _ = answering(request_for, monkeypatch, Reply(200, [], json.dumps(value).encode()))

    reply = await call(loaded)

    assert (reply.status, reply.body) == (status, body)


async def test_output_that_is_refused_fails_the_call(request_for, monkeypatch):
    bindings = [*HTTP, {"type": "queue", "direction": "out", "name": "other"}]
    answer = Reply(200, [], b'{"Outputs": {"other": "text?"}}')
    loaded, _ = answering(request_for, monkeypatch, answer, bindings)

    with pytest.raises(RuntimeError, match=r"'other': unknown output.*spec\.serving\.outputs"):
        await call(loaded)


def test_admin_addresses_are_closed_outside_of_pelton_run_without_a_master_key(request_for):
    handler = custom._Handler([], Host(), Keys(), where="", bundle="/", developing=False, env={})

    def get(path):
        reply = handler.other(Invocation("i", "GET", path, []))
        assert isinstance(reply, Reply)
        return reply.status

    assert {
        get(path) for path in (b"/admin/host/status", b"/admin/functions", b"/admin/functions/x?code=")
    } == {401}
    assert get(b"/admin/host/ping") == 200
