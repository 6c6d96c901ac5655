"""HTTP requests as the events of Lambda's HTTP fronts, and results as their answers.

Four fronts: function URL, API Gateway v2 (HTTP API), API Gateway v1 (REST API), load balancer. Called by
`doors.py`; what all answers share is `answers.py`. Pure but for the clock. Errors of a front have its own
status and words.
Source: `faas-conventions` contract, section 2.6. Decided where it is silent: paths stay percent-encoded as
they came; a body is text when its media type says so and it is UTF-8, else base64; `Host` gives the domain
names; header names are lower case but for v1, which gets `Content-Type` style; a function URL gives
application/json and API Gateway v2 text/plain to an answer that names no type.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from pelton.compat.aws_lambda.answers import (
    STREAM_TYPE,
    MalformedError,
    add_headers,
    decoded,
    decoded_body,
    header_bytes,
    read_prelude,
    split_prelude,
    status_of,
    strict,
    utf8,
)
from pelton.compat.aws_lambda.calls import (
    JSON,
    PAYLOAD_LIMIT_BYTES,
    UNSET,
    LambdaCall,
    LambdaResult,
    encode,
)
from pelton.compat.aws_lambda.context import FunctionInfo
from pelton.errors import FunctionLoadError
from pelton.model.invocation import Invocation, Reply

__all__ = ["FRONTS", "Front", "front_of"]

FRONTS: Final = ("function-url", "apigw-v2", "apigw-v1", "alb", "none")
"""Values of the option `http-event`."""

_ALB_LIMIT_BYTES: Final = 1024 * 1024
_TEXT_TYPES: Final = re.compile(r"text/|application/(json|javascript|xml)\b|[^;]*\+(json|xml)\b", re.I)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """What a front says in place of the function: (status, media type, body)."""

    failed: tuple[int, str, bytes]
    malformed: tuple[int, str, bytes]
    timeout: tuple[int, str, bytes]
    busy: tuple[int, str, bytes]
    too_large: tuple[int, str, bytes]


def _html(title: str) -> bytes:
    text = f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
    return f"{text}</body>\r\n</html>\r\n".encode()


_URL_FAILED: Final = (502, JSON, b"Internal Server Error")
_V1_FAILED: Final = (502, JSON, b'{"message": "Internal server error"}')
_V2_FAILED: Final = (500, JSON, b'{"message":"Internal Server Error"}')
_ALB_FAILED: Final = (502, "text/html", _html("502 Bad Gateway"))
_WORDS: Final = {
    "function-url": _Words(
        failed=_URL_FAILED,
        malformed=_URL_FAILED,
        timeout=_URL_FAILED,
        busy=(
            429,
            JSON,
            b'{"Reason":"ConcurrentInvocationLimitExceeded","Type":"User","message":"Rate Exceeded."}',
        ),
        too_large=(413, JSON, b'{"message":"Request Entity Too Large"}'),
    ),
    "apigw-v2": _Words(
        failed=_V2_FAILED,
        malformed=_V2_FAILED,
        timeout=(504, JSON, b'{"message":"Endpoint request timed out"}'),
        busy=(503, JSON, b'{"message":"Service Unavailable"}'),
        too_large=(413, JSON, b'{"message":"Request Entity Too Large"}'),
    ),
    "apigw-v1": _Words(
        failed=_V1_FAILED,
        malformed=_V1_FAILED,
        timeout=(504, JSON, b'{"message": "Endpoint request timed out"}'),
        busy=(503, JSON, b'{"message": "Service Unavailable"}'),
        too_large=(413, JSON, b'{"message": "Request Too Long"}'),
    ),
    "alb": _Words(
        failed=_ALB_FAILED,
        malformed=_ALB_FAILED,
        timeout=_ALB_FAILED,
        busy=(503, "text/html", _html("503 Service Temporarily Unavailable")),
        too_large=(413, "text/html", _html("413 Request Entity Too Large")),
    ),
}


def front_of(name: str, info: FunctionInfo) -> Front:
    """Return the front of that name; options of the function refine it.

    Raises:
        FunctionLoadError: There is no such front.
    """
    makers: dict[str, Callable[[FunctionInfo], Front]] = {
        "function-url": FunctionUrl,
        "apigw-v2": HttpApi,
        "apigw-v1": RestApi,
        "alb": LoadBalancer,
    }
    if name not in makers:
        raise FunctionLoadError(
            f"there is no HTTP front {name!r}",
            hint=f"pelton.dev/http-event is one of: {', '.join(FRONTS)}.",
        )
    return makers[name](info)


class Front:
    """A way from an HTTP request to an invocation and back.

    Args:
        info: Who the function is.
    """

    name = ""
    limit_bytes = PAYLOAD_LIMIT_BYTES
    base64_forms = True

    def __init__(self, info: FunctionInfo) -> None:
        self._info = info
        self._words = _WORDS[self.name]
        self._routes = _routes(info.options.get("http-routes", ""))
        self._domain_of: dict[str, tuple[str, str]] = {}

    def call(self, invocation: Invocation) -> LambdaCall | Reply:
        """Return the invocation that a request asks for, or the refusal."""
        if len(invocation.body) > self.limit_bytes:
            return self.refusal(413)
        trace = invocation.header(b"x-amzn-trace-id")
        return LambdaCall(
            request_id=invocation.id,
            deadline=invocation.deadline,
            event=self.event(invocation),
            trace_id="" if trace is None else trace.decode("latin-1"),
            wants_value=True,
            wants_stream=True,
        )

    def event(self, invocation: Invocation) -> dict[str, Any]:
        """Return a request in the form of this front."""
        raise NotImplementedError

    def answer(self, value: Any, payload: Callable[[], bytes]) -> Reply:
        """Return the answer that a result stands for; raises MalformedError for none."""
        raise NotImplementedError

    def reply(self, result: LambdaResult) -> Reply:
        """Return what the client gets of a result; one with a stream needs `stream_reply` instead."""
        if result.error:
            return self._said(self._words.failed, f"{result.error_type}: {result.error_message}")
        try:
            value = result.value
            if value is not UNSET:
                reply = self.answer(value, lambda: encode(value))
            elif result.content_type == STREAM_TYPE:
                prelude, body = split_prelude(result.payload)
                reply = self.answer({**prelude, "body": ""}, bytes)
                reply.body = body
            else:
                reply = self.answer(decoded(result.payload), lambda: result.payload)
        except (MalformedError, ValueError) as exc:
            return self._said(self._words.malformed, f"the function's result is no HTTP answer: {exc}")
        if isinstance(reply.body, bytes) and len(reply.body) > PAYLOAD_LIMIT_BYTES:
            return self._said(
                self._words.failed,
                f"Function.ResponseSizeTooLarge: {len(reply.body)} bytes, limit {PAYLOAD_LIMIT_BYTES}",
            )
        return reply

    async def stream_reply(self, result: LambdaResult) -> Reply:
        """Return what the client gets of a result that comes piece by piece."""
        assert result.stream is not None  # noqa: S101 -- the caller looked
        if result.content_type != STREAM_TYPE:
            return Reply(200, [(b"content-type", result.content_type.encode("latin-1"))], result.stream)
        try:
            prelude, rest = await read_prelude(result.stream)
            reply = self.answer({**prelude, "body": ""}, bytes)
        except (MalformedError, ValueError) as exc:
            return self._said(self._words.malformed, f"the function's stream has no prelude: {exc}")
        reply.body = rest
        return reply

    def refusal(self, status: int) -> Reply:
        """Return this front's words for 413, 503 (busy) or 504 (time limit)."""
        words = {413: self._words.too_large, 503: self._words.busy, 504: self._words.timeout}[status]
        reply = self._said(words, "")
        if status == 503:
            reply.headers.append((b"retry-after", b"1"))
        return reply

    def _said(self, words: tuple[int, str, bytes], error: str) -> Reply:
        status, content_type, body = words
        return Reply(status, [(b"content-type", content_type.encode())], body, error=error)

    def _body(self, invocation: Invocation) -> tuple[str, bool]:
        """Return the body as text, and whether it is base64."""
        body = invocation.body
        content_type = invocation.header(b"content-type")
        as_text = (
            content_type is None
            or not self.base64_forms
            or _TEXT_TYPES.match(content_type.decode("latin-1")) is not None
        )
        if as_text and invocation.header(b"content-encoding") is None:
            try:
                return body.decode(), False
            except UnicodeDecodeError:
                pass
        return base64.b64encode(body).decode(), True

    def _domain(self, host: str) -> tuple[str, str]:
        """Return the domain name that a Host header has, and its first label."""
        found = self._domain_of.get(host)
        if found is None:
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
            found = name, name.partition(".")[0]
            if len(self._domain_of) < 1000:  # clients may send any
                self._domain_of[host] = found
        return found

    def _route(self, method: str, path: str) -> tuple[str, dict[str, str] | None] | None:
        """Return the declared route that a path takes, and its parameters."""
        for wanted, template, matches in self._routes:
            if wanted in {method, "ANY"}:
                found = matches(path)
                if found is not None:
                    parameters = {
                        template_name: unquote(value)
                        for template_name, value in zip(_names(template), found.groups(), strict=True)
                    }
                    return f"{wanted} {template}", parameters or None
        return None


