"""Serves `import functions_framework`: Google's decorators, and OpenFunction's `context` package.

The decorators only note what the function is; Pelton calls it. Modules of an installed functions-framework
that are not here come from the installed one, since `dataplane/loader.py` adds its directory to this
package's path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pelton.sdk.registry import SIGNATURES

__all__ = ["cloud_event", "http", "typed"]

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
    """Mark a function that takes an object of its own class."""

    def mark(func: F) -> F:
        SIGNATURES[func.__name__] = "typed"
        return func

    if len(args) == 1 and callable(args[0]) and not isinstance(args[0], type):
        return mark(args[0])
    return mark
