"""Triggers of a real broker scale Functions and Deployments on a real platform."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from redis import Redis

from pelton.cli.client import Client
from pelton.cli.home import Home
from pelton.proto import externalscaler_pb2 as pb
from tests.e2e.conftest import Platform

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

HELLO = "def main(request):\n    return 'hello'\n"
BUILD = {"FUNC_TYPE": "http"}


@pytest.fixture(scope="module")
def shared(scratch):
    """One platform for all tests here, which also answers a KEDA elsewhere."""
    platform = Platform(scratch())
    try:
        platform.start("--external-scaler", "127.0.0.1:0")
        yield platform
        platform.stop()
    finally:
        platform.discard()


def apply(platform, *objects):
    text = "\n---\n".join(json.dumps(one) for one in objects)
    return platform.cli("apply", "-f", "-", stdin=text)


def scaled_object(name, target, trigger, annotations=None, **spec):
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": name, "annotations": annotations or {}},
        "spec": {
            "scaleTargetRef": target,
            "triggers": [trigger],
            "pollingInterval": 1,
            "cooldownPeriod": 1,
            **spec,
        },
    }


def stored(platform, kind, name):
    """Return an object; asked without a process, for it is polled."""
    with Client(Home(platform.home)) as client:
        return client.get(client.resource(kind), "default", name)


def condition(obj, kind):
    found = (obj.get("status") or {}).get("conditions") or ()
    return next((one for one in found if one["type"] == kind), {})


@pytest.fixture
def queue(redis):
    host, port = redis.address.split(":")
    client = Redis(host=host, port=int(port))
    name = f"jobs-{time.monotonic_ns()}"
    yield client, name
    client.delete(name)
    client.close()


def redis_trigger(redis, name, **more):
    return {
        "type": "redis",
        "metadata": {"address": redis.address, "listName": name, "listLength": "5"},
        **more,
    }


def test_options_of_a_function_follow_a_list_in_redis(shared, redis, queue):
    client, name = queue
    keda = {
        "triggers": [redis_trigger(redis, name)],
        "scaledObject": {"pollingInterval": 1, "cooldownPeriod": 1},
    }
    shared.apply("worker", HELLO, env=BUILD, scale={"keda": keda})
    assert shared.function("worker")["workers"] == []

    client.rpush(name, *range(12))
    shared.until("three instances", lambda: len(shared.function("worker")["workers"]) == 3)
    why = json.loads(shared.cli("why", "scale", "worker", "-o", "json").out)
    assert "s0-redis is 12" in why["now"]["reason"]
    client.delete(name)

    shared.until_at_zero("worker")
    assert shared.request("worker").text == "hello"  # requests wake it all the same


def test_deployment_follows_its_scaled_object(shared, redis, queue):
    client, name = queue
    pod = {"containers": [{"name": "a", "image": "b"}]}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod},
        },
    }
    client.rpush(name, *range(17))
    apply(shared, deployment, scaled_object("web", {"name": "web"}, redis_trigger(redis, name)))

    shared.until("four replicas", lambda: stored(shared, "deployment", "web")["spec"]["replicas"] == 4)
    shared.until(
        "Active", lambda: condition(stored(shared, "so", "web"), "Active").get("reason") == "ScalerActive"
    )
    found = stored(shared, "so", "web")["status"]
    assert found["triggersActivity"] == {f"s0-redis-{name}": {"isActive": True}}
    why = shared.cli("why", "scale", "deployment/web").out
    assert "asks for 4" in why
    apply(
        shared,
        scaled_object(
            "web", {"name": "web"}, redis_trigger(redis, name), {"autoscaling.keda.sh/paused-replicas": "1"}
        ),
    )
    shared.until("paused", lambda: stored(shared, "deployment", "web")["spec"]["replicas"] == 1)


class _Scaler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """A user's external-push scaler."""

    def __init__(self):
        self.value = 0
        self.told = threading.Event()

    def service(self, details):
        name = details.method.rpartition("/")[2]
        answers = {
            "IsActive": lambda: pb.IsActiveResponse(result=self.value > 0),
            "GetMetricSpec": lambda: pb.GetMetricSpecResponse(
                metricSpecs=[pb.MetricSpec(metricName="m", targetSize=10)]
            ),
            "GetMetrics": lambda: pb.GetMetricsResponse(
                metricValues=[pb.MetricValue(metricName="m", metricValue=self.value)]
            ),
        }
        if name in answers:
            return grpc.unary_unary_rpc_method_handler(
                lambda _request, _context: answers[name](),
                response_serializer=lambda message: message.SerializeToString(),
            )
        return grpc.unary_stream_rpc_method_handler(
            self.stream, response_serializer=lambda message: message.SerializeToString()
        )

    def stream(self, _request, _context):
        self.told.wait(60)
        yield pb.IsActiveResponse(result=True)


