"""Functions of Knative's templates behind `pelton run`, and beside func's own middleware."""

import json
import subprocess

import httpx
import pytest

MANIFEST = "specVersion: 0.36.0\nname: f\nruntime: python\ncreated: 2025-01-01T00:00:00Z\n"
HTTP = """
import logging

def new():
    return Function()

class Function:
    def start(self, cfg):
        self.path = cfg["PATH"]
        print("started", flush=True)

    def stop(self):
        print("stopped", flush=True)

    def alive(self):
        return True, "Alive"

    def ready(self):
        return False, "Not yet"

    async def handle(self, scope, receive, send):
        if scope["path"] == "/boom":
            raise ValueError("no way")
        assert self.path
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200,
                    "headers": [[b"content-type", b"text/plain"]]})
        await send({"type": "http.response.body", "body": b"%s %d" % (scope["method"].encode(), len(body))})
"""
EVENTS = """
from cloudevents.http import CloudEvent

def new():
    return Function()

class Function:
    async def handle(self, scope, receive, send):
        event = scope["event"]
        if event["type"] == "boom":
            raise ValueError("no way")
        answer = CloudEvent({"type": "answer", "source": "/f", "id": "a-1", "time": "2026-01-01T00:00:00Z"},
                            {"got": event.data, "from": event["source"]})
        await (send.binary(answer, 202) if event["type"] == "binary" else send(answer))
"""
PARLIAMENT = """
from flask import Request

def main(context):
    assert isinstance(context.request, Request)
    if 'request' in context.keys() and context.request.method == "POST":
        event = context.cloud_event
        return {"form": context.request.form.to_dict(), "event": event and event.data}
    return "hello", 202, {"x-a": "1"}
"""
EVENT = {"ce-id": "1", "ce-source": "/shop", "ce-type": "order", "ce-specversion": "1.0"}


def project(code, manifest=MANIFEST):
    return {
        "func.yaml": manifest,
        "function/__init__.py": "from .func import new\n",
        "function/func.py": code,
    }


def test_http_function_has_its_instance_and_hooks(serve):
    served = serve(project(HTTP), clients=True)

    assert served.post("/a", content=b"x" * 100_000).text == "POST 100000"
    served.wait_for("^started$")
    alive, ready = served.get("/health/liveness"), served.get("/health/readiness")
    assert (alive.status_code, alive.text) == (200, "Alive")
    assert (ready.status_code, ready.text) == (500, "Not yet")
    boom = served.get("/boom")
    assert (boom.status_code, boom.text, boom.headers["content-type"]) == (500, "Error: no way", "text/plain")
    served.wait_for("ValueError: no way")
    assert served.stop() == 0
    served.wait_for("^stopped$")


@pytest.fixture
def reference(clients_python, tmp_path):
    """Ask func-python's own middleware: (code, headers, body) -> (status, headers, body)."""

    def ask(code, headers, body):
        (tmp_path / "function.py").write_text(code)
        program = (
            "import asyncio, json, sys\n"
            "from func_python.cloudevent import ASGIApplication\n"
            "import function\n"
            "given = json.loads(sys.stdin.read())\n"
            "scope = {'type': 'http', 'method': 'POST', 'path': '/',\n"
            "         'headers': [(k.encode(), v.encode()) for k, v in given['headers'].items()]}\n"
            "sent = []\n"
            "async def receive(): return {'type': 'http.request', 'body': given['body'].encode()}\n"
            "async def send(message): sent.append(message)\n"
            "asyncio.run(ASGIApplication(function.new())(scope, receive, send))\n"
            "headers = {k.decode().lower(): v.decode() for k, v in sent[0]['headers']}\n"
            "print(json.dumps([sent[0]['status'], headers, sent[1]['body'].decode()]))\n"
        )
        done = subprocess.run(
            [clients_python, "-c", program],
            input=json.dumps({"headers": headers, "body": body}),
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])

    return ask


def test_event_function_answers_like_funcs_own_middleware(serve, reference):
    served = serve(project(EVENTS, MANIFEST + "invoke: cloudevent\n"), clients=True)
    structured = json.dumps(
        {"specversion": "1.0", "id": "1", "source": "/shop", "type": "order", "data": {"a": 1}}
    )
    asked = [
        ({**EVENT, "content-type": "application/json"}, '{"a": 1}'),
        ({"content-type": "application/cloudevents+json"}, structured),
        ({**EVENT, "ce-type": "binary", "content-type": "application/json"}, '{"a": [1, null]}'),
        ({**EVENT, "ce-type": "boom"}, ""),
        ({"content-type": "text/plain"}, "no event"),
    ]
    for headers, body in asked:
        status, expected_headers, expected = reference(EVENTS, headers, body)
        answer = served.post("/", headers=headers, content=body)

        assert answer.status_code == status
        if status == 400:
            continue
        kept = {name: value for name, value in answer.headers.items() if name.startswith("ce-")}
        theirs = {name: value for name, value in expected_headers.items() if name.startswith("ce-")}
        data, wanted = answer.json(), json.loads(expected)
        if status == 500:  # ids and times are made
            data, wanted = data["data"], wanted["data"]
        assert (data, kept) == (wanted, theirs)
    assert served.get("/health/readiness").text == "OK"


def test_older_template_gets_flasks_request(serve):
    served = serve({"func.yaml": MANIFEST, "func.py": PARLIAMENT}, clients=True)

    hello = served.get("/")
    assert (hello.status_code, hello.text, hello.headers["x-a"]) == (202, "hello", "1")
    assert served.post("/", data={"a": "1"}).json() == {"form": {"a": "1"}, "event": None}
    headers = {**EVENT, "content-type": "application/json"}
    assert served.post("/", content='{"b": 2}', headers=headers).json()["event"] == {"b": 2}
    assert httpx.get(served.url + "/health/liveness").text == "OK"
