"""Any trigger to any convention: every cell of the table in docs/reference/conventions.md.

Each function prints `SEEN` and what it was handed; the cell says what has to be in it. Requests go to `pelton
run`, events through `pelton run --event`, which calls the loaded function exactly as a worker does.
"""

import json
import os
import re
import subprocess
import sys
import textwrap

import pytest

from pelton.cli.tables import CONVENTIONS, resolve_convention

TRIGGERS = ("http", "cloudevent", "timer", "jetstream", "kafka")
"""Columns; the docs put the two kinds of records into one."""

_PLAIN = "com.dapr.event.sent"
PAYLOAD = {"order": 7}
CLOUDEVENT = {
    "specversion": "1.0",
    "id": "ce-1",
    "source": "/shop",
    "type": "order.made",
    "time": "2026-01-02T03:04:05Z",
    "datacontenttype": "application/json",
}
EVENTS = {
    "timer": {
        "kind": "binding",
        "component": "tick",
        "component_type": "bindings.cron",
        "data": "",
        "metadata": {"readTimeUTC": "2026-01-02 03:04:05 +0000 UTC", "timeZone": "Local"},
    },
    "jetstream": {
        "kind": "topic",
        "component": "bus",
        "component_type": "pubsub.jetstream",
        "topic": "orders",
        "data": PAYLOAD,
        "content_type": "application/json",
        "attributes": {
            "specversion": "1.0",
            "id": "m-1",
            "source": "default/bus",
            "type": "com.dapr.event.sent",
        },
        "metadata": {"Topic": "orders", "__offset": "11"},
    },
    "kafka": {
        "kind": "topic",
        "component": "stream",
        "component_type": "pubsub.kafka",
        "topic": "orders",
        "data": PAYLOAD,
        "content_type": "application/json",
        "attributes": {
            "specversion": "1.0",
            "id": "m-2",
            "source": "default/stream",
            "type": "com.dapr.event.sent",
        },
        "metadata": {
            "__topic": "orders",
            "__partition": "2",
            "__offset": "11",
            "__key": "k",
            "__timestamp": "1767323045000",
            "trace": "t",
        },
    },
}

GCF_EVENT = """
import functions_framework
@functions_framework.cloud_event
def f(event):
    print("SEEN", event["type"], event["source"], event.data, flush=True)
"""
HTTP_HEADERS = """
    h = {k.lower(): v for k, v in request.headers.items()}
    print("SEEN", request.method, h.get("ce-type"), h.get("ce-source"), request.get_data(), flush=True)
"""
GCF = "def f(request):" + HTTP_HEADERS + "    return 'ok'\n"
OPENFUNCTION = """
from functions_framework.context.user_context import UserContext
def f(context: UserContext):
    topic, binding = context.get_topic_event(), context.get_binding_request()
    if topic is not None:
        print("SEEN topic", topic.Subject(), topic.data, flush=True)
    elif binding is not None:
        print("SEEN binding", binding.metadata, flush=True)
    else:
        request = context.get_http_request()
        print("SEEN http", request.method, request.headers.get("ce-type"), request.get_data(), flush=True)
    return "ok"
"""
LAMBDA = """
import json
def lambda_handler(event, context):
    print("SEEN", json.dumps(event), context.aws_request_id, flush=True)
    return {"statusCode": 200, "body": "ok"}
"""
AZURE = """
import azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

@app.route(route="orders")
def web(req: func.HttpRequest) -> func.HttpResponse:
    print("SEEN http", req.method, req.get_body(), req.headers.get("ce-type"), flush=True)
    return func.HttpResponse("ok")

@app.timer_trigger(schedule="0 */5 * * * *", arg_name="timer")
def tick(timer: func.TimerRequest) -> None:
    print("SEEN timer", timer.past_due, flush=True)

@app.kafka_trigger(arg_name="record", topic="orders", broker_list="b", consumer_group="g")
def take(record: func.KafkaEvent) -> None:
    print("SEEN kafka", record.get_body(), record.metadata, flush=True)

@app.event_grid_trigger(arg_name="event")
def grid(event: func.EventGridEvent) -> None:
    print("SEEN grid", event.event_type, event.get_json(), flush=True)
"""
FISSION = (
    "from flask import request\ndef main():"
    + HTTP_HEADERS
    + "    print('FISSION', {k: v for k, v in request.headers.items() if 'Fission-' in k}, flush=True)\n"
    + "    return 'ok'\n"
)
OPENWHISK = """
def main(params):
    print("SEEN", params, flush=True)
    return {"ok": True}
"""
KUBELESS = """
def f(event, context):
    print("SEEN", event["data"], event["event-type"], event["event-namespace"], flush=True)
    return "ok"
"""
KNATIVE = """
def new():
    return Function()

class Function:
    async def handle(self, scope, receive, send):
        event = scope["event"]
        print("SEEN", event["type"], event["source"], event.data, flush=True)
"""
KNATIVE_HTTP = """
class Function:
    async def handle(self, scope, receive, send):
        message = await receive()
        headers = dict(scope["headers"])
        print("SEEN", scope["method"], headers.get(b"ce-type"), message["body"], flush=True)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

def new():
    return Function()
"""
ASGI = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("no lifespan")
    message = await receive()
    headers = dict(scope["headers"])
    print("SEEN", scope["method"], headers.get(b"ce-type"), message["body"], flush=True)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""
