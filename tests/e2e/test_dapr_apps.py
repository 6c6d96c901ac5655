"""Apps on Dapr's unmodified Python SDK on the platform: over HTTP and over gRPC, both at zero."""

import asyncio
import json
import os
import queue
import signal
import socket
import sys
import textwrap
import threading

import httpx
import pytest

from pelton.cli.home import Home
from pelton.clock import SystemClock
from pelton.drivers.ledger import SqliteLedger
from pelton.ports import Message

pytestmark = [pytest.mark.connected, pytest.mark.timeout(180)]

HTTP_APP = """
    import os

    import httpx
    import uvicorn
    from dapr.clients import DaprClient
    from dapr.ext.fastapi import DaprApp
    from fastapi import FastAPI, Request

    app = FastAPI()
    events = DaprApp(app)

    def publish(topic, data, traceparent):
        with DaprClient() as client:
            client.publish_event("bus", topic, data, publish_metadata={"cloudevent.traceparent": traceparent})

    @events.subscribe(pubsub="bus", topic="orders", route="/on-order")
    async def on_order(request: Request):
        event = await request.json()
        print("ORDER", event["data"], event["source"], flush=True)
        publish("greetings", "from " + event["data"]["name"], request.headers.get("traceparent", ""))

    @app.post("/start")
    async def start(request: Request):
        publish("greetings", "traced", request.headers.get("traceparent", ""))

    @app.put("/echo")
    async def echo(request: Request):
        body, caller = (await request.body()).decode(), request.headers["dapr-caller-app-id"]
        return {"body": body, "by": caller, "for": request.headers["forwarded"]}

    @app.get("/call/{app}/{token}")
    def call(app: str, token: str):
        address = f"http://127.0.0.1:{os.environ['DAPR_HTTP_PORT']}/v1.0/invoke/{app}/method/echo"
        shown = os.environ["DAPR_API_TOKEN"] if token == "own" else token
        answer = httpx.put(address, content=b"me", headers={"dapr-api-token": shown})
        return {"status": answer.status_code, "text": answer.text}

    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["APP_PORT"]), log_level="warning")
"""
GRPC_APP = """
    import os

    from dapr.ext.grpc import App, InvokeMethodRequest, InvokeMethodResponse

    app = App()

    @app.subscribe(pubsub_name="bus", topic="greetings")
    def greetings(event):
        print("GREETING", event.Data().decode(), flush=True)

    @app.method(name="echo")
    def echo(request: InvokeMethodRequest):
        caller = dict(request.get_metadata())["dapr-caller-app-id"]
        return InvokeMethodResponse(request.data + b" by " + caller.encode(), "text/plain")

    app.run(int(os.environ["APP_PORT"]), "127.0.0.1")
"""
CLIENT = """
    from dapr.clients import DaprClient

    with DaprClient() as client:
        client.publish_event("bus", "orders", '{"name": "client"}', data_content_type="application/json")
        answer = client.invoke_method("web", "echo", data=b"hi", http_verb="PUT")
        print("HTTP", answer.status_code, answer.text(), flush=True)
        answer = client.invoke_method("rpc", "echo", data=b"hi", http_verb="POST")
        print("GRPC", answer.text(), flush=True)
"""
BUS = {
    "apiVersion": "dapr.io/v1alpha1",
    "kind": "Component",
    "metadata": {"name": "bus"},
    "spec": {"type": "pubsub.jetstream", "version": "v1"},
}


@pytest.fixture(scope="module")
def apps(shared):
    """`web` speaks HTTP, `rpc` speaks gRPC; both have said what they want and are at zero."""
    notes = {"pelton.dev/command": f"{sys.executable} main.py", "dapr.io/enabled": "true"}
    (shared.root / "bus.json").write_text(json.dumps(BUS))
    shared.cli("apply", "-f", "bus.json")
    shared.write("web", HTTP_APP, annotations=notes)
    shared.write("rpc", GRPC_APP, annotations={**notes, "dapr.io/app-protocol": "grpc"})
    shared.cli("apply", "-f", "web", "-f", "rpc", "--wait")

    def learned():
        try:
            return set(json.loads((shared.home / "dapr-apps.json").read_text())) == {
                "default/web",
                "default/rpc",
            }
        except (OSError, ValueError):
            return False

    shared.until("both apps have said what they want", learned, timeout_s=60)
    for name in ("web", "rpc"):
        shared.until_at_zero(name)
    return shared


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


