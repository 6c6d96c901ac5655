"""Bad input and bad functions: each convention's own error, a worker that goes on, and nothing that hangs.

One served function answers many of these: what one case leaves behind is met by the next.
"""

import base64
import gzip
import socket
import time
from pathlib import Path

import httpx
import pytest

WHOLE_MB = 1024 * 1024

FUNCTION = r"""
import ctypes, os, socket, sys, threading, time
import functions_framework

class Silent(Exception):
    def __str__(self):
        raise ValueError("no text")
    __repr__ = __str__

def deeper():
    return deeper()

def midway():
    yield b"one"
    raise RuntimeError("midway")

def forked():
    child = os.fork()
    if not child:
        return "child"
    os.waitpid(child, 0)
    return "parent"

def raises(error):
    raise error

RAISED = {
    "/silent": lambda: raises(Silent()),
    "/deep": deeper,
    "/exit": lambda: sys.exit(3),
    "/interrupt": lambda: raises(KeyboardInterrupt()),
    "/generator-exit": lambda: raises(GeneratorExit()),
    "/surrogate": lambda: "\ud800",
    "/crlf": lambda: ("x", 200, {"x-a": "b\r\nset-cookie: evil=1"}),
    "/crlf-name": lambda: ("x", 200, {"x-a: b\r\nset-cookie": "evil=1"}),
    "/status-negative": lambda: ("x", -1),
    "/status-nan": lambda: ("x", float("nan")),
    "/status-inf": lambda: ("x", float("inf")),
    "/status-text": lambda: ("x", "teapot"),
    "/status-99": lambda: ("x", 99),
    "/status-1000": lambda: ("x", 1000),
    "/object": object,
    "/set": lambda: {1, 2},
    "/none": lambda: None,
    "/four": lambda: ("a", 200, {}, 1),
}
WORKS = {
    "/ok": lambda: "ok",
    "/print": lambda: print("no line break", end="") or "ok",
    "/close": lambda: sys.stderr.close() or sys.stdout.close() or "ok",
    "/cwd": lambda: os.chdir("/") or "ok",
    "/path": lambda: sys.path.clear() or os.environ.clear() or "ok",
    "/daemon": lambda: threading.Thread(target=time.sleep, args=(600,), daemon=True).start() or "ok",
    "/stays": lambda: threading.Thread(target=time.sleep, args=(600,)).start() or "ok",
}

@functions_framework.http
def main(request):
    path = request.path
    if path in RAISED:
        return RAISED[path]()
    if path in WORKS:
        return WORKS[path]()
    if path == "/fork":
        return forked()
    if path == "/midway":
        return midway()
    if path == "/large":
        return b"x" * (100 * 1024 * 1024)
    if path == "/os-exit":
        os._exit(9)
    if path == "/segv":
        ctypes.string_at(0)
    if path == "/seen":
        return {
            "body": len(request.get_data()),
            "headers": sum(len(name) + len(value) for name, value in request.headers.items()),
            "query": len(request.query_string),
            "args": len(request.args),
        }
    if path == "/gzip":
        return {"encoding": request.headers.get("content-encoding"), "body": list(request.get_data()[:2])}
    return {"path": request.path}
"""


def _raw(served, data, *, shut=False):
    """Send bytes on a connection of their own and return everything that comes back."""
    address = httpx.URL(served.url)
    with socket.create_connection((address.host, address.port), timeout=20) as sock:
        sock.sendall(data)
        if shut:
            sock.shutdown(socket.SHUT_WR)
        got = b""
        while chunk := sock.recv(65536):
            got += chunk
    return got


