"""Pelton: event-driven functions on one machine and on Kubernetes with the same manifests.

The names below are for function authors and load on first use: every process imports this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pelton.sdk.context import FunctionOut, UserContext
    from pelton.sdk.event import BindingRequest, CloudEvent, TopicEvent
    from pelton.sdk.hooks import Hook
    from pelton.sdk.request import HTTPError, Request
    from pelton.sdk.response import Response

__version__ = "0.1.0"

__all__ = [
    "BindingRequest",
    "CloudEvent",
    "FunctionOut",
    "HTTPError",
    "Hook",
    "Request",
    "Response",
    "TopicEvent",
    "UserContext",
]

_HOMES = {
    "BindingRequest": "pelton.sdk.event",
    "CloudEvent": "pelton.sdk.event",
    "FunctionOut": "pelton.sdk.context",
    "HTTPError": "pelton.sdk.request",
    "Hook": "pelton.sdk.hooks",
    "Request": "pelton.sdk.request",
    "Response": "pelton.sdk.response",
    "TopicEvent": "pelton.sdk.event",
    "UserContext": "pelton.sdk.context",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'pelton' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value
