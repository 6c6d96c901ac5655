"""What surrounds a Google function: error handlers, execution ids, output as JSON, variables, ASGI mode."""

import json
import os
import sys

import pytest

from pelton.errors import FunctionLoadError
from pelton.sdk import registry

HANDLERS = """
import functions_framework
@functions_framework.errorhandler(ValueError)
def on_value(error):
    return f"handled {error}", 418
@functions_framework.errorhandler(415)
def on_415(error):
    return "no json", 415
@functions_framework.errorhandler(500)
def on_crash(error):
    return f"crashed by {type(error.original_exception).__name__}", 500
@functions_framework.http
def f(request):
    if request.path == "/value":
        raise UnicodeError("u")
    if request.path == "/key":
        raise KeyError("k")
    if request.path == "/json":
        return request.get_json()
    if request.path == "/none":
        return None
    return "fine"
"""


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_errorhandlers_answer_by_class_status_and_crash(load, request_of, kind):
    function = load(HANDLERS.replace("def f", f"{kind} f"), "gcf")
    found = []
    for path in (b"/", b"/value", b"/key", b"/json"):
        reply = function.call(request_of(path))
        reply = reply if function.sync else await reply
        found.append((reply.status, reply.body))

    assert found == [
        (200, b"fine"),
        (418, b"handled u"),
        (500, b"crashed by KeyError"),
        (415, b"no json"),
    ]


def test_exception_without_a_handler_is_a_crash_as_ever(load, request_of):
    source = HANDLERS[: HANDLERS.index("@functions_framework.errorhandler(415)")]
    source += "@functions_framework.http\ndef f(request):\n    raise KeyError('k')\n"

    with pytest.raises(KeyError):
        load(source, "gcf").call(request_of())


def test_errorhandler_answers_for_event_functions_too(load, event_of):
    source = (
        "import functions_framework\n"
        "@functions_framework.errorhandler(ValueError)\ndef on_value(error):\n    return 'again', 503\n"
        "@functions_framework.cloud_event\ndef f(event):\n    raise ValueError\n"
    )

    assert load(source, "gcf").call(event_of()).status == 503


def test_errorhandler_for_nonsense_is_refused(load):
    source = (
        "import functions_framework\n@functions_framework.errorhandler('x')\ndef h(error): ...\n"
        "@functions_framework.http\ndef f(request): ...\n"
    )

    with pytest.raises(FunctionLoadError, match="neither a status nor an exception"):
        load(source, "gcf")


def test_decorators_of_an_earlier_function_are_forgotten(load):
    load(HANDLERS, "gcf")
    load("def g(request): ...\n", "gcf")

    assert (registry.ERROR_HANDLERS, registry.SIGNATURES) == ([], {})


def test_registry_of_the_real_framework_is_read(load, monkeypatch):
    class Real:
        REGISTRY_MAP = {"f": "cloudevent"}
        ASGI_FUNCTIONS = {"f"}

    monkeypatch.setitem(sys.modules, "functions_framework._function_registry", Real)

    assert registry.of("other", "f") == registry.Registered(
        signature="cloudevent", input_type=None, asgi=True
    )
    assert registry.of("g").signature == ""


ID = "def f(request):\n    return request.headers['Function-Execution-Id']\n"


def test_execution_id_is_kept_or_made_of_twelve_letters_and_digits(load, request_of):
    function = load(ID, "gcf")

    kept = function.call(request_of(headers=[(b"function-execution-id", b"mine")])).body
    made = {function.call(request_of()).body for _ in range(20)}

    assert kept == b"mine"
    assert len(made) == 20
    assert all(len(one) == 12 and one.isalnum() for one in made)


@pytest.fixture
def streams(monkeypatch, capsys):
    """Let the function replace the streams; they are put back."""
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    return capsys


PRINTS = (
    "import sys\n"
    "print('at import')\n"
    "def f(request):\n"
    "    print('a', 1)\n"
    '    print(\'{"severity": "INFO", "message": "own"}\', file=sys.stderr)\n'
    "    print('two\\nlines')\n"
    "    print('rest', end='')\n"
    "    return 'x'\n"
)
TRACED = [(b"function-execution-id", b"E"), (b"x-cloud-trace-context", b"abc/123;o=1")]
LABEL = "logging.googleapis.com/labels"
SPAN = "logging.googleapis.com/spanId"


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_lines_carry_the_execution_when_asked(load, request_of, monkeypatch, streams, kind):
    monkeypatch.setenv("LOG_EXECUTION_ID", "true")
    function = load(PRINTS.replace("def f", f"{kind} f"), "gcf")

    reply = function.call(request_of(headers=TRACED))
    assert (reply if function.sync else await reply).body == b"x"
    out, err = streams.readouterr()
    first, *lines = out.splitlines()

    assert first == "at import"
    assert [json.loads(line) for line in lines] == [
        {"message": text, LABEL: {"execution_id": "E"}, SPAN: "123"}
        for text in ("a 1", "two", "lines", "rest")
    ]
    assert json.loads(err) == {
        "severity": "INFO",
        "message": "own",
        LABEL: {"execution_id": "E"},
        SPAN: "123",
    }


