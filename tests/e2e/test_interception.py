"""InterceptorRoutes and HTTPScaledObjects on one machine: a function, and a server that is none."""

import http.server
import json
import threading

import httpx
import pytest

pytestmark = [pytest.mark.connected, pytest.mark.long, pytest.mark.timeout(180)]

SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "shop", "namespace": "default"},
    "spec": {"ports": [{"name": "http", "port": 80}]},
}


class Echo(http.server.BaseHTTPRequestHandler):
    """Tell what was asked."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        """Answer with host, path and body."""
        size = int(self.headers.get("content-length", 0))
        said = {"host": self.headers["host"], "path": self.path, "body": self.rfile.read(size).decode()}
        raw = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST

    def log_message(self, format, *args):
        """Print nothing."""


@pytest.fixture(scope="module")
def server():
    """An HTTP server that no Function is; yields its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield one.server_port
        one.shutdown()
        thread.join()


def endpoints(port, *, name="shop", ready=True):
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port}],
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": ready}}],
    }


def route(name, **spec):
    return {
        "apiVersion": "http.keda.sh/v1beta1",
        "kind": "InterceptorRoute",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "target": {"service": "shop", "port": 80},
            "rules": [{"hosts": [f"{name}.test"]}],
            "scalingMetric": {"concurrency": {"targetValue": 10}},
            **spec,
        },
    }


def apply(platform, *objects):
    file = platform.root / "objects.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))
    platform.cli("apply", "-f", file)


def ask(platform, host, path="/", **more):
    with httpx.Client(trust_env=False, timeout=30) as client:
        url = platform.endpoints["gateway"] + path
        return client.request(more.pop("method", "GET"), url, headers={"host": host}, **more)


def served(platform, host):
    """Wait until requests for a host are taken."""
    platform.until(f"{host} is served", lambda: ask(platform, host).status_code != 404)


def test_a_server_that_is_no_function_is_intercepted(shared, server):
    missing = route(
        "sorry",
        target={"service": "nowhere", "port": 80},
        timeouts={"readiness": "300ms"},
        coldStart={"fallback": {"service": {"name": "shop", "port": 80}}},
    )
    empty = {**SERVICE, "metadata": {"name": "nowhere", "namespace": "default"}}
    soon = route(
        "soon",
        target={"service": "nowhere", "port": 80},
        coldStart={"placeholder": {"response": {"body": "soon", "headers": {"retry-after": "1"}}}},
    )
    fixed = route(
        "fixed",
        staticRoutes=[
            {
                "rules": [{"paths": [{"value": "/robots.txt"}]}],
                "response": {"body": "none"},
                "responseMode": "Always",
            }
        ],
    )
    waits = route("waits", target={"service": "late", "port": 80})
    late = {**SERVICE, "metadata": {"name": "late", "namespace": "default"}}
    apply(shared, SERVICE, empty, late, endpoints(server), route("shop"), missing, soon, fixed, waits)
    for name in ("shop", "sorry", "soon", "fixed"):
        served(shared, f"{name}.test")

    warm = ask(shared, "shop.test", "/a/b?c=d", method="POST", content=b"hello")
    assert warm.json() == {"host": "shop.test", "path": "/a/b?c=d", "body": "hello"}
    assert warm.headers["x-keda-http-cold-start"] == "false"

    instead = ask(shared, "sorry.test")
    assert instead.status_code == 200
    assert "x-keda-http-cold-start" not in instead.headers

    placeholder = ask(shared, "soon.test")
    assert (placeholder.status_code, placeholder.text) == (503, "soon")
    assert placeholder.headers["retry-after"] == "1"

    admin = shared.status()["interceptor"]
    counted = httpx.get(f"{admin}/queue", trust_env=False).json()
    assert counted["default/shop"]["Concurrency"] == 0
    assert counted["default/shop"]["RequestCount"] >= 1
    assert httpx.get(f"{admin}/livez", trust_env=False).text == "ok"

    assert ask(shared, "fixed.test", "/robots.txt").text == "none"
    assert ask(shared, "fixed.test", "/robots.txt.bak").json()["path"] == "/robots.txt.bak"

    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(ask(shared, "waits.test")))
    asking.start()
    shared.until("the request waits", lambda: _ready(shared, "waits"))
    apply(shared, endpoints(server, name="late"))
    asking.join()
    assert answers[0].status_code == 200
    assert answers[0].headers["x-keda-http-cold-start"] == "true"


