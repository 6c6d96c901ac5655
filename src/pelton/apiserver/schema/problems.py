"""What is wrong with a field, in the words and with the reasons of a Kubernetes API server.

The modules of this package, the controller of definitions and the validation of webhook configurations make
these causes; the REST layer answers with them. Pure. Source: contracts operator-webhook.md 6.1, Kubernetes'
field errors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pelton.apiserver.registry import Cause

__all__ = [
    "duplicate",
    "forbidden",
    "invalid_type",
    "invalid_value",
    "not_supported",
    "required",
    "shown",
    "too_long",
    "too_many",
]

_LONGEST = 512  # characters of a value in a message


def _cause(reason: str, field: str, message: str) -> Cause:
    return Cause(reason=reason, field=field or "<nil>", message=message)


def shown(value: Any) -> str:
    """Return a value as messages show it: JSON, cut when long."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def required(field: str, detail: str = "") -> Cause:
    """Return the fault of a missing value."""
    return _cause("FieldValueRequired", field, "Required value" + (f": {detail}" if detail else ""))


def invalid_value(field: str, value: Any, detail: str) -> Cause:
    """Return the fault of a value that breaks a rule."""
    return _cause("FieldValueInvalid", field, f"Invalid value: {shown(value)}: {detail}")


def invalid_type(field: str, actual: str, detail: str) -> Cause:
    """Return the fault of a value of another type."""
    return _cause("FieldValueTypeInvalid", field, f"Invalid value: {shown(actual)}: {detail}")


def not_supported(field: str, value: Any, supported: Sequence[Any]) -> Cause:
    """Return the fault of a value that is none of an enumeration."""
    listed = ", ".join(shown(item) for item in supported)
    return _cause(
        "FieldValueNotSupported", field, f"Unsupported value: {shown(value)}: supported values: {listed}"
    )


def duplicate(field: str, value: Any) -> Cause:
    """Return the fault of a value that may be there once."""
    return _cause("FieldValueDuplicate", field, f"Duplicate value: {shown(value)}")


def forbidden(field: str, detail: str) -> Cause:
    """Return the fault of a value that may not be there."""
    return _cause("FieldValueForbidden", field, f"Forbidden: {detail}")


def too_long(field: str, limit: int) -> Cause:
    """Return the fault of a text over its limit."""
    return _cause("FieldValueTooLong", field, f"Too long: may not be more than {limit} bytes")


def too_many(field: str, count: int, limit: int, what: str = "items") -> Cause:
    """Return the fault of a list or mapping over its limit."""
    return _cause("FieldValueTooMany", field, f"Too many: {count}: must have at most {limit} {what}")