async def leave_a_retry(folder):
    """Do as a run without a platform that was killed."""
    async with SqliteLedger(folder, clock=SystemClock()) as ledger:
        await ledger.publish(Message(topic="pelton.retry.orders", data=b"x"))


def test_event_wakes_one_app_whose_event_wakes_the_other_and_trace_shows_the_hops(apps):
    (apps.root / "client.py").write_text(textwrap.dedent(CLIENT))
    asyncio.run(leave_a_retry(Home(apps.home).dapr_ledger("default", "client")))
    ended = apps.cli("dapr", "run", "--app-id", "client", "--", sys.executable, apps.root / "client.py")

    assert '== APP == HTTP 200 {"body":"hi","by":"client","for":"for=127.0.0.1;' in ended.out
    assert "== APP == GRPC hi by client" in ended.out
    assert "1 retries and 0 dead letters of runs without a platform stay in" in ended.err
    apps.until("the order has come", lambda: "ORDER {'name': 'client'} client" in apps.logs("web"))
    apps.until("the greeting has come", lambda: "GREETING from client" in apps.logs("rpc"))

    apps.until_at_zero("rpc")
    traced = json.loads(apps.cli("trace", "-X", "POST", "-o", "json", "/default/web/start").out)
    hops = {hop["name"]: hop for hop in traced["hops"]}

    assert (
        "greetings" in hops["publish"]["says"] and "default.rpc.dapr.bus.greetings" in hops["deliver"]["says"]
    )
    assert hops["publish"]["ms"] > 0 and hops["deliver"]["ms"] > 0
    assert "GREETING traced" in apps.logs("rpc") or apps.until(
        "it was printed", lambda: "GREETING traced" in apps.logs("rpc")
    )


STORE = {
    "apiVersion": "dapr.io/v1alpha1",
    "kind": "Component",
    "metadata": {"name": "store"},
    "spec": {
        "type": "state.in-memory",
        "version": "v1",
        "metadata": [{"name": "keyPrefix", "secretKeyRef": {"name": "prefixes", "key": "store"}}],
    },
}
PREFIXES = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "prefixes"},
    "stringData": {"store": "shared"},
}
SAVER = """
    import sys
    import time

    from dapr.clients import DaprClient

    with DaprClient() as client:
        if sys.argv[1] == "save":
            client.save_state("store", "k", "v")
        print("STATE", client.get_state("store", "k").data, flush=True)
        known = client.get_metadata().registered_components
        print("COMPONENTS", sorted(each.name for each in known), flush=True)
        client.shutdown()
    time.sleep(100)
"""


def test_apps_share_a_store_by_its_settings_and_end_by_the_api(apps):
    for name, obj in (("prefixes", PREFIXES), ("store", STORE)):
        (apps.root / f"{name}.json").write_text(json.dumps(obj))
    (apps.root / "saver.py").write_text(textwrap.dedent(SAVER))

    def run(app_id, what):
        program = (sys.executable, apps.root / "saver.py", what)
        return apps.cli("dapr", "run", "--app-id", app_id, "--", *program).out

    apps.cli("apply", "-f", "prefixes.json", "-f", "store.json")
    apps.until("the runtime has the store", lambda: "STATE b'v'" in run("one", "save"))
    other = run("two", "read")

    assert "== APP == STATE b'v'" in other
    assert "== APP == COMPONENTS ['bus', 'store']" in other
    assert "Shutdown requested via API" in other


TOOL = """
    import json
    import os
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class App(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        failed = False

        def do_PUT(self):
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            App.failed = self.path == "/flaky" and not App.failed
            answer = json.dumps({"body": body, "by": self.headers["dapr-caller-app-id"]}).encode()
            self.send_response(500 if App.failed else 200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["APP_PORT"])), App)
    print("LISTENING", flush=True)
    server.serve_forever()
"""
RETRIES = {
    "apiVersion": "dapr.io/v1alpha1",
    "kind": "Resiliency",
    "metadata": {"name": "retries"},
    "spec": {
        "policies": {"retries": {"once": {"policy": "constant", "duration": "1ms", "maxRetries": 1}}},
        "targets": {"apps": {"tool": {"retry": "once"}}},
    },
}


