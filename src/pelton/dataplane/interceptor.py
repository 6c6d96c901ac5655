"""The way of an intercepted request: static answers, counting, placeholder, wait for an instance, upstream.

An ASGI application in the node process, which `cli/node_interceptor` serves on loopback; the gateway sends it
the requests that `plan/interception` names. A function is reached through the activator, which wakes it;
another Service at its ready endpoints. Upgrades are refused. Source: contracts, autoscaling, section 5.4.
"""

from __future__ import annotations

import asyncio
import http
import mimetypes
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import httpx

from pelton.autoscale.http import HttpRule, RoutingTable
from pelton.errors import PeltonError
from pelton.log import get
from pelton.model.interception import Answer, Intercept, InterceptTarget

__all__ = ["Interceptor"]

Headers = list[tuple[bytes, bytes]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]

COLD_START: Final = b"x-keda-http-cold-start"
_FUNCTION: Final = b"x-pelton-function"  # tells the activator which function is meant; never from a client
_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_CONNECT_S: Final = 0.5
_REDIAL_S: Final = 0.05
_DIAL_LIMIT_S: Final = 60.0
_RESPONSE_HEADER_S: Final = 300.0

_log = get(__name__)


class _UnavailableError(Exception):
    """No upstream took the request; holds the status to answer with."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(slots=True)
class _Count:
    """Requests of one route: in flight now, ever, and waiting for an instance."""

    concurrency: int = 0
    total: int = 0
    waiting: int = 0


@dataclass(slots=True)
class _Table:
    """Everything that is intercepted, and how requests find it."""

    routes: dict[str, Intercept] = field(default_factory=dict)
    find: RoutingTable = field(default_factory=lambda: RoutingTable(()))
    fixed: dict[str, list[RoutingTable]] = field(default_factory=dict)


class Interceptor:
    """Answers intercepted requests.

    Args:
        wake: Starts an instance of a function, by `namespace/name`; returns when one is ready.
        ready: Whether a function has a ready instance.
        activator_socket: Path of the activator's socket.
    """

    def __init__(
        self,
        *,
        wake: Callable[[str], Awaitable[Any]],
        ready: Callable[[str], bool],
        activator_socket: str,
    ) -> None:
        self._wake = wake
        self._ready = ready
        self._table = _Table()
        self._counts: dict[str, _Count] = {}
        self._changed = asyncio.Event()
        self._woken: set[asyncio.Task[Any]] = set()
        # One request per connection is all that the activator takes.
        self._activator = httpx.AsyncHTTPTransport(
            uds=activator_socket, limits=httpx.Limits(max_keepalive_connections=0)
        )
        self._services = httpx.AsyncHTTPTransport(
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=1000)
        )

    def update(self, planned: Sequence[Intercept]) -> None:
        """Take a new set of routes; requests that wait see it at once, counts of those that stay go on."""
        table = _Table(
            routes={one.key: one for one in planned},
            find=RoutingTable(rule for one in planned for rule in _rules_of(one)),
            fixed={
                one.key: [RoutingTable(_http_rule(one, rule) for rule in each.rules) for each in one.fixed]
                for one in planned
            },
        )
        self._table = table
        self._counts = {key: self._counts.get(key, _Count()) for key in table.routes}
        waiting, self._changed = self._changed, asyncio.Event()
        waiting.set()

    def queue(self) -> dict[str, dict[str, int]]:
        """Return route -> {Concurrency, RequestCount}, as interceptors report it."""
        return {
            key: {"Concurrency": count.concurrency, "RequestCount": count.total}
            for key, count in self._counts.items()
        }

    async def close(self) -> None:
        """Close connections to upstreams."""
        for task in self._woken:
            task.cancel()
        await self._activator.aclose()
        await self._services.aclose()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers: Headers = [(name.lower(), value) for name, value in scope["headers"]]
        host, path = _host(headers), scope.get("raw_path", b"/").decode("latin-1").partition("?")[0] or "/"
        table = self._table
        rule = table.find.find(host, path, _by_name(headers))
        if rule is None:
            await _plain(send, 404, f"no route takes {host}{path}")
            return
        route = table.routes[f"{rule.namespace}/{rule.name}"]
        if any(name == b"upgrade" for name, _ in headers):
            await _plain(send, 501, "upgrades are not passed on to intercepted Services")
            return
        for tables, fixed in zip(table.fixed[route.key], route.fixed, strict=True):
            if tables.find(host, path, _by_name(headers)) is not None and (
                fixed.always or not self._available(route.target)
            ):
                await _static(send, fixed.answer, path)
                return
        count = self._counts.setdefault(route.key, _Count())
        count.concurrency += 1
        count.total += 1
        exchange = _Exchange(scope, headers, receive, send)
        try:
            async with asyncio.timeout(route.request_s or None):
                await self._counted(route, count, exchange, path)
        except TimeoutError:
            await exchange.fail(504)
        except _UnavailableError as error:
            await exchange.fail(error.status)
        finally:
            count.concurrency -= 1

    async def _counted(self, route: Intercept, count: _Count, exchange: _Exchange, path: str) -> None:
        cold = not self._available(route.target)
        limited = route.max_pending is not None and route.overflow_placeholder
        full = route.max_pending is not None and count.waiting >= route.max_pending
        if cold and route.placeholder is not None and (full if limited else True):
            self._wake_aside(route.target)
            await _static(exchange.send, route.placeholder, path)
            return
        if cold and full:
            await _plain(exchange.send, 503, "too many requests wait for an instance")
            return
        count.waiting += 1
        try:
            async with asyncio.timeout(route.readiness_s or None):
                target = await self._until_ready(route)
        except (TimeoutError, PeltonError) as error:
            if route.fallback is None:
                raise _UnavailableError(504 if isinstance(error, TimeoutError) else 502) from error
            await self._forward(route, route.fallback, exchange, cold=None)
            return
        finally:
            count.waiting -= 1
        await self._forward(route, target, exchange, cold=cold)

    def _available(self, target: InterceptTarget) -> bool:
        return self._ready(target.function) if target.function else bool(target.endpoints)

    def _wake_aside(self, target: InterceptTarget) -> None:
        if not target.function:
            return

        async def wake() -> None:
            try:
                await self._wake(target.function)
            except PeltonError as error:
                _log.warning("%s could not be woken: %s", target.function, error)

        task = asyncio.create_task(wake(), name=f"wake {target.function}")
        self._woken.add(task)
        task.add_done_callback(self._woken.discard)

    async def _until_ready(self, route: Intercept) -> InterceptTarget:
        """Return the target once it can be reached; raises PeltonError when it cannot be at all."""
        while True:
            target = self._table.routes.get(route.key, route).target
            if target.function:
                if not self._ready(target.function):
                    await self._wake(target.function)
                return target
            if target.problem:
                raise PeltonError(target.problem)
            if target.endpoints:
                return target
            await self._changed.wait()

    async def _forward(
        self, route: Intercept, target: InterceptTarget, exchange: _Exchange, *, cold: bool | None
    ) -> None:
        limit = _RESPONSE_HEADER_S if route.response_header_s is None else route.response_header_s
        try:
            async with asyncio.timeout(limit or None):
                response = await self._dial(route, target, exchange)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise _UnavailableError(504) from error
        except httpx.HTTPError as error:
            _log.warning("%s cannot be reached: %s", target.service, error)
            raise _UnavailableError(502) from error
        await exchange.answer(response, cold=cold)

    async def _dial(self, route: Intercept, target: InterceptTarget, exchange: _Exchange) -> httpx.Response:
        """Send the request; refused connections are tried again, as a program that starts refuses some."""
        begun = asyncio.get_running_loop().time()
        while True:
            if target.function:
                request = exchange.request("http://function", function=target.function)
                return await self._activator.handle_async_request(request)
            if not target.endpoints:
                raise httpx.ConnectError(target.problem or f"{target.service} has no ready endpoint")
            host, port = secrets.choice(target.endpoints)
            place = f"[{host}]" if ":" in host else host
            try:
                return await self._services.handle_async_request(exchange.request(f"http://{place}:{port}"))
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if exchange.begun or asyncio.get_running_loop().time() - begun > _DIAL_LIMIT_S:
                    raise
                await asyncio.sleep(_REDIAL_S)
            current = self._table.routes.get(route.key, route)
            target = next(
                (one for one in (current.target, current.fallback) if one and one.service == target.service),
                target,
            )


class _Exchange:
    """One request and its answer on the client's side."""

    def __init__(self, scope: dict[str, Any], headers: Headers, receive: Receive, send: Send) -> None:
        self.send = send
        self.begun = False  # whether some of the body has been taken: it cannot be sent twice
        self._scope = scope
        self._headers = headers
        self._receive = receive
        self._answered = False

    def request(self, origin: str, *, function: str = "") -> httpx.Request:
        """Return the request for an upstream, body still to be streamed."""
        query = self._scope["query_string"]
        target = self._scope.get("raw_path", b"/") + (b"?" + query if query else b"")
        kept = [(name, value) for name, value in self._headers if name not in _HOP and name != _FUNCTION]
        chunked = any(name == b"transfer-encoding" for name, _ in self._headers)
        sized = any(name == b"content-length" for name, _ in self._headers)
        if function:
            kept.append((_FUNCTION, function.encode()))
        if chunked and not sized:
            kept.append((b"transfer-encoding", b"chunked"))
        return httpx.Request(
            self._scope["method"],
            origin,
            headers=kept,
            stream=_Body(self) if chunked or sized else httpx.ByteStream(b""),
            extensions={
                "target": target,
                "timeout": {"connect": _CONNECT_S, "read": None, "write": None, "pool": None},
            },
        )

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the request's body as it comes."""
        while True:
            event = await self._receive()
            if event["type"] != "http.request":
                raise httpx.ReadError("the client has gone")
            self.begun = True
            if event.get("body"):
                yield event["body"]
            if not event.get("more_body"):
                return

    async def answer(self, response: httpx.Response, *, cold: bool | None) -> None:
        """Pass an answer on."""
        headers = [(name, value) for name, value in response.headers.raw if name.lower() not in _HOP]
        if cold is not None:
            headers = [item for item in headers if item[0].lower() != COLD_START]
            headers.append((COLD_START, b"true" if cold else b"false"))
        self._answered = True
        await self.send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        stream: Any = response.stream
        try:
            async for chunk in stream:
                await self.send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            await response.aclose()
        await self.send({"type": "http.response.body", "body": b""})

    async def fail(self, status: int) -> None:
        """Answer with a status, unless an answer has begun: then the connection is cut."""
        if self._answered:
            raise ConnectionError(f"the answer broke off ({status})")
        await _plain(self.send, status, http.HTTPStatus(status).phrase)