def test_malformed_trace_gives_no_span(load, request_of, monkeypatch, streams):
    monkeypatch.setenv("LOG_EXECUTION_ID", "1")
    function = load("def f(request):\n    print('a')\n    return 'x'\n", "gcf")

    function.call(request_of(headers=[(b"x-cloud-trace-context", b"abc/x;o=1")]))
    line = json.loads(streams.readouterr().out)

    assert SPAN not in line
    assert len(line[LABEL]["execution_id"]) == 12


def test_lines_are_left_alone_without_the_variable(load, request_of, streams):
    load(PRINTS, "gcf").call(request_of(headers=TRACED))

    assert streams.readouterr().out == "at import\na 1\ntwo\nlines\nrest"


def test_entry_point_means_the_first_runtimes_habits(load, request_of, monkeypatch, streams):
    monkeypatch.setenv("ENTRY_POINT", "f")
    for name in ("FUNCTION_NAME", "FUNCTION_TRIGGER_TYPE"):
        monkeypatch.setenv(name, "before")
    function = load("import sys\ndef f(request):\n    print('a')\n    print('b', file=sys.stderr)\n", "gcf")

    reply = function.call(request_of())
    out, err = streams.readouterr()

    assert (reply.status, reply.body, out) == (200, b"OK", "")
    assert [json.loads(line) for line in err.splitlines()] == [
        {"message": "a", "severity": "INFO"},
        {"message": "b", "severity": "ERROR"},
    ]
    assert (os.environ["FUNCTION_NAME"], os.environ["FUNCTION_TRIGGER_TYPE"]) == ("set-by-test", "http")


def test_platforms_variables_are_there_before_the_source_is_imported(load, monkeypatch):
    for name in ("K_SERVICE", "K_REVISION", "K_CONFIGURATION", "PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    source = (
        "import os\nSEEN = [os.environ[n] for n in ('K_SERVICE', 'K_REVISION', 'K_CONFIGURATION', 'PORT')]\n"
        "def f(cloud_event): ...\n"
    )

    load(source, "gcf")

    assert sys.modules["main"].SEEN == ["f", "f-1", "f", "8080"]
    assert (os.environ["FUNCTION_TARGET"], os.environ["FUNCTION_SIGNATURE_TYPE"]) == ("f", "cloudevent")


def test_real_decorators_are_looked_through(load, request_of):
    source = (
        "import functools, types\n"
        "async def f(request):\n    return 'awaited'\n"
        "inner = f\n"
        "code = 'def make(func):\\n    def wrapper(*a): return func(*a)\\n    return wrapper'\n"
        "space = {'__name__': 'functions_framework'}\n"
        "exec(code, space)\n"
        "f = functools.wraps(inner)(space['make'](inner))\n"
    )

    assert load(source, "gcf", target="f").sync is False


def test_asgi_mode_without_starlette_says_what_is_missing(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette.requests", None)
    source = "from functions_framework import aio\n@aio.http\nasync def f(request):\n    return 'x'\n"

    with pytest.raises(FunctionLoadError, match="no starlette") as raised:
        load(source, "gcf")

    assert "requirements.txt" in raised.value.hint


ASGI = """
import functions_framework.aio
from starlette.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
DONE = []
@functions_framework.aio.http
async def f(request):
    if request.url.path == "/echo":
        execution = request.headers["function-execution-id"]
        return {"q": request.query_params["q"], "body": await request.json(),
                "path": request.path_params["path"], "id": len(execution)}
    if request.url.path == "/status":
        return {"a": 1}, 201
    if request.url.path == "/list":
        return [1]
    if request.url.path == "/stream":
        async def parts():
            yield "a"
            yield b"b"
        return StreamingResponse(parts(), media_type="text/plain")
    if request.url.path == "/own":
        return JSONResponse({"b": 2}, 202, {"x-own": "1"})
    if request.url.path == "/gone":
        raise HTTPException(410, "gone")
    if request.url.path == "/number":
        return 5
    if request.url.path == "/text":
        return "text"
"""


async def test_asgi_mode_hands_over_starlettes_request_and_takes_its_responses(load, request_of):
    function = load(ASGI, "gcf")
    echo = await function.call(request_of(b"/echo?q=%C3%A9", "POST", b'{"x": 1}'))
    found = []
    for path in (b"/status", b"/list", b"/stream", b"/own", b"/gone", b"/text", b"/none"):
        reply = await function.call(request_of(path))
        body = reply.body
        found.append((reply.status, body if isinstance(body, bytes) else b"".join([c async for c in body])))

    assert json.loads(echo.body) == {"q": "é", "body": {"x": 1}, "path": "echo", "id": 12}
    assert found == [
        (201, b'{"a":1}'),
        (200, b"[1]"),
        (200, b"ab"),
        (202, b'{"b":2}'),
        (410, b"gone"),
        (200, b"text"),
        (500, b"No response returned"),
    ]
    assert function.serve is not None
    with pytest.raises(TypeError, match="returned a int"):
        await function.call(request_of(b"/number"))


async def test_plain_function_in_asgi_mode_runs_on_a_thread(load, request_of, monkeypatch):
    monkeypatch.setenv("FUNCTION_USE_ASGI", "true")
    source = (
        "import threading\ndef f(request):\n    return [threading.current_thread().name, request.method]\n"
    )
    function = load(source, "gcf")

    name, method = json.loads((await function.call(request_of())).body)

    assert (function.sync, method) == (False, "GET")
    assert name.startswith("function")
