"""Calls of methods between apps: InvokeService, `/v1.0/invoke`, and calls of an app's own gRPC services.

Implements `Invocation` of `ports.py`. A target is an app of this runtime, or one that `find` knows: an app of
another runtime on this machine, or a function. Bodies stream both ways over HTTP. Without a policy, a call
that reached nobody is tried again three times, a second apart; everything else is the caller's to repeat.
Source: contracts, Dapr runtime, section 6; Dapr HTTP, sections 2 and 4.
"""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeVar

import grpc
import grpc.aio

from pelton.compat.dapr.apps import App, AppRegistry, RegisteredApp
from pelton.compat.dapr.channel import AppUnreachableError
from pelton.compat.dapr.channel_grpc import CALLBACK, GrpcChannel, decoded
from pelton.compat.dapr.endpoints import Endpoints, Outside
from pelton.compat.dapr.faults import Code, Fault
from pelton.compat.dapr.grpc_codes import grpc_code
from pelton.compat.dapr.paths import clean, encoded
from pelton.compat.dapr.ports import AsgiReceive, AsgiScope, AsgiSend, Hop, Traces
from pelton.compat.dapr.proxy import handler_for, passable
from pelton.compat.dapr.replicas import Replicas
from pelton.compat.dapr.resiliency import BreakerOpenError, Calls, Failure
from pelton.errors import PeltonError
from pelton.model.dapr import AccessControl
from pelton.model.invocation import Headers, Invocation, Reply
from pelton.plan.dapr_access import allows
from pelton.plan.resiliency import SERVICE_RETRIES, Policies
from pelton.proto import dapr_common_pb2 as common

T = TypeVar("T")

__all__ = ["AppInvocation", "Target"]

