"""Requests and answers of HTTP functions: the library's HttpRequest built lazily, HttpResponse to Reply.

The request is a subclass of the library's own, so annotations and isinstance hold; nothing of an Invocation
is converted before user code asks for it, which makes it several times cheaper than the original.
Source: azure-functions (public surface); `faas-conventions` contract, section 3.1. Repeated query fields and
headers are joined by commas, as the host does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import parse_qsl

from pelton.model.invocation import Headers, Invocation, Reply

__all__ = ["headers_of", "query_of", "request_class", "to_reply", "url_of"]

_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"connection"})
"""The worker frames answers itself; what a WSGI app's middleware copies here would contradict it."""


def _joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in pairs:
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def url_of(invocation: Invocation) -> str:
    """Return the absolute URL that a client asked for."""
    host = invocation.header(b"host") or b"localhost"
    return f"{invocation.scheme}://{host.decode('latin-1')}{invocation.target.decode('latin-1')}"


def query_of(invocation: Invocation) -> dict[str, str]:
    """Return the query fields, name -> value."""
    query = invocation.target.partition(b"?")[2]
    return _joined(parse_qsl(query.decode("latin-1"), keep_blank_values=True)) if query else {}


def headers_of(invocation: Invocation) -> dict[str, str]:
    """Return the headers, lower-case name -> value."""
    return _joined((name.decode("latin-1"), value.decode("latin-1")) for name, value in invocation.headers)


def request_class(library: Any) -> Any:
    """Return a class of requests made as `cls(invocation, route_params)`.

    Args:
        library: The module `azure.functions`.
    """
    base: Any = library.http.HttpRequest  # what the original hands over, a subclass of library.HttpRequest
    headers_class = type(library.HttpRequest("GET", "/", body=b"").headers)

    class HttpRequest(base):  # type: ignore[misc]  # the library has no types here
        """The library's request on top of an Invocation."""

        def __init__(self, invocation: Invocation, route_params: dict[str, str]) -> None:
            # the base class's __init__ would convert everything at once
            self._invocation = invocation
            self._route_params = route_params

        @property
        def method(self) -> str:
            return self._invocation.method

        @property
        def url(self) -> str:
            return url_of(self._invocation)

        @property
        def headers(self) -> Any:
            made = self.__dict__.get("_headers")
            if made is None:
                made = self._headers = headers_class(headers_of(self._invocation))
            return made

        @property
        def params(self) -> Any:
            made = self.__dict__.get("_params")
            if made is None:
                made = self._params = MappingProxyType(query_of(self._invocation))
            return made

        @property
        def route_params(self) -> Any:
            return MappingProxyType(self._route_params)

        def get_body(self) -> bytes:
            return self._invocation.body

        def get_json(self) -> Any:
            try:
                return json.loads(self._invocation.body.decode())
            except ValueError as exc:
                raise ValueError("HTTP request does not contain valid JSON data") from exc

        @property
        def form(self) -> Any:
            return self._whole().form

        @property
        def files(self) -> Any:
            return self._whole().files

        def _whole(self) -> Any:
            """Return the library's plain request, for what it parses itself."""
            made = self.__dict__.get("_plain")
            if made is None:
                made = self._plain = library.HttpRequest(
                    self.method,
                    self.url,
                    headers=headers_of(self._invocation),
                    params={},
                    body=self._invocation.body,
                )
            return made

    return HttpRequest


def to_reply(value: Any, response_class: Any) -> Reply:
    """Turn what an HTTP function answered into a Reply.

    Args:
        value: HttpResponse, str, or None (204).
        response_class: The library's HttpResponse.

    Raises:
        TypeError: Anything else.
    """
    if isinstance(value, response_class):
        headers: Headers = []
        typed = False
        for name, text in value.headers.items():
            key = name.lower().encode("latin-1")
            if key in _FRAMING:
                continue
            typed = typed or key == b"content-type"
            headers.append((key, text.encode("latin-1", "replace")))
        if not typed:
            kind = value.mimetype
            shown = f"{kind}; charset={value.charset}" if kind.startswith("text/") else kind
            headers.append((b"content-type", shown.encode("latin-1")))
        return Reply(int(value.status_code), headers, value.get_body() or b"")
    if isinstance(value, str):
        return Reply(200, [_TEXT], value.encode())
    if value is None:
        return Reply(204, [])
    raise TypeError(
        f"an HTTP function returned a {type(value).__name__}; return func.HttpResponse, str or None"
    )
