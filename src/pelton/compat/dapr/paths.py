"""Paths of methods that apps call: put in order, and as a request line has them. Pure.

Used by `invocation.py` for every call over HTTP; ways past the runtime (`plan/dapr_routing.py`) leave to it
what has to be put in order.
Source: contracts, Dapr runtime, section 6 (HTTP app).
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote

__all__ = ["clean", "encoded"]

_QUERY: Final = "/%?:@!$&'()*+,;=~[]"
"""What stands in a query as it is."""


def clean(path: str) -> str:
    """Return an absolute path without empty and dot segments, so that it stays below the app's root.

    An encoded slash is a slash, as with Dapr: an app that decodes it would find dot segments behind it.
    """
    kept: list[str] = []
    path = path.replace("%2F", "/").replace("%2f", "/")
    for segment in path.split("/"):
        word = unquote(segment)
        if word == "..":
            if kept:
                kept.pop()
        elif word not in ("", "."):
            kept.append(segment)
    return "/" + "/".join(kept) + ("/" if kept and path.endswith("/") else "")


def encoded(path: str, query: str) -> bytes:
    """Return a path and a query as a request line has them: what no URL may hold is encoded.

    Callers over gRPC write what they like, also the end of a line.
    """
    target = quote(path, safe="/%:@!$&'()*+,;=~")
    return (target + (f"?{quote(query, safe=_QUERY)}" if query else "")).encode()