def _kib(pid):
    """Return the resident memory of a process and its children in KiB."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(
        int(line.split()[1])
        for one in (pid, *children)
        for line in Path(f"/proc/{one}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )


@pytest.mark.parametrize("flask", ["", "import flask\n"], ids=["plain", "flask"])
def test_function_that_misbehaves_gets_the_platforms_error_and_the_next_call_works(serve, flask):
    served = serve({"main.py": flask + FUNCTION}, clients=bool(flask))
    names = {line.split('"')[1] for line in FUNCTION.splitlines() if line.startswith('    "/')}
    raised = [name for name in names if name not in _WORKS]

    for path in raised:
        answer = served.get(path)
        assert (answer.status_code, answer.headers["x-google-status"]) == (500, "crash"), path
        assert "evil" not in str(answer.headers)
    for path in _WORKS:
        assert served.get(path).text == "ok", path
    assert served.get("/silent").headers["x-google-status"] == "crash"
    assert served.get("/fork").text == "parent"
    assert served.get("/ok").text == "ok"


_WORKS = ("/ok", "/print", "/cwd", "/path", "/daemon", "/stays", "/close")


def test_process_that_a_call_ends_is_replaced_and_memory_is_given_back(serve):
    served = serve({"main.py": FUNCTION})

    for path, said in (("/os-exit", "exit code 9"), ("/segv", "killed by SIGSEGV")):
        with pytest.raises(httpx.HTTPError):
            served.get(path)
        served.wait_for(f"^the process ended, {said}: starting again")
        assert served.get("/ok").text == "ok"
    with pytest.raises(httpx.HTTPError):
        served.get("/midway")
    before = _kib(served.process.pid)
    for _ in range(2):
        assert len(served.get("/large").content) == 100 * WHOLE_MB
    assert _kib(served.process.pid) - before < 150 * 1024
    _read_slowly(served, "/large")
    assert served.get("/ok").text == "ok"


def _read_slowly(served, path):
    """Ask for a large answer, read a little of it, and find that others are answered meanwhile."""
    address = httpx.URL(served.url)
    with socket.create_connection((address.host, address.port), timeout=20) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        for _ in range(10):
            assert sock.recv(1)
        assert served.get("/ok").text == "ok"


HOST = b"host: x\r\nconnection: close\r\n"
POST = b"POST /seen HTTP/1.1\r\n" + HOST
REFUSED = {
    "nul in a header": (b"GET /ok HTTP/1.1\r\nx: a\0b\r\n" + HOST + b"\r\n", 400),
    "nul in the path": (b"GET /a\0b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "path no ascii": (b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "headers of 64 KiB": (b"GET /ok HTTP/1.1\r\nx: " + b"a" * 65536 + b"\r\n" + HOST + b"\r\n", 431),
    "query of 70 KiB": (b"GET /ok?" + b"a=1&" * 18_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
    "negative length": (POST + b"content-length: -1\r\n\r\n", 400),
    "two lengths": (POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab", 400),
    "length and chunks": (POST + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "bad chunk": (POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n\r\n", 400),
    "endless chunk": (POST + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n\r\n", 400),
    "33 MiB announced": (POST + b"content-length: 34603008\r\n\r\n", 413),
    "no http": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 300, 400),
}


def test_bytes_that_are_no_request_are_refused_and_slow_ones_hold_nobody_up(serve):
    served = serve({"main.py": "import flask\n" + FUNCTION}, clients=True)
    address = httpx.URL(served.url)
    slow = [socket.create_connection((address.host, address.port), timeout=20) for _ in range(50)]
    body = gzip.compress(b"hello")

    for name, (data, status) in REFUSED.items():
        for sock in slow:
            sock.sendall(b"G" if name == "nul in a header" else b"E" if name == "nul in the path" else b"")
        assert _raw(served, data).split(b" ")[1] == str(status).encode(), name
    assert _raw(served, POST + b"content-length: 10\r\n\r\nabc", shut=True) == b""
    assert b'"headers":7' in _raw(served, b"GET /seen HTTP/1.1\r\nx: \xff\xfe\r\n" + HOST + b"\r\n")
    assert served.get("/seen?" + "a=1&" * 12_000).json()["query"] == 48_000
    assert served.get("/seen", headers={"x": "a" * 60_000}).json()["headers"] > 60_000
    assert served.get("/%00").json() == {"path": "/\x00"}
    assert served.get("/%ff").status_code == 200
    # Flask does not decompress, and neither does anybody before it
    answer = served.post("/gzip", content=body, headers={"content-encoding": "gzip"})
    assert answer.json() == {"encoding": "gzip", "body": [0x1F, 0x8B]}
    for sock in slow:
        sock.close()
    dripping = [
        b"POST /seen HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nconnection: close\r\n\r\n",
        b"a",
        b"b",
    ]
    with socket.create_connection((address.host, address.port), timeout=20) as sock:
        for piece in dripping:
            sock.sendall(piece)
            assert served.get("/ok").text == "ok"
        sock.sendall(b"c")
        assert b'"body":3' in b"".join(iter(lambda: sock.recv(65536), b""))


EVENTS = """
import functions_framework

