"""Knative func: its manifest, the instance and its hooks, CloudEvents both ways, the older templates."""

import json
import sys
import types

import pytest

from pelton.builders.detect import Wanted, detect
from pelton.cli.tables import CONVENTIONS, resolve_convention
from pelton.compat import knative_func
from pelton.errors import FunctionLoadError, UnknownConventionError
from pelton.model.invocation import LoadRequest

ALL = {name: resolve_convention(name) for name in CONVENTIONS}
MANIFEST = "specVersion: 0.36.0\nname: f\nruntime: python\n"
INSTANCE = """
log = []

def new():
    return Function()

class Function:
    def start(self, cfg):
        self.cfg = cfg
        log.append("start")

    async def stop(self):
        log.append("stop")

    def alive(self):
        return True, "fine"

    def ready(self):
        return False

    async def handle(self, scope, receive, send):
        if scope["path"] == "/boom":
            raise ValueError("no way")
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 201, "headers": [[b"x-a", b"1"]]})
        await send({"type": "http.response.body", "body": scope["path"].encode() + b" " + body})
"""
HANDLE = INSTANCE.replace("async def handle(self, scope", "async def nothing(self, scope") + (
    "async def handle(scope, receive, send):\n"
    "    await send({'type': 'http.response.start', 'status': 200})\n"
    "    await send({'type': 'http.response.body', 'body': b'plain'})\n"
)
EVENTS = """
def new():
    return Function()

class Function:
    async def handle(self, scope, receive, send):
        event = scope["event"]
        how = event["type"]
        if how == "boom":
            raise ValueError("no way")
        if how == "silent":
            return
        if how == "http":
            await send.http({"type": "http.response.start", "status": 418})
            await send.http({"type": "http.response.body", "body": b"raw"})
            return
        event["type"] = "answer"
        if how == "binary":
            await send.binary(event, 202)
        else:
            await send(event)
"""
BINARY = [
    (b"ce-id", b"1"),
    (b"ce-source", b"/shop"),
    (b"ce-type", b"order"),
    (b"ce-specversion", b"1.0"),
    (b"ce-note", b"caf%C3%A9"),
    (b"content-type", b"application/json"),
]


@pytest.fixture
def tree(tmp_path):
    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


@pytest.fixture
def load(tree, monkeypatch):
    """Load a tree (or the text of function/func.py) as detection finds it."""
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(files, manifest=MANIFEST, **options):
        files = {"function/func.py": files} if isinstance(files, str) else files
        folder = tree({"func.yaml": manifest, **files})
        found = detect(folder, ALL)
        assert found.convention == "knative-func"
        return knative_func.load(
            LoadRequest(
                source=f"{folder}/{found.source}",
                target=found.target,
                signature=found.signature,
                context={},
                send=None,  # type: ignore[arg-type]  # nothing is sent
                send_async=None,  # type: ignore[arg-type]  # the same
                bundle=str(folder),
                options={**found.options, **options},
            )
        )

    yield run
    for name in set(sys.modules) - modules:
        if not name.startswith("pelton"):
            del sys.modules[name]


# --- detection ---


@pytest.mark.parametrize(
    ("files", "source", "target"),
    [
        ({"function/__init__.py": "from .func import new\n"}, "function/func.py", "new"),
        ({}, "function/func.py", "new"),
        ({"func.py": HANDLE, "function/func.py": ""}, "func.py", "new"),
        ({"func.py": "def main(context): ...\n", "function/func.py": ""}, "func.py", "main"),
        ({"function/func.py": "async def handle(scope, receive, send): ...\n"}, "function/func.py", "handle"),
        (
            {"src/function/func.py": "def new(): ...\n", "function/func.py": ""},
            "src/function/func.py",
            "new",
        ),
    ],
)
def test_manifest_means_knative_whatever_the_code_looks_like(tree, files, source, target):
    found = detect(tree({"func.yaml": MANIFEST, "function/func.py": INSTANCE, **files}), ALL)

    assert (found.convention, found.target, found.signature, found.source) == (
        *("knative-func", target, "http"),
        source,
    )


def test_invoke_is_the_signature(tree):
    found = detect(tree({"func.yaml": MANIFEST + "invoke: cloudevent\n", "func.py": EVENTS}), ALL)

    assert found.signature == "cloudevent"


def test_manifest_of_another_runtime_is_no_python_function(tree):
    folder = tree({"func.yaml": MANIFEST.replace("python", "go"), "handle.go": "package f\n"})

    with pytest.raises(UnknownConventionError):
        detect(folder, ALL)


