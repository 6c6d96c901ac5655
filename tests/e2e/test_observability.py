"""What the platform tells about itself: `/metrics`, traces, `pelton trace`, `pelton status --watch`."""

import json
import re
import ssl
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pelton.cli.home import Home

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def hello(shared):
    shared.cli("init", "counted")
    shared.cli("deploy", "counted")
    shared.cli("invoke", "counted")
    return "counted"


def scrape(platform, token=""):
    request = urllib.request.Request(f"{platform.endpoints['api']}/metrics")
    request.add_header("Authorization", f"Bearer {token or Home(platform.home).secrets()['token']}")
    context = ssl.create_default_context(cafile=platform.endpoints["ca"])
    with urllib.request.urlopen(request, context=context, timeout=10) as answer:
        return answer.headers["content-type"], answer.read().decode()


def test_metrics_count_a_request_in_gateway_and_function(shared, hello):
    media, text = scrape(shared)

    assert media.startswith("text/plain; version=0.0.4")
    of = 'function="counted",namespace="default"'
    assert re.search(rf"^pelton_function_invocations_total{{{of}}} 1.0$", text, re.MULTILINE)
    assert re.search(rf"^pelton_function_cold_starts_total{{{of}}} 1.0$", text, re.MULTILINE)
    assert re.search(rf'^pelton_gateway_requests_total{{{of},revision=""}} 1.0$', text, re.MULTILINE)
    for part in ("up", "nats", "zygote", "node", "envoy", "runtime"):
        assert f'pelton_part_up{{part="{part}"}} 1.0' in text
        assert re.search(rf'^pelton_part_resident_memory_bytes{{part="{part}"}} [1-9]', text, re.MULTILINE)


def test_metrics_are_not_for_strangers(shared, hello):
    with pytest.raises(urllib.error.HTTPError, match="401"):
        scrape(shared, token="wrong")


# -- traces --------------------------------------------------------------------------------------------------

CHAIN = """
from functions_framework.context.user_context import UserContext

def main(context: UserContext):
    context.send("next", "x")
"""
LAST = """
from functions_framework.context.user_context import UserContext

def main(context: UserContext):
    print("seen")
"""


def traced(platform, url, *words):
    return json.loads(platform.cli("trace", url, "-o", "json", *words).out)


def by_name(report):
    return {hop["name"]: hop for hop in report["hops"]}


def test_trace_shows_every_hop_of_a_cold_and_of_a_warm_request(shared):
    shared.cli("init", "seen")
    shared.cli("deploy", "seen")

    cold = traced(shared, "http://seen.default.localhost/")
    warm = traced(shared, "/default/seen")

    assert (cold["status"], warm["status"]) == (200, 200)
    hops = by_name(cold)
    assert "this platform's envoy" in hops["listener"]["says"]
    assert hops["route"]["says"].startswith("Function default/seen")
    assert hops["split"]["says"] == "100 % default/seen"
    assert hops["priority"]["says"].startswith("1, the activator")
    assert "held by" in hops["socket"]["says"]
    assert re.search(r"cold; forked in [\d.]+ ms; .*ready after", hops["instance"]["says"])
    assert hops["function"]["says"].startswith("default/seen answered 200")
    timed = [hops[name]["ms"] for name in ("gateway", "priority", "function")]
    assert all(ms is not None and ms >= 0 for ms in timed)
    assert sum(timed) <= cold["timings_ms"]["total"] * 1.5
    names = [span["name"] for span in cold["spans"]]
    assert sorted(names) == ["activate default/seen", "invoke default/seen"]
    activate, invoke = (next(s for s in cold["spans"] if s["name"].startswith(n)) for n in ("act", "inv"))
    assert invoke["parent_id"] == activate["span_id"]
    assert by_name(warm)["priority"]["says"].startswith("0, an instance that was ready")
    assert by_name(warm)["instance"]["says"].endswith(": warm")