def test_push_of_a_users_scaler_wakes_a_function_long_before_the_next_poll(shared):
    servicer = _Scaler()
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((servicer,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        shared.apply("pushed", HELLO, env=BUILD)
        trigger = {"type": "external-push", "metadata": {"scalerAddress": f"127.0.0.1:{port}"}}
        target = {"name": "pushed", "kind": "Function", "apiVersion": "core.openfunction.io/v1beta2"}
        apply(shared, scaled_object("pushed", target, trigger, pollingInterval=3600, maxReplicaCount=2))
        ready = lambda: condition(stored(shared, "so", "pushed"), "Active").get("status") == "False"  # noqa: E731
        shared.until("read once", ready)

        servicer.value = 15
        servicer.told.set()

        shared.until("two instances", lambda: len(shared.function("pushed")["workers"]) == 2)
    finally:
        server.stop(None).wait()


def test_trigger_that_cannot_be_read_says_why(shared, redis):
    target = {"name": "nowhere", "kind": "StatefulSet", "apiVersion": "apps/v1"}
    away = {"type": "redis", "metadata": {"address": "127.0.0.1:1", "listName": "x"}}
    apply(shared, scaled_object("away", target, away))

    def said():
        return condition(stored(shared, "so", "away"), "Ready").get("message") or ""

    shared.until("a reason", lambda: "there is no StatefulSet default/nowhere" in said())
    pod = {"containers": [{"name": "a", "image": "b"}]}
    labels = {"a": "b"}
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"serviceName": "s", "selector": {"matchLabels": labels}, "template": template}
    apply(
        shared,
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "nowhere"}, "spec": spec},
    )
    shared.until("another one", lambda: "127.0.0.1:1 was not reached" in said())


def test_keda_elsewhere_scales_on_what_a_function_does(shared):
    """A client of gRPC asks as KEDA does, while requests run."""
    shared.apply(
        "asked", "import time\n\n\ndef main(request):\n    time.sleep(2)\n    return 'x'\n", env=BUILD
    )
    with grpc.insecure_channel(shared.endpoints["external_scaler"]) as channel, ThreadPoolExecutor(3) as pool:

        def call(name, request, answer):
            method = channel.unary_unary(
                f"/externalscaler.ExternalScaler/{name}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=answer.FromString,
            )
            return method(request, timeout=5)

        reference = pb.ScaledObjectRef(name="so", namespace="default", scalerMetadata={"function": "asked"})
        assert not call("IsActive", reference, pb.IsActiveResponse).result
        (spec,) = call("GetMetricSpec", reference, pb.GetMetricSpecResponse).metricSpecs
        assert (spec.metricName, spec.targetSizeFloat) == ("asked-requests", 70.0)
        running = [pool.submit(shared.request, "asked") for _ in range(3)]
        asked = pb.GetMetricsRequest(scaledObjectRef=reference, metricName="asked-requests")
        shared.until(
            "three in flight",
            lambda: call("GetMetrics", asked, pb.GetMetricsResponse).metricValues[0].metricValueFloat == 3.0,
        )
        assert call("IsActive", reference, pb.IsActiveResponse).result
        assert {one.result().status_code for one in running} == {200}


JOB = """
import os

from functions_framework.context.user_context import UserContext


def main(context: UserContext):
    print("took", os.environ["POD_NAME"], context.get_topic_event().Data(), flush=True)
"""


def test_jobs_take_their_share_of_events_and_end(shared):
    serving = {
        "workloadType": "Job",
        "triggers": {"dapr": [{"name": "work", "type": "pubsub.jetstream", "topic": "work"}]},
        "pubsub": {"work": {"type": "pubsub.jetstream", "version": "v1", "metadata": []}},
    }
    keda = {"triggers": [{"type": "nats-jetstream", "metadata": {"lagThreshold": "10"}}]}
    shared.apply("batch", JOB, serving=serving, scale={"keda": keda})

    data = [f"n{number}." for number in range(35)]
    shared.cli("topic", "publish", "work", *(word for item in data for word in ("-d", item)))

    def taken():
        lines = shared.logs("batch").splitlines()
        return [line.replace("b'", "").strip("'").split()[1:3] for line in lines if line.startswith("took ")]

    shared.until("all events", lambda: len(taken()) == 35, timeout_s=40)
    shared.until_at_zero("batch")
    found = taken()
    assert sorted(text for _, text in found) == sorted(data)
    per_job = {job: sum(name == job for name, _ in found) for job, _ in found}
    assert len(per_job) >= 4
    assert max(per_job.values()) <= 10

    def succeeded():
        jobs = json.loads(shared.cli("get", "jobs", "-o", "json").out)["items"]
        return {job["metadata"]["name"] for job in jobs if job["status"].get("succeeded") == 1}

    shared.until("the status of every job", lambda: set(per_job) <= succeeded())
    why = json.loads(shared.cli("why", "scale", "batch", "-o", "json").out)
    assert any("by the strategy default" in change["decision"]["reason"] for change in why["changes"])