def _ready(platform, name):
    shown = platform.cli("get", "interceptorroutes", name, "-o", "json").out
    conditions = json.loads(shown).get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def test_a_function_is_woken_through_its_route(shared):
    shared.apply(
        "greeter",
        """
        from functions_framework import http

        @http
        def main(request):
            return f"hello {request.host} {request.path}"
        """,
    )
    shared.until_at_zero("greeter")
    scaled = {
        "apiVersion": "http.keda.sh/v1alpha1",
        "kind": "HTTPScaledObject",
        "metadata": {"name": "greeter", "namespace": "default"},
        "spec": {
            "hosts": ["greeter.test"],
            "scaleTargetRef": {"kind": "Function", "name": "greeter", "service": "greeter", "port": 80},
        },
    }
    apply(shared, scaled)
    found = []

    def taken():
        found.append(ask(shared, "greeter.test", "/x"))
        return found[-1].status_code == 200

    shared.until("the host is taken", taken)
    assert found[-1].text == "hello greeter.test /x"
    assert found[-1].headers["x-keda-http-cold-start"] == "true"

    warm = ask(shared, "greeter.test", "/y")
    assert warm.text == "hello greeter.test /y"
    assert warm.headers["x-keda-http-cold-start"] == "false"


def test_a_waiting_request_asks_for_an_instance_of_its_workload(shared, server):
    labels = {"app": "worker"}
    workload = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "worker", "namespace": "default"},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "worker", "image": "x"}]},
            },
        },
    }
    scaled = {
        "apiVersion": "http.keda.sh/v1alpha1",
        "kind": "HTTPScaledObject",
        "metadata": {"name": "worker", "namespace": "default"},
        "spec": {
            "hosts": ["worker.test"],
            "scaleTargetRef": {"name": "worker", "service": "worker", "port": 80},
            "coldStartTimeoutFailoverRef": {"service": "shop", "port": 80, "timeoutSeconds": 30},
        },
    }
    service = {**SERVICE, "metadata": {"name": "worker", "namespace": "default"}}
    apply(shared, workload, service, scaled)

    def replicas():
        shown = json.loads(shared.cli("get", "deployments", "worker", "-o", "json").out)
        return shown["spec"]["replicas"]

    answers: list[httpx.Response] = []

    def until_answered():
        while not answers or answers[-1].status_code == 404:
            answers.append(ask(shared, "worker.test"))

    asking = threading.Thread(target=until_answered)
    asking.start()
    shared.until("the workload is asked for an instance", lambda: replicas() == 1, every_s=0.2)
    apply(shared, endpoints(server, name="worker"))
    asking.join()
    assert answers[-1].status_code == 200
    assert answers[-1].headers["x-keda-http-cold-start"] == "true"
    owned = json.loads(shared.cli("get", "scaledobjects", "worker", "-o", "json").out)
    assert owned["metadata"]["ownerReferences"][0]["kind"] == "HTTPScaledObject"


def test_a_function_scales_as_its_object_says_until_that_is_gone(shared):
    shared.apply(
        "crowd",
        """
        import time

        from functions_framework import http

        @http
        def main(request):
            time.sleep(float(request.args.get("s", "0")))
            return "done"
        """,
    )
    shared.until_at_zero("crowd")
    route_to = {"service": "crowd", "port": 80}
    metric = {"concurrency": {"targetValue": 1}}
    trigger = {"type": "external-push", "metadata": {"scalerAddress": "x", "interceptorRoute": "crowd"}}
    scaled = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "crowd", "namespace": "default"},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "core.openfunction.io/v1beta2",
                "kind": "Function",
                "name": "crowd",
            },
            "minReplicaCount": 2,
            "maxReplicaCount": 3,
            "triggers": [{**trigger, "name": "web"}],
            "advanced": {"scalingModifiers": {"formula": "web * 3", "target": "1"}},
        },
    }
    apply(shared, route("crowd", target=route_to, scalingMetric=metric), scaled)

    def instances():
        return shared.function("crowd")["instances"]

    shared.until("the object's minimum is there", lambda: instances() == 2, every_s=0.2)
    said = _conditions_of(shared, "functions", "crowd")["ScaledByObject"]
    assert (said["status"], said["reason"]) == ("True", "ScaledObject")
    assert "as ScaledObject default/crowd says" in shared.cli("why", "scale", "crowd").out

    served(shared, "crowd.test")
    slow = threading.Thread(target=lambda: ask(shared, "crowd.test", "/?s=4"))
    slow.start()
    shared.until("the formula asks for the maximum", lambda: instances() == 3, every_s=0.2)
    shared.until(
        "the trigger is active",
        lambda: _conditions_of(shared, "scaledobjects", "crowd")["Active"]["status"] == "True",
        every_s=0.2,
    )
    slow.join()

    shared.cli("delete", "scaledobjects", "crowd")
    shared.until(
        "the Function decides again",
        lambda: "ScaledByObject" not in _conditions_of(shared, "functions", "crowd"),
        every_s=0.2,
    )
    assert "as ScaledObject" not in shared.cli("why", "scale", "crowd").out.partition("CHANGED")[0]


def _conditions_of(platform, kind, name):
    shown = json.loads(platform.cli("get", kind, name, "-o", "json").out)
    return {one["type"]: one for one in shown.get("status", {}).get("conditions", ())}