@functions_framework.cloud_event
def main(event):
    print("GOT", event["id"], event["subject"] if "subject" in event else "-", event.data, flush=True)
"""
CE = {"ce-id": "1", "ce-source": "/s", "ce-type": "t", "ce-specversion": "1.0"}


def test_cloudevents_that_are_none_are_400_and_odd_headers_are_read(serve):
    served = serve({"main.py": EVENTS}, clients=True)
    structured = {"content-type": "application/cloudevents+json"}
    bad = [
        ({name: CE[name] for name in CE if name != "ce-id"}, b"{}"),
        (CE | {"ce-id": ""}, b"{}"),
        (structured, b"{}"),
        (structured, b"no json"),
        (structured, b"[" * 100_000),
        (structured, b'{"specversion": "1.0", "source": "/s", "type": "t"}'),
        (structured, b"\xff\xfe"),
        ({"content-type": "application/json"}, b"[" * 100_000),
        ({}, b""),
    ]

    for headers, body in bad:
        assert served.post(headers=headers, content=body).status_code == 400, (headers, body[:60])
    for subject in ("%zz", "%", "%ff%fe", "a%20b", "%00"):
        answer = served.post(headers=CE | {"ce-subject": subject}, content=b"")
        assert answer.status_code in (200, 400), subject
    answer = served.post(headers=CE | {"content-type": "application/json"}, content=b'{"n": 1}')
    assert (answer.status_code, answer.text) == (200, "OK")
    served.wait_for(r"GOT 1 - \{'n': 1\}")


COROUTINE = """
import asyncio, time
seen = []

async def main(request):
    if request.path == "/sleep":
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
    if request.path == "/ignore":
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                seen.append("ignored")
    if request.path == "/block":
        time.sleep(60)
    return {"seen": seen}
"""


def test_coroutine_is_cancelled_with_its_client_and_one_that_blocks_is_ended(serve):
    served = serve({"main.py": COROUTINE}, "--convention", "gcf", "--annotation", "request-timeout=700ms")
    assert served.get("/ok").json() == {"seen": []}

    with pytest.raises(httpx.TimeoutException):
        httpx.get(served.url + "/sleep", timeout=0.2)
    deadline = time.monotonic() + 10
    while served.get("/ok").json() != {"seen": ["cancelled"]}:
        assert time.monotonic() < deadline
    assert served.get("/sleep").status_code == 504
    assert served.get("/ignore").status_code == 504
    assert served.get("/ok").json() == {"seen": ["cancelled", "cancelled", "ignored"]}
    with pytest.raises(httpx.HTTPError):
        served.get("/block")
    assert served.wait_for("^ended: it overran its time limit; starting again")
    assert served.get("/ok").json() == {"seen": []}


RECURSION = """
import os, time, urllib.request

def main(request):
    if request.path == "/self":
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{os.environ['PORT']}/self").read()
        except OSError as error:
            return {"inner": getattr(error, "code", 0)}
    if request.path == "/hang":
        time.sleep(60)
    return "ok"
"""


def test_function_that_calls_itself_in_one_place_runs_into_its_limit_and_no_further(serve):
    served = serve(
        {"main.py": RECURSION},
        *("--convention", "gcf", "--annotation", "request-timeout=1s", "--annotation", "concurrency=1"),
    )

    assert served.get("/self").status_code in (503, 504)
    assert served.get("/ok").text == "ok"
    assert served.get("/hang").status_code == 504
    served.wait_for("^ended: it overran its time limit; starting again")
    assert served.get("/ok").text == "ok"


LAMBDA = """
import sys, os
class Silent(Exception):
    def __str__(self):
        raise ValueError("no text")
def deeper():
    return deeper()
def handler(event, context):
    what = event.get("what") or event.get("rawPath", "")[1:] if isinstance(event, dict) else ""
    if what == "silent":
        raise Silent
    if what == "deep":
        deeper()
    if what == "exit":
        sys.exit(4)
    if what == "object":
        return object()
    if what == "close":
        return sys.stdout.close() or sys.stderr.close()
    if what == "status":
        return {"statusCode": "teapot", "body": "x"}
    if what == "nan":
        return {"statusCode": float("nan")}
    if what == "crlf":
        return {"statusCode": 200, "headers": {"x-a": "b\\r\\nset-cookie: evil=1"}}
    if what == "base64":
        return {"statusCode": 200, "isBase64Encoded": True, "body": "%%%"}
    if what == "body":
        return {"statusCode": 200, "body": {"a": {1, 2}}}
    if what == "large":
        return "x" * (7 * 1024 * 1024)
    if what == "gzip":
        return {"is": event["isBase64Encoded"], "body": event["body"]}
    return "fine"
