"""Kubeless' Python runtime: two dicts, the request, metrics, timeouts."""

HANDLER = """
import time

def handler(event, context):
    if event["data"] == b"slow":
        time.sleep(30)
    if event["data"] == {"fail": True}:
        raise ValueError("no")
    request = event["extensions"]["request"]
    return {
        "data": repr(event["data"]), "id": event["event-id"], "type": event["event-type"],
        "time": event["event-time"], "namespace": event["event-namespace"],
        "context": {key: str(value) for key, value in context.items()},
        "method": request.method, "query": request.query.get("q"), "agent": request.get_header("User-Agent"),
        "json": request.json,
    }
"""


def test_event_and_context_are_those_of_the_runtime(serve):
    served = serve({"hello.py": HANDLER}, "--annotation", "request-timeout=0.5", "--convention", "kubeless")

    found = served.post(
        "/?q=7",
        json={"a": 1},
        headers={
            "event-id": "e1",
            "event-type": "t",
            "event-time": "now",
            "event-namespace": "ns",
            "user-agent": "test",
        },
    ).json()
    assert found["data"] == "{'a': 1}"
    assert (found["id"], found["type"], found["time"], found["namespace"]) == ("e1", "t", "now", "ns")
    assert set(found["context"]) == {"function-name", "timeout", "runtime", "memory-limit"}
    assert (found["method"], found["query"], found["agent"], found["json"]) == ("POST", "7", "test", {"a": 1})
    plain = served.post(
        "/", content=b"{}", headers={"content-type": "application/json; charset=utf-8"}
    ).json()
    assert plain["data"] == "b'{}'" and plain["id"] is None
    bad = served.post("/", content=b"{", headers={"content-type": "application/json"})
    assert bad.status_code == 400
    assert served.post("/", json={"fail": True}).status_code == 500
    assert served.request("PUT").status_code == 405
    assert served.get("/healthz").text == "OK"
    metrics = served.get("/metrics").text
    assert (
        'function_calls_total{method="POST"} 3.0' in metrics
        or 'function_calls_total{method="POST"} 3' in metrics
    )
    assert 'function_failures_total{method="POST"} 1' in metrics
    assert 'function_duration_seconds_bucket{le="+Inf",method="POST"} 3' in metrics
    late = served.post("/", content=b"slow")
    assert (late.status_code, late.text) == (408, "Timeout while processing the function")


def test_cloudevent_fills_the_event(serve):
    served = serve(
        {
            "f.py": """
            def f(event, context):
                return {k: v for k, v in event.items() if k != "extensions"} if event["data"] else "x"
            """
        }
    )

    found = served.post(
        "/",
        json={"n": 1},
        headers={"ce-id": "i", "ce-type": "t", "ce-source": "/s", "ce-specversion": "1.0"},
    ).json()
    assert (found["data"], found["event-id"], found["event-type"]) == ({"n": 1}, "i", "t")
    assert found["event-namespace"] == "/s"


MANIFEST = """
apiVersion: kubeless.io/v1beta1
kind: Function
metadata: {name: get, labels: {function: get}}
spec: {handler: app.get, runtime: python3.8, timeout: "10", deps: ""}
---
apiVersion: kubeless.io/v1beta1
kind: KafkaTrigger
metadata: {name: t}
spec: {topic: orders, functionSelector: {matchLabels: {function: get}}}
"""


def test_manifest_names_handler_and_triggers(serve, tmp_path):
    served = serve(
        {
            "function.yaml": MANIFEST,
            "app.py": "def get(event, context):\n    return context['timeout'] and 'got'\n",
        }
    )

    assert served.get("/").text == "got"
    import json
    import subprocess
    import sys

    said = subprocess.run(
        [sys.executable, "-m", "pelton.cli.main", "why", "detect", tmp_path / "function-0", "-o", "json"],
        capture_output=True,
        check=True,
    )
    found = json.loads(said.stdout)["detected"]
    assert (found["convention"], found["target"]) == ("kubeless", "app.get")
    assert found["triggers"] == [{"kind": "topic", "value": "orders", "name": "t"}]
