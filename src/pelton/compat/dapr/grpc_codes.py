"""gRPC status codes as HTTP statuses and back, and a gRPC status as proto JSON. Pure.

Used where one app speaks HTTP and the other gRPC.
Source: contracts, Dapr HTTP, section 4. The way back is that table read from the right; 5xx that it does not
have are UNKNOWN, 4xx INVALID_ARGUMENT.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

__all__ = ["grpc_code", "http_status", "status_json"]

_TO_HTTP: Final[Mapping[int, int]] = {
    0: 200,
    1: 408,
    3: 400,
    4: 504,
    5: 404,
    6: 409,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    11: 400,
    12: 501,
    14: 503,
    16: 401,
}
_TO_GRPC: Final[Mapping[int, int]] = {
    400: 3,
    401: 16,
    403: 7,
    404: 5,
    408: 1,
    409: 6,
    429: 8,
    500: 2,
    501: 12,
    503: 14,
    504: 4,
}


def http_status(code: int) -> int:
    """Return the HTTP status of a gRPC code; what has none of its own is 500."""
    return _TO_HTTP.get(code, 500)


def grpc_code(status: int) -> int:
    """Return the gRPC code of an HTTP status; 0 for 100 to 399."""
    if status < 400:
        return 0
    return _TO_GRPC.get(status, 2 if status >= 500 else 3)


def status_json(code: int, message: str, trailers: Iterable[Any] | None = None) -> bytes:
    """Return a status as proto JSON has a google.rpc.Status: `{code, message, details}` without empty parts.

    Args:
        code: gRPC code.
        message: What the app said.
        trailers: (key, value) pairs of the trailing metadata; `grpc-status-details-bin` has the details. One
            of a type that is not known here has its bytes in base64 as `value`.
    """
    written: dict[str, Any] = {"code": code, "message": message}
    raw = next((value for key, value in trailers or () if key == "grpc-status-details-bin"), None)
    if raw:
        written["details"] = _details(raw if isinstance(raw, bytes) else str(raw).encode("latin-1"))
    return msgspec.json.encode({name: value for name, value in written.items() if value})


def _details(raw: bytes) -> list[dict[str, Any]]:
    from google.protobuf import json_format, message  # seldom needed

    from pelton.proto import dapr_status_pb2
    from pelton.proto.dapr_pool import POOL

    try:
        status = dapr_status_pb2.Status.FromString(raw)
    except message.DecodeError:
        return []
    found: list[dict[str, Any]] = []
    for each in status.details:
        try:
            found.append(json_format.MessageToDict(each, descriptor_pool=POOL))
        except (TypeError, message.DecodeError):
            found.append({"@type": each.type_url, "value": base64.b64encode(each.value).decode()})
    return found
