"""The Dapr API over HTTP: an ASGI application over `runtime.py`, for one app or for all.

Finds the app that calls, the version and the block by the path, and writes what `http_calls.py` answers; a
Fault becomes its status with an error body. Requests for other apps go to `Invocation` unread. Written
against ASGI itself: a router would cost more than what most calls do.
`cli/` serves it with the caller's `Identify`. Source: contracts, Dapr HTTP, sections 1, 2 and 4.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, unquote_plus

import msgspec

from pelton import log
from pelton.compat.dapr.apps import Identify, RegisteredApp
from pelton.compat.dapr.faults import Code, Fault
from pelton.compat.dapr.http_calls import ABSENT, CALLS, Answer, Request
from pelton.compat.dapr.ports import AsgiReceive, AsgiScope, AsgiSend
from pelton.compat.dapr.runtime import DaprRuntime

__all__ = ["MOST_CALLS", "HttpApi"]

MOST_CALLS: Final = 5000
"""Calls under way at one port; further ones are refused, so that waiting for a slow backend has a bound."""

_TOKEN: Final = b"dapr-api-token"
_VERSIONS: Final = frozenset({"v1.0", "v1.0-alpha1", "v1.0-alpha2", "v1.0-beta1"})
_OPEN: Final = frozenset({"/v1.0/healthz", "/v1.0/healthz/outbound"})
"""Paths that are answered without a token."""
_PUBLIC: Final = frozenset({("healthz", "GET"), ("metadata", "GET")})
_HEADER_SLOP: Final = 4096
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""What a header may be called; metadata of a binding may have other names."""
_log = log.get(__name__)


