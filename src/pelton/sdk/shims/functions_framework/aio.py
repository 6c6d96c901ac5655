"""Serves `functions_framework.aio`: the decorators for coroutine functions; the same marks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pelton.sdk.registry import SIGNATURES

__all__ = ["cloud_event", "http"]

F = TypeVar("F", bound=Callable[..., Any])


def http(func: F) -> F:
    """Mark a function that takes a request and returns an answer."""
    SIGNATURES[func.__name__] = "http"
    return func


def cloud_event(func: F) -> F:
    """Mark a function that takes a CloudEvent."""
    SIGNATURES[func.__name__] = "cloudevent"
    return func
