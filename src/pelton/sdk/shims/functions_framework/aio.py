"""Serves `functions_framework.aio`: the decorators whose functions take a Starlette request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pelton.sdk.registry import ASGI_FUNCTIONS, SIGNATURES

__all__ = ["cloud_event", "http"]

F = TypeVar("F", bound=Callable[..., Any])


def http(func: F) -> F:
    """Mark a function that takes a request and returns an answer."""
    SIGNATURES[func.__name__] = "http"
    ASGI_FUNCTIONS.add(func.__name__)
    return func


def cloud_event(func: F) -> F:
    """Mark a function that takes a CloudEvent."""
    SIGNATURES[func.__name__] = "cloudevent"
    ASGI_FUNCTIONS.add(func.__name__)
    return func
