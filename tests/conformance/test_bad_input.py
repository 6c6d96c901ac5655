"""Bad input and bad functions: each convention's own error, a worker that goes on, and nothing that hangs.

One served function answers many of these: what one case leaves behind is met by the next.
"""

import base64
import gzip
import json
import os
import socket
import threading
import time

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
    children = open(f"/proc/{pid}/task/{pid}/children").read().split()
    pids = [pid, *children]
    return sum(
        int(line.split()[1])
        for one in pids
        for line in open(f"/proc/{one}/status")
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
