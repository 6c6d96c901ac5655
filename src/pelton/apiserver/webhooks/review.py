"""AdmissionReview: what a webhook is told, and what its answer may be. Pure; called by `admission.py`.

Source: contracts operator-webhook.md section 1.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from pelton.apiserver.patch import json_patch
from pelton.apiserver.pipeline import Review
from pelton.apiserver.registry import Row
from pelton.apiserver.rules import Obj
from pelton.apiserver.status import StatusError
from pelton.errors import PeltonError

__all__ = [
    "Answer",
    "BadAnswerError",
    "call_failed",
    "denial",
    "envelope",
    "patched",
    "read_answer",
    "request_of",
]

_GROUP = "admission.k8s.io"
_SCALE = {"group": "autoscaling", "version": "v1", "kind": "Scale"}


class BadAnswerError(PeltonError):
    """A webhook answered something that is no valid answer; its failurePolicy decides."""

    code = "PEL-API-011"
    http_status = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A checked answer.

    Attributes:
        allowed: Whether the write may go on.
        status: metav1 Status of a denial.
        patch: JSON patch operations; None when there is none.
        warnings: Sentences for the user.
    """

    allowed: bool
    status: Mapping[str, Any]
    patch: Any
    warnings: tuple[str, ...]


def request_of(review: Review, uid: str, row: Row, obj: Obj | None, old: Obj | None) -> Obj:
    """Return the `request` of a review.

    Args:
        review: The write.
        uid: Of this round trip.
        row: The version that the webhook's rule matched.
        obj: The new object in that version.
        old: The stored one in that version.
    """
    request: Obj = {
        "uid": uid,
        "kind": {"group": row.group, "version": row.version, "kind": row.kind},
        "resource": {"group": row.group, "version": row.version, "resource": row.plural},
        "requestKind": {"group": review.row.group, "version": review.row.version, "kind": review.row.kind},
        "requestResource": {
            "group": review.row.group,
            "version": review.row.version,
            "resource": review.row.plural,
        },
    }
    if review.subresource == "scale":
        request |= {"kind": _SCALE, "requestKind": _SCALE}
    if review.subresource:
        request |= {"subResource": review.subresource, "requestSubResource": review.subresource}
    if review.name:
        request["name"] = review.name
    namespace = review.name if (row.group, row.plural) == ("", "namespaces") else review.namespace
    if namespace:
        request["namespace"] = namespace
    user = review.user
    info: Obj = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        info["uid"] = user.uid
    return request | {
        "operation": review.operation,
        "userInfo": info,
        "object": obj,
        "oldObject": old,
        "dryRun": review.dry_run,
        "options": review.options,
    }


def envelope(version: str, request: Obj) -> Obj:
    """Return the whole AdmissionReview to send."""
    return {"kind": "AdmissionReview", "apiVersion": f"{_GROUP}/{version}", "request": request}


def read_answer(given: Any, *, uid: str, version: str, mutating: bool) -> Answer:
    """Check the answer to a review.

    Args:
        given: Its JSON.
        uid: Of the request.
        version: Of the review that was sent; v1beta1 is lenient about uid, kind and patchType.
        mutating: Whether it may carry a patch.

    Raises:
        BadAnswerError: It is no valid answer.
    """
    if not isinstance(given, dict):
        raise BadAnswerError("expected a webhook response of kind AdmissionReview, got no object")
    strict = version == "v1"
    response = given.get("response")
    if strict:
        wanted = (f"{_GROUP}/v1", "AdmissionReview")
        if (given.get("apiVersion"), given.get("kind")) != wanted:
            raise BadAnswerError(
                f"expected webhook response of {wanted[0]}, Kind={wanted[1]}, "
                f"got {given.get('apiVersion')}, Kind={given.get('kind')}"
            )
    if not isinstance(response, dict):
        raise BadAnswerError("webhook response was absent")
    if strict and response.get("uid") != uid:
        raise BadAnswerError(f'expected response.uid="{uid}", got "{response.get("uid", "")}"')
    allowed = response.get("allowed")
    if not isinstance(allowed, bool):
        raise BadAnswerError("response.allowed is missing or no boolean")
    status = response.get("status") or {}
    warnings = response.get("warnings") or []
    if not isinstance(status, dict) or not isinstance(warnings, list):
        raise BadAnswerError("response.status is no object, or response.warnings no list")
    return Answer(
        allowed=allowed,
        status=status,
        patch=_patch(response, strict=strict, mutating=mutating) if allowed else None,
        warnings=tuple(str(each) for each in warnings),
    )


