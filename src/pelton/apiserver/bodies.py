"""Reading request bodies: size limit, JSON and YAML, and errors that say what is wrong with them.

Called by `rest.py`. Source: contracts operator-webhook.md 6.1 (3 MiB).
"""

from __future__ import annotations

from typing import Any

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError
from starlette.requests import Request

from pelton.apiserver import protobuf
from pelton.apiserver.status import RefusedError
from pelton.errors import PayloadTooLargeError, ProtocolError

__all__ = ["LIMIT_BYTES", "content_type", "parse", "read"]

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
    if media and media not in ("application/json", "*/*") and not media.endswith("+json"):
        raise RefusedError(f"media type {media!r} is not served", status=415, hint="Send JSON or YAML.")
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"the body is not JSON: {error}") from error


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