WSGI = """
def application(environ, start_response):
    body = environ["wsgi.input"].read()
    print("SEEN", environ["REQUEST_METHOD"], environ.get("HTTP_CE_TYPE"), body, flush=True)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
PROGRAM = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        print("SEEN", self.command, self.headers.get("ce-type"), body, flush=True)
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *arguments): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""

PLAIN_BODY = r".*b'\{\"order\": ?7\}'"
AS_REQUEST = {
    "http": rf"SEEN POST None{PLAIN_BODY}",
    "cloudevent": rf"SEEN POST (b')?order.made'?{PLAIN_BODY}",
    "timer": r"SEEN POST (b')?dev.pelton.binding.bindings.cron'? .*b''",
    "jetstream": rf"SEEN POST (b')?com.dapr.event.sent'?{PLAIN_BODY}",
    "kafka": rf"SEEN POST (b')?com.dapr.event.sent'?{PLAIN_BODY}",
}

CELLS: dict[str, tuple[dict[str, str], tuple[str, ...], dict[str, str]]] = {
    "gcf": ({"main.py": GCF}, (), AS_REQUEST),
    "gcf-cloudevent": (
        {"main.py": GCF_EVENT},
        (),
        {
            "cloudevent": r"SEEN order.made /shop \{'order': 7\}",
            "timer": r"SEEN dev.pelton.binding.bindings.cron tick None",
            "jetstream": r"SEEN com.dapr.event.sent default/bus \{'order': 7\}",
            "kafka": r"SEEN com.dapr.event.sent default/stream \{'order': 7\}",
        },
    ),
    "openfunction": (
        {"main.py": OPENFUNCTION},
        (),
        {
            "http": rf"SEEN http POST None{PLAIN_BODY}",
            "cloudevent": rf"SEEN http POST order.made{PLAIN_BODY}",
            "timer": r"SEEN binding \{.*readTimeUTC",
            "jetstream": rf"SEEN topic orders{PLAIN_BODY}",
            "kafka": rf"SEEN topic orders{PLAIN_BODY}",
        },
    ),
    "lambda": (
        {"lambda_function.py": LAMBDA},
        (),
        {
            "http": r'SEEN \{"version": "2.0".*"rawPath": "/orders".*"body": ".*order',
            "cloudevent": r'SEEN \{.*"detail-type": "order.made".*"detail": \{"order": 7\}',
            "timer": r'SEEN \{.*"detail-type": "Scheduled Event".*"source": "aws.events"',
            "jetstream": r'SEEN \{.*"eventSource": "aws:kafka".*"orders-0".*"offset": 11',
            "kafka": r'SEEN \{.*"eventSource": "aws:kafka".*"orders-2".*"offset": 11.*"key": "aw=="',
        },
    ),
    "azure": (
        {"function_app.py": AZURE, "host.json": '{"version": "2.0"}'},
        (),
        {
            "http": rf"SEEN http POST{PLAIN_BODY} None",
            "cloudevent": r"SEEN (http POST .*order.made|grid order.made \{'order': 7\})",
            "timer": r"SEEN timer False",
            "jetstream": r"SEEN kafka b'.*order.*7",
            "kafka": r"SEEN kafka b'.*order.*7",
        },
    ),
    "fission": (
        {"main.py": FISSION},
        (),
        {
            **AS_REQUEST,
            "timer": r"(?s)SEEN POST .* b''.*X-Fission-Timer-Name': 'tick'",
            "jetstream": rf"(?s)SEEN POST{PLAIN_BODY}.*X-Fission-Mqtrigger-Topic': 'orders'",
            "kafka": rf"(?s)SEEN POST{PLAIN_BODY}.*X-Fission-Mqtrigger-Topic': 'orders'",
        },
    ),
    "openwhisk": (
        {"__main__.py": OPENWHISK},
        (),
        {
            "http": r"SEEN \{.*'order': 7",
            "cloudevent": r"SEEN \{.*'order': 7",
            "timer": r"SEEN \{",
            "jetstream": r"SEEN \{'messages': \[\{.*'topic': 'orders'",
            "kafka": r"SEEN \{'messages': \[\{.*'partition': 2.*",
        },
    ),
    "kubeless": (
        {"shop.py": KUBELESS},
        (),
        {
            "http": r"SEEN \{'order': 7\} None None",
            "cloudevent": r"SEEN \{'order': 7\} order.made /shop",
            "timer": r"SEEN .* cronjobtriggers.kubeless.io",
            "jetstream": r"SEEN \{'order': 7\} application/json natstriggers.kubeless.io",
            "kafka": r"SEEN \{'order': 7\} application/json kafkatriggers.kubeless.io",
        },
    ),
    "knative-func": (
        {"func.yaml": "specVersion: 0.36.0\nname: f\nruntime: python\n", "function/func.py": KNATIVE_HTTP,
         "function/__init__.py": "from .func import new\n"},
        (),
        AS_REQUEST,
    ),
    "knative-func-cloudevent": (
        {"func.yaml": "specVersion: 0.36.0\nname: f\nruntime: python\ninvoke: cloudevent\n",
         "function/func.py": KNATIVE, "function/__init__.py": "from .func import new\n"},
        (),
        {
            "cloudevent": r"SEEN order.made /shop .*order.*7",
            "timer": r"SEEN dev.pelton.binding.bindings.cron tick",
            "jetstream": r"SEEN com.dapr.event.sent default/bus .*order.*7",
            "kafka": r"SEEN com.dapr.event.sent default/stream .*order.*7",
        },
    ),
    "asgi": ({"main.py": ASGI}, (), AS_REQUEST),
    "wsgi": ({"main.py": WSGI}, (), AS_REQUEST),
    "process": ({"program.py": PROGRAM}, ("--command", f"{sys.executable} program.py"), AS_REQUEST),
}  # fmt: skip
NEEDS_CLIENTS = {"azure", "fission"}


def test_every_convention_is_in_the_matrix_and_its_facts_name_every_form():
    assert {name for name in CELLS if not name.endswith("-cloudevent")} == set(CONVENTIONS)
    for name in CONVENTIONS:
        forms = resolve_convention(name).FACTS.forms
        assert set(forms) == {"http", "cloudevent", "timer", "record"} and all(forms.values()), name


@pytest.mark.parametrize("name", CELLS)
def test_requests_reach_the_code_in_its_own_form(serve, name):
    files, flags, cells = CELLS[name]
    served = serve(files, *flags, clients=name in NEEDS_CLIENTS)
    path = "/api/orders" if name == "azure" else "/orders"
    body = json.dumps(PAYLOAD).encode()

    if "http" in cells:
        answer = served.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 200, served.output
        served.wait_for(cells["http"])
    headers = {f"ce-{key}": value for key, value in CLOUDEVENT.items() if key != "datacontenttype"}
    answer = served.post(path, content=body, headers={**headers, "content-type": "application/json"})
    assert answer.status_code < 300, served.output
    served.wait_for(cells["cloudevent"])


@pytest.mark.parametrize("trigger", ["timer", "jetstream", "kafka"])
@pytest.mark.parametrize("name", CELLS)
def test_events_reach_the_code_in_its_own_form(tmp_path, clients_home, name, trigger):
    files, flags, cells = CELLS[name]
    for file, text in files.items():
        path = tmp_path / "function" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    if name in NEEDS_CLIENTS:
        from pathlib import Path

        clients = Path(__file__).with_name("clients.txt")
        (tmp_path / "function" / "requirements.txt").write_text(clients.read_text())
    (tmp_path / "event.json").write_text(json.dumps(EVENTS[trigger]))

    done = subprocess.run(
        [sys.executable, "-m", "pelton.cli.main", "run", tmp_path / "function", *flags,
         "--event", tmp_path / "event.json"],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "PELTON_HOME": str(clients_home)},
    )  # fmt: skip

    shown = done.stdout + done.stderr
    assert done.returncode == 0, shown
    assert re.search(cells[trigger], shown), shown
