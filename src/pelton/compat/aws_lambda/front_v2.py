"""Function URLs and API Gateway v2 (HTTP API): the current form of an HTTP event, and the fast path to it.

Listed in `fronts.py`. Pure but for the clock.
Source: `faas-conventions` contract, section 2.6. Decided where it is silent: a function URL gives
application/json and API Gateway v2 text/plain to an answer that names no type; a body that is no text is
written as JSON.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from pelton.compat.aws_lambda.answers import (
    FRAMING,
    MalformedError,
    add_headers,
    decoded_body,
    header_bytes,
    header_name,
    status_of,
    utf8,
)
from pelton.compat.aws_lambda.calls import LambdaResult, encode
from pelton.compat.aws_lambda.context import FunctionInfo
from pelton.compat.aws_lambda.front import Front, clf, parameters, text_of
from pelton.model.invocation import Headers, Invocation, Reply

__all__ = ["Direct", "FunctionUrl", "HttpApi", "Version2"]

_PLAIN_BYTES: Final = 1024 * 1024
"""Longer texts are measured against the limit, which the short way leaves out."""
_KEPT: Final = 1000


class Direct(Protocol):
    """A handler that is called without a LambdaCall."""

    @property
    def context(self) -> Callable[[str, float], Any]:
        """Makes a context of a request id and a deadline."""
        ...

    def call(self, request_id: str, event: Any, context: Any, trace_id: str | None, tenant: str = "") -> Any:
        """Return the handler's result as it is, or the LambdaResult of its failure."""
        ...

    def marshal(self, request_id: str, value: Any, *, wants_value: bool = False) -> LambdaResult:
        """Return a result as JSON; with `wants_value` as it is where `is_simple` holds."""
        ...