def test_calls_over_http_pass_the_runtime_by_unless_it_has_to_judge_them(apps):
    (apps.root / "tool.py").write_text(textwrap.dedent(TOOL))
    (apps.root / "retries.json").write_text(json.dumps(RETRIES))
    port, listens = free_port(), free_port()
    words = ("--app-id", "tool", "--app-port", listens, "--dapr-http-port", port)
    tool = apps.start_cli("dapr", "run", *words, "--", sys.executable, "tool.py")

    def call(path):
        return httpx.put(f"http://127.0.0.1:{port}/v1.0/invoke/{path}", content=b"it", timeout=10)

    try:
        while "LISTENING" not in tool.stdout.readline():
            pass
        assert apps.request("web", "/call/web/own").json()["status"] == 200  # it runs from now on
        runtime = apps.part("runtime")["pid"]
        os.kill(runtime, signal.SIGSTOP)
        try:
            between = [apps.request("web", f"/call/{app}/own").json() for app in ("web", "tool")]
            answers = [call(f"{app}/method/echo") for app in ("web", "tool")]
        finally:
            os.kill(runtime, signal.SIGCONT)

        assert [each["status"] for each in between] == [200, 200]
        assert [json.loads(each["text"])["by"] for each in between] == ["web", "web"]
        assert [(each.status_code, each.json()["by"]) for each in answers] == [(200, "tool"), (200, "tool")]
        assert apps.request("web", "/call/tool/forged").json() == {"status": 401, "text": "invalid api token"}
        assert [call("tool/method/flaky").status_code for _ in range(4)] == [500, 200, 500, 200]

        apps.cli("apply", "-f", "retries.json")
        apps.until(
            "calls are repeated",
            lambda: {call("tool/method/flaky").status_code for _ in range(4)} == {200},
        )
        apps.cli("delete", "-f", "retries.json")
    finally:
        tool.kill()
        tool.wait(30)
        for pipe in (tool.stdin, tool.stdout, tool.stderr):
            pipe.close()

    def closed():
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) != 0

    apps.until("its port is closed", closed)
    gone = apps.request("web", "/call/tool/own").json()
    assert (gone["status"], json.loads(gone["text"])["errorCode"]) == (500, "ERR_DIRECT_INVOKE")


WATCHER = """
    import json
    import os
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class App(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, body):
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.answer(json.dumps([{"pubsubname": "bus", "topic": "greetings", "route": "/seen"}]).encode())

        def do_POST(self):
            event = json.loads(self.rfile.read(int(self.headers["content-length"])))
            print("SEEN", event["data"], "of", event["source"], flush=True)
            self.answer(b"")

        def log_message(self, *_args):
            pass

    print("WATCHING", flush=True)
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["APP_PORT"])), App).serve_forever()
"""
FUNCTION = """
    from functions_framework.context.user_context import UserContext

    def main(context: UserContext):
        print("FUNCTION got", context.get_topic_event().Data(), flush=True)
        context.send("bus", "from a function")
"""
ASKER = """
    from dapr.clients import DaprClient

    with DaprClient() as client:
        client.publish_event("bus", "questions", "from an app")
"""


def test_functions_and_apps_share_topics_and_a_runtime_that_is_killed_is_joined_again(apps):
    for name, code in (("watcher", WATCHER), ("asker", ASKER)):
        (apps.root / f"{name}.py").write_text(textwrap.dedent(code))
    apps.apply(
        "fn",
        FUNCTION,
        serving={
            "triggers": {"dapr": [{"name": "bus", "topic": "questions"}]},
            "outputs": [{"dapr": {"name": "bus", "topic": "greetings"}}],
        },
    )
    port = free_port()
    watcher = apps.start_cli(
        "dapr", "run", "--app-id", "watcher", "--app-port", port, "--", sys.executable, "watcher.py"
    )
    lines: queue.Queue[str] = queue.Queue()

    def read():
        for line in watcher.stdout:
            lines.put(line)

    reading = threading.Thread(target=read)
    reading.start()

    def until(text):
        seen = []
        while text not in (line := lines.get(timeout=40)):
            seen.append(line)
        return line

    try:
        until("WATCHING")
        killed = apps.part("runtime")["pid"]
        os.kill(killed, signal.SIGKILL)
        apps.until("another runtime", lambda: apps.part("runtime")["pid"] not in (0, killed))
        apps.until(
            "it serves", lambda: not apps.cli("dapr", "run", "--app-id", "x", "--", "true", code=None).code
        )
        apps.cli("dapr", "run", "--app-id", "asker", "--", sys.executable, "asker.py")

        assert "of default/fn" in until("SEEN from a function")
        apps.until("the function's line", lambda: "FUNCTION got" in apps.logs("fn"))
    finally:
        watcher.send_signal(signal.SIGTERM)
        assert watcher.wait(20) == 0
        reading.join(30)
        for pipe in (watcher.stdin, watcher.stdout, watcher.stderr):
            pipe.close()
