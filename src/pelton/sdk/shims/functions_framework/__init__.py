"""Serves `import functions_framework` where the function's environment has no real one.

The decorators only note what the function is; Pelton calls it. OpenFunction's `context` and `openfunction`
packages below are served in any case (`dataplane/loader.py` decides), since Pelton makes those objects.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

from pelton.sdk.registry import INPUT_TYPES, SIGNATURES, errorhandler

__all__ = ["cloud_event", "errorhandler", "http", "typed"]

F = TypeVar("F", bound=Callable[..., Any])


def http(func: F) -> F:
    """Mark a function that takes a request and returns an answer."""
    SIGNATURES[func.__name__] = "http"
    return func


def cloud_event(func: F) -> F:
    """Mark a function that takes a CloudEvent."""
    SIGNATURES[func.__name__] = "cloudevent"
    return func


def typed(*args: Any) -> Any:
    """Mark a function that takes an object of its own class: `@typed`, or `@typed(Class)`."""
    plain = len(args) == 1 and isinstance(args[0], FunctionType)
    input_type = None if plain or not args else args[0]

    def mark(func: F) -> F:
        SIGNATURES[func.__name__] = "typed"
        INPUT_TYPES[func.__name__] = input_type
        return func

    return mark(args[0]) if plain else mark