"""
INVOKE = "/2015-03-31/functions/function/invocations"


def test_lambda_refuses_payloads_and_names_each_failure(serve):
    served = serve({"lambda_function.py": LAMBDA}, "--target", "lambda_function.handler")
    assert served.post(INVOKE, json={}).json() == "fine"

    large = served.post(INVOKE, content=b'"' + b"x" * (7 * WHOLE_MB) + b'"')
    assert (large.status_code, large.headers["x-amzn-errortype"]) == (413, "RequestTooLargeException")
    for body in (b"no json", b"[" * 100_000, b"\xff"):
        answer = served.post(INVOKE, content=body)
        assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (
            400,
            "InvalidRequestContentException",
        ), body[:10]
    failed = {"silent": "Silent", "deep": "RecursionError", "object": "Runtime.MarshalError"}
    failed |= {"exit": "Runtime.ExitError", "large": "Function.ResponseSizeTooLarge"}
    for what, kind in failed.items():
        answer = served.post(INVOKE, json={"what": what})
        assert (answer.status_code, answer.json()["errorType"]) == (200, kind), what
        assert answer.headers["x-amz-function-error"] == "Unhandled", what
    for what in ("silent", "deep", "object", "status", "nan", "crlf", "base64"):
        answer = served.get(f"/{what}")
        assert answer.status_code in (500, 502), (what, answer.text)
        assert "evil" not in str(answer.headers)
    packed = gzip.compress(b"hello")
    answer = served.post("/gzip", content=packed, headers={"content-encoding": "gzip"}).json()
    assert answer == {"is": True, "body": base64.b64encode(packed).decode()}
    assert served.post(INVOKE, json={"what": "close"}).json() is None
    assert served.post(INVOKE, json={}).json() == "fine"


def test_openwhisk_meets_run_before_init_second_init_and_bad_code(serve):
    served = serve({"README.md": "no code"}, "--convention", "openwhisk", "--annotation", "init=true")
    code = "def main(args):\n    import sys\n    return sys.exit(1) if args else {}\n"
    value = {"name": "n", "main": "main", "code": code}

    assert served.post("/run", json={"value": {}}).status_code == 500
    for body in (b"", b"no json", b"[]", b"[" * 100_000, b'{"value": 5}', b'{"value": {"code": 5}}'):
        assert 400 <= served.post("/init", content=body).status_code < 600, body[:20]
    for broken in ({"code": "def"}, {"code": "%%%", "binary": True}, {"main": "nope"}, {"code": "1/0"}):
        assert 400 <= served.post("/init", json={"value": value | broken}).status_code < 600
    first = served.post("/init", json={"value": value})
    assert (first.status_code, first.json()) == (200, {"ok": True})
    second = served.post("/init", json={"value": value})
    assert second.status_code == 403
    assert second.json() == {"error": "Cannot initialize the action more than once."}
    for body in (b"no json", b"[" * 100_000, b"5"):
        assert 400 <= served.post("/run", content=body).status_code < 600
    assert served.post("/run", json={"value": {"exit": 1}}).status_code == 400


TWO_TRIGGERS = {
    "host.json": {"version": "2.0"},
    "hello/__init__.py": "def main(req, t):\n    return 'x'\n",
    "hello/function.json": {
        "bindings": [
            {"type": "httpTrigger", "direction": "in", "name": "req"},
            {"type": "timerTrigger", "direction": "in", "name": "t", "schedule": "0 * * * * *"},
        ]
    },
}
GCF = "import functions_framework\n@functions_framework.http\ndef f(request):\n    return 'x'\n"
REFUSED_SOURCES = {
    "two conventions": (
        {
            "main.py": GCF,
            "host.json": {},
            "function_app.py": "app = FunctionApp()\n",
            "func.yaml": "specVersion: 0.36.0\nruntime: python\n",
            "function/func.py": "def new():\n    pass\n",
        },
        (),
        r"2 conventions fit: .*\n.*--convention azure\|knative-func",
        2,
    ),
    "lambda handler that names nothing": (
        {"lambda_function.py": "def other(event, context):\n    pass\n"},
        ("--convention", "lambda", "--target", "lambda_function.handler"),
        "lambda_function.handler",
        2,
    ),
    "two triggers": (TWO_TRIGGERS, (), "(?i)trigger", 1),
    "gcf target that is no function": (
        {"main.py": GCF + "g = 5\n"},
        ("--convention", "gcf", "--target", "g"),
        "there is no function 'g'",
        2,
    ),
    "empty": ({".keep": ""}, (), "the source directory is empty", 2),
    "annotation without value": ({"main.py": GCF}, ("--annotation", "x"), "has no value", 2),
    "convention misspelt": ({"main.py": GCF}, ("--convention", "gfc"), "Known conventions: ", 2),
    "signature misspelt": ({"main.py": GCF}, ("--signature", "htp"), "Known signature types: ", 2),
    "negative concurrency": ({"main.py": GCF}, ("--annotation", "concurrency=-1"), "no whole number", 2),
    "negative limit": ({"main.py": GCF}, ("--annotation", "request-timeout=-1s"), "is negative", 2),
    "event that is missing": ({"main.py": GCF}, ("--event", "/nowhere"), "cannot be read", 2),
    "event of odd fields": (
        {"main.py": GCF, "e.json": {"component_type": 5, "data": 1}},
        ("--event", "FOLDER/e.json"),
        "component_type is 5",
        2,
    ),
}


@pytest.mark.parametrize("case", REFUSED_SOURCES)
def test_source_or_flag_that_cannot_be_meant_is_refused_with_the_way_out(serve, tmp_path, case):
    files, flags, said, code = REFUSED_SOURCES[case]

    served = serve(files, *(flag.replace("FOLDER", str(tmp_path / "function-0")) for flag in flags))

    served.wait_for(said)
    assert served.process.wait(20) == code


SILENT = """
class Silent(Exception):
    def __str__(self):
        raise ValueError("no text")
