"""Both app channels against apps on sockets: what is sent, and how answers are judged."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import grpc
import pytest

from pelton.compat.dapr.channel import (
    ABSENT,
    DROP,
    RETRY,
    SUCCESS,
    UNREACHED,
    AppUnreachableError,
    BindingEvent,
    TopicEvent,
)
from pelton.compat.dapr.channel_grpc import GrpcChannel
from pelton.compat.dapr.channel_http import HttpChannel
from pelton.compat.dapr.subscriptions import Bulk, Rule, TopicSubscription
from pelton.errors import ProtocolError
from pelton.model.invocation import Invocation
from pelton.proto import dapr_common_pb2 as common
from pelton.proto import dapr_runtime_pb2 as runtime
from tests.unit.compat.dapr import apps

DEEP = b"[" * 5000 + b"]" * 5000
"""JSON that no decoder follows to its end."""
GARBAGE = b"\xff\xff"
ENVELOPE = b'{"id":"1","data":{"big":12345678901234567890}}'
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def event(path: str = "/orders", entry_id: str = "", **attributes: object) -> TopicEvent:
    return TopicEvent(
        pubsub="bus",
        topic="orders",
        path=path,
        envelope=ENVELOPE,
        attributes={
            "id": "1", "source": "a", "type": "t", "specversion": "1.0", "topic": "orders",
            "datacontenttype": "application/json", "traceparent": TRACE, **attributes,
        },
        data=b'{"big":12345678901234567890}',
        metadata={"__key": "k", "Content-Length": "7", "line": "a\nb", "bad name": "x"},
        entry_id=entry_id,
    )  # fmt: skip


# --- HTTP ---


async def test_http_deliver_posts_the_envelope_with_metadata_token_and_trace() -> None:
    async with apps.HttpApp({"POST /orders": (200, b"")}) as app:
        channel = HttpChannel(app.address, token="secret")
        answer = await channel.deliver(event("orders"), timeout_s=5)
        await channel.close()

    assert answer.status == SUCCESS
    [(line, headers, body)] = app.got
    assert (line, body) == ("POST /orders", ENVELOPE)
    assert headers["content-type"] == "application/cloudevents+json"
    assert headers["pubsubname"] == "bus"
    assert headers["__key"] == "k"
    assert headers["line"] == "a b"
    assert headers["dapr-api-token"] == "secret"
    assert headers["traceparent"] == TRACE
    assert headers["content-length"] == str(len(ENVELOPE))


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((200, b""), SUCCESS),
        ((204, b""), SUCCESS),
        ((200, b"fine"), SUCCESS),
        ((200, b'{"status":' + DEEP + b"}"), SUCCESS),
        ((200, {"status": "SUCCESS"}), SUCCESS),
        ((200, {}), SUCCESS),
        ((200, {"status": ""}), SUCCESS),
        ((200, {"status": "RETRY"}), RETRY),
        ((200, {"status": "whatever"}), RETRY),
        ((200, {"status": "DROP"}), DROP),
        ((404, b""), ABSENT),
        ((302, b""), RETRY),
        ((400, b"no"), RETRY),
        ((500, {"status": "SUCCESS"}), RETRY),
        ((None, b""), RETRY),
    ],
)
async def test_http_deliver_answer_is_judged(answer: tuple[int, object], status: str) -> None:
    async with apps.HttpApp({"POST /orders": answer}) as app:
        channel = HttpChannel(app.address)
        judged = await channel.deliver(event(), timeout_s=5)
        await channel.close()

    assert judged.status == status
    assert bool(judged.reason) == (status != SUCCESS)


async def test_http_deliver_code_is_told_for_matching() -> None:
    async with apps.HttpApp({"POST /orders": (503, b"later")}) as app:
        channel = HttpChannel(app.address)
        judged = await channel.deliver(event(), timeout_s=5)
        await channel.close()

    assert (judged.code, judged.reason) == ("503", "/orders answered 503: later")


async def test_http_deliver_nobody_there_is_no_attempt() -> None:
    async with apps.HttpApp({}) as app:
        address = app.address
    channel = HttpChannel(address)

    assert (await channel.deliver(event(), timeout_s=5)).status == UNREACHED


async def test_http_deliver_app_that_hangs_is_given_up() -> None:
    async def hang(_headers: object, _body: object) -> tuple[int, bytes]:
        await asyncio.sleep(3600)
        return 200, b""

    async with apps.HttpApp({"POST /orders": hang}) as app:
        channel = HttpChannel(app.address)
        judged = await channel.deliver(event(), timeout_s=0.05)
        await channel.close()

    assert (judged.status, judged.reason) == (RETRY, "no answer within 0.05 s")


@pytest.mark.parametrize(
    ("status", "body", "wanted"),
    [
        (200, [{"pubsubname": "b", "topic": "t", "route": "r"}], 1),
        (200, b"", 0),
        (404, b"", 0),
        (200, [], 0),
    ],
)
async def test_http_subscriptions_are_asked(status: int, body: object, wanted: int) -> None:
    async with apps.HttpApp({"GET /dapr/subscribe": (status, body)}) as app:
        channel = HttpChannel(app.address)
        found, faults = await channel.subscriptions()
        await channel.close()

    assert (len(found), faults) == (wanted, [])


@pytest.mark.parametrize(("status", "body"), [(500, b""), (200, b"<html>"), (200, {"a": 1}), (200, DEEP)])
async def test_http_subscriptions_garbage_is_an_error(status: int, body: object) -> None:
    async with apps.HttpApp({"GET /dapr/subscribe": (status, body)}) as app:
        channel = HttpChannel(app.address)
        with pytest.raises(ProtocolError):
            await channel.subscriptions()
        await channel.close()


async def test_http_bulk_has_the_contracts_form_and_statuses_by_entry() -> None:
    def answer(_headers: object, body: bytes) -> tuple[int, object]:
        entries = json.loads(body)["entries"]
        return 200, {
            "statuses": [
                {"entryId": entries[2]["entryId"], "status": "DROP"},
                {"entryId": entries[0]["entryId"], "status": "SUCCESS"},
                {"entryId": entries[1]["entryId"], "status": ""},
            ]
        }

    async with apps.HttpApp({"POST /orders": answer}) as app:
        channel = HttpChannel(app.address)
        events = [event(entry_id=str(number)) for number in range(4)]
        answers = await channel.deliver_bulk(events, timeout_s=5)
        await channel.close()

    assert [each.status for each in answers] == [SUCCESS, RETRY, DROP, RETRY]
    body = json.loads(app.got[0][2])
    assert {key: body[key] for key in ("type", "topic", "pubsubname")} == {
        "type": "com.dapr.event.sent.bulk", "topic": "orders", "pubsubname": "bus",
    }  # fmt: skip
    assert body["entries"][0]["event"]["data"] == {"big": 12345678901234567890}
    assert b"12345678901234567890" in app.got[0][2]
    assert app.got[0][1]["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("answer", "status"),
    [((200, b"garbage"), RETRY), ((200, DEEP), RETRY), ((404, b""), SUCCESS), ((500, b""), RETRY)],
)
async def test_http_bulk_answers_for_all(answer: tuple[int, bytes], status: str) -> None:
    async with apps.HttpApp({"POST /orders": answer}) as app:
        channel = HttpChannel(app.address)
        answers = await channel.deliver_bulk([event(entry_id="a"), event(entry_id="b")], timeout_s=5)
        await channel.close()

    assert [each.status for each in answers] == [status, status]


@pytest.mark.parametrize(
    ("status", "wanted"), [(200, True), (204, True), (405, True), (404, False), (500, False)]
)
async def test_http_binding_probe(status: int, wanted: bool) -> None:
    async with apps.HttpApp({"OPTIONS /batch": (status, b"")}) as app:
        channel = HttpChannel(app.address)
        assert await channel.takes_binding("batch", "batch") is wanted
        await channel.close()


async def test_http_binding_event_and_its_answer() -> None:
    answers = {"POST /batch": (200, {"to": ["out"], "data": {"n": 1}, "concurrency": "parallel"})}
    async with apps.HttpApp(answers) as app:
        channel = HttpChannel(app.address)
        found = await channel.trigger(
            BindingEvent(name="batch", route="/batch", data=b"hi", metadata={"Key": "v"}), timeout_s=5
        )
        await channel.close()

    assert (found.answer.status, found.to, found.data, found.parallel) == (
        SUCCESS,
        ("out",),
        b'{"n":1}',
        True,
    )
    assert app.got[0][1]["key"] == "v"
    assert app.got[0][2] == b"hi"


async def test_http_health_is_any_2xx() -> None:
    async with apps.HttpApp({"GET /healthz": (204, b""), "GET /sick": (503, b"")}) as app:
        channel = HttpChannel(app.address)
        found = [await channel.is_healthy(path, timeout_s=5) for path in ("/healthz", "/sick")]
        await channel.close()

    assert found == [True, False]


async def test_http_invoke_passes_status_headers_and_query() -> None:
    async with apps.HttpApp({"PUT /a/b": (418, {"tea": 1})}) as app:
        channel = HttpChannel(app.address, token="app")
        reply = await channel.invoke(
            Invocation("i", "PUT", b"/a/b?x=1", [(b"x-own", b"1"), (b"dapr-api-token", b"runtime")], b"body")
        )
        await channel.close()

    assert (reply.status, reply.body) == (418, b'{"tea": 1}')
    line, headers, body = app.got[0]
    assert (line, headers["x-own"], headers["dapr-api-token"], body) == ("PUT /a/b?x=1", "1", "app", b"body")


async def test_http_invoke_connection_that_breaks_raises() -> None:
    async with apps.HttpApp({"POST /a": (None, b"")}) as app:
        channel = HttpChannel(app.address)
        with pytest.raises(AppUnreachableError):
            await channel.invoke(Invocation("i", "POST", b"/a", [], b"body"))
        await channel.close()


# --- gRPC ---


async def test_grpc_deliver_fills_the_request() -> None:
    async with apps.GrpcApp({"OnTopicEvent": runtime.TopicEventResponse()}) as app:
        channel = GrpcChannel(app.address, token="secret")
        answer = await channel.deliver(event("/r", n=1, nested={"a": [1]}), timeout_s=5)
        await channel.close()

    assert answer.status == SUCCESS
    [(_, metadata, request)] = app.got
    assert (request.id, request.source, request.type, request.spec_version) == ("1", "a", "t", "1.0")
    assert (request.data_content_type, request.path, request.topic, request.pubsub_name) == (
        "application/json", "/r", "orders", "bus",
    )  # fmt: skip
    assert request.data == b'{"big":12345678901234567890}'
    assert set(request.extensions.fields) == {"topic", "traceparent", "n", "nested"}
    assert metadata["__key"] == "k"
    assert metadata["dapr-api-token"] == "secret"
    assert metadata["traceparent"] == TRACE


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (runtime.TopicEventResponse(status=runtime.TopicEventResponse.SUCCESS), SUCCESS),
        (runtime.TopicEventResponse(status=runtime.TopicEventResponse.RETRY), RETRY),
        (runtime.TopicEventResponse(status=runtime.TopicEventResponse.DROP), DROP),
        (runtime.TopicEventResponse.FromString(b"\x08\x09"), RETRY),
        (grpc.StatusCode.UNIMPLEMENTED, SUCCESS),
        (grpc.StatusCode.UNAVAILABLE, RETRY),
        (grpc.StatusCode.INTERNAL, RETRY),
    ],
)
async def test_grpc_deliver_answer_is_judged(answer: Any, status: str) -> None:
    async with apps.GrpcApp({"OnTopicEvent": answer}) as app:
        channel = GrpcChannel(app.address)
        judged = await channel.deliver(event(), timeout_s=5)
        await channel.close()

    assert judged.status == status


async def test_grpc_deliver_nobody_there_is_no_attempt() -> None:
    async with apps.GrpcApp({}) as app:
        address = app.address
    channel = GrpcChannel(address)
    judged = await channel.deliver(event(), timeout_s=5)
    await channel.close()

    assert judged.status == UNREACHED


async def test_grpc_subscriptions_in_all_forms() -> None:
    answer = runtime.ListTopicSubscriptionsResponse(
        subscriptions=[
            runtime.TopicSubscription(pubsub_name="bus", topic="plain"),
            runtime.TopicSubscription(
                pubsub_name="bus",
                topic="ruled",
                routes=runtime.TopicRoutes(
                    rules=[runtime.TopicRule(match="event.type == 'x'", path="/x")], default="/d"
                ),
                dead_letter_topic="dead",
                bulk_subscribe=runtime.BulkSubscribeConfig(enabled=True, max_messages_count=3),
            ),
            runtime.TopicSubscription(topic="nameless"),
        ]
    )
    async with apps.GrpcApp({"ListTopicSubscriptions": answer}) as app:
        channel = GrpcChannel(app.address)
        found, faults = await channel.subscriptions()
        await channel.close()

    assert found == [
        TopicSubscription(pubsub="bus", topic="plain", rules=(Rule(),)),
        TopicSubscription(
            pubsub="bus",
            topic="ruled",
            rules=(Rule(match="event.type == 'x'", path="/x"), Rule(path="/d")),
            dead_letter_topic="dead",
            bulk=Bulk(max_messages=3, max_wait_s=1.0),
        ),
    ]
    assert faults == ["subscription 2: names no pubsub_name or no topic"]


async def test_grpc_app_without_callbacks_wants_nothing_and_is_healthy() -> None:
    async with apps.GrpcApp({}) as app:
        channel = GrpcChannel(app.address)
        assert await channel.subscriptions() == ([], [])
        assert not await channel.takes_binding("b", "/b")
        assert await channel.is_healthy("", timeout_s=5)
        await channel.close()


async def test_grpc_bulk_falls_back_to_the_alpha_method() -> None:
    def answer(request: Any) -> Any:
        entries = request.entries
        return runtime.TopicEventBulkResponse(
            statuses=[runtime.TopicEventBulkResponseEntry(entry_id=entries[0].entry_id, status="DROP")]
        )

    async with apps.GrpcApp({"OnBulkTopicEventAlpha1": answer}) as app:
        channel = GrpcChannel(app.address)
        events = [event(entry_id="a"), event(entry_id="b")]
        answers = [await channel.deliver_bulk(events, timeout_s=5) for _ in range(2)]
        await channel.close()

    assert [[each.status for each in answered] for answered in answers] == [[DROP, RETRY]] * 2
    assert app.got[0][2].entries[0].cloud_event.data == b'{"big":12345678901234567890}'


async def test_grpc_binding_event_and_its_answer() -> None:
    answer = runtime.BindingEventResponse(
        to=["o"], data=b"x", concurrency=runtime.BindingEventResponse.PARALLEL
    )
    async with apps.GrpcApp(
        {"OnBindingEvent": answer, "ListInputBindings": runtime.ListInputBindingsResponse(bindings=["b"])}
    ) as app:
        channel = GrpcChannel(app.address)
        taken = [await channel.takes_binding(name, "") for name in ("b", "c")]
        found = await channel.trigger(
            BindingEvent(name="b", route="", data=b"d", metadata={"K": "v"}), timeout_s=5
        )
        await channel.close()

    assert taken == [True, False]
    assert (found.to, found.data, found.parallel) == (("o",), b"x", True)
    assert dict(app.got[-1][2].metadata) == {"K": "v"}


async def test_grpc_invoke_is_on_invoke() -> None:
    answer = common.InvokeResponse(content_type="text/plain")
    answer.data.value = b"back"
    async with apps.GrpcApp({"OnInvoke": answer}) as app:
        channel = GrpcChannel(app.address)
        reply = await channel.invoke(
            Invocation(
                "i",
                "PUT",
                b"/do/it?x=1",
                [(b"content-type", b"a/b"), (b"x-own", b"1")],
                b"body",
                deadline=math.inf,
            )
        )
        await channel.close()

    request, metadata = app.got[0][2], app.got[0][1]
    assert (request.method, request.http_extension.verb, request.http_extension.querystring) == (
        "do/it",
        4,
        "x=1",
    )
    assert (request.data.value, request.content_type, metadata["x-own"]) == (b"body", "a/b", "1")
    assert (reply.status, reply.body, reply.headers[-1]) == (200, b"back", (b"content-type", b"text/plain"))


async def test_grpc_invoke_error_is_the_status_of_its_code_as_json() -> None:
    async with apps.GrpcApp({"OnInvoke": grpc.StatusCode.NOT_FOUND}) as app:
        channel = GrpcChannel(app.address)
        reply = await channel.invoke(Invocation("i", "GET", b"/x", [], b""))
        await channel.close()

    assert isinstance(reply.body, bytes)
    assert (reply.status, json.loads(reply.body)) == (
        404,
        {"code": 5, "message": "the app says no"},
    )


async def test_grpc_app_that_answers_garbage_is_judged_like_one_that_fails() -> None:
    methods = ("ListTopicSubscriptions", "ListInputBindings", "OnTopicEvent", "OnBulkTopicEvent", "OnInvoke")
    async with apps.GrpcApp(dict.fromkeys(methods, GARBAGE)) as app:
        channel = GrpcChannel(app.address)
        with pytest.raises(ProtocolError, match="cannot be read"):
            await channel.subscriptions()
        with pytest.raises(AppUnreachableError, match="cannot be read"):
            await channel.takes_binding("b", "b")
        judged = await channel.deliver(event(), timeout_s=5)
        bulk = await channel.deliver_bulk([event(entry_id="a")], timeout_s=5)
        reply = await channel.invoke(Invocation("i", "GET", b"/x", [], b""))
        await channel.close()

    assert [judged.status, bulk[0].status] == [RETRY, RETRY]
    assert (judged.code, reply.status) == ("INTERNAL", 500)


async def test_trace_that_is_none_is_not_passed_on_to_the_app() -> None:
    evil = event(traceparent="x\r\nx-evil: 1", tracestate={"a": "\n"}, baggage="\u00fc")
    async with apps.HttpApp({"POST /orders": (200, b"")}) as web:
        channel = HttpChannel(web.address)
        over_http = await channel.deliver(evil, timeout_s=5)
        await channel.close()
    async with apps.GrpcApp({"OnTopicEvent": runtime.TopicEventResponse()}) as rpc:
        called = GrpcChannel(rpc.address)
        over_grpc = await called.deliver(evil, timeout_s=5)
        await called.close()

    assert [over_http.status, over_grpc.status] == [SUCCESS, SUCCESS]
    assert not {"traceparent", "baggage", "x-evil"} & web.got[0][1].keys()
    assert not {"traceparent", "baggage"} & rpc.got[0][1].keys()
