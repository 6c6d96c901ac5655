"""Refusals in Dapr's words: a gRPC code, an HTTP status, an error code and, of newer APIs, details.

Operations raise `Fault`; each server writes it in its way. Every refusal of the table is made here, so that
both protocols say the same. The sentences are Dapr's: clients and tests compare them. Pure.
Source: contracts, Dapr HTTP, section 4.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final

from pelton.proto import dapr_status_pb2

__all__ = [
    "DOMAIN",
    "Code",
    "Fault",
    "forbidden_topic",
    "illegal_key",
    "malformed",
    "not_here",
    "not_published",
    "pubsub_missing",
    "pubsub_refused",
    "state_failed",
    "state_store_missing",
    "store_missing",
]

DOMAIN: Final = "dapr.io"
_TYPES: Final = "type.googleapis.com/google.rpc."


class Code(enum.IntEnum):
    """gRPC's status codes."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Fault(Exception):
    """A call that is refused or has failed.

    Args:
        message: One sentence for the caller; never a secret.
        code: Status over gRPC.
        status: Status over HTTP.
        error_code: `errorCode` over HTTP.
        reason: Reason of the ErrorInfo (`DAPR_...`); "" for an error without details.
        resource: (type, name) of what it is about: `state` or `pubsub`; None for none.
        description: What the resource's detail says on top; "" for nothing.
        metadata: Of the ErrorInfo.
        field: Field of the request that is wrong, with the message as its description; "" for none.
    """

    def __init__(
        self,
        message: str,
        *,
        code: Code,
        status: int,
        error_code: str,
        reason: str = "",
        resource: tuple[str, str] | None = None,
        description: str = "",
        metadata: Mapping[str, str] | None = None,
        field: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.error_code = error_code
        self.reason = reason
        self.resource = resource
        self.description = description
        self.metadata = dict(metadata or {})
        self.field = field

    def body(self) -> dict[str, Any]:
        """Return the JSON body: errorCode, message, and details where there are any."""
        written: dict[str, Any] = {"errorCode": self.error_code or self.reason, "message": self.message}
        if self.reason:
            info = {"@type": f"{_TYPES}ErrorInfo", "reason": self.reason, "domain": DOMAIN}
            written["details"] = [info | ({"metadata": self.metadata} if self.metadata else {})]
            if self.resource is not None:
                kind, name = self.resource
                written["details"].append(
                    {
                        "@type": f"{_TYPES}ResourceInfo",
                        "resource_type": kind,
                        "resource_name": name,
                        "owner": "",
                        "description": self.description,
                    }
                )
            if self.field:
                violation = {"field": self.field, "description": self.message}
                written["details"].append({"@type": f"{_TYPES}BadRequest", "field_violations": [violation]})
        return written

    def details(self) -> bytes:
        """Return the `grpc-status-details-bin` value: a google.rpc.Status; empty without details."""
        if not self.reason:
            return b""
        written = dapr_status_pb2.Status(code=int(self.code), message=self.message)
        info = dapr_status_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)
        written.details.add(type_url=f"{_TYPES}ErrorInfo", value=info.SerializeToString())
        if self.resource is not None:
            about = dapr_status_pb2.ResourceInfo(
                resource_type=self.resource[0], resource_name=self.resource[1], description=self.description
            )
            written.details.add(type_url=f"{_TYPES}ResourceInfo", value=about.SerializeToString())
        if self.field:
            bad = dapr_status_pb2.BadRequest()
            bad.field_violations.add(field=self.field, description=self.message)
            written.details.add(type_url=f"{_TYPES}BadRequest", value=bad.SerializeToString())
        raw: bytes = written.SerializeToString()
        return raw


def malformed(message: str) -> Fault:
    """Refuse a request that cannot be read."""
    return Fault(message, code=Code.INVALID_ARGUMENT, status=400, error_code="ERR_MALFORMED_REQUEST")


def not_here(what: str) -> Fault:
    """Refuse a block that this runtime does not have."""
    return Fault(
        f"{what} is not served by this runtime",
        code=Code.UNIMPLEMENTED,
        status=501,
        error_code="ERR_NOT_IMPLEMENTED",
    )


# ---- state -------------------------------------------------------------------------------------------------


def state_store_missing(name: str, known: Mapping[str, Any]) -> Fault:
    """Refuse an unknown state store, or any where there is none."""
    if not known:
        return Fault(
            f"state store {name} is not configured",
            code=Code.FAILED_PRECONDITION,
            status=500,
            error_code="ERR_STATE_STORE_NOT_CONFIGURED",
            reason="DAPR_STATE_NOT_CONFIGURED",
        )
    return Fault(
        f"state store {name} is not found",
        code=Code.INVALID_ARGUMENT,
        status=400,
        error_code="ERR_STATE_STORE_NOT_FOUND",
        reason="DAPR_STATE_NOT_FOUND",
    )