"""
RAISING = {
    "fission": (
        {"main.py": f"from flask import request\n{SILENT}def main():\n    raise Silent\n"},
        b"<!doctype",
    ),
    "kubeless": (
        {"main.py": f"{SILENT}def f(event, context):\n    event['data']\n    raise Silent\n"},
        b"Error: 500 Internal Server Error",
    ),
    "knative-func": (
        {
            "func.yaml": "specVersion: 0.36.0\nruntime: python\n",
            "function/func.py": f"{SILENT}async def handle(scope, receive, send):\n    raise Silent\n",
        },
        b"Error: ",
    ),
    "asgi": (
        {"main.py": f"{SILENT}async def app(scope, receive, send):\n    raise Silent\n"},
        b"Internal Server Error",
    ),
    "wsgi": (
        {"main.py": f"{SILENT}def app(environ, start_response):\n    raise Silent\n"},
        b"Internal Server Error",
    ),
    "openwhisk": (
        {"__main__.py": f"{SILENT}def main(args):\n    raise Silent\n"},
        b'{"error":',
    ),
}


@pytest.mark.parametrize("convention", RAISING)
def test_exception_without_a_text_gets_the_conventions_own_error(serve, convention):
    files, body = RAISING[convention]
    flags = ("--target", "main:app") if convention in ("asgi", "wsgi") else ()

    served = serve(files, "--convention", convention, *flags)
    answer = served.post("/run", json={"value": {}}) if convention == "openwhisk" else served.get("/x")

    assert answer.content.startswith(body)
    assert answer.status_code == (200 if convention == "openwhisk" else 500)
    assert served.wait_for("Silent: ")


def test_wsgi_application_that_breaks_the_rules_gets_an_error_and_no_half_answer(serve):
    served = serve({"main.py": RULES}, "--convention", "wsgi", "--target", "main:app")

    for path in ("text", "late", "twice", "never", "status", "crlf"):
        assert served.get(f"/{path}").status_code == 500, path
    assert served.get("/ok").text == "ok"


RULES = r"""
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/never":
        return [b"x"]
    if path == "/status":
        start_response("abc", [])
        return [b"x"]
    start_response("200 OK", [("x", "a\r\nb: c")] if path == "/crlf" else [])
    if path == "/twice":
        start_response("200 OK", [])
    if path == "/text":
        return "ok"
    if path == "/late":
        return (1 // 0 for _ in range(3))
    return [b"ok"]
"""
