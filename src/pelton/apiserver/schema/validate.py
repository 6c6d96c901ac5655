"""Whether a value fits its schema; every fault at once, in the words of a Kubernetes API server.

Called by the package's front after `fill.py`; CEL rules are in `rules.py`. On an update, what did not
change is not judged again (ratcheting): otherwise a schema that became stricter would freeze every object
stored before. Pure. Source: contracts operator-webhook.md 5.1; OpenAPI v3 value validations.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from pelton.apiserver.registry import Cause
from pelton.apiserver.schema.formats import FORMATS, NUMBERS
from pelton.apiserver.schema.node import ABSENT, Node, correlated, item_key
from pelton.apiserver.schema.problems import (
    duplicate,
    forbidden,
    invalid_type,
    invalid_value,
    not_supported,
    required,
    too_long,
    too_many,
)

__all__ = ["same_json", "validate"]


def same_json(one: Any, other: Any) -> bool:
    """Return whether both are the same JSON; unlike `==` it tells 1 from true."""
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and len(one) == len(other)
            and all(key in other and same_json(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, list):
        return (
            isinstance(other, list)
            and len(one) == len(other)
            and all(same_json(a, b) for a, b in zip(one, other, strict=True))
        )
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def validate(value: Any, node: Node, *, old: Any = ABSENT, path: str = "") -> list[Cause]:
    """Return all faults of a value.

    Args:
        value: After defaulting.
        node: Its schema.
        old: What was stored before, ABSENT when there is no such value; unchanged parts pass.
        path: Where it is.
    """
    problems: list[Cause] = []
    _visit(value, node, old, path, problems)
    return problems


def _visit(value: Any, node: Node, old: Any, path: str, problems: list[Cause]) -> None:
    if old is not ABSENT and same_json(value, old):
        return
    if value is None:
        if not node.nullable and (node.type or node.int_or_string):
            wanted = node.type or "integer,string"
            problems.append(_type_error(path, value, wanted))
        return
    if node.int_or_string:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            problems.append(_type_error(path, value, "integer,string"))
            return
    elif node.type and not _has_type(value, node.type):
        problems.append(_type_error(path, value, node.type))
        return
    if node.enum is not None and not any(same_json(value, allowed) for allowed in node.enum):
        problems.append(not_supported(path, value, node.enum))
    if isinstance(value, str):
        _text(value, node, path, problems)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        _number(value, node, path, problems)
    elif isinstance(value, list):
        _list(value, node, old, path, problems)
    elif isinstance(value, dict):
        _object(value, node, old, path, problems)
    _junctors(value, node, path, problems)


def _name_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def _has_type(value: Any, wanted: str) -> bool:
    actual = _name_of(value)
    if wanted == "integer" and actual == "number":
        return math.isfinite(value) and value == int(value)
    return actual == wanted or (wanted == "number" and actual == "integer")


def _type_error(path: str, value: Any, wanted: str) -> Cause:
    actual = _name_of(value)
    return invalid_type(path, actual, f'{_in_body(path)} must be of type {wanted}: "{actual}"')


def _in_body(path: str) -> str:
    return f"{path} in body"


def _text(value: str, node: Node, path: str, problems: list[Cause]) -> None:
    limits = node.limits
    if "maxLength" in limits and len(value) > limits["maxLength"]:
        problems.append(too_long(path, int(limits["maxLength"])))
    if "minLength" in limits and len(value) < limits["minLength"]:
        least = int(limits["minLength"])
        problems.append(invalid_value(path, value, f"{_in_body(path)} should be at least {least} chars long"))
    if node.pattern is not None and node.pattern[1].search(value) is None:
        problems.append(invalid_value(path, value, f"{_in_body(path)} should match '{node.pattern[0]}'"))
    test = FORMATS.get(node.format)
    if test is not None and not test(value):
        detail = f'{_in_body(path)} must be of type {node.format}: "{value}"'
        problems.append(invalid_type(path, value, detail))


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)


def _number(value: float, node: Node, path: str, problems: list[Cause]) -> None:
    limits = node.limits
    if "maximum" in limits:
        top = limits["maximum"]
        if value > top or (node.exclusive_max and value == top):
            bound = "less than" if node.exclusive_max else "less than or equal to"
            problems.append(invalid_value(path, value, f"{_in_body(path)} should be {bound} {_plain(top)}"))
    if "minimum" in limits:
        low = limits["minimum"]
        if value < low or (node.exclusive_min and value == low):
            bound = "greater than" if node.exclusive_min else "greater than or equal to"
            problems.append(invalid_value(path, value, f"{_in_body(path)} should be {bound} {_plain(low)}"))
    if limits.get("multipleOf") and Decimal(str(value)) % Decimal(str(limits["multipleOf"])) != 0:
        step = _plain(limits["multipleOf"])
        problems.append(invalid_value(path, value, f"{_in_body(path)} should be a multiple of {step}"))
    span = NUMBERS.get(node.format or ("int64" if node.type == "integer" else ""))
    if span is not None and not span[0] <= value <= span[1]:
        detail = f"{_in_body(path)} must be of type {node.format or 'int64'}: {_plain(value)}"
        problems.append(invalid_value(path, value, detail))


def _list(value: list[Any], node: Node, old: Any, path: str, problems: list[Cause]) -> None:
    limits = node.limits
    if "maxItems" in limits and len(value) > limits["maxItems"]:
        problems.append(too_many(path, len(value), int(limits["maxItems"])))
    if "minItems" in limits and len(value) < limits["minItems"]:
        least = int(limits["minItems"])
        problems.append(invalid_value(path, value, f"{_in_body(path)} should have at least {least} items"))
    if node.list_type in ("set", "map"):
        _unique(value, node, path, problems)
    if node.items is not None:
        before = correlated(node, old)
        for at, item in enumerate(value):
            key = item_key(node, item) if before else None
            had = ABSENT if key is None else before.get(key, ABSENT)
            _visit(item, node.items, had, f"{path}[{at}]", problems)


def _unique(value: list[Any], node: Node, path: str, problems: list[Cause]) -> None:
    seen: set[Any] = set()
    for at, item in enumerate(value):
        if node.list_type == "map":
            key: Any = item_key(node, item)
            if key is None:
                continue  # told as a wrong type
            shown = {name: item[name] for name in node.list_keys if name in item}
        else:
            key, shown = _hashable(item), item
        if key in seen:
            problems.append(duplicate(f"{path}[{at}]", shown))
        seen.add(key)


def _hashable(value: Any) -> Any:
    """Return something that is equal for equal JSON."""
    if isinstance(value, dict):
        return ("object", frozenset((key, _hashable(item)) for key, item in value.items()))
    if isinstance(value, list):
        return ("array", tuple(_hashable(item) for item in value))
    return (isinstance(value, bool), value)


def _object(value: dict[str, Any], node: Node, old: Any, path: str, problems: list[Cause]) -> None:
    limits = node.limits
    if "maxProperties" in limits and len(value) > limits["maxProperties"]:
        problems.append(too_many(path, len(value), int(limits["maxProperties"]), "properties"))
    if "minProperties" in limits and len(value) < limits["minProperties"]:
        least = int(limits["minProperties"])
        problems.append(
            invalid_value(path, value, f"{_in_body(path)} should have at least {least} properties")
        )
    problems.extend(required(_join(path, name)) for name in node.required if name not in value)
    before = old if isinstance(old, dict) else {}
    for key, item in value.items():
        child = node.child(key)
        if child is not None:
            _visit(item, child, before.get(key, ABSENT), _join(path, key), problems)
        elif node.additional is False and not node.preserve:
            problems.append(
                forbidden(_join(path, key), f"{_join(path, key)} in body is a forbidden property")
            )
    if node.embedded:
        _embedded(value, path, problems)


def _embedded(value: dict[str, Any], path: str, problems: list[Cause]) -> None:
    for name in ("apiVersion", "kind"):
        given = value.get(name)
        if given is None or given == "":
            problems.append(required(_join(path, name), "must not be empty"))
        elif not isinstance(given, str):
            problems.append(_type_error(_join(path, name), given, "string"))
    metadata = value.get("metadata", {})
    if not isinstance(metadata, dict):
        problems.append(_type_error(_join(path, "metadata"), metadata, "object"))


def _junctors(value: Any, node: Node, path: str, problems: list[Cause]) -> None:
    name = f'"{path}"'
    for part in node.all_of:
        found = validate(value, part, path=path)
        if found:
            problems.append(invalid_value(path, "", f"{name} must validate all the schemas (allOf)"))
            problems.extend(found)
    if node.any_of:
        tries = [validate(value, part, path=path) for part in node.any_of]
        if all(tries):
            problems.append(invalid_value(path, "", f"{name} must validate at least one schema (anyOf)"))
            problems.extend(_fewest(tries))
    if node.one_of:
        tries = [validate(value, part, path=path) for part in node.one_of]
        fitting = sum(1 for found in tries if not found)
        if fitting != 1:
            count = "none valid" if not fitting else f"{fitting} valid alternatives"
            problems.append(
                invalid_value(
                    path, "", f"{name} must validate one and only one schema (oneOf). Found {count}"
                )
            )
            if not fitting:
                problems.extend(_fewest(tries))
    if node.negated is not None and not validate(value, node.negated, path=path):
        problems.append(invalid_value(path, "", f"{name} must not validate the schema (not)"))


def _fewest(tries: list[list[Cause]]) -> list[Cause]:
    """Return the faults of the alternative that came closest."""
    return sorted(tries, key=len)[0]


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
