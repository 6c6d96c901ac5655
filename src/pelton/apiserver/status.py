"""Failures as Kubernetes `Status` objects. Pure; called by `rest.py`.

Source: contracts operator-webhook.md 6.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pelton.apiserver.managed import FieldConflictError
from pelton.apiserver.registry import Cause, Row
from pelton.errors import AlreadyExistsError, InvalidError, PeltonError

__all__ = ["FieldsInvalidError", "RefusedError", "StatusError", "status_of", "success", "unknown_fields"]

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
    429: "TooManyRequests",
    503: "ServiceUnavailable",
    504: "Timeout",
    507: "InsufficientStorage",
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


class FieldsInvalidError(InvalidError):
    """An object breaks rules of its kind; each has a reason and a field, as Kubernetes tells them.

    Args:
        row: The kind.
        name: Name of the object, "" for none.
        found: The broken rules, at least one.
    """

    code = "PEL-API-009"

    def __init__(self, row: Row, name: str, found: Sequence[Cause]) -> None:
        lines = [f"{cause.field}: {cause.message}" if cause.field else cause.message for cause in found]
        told = lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"
        kind = f"{row.kind}.{row.group}" if row.group else row.kind
        super().__init__(
            f'{kind} "{name}" is invalid: {told}',
            causes=tuple((cause.field, cause.message) for cause in found),
        )
        self.found = tuple(found)
        self.kind = row.kind


class StatusError(PeltonError):
    """A whole Status to answer with, e.g. the denial of an admission webhook.

    Args:
        code: HTTP status.
        reason: Kubernetes' word for it, e.g. `Forbidden`.
        message: For people.
        details: `details` of the Status, merged over name, group and kind of the request.
    """

    code = "PEL-API-007"

    def __init__(
        self, code: int, reason: str, message: str, *, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status = code
        self.reason = reason
        self.details = dict(details or {})


def unknown_fields(validation: str, paths: Sequence[str], warn: Callable[[Sequence[str]], None]) -> None:
    """Do with unknown or duplicate fields what the client asked for.

    Args:
        validation: Ignore, Warn or Strict.
        paths: Sentences such as `unknown field "spec.a"`, or bare paths of unknown fields.
        warn: Takes warnings.

    Raises:
        RefusedError: 400, with Strict.
    """
    sentences = [path if " " in path else f'unknown field "{path}"' for path in paths]
    if validation == "Strict":
        raise RefusedError(f"strict decoding error: {', '.join(sentences)}", status=400)
    if validation == "Warn":
        warn(sentences)


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
    code = error.status if isinstance(error, (RefusedError, StatusError)) else error.http_status
    reason = "AlreadyExists" if isinstance(error, AlreadyExistsError) else _REASONS.get(code, "InternalError")
    details: dict[str, Any] = {"name": name, "group": group, "kind": kind, **(extra or {})}
    message = error.message
    if isinstance(error, StatusError):
        reason = error.reason
        details |= error.details
    elif isinstance(error, FieldsInvalidError):
        details["kind"] = error.kind  # here, and only here, Kubernetes has the kind itself
        details["causes"] = [
            {"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in error.found
        ]
    elif isinstance(error, InvalidError):
        details["causes"] = [
            {"reason": "FieldValueInvalid", "message": sentence, "field": field}
            for field, sentence in error.causes
        ]
        # kubectl prints only the message, so it says every cause that it does not say already.
        unsaid = (f"{field}: {text}" for field, text in error.causes if text not in message)
        message = "; ".join([message, *unsaid])
    elif isinstance(error, FieldConflictError):
        details["causes"] = [
            {"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": field}
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