class HttpApi:
    """An ASGI application.

    Args:
        runtime: What answers.
        identify: Which app calls.
        own: The app whose port it is: whoever asks for its health needs no token. None for a shared port.
        body_limit_bytes: Largest body.
        header_limit_bytes: Largest head of a request; 4 KiB more are tolerated, as by Go's server.
        allowed_origins: Origins that browsers may call from; `*` for all.
        public: Whether it is the port for probes, which serves health and metadata only.
    """

    def __init__(
        self,
        runtime: DaprRuntime,
        identify: Identify,
        *,
        own: RegisteredApp | None = None,
        body_limit_bytes: int = 4 * 1024 * 1024,
        header_limit_bytes: int = 4096,
        allowed_origins: Sequence[str] = ("*",),
        public: bool = False,
    ) -> None:
        self._runtime = runtime
        self._identify = identify
        self._own = own
        self._calls = 0
        self._limit = body_limit_bytes
        self._header_limit = header_limit_bytes + _HEADER_SLOP
        self._origins = frozenset(allowed_origins)
        self._public = public

    async def __call__(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        if self._calls >= MOST_CALLS:
            await _send(send, 503, b"too many calls are under way", [(b"retry-after", b"1")])
            return
        self._calls += 1
        try:
            await self._serve(scope, receive, send)
        finally:
            self._calls -= 1

    async def _serve(self, scope: AsgiScope, receive: AsgiReceive, send: AsgiSend) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is not None:
            if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                await _send(send, 204, b"", self._cors(origin, headers))
                return
            send = _with_headers(send, self._cors(origin, headers))
        try:
            answer = await self._answer(scope, headers, receive, send)
        except Fault as fault:
            answer = _refusal(fault)
        except asyncio.CancelledError:
            raise
        except _GoneError:
            return
        except Exception as exc:
            _log.exception("%s %s", scope["method"], scope["path"])
            answer = _refusal(
                Fault(
                    f"{type(exc).__name__} in the runtime; its log says more",
                    code=Code.INTERNAL,
                    status=500,
                    error_code="ERR_INTERNAL",
                )
            )
        if answer is not None:
            await _send(send, answer.status, answer.body, _headers(answer))

    async def _answer(
        self, scope: AsgiScope, headers: dict[bytes, bytes], receive: AsgiReceive, send: AsgiSend
    ) -> Answer | None:
        """Return the answer, None where it has been sent."""
        size = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        if size > self._header_limit:
            return Answer(status=431, body=b"Request Header Fields Too Large", content_type="text/plain")
        path: str = scope["raw_path"].decode("latin-1")
        method: str = scope["method"]
        caller = self._identify(headers.get(_TOKEN, b"").decode("latin-1"))
        if caller is None:
            if method != "GET" or path.rstrip("/") not in _OPEN or self._own is None:
                return Answer(status=401, body=b"invalid api token", content_type="text/plain")
            caller = self._own
        segments = [part for part in path.split("/") if part]
        version = segments[0] if segments else ""
        block = segments[1] if len(segments) > 1 and version in _VERSIONS else ""
        target = _target(headers)
        if self._public and (block, method) not in _PUBLIC:
            raise _not_found(path)
        if block == "invoke" or (target and not block):
            await self._invoke(caller, target, path, scope, receive, send)
            return None
        if not block:
            raise _not_found(path)
        call = CALLS.get((block, method))
        if call is None:
            if block in ABSENT:
                raise ABSENT[block]()
            if any(known == block for known, _ in CALLS):
                return Answer(status=405, body=b"method not allowed", content_type="text/plain")
            raise _not_found(path)
        if not caller.app.configuration.serves(call.group, "http", version):
            raise _not_found(path)
        query = (
            parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            if scope["query_string"]
            else []
        )
        return await call.answer(
            self._runtime,
            caller,
            Request(
                method=method,
                version=version,
                path=[unquote_plus(part) for part in segments[2:]],  # as Dapr: `+` is a blank, `%2B` a plus
                query=query,
                headers=headers,
                body=await self._body(headers, receive) if call.reads else b"",
            ),
        )

    async def _invoke(
        self,
        caller: RegisteredApp,
        target: str,
        path: str,
        scope: AsgiScope,
        receive: AsgiReceive,
        send: AsgiSend,
    ) -> None:
        if self._runtime.invocation is None or not caller.app.configuration.serves("invoke", "http"):
            raise _not_found(path)
        method_path = path.lstrip("/")
        at = path.find("/invoke/")
        if path.lstrip("/").partition("/")[0] in _VERSIONS and at > 0:
            # The target may be a URL of its own, encoded or not; the method begins behind `/method/`.
            found, mark, method_path = path[at + len("/invoke/") :].partition("/method/")
            if not mark:
                found = found.removesuffix("/method")
            target = unquote(found).strip("/") if found.strip("/") else target
        if not target:
            raise Fault(
                "failed getting app id either from the URL path or the header dapr-app-id",
                code=Code.NOT_FOUND,
                status=404,
                error_code="ERR_DIRECT_INVOKE",
            )
        scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != _TOKEN]}
        begun = False

        async def noting(message: dict[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._runtime.invocation.invoke_http(
                caller, target=target, method_path=method_path, scope=scope, receive=receive, send=noting
            )
        except Exception as exc:
            if not begun:
                raise
            # Too late for another status: the server closes the connection, which tells the client.
            _log.warning("the answer of %s broke off: %s", target, exc)
            raise _GoneError from exc

    async def _body(self, headers: dict[bytes, bytes], receive: AsgiReceive) -> bytes:
        length = headers.get(b"content-length")
        if length is not None and length.isdigit() and int(length) > self._limit:
            raise self._too_large()
        message = await receive()
        if message["type"] != "http.request":
            raise _GoneError
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            if len(body) > self._limit:
                raise self._too_large()
            return body
        parts, size = [body], len(body)
        while message.get("more_body", False):
            message = await receive()
            if message["type"] != "http.request":
                raise _GoneError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._limit:
                raise self._too_large()
        return b"".join(parts)

    def _too_large(self) -> Fault:
        return Fault(
            f"the body is larger than {self._limit} bytes",
            code=Code.RESOURCE_EXHAUSTED,
            status=413,
            error_code="ERR_BODY_TOO_LARGE",
        )

    def _cors(self, origin: bytes, headers: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        text = origin.decode("latin-1")
        if "*" not in self._origins and text not in self._origins:
            return []
        found = [(b"access-control-allow-origin", b"*" if "*" in self._origins else origin)]
        if b"access-control-request-method" in headers:
            found.append((b"access-control-allow-methods", headers[b"access-control-request-method"]))
            asked = headers.get(b"access-control-request-headers")
            if asked:
                found.append((b"access-control-allow-headers", asked))
        if "*" not in self._origins:
            found.append((b"vary", b"origin"))
        return found


class _GoneError(Exception):
    """The client went away before it had said everything, or an answer broke off in its middle."""


def _target(headers: dict[bytes, bytes]) -> str:
    """Return the app that a request is for by its headers, "" for none."""
    found = headers.get(b"dapr-app-id")
    if found is not None:
        return found.decode("latin-1").strip()
    given = headers.get(b"authorization", b"")
    if given[:6].lower() == b"basic ":
        try:
            user, _, word = base64.b64decode(given[6:], validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return ""
        return word if user == "dapr-app-id" else ""
    return ""


def _not_found(path: str) -> Fault:
    return Fault(f"there is nothing at {path}", code=Code.NOT_FOUND, status=404, error_code="ERR_NOT_FOUND")


def _refusal(fault: Fault) -> Answer:
    extra = fault.metadata if not fault.reason else {}
    return Answer(status=fault.status, body=msgspec.json.encode(fault.body()), headers=[*extra.items()])


def _headers(answer: Answer) -> list[tuple[bytes, bytes]]:
    found = []
    if answer.body:
        found.append((b"content-type", answer.content_type.encode()))
    if answer.status != 204:
        found.append((b"content-length", str(len(answer.body)).encode()))
    for name, value in answer.headers:
        if value.isprintable() and _NAME.fullmatch(name):
            found.append((name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace")))
    return found


async def _send(send: AsgiSend, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: AsgiSend, extra: list[tuple[bytes, bytes]]) -> AsgiSend:
    async def wrapped(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await send(message)

    return wrapped