def test_without_a_manifest_it_has_to_be_asked_for(tree):
    folder = tree({"func.py": INSTANCE})

    with pytest.raises(UnknownConventionError):
        detect(folder, ALL)
    assert detect(folder, ALL, Wanted(convention="knative")).target == "new"


@pytest.mark.parametrize(
    ("line", "implied"),
    [
        ("from cloudevents.core.v1.event import CloudEvent", ("cloudevents>=2",)),
        ("from cloudevents.http import CloudEvent", ("cloudevents>=1.10,<2",)),
    ],
)
def test_major_of_cloudevents_is_the_one_that_the_code_imports(tree, line, implied):
    assert detect(tree({"func.yaml": MANIFEST, "func.py": line + "\n" + INSTANCE}), ALL).implied == implied


# --- requests ---


async def test_instance_handles_and_is_told_of_start_and_stop(load, request_of):
    function = load({"function/func.py": INSTANCE, "function/__init__.py": "from .func import new, log\n"})

    await function.start()
    reply = await function.call(
        request_of(b"/a?b", "POST", b"body", [(b"x-forwarded-prefix", b"/default/f")])
    )
    await function.stop()

    assert (reply.status, reply.headers, reply.body) == (201, [(b"x-a", b"1")], b"/a body")
    assert sys.modules["function"].log == ["start", "stop"]
    assert (function.signature, function.target, function.streams_body) == ("http", "new", True)


async def test_plain_handler_needs_no_instance(load, request_of):
    function = load(HANDLE.replace("def new", "def old"))

    await function.start()

    assert (await function.call(request_of(b"/"))).body == b"plain"
    assert (await function.call(request_of(b"/health/readiness"))).body == b"OK"


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [(b"/health/liveness", 200, b"fine"), (b"/health/readiness?x", 500, b"False")],
)
async def test_health_is_what_the_instance_says(load, request_of, path, status, text):
    reply = await load(INSTANCE).call(request_of(path))

    assert reply.status == status
    assert reply.body == (text if status == 200 else b"OK")


async def test_websocket_is_400(load, request_of):
    assert (await load(INSTANCE).call(request_of(headers=[(b"upgrade", b"websocket")]))).status == 400


async def test_exception_is_500_with_its_text(load, request_of):
    function = load(INSTANCE)

    with pytest.raises(ValueError, match="no way") as caught:
        await function.call(request_of(b"/boom"))

    reply = function.on_error(caught.value)
    assert (reply.status, reply.headers, reply.body) == (
        *(500, [(b"content-type", b"text/plain")]),
        b"Error: no way",
    )


def test_instance_without_a_handler_is_refused(load):
    with pytest.raises(FunctionLoadError, match="without a method handle"):
        load("def new():\n    return object()\n")


def test_package_that_exports_nothing_is_refused(load):
    with pytest.raises(FunctionLoadError, match="exports none of new"):
        load("def new(): ...\ndel new\n")


