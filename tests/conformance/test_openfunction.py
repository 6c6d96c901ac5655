"""OpenFunction functions under `pelton run`: state, both triggers, traces, and no context at all."""

import asyncio
import http.server
import json
import threading

import pytest

from tests.contract.nats_server import NatsServer

HEAD = "from functions_framework.context.user_context import UserContext\n"


def context(**more):
    return {"FUNC_CONTEXT": json.dumps({"name": "f", "port": "0", "triggers": {"http": {"port": 0}}, **more})}


@pytest.fixture
def sink():
    """An HTTP server that keeps (path, headers, body) of what it gets."""
    found = []
    changed = threading.Condition()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()
            with changed:
                found.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                changed.notify_all()

        def log_message(self, *arguments):
            pass

    def wait_for(path):
        with changed:
            assert changed.wait_for(lambda: any(item[0] == path for item in found), 20), found
            return next(item for item in found if item[0] == path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", wait_for
    server.shutdown()
    server.server_close()
    thread.join()


STATE = (
    HEAD
    + """
import json
from pelton.errors import ConflictError

def f(context: UserContext):
    state = context.state
    path = context.get_http_request().path
    if path == "/count":
        count = (state.get("count") or 0) + 1
        state.save({"key": "count", "value": count})
        return str(count)
    if path == "/conflict":
        state.save({"key": "doc", "value": {"n": 1}})
        etag = state.get_bulk(["doc"])[0]["etag"]
        state.save({"key": "doc", "value": {"n": 2}, "etag": etag})
        try:
            state.save({"key": "doc", "value": {"n": 3}, "etag": etag})
        except ConflictError as exc:
            return f"conflict {state.get('doc')['n']} {exc.message.split(':')[0]}"
    if path == "/all":
        state.transaction([
            {"operation": "upsert", "request": {"key": "a", "value": {"city": "Rome"}}},
            {"operation": "upsert", "request": {"key": "b", "value": {"city": "Oslo"}}},
            {"operation": "delete", "request": {"key": "doc"}},
        ])
        found = state.query({"filter": {"EQ": {"city": "Rome"}}})["results"]
        return json.dumps([item["key"] for item in found] + [state.get("doc")])
    state.save({"key": "a", "value": b"raw"}, "memory")
    return str([state.get("a", "memory"), state.get("none", "memory")])
"""
)
STATES = {
    "db": {"componentName": "db", "componentType": "state.redis"},
    "memory": {"componentName": "memory", "componentType": "state.in-memory"},
}


def test_state_is_kept_in_the_home_over_restarts(serve, tmp_path):
    env = context(states=STATES) | {"PELTON_HOME": str(tmp_path / "home")}
    first = serve({"main.py": STATE}, env=env)

    assert [first.get("/count").text for _ in range(2)] == ["1", "2"]
    assert first.get("/conflict").text.startswith("conflict 2 key 'doc' is not at etag ")
    assert first.get("/all").json() == ["a", None]
    assert first.get("/other").text == "[b'raw', None]"
    first.wait_for(rf"^state db is kept in {tmp_path}/home/states/run/f-db\.db$")
    first.stop()

    second = serve({"main.py": STATE}, env=env)
    assert second.get("/count").text == "3"


ASYNC = (
    HEAD
    + """
async def f(context: UserContext):
    request = context.get_http_request()
    if request is None:
        ticks = await context.state.get("ticks") or 0
        await context.state.save({"key": "ticks", "value": ticks + 1})
        print("tick", bool(context.get_binding_request().metadata["readTimeUTC"]), flush=True)
        return
    return str(await context.state.get("ticks"))
"""
)


def test_http_and_cron_triggers_drive_one_function(serve, tmp_path):
    triggers = {
        "http": {"port": 0},
        "dapr": [
            {"name": "clock", "type": "bindings.cron", "metadata": {"schedule": "@every 1s"}},
            {"name": "orders", "type": "pubsub.kafka", "topic": "orders"},
        ],
    }
    states = {"memory": STATES["memory"]}

    running = serve({"main.py": ASYNC}, env=context(triggers=triggers, states=states))

    running.wait_for(r"^trigger orders: does not fire here: pubsub\.kafka needs the platform")
    running.wait_for(r"^tick True$")
    assert int(running.get().text) >= 1


@pytest.mark.connected
def test_topic_of_a_nats_server_drives_the_function_and_takes_its_outputs(serve, tmp_path):
    server = NatsServer(tmp_path)
    asyncio.run(server.start())
    source = HEAD + (
        "def f(context: UserContext):\n"
        "    event = context.get_topic_event()\n"
        "    print('got', event.Data().decode(), flush=True)\n"
        "    if context.runtime_context.outputs:\n"
        "        print('sent', context.send('out', event.Data()).metadata['id'] != '', flush=True)\n"
    )
    url = f'nats://pelton:se"cret@127.0.0.1:{server.port}'
    bus = {"componentName": "bus", "componentType": "pubsub.jetstream", "metadata": {"natsURL": url}}
    env = context(
        runtime="Async",
        triggers={"dapr": [{"name": "bus", "topic": "orders", "inputName": "in"}]},
        inputs={"in": bus},
        outputs={"out": bus | {"topic": "results"}},
    )

    async def publish(topic):
        from pelton.ports import Message

        async with server.bus() as own:
            await own.publish(Message(topic=topic, data=b"42"))

    try:
        asyncio.run(publish("orders"))
        asyncio.run(publish("results"))  # makes its stream
        running = serve({"main.py": source}, env=env)
        running.wait_for(r"^got 42$")
        running.wait_for(r"^sent True$")
        running.stop()
    finally:
        server.kill()


def test_trace_goes_on_to_outputs_and_to_the_collector(serve, sink):
    url, wait_for = sink
    trace = "0af7651916cd43dd8448eb211c80319c"
    tracing = {
        "enabled": True,
        "provider": {"name": "opentelemetry", "exporter": {"name": "otlp", "endpoint": url}},
        "tags": {"layer": "faas"},
    }
    outputs = {
        "hook": {
            "componentName": "hook",
            "componentType": "bindings.http",
            "operation": "post",
            "metadata": {"url": f"{url}/hook"},
        }
    }
    source = HEAD + "def f(context: UserContext):\n    context.send('hook', 'x')\n    return 'ok'\n"
    running = serve({"main.py": source}, env=context(tracing=tracing, outputs=outputs))

    assert running.get(headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"}).text == "ok"

    _, headers, _ = wait_for("/hook")
    _, parent, span, _ = headers["traceparent"].split("-")
    assert parent == trace
    _, _, body = wait_for("/v1/traces")
    entry, out = json.loads(body)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert (entry["traceId"], entry["parentSpanId"]) == (trace, "b7ad6b7169203331")
    assert (out["spanId"], out["parentSpanId"]) == (span, entry["spanId"])
    tags = {item["key"]: item["value"]["stringValue"] for item in entry["attributes"]}
    assert {"func": "f", "namespace": "default", "layer": "faas"}.items() <= tags.items()


def test_collector_that_is_away_fails_and_delays_nothing(serve):
    provider = {"name": "skywalking", "oapServer": "http://127.0.0.1:1"}
    source = HEAD + "def f(context: UserContext):\n    return 'ok'\n"
    running = serve({"main.py": source}, env=context(tracing={"enabled": True, "provider": provider}))

    assert [running.get().text for _ in range(3)] == ["ok"] * 3
    running.wait_for(r"traces were lost \(\d so far\): http://127\.0\.0\.1:1/v3/segments")
    assert running.get().text == "ok"


def test_function_without_a_context_serves_requests_and_cloudevents(serve):
    source = HEAD + (
        "def f(context: UserContext):\n"
        "    request = context.get_http_request()\n"
        "    if request.path == '/dapr':\n"
        "        try:\n"
        "            return context.dapr_client\n"
        "        except RuntimeError as exc:\n"
        "            return str(exc)\n"
        "    if request.path == '/state':\n"
        "        try:\n"
        "            return context.state.get('a')\n"
        "        except Exception as exc:\n"
        "            return str(exc)\n"
        "    if request.path == '/send':\n"
        "        return context.send('nowhere', 'x')\n"
        "    return request.headers.get('ce-type', 'plain') + ' ' + request.get_data(as_text=True)\n"
    )
    running = serve({"main.py": source})

    event = {"ce-id": "1", "ce-type": "t", "ce-source": "s", "ce-specversion": "1.0"}
    assert running.post(headers=event, content=b"data").text == "t data"
    assert running.get().text == "plain "
    assert "Pelton's own Dapr API comes with a later version" in running.get("/dapr").text
    assert running.get("/state").text.startswith("this function has no state")
    assert running.get("/send").text == "An error occurred: No outputs found."


@pytest.mark.parametrize(
    "definition",
    ["def f(ctx: UserContext): ...", "def f(context: UserContext, more=1): ...", "def f(context): ..."],
)
def test_other_signatures_are_refused_with_the_one_that_works(serve, definition):
    running = serve({"main.py": HEAD + definition + "\n"}, "--convention", "openfunction", "--target", "f")

    running.wait_for(r"is not an OpenFunction function")
    running.wait_for(r"def f\(context: UserContext\)")
    assert running.process.wait(20) != 0
