"""Web actions: from an HTTP request to an action's parameters, and from its result to an answer. Pure.

`front.py` uses it for a function's own address and for /api/v1/web.
Source: `faas-conventions` contract, section 6.3; apache/openwhisk (WebActions). Decided: svg is text unless
it is base64, and a JSON text as body is sent as it is where the original would take `true` for base64; an
action's own CORS header replaces the default one instead of standing beside it.
"""

from __future__ import annotations

import base64
import binascii
import json
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from pelton.compat.openwhisk.activation import LIMIT_BYTES, dump, too_long
from pelton.model.invocation import Headers, Invocation, Reply

__all__ = [
    "EXTENSIONS",
    "RESERVED",
    "Refused",
    "arguments",
    "cors",
    "decoded_path",
    "http",
    "is_binary",
    "problem",
    "project",
    "query_of",
    "split_name",
]

EXTENSIONS: Final = ("http", "json", "html", "svg", "text")
RESERVED: Final = frozenset(
    {"__ow_method", "__ow_headers", "__ow_path", "__ow_user", "__ow_query", "__ow_body"}
)
_NOT_ALLOWED: Final = "Request defines parameters that are not allowed (e.g., reserved properties)."
_NO_PROPERTY: Final = "Response does not include requested property."
_NO_TYPE: Final = "Response did not specify a known content-type."
_OTHER_TYPE: Final = "Response type in header did not match generated content type."
_JSON: Final = (b"content-type", b"application/json")
_TEXT_TYPES: Final = frozenset(
    {
        "application/atom+xml",
        "application/ecmascript",
        "application/graphql",
        "application/javascript",
        "application/rss+xml",
        "application/soap+xml",
        "application/typescript",
        "application/x-javascript",
        "application/x-www-form-urlencoded",
        "application/x-yaml",
        "application/xhtml+xml",
        "application/xml",
        "application/yaml",
        "image/svg+xml",
    }
)
_CORS: Final[Headers] = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"OPTIONS, GET, DELETE, POST, PUT, HEAD, PATCH"),
    (
        b"access-control-allow-headers",
        b"Authorization, Origin, X-Requested-With, Content-Type, Accept, User-Agent",
    ),
]


class Refused(Exception):
    """A request that reaches no action.

    Args:
        status: HTTP status.
        text: What the client is told.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def problem(status: int, text: str, code: str) -> Reply:
    """Return the platform's error answer; `code` is the invocation's id, by which the log has it."""
    return Reply(status, [_JSON], dump({"error": text, "code": code}), error=text)


def split_name(name: str) -> tuple[str, str]:
    """Return (action, extension) of `action.ext`; no known extension is `http`."""
    stem, dot, extension = name.rpartition(".")
    return (stem, extension) if dot and stem and extension in EXTENSIONS else (name, "http")


def cors(invocation: Invocation) -> Headers:
    """Return the headers of every answer of a web action that does not answer OPTIONS itself."""
    for name, value in invocation.headers:
        if name == b"access-control-request-headers":
            return [*_CORS[:2], (b"access-control-allow-headers", value)]
    return _CORS


def is_binary(media: str) -> bool:
    """Tell whether a media type (lower case, no parameters) is carried as base64."""
    if media.startswith("text/") or media in _TEXT_TYPES or _is_json(media):
        return False
    return not media.endswith("+xml")


def _is_json(media: str) -> bool:
    return media == "application/json" or media.endswith("+json")


def query_of(target: bytes) -> str:
    """Return a request target's query, undecoded."""
    return target.partition(b"?")[2].decode("latin-1")


# --- request ---