def test_trace_of_what_nobody_answers_says_where_it_ended(shared):
    shared.cli("init", "known")
    shared.cli("deploy", "known")
    nobody = by_name(traced(shared, "http://nobody.localhost/"))
    assert nobody["route"]["says"].startswith("no rule fits")
    assert any("default/known" in line for line in nobody["route"]["details"])
    refused = shared.cli("trace", "http://127.0.0.1:1/", code=None)
    assert refused.code != 0
    assert "Connection refused" in refused.err


def test_event_carries_its_trace_from_function_to_function_and_all_goes_to_a_collector(platform):
    received, of_gateway = [], []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            if "content-length" in self.headers:
                body = self.rfile.read(int(self.headers["content-length"]))
            else:
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            if self.headers["content-type"] == "application/json":
                received.append(json.loads(body))
            else:
                of_gateway.append(body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    # Envoy posts Protobuf to the same address; what it sends is looked at below by its bytes.
    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    platform.stop()
    platform.start("--otlp-endpoint", f"http://127.0.0.1:{collector.server_port}")
    try:
        for name, code in (("first", CHAIN), ("last", LAST)):
            folder = platform.root / name
            folder.mkdir()
            (folder / "main.py").write_text(code)
        platform.cli("deploy", platform.root / "last", "--trigger", "topic=two")
        platform.cli("deploy", platform.root / "first", "--trigger", "topic=one", "--dry-run")
        manifest = platform.root / "first.yaml"
        manifest.write_text(FIRST.format(source=platform.root / "first"))
        platform.cli("apply", "-f", manifest, "--wait")
        platform.cli("topic", "publish", "one", "-d", '{"a": 1}')

        wanted = {
            "deliver default.first.in.one",
            "invoke default/first",
            "output next",
            "invoke default/last",
        }

        def spans():
            return [
                span
                for body in received
                for resource in body["resourceSpans"]
                for scope in resource["scopeSpans"]
                for span in scope["spans"]
            ]

        platform.until("spans", lambda: wanted <= {span["name"] for span in spans()}, timeout_s=20)
        found = {span["name"]: span for span in spans()}
        assert len({span["traceId"] for span in found.values()}) == 1
        assert (
            found["invoke default/first"]["parentSpanId"] == found["deliver default.first.in.one"]["spanId"]
        )
        assert found["output next"]["parentSpanId"] == found["invoke default/first"]["spanId"]

        platform.cli("init", "asked")
        platform.cli("deploy", "asked")
        platform.cli("invoke", "asked")
        platform.until("the gateway's span", lambda: of_gateway, timeout_s=20)

        def invoked():
            return [span for span in spans() if span["name"] == "invoke default/asked"]

        platform.until("the function's span", invoked, timeout_s=20)
        trace_id = bytes.fromhex(invoked()[0]["traceId"])
        platform.until("one trace", lambda: any(trace_id in body for body in of_gateway), timeout_s=20)
    finally:
        collector.shutdown()
        collector.server_close()


FIRST = """
apiVersion: core.openfunction.io/v1beta2
kind: Function
metadata: {{name: first}}
spec:
  image: first
  build: {{builder: local, srcRepo: {{url: "file://{source}"}}}}
  serving:
    triggers:
      dapr: [{{name: in, type: pubsub.jetstream, topic: one}}]
    outputs:
      - dapr: {{name: next, type: pubsub.jetstream, topic: two}}
    pubsub:
      in: {{type: pubsub.jetstream, version: v1, metadata: []}}
      next: {{type: pubsub.jetstream, version: v1, metadata: []}}
"""


def test_status_watch_prints_a_block_when_something_changed(shared, hello):
    watching = shared.start_cli("status", "--watch", "--interval", "0.2")
    try:
        lines = iter(watching.stdout.readline, "")
        assert any("PER SECOND" in line for line in lines)
        shared.cli("init", "later")
        shared.cli("deploy", "later")
        assert any("later" in line for line in lines)
    finally:
        watching.kill()
        watching.communicate()
