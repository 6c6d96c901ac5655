"""Calls between apps: targets, headers, statuses, streams, proxied services (contract, section 6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from pelton.clock import SystemClock
from pelton.compat.dapr.apps import App, AppRegistry, RegisteredApp
from pelton.compat.dapr.channel_grpc import GrpcChannel
from pelton.compat.dapr.channel_http import HttpChannel
from pelton.compat.dapr.faults import Code, Fault
from pelton.compat.dapr.invocation import AppInvocation
from pelton.compat.dapr.replicas import Replicas
from pelton.compat.dapr.resiliency import Calls
from pelton.model.dapr import AccessControl, AccessPolicy, DaprConfiguration
from pelton.model.resiliency import Resiliency, ResiliencyTarget, RetryPolicy
from pelton.plan.resiliency import Policies
from pelton.proto import dapr_common_pb2 as common
from pelton.proto import dapr_runtime_pb2 as runtime
from tests.unit.compat.dapr import apps

ONCE = Resiliency(
    name="once", retries={"DaprBuiltInServiceRetries": RetryPolicy(duration_s=0.001, max_retries=3)}
)


class Bed:
    def __init__(self, *policies: Resiliency) -> None:
        self.registry = AppRegistry()
        self.caller = self.registry.put(App(app_id="a"))
        self.invocation = AppInvocation(
            self.registry,
            policies=lambda app: Policies([ONCE, *policies], app.app_id),
            calls=Calls(SystemClock(), lambda: 0.5),
        )
        self._channels: list[Replicas] = []

    def app(self, address: Any, *, protocol: str = "http", **changes: Any) -> RegisteredApp:
        registered = self.registry.put(App(app_id="b", protocol=protocol, port=address[1], **changes))
        channel = GrpcChannel(address) if protocol == "grpc" else HttpChannel(address)
        registered.channel = Replicas()
        registered.channel.sync({"only": channel})
        self._channels.append(registered.channel)
        return registered

    async def http(
        self, target: str, path: str, method: str = "POST", body: bytes | list[bytes] = b"", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        chunks = [body] if isinstance(body, bytes) else body
        messages = [
            {"type": "http.request", "body": chunk, "more_body": number + 1 < len(chunks)}
            for number, chunk in enumerate(chunks)
        ]
        gone = asyncio.Event()

        async def receive() -> Any:
            if messages:
                return messages.pop(0)
            await gone.wait()

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        if len(chunks) > 1:
            given.append((b"transfer-encoding", b"chunked"))
        scope = {
            "method": method, "query_string": b"x=1", "headers": given, "client": ("10.0.0.1", 5),
        }  # fmt: skip
        await self.invocation.invoke_http(
            self.caller, target=target, method_path=path, scope=scope, receive=receive, send=send
        )
        answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], answered, b"".join(message["body"] for message in sent[1:])

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


@asynccontextmanager
async def bed(*policies: Resiliency) -> AsyncIterator[Bed]:
    made = Bed(*policies)
    try:
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize("target", ["b", "b.default"])
async def test_http_call_reaches_the_app_with_its_names_and_comes_back_as_it_is(target: str) -> None:
    async with apps.HttpApp({"POST /orders/7": (418, {"tea": True})}) as app, bed() as made:
        made.app(app.address)
        status, headers, body = await made.http(
            target, "orders//./7", body=b"hi", x_own="1", dapr_caller_app_id="forged", host="web:80"
        )

    assert (status, body, headers["content-type"]) == (418, b'{"tea": true}', "application/json")
    line, got, sent = app.got[0]
    assert (line, sent, got["x-own"]) == ("POST /orders/7?x=1", b"hi", "1")
    assert (got["dapr-caller-app-id"], got["dapr-callee-app-id"]) == ("a", "b")
    assert (got["x-forwarded-for"], got["x-forwarded-host"]) == ("10.0.0.1", "web:80")


async def test_http_body_in_pieces_is_passed_on_in_pieces() -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        while (size := int((await reader.readline()).strip(), 16)) > 0:
            seen.append(await reader.readexactly(size))
            await reader.readline()
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, bed() as made:
        made.app(server.sockets[0].getsockname()[:2])
        status, _, body = await made.http("b", "up", body=[b"one", b"two", b"three"])

    assert (status, body, b"".join(seen)) == (200, b"ok", b"onetwothree")


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "a/../../etc/passwd", "a%2F..%2f..%2fetc/passwd"]
)
async def test_http_path_stays_below_the_root(path: str) -> None:
    async with apps.HttpApp({"GET /etc/passwd": (200, b"")}) as app, bed() as made:
        made.app(app.address)
        await made.http("b", path, "GET")

    assert app.got[0][0] == "GET /etc/passwd?x=1"


async def test_http_headers_of_one_connection_are_not_passed_on() -> None:
    async with apps.HttpApp({"POST /m": (200, b"")}) as app, bed() as made:
        made.app(app.address)
        await made.http(
            "b",
            "m",
            connection="keep-alive, x-mine",
            x_mine="1",
            proxy_authorization="z",
            http2_settings="s",
            x_other="2",
        )

    headers = app.got[0][1]
    assert headers["x-other"] == "2"
    assert not {"x-mine", "proxy-authorization", "http2-settings"} & headers.keys()


async def refused(made: Bed, target: str = "b", **more: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        await made.http(target, "m", **more)
    return caught.value


async def test_http_unknown_app_is_named_with_those_that_there_are() -> None:
    async with apps.HttpApp({}) as app, bed() as made:
        made.app(app.address)
        fault = await refused(made, "nobody")

    assert (fault.status, fault.error_code) == (500, "ERR_DIRECT_INVOKE")
    assert "nobody" in fault.message and "there are: a, b" in fault.message


@pytest.mark.parametrize("target", ["a.b.c", ".default", "b."])
async def test_http_target_that_is_no_name_is_refused(target: str) -> None:
    async with bed() as made:
        assert (await refused(made, target)).error_code == "ERR_DIRECT_INVOKE"


async def test_http_app_that_is_not_there_is_tried_again_and_then_refused() -> None:
    async with apps.HttpApp({}) as app:
        address = app.address
    async with bed() as made:
        made.app(address)
        fault = await refused(made)

    assert (fault.status, fault.error_code) == (500, "ERR_DIRECT_INVOKE")


async def test_http_app_that_hangs_up_is_not_called_twice() -> None:
    async with apps.HttpApp({"POST /m": (None, b"")}) as app, bed() as made:
        made.app(app.address)
        assert (await refused(made)).status == 500

    assert len(app.got) == 1


async def test_http_app_that_hangs_is_given_up_and_called_again_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pelton.compat.dapr.invocation._ANSWER_S", 0.1)

    async def hang(_headers: object, _body: object) -> tuple[int, bytes]:
        await asyncio.sleep(3600)
        return 200, b""

    async with apps.HttpApp({"POST /m": hang}) as app, bed() as made:
        made.app(app.address)
        for _ in range(2):
            fault = await refused(made)
            assert (fault.status, fault.error_code) == (500, "ERR_DIRECT_INVOKE")
            assert "no answer in time" in fault.message

    assert len(app.got) == 2


async def test_http_unhealthy_app_is_not_called() -> None:
    async with apps.HttpApp({}) as app, bed() as made:
        made.app(app.address).healthy = False
        fault = await refused(made)

    assert "not in a healthy state" in fault.message
    assert app.got == []


async def test_http_access_control_of_the_target_denies() -> None:
    control = AccessControl(
        default_action="allow", policies=(AccessPolicy(app_id="a", default_action="deny"),)
    )
    async with apps.HttpApp({}) as app, bed() as made:
        made.app(app.address, configuration=DaprConfiguration(access_control=control))
        fault = await refused(made)

    assert (fault.status, fault.code) == (403, Code.PERMISSION_DENIED)


async def test_http_body_over_the_limit_is_refused() -> None:
    async with apps.HttpApp({}) as app, bed() as made:
        made.app(app.address)
        fault = await refused(made, body=b"x" * (4 * 1024 * 1024 + 1))

    assert fault.status == 413


async def test_http_retry_policy_repeats_statuses_and_returns_the_last_answer() -> None:
    policy = Resiliency(
        name="r",
        retries={"r": RetryPolicy(duration_s=0.001, max_retries=2, http_codes="500-599")},
        apps={"b": ResiliencyTarget(retry="r")},
    )
    answers = [(503, b""), (200, b"third"), (404, b"")]
    async with apps.HttpApp({"POST /m": lambda *_: answers.pop(0)}) as app, bed(policy) as made:
        made.app(app.address)
        first = await made.http("b", "m", body=b"again")
        second = await made.http("b", "m")

    assert (first[0], second[0]) == (200, 404)
    assert [each[2] for each in app.got] == [b"again", b"again", b""]


async def test_http_call_to_a_grpc_app_is_on_invoke() -> None:
    answer = common.InvokeResponse(content_type="text/plain")
    answer.data.value = b"back"
    async with apps.GrpcApp({"OnInvoke": answer}) as app, bed() as made:
        made.app(app.address, protocol="grpc")
        status, headers, body = await made.http(
            "b", "do", "PUT", body=b"x", x_own_bin="/wA", x_bad_bin="?", grpc_trace_bin="AAAA"
        )

    assert (status, headers["content-type"], body) == (200, "text/plain", b"back")
    assert app.got[0][1]["x-own-bin"] == b"\xff\x00"
    assert not {"x-bad-bin", "grpc-trace-bin", "dapr-grpc-trace-bin"} & app.got[0][1].keys()
    assert app.got[0][1]["dapr-caller-app-id"] == "a"


# --- gRPC: a server in front, as the runtime has it ---


class _Front(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
    def __init__(self, made: Bed) -> None:
        self._made = made

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        metadata = dict(details.invocation_metadata)
        if details.method.endswith("/InvokeService"):
            return grpc.unary_unary_rpc_method_handler(
                self._invoke,
                request_deserializer=runtime.InvokeServiceRequest.FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
        return self._made.invocation.proxy(self._made.caller, details.method, metadata)

    async def _invoke(self, request: Any, context: Any) -> Any:
        try:
            return await self._made.invocation.invoke_service(
                self._made.caller, request, context, timeout_s=context.time_remaining()
            )
        except Fault as fault:
            codes = {code.value[0]: code for code in grpc.StatusCode}
            trailers = (("grpc-status-details-bin", fault.details()),)
            await context.abort(codes[int(fault.code)], fault.message, trailers)


@asynccontextmanager
async def front(made: Bed) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Front(made),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


def invoke(channel: grpc.aio.Channel, **message: Any) -> Any:
    request = runtime.InvokeServiceRequest(id=message.pop("id", "b"))
    request.message.method = message.pop("method", "m")
    request.message.http_extension.verb = message.pop("verb", 3)
    request.message.data.value = message.pop("data", b"")
    request.message.content_type = message.pop("content_type", "")
    request.message.http_extension.querystring = message.pop("query", "")
    return channel.unary_unary(
        "/dapr.proto.runtime.v1.Dapr/InvokeService",
        request_serializer=lambda sent: sent.SerializeToString(),
        response_deserializer=common.InvokeResponse.FromString,
    )(request, metadata=(("x-own", "1"), ("x-own-bin", b"\xff\x00")))


async def test_invoke_service_to_an_http_app() -> None:
    async with apps.HttpApp({"POST /m": (201, {"a": 1})}) as app, bed() as made, front(made) as channel:
        made.app(app.address)
        call = invoke(channel, data=b"body")
        answer = await call
        metadata = dict(await call.initial_metadata())

    assert (answer.data.value, answer.content_type) == (b'{"a": 1}', "application/json")
    assert metadata["dapr-http-status"] == "201"
    assert (app.got[0][2], app.got[0][1]["x-own"]) == (b"body", "1")
    assert app.got[0][1]["x-own-bin"] == "/wA="


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ({"method": "a b"}, "POST /a%20b"),
        ({"method": "ü"}, "POST /%C3%BC"),
        ({"method": "a%20b/x"}, "POST /a%20b/x"),
        ({"method": "m?x=1", "query": "y=2"}, "POST /m?x=1&y=2"),
        ({"method": "m HTTP/1.1\r\nx-evil: 1\r\n\r\n"}, "POST /m%20HTTP/1.1%0D%0Ax-evil:%201%0D%0A%0D%0A"),
        ({"query": "y=2 HTTP/1.1\r\nx-evil: 1"}, "POST /m?y=2%20HTTP/1.1%0D%0Ax-evil:%201"),
        ({"content_type": "a/b\r\nx-evil: 1"}, "POST /m"),
    ],
)
async def test_invoke_service_can_write_nothing_but_a_target_and_a_type(
    message: dict[str, Any], line: str
) -> None:
    async with apps.HttpApp({}) as app, bed() as made, front(made) as channel:
        made.app(app.address)
        with pytest.raises(grpc.aio.AioRpcError):
            await invoke(channel, **message)

    [(got, headers, _)] = app.got
    assert (got, "x-evil" in headers) == (line, False)


async def test_invoke_service_http_failure_is_the_code_with_the_body_in_the_details() -> None:
    async with (
        apps.HttpApp({"POST /m": (404, b"no such order")}) as app,
        bed() as made,
        front(made) as channel,
    ):
        made.app(app.address)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await invoke(channel)

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert b"no such order" in dict(caught.value.trailing_metadata())["grpc-status-details-bin"]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"id": ""}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"id": "nobody"}, grpc.StatusCode.INTERNAL),
        ({"verb": 0}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"verb": 6}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_invoke_service_bad_call_is_refused(message: dict[str, Any], code: grpc.StatusCode) -> None:
    async with apps.HttpApp({}) as app, bed() as made, front(made) as channel:
        made.app(app.address)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await invoke(channel, **message)

    assert caught.value.code() is code


async def test_invoke_service_to_a_grpc_app_passes_message_and_status_on() -> None:
    answer = common.InvokeResponse(content_type="x/y")
    answer.data.value = b"back"
    async with apps.GrpcApp({"OnInvoke": answer}) as app, bed() as made, front(made) as channel:
        made.app(app.address, protocol="grpc")
        got = await invoke(channel, verb=0)
        app.answers["OnInvoke"] = grpc.StatusCode.ALREADY_EXISTS
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await invoke(channel)
        app.answers["OnInvoke"] = b"\xff\xff"
        with pytest.raises(grpc.aio.AioRpcError) as garbage:
            await invoke(channel)

    assert (got.data.value, got.content_type) == (b"back", "x/y")
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "the app says no",
    )
    assert garbage.value.code() is grpc.StatusCode.INTERNAL


class _Echo(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
    """An app's own service of all four kinds, over bytes."""

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        self.metadata = dict(details.invocation_metadata)
        return {
            "/own.Echo/Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "/own.Echo/Out": grpc.unary_stream_rpc_method_handler(self._out),
            "/own.Echo/In": grpc.stream_unary_rpc_method_handler(self._in),
            "/own.Echo/Both": grpc.stream_stream_rpc_method_handler(self._both),
        }.get(details.method)

    async def _unary(self, request: bytes, context: Any) -> bytes:
        if request == b"fail":
            await context.abort(grpc.StatusCode.DATA_LOSS, "gone", (("why", "test"),))
        await context.send_initial_metadata((("first", "1"),))
        context.set_trailing_metadata((("last", "2"),))
        return request

    async def _out(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        for number in range(3):
            yield request + str(number).encode()

    async def _in(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        return b"".join([request async for request in requests])

    async def _both(self, requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.upper()


async def test_proxy_passes_on_all_four_kinds() -> None:
    echo = _Echo()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((echo,))
    address = ("127.0.0.1", server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    metadata = (("dapr-app-id", "b"), ("x-own", "1"))

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"a", b"b", b"c"):
            yield piece

    async with bed() as made, front(made) as channel:
        made.app(address, protocol="grpc")
        call = channel.unary_unary("/own.Echo/Unary")(b"one", metadata=metadata)
        assert await call == b"one"
        assert dict(await call.initial_metadata())["first"] == "1"
        assert dict(await call.trailing_metadata())["last"] == "2"
        assert (echo.metadata["x-own"], echo.metadata["dapr-caller-app-id"]) == ("1", "a")
        out = channel.unary_stream("/own.Echo/Out")(b"n", metadata=metadata)
        assert [piece async for piece in out] == [b"n0", b"n1", b"n2"]
        assert await channel.stream_unary("/own.Echo/In")(pieces(), metadata=metadata) == b"abc"
        both = channel.stream_stream("/own.Echo/Both")(pieces(), metadata=metadata)
        assert [piece async for piece in both] == [b"A", b"B", b"C"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/own.Echo/Unary")(b"fail", metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await channel.unary_unary("/own.Echo/Unary")(b"x", metadata=(("dapr-app-id", "nobody"),))
        with pytest.raises(grpc.aio.AioRpcError) as nowhere:
            await channel.unary_unary("/own.Echo/Unary")(b"x")
    await server.stop(0)

    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "gone")
    assert dict(caught.value.trailing_metadata())["why"] == "test"
    assert unknown.value.code() is grpc.StatusCode.INTERNAL
    assert nowhere.value.code() is grpc.StatusCode.UNIMPLEMENTED