class _Body(httpx.AsyncByteStream):
    """The body of an exchange as httpx takes it."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield it once."""
        async for chunk in self._exchange.body():
            yield chunk


def _rules_of(route: Intercept) -> list[HttpRule]:
    return [_http_rule(route, rule) for rule in route.rules]


def _http_rule(route: Intercept, rule: Any) -> HttpRule:
    return HttpRule(
        namespace=route.namespace,
        name=route.name,
        host=rule.host,
        prefix=rule.prefix,
        headers=rule.headers,
        created=_seconds(route.created),
    )


def _seconds(created: str) -> float:
    try:
        return datetime.fromisoformat(created).timestamp()
    except ValueError:
        return 0.0


def _host(headers: Headers) -> str:
    """Return the host that is asked for, lower case, without a port."""
    host = next((value for name, value in headers if name == b"host"), b"").decode("latin-1").lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _by_name(headers: Headers) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return found


async def _plain(send: Send, status: int, text: str) -> None:
    await _static(
        send, Answer(status=status, body=text + "\n", headers=(("content-type", "text/plain"),)), "/"
    )


async def _static(send: Send, answer: Answer, path: str) -> None:
    """Give an answer that is known beforehand; what a ConfigMap should hold and does not is our failure."""
    body, status, headers = answer.body, answer.status, list(answer.headers)
    if answer.missing:
        body, status, headers = "Internal Server Error\n", 500, []
    elif answer.files is not None:
        key = answer.key or path.lstrip("/") or "index.html"
        body = answer.files.get(key, "")
        guessed = mimetypes.guess_type(key)[0]
        if guessed and not any(name.lower() == "content-type" for name, _ in headers):
            headers.append(("content-type", guessed))
    raw = body.encode()
    written = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    written = [item for item in written if item[0] != b"content-length"]
    written.append((b"content-length", str(len(raw)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": written})
    await send({"type": "http.response.body", "body": raw})