def illegal_key(store: str, key: str, why: str) -> Fault:
    """Refuse a key that cannot be."""
    return Fault(
        f"input key/keyPrefix '{key}' {why}",
        code=Code.INVALID_ARGUMENT,
        status=400,
        error_code="ERR_MALFORMED_REQUEST",
        reason="DAPR_STATE_ILLEGAL_KEY",
        resource=("state", store),
        field=key,
    )


def state_failed(error_code: str, message: str) -> Fault:
    """Say that a store could not do it."""
    return Fault(message, code=Code.INTERNAL, status=500, error_code=error_code)


# ---- topics ------------------------------------------------------------------------------------------------


def pubsub_missing(name: str, known: Mapping[str, Any]) -> Fault:
    """Refuse an unknown pub/sub component, none at all, or an empty name."""
    if not known:
        return Fault(
            f"pubsub {name} is not configured",
            code=Code.FAILED_PRECONDITION,
            status=400,
            error_code="ERR_PUBSUB_NOT_CONFIGURED",
            reason="DAPR_PUBSUB_NOT_CONFIGURED",
        )
    return Fault(
        f"pubsub {name} is not found",
        code=Code.INVALID_ARGUMENT,
        status=404,
        error_code="ERR_PUBSUB_NOT_FOUND",
        reason="DAPR_PUBSUB_NOT_FOUND",
    )


_PUBSUB: Final[Mapping[str, tuple[int, str]]] = {
    "DAPR_PUBSUB_NAME_EMPTY": (404, "ERR_PUBSUB_EMPTY"),
    "DAPR_PUBSUB_TOPIC_NAME_EMPTY": (404, "ERR_TOPIC_NAME_EMPTY"),
    "DAPR_PUBSUB_METADATA_DESERIALIZATION": (400, "ERR_PUBSUB_REQUEST_METADATA"),
    "DAPR_PUBSUB_CLOUD_EVENT_CREATION": (500, "ERR_PUBSUB_CLOUD_EVENTS_SER"),
    "DAPR_PUBSUB_UNMARSHAL_EVENTS": (400, "ERR_PUBSUB_EVENTS_SER"),
    "DAPR_PUBSUB_MARSHAL_EVENTS": (400, "ERR_PUBSUB_EVENTS_SER"),
}


def pubsub_refused(
    reason: str, message: str, pubsub: str, *, metadata: Mapping[str, str] | None = None
) -> Fault:
    """Refuse a publish by one of the reasons of the table, all of them INVALID_ARGUMENT."""
    status, error_code = _PUBSUB[reason]
    return Fault(
        message,
        code=Code.INVALID_ARGUMENT,
        status=status,
        error_code=error_code,
        reason=reason,
        resource=("pubsub", pubsub),
        description=message,
        metadata=metadata,
    )


def forbidden_topic(pubsub: str, topic: str, app_id: str) -> Fault:
    """Refuse a topic that the component's scopes keep from an app."""
    message = f"topic {topic} is not allowed for app id {app_id}"
    return Fault(
        message,
        code=Code.PERMISSION_DENIED,
        status=403,
        error_code="ERR_PUBSUB_FORBIDDEN",
        reason="DAPR_PUBSUB_FORBIDDEN",
        resource=("pubsub", pubsub),
        description=message,
        metadata={"topic": topic, "error": message},
    )


def not_published(pubsub: str, topic: str, why: str) -> Fault:
    """Say that a broker did not take an event."""
    message = f"error when publishing to topic {topic} in pubsub {pubsub}: {why}"
    return Fault(
        message,
        code=Code.INTERNAL,
        status=500,
        error_code="ERR_PUBSUB_PUBLISH_MESSAGE",
        reason="DAPR_PUBSUB_PUBLISH_MESSAGE",
        resource=("pubsub", pubsub),
        description=message,
        metadata={"topic": topic, "error": why},
    )


def store_missing(kind: str, name: str, known: Mapping[str, Any]) -> Fault:
    """Refuse an unknown store for `configuration`, `lock` or `secretstores`, or any where there is none."""
    absent, unknown, tag, status = {
        "configuration": (
            "configuration stores not configured",
            f"configuration store {name} not found",
            "ERR_CONFIGURATION_STORE",
            400,
        ),
        "lock": ("lock store is not configured", f"lock store {name} not found", "ERR_LOCK_STORE", 400),
        "secretstores": (
            "secret store is not configured",
            f"failed finding secret store with key {name}",
            "ERR_SECRET_STORE",
            401,
        ),
    }[kind]
    if not known:
        return Fault(
            absent,
            code=Code.FAILED_PRECONDITION,
            status=500,
            error_code=f"{tag}{'S' if kind == 'secretstores' else ''}_NOT_CONFIGURED",
        )
    return Fault(unknown, code=Code.INVALID_ARGUMENT, status=status, error_code=f"{tag}_NOT_FOUND")