_Match = Callable[[str], "re.Match[str] | None"]


def _routes(text: str) -> list[tuple[str, str, _Match]]:
    """Read `GET /items/{id}, ANY /{proxy+}`: fixed paths come first, greedy ones last, as in API Gateway."""
    made: list[tuple[str, str, _Match]] = []
    for item in text.split(","):
        method, _, path = item.strip().partition(" ")
        if not path.strip().startswith("/"):
            continue
        path = path.strip()
        pattern = re.sub(
            r"\\\{([^{}]+?)(\\\+)?\\\}", lambda m: "(.+)" if m[2] else "([^/]+)", re.escape(path)
        )
        made.append((method.upper(), path, re.compile(f"{pattern}/?").fullmatch))
    made.sort(key=lambda item: ("+}" in item[1], item[1].count("{"), item[0] == "ANY"))
    return made


def _names(template: str) -> list[str]:
    return [name.removesuffix("+") for name in re.findall(r"\{([^{}]+)\}", template)]


class _Version2(Front):
    """Function URLs and API Gateway v2 have one form."""

    account = ""
    default_type = b"application/json"

    def event(self, invocation: Invocation) -> dict[str, Any]:
        """See Front."""
        raw_path, _, raw_query = invocation.target.decode("latin-1").partition("?")
        headers: dict[str, str] = {}
        cookies: list[str] | None = None
        for raw_name, raw_value in invocation.headers:
            name = raw_name.decode("latin-1")
            value = _text(raw_value)
            if name == "cookie":
                cookies = [*(cookies or ()), *(item.strip() for item in value.split(";") if item.strip())]
            elif name in headers:
                headers[name] = f"{headers[name]},{value}"
            else:
                headers[name] = value
        client, host = invocation.client, headers.get("host", "")
        if "x-forwarded-for" not in headers:
            headers["x-forwarded-for"] = client
        if "x-forwarded-proto" not in headers:
            headers["x-forwarded-proto"] = invocation.scheme
        if "x-forwarded-port" not in headers:
            headers["x-forwarded-port"] = _port(host, invocation.scheme)
        domain, prefix = self._domain(host)
        method = invocation.method
        route = self._route(method, raw_path) if self._routes else None
        route_key = "$default" if route is None else route[0]
        now = time.time()
        context: dict[str, Any] = {
            "accountId": self.account or self._info.account,
            "apiId": prefix,
            "domainName": domain,
            "domainPrefix": prefix,
            "http": {
                "method": method,
                "path": raw_path,
                "protocol": f"HTTP/{invocation.http_version}",
                "sourceIp": client,
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": invocation.id,
            "routeKey": route_key,
            "stage": "$default",
            "time": _clf(int(now)),
            "timeEpoch": int(now * 1000),
        }
        event: dict[str, Any] = {
            "version": "2.0",
            "routeKey": route_key,
            "rawPath": raw_path,
            "rawQueryString": raw_query,
            "headers": headers,
            "requestContext": context,
            "isBase64Encoded": False,
        }
        if cookies is not None:
            event["cookies"] = cookies
        if raw_query:
            event["queryStringParameters"] = _joined(raw_query)
        if route is not None and route[1] is not None:
            event["pathParameters"] = route[1]
        if invocation.body:
            event["body"], event["isBase64Encoded"] = self._body(invocation)
        return event

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
            headers.append((b"content-type", self.default_type))
        return reply


class FunctionUrl(_Version2):
    """A function URL without authentication."""

    name = "function-url"
    account = "anonymous"


class HttpApi(_Version2):
    """API Gateway v2, an HTTP API."""

    name = "apigw-v2"
    default_type = b"text/plain; charset=utf-8"


class RestApi(Front):
    """API Gateway v1, a REST API with proxy integration."""

    name = "apigw-v1"
    base64_forms = False

    def __init__(self, info: FunctionInfo) -> None:
        super().__init__(info)
        self._stage = info.options.get("http-stage", "Prod")

    def event(self, invocation: Invocation) -> dict[str, Any]:
        """See Front."""
        path, _, raw_query = invocation.target.decode("latin-1").partition("?")
        headers, multi = _both(invocation, _title)
        domain, prefix = self._domain(headers.get("Host", ""))
        route = self._route(invocation.method, path)
        if route is not None:
            resource, parameters = route[0].partition(" ")[2], route[1]
        elif path == "/":
            resource, parameters = "/", None
        else:
            resource, parameters = "/{proxy+}", {"proxy": unquote(path.lstrip("/"))}
        single, many = _query(raw_query)
        now = time.time()
        body, is_base64 = self._body(invocation) if invocation.body else (None, False)
        return {
            "resource": resource,
            "path": path,
            "httpMethod": invocation.method,
            "headers": headers,
            "multiValueHeaders": multi,
            "queryStringParameters": single,
            "multiValueQueryStringParameters": many,
            "pathParameters": parameters,
            "stageVariables": None,
            "requestContext": {
                "accountId": self._info.account,
                "apiId": prefix,
                "authorizer": None,
                "domainName": domain,
                "domainPrefix": prefix,
                "extendedRequestId": invocation.id,
                "httpMethod": invocation.method,
                "identity": {
                    "accessKey": None,
                    "accountId": None,
                    "caller": None,
                    "cognitoAuthenticationProvider": None,
                    "cognitoAuthenticationType": None,
                    "cognitoIdentityId": None,
                    "cognitoIdentityPoolId": None,
                    "principalOrgId": None,
                    "sourceIp": invocation.client,
                    "user": None,
                    "userAgent": headers.get("User-Agent"),
                    "userArn": None,
                },
                "path": f"/{self._stage}{path}",
                "protocol": f"HTTP/{invocation.http_version}",
                "requestId": invocation.id,
                "requestTime": _clf(int(now)),
                "requestTimeEpoch": int(now * 1000),
                "resourceId": "pelton",
                "resourcePath": resource,
                "stage": self._stage,
            },
            "body": body,
            "isBase64Encoded": is_base64,
        }

    def answer(self, value: Any, payload: Callable[[], bytes]) -> Reply:
        """See Front."""
        reply = strict(value, multi=value.get("multiValueHeaders") if isinstance(value, dict) else None)
        if not any(name == b"content-type" for name, _ in reply.headers):
            reply.headers.append((b"content-type", b"application/json"))
        return reply


class LoadBalancer(Front):
    """An application load balancer with a function as its target group."""

    name = "alb"
    limit_bytes = _ALB_LIMIT_BYTES

    def __init__(self, info: FunctionInfo) -> None:
        super().__init__(info)
        self._multi = info.options.get("http-event-multi-value", "").lower() == "true"
        place = f"arn:aws:elasticloadbalancing:{info.region}:{info.account}"
        self._group = f"{place}:targetgroup/{info.name}/0123456789abcdef"

    def event(self, invocation: Invocation) -> dict[str, Any]:
        """See Front."""
        path, _, raw_query = invocation.target.decode("latin-1").partition("?")
        headers, multi = _both(invocation, str)
        # Parameters stay percent-encoded: that is left to the function.
        pairs = [item.partition("=")[::2] for item in raw_query.split("&") if item]
        body, is_base64 = self._body(invocation) if invocation.body else ("", False)
        event: dict[str, Any] = {
            "requestContext": {"elb": {"targetGroupArn": self._group}},
            "httpMethod": invocation.method,
            "path": path,
        }
        if self._multi:
            many: dict[str, list[str]] = {}
            for name, value in pairs:
                many.setdefault(name, []).append(value)
            event["multiValueQueryStringParameters"] = many
            event["multiValueHeaders"] = multi
        else:
            event["queryStringParameters"] = dict(pairs)
            event["headers"] = headers
        event["body"] = body
        event["isBase64Encoded"] = is_base64
        return event

    def answer(self, value: Any, payload: Callable[[], bytes]) -> Reply:
        """See Front. `statusDescription` is accepted; HTTP/1.1 clients get the usual phrase."""
        multi = value.get("multiValueHeaders") if isinstance(value, dict) and self._multi else None
        reply = strict(value, multi=multi, single=not (self._multi and multi))
        if reply.body and not any(name == b"content-type" for name, _ in reply.headers):
            reply.headers.append((b"content-type", b"application/octet-stream"))
        return reply


# --- requests ---


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _port(host: str, scheme: str) -> str:
    port = host.rpartition(":")[2]
    return port if port.isdecimal() else "443" if scheme == "https" else "80"


_titles: dict[str, str] = {}


def _title(name: str) -> str:
    found = _titles.get(name)
    if found is None:
        found = "-".join(part.capitalize() for part in name.split("-"))
        if len(_titles) < 1000:  # clients may send any
            _titles[name] = found
    return found


def _both(
    invocation: Invocation, spelled: Callable[[str], str]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return headers with their last values, and with all of them."""
    multi: dict[str, list[str]] = {}
    for raw_name, raw_value in invocation.headers:
        multi.setdefault(spelled(raw_name.decode("latin-1")), []).append(_text(raw_value))
    host = multi.get(spelled("host"), [""])[-1]
    multi.setdefault(spelled("x-forwarded-for"), [invocation.client])
    multi.setdefault(spelled("x-forwarded-proto"), [invocation.scheme])
    multi.setdefault(spelled("x-forwarded-port"), [_port(host, invocation.scheme)])
    return {name: values[-1] for name, values in multi.items()}, multi


def _joined(raw_query: str) -> dict[str, str]:
    """Return query parameters, decoded, the values of one name joined by commas."""
    found: dict[str, str] = {}
    for name, value in parse_qsl(raw_query, keep_blank_values=True, errors="replace"):
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def _query(raw_query: str) -> tuple[dict[str, str] | None, dict[str, list[str]] | None]:
    """Return query parameters, decoded: last values, and all values; None for no parameters."""
    many: dict[str, list[str]] = {}
    for name, value in parse_qsl(raw_query, keep_blank_values=True, errors="replace"):
        many.setdefault(name, []).append(value)
    if not many:
        return None, None
    return {name: values[-1] for name, values in many.items()}, many


_clf_last: tuple[int, str] = (0, "")


def _clf(second: int) -> str:
    """Return a time as `09/Apr/2026:12:34:56 +0000`, kept for the rest of the second."""
    global _clf_last
    if _clf_last[0] != second:
        at = time.gmtime(second)
        text = f"{at.tm_mday:02d}/{_MONTHS[at.tm_mon - 1]}/{at.tm_year}:{time.strftime('%H:%M:%S', at)} +0000"
        _clf_last = second, text
    return _clf_last[1]
