"""What a function is: its overloads with types, the callable behind each, and what a call costs.

`standard.py`, `strings.py` and `kubernetes.py` hold tables of these; `library.py` joins them. The same cost
function serves the estimate (with the largest sizes) and the evaluation (with the real ones). Pure.
Source: the costs of cel-go and of Kubernetes' CEL libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pelton.cel.types import Type

__all__ = ["Overload", "Sizes", "Table", "accepts", "global_function", "method", "size_of", "traverse"]

Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Overload:
    """One signature of a function.

    Attributes:
        args: Types of the arguments, the receiver first for a member.
        result: Type of the result.
        run: Called with the values; raises CelEvaluateError.
        member: Whether it is called on its first argument.
        cost: Sizes of the arguments -> cost beyond the 1 of each call; None for none.
        size: Sizes of the arguments -> largest size of the result; None when the result has no size, or
            that of its first argument.
    """

    args: tuple[Type, ...]
    result: Type
    run: Callable[..., Any]
    member: bool = False
    cost: Callable[[Sizes], int] | None = None
    size: Callable[[Sizes], int] | None = None


Table = dict[str, tuple[Overload, ...]]


def global_function(
    args: tuple[Type, ...],
    result: Type,
    run: Callable[..., Any],
    cost: Callable[[Sizes], int] | None = None,
    size: Callable[[Sizes], int] | None = None,
) -> Overload:
    """Return an overload that is called as `f(a, b)`."""
    return Overload(args, result, run, False, cost, size)


def method(
    args: tuple[Type, ...],
    result: Type,
    run: Callable[..., Any],
    cost: Callable[[Sizes], int] | None = None,
    size: Callable[[Sizes], int] | None = None,
) -> Overload:
    """Return an overload that is called as `a.f(b)`."""
    return Overload(args, result, run, True, cost, size)


def traverse(size: int) -> int:
    """Return what reading a text of that size costs: a tenth of it, rounded up."""
    return -(-size // 10)


def size_of(value: Any) -> int:
    """Return the size of a text, list or map, 1 of anything else."""
    return len(value) if isinstance(value, (str, bytes, list, dict)) else 1


_PYTHON: dict[str, tuple[str, ...]] = {
    "bool": ("bool",),
    "int": ("int",),
    "uint": ("UInt",),
    "double": ("float",),
    "string": ("str",),
    "bytes": ("bytes",),
    "null_type": ("NoneType",),
    "timestamp": ("Timestamp",),
    "duration": ("Duration",),
    "list": ("list", "SetList", "MapList"),
    "map": ("dict",),
    "object": ("dict",),
    "optional": ("OptionalValue",),
    "type": ("Type",),
}


def accepts(kind: Type, value: Any) -> bool:
    """Return whether a value may be passed where this type is declared; elements are not looked at."""
    if kind.kind in ("dyn", "param"):
        return True
    if kind.kind == "opaque":
        return getattr(value, "cel_type", "") == kind.name
    return type(value).__name__ in _PYTHON.get(kind.kind, ())
