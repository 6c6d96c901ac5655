"""What Lambda's HTTP fronts have in common: their words for failures, routes, bodies, times, parameters.

`front_v2.py` (function URL, API Gateway v2) and `front_v1.py` (API Gateway v1, load balancer) build on it;
`fronts.py` lists them. What all answers share is `answers.py`. Pure but for the clock.
Source: `faas-conventions` contract, section 2.6. Decided where it is silent: paths stay percent-encoded as
they came; a body is text when its media type says so and it is UTF-8, else base64; `Host` gives the domain
names; `X-Forwarded-*` are filled in where no gateway did.
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
    decoded,
    read_prelude,
    split_prelude,
)
from pelton.compat.aws_lambda.calls import JSON, PAYLOAD_LIMIT_BYTES, UNSET, LambdaCall, LambdaResult, encode
from pelton.compat.aws_lambda.context import FunctionInfo
from pelton.model.invocation import Invocation, Reply

__all__ = ["Front", "clf", "parameters", "text_of"]

_TEXT_TYPES: Final = re.compile(r"text/|application/(json|javascript|xml)\b|[^;]*\+(json|xml)\b", re.I)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_KEPT: Final = 1000
"""Entries of caches whose keys clients choose."""


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


class Front:
    """A way from an HTTP request to an invocation and back.

    Args:
        info: Who the function is.
    """

    name = ""
    limit_bytes = PAYLOAD_LIMIT_BYTES
    base64_forms = True

    def __init__(self, info: FunctionInfo) -> None:
        self.info = info
        self._words = _WORDS[self.name]
        self.routes = _routes(info.options.get("http-routes", ""))
        self._domains: dict[str, tuple[str, str, str]] = {}

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

    def body(self, invocation: Invocation) -> tuple[str, bool]:
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

    def domain(self, host: str) -> tuple[str, str, str]:
        """Return the domain name of a Host header, its first label, and its port; "" for none."""
        found = self._domains.get(host)
        if found is None:
            name, _, port = host.rpartition(":")
            if not name or not port.isdecimal():
                name, port = host, ""
            found = name, name.partition(".")[0], port
            if len(self._domains) < _KEPT:
                self._domains[host] = found
        return found

    def route(self, method: str, path: str) -> tuple[str, dict[str, str] | None] | None:
        """Return the declared route that a path takes, and its parameters."""
        for wanted, template, matches in self.routes:
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


def text_of(raw: bytes) -> str:
    """Return a header's value: UTF-8, or Latin-1 when it is none."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def parameters(raw_query: str) -> list[tuple[str, str]]:
    """Return query parameters, decoded, in order."""
    if "%" in raw_query or "+" in raw_query:
        return parse_qsl(raw_query, keep_blank_values=True, errors="replace")
    return [item.partition("=")[::2] for item in raw_query.split("&") if item]


_clf_last: tuple[int, str] = (0, "")


def clf(second: int) -> str:
    """Return a time as `09/Apr/2026:12:34:56 +0000`, kept for the rest of the second."""
    global _clf_last
    if _clf_last[0] != second:
        at = time.gmtime(second)
        text = f"{at.tm_mday:02d}/{_MONTHS[at.tm_mon - 1]}/{at.tm_year}:{time.strftime('%H:%M:%S', at)} +0000"
        _clf_last = second, text
    return _clf_last[1]