_ANSWER_S: Final = 300.0
_LOOK_S: Final = 0.25
_OWN: Final = frozenset(
    {
        b"dapr-caller-app-id",
        b"dapr-caller-namespace",
        b"dapr-callee-app-id",
        b"destination-app-id",
        b"dapr-app-id",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"forwarded",
        b"host",
        b"authorization-dapr",
    }
)
_HOP_BY_HOP: Final = frozenset({b"http2-settings", b"proxy-authenticate", b"proxy-authorization"})
"""Headers of one connection that the client of `sdk/forward.py` would pass on."""
_TRACE: Final = (b"traceparent", b"tracestate")
_TRACE_KEYS: Final = ("traceparent", "tracestate")
_VERBS: Final = common.HTTPExtension.Verb


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An app that can be called.

    Attributes:
        app_id, namespace: Which.
        channel: The way to it: `replicas.Replicas`, or for calls over HTTP what `endpoints.py` gives.
        speaks_grpc: Whether it is called by OnInvoke.
        healthy: What its probes said.
        access: Who may call it; None for everybody.
    """

    app_id: str
    namespace: str
    channel: Replicas | Outside
    speaks_grpc: bool = False
    healthy: bool = True
    access: AccessControl | None = None


class AppInvocation:
    """Implements `ports.Invocation`.

    Args:
        registry: Apps of this runtime.
        find: Returns a target elsewhere by namespace and app id, None for an unknown one.
        endpoints: Addresses outside; None for none.
        policies: Returns the resiliency policies of a calling app.
        calls: Carries calls out under them.
        traces: Begins hops; None traces nothing.
    """

    def __init__(
        self,
        registry: AppRegistry,
        *,
        policies: Callable[[App], Policies],
        calls: Calls,
        find: Callable[[str, str], Awaitable[Target | None]] | None = None,
        endpoints: Endpoints | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._registry = registry
        self._policies = policies
        self._calls = calls
        self._find = find
        self._endpoints = endpoints
        self._traces = traces

    # -- HTTP ------------------------------------------------------------------------------------------------

    async def invoke_http(
        self,
        caller: RegisteredApp,
        *,
        target: str,
        method_path: str,
        scope: AsgiScope,
        receive: AsgiReceive,
        send: AsgiSend,
    ) -> None:
        """Answer an HTTP request that is meant for another app; see `ports.Invocation`."""
        path = clean(method_path)
        verb: str = scope["method"]
        found = await self._target(caller.app, target)
        self._check(found, caller.app, path, verb)
        query: bytes = scope.get("query_string", b"")
        body, stream = await _body(scope, receive, caller.app.body_limit_bytes)
        headers = _forwarded(scope, caller.app, found)
        hop, headers = self._traced(headers, found, path)
        invocation = Invocation(
            id=uuid.uuid4().hex,
            method=verb,
            target=path.encode("latin-1", "replace") + (b"?" + query if query else b""),
            headers=headers,
            body=body,
            stream=stream,
        )
        error = ""
        try:
            with _Watch(receive, whole=stream is None):
                reply = await self._call(caller.app, found, invocation)
                error = f"answered {reply.status}" if reply.status >= 500 else ""
                await _answer(reply, send)
        except Fault as fault:
            error = fault.message
            raise
        except BaseException as exc:
            error = str(exc) or type(exc).__name__
            raise
        finally:
            if hop is not None:
                hop.end(error)

    # -- gRPC ------------------------------------------------------------------------------------------------

    async def invoke_service(
        self, caller: RegisteredApp, request: Any, context: Any, *, timeout_s: float | None
    ) -> Any:
        """Answer InvokeService; see `ports.Invocation`."""
        if not request.id:
            raise _refused("the target's id is missing", code=Code.INVALID_ARGUMENT, status=404)
        found = await self._target(caller.app, request.id)
        message = request.message
        method, _, own_query = message.method.partition("?")
        path = clean(method)
        verb = _VERBS.Name(message.http_extension.verb)
        if not found.speaks_grpc and verb in ("NONE", "CONNECT"):
            raise _refused("the call has no HTTP verb", code=Code.INVALID_ARGUMENT, status=400)
        self._check(found, caller.app, path, "" if found.speaks_grpc else verb)
        metadata = [(name, value) for name, value in context.invocation_metadata() or ()]
        if found.speaks_grpc:
            return await self._on_invoke(caller.app, found, message, metadata, context, timeout_s)
        headers: Headers = [
            (name.encode(), value.encode("utf-8") if isinstance(value, str) else base64.b64encode(value))
            for name, value in metadata
            if name.encode() not in _OWN and not name.startswith("grpc-")
            and name not in ("content-type", "user-agent", "te", "dapr-api-token", "accept-encoding")
        ]  # fmt: skip
        if message.content_type:
            content_type = "".join(char for char in message.content_type if char.isprintable())
            headers.append((b"content-type", content_type.encode("latin-1", "replace")))
        query = "&".join(part for part in (own_query, message.http_extension.querystring) if part)
        hop, headers = self._traced(headers, found, path)
        invocation = Invocation(
            id=uuid.uuid4().hex,
            method=verb,
            target=encoded(path, query),
            headers=[*headers, *_named(caller.app, found)],
            body=message.data.value,
        )
        error = "no answer"
        try:
            async with asyncio.timeout(timeout_s):
                reply = await self._call(caller.app, found, invocation)
                body = await _whole(reply)
            error = f"answered {reply.status}" if reply.status >= 500 else ""
        finally:
            if hop is not None:
                hop.end(error)
        status = reply.status
        answered = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in reply.headers
            if name not in (b"content-type", b"content-length") and value.isascii()
        ]
        await context.send_initial_metadata(passable([*answered, ("dapr-http-status", str(status))]))
        if status >= 400:
            raise _http_failed(status, body)
        answer = common.InvokeResponse(
            content_type=next((v.decode("latin-1") for n, v in reply.headers if n == b"content-type"), "")
        )
        answer.data.value = body
        return answer

    async def _on_invoke(
        self,
        caller: App,
        found: Target,
        message: Any,
        metadata: list[tuple[str, str | bytes]],
        context: Any,
        timeout_s: float | None,
    ) -> Any:
        """Call OnInvoke of an app that speaks gRPC and pass on its answer, metadata and status."""
        traced = [(n.encode(), v.encode()) for n, v in metadata if isinstance(v, str) and n in _TRACE_KEYS]
        hop, traced = self._traced(traced, found, message.method)
        kept = passable(
            [
                *((name.decode(), value.decode()) for name, value in traced),
                *(
                    (name, value)
                    for name, value in metadata
                    if name.encode() not in _OWN and name not in _TRACE_KEYS
                ),
                *((name.decode(), value.decode()) for name, value in _named(caller, found)),
            ]
        )

        async def attempt() -> Any:
            async with found.channel.leased() as channel:
                if not isinstance(channel, GrpcChannel):
                    raise AppUnreachableError("the app does not speak gRPC")
                call = channel.connection.unary_unary(
                    f"{CALLBACK}OnInvoke",
                    request_serializer=lambda sent: sent.SerializeToString(),
                )(message, metadata=(*channel.metadata(), *kept), timeout=timeout_s or _ANSWER_S)
                try:
                    answer = decoded(await call, common.InvokeResponse.FromString)
                    return answer, await call.initial_metadata()
                finally:
                    call.cancel()

        error = "no answer"
        try:
            answer, initial = await self._guarded(caller, found, "", attempt, repeatable=True)
            error = ""
        except grpc.aio.AioRpcError as exc:
            if exc.code() is grpc.StatusCode.UNAVAILABLE:
                raise _unreachable(found, exc.details() or "unavailable") from exc
            await context.abort(exc.code(), exc.details() or "", passable(exc.trailing_metadata() or ()))
            raise  # abort has raised already
        except AppUnreachableError as exc:
            raise _unreachable(found, str(exc)) from exc
        finally:
            if hop is not None:
                hop.end(error)
        await context.send_initial_metadata(passable(initial or ()))
        return answer

    def proxy(self, caller: RegisteredApp, method: str, metadata: Mapping[str, str | bytes]) -> Any:
        """Return the handler of a call of an app's own service; see `ports.Invocation`."""
        name = metadata.get("dapr-app-id") or metadata.get("dapr-callee-app-id")
        if not name:
            return None

        found: list[Target] = []

        async def reach() -> Replicas:
            target = await self._target(caller.app, name if isinstance(name, str) else name.decode())
            self._check(target, caller.app, method, "")
            found.append(target)
            if not isinstance(target.channel, Replicas):
                raise _refused(f"{name!r} is called over HTTP only", code=Code.INVALID_ARGUMENT)
            return target.channel

        return handler_for(
            method,
            reach,
            lambda: tuple((key.decode(), value.decode()) for key, value in _named(caller.app, found[0])),
        )

    # -- both ------------------------------------------------------------------------------------------------

    async def _target(self, caller: App, name: str) -> Target:
        if self._endpoints is not None:
            try:
                outside = await self._endpoints.channel(caller, name)
            except PeltonError as exc:
                raise _refused(f"fail to invoke, id: {name}, err: {exc.message}") from exc
            if outside is not None:
                return Target(app_id=name, namespace=caller.namespace, channel=outside)
        app_id, dot, namespace = name.partition(".")
        if "." in namespace or not app_id or (dot and not namespace):
            raise _refused(f"invalid target {name!r}: an app id, or app id and namespace with a dot between")
        namespace = namespace or caller.namespace
        registered = self._registry.find(app_id, namespace)
        if registered is not None and registered.channel is not None:
            return Target(
                app_id=app_id,
                namespace=namespace,
                channel=registered.channel,
                speaks_grpc=registered.app.speaks_grpc,
                healthy=registered.healthy,
                access=registered.app.configuration.access_control,
            )
        found = await self._find(namespace, app_id) if self._find is not None else None
        if found is None:
            known = sorted(each.app.app_id for each in self._registry if each.app.namespace == namespace)
            raise _refused(
                f"fail to invoke, id: {app_id}, err: there is no such app in {namespace} that can be called; "
                f"there are: {', '.join(known) or 'none'}"
            )
        return found

    def _check(self, found: Target, caller: App, path: str, verb: str) -> None:
        if verb == "CONNECT":
            raise _refused("CONNECT cannot be passed on", code=Code.INVALID_ARGUMENT, status=400)
        if not allows(found.access, caller=caller.app_id, namespace=caller.namespace, method=path, verb=verb):
            raise _refused(
                f"access control policy has denied access to id: {caller.app_id} operation: {path} "
                f"verb: {verb}",
                code=Code.PERMISSION_DENIED,
                status=403,
            )
        if not found.healthy:
            raise _refused(f"fail to invoke, id: {found.app_id}, err: app is not in a healthy state")

    def _traced(self, headers: Headers, found: Target, path: str) -> tuple[Hop | None, Headers]:
        """Return the hop of a call that is traced, and the headers that the app sees.

        They name the hop as parent where its span can be found: in a collector, or by `pelton trace`.
        """
        given = {name: value.decode("latin-1") for name, value in headers if name in _TRACE}
        if self._traces is None or b"traceparent" not in given:
            return None, headers
        hop = self._traces.begin(
            given[b"traceparent"],
            name=f"call {found.app_id}",
            kind="client",
            tags={"rpc.system": "dapr", "peer.service": found.app_id, "url.path": path},
        )
        findable = getattr(self._traces, "exported", False) or "pelton=hops" in given.get(b"tracestate", "")
        if hop is not None and findable:
            kept = [pair for pair in headers if pair[0] != b"traceparent"]
            headers = [*kept, (b"traceparent", str(hop.context).encode())]
        return hop, headers

    async def _call(self, caller: App, found: Target, invocation: Invocation) -> Reply:
        async def attempt() -> Reply:
            async with asyncio.timeout(_ANSWER_S):
                return await found.channel.invoke(invocation)

        try:
            return await self._guarded(
                caller,
                found,
                invocation.target.decode("latin-1").partition("?")[0],
                attempt,
                repeatable=invocation.stream is None,
                judge=lambda reply: Failure(http=reply.status) if reply.status >= 400 else None,
            )
        except AppUnreachableError as exc:
            raise _unreachable(found, str(exc)) from exc
        except TimeoutError as exc:
            raise _unreachable(found, "no answer in time") from exc

    async def _guarded(
        self,
        caller: App,
        found: Target,
        endpoint: str,
        attempt: Callable[[], Awaitable[T]],
        *,
        repeatable: bool,
        judge: Callable[[T], Failure | None] = lambda _answer: None,
    ) -> T:
        """Make a call under the caller's policies."""
        policies = self._policies(caller)
        policy = policies.app(found.app_id)
        if policy.retry is None and policy.breaker is None and policy.timeout_s is None:
            return await self._insist(attempt, policies, repeatable=repeatable)
        try:
            return await self._calls.run(
                policy,
                attempt,
                target=f"app/{found.namespace}/{found.app_id}",
                endpoint=endpoint,
                judge=lambda answer: _final(judge(answer), repeatable),
                failed=lambda _error: Failure(final=not repeatable),
            )
        except BreakerOpenError as exc:
            raise _unreachable(found, exc.message) from exc

    async def _insist(
        self, attempt: Callable[[], Awaitable[T]], policies: Policies, *, repeatable: bool
    ) -> T:
        """Try again what reached nobody, as Dapr's built-in policy says."""
        retry = policies.built_in(SERVICE_RETRIES)
        left = retry.max_retries if repeatable else 0
        while True:
            try:
                return await attempt()
            except AppUnreachableError as exc:
                if not exc.untouched or not left:
                    raise
            left -= 1
            await asyncio.sleep(retry.duration_s if retry.duration_s is not None else 1.0)