def _patch(response: Mapping[str, Any], *, strict: bool, mutating: bool) -> Any:
    given, kind = response.get("patch"), response.get("patchType")
    if not mutating:
        if given or kind is not None:
            raise BadAnswerError(
                "validating webhook may not return response.patch"
                if given
                else "validating webhook may not return response.patchType"
            )
        return None
    if strict:
        if given and kind is None:
            raise BadAnswerError("webhook returned response.patch but not response.patchType")
        if kind is not None and not given:
            raise BadAnswerError("webhook returned response.patchType but not response.patch")
    if not given:
        return None
    if strict and kind != "JSONPatch":
        raise BadAnswerError(f'unexpected response.patchType "{kind}", expected "JSONPatch"')
    try:
        operations = msgspec.json.decode(base64.b64decode(given, validate=True))
    except (TypeError, ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise BadAnswerError(f"response.patch is no base64 of a JSON patch: {error}") from error
    if not isinstance(operations, list) or not all(isinstance(each, dict) for each in operations):
        raise BadAnswerError("response.patch is no list of JSON patch operations")
    return operations


def patched(obj: Obj | None, operations: Any, name: str) -> Obj:
    """Return an object with a webhook's patch applied.

    Raises:
        StatusError: 500: it does not apply, there is no object, or the result is not the same object. The
            failurePolicy is not asked, since the webhook did answer.
    """
    if obj is None:
        raise _internal(
            f'admission webhook "{name}" attempted to modify the object, which is not supported for this '
            "operation"
        )
    try:
        result = json_patch(obj, operations)
    except PeltonError as error:
        raise _internal(f'applying the patch of admission webhook "{name}": {error.message}') from error
    before, after = obj.get("metadata") or {}, result.get("metadata") if isinstance(result, dict) else None
    same = isinstance(after, dict) and all(result.get(key) == obj.get(key) for key in ("apiVersion", "kind"))
    if not same or any(before.get(key) != after.get(key) for key in ("name", "namespace", "uid")):  # type: ignore[union-attr] # a dict where same
        raise _internal(
            f'admission webhook "{name}" changed apiVersion, kind, name, namespace or uid of the object'
        )
    if not isinstance(result, dict):
        raise _internal(f'admission webhook "{name}" replaced the object')
    return result


def _internal(message: str) -> StatusError:
    return StatusError(
        500,
        "InternalError",
        f"Internal error occurred: {message}",
        details={"causes": [{"message": message}]},
    )


def call_failed(name: str, reason: str) -> StatusError:
    """Return the error of a write whose webhook failed and must not."""
    return _internal(f'failed calling webhook "{name}": {reason}')


def denial(name: str, status: Mapping[str, Any]) -> StatusError:
    """Return the error of a denied write, with the webhook's own code, reason and causes."""
    begin = f'admission webhook "{name}" denied the request'
    message, reason = str(status.get("message") or ""), str(status.get("reason") or "")
    if message:
        text = f"{begin}: {message}"
    elif reason:
        text = f"{begin}: {reason}"
    else:
        text = f"{begin} without explanation"
    code = status.get("code")
    if not isinstance(code, int) or isinstance(code, bool) or code < 400:
        code = 400
    if code > 599:
        code = 500
    details = status.get("details")
    return StatusError(
        code, reason if status else "BadRequest", text, details=details if isinstance(details, dict) else None
    )