def test_variables_of_the_manifest_are_set_but_never_over_the_functions_own(load, monkeypatch):
    monkeypatch.setenv("TAKEN", "own")
    monkeypatch.setenv("ELSEWHERE", "there")
    for name in ("PLAIN", "COPIED", "SECRET"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    manifest = MANIFEST + (
        "run:\n  envs:\n  - {name: PLAIN, value: a b}\n  - {name: TAKEN, value: theirs}\n"
        "  - {name: COPIED, value: '{{ env:ELSEWHERE }}'}\n  - {name: SECRET, value: '{{ secret:s:k }}'}\n"
        "  - {value: '{{ configMap:c }}'}\n"
    )

    load("import os\nseen = dict(os.environ)\n" + INSTANCE, manifest)

    seen = sys.modules["function.func"].seen
    assert {name: seen.get(name) for name in ("PLAIN", "TAKEN", "COPIED", "SECRET")} == {
        **{"PLAIN": "a b", "TAKEN": "own"},
        **{"COPIED": "there", "SECRET": None},
    }


# --- CloudEvents ---


@pytest.fixture
def events(load):
    return load(EVENTS, MANIFEST + "invoke: cloudevent\n")


def typed(kind):
    return [(name, kind if name == b"ce-type" else value) for name, value in BINARY]


async def test_event_is_answered_with_a_structured_event(events, request_of):
    reply = await events.call(request_of(b"/", "POST", b'{"a": 1}', BINARY))

    assert (reply.status, reply.headers) == (200, [(b"content-type", b"application/cloudevents+json")])
    answer = json.loads(reply.body)
    assert answer.pop("time")
    assert answer == {
        **{"specversion": "1.0", "id": "1", "source": "/shop", "type": "answer", "note": "café"},
        **{"datacontenttype": "application/json", "data": {"a": 1}},
    }


async def test_event_is_answered_in_binary_form_where_asked(events, request_of):
    reply = await events.call(request_of(b"/", "POST", b'{"a": 1}', typed(b"binary")))

    headers = dict(reply.headers)
    assert (reply.status, json.loads(reply.body)) == (202, {"a": 1})
    assert (headers[b"content-type"], headers[b"ce-type"], headers[b"ce-note"]) == (
        *(b"application/json", b"answer"),
        b"caf%C3%A9",
    )


async def test_messages_may_be_sent_as_they_are(events, request_of):
    reply = await events.call(request_of(b"/", "POST", b"", typed(b"http")))

    assert (reply.status, reply.body) == (418, b"raw")


async def test_function_that_sends_nothing_has_accepted_its_event(events, request_of):
    assert (await events.call(request_of(b"/", "POST", b"", typed(b"silent")))).status == 200


@pytest.mark.parametrize("headers", [[], BINARY[1:], [(b"content-type", b"application/cloudevents+json")]])
async def test_what_is_no_event_is_400(events, request_of, headers):
    assert (await events.call(request_of(b"/", "POST", b"{", headers))).status == 400


async def test_exception_is_an_error_event(events, request_of):
    with pytest.raises(ValueError, match="no way") as caught:
        await events.call(request_of(b"/", "POST", b"", typed(b"boom")))

    reply = events.on_error(caught.value)
    answer = json.loads(reply.body)
    assert (reply.status, reply.headers) == (500, [(b"content-type", b"application/cloudevents+json")])
    assert (answer["type"], answer["data"]) == ("dev.functions.error", {"message": "Error: no way"})


async def test_record_is_an_event(events, event_of):
    reply = await events.call(event_of(id="7", type="binary", source="/bus"))

    assert (b"ce-id", b"7") in reply.headers
    assert reply.body == b'{"a":1}'


async def test_health_of_a_function_of_events_is_no_event(events, request_of):
    assert (await events.call(request_of(b"/health/liveness"))).body == b"OK"


async def test_bytes_travel_as_base64(load, request_of):
    function = load(EVENTS, MANIFEST + "invoke: cloudevent\n")
    headers = [(name, value) for name, value in BINARY if name != b"content-type"]

    reply = await function.call(request_of(b"/", "POST", b"\xff\x00", headers))

    assert json.loads(reply.body)["data_base64"] == "/wA="


async def test_second_major_of_cloudevents_gets_its_own_class(load, request_of, monkeypatch):
    class Event:
        def __init__(self, attributes, data):
            self._attributes, self._data = attributes, data
            assert attributes["time"].tzinfo is not None

        def get_data(self):
            return self._data

    for name in ("cloudevents", "cloudevents.core", "cloudevents.core.v1", "cloudevents.core.v1.event"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    vars(sys.modules["cloudevents.core.v1.event"])["CloudEvent"] = Event
    text = (
        "from cloudevents.core.v1.event import CloudEvent\n"
        "async def handle(scope, receive, send):\n"
        "    assert type(scope['event']) is CloudEvent\n"
        "    await send(scope['event'])\n"
    )
    function = load(text, MANIFEST + "invoke: cloudevent\n")
    headers = [*BINARY, (b"ce-time", b"2026-01-02T03:04:05Z")]

    reply = await function.call(request_of(b"/", "POST", b'{"a": 1}', headers))

    answer = json.loads(reply.body)
    assert (answer["time"], answer["data"]) == ("2026-01-02T03:04:05Z", {"a": 1})


# --- the older templates ---


def test_main_gets_a_context_with_request_and_event(load, request_of):
    text = (
        "def main(context):\n"
        "    event = context.cloud_event\n"
        "    assert context['request'] is context.request and 'request' in context.keys()\n"
        "    return {'path': context.request.path, 'event': event and event['type']}, 202\n"
    )
    function = load({"func.py": text})

    assert json.loads(function.call(request_of(b"/a")).body) == {"path": "/a", "event": None}
    reply = function.call(request_of(b"/", "POST", b"{}", BINARY))
    assert (reply.status, json.loads(reply.body)) == (202, {"path": "/", "event": "order"})
    assert function.call(request_of(b"/health/liveness")).body == b"OK"


def test_main_of_a_record_gets_it_as_its_event(load, event_of):
    function = load({"func.py": "def main(context):\n    return context.cloud_event['source']\n"})

    assert function.call(event_of(source="/bus")).body == b"/bus"


def test_main_may_be_a_wsgi_application(load, request_of):
    text = "def main(environ, start_response):\n    start_response('200 OK', [])\n    return [b'wsgi']\n"

    assert load({"func.py": text}).call(request_of()).body == b"wsgi"
