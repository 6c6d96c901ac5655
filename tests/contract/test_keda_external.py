"""The external scaler that Pelton serves, asked by a gRPC client as KEDA and by Pelton's own scaler."""

import asyncio

import pytest
from grpc import aio

from pelton.cli.scalers import make_scaler
from pelton.clock import SystemClock
from pelton.compat.keda_external import ExternalScalerServer
from pelton.controlplane.external_metrics import ExternalMetrics
from pelton.controlplane.http_scaling import HTTP_SCALED_OBJECTS, INTERCEPTOR_ROUTES
from pelton.errors import PeltonError
from pelton.model.desired import Component, Desired, Route, Scaling, Subscription, Workload
from pelton.model.scaler import ScalerTrigger
from pelton.proto import externalscaler_pb2 as pb
from pelton.proto import health_pb2
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore

COMPONENT = Component(namespace="n", name="in", type="pubsub.kafka")


class Node:
    """What the node counts."""

    def __init__(self):
        self.intercepted: dict[str, dict[str, int]] = {}
        self.load: dict[str, dict[str, int]] = {}
        self.away = False

    async def ask_intercepted(self):
        if self.away:
            raise PeltonError("away")
        return self.intercepted

    async def ask_load(self):
        return self.load


def desired(key):
    if key != "n/f":
        return None
    return Desired(
        workload=Workload(namespace="n", name="f", revision="f-1", bundle="b", environment="e", target="t"),
        scaling=Scaling(lag_threshold=20.0, target=10.0, utilization=0.5),
        route=Route(namespace="n", name="f"),
        subscriptions=(
            Subscription(namespace="n", function="f", name="in", input_name="in", component=COMPONENT),
        ),
    )


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def node():
    return Node()


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        yield store


@pytest.fixture
async def metrics(store, node, clock):
    made = ExternalMetrics(
        store=store,
        intercepted=node.ask_intercepted,
        load=node.ask_load,
        desired=desired,
        clock=clock,
    )
    await made.tick()
    return made


@pytest.fixture
async def address(metrics):
    server = ExternalScalerServer(metrics.measure, healthy=metrics.healthy, clock=SystemClock())
    port = await server.start("127.0.0.1", 0)
    yield f"127.0.0.1:{port}"
    await server.close()


@pytest.fixture
async def channel(address):
    async with aio.insecure_channel(address) as channel:
        yield channel


def reference(**metadata):
    return pb.ScaledObjectRef(name="so", namespace="n", scalerMetadata=metadata)


async def call(channel, name, request, answer, *, service="externalscaler.ExternalScaler"):
    method = channel.unary_unary(
        f"/{service}/{name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    return await method(request, timeout=5)


async def specs(channel, **metadata):
    answer = await call(channel, "GetMetricSpec", reference(**metadata), pb.GetMetricSpecResponse)
    return {one.metricName: (one.targetSize, one.targetSizeFloat) for one in answer.metricSpecs}


async def values(channel, metric="", **metadata):
    request = pb.GetMetricsRequest(scaledObjectRef=reference(**metadata), metricName=metric)
    answer = await call(channel, "GetMetrics", request, pb.GetMetricsResponse)
    return {one.metricName: (one.metricValue, one.metricValueFloat) for one in answer.metricValues}


async def status(awaitable):
    with pytest.raises(aio.AioRpcError) as caught:
        await awaitable
    return caught.value.code().name, caught.value.details()


async def create(store, resource, version, kind, name, spec):
    await store.create(
        resource,
        {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "n"}, "spec": spec},
    )


async def test_function_by_events_and_requests(channel, metrics, node):
    node.load = {"n/f": {"inFlight": 3, "queued": 4, "pending": 50}}
    await metrics.tick()

    assert await specs(channel, function="f") == {"f-events": (20, 20.0), "f-requests": (5, 5.0)}
    assert await values(channel, function="f") == {"f-events": (50, 50.0), "f-requests": (7, 7.0)}
    assert await values(channel, "f-events", function="f") == {"f-events": (50, 50.0)}
    assert (await specs(channel, function="f", eventsTarget="2.5"))["f-events"] == (3, 2.5)