def arguments(
    invocation: Invocation,
    path: str,
    *,
    raw: bool = False,
    user: str = "",
    protected: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Return the parameters that a request makes, without the action's own.

    Args:
        invocation: The request, with its whole body.
        path: What follows the action's name, decoded; "" for nothing.
        raw: Whether the action wants the request as it is.
        user: The caller's namespace; "" for nobody.
        protected: Names of parameters that may not be set.

    Raises:
        Refused: A reserved or final parameter is set, the body is no JSON, or it is too long.
    """
    body = invocation.body
    headers = _headers(invocation.headers)
    query = query_of(invocation.target)
    found: dict[str, Any] = {}
    if raw:
        found["__ow_query"] = query
        found["__ow_body"] = _raw_body(body, _media(headers)) if body else ""
    else:
        if query:
            found.update(_allowed(_parameters(query), protected))
        if body:
            found.update(_spread(body, _media(headers), protected))
    found["__ow_method"] = invocation.method.lower()
    found["__ow_headers"] = headers
    found["__ow_path"] = path
    if user:
        found["__ow_user"] = user
    return found


def _parameters(query: str) -> dict[str, Any]:
    """Return a query's parameters, the last of each name."""
    if "%" in query or "+" in query:
        return dict(parse_qsl(query, keep_blank_values=True))
    found: dict[str, Any] = {}  # nothing is encoded, as in most queries: a quarter of the time
    for pair in query.split("&"):
        if pair:
            name, _, value = pair.partition("=")
            found[name] = value
    return found


def _headers(given: Headers) -> dict[str, str]:
    found = {name.decode("latin-1"): value.decode("latin-1") for name, value in given}
    if len(found) == len(given):
        return found
    found = {}
    for name, value in given:  # repeated ones are joined
        key, text = name.decode("latin-1"), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _media(headers: dict[str, str]) -> str:
    return headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()


def _allowed(members: dict[str, Any], protected: frozenset[str]) -> dict[str, Any]:
    if not (RESERVED.isdisjoint(members) and protected.isdisjoint(members)):
        raise Refused(400, _NOT_ALLOWED)
    return members


def _spread(body: bytes, media: str, protected: frozenset[str]) -> dict[str, Any]:
    """Return what a body adds: the members of an object or a form, anything else as __ow_body."""
    if len(body) > LIMIT_BYTES:
        raise Refused(413, f"Request larger than allowed: {len(body)} > {LIMIT_BYTES} bytes.")
    if _is_json(media):
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise Refused(400, f"The request content was malformed: {exc}") from exc
        return _allowed(value, protected) if isinstance(value, dict) else {"__ow_body": value}
    if media == "application/x-www-form-urlencoded":
        form = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
        return _allowed(dict(form), protected)
    return {"__ow_body": _raw_body(body, media)}


def _raw_body(body: bytes, media: str) -> str:
    if len(body) > LIMIT_BYTES:
        raise Refused(413, f"Request larger than allowed: {len(body)} > {LIMIT_BYTES} bytes.")
    if is_binary(media) or media == "application/json":
        return base64.b64encode(body).decode()
    return body.decode("utf-8", "replace")


# --- answer ---


def project(extension: str, value: Any) -> Reply:
    """Return the answer that an extension makes of a result, or of what is in its `error`.

    Raises:
        Refused: The extension cannot show it.
    """
    if extension == "http":
        return http(value)
    if extension == "json":
        if not isinstance(value, dict | list):
            raise Refused(400, _invalid("application/json"))
        return Reply(200, [_JSON], _limited(_json(value)))
    if extension == "text":
        return _as_text(value)
    media = "text/html" if extension == "html" else "image/svg+xml"
    found = value.get("body", value.get(extension)) if isinstance(value, dict) else value
    if not isinstance(found, str):
        raise Refused(400, _invalid(media))
    kind = f"{media}; charset=UTF-8" if extension == "html" else media
    return Reply(200, [(b"content-type", kind.encode())], _limited(found.encode("utf-8", "replace")))


def _invalid(media: str) -> str:
    return f"Response is not valid '{media}'."


def _limited(data: bytes) -> bytes:
    if len(data) > LIMIT_BYTES:
        raise Refused(502, too_long(len(data)))
    return data


def _json(value: Any) -> bytes:
    try:
        return dump(value)
    except (TypeError, ValueError, RecursionError) as exc:
        raise Refused(400, f"The action did not produce a valid JSON response: {exc}") from exc


def _as_text(value: Any) -> Reply:
    if isinstance(value, dict):
        if "body" not in value and "text" not in value:
            raise Refused(404, _NO_PROPERTY)
        value = value.get("body", value.get("text"))
    if isinstance(value, dict | list):
        _json(value)  # says what JSON cannot hold
        text = json.dumps(value, ensure_ascii=False, indent=2)
    else:
        text = value if isinstance(value, str) else _json(value).decode()
    data = _limited(text.encode("utf-8", "replace"))
    return Reply(200, [(b"content-type", b"text/plain; charset=UTF-8")], data)


def http(value: Any) -> Reply:
    """Return the answer that `headers`, `statusCode` and `body` of a result describe.

    Raises:
        Refused: One of them is none.
    """
    if not isinstance(value, dict):
        raise Refused(400, _invalid("message/http"))
    headers: Headers = []
    kind = ""
    given = value.get("headers")
    if given is not None:
        if not isinstance(given, dict):
            raise Refused(400, _invalid("message/http"))
        for name, item in given.items():
            for text in (item,) if type(item) is str else _header_values(item):
                if name.lower() == "content-type":
                    kind = kind or text
                else:
                    headers.append(_header(name, text))
    body = value.get("body")
    status = _status(value["statusCode"]) if "statusCode" in value else 0
    if body is None or body == "":
        return Reply(status or 204, headers)
    if isinstance(body, str):
        kind, data = _text_body(body, kind)
    else:
        kind, data = _json_body(body, kind)
    headers.append(_header("content-type", kind))
    return Reply(status or 200, headers, _limited(data))


def _status(value: Any) -> int:
    if type(value) is int and 200 <= value <= 599:
        return value
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 200 <= value <= 599:
        raise Refused(400, _invalid("message/http"))
    return value


def _header_values(item: Any) -> list[str]:
    """Return a header's values: an array is one per item."""
    if isinstance(item, str):
        return [item]
    if isinstance(item, bool):
        return ["true" if item else "false"]
    if isinstance(item, int | float):
        return [str(item)]
    if isinstance(item, list | tuple):
        return [text for one in item for text in _header_values(one)]
    raise Refused(400, _invalid("message/http"))


def _header(name: str, value: str) -> tuple[bytes, bytes]:
    return _short_header(name, value) if len(value) <= 128 else _checked_header(name, value)


def _checked_header(name: str, value: str) -> tuple[bytes, bytes]:
    if not name or any(char in name or char in value for char in "\r\n\0") or not name.isascii():
        raise Refused(400, _invalid("message/http"))
    return name.lower().encode(), value.encode("latin-1", "replace")


_short_header = lru_cache(maxsize=256)(_checked_header)
"""Actions say the same few headers again and again."""


@lru_cache(maxsize=64)
def _text_kind(kind: str) -> str:
    """Return the content-type of text that goes out as it is; "" for media types that need another look."""
    media = _known(kind)
    if is_binary(media) or _is_json(media) or media == "image/svg+xml":
        return ""
    return kind if "charset" in kind.lower() else f"{kind}; charset=UTF-8"


def _known(kind: str) -> str:
    """Return the media type of a content-type header."""
    media = kind.partition(";")[0].strip().lower()
    main, slash, sub = media.partition("/")
    if not slash or not main or not sub or " " in media:
        raise Refused(400, _NO_TYPE)
    return media


def _json_body(body: Any, kind: str) -> tuple[str, bytes]:
    if kind and not _is_json(_known(kind)):
        raise Refused(400, _OTHER_TYPE)
    return kind or "application/json", _json(body)


def _text_body(body: str, kind: str) -> tuple[str, bytes]:
    if not kind:
        return "text/html; charset=UTF-8", body.encode("utf-8", "replace")
    as_text = _text_kind(kind)
    if as_text:
        return as_text, body.encode("utf-8", "replace")
    media = _known(kind)
    if is_binary(media):
        try:
            return kind, base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise Refused(400, _OTHER_TYPE) from exc
    data = body.encode("utf-8", "replace")
    if _is_json(media):
        return kind, _json_text(body, data)
    return kind, data if "<" in body else _decoded(body, data)  # image/svg+xml


def _json_text(body: str, data: bytes) -> bytes:
    """Return JSON that is given as text, or as base64 of text."""
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return _decoded(body, data)
    return data


def _decoded(body: str, data: bytes) -> bytes:
    try:
        return base64.b64decode(body.strip(), validate=True) or data
    except (binascii.Error, ValueError):
        return data


def decoded_path(segments: bytes) -> str:
    """Return path text, percent-decoded."""
    return unquote(segments.decode("latin-1"), errors="replace")