class _Watch:
    """Cancels the caller's task when its client leaves; looks only where a call takes long."""

    def __init__(self, receive: AsgiReceive, *, whole: bool) -> None:
        self._receive = receive
        self._whole = whole
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        if self._whole:  # while the body comes in, its reader is the one who looks
            self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def __exit__(self, *_exc: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()

    def _look(self) -> None:
        self._looking = asyncio.get_running_loop().create_task(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._task is not None:
            self._task.cancel()


def _final(failure: Failure | None, repeatable: bool) -> Failure | None:
    if failure is None or repeatable:
        return failure
    return Failure(http=failure.http, grpc=failure.grpc, final=True)


async def _body(
    scope: AsgiScope, receive: AsgiReceive, limit: int
) -> tuple[bytes, AsyncIterator[bytes] | None]:
    """Return a body that came whole, or the stream of a longer one."""
    first = await receive()
    if first["type"] == "http.disconnect":
        raise asyncio.CancelledError
    chunk: bytes = first.get("body", b"")
    if not first.get("more_body", False):
        if limit and len(chunk) > limit:
            raise _too_large(limit)
        return chunk, None

    async def rest() -> AsyncIterator[bytes]:
        seen = len(chunk)
        if chunk:
            yield chunk
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError
            piece: bytes = message.get("body", b"")
            seen += len(piece)
            if limit and seen > limit:
                raise _too_large(limit)
            more = message.get("more_body", False)
            if piece:
                yield piece

    length = next((int(v) for n, v in scope["headers"] if n == b"content-length" and v.isdigit()), -1)
    if limit and length > limit:
        raise _too_large(limit)
    return b"", rest()


def _forwarded(scope: AsgiScope, caller: App, found: Target) -> Headers:
    dropped = {*_OWN, *_HOP_BY_HOP}
    for name, value in scope["headers"]:
        if name == b"connection":
            dropped.update(word.strip() for word in value.lower().split(b","))
    headers: Headers = [(name, value) for name, value in scope["headers"] if name not in dropped]
    client = scope.get("client") or ("", 0)
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    address = str(client[0]).encode() or b"unknown"
    headers.append((b"x-forwarded-for", address))
    if host:
        headers.append((b"x-forwarded-host", host))
    headers.append((b"forwarded", b"for=%b;by=%b;host=%b" % (address, b"127.0.0.1", host or b"localhost")))
    return headers + _named(caller, found)


def _named(caller: App, found: Target) -> Headers:
    return [
        (b"dapr-caller-app-id", caller.app_id.encode()),
        (b"dapr-caller-namespace", caller.namespace.encode()),
        (b"dapr-callee-app-id", found.app_id.encode()),
        (b"destination-app-id", found.app_id.encode()),
    ]


async def _answer(reply: Reply, send: AsgiSend) -> None:
    body: Any = reply.body
    headers = [pair for pair in reply.headers if pair[0] not in _HOP_BY_HOP]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    if isinstance(body, bytes):
        await send({"type": "http.response.body", "body": body})
        return
    try:
        async for chunk in body:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    finally:
        await body.aclose()
    await send({"type": "http.response.body", "body": b""})


async def _whole(reply: Reply) -> bytes:
    body: Any = reply.body
    if isinstance(body, bytes):
        return body
    return b"".join([chunk async for chunk in body])


def _refused(message: str, *, code: Code = Code.INTERNAL, status: int = 500) -> Fault:
    return Fault(message, code=code, status=status, error_code="ERR_DIRECT_INVOKE")


def _unreachable(found: Target, why: str) -> Fault:
    return _refused(f"fail to invoke, id: {found.app_id}, err: {why}")


def _too_large(limit: int) -> Fault:
    return Fault(
        f"the body is larger than {limit} bytes",
        code=Code.RESOURCE_EXHAUSTED,
        status=413,
        error_code="ERR_DIRECT_INVOKE",
    )


def _http_failed(status: int, body: bytes) -> Fault:
    """Return an HTTP failure as InvokeService tells it: the code, and status and body in the details."""
    try:
        text = HTTPStatus(status).phrase
    except ValueError:
        text = f"HTTP {status}"
    return Fault(
        text,
        code=Code(grpc_code(status)),
        status=status,
        error_code="ERR_DIRECT_INVOKE",
        reason=text,
        metadata={"http.code": str(status), "http.error_message": body[:2048].decode("utf-8", "replace")},
    )