async def test_route_by_concurrency_and_rate(channel, metrics, node, store, clock):
    metric = {
        "concurrency": {"targetValue": 5},
        "requestRate": {"targetValue": 7, "window": "10s", "granularity": "1s"},
    }
    spec = {"target": {"service": "s", "port": 80}, "scalingMetric": metric}
    await create(store, INTERCEPTOR_ROUTES, "http.keda.sh/v1beta1", "InterceptorRoute", "r", spec)
    node.intercepted = {"n/r": {"Concurrency": 4, "RequestCount": 100}}
    await metrics.tick()

    assert await specs(channel, interceptorRoute="r") == {
        "http_r_concurrency": (5, 5.0),
        "http_r_rate": (7, 7.0),
    }
    await metrics.tick()  # the ring is the route's from now on
    await clock.advance(1)
    node.intercepted = {"n/r": {"Concurrency": 2, "RequestCount": 130}}
    await metrics.tick()
    assert (await values(channel, interceptorRoute="r"))["http_r_concurrency"] == (2, 2.0)
    assert (await values(channel, interceptorRoute="r"))["http_r_rate"] == (15, 15.0)


async def test_http_scaled_object_and_the_interceptor_itself(channel, metrics, node, store):
    spec = {"scaleTargetRef": {"name": "s", "service": "s", "port": 80}, "targetPendingRequests": 30}
    await create(store, HTTP_SCALED_OBJECTS, "http.keda.sh/v1alpha1", "HTTPScaledObject", "a.b", spec)
    node.intercepted = {
        "n/a.b": {"Concurrency": 4, "RequestCount": 1},
        "n/x": {"Concurrency": 6, "RequestCount": 1},
    }
    await metrics.tick()

    assert await specs(channel, httpScaledObject="a.b") == {"http-n_002Fa_002Eb": (30, 30.0)}
    assert await values(channel, httpScaledObject="a.b") == {"http-n_002Fa_002Eb": (4, 4.0)}
    name = "interceptorTargetPendingRequests"
    assert await values(channel, **{name: "200"}) == {name: (10, 10.0)}


async def test_what_does_not_exist_is_said(channel):
    assert await status(specs(channel, function="gone")) == ("NOT_FOUND", "there is no Function n/gone")
    assert await status(specs(channel, interceptorRoute="gone")) == (
        "NOT_FOUND",
        "there is no InterceptorRoute n/gone",
    )
    code, details = await status(values(channel, "other", function="f"))
    assert (code, details) == ("NOT_FOUND", "there is no metric other; there are: f-events, f-requests")
    assert "names nothing" in (await status(specs(channel)))[1]
    assert "eventsTarget is '0'" in (await status(specs(channel, function="f", eventsTarget="0")))[1]


async def test_counts_that_are_old_are_not_given(channel, metrics, node, clock):
    async def health(service):
        request = health_pb2.HealthCheckRequest(service=service)
        answer = await call(
            channel, "Check", request, health_pb2.HealthCheckResponse, service="grpc.health.v1.Health"
        )
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    assert await health("readiness") == "SERVING"
    await clock.advance(2)

    assert (await status(values(channel, function="f")))[0] == "UNAVAILABLE"
    assert [await health(name) for name in ("readiness", "liveness")] == ["NOT_SERVING", "SERVING"]
    await metrics.tick()
    assert await health("readiness") == "SERVING"


async def test_streams_tell_activity_again_and_again_and_targets_when_they_change(channel, metrics, node):
    def stream(name, answer):
        method = channel.unary_stream(
            f"/externalscaler.ExternalScaler/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return method(reference(function="f"))

    active = stream("StreamIsActive", pb.IsActiveResponse)
    assert not (await active.read()).result
    node.load = {"n/f": {"pending": 1}}
    await metrics.tick()
    while not (await active.read()).result:
        pass
    active.cancel()
    spec = stream("StreamMetricSpec", pb.GetMetricSpecResponse)
    assert [one.metricName for one in (await spec.read()).metricSpecs] == ["f-events", "f-requests"]
    spec.cancel()


async def test_pelton_can_scale_on_another_pelton(address, metrics, node):
    node.load = {"n/f": {"inFlight": 1, "queued": 0, "pending": 0}}
    await metrics.tick()
    scaler = make_scaler(
        ScalerTrigger(
            name="s0",
            type="external",
            metadata={"scalerAddress": address, "function": "f"},
            namespace="n",
            scaled_object="so",
        ),
        SystemClock(),
    )

    async with asyncio.timeout(30):
        found = await scaler.read()

    await scaler.close()
    assert [(one.metric, one.value, one.target, one.active) for one in found] == [
        ("f-events", 0.0, 20.0, True),
        ("f-requests", 1.0, 5.0, True),
    ]


async def test_address_that_is_taken_is_an_error(address, metrics):
    second = ExternalScalerServer(metrics.measure, healthy=metrics.healthy, clock=SystemClock())

    with pytest.raises(PeltonError, match="cannot be listened on"):
        await second.start("127.0.0.1", int(address.rpartition(":")[2]))
    await second.close()
