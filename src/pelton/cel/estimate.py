"""The worst cost of an expression before it ever runs, from the largest sizes that its types allow.

`program.py` calls `estimate` on a checked tree. Sizes that nothing bounds are those of the largest request,
so an expression over them is dear: that is what limits such as maxItems are for. Pure.
Source: cel-go's cost estimation, Kubernetes' sizes.
"""

from __future__ import annotations

from pelton.cel.evaluator import FOLD_COST, LIST_COST, MAP_COST
from pelton.cel.syntax import Call, Expr, Fold, Ident, ListExpr, Literal, MapExpr, Select
from pelton.cel.types import Type, is_sized

__all__ = ["MAX_COST", "MAX_REQUEST_BYTES", "estimate"]

MAX_REQUEST_BYTES = 3 * 1024 * 1024
"""Largest request, in bytes: no text, list or map can be larger."""

MAX_COST = 2**63 - 1
"""Estimates do not grow beyond."""

_OTHER_FOLD_COST = 13


def estimate(root: Expr) -> int:
    """Return the largest cost of evaluating a checked tree."""
    return min(MAX_COST, _visit(root)[0])


def _type_size(kind: Type) -> int:
    if kind.kind == "optional":
        return _type_size(kind.params[0])
    if kind.max_size is not None:
        return kind.max_size
    return MAX_REQUEST_BYTES if is_sized(kind) or kind.kind == "dyn" else 1


def _visit(node: Expr) -> tuple[int, int]:
    """Return the largest cost and the largest size of the result."""
    match node:
        case Literal():
            return 0, _type_size(node.type)
        case Ident():
            return 1, _type_size(node.type)
        case Select():
            cost, _ = _visit(node.operand)
            return (cost + 1 if node.field else cost), _type_size(node.type)
        case ListExpr():
            return LIST_COST + sum(_visit(item)[0] for item in node.items), len(node.items)
        case MapExpr():
            parts = [part for key, value, _ in node.entries for part in (key, value)]
            return MAP_COST + sum(_visit(part)[0] for part in parts), len(node.entries)
        case Call():
            return _call(node)
        case Fold():
            return _fold(node)
    return 1, 1


def _call(node: Call) -> tuple[int, int]:
    costs, sizes = [], []
    for operand in node.operands():
        cost, size = _visit(operand)
        costs.append(cost)
        sizes.append(size)
    if node.function in ("_&&_", "_||_"):
        return sum(costs), 1
    if node.function == "_?_:_":
        return costs[0] + max(costs[1], costs[2]), max(sizes[1], sizes[2])
    extra, result = 0, 0
    for overload in node.overloads:
        if overload.cost is not None:
            extra = max(extra, overload.cost(tuple(sizes)))
        if overload.size is not None:
            result = max(result, overload.size(tuple(sizes)))
        elif is_sized(overload.result):
            result = max(result, sizes[0] if sizes else 1)
    if node.function in ("_[_]", "_[?_]", "value", "orValue"):
        result = _type_size(node.type)
    return min(MAX_COST, sum(costs) + 1 + extra), max(1, result)


def _fold(node: Fold) -> tuple[int, int]:
    cost, size = _visit(node.source)
    body, body_size = _visit(node.body)
    guard = _visit(node.guard)[0] if node.guard is not None else 0
    if node.macro in ("optMap", "optFlatMap"):
        return cost + 1 + body, body_size
    each = FOLD_COST.get(node.macro, _OTHER_FOLD_COST) + guard + body
    result = 1 if node.macro in FOLD_COST else size
    return min(MAX_COST, cost + size * each), result
