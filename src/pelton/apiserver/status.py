"""Failures as Kubernetes `Status` objects. Pure; called by `rest.py`.

Source: contracts operator-webhook.md 6.1.
"""

from __future__ import annotations

from typing import Any

from pelton.apiserver.apply import FieldConflictError
from pelton.errors import AlreadyExistsError, InvalidError, PeltonError

__all__ = ["RefusedError", "status_of", "success"]

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Expired",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    503: "ServiceUnavailable",
}


class RefusedError(PeltonError):
    """The API refuses a request for what it is, whatever the store holds.

    Args:
        message: What is refused.
        status: HTTP status, a key of the table above.
        hint: What to do next.
    """

    code = "PEL-API-005"

    def __init__(self, message: str, *, status: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


def status_of(
    error: PeltonError,
    *,
    name: str = "",
    group: str = "",
    kind: str = "",
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the Status object of a failure.

    Args:
        error: The failure.
        name: Name of the object, "" when the request names none.
        group: API group of the resource.
        kind: In Status, `details.kind` is the plural of the resource.
        extra: Further entries of `details`.
    """
    code = error.status if isinstance(error, RefusedError) else error.http_status
    reason = "AlreadyExists" if isinstance(error, AlreadyExistsError) else _REASONS.get(code, "InternalError")
    details: dict[str, Any] = {"name": name, "group": group, "kind": kind, **(extra or {})}
    message = error.message
    if isinstance(error, InvalidError):
        details["causes"] = [
            {"reason": "FieldValueInvalid", "message": sentence, "field": field}
            for field, sentence in error.causes
        ]
        # kubectl prints only the message, so it says every cause that it does not say already.
        unsaid = (f"{field}: {text}" for field, text in error.causes if text not in message)
        message = "; ".join([message, *unsaid])
    elif isinstance(error, FieldConflictError):
        details["causes"] = [
            {"reason": "FieldManagerConflict", "message": f"conflict with {manager!r}", "field": field}
            for manager, field in error.causes
        ]
    if error.hint:
        message = f"{message} ({error.hint})"
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": {key: value for key, value in details.items() if value},
        "code": code,
    }


def success(*, name: str, group: str, kind: str, uid: str) -> dict[str, Any]:
    """Return the Status object that answers a completed deletion."""
    details = {"name": name, "group": group, "kind": kind, "uid": uid}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {key: value for key, value in details.items() if value},
    }