class Version2(Front):
    """What both have in common."""

    default_type = b"application/json"

    def __init__(self, info: FunctionInfo) -> None:
        super().__init__(info)
        self._account = info.account
        self._default = (b"content-type", self.default_type)
        self._time = (0, "")

    def event(self, invocation: Invocation) -> dict[str, Any]:
        """See Front."""
        raw_path, _, raw_query = invocation.target.decode("latin-1").partition("?")
        cookies: list[str] = []
        listed = invocation.headers
        try:
            headers = {name.decode(): value.decode() for name, value in listed}
        except UnicodeDecodeError:
            headers = {}
        if len(headers) != len(listed) or "cookie" in headers:  # the few that take more than decoding
            headers = _collected(listed, cookies)
        host = headers.get("host", "")
        domain, prefix, port = self._domains.get(host) or self.domain(host)
        client, scheme, method = invocation.client, invocation.scheme, invocation.method
        if "x-forwarded-for" not in headers:
            headers["x-forwarded-for"] = client
        if "x-forwarded-proto" not in headers:
            headers["x-forwarded-proto"] = scheme
        if "x-forwarded-port" not in headers:
            headers["x-forwarded-port"] = port or ("443" if scheme == "https" else "80")
        route = self.route(method, raw_path) if self.routes else None
        route_key = "$default" if route is None else route[0]
        now = time.time()
        second = int(now)
        event: dict[str, Any] = {
            "version": "2.0",
            "routeKey": route_key,
            "rawPath": raw_path,
            "rawQueryString": raw_query,
            "headers": headers,
            "requestContext": {
                "accountId": self._account,
                "apiId": prefix,
                "domainName": domain,
                "domainPrefix": prefix,
                "http": {
                    "method": method,
                    "path": raw_path,
                    "protocol": "HTTP/1.1" if invocation.http_version == "1.1" else "HTTP/1.0",
                    "sourceIp": client,
                    "userAgent": headers.get("user-agent", ""),
                },
                "requestId": invocation.id,
                "routeKey": route_key,
                "stage": "$default",
                "time": self._time[1] if self._time[0] == second else self._clf(second),
                "timeEpoch": int(now * 1000),
            },
            "isBase64Encoded": False,
        }
        if cookies:
            event["cookies"] = cookies
        if raw_query:
            event["queryStringParameters"] = _joined(raw_query)
        if route is not None and route[1] is not None:
            event["pathParameters"] = route[1]
        if invocation.body:
            event["body"], event["isBase64Encoded"] = self.body(invocation)
        return event

    def _clf(self, second: int) -> str:
        self._time = second, clf(second)
        return self._time[1]

    def serve(self, invocation: Invocation, handler: Direct) -> Reply:
        """Call a handler of this process; the short way from request to answer.

        What is in between for all others (a LambdaCall, a LambdaResult, JSON) costs as much as the rest.
        """
        if len(invocation.body) > self.limit_bytes:
            return self.refusal(413)
        event = self.event(invocation)
        trace = event["headers"].get("x-amzn-trace-id")
        request_id = invocation.id
        context = handler.context(request_id, invocation.deadline)
        value = handler.call(request_id, event, context, trace)
        if type(value) is dict:
            reply = self._plain(value)
            if reply is not None:
                return reply
        elif type(value) is LambdaResult:
            return self.reply(value)
        return self.reply(handler.marshal(request_id, value, wants_value=True))

    def _plain(self, value: dict[Any, Any]) -> Reply | None:
        """Return the answer for a result of the usual form, which JSON would not change; None for others."""
        status, body = value.get("statusCode"), value.get("body")
        if type(status) is not int or type(body) is not str or not 200 <= status <= 599:
            return None
        known = 2
        default: tuple[bytes, bytes] | None = self._default
        headers: Headers = []
        given = value.get("headers")
        if type(given) is dict:
            known = 3
            for name, text in given.items():
                wire = _wire_names.get(name) or _wire_name(name)
                if wire is None or type(text) is not str or not (text.isascii() and text.isprintable()):
                    return None
                if wire == b"content-type":
                    default = None
                headers.append((wire, text.encode()))
        if value.get("isBase64Encoded") is False:
            known += 1
        if known != len(value) or len(body) > _PLAIN_BYTES:
            return None
        if default is not None:
            headers.append(default)
        try:
            return Reply(status, headers, body.encode())
        except UnicodeEncodeError:
            return None

    def answer(self, value: Any, payload: Callable[[], bytes]) -> Reply:
        """See Front."""
        if type(value) is not dict or "statusCode" not in value:
            return Reply(200, [(b"content-type", b"application/json")], payload())
        reply = Reply(status_of(value["statusCode"]))
        headers = reply.headers
        given = value.get("headers")
        if given:
            add_headers(headers, given)
        cookies = value.get("cookies")
        if cookies:
            if not isinstance(cookies, list):
                raise MalformedError("cookies is no list")
            headers += [(b"set-cookie", header_bytes(cookie)) for cookie in cookies]
        body = value.get("body")
        if body is not None:
            if type(body) is not str:
                body = encode(body).decode()
            reply.body = decoded_body(body) if value.get("isBase64Encoded") else utf8(body)
        for name, _ in headers:
            if name == b"content-type":
                break
        else:
            headers.append(self._default)
        return reply


class FunctionUrl(Version2):
    """A function URL without authentication."""

    name = "function-url"

    def __init__(self, info: FunctionInfo) -> None:
        super().__init__(info)
        self._account = "anonymous"


class HttpApi(Version2):
    """API Gateway v2, an HTTP API."""

    name = "apigw-v2"
    default_type = b"text/plain; charset=utf-8"


def _collected(listed: Headers, cookies: list[str]) -> dict[str, str]:
    """Return headers with the values of one name joined; cookies are added to a list of their own."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in listed:
        name, value = raw_name.decode("latin-1"), text_of(raw_value)
        if name == "cookie":
            cookies += [item.strip() for item in value.split(";") if item.strip()]
        elif name in headers:
            headers[name] = f"{headers[name]},{value}"
        else:
            headers[name] = value
    return headers


def _joined(raw_query: str) -> dict[str, str]:
    """Return query parameters, decoded, the values of one name joined by commas."""
    if "&" not in raw_query and "%" not in raw_query and "+" not in raw_query:
        name, _, value = raw_query.partition("=")
        return {name: value}
    found: dict[str, str] = {}
    for name, value in parameters(raw_query):
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


_wire_names: dict[Any, bytes] = {}
"""Names of headers that functions return -> as they are sent."""


def _wire_name(name: Any) -> bytes | None:
    """Return a header's name as it is sent; None for what takes more thought."""
    try:
        wire = header_name(name)
    except MalformedError:
        return None
    if wire in FRAMING:
        return None
    if len(_wire_names) < _KEPT:
        _wire_names[name] = wire
    return wire
