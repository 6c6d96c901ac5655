"""What decorators said about functions, and the one view on it that `compat/gcf/` reads.

Filled by the shims; where the real functions-framework is imported its own registry is filled instead, and
`of` reads both. By name rather than as a function attribute, since an outer decorator may replace the
function object. Source: functions-framework-python, whose registry has the same keys.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, TypeVar

__all__ = [
    "ASGI_FUNCTIONS",
    "ERROR_HANDLERS",
    "INPUT_TYPES",
    "SIGNATURES",
    "Registered",
    "errorhandler",
    "of",
    "real_framework",
    "reset",
]

F = TypeVar("F", bound=Callable[..., Any])

SIGNATURES: Final[dict[str, str]] = {}
"""Function name -> `http`, `cloudevent`, `typed`. One function is loaded per process."""

INPUT_TYPES: Final[dict[str, Any]] = {}
"""Function name -> class that `typed` was given; None when its parameter's annotation says it."""

ASGI_FUNCTIONS: Final[set[str]] = set()
"""Names of functions decorated by `functions_framework.aio`."""

ERROR_HANDLERS: Final[list[tuple[Any, Callable[[Any], Any]]]] = []
"""(status or exception class, handler) in order of registration."""

_FRAMEWORK: Final = "functions_framework"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What decorators said about one function.

    Attributes:
        signature: `http`, `cloudevent`, `typed`; "" for a function without a decorator.
        input_type: Class that a typed function takes; None for not said.
        asgi: Whether it is decorated by `functions_framework.aio`.
    """

    signature: str
    input_type: Any
    asgi: bool


def of(*names: str) -> Registered:
    """Return what is known of the function that has these names; the first that is known counts."""
    real = sys.modules.get(f"{_FRAMEWORK}._function_registry")
    maps = [(SIGNATURES, INPUT_TYPES, ASGI_FUNCTIONS)]
    if real is not None and getattr(real, "REGISTRY_MAP", SIGNATURES) is not SIGNATURES:
        maps.insert(
            0,
            (
                real.REGISTRY_MAP,
                getattr(real, "INPUT_TYPE_MAP", {}),
                getattr(real, "ASGI_FUNCTIONS", set()),
            ),
        )
    for signatures, inputs, asgi in maps:
        for name in names:
            if name in signatures:
                return Registered(signature=signatures[name], input_type=inputs.get(name), asgi=name in asgi)
    return Registered(signature="", input_type=None, asgi=False)


def real_framework() -> ModuleType | None:
    """Return Google's own package where user code has imported it."""
    module = sys.modules.get(_FRAMEWORK)
    return module if module is not None and hasattr(module, "create_app") else None


def errorhandler(code_or_exception: Any) -> Callable[[F], F]:
    """Register a function that answers an exception class or an HTTP status, as Flask's decorator does."""

    def register(func: F) -> F:
        ERROR_HANDLERS.append((code_or_exception, func))
        return func

    return register


def reset() -> None:
    """Forget everything: another function is about to be loaded."""
    SIGNATURES.clear()
    INPUT_TYPES.clear()
    ASGI_FUNCTIONS.clear()
    ERROR_HANDLERS.clear()
