"""Dapr's query document over JSON values: filter, sort, page. Pure.

Called by `states.py` for stores that cannot query by themselves. Fields are dotted paths into the value, list
positions as numbers; a value that is no JSON never matches a filter. Source: Dapr's state query API (`filter`
with EQ, NEQ, GT, GTE, LT, LTE, IN, AND, OR; `sort`; `page`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from pelton.errors import ComponentError
from pelton.model.cloudevent import UNREADABLE
from pelton.model.state import StateItem

__all__ = ["run"]

_MISSING: Final = object()
_HINT: Final = 'For example {"filter": {"EQ": {"city": "Rome"}}, "sort": [{"key": "age", "order": "DESC"}]}.'


def run(items: Sequence[StateItem], query: Mapping[str, Any]) -> tuple[list[StateItem], str]:
    """Return the items that a query asks for, and the token of the next page ("" = there is none).

    Args:
        items: All candidates, in order of their keys.
        query: The document; an empty one asks for everything.

    Raises:
        ComponentError: The document is not a query.
    """
    unknown = ", ".join(sorted(set(query) - {"filter", "sort", "page"}))
    if unknown:
        raise _bad(f"it has {unknown}")
    wanted = query.get("filter") or {}
    keeps = _filter(wanted) if wanted else None
    found = [(item, _decode(item)) for item in items]
    if keeps is not None:
        found = [(item, value) for item, value in found if keeps(value)]
    for rule in reversed(_list(query.get("sort") or [], "sort")):
        found = _sorted(found, rule)
    limit, start = _page(query.get("page") or {})
    end = start + limit if limit else len(found)
    token = str(end) if end < len(found) else ""
    return [item for item, _ in found[start:end]], token


def _decode(item: StateItem) -> Any:
    if not item.json or item.data is None:
        return _MISSING
    try:
        return msgspec.json.decode(item.data)
    except UNREADABLE:
        return _MISSING


def _bad(what: str) -> ComponentError:
    return ComponentError(f"this is no state query: {what}", hint=_HINT)


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise _bad(f"{name} is not a list")
    return value


def _filter(node: Any) -> Callable[[Any], bool]:
    if not isinstance(node, Mapping) or len(node) != 1:
        raise _bad("a filter is an object with one operator")
    operator, operand = next(iter(node.items()))
    if operator in {"AND", "OR"}:
        parts = [_filter(part) for part in _list(operand, operator)]
        combine = all if operator == "AND" else any
        return lambda value: combine(part(value) for part in parts)
    compare = _OPERATORS.get(operator)
    if compare is None:
        raise _bad(f"operator {operator!r} is unknown; there are AND, OR, {', '.join(_OPERATORS)}")
    if not isinstance(operand, Mapping) or len(operand) != 1:
        raise _bad(f"{operator} takes an object with one field")
    path, wanted = next(iter(operand.items()))
    if operator == "IN":
        _list(wanted, "the value of IN")
    return lambda value: compare(_field(value, str(path)), wanted)


def _field(value: Any, path: str) -> Any:
    for part in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(part, _MISSING)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return _MISSING
    return value


def _equal(left: Any, right: Any) -> bool:
    # True is no 1 in JSON.
    return left is not _MISSING and isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _ordered(test: Callable[[int], bool]) -> Callable[[Any, Any], bool]:
    def compare(left: Any, right: Any) -> bool:
        if left is _MISSING or _rank(left) != _rank(right) or _rank(left) not in {1, 2}:
            return False
        return test(_order(left, right))

    return compare


_OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "EQ": _equal,
    "NEQ": lambda left, right: left is not _MISSING and not _equal(left, right),
    "GT": _ordered(lambda order: order > 0),
    "GTE": _ordered(lambda order: order >= 0),
    "LT": _ordered(lambda order: order < 0),
    "LTE": _ordered(lambda order: order <= 0),
    "IN": lambda left, right: any(_equal(left, each) for each in right),
}


def _rank(value: Any) -> int:
    """Order of JSON's types among each other: absent, numbers, text, the rest."""
    if value is _MISSING or value is None:
        return 0
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 1
    return 2 if isinstance(value, str) else 3


def _order(left: Any, right: Any) -> int:
    if _rank(left) != _rank(right):
        return _rank(left) - _rank(right)
    if _rank(left) in {1, 2}:
        return int(left > right) - int(left < right)
    return 0


def _sorted(found: list[tuple[StateItem, Any]], rule: Any) -> list[tuple[StateItem, Any]]:
    if not isinstance(rule, Mapping) or not rule.get("key"):
        raise _bad("a sort entry is an object with key and order")
    path, order = str(rule["key"]), str(rule.get("order") or "ASC").upper()
    if order not in {"ASC", "DESC"}:
        raise _bad(f"order {order!r} is neither ASC nor DESC")

    def compare(left: tuple[StateItem, Any], right: tuple[StateItem, Any]) -> int:
        return _order(_field(left[1], path), _field(right[1], path))

    return sorted(found, key=functools.cmp_to_key(compare), reverse=order == "DESC")


def _page(page: Any) -> tuple[int, int]:
    if not isinstance(page, Mapping):
        raise _bad("page is not an object")
    limit, token = page.get("limit") or 0, str(page.get("token") or "0")
    if not isinstance(limit, int) or limit < 0 or not token.isdecimal():
        raise _bad("page needs a limit of 0 or more and a token that an answer gave")
    return limit, int(token)
