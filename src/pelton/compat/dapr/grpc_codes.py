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
    """Return `{code, message, details}`.

    Args:
        code: gRPC code.
        message: What the app said.
        trailers: (key, value) pairs of the trailing metadata; `grpc-status-details-bin` becomes a detail.
    """
    details: list[dict[str, Any]] = []
    for key, value in trailers or ():
        if key == "grpc-status-details-bin":
            raw = value if isinstance(value, bytes) else str(value).encode("latin-1")
            details.append(
                {"@type": "type.googleapis.com/google.rpc.Status", "value": base64.b64encode(raw).decode()}
            )
    return msgspec.json.encode({"code": code, "message": message, "details": details})
