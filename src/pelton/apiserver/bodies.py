"""Reading request bodies: size limit, JSON and YAML, and errors that say what is wrong with them.

Called by `rest.py`. Source: contracts operator-webhook.md 6.1 (3 MiB).
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError
from starlette.requests import Request

from pelton.apiserver import protobuf
from pelton.apiserver.status import RefusedError
from pelton.errors import PayloadTooLargeError, ProtocolError

__all__ = ["LIMIT_BYTES", "content_type", "duplicates", "parse", "read"]

LIMIT_BYTES = 3 << 20
"""Largest body accepted."""

_MOST_NODES = (
    200_000  # a short YAML text can name its anchors into billions of nodes; 3 MiB of JSON has fewer
)
_DEEPEST = 100
_decoder = msgspec.json.Decoder()


class _Constructor(SafeConstructor):
    """Kubernetes objects are JSON: a date in YAML is the text that was written."""


# On an own class: the table of constructors is shared by all users of the class.
_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def content_type(request: Request) -> str:
    """Return the media type without parameters, lower case; "" when there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read(request: Request) -> bytes:
    """Return the body; raises PayloadTooLargeError as soon as it exceeds the limit."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > LIMIT_BYTES:
        raise _too_large()
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > LIMIT_BYTES:
            raise _too_large()
        parts.append(part)
    return b"".join(parts)


def parse(body: bytes, media: str) -> Any:
    """Return the JSON value of a body.

    Args:
        body: The bytes.
        media: Media type; YAML where it says so, JSON where it says nothing.

    Raises:
        RefusedError: 415, a media type that is not served (CBOR, Protobuf of other than built-in kinds).
        ProtocolError: Not JSON or not YAML.
    """
    if media.endswith(("/yaml", "+yaml", "/x-yaml")):
        return _yaml(body)
    if media == protobuf.MEDIA and (obj := protobuf.decode(body)) is not None:
        return obj
    if not _is_json(media):
        raise RefusedError(f"media type {media!r} is not served", status=415, hint="Send JSON or YAML.")
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"the body is not JSON: {error}") from error


def duplicates(body: bytes, media: str) -> list[str]:
    """Return `duplicate field "<path>"` per field that a JSON body has twice, in order; [] for other bodies.

    Decoding keeps the last of them, silently; asked only when a client wants to be told.
    """
    if not _is_json(media) or body.count(b'"') < 4:
        return []
    found: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> _Pairs:
        return _Pairs(items)

    try:
        _note_duplicates(json.loads(body, object_pairs_hook=pairs), "", found)
    except (ValueError, RecursionError):
        return []  # told by `parse`
    return found


class _Pairs:
    """A JSON object with all its fields, repeated ones too."""

    __slots__ = ("items",)

    def __init__(self, items: list[tuple[str, Any]]) -> None:
        self.items = items


def _note_duplicates(value: Any, path: str, found: list[str]) -> None:
    if isinstance(value, _Pairs):
        seen: set[str] = set()
        for key, entry in value.items:
            at = f"{path}.{key}" if path else key
            if key in seen:
                found.append(f'duplicate field "{at}"')
            seen.add(key)
            _note_duplicates(entry, at, found)
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            _note_duplicates(entry, f"{path}[{number}]", found)


def _is_json(media: str) -> bool:
    return not media or media in ("application/json", "*/*") or media.endswith("+json")


def _yaml(body: bytes) -> Any:
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    try:
        value = yaml.load(body)
    except (YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ProtocolError(f"the body is not YAML: {error}") from error
    _count(value, 0, 0)
    return value


def _count(value: Any, count: int, depth: int) -> int:
    count += 1
    if count > _MOST_NODES or depth > _DEEPEST:
        raise ProtocolError("the YAML body expands into too many or too deeply nested values")
    if isinstance(value, dict):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise ProtocolError(f"the YAML key {key!r} is not text; quote it")
            count = _count(entry, count, depth + 1)
    elif isinstance(value, list):
        for entry in value:
            count = _count(entry, count, depth + 1)
    elif value is not None and not isinstance(value, (str, int, float, bool)):
        raise ProtocolError(f"the YAML value {value!r} has no form in JSON; quote it")
    return count


def _too_large() -> PayloadTooLargeError:
    return PayloadTooLargeError(
        f"the request body exceeds the limit of {LIMIT_BYTES} bytes",
        hint="Split the object, or keep large data outside the manifest.",
    )
