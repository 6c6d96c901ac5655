"""The error tree: every failure that a user can meet, on one screen.

Each class carries a stable code, the exit code of the CLI and the status of HTTP answers; an instance adds
what happened, where, and what to do next. Drivers wrap native errors in these and keep the cause. Imports
nothing.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AlreadyExistsError",
    "BuildError",
    "CelCompileError",
    "CelCostError",
    "CelEvaluateError",
    "ComponentError",
    "ConflictError",
    "DeliveryError",
    "FunctionLoadError",
    "GatewayError",
    "HomeError",
    "HomeInUseError",
    "InvalidError",
    "ManifestError",
    "NotFoundError",
    "NotRunningError",
    "OverloadedError",
    "PayloadTooLargeError",
    "PeltonError",
    "PortInUseError",
    "ProtocolError",
    "RenderError",
    "ScalerError",
    "SourceError",
    "StoreVersionError",
    "TraceError",
    "UnknownConventionError",
    "UnservedVersionError",
    "UsageError",
    "WakeError",
]


class PeltonError(Exception):
    """Say what happened, where, and what to do next.

    Args:
        message: What happened, one sentence, in the user's words.
        where: File and line with field path, or resource kind/namespace/name; may be empty.
        hint: What to do next, one sentence; may be empty.
    """

    code: ClassVar[str] = "PEL-INTERNAL-001"
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} [{self.code}]" + (f"\n  hint: {self.hint}" if self.hint else "")


class UsageError(PeltonError):
    """The command line cannot be carried out as written."""

    code = "PEL-CLI-001"
    exit_code = 2
    http_status = 400


class TraceError(PeltonError):
    """A line of a trace for `pelton simulate` cannot be used."""

    code = "PEL-SCALE-001"
    exit_code = 2
    http_status = 400


class ScalerError(PeltonError):
    """A trigger's scaler cannot be made of what is written, or its value cannot be read."""

    code = "PEL-SCALE-002"
    http_status = 502


class HomeError(PeltonError):
    """PELTON_HOME cannot be used: not writable, not a directory, owned by someone else."""

    code = "PEL-HOME-001"


class StoreFullError(HomeError):
    """The disk under the store is full; the write was not stored."""

    code = "PEL-HOME-006"
    http_status = 507


class HomeInUseError(PeltonError):
    """Another `pelton up` already runs on this home."""

    code = "PEL-HOME-002"


class StoreVersionError(PeltonError):
    """The store was written by a newer Pelton."""

    code = "PEL-HOME-003"


class NotRunningError(PeltonError):
    """No platform runs on this home."""

    code = "PEL-HOME-004"
    http_status = 503


class PortInUseError(PeltonError):
    """A port that was asked for belongs to another process."""

    code = "PEL-HOME-005"


class ManifestError(PeltonError):
    """A document is not YAML, not a Kubernetes object, or not of a kind that Pelton knows."""

    code = "PEL-MANIFEST-001"
    exit_code = 2
    http_status = 400


class UnservedVersionError(ManifestError):
    """The group is known, the version is not served."""

    code = "PEL-MANIFEST-002"


class InvalidError(PeltonError):
    """An object breaks validation rules; `causes` lists all of them in contract order.

    Args:
        message: Summary, one sentence.
        causes: (field path, sentence) pairs, e.g. ("spec.image", "required").
        where: As in PeltonError.
        hint: As in PeltonError.
    """

    code = "PEL-MANIFEST-003"
    exit_code = 2
    http_status = 422

    def __init__(
        self, message: str, *, causes: tuple[tuple[str, str], ...] = (), where: str = "", hint: str = ""
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.causes = causes


class RenderError(PeltonError):
    """A manifest cannot be written as the objects of another place, although it is valid by itself."""

    code = "PEL-RENDER-001"
    exit_code = 2
    http_status = 422


class CelCompileError(PeltonError):
    """An expression of the Common Expression Language is not well-formed or not well-typed.

    Args:
        message: One line per fault, each with its place.
        position: Line and column of the first fault, from 1.
    """

    code = "PEL-CEL-001"
    exit_code = 2
    http_status = 422

    def __init__(self, message: str, *, position: tuple[int, int]) -> None:
        super().__init__(message)
        self.position = position


class CelEvaluateError(PeltonError):
    """An expression has no value for its data: a missing key, an overflow, a wrong type."""

    code = "PEL-CEL-002"
    http_status = 422


class CelCostError(PeltonError):
    """An expression costs more than its budget."""

    code = "PEL-CEL-003"
    http_status = 422


class NotFoundError(PeltonError):
    """No such object, function, topic or message."""

    code = "PEL-API-001"
    http_status = 404


class AlreadyExistsError(PeltonError):
    """An object of that name exists."""

    code = "PEL-API-002"
    http_status = 409


class ConflictError(PeltonError):
    """The object changed since it was read (stale resourceVersion)."""

    code = "PEL-API-003"
    http_status = 409


class MalformedEtagError(ConflictError):
    """An etag is written as the store never writes one."""

    code = "PEL-COMPONENT-002"
    http_status = 400


class ProtocolError(PeltonError):
    """A peer or client broke its protocol."""

    code = "PEL-WIRE-001"
    http_status = 400


class SourceError(PeltonError):
    """A function's source cannot be used: missing directory, missing file, nothing recognised in it."""

    code = "PEL-BUILD-001"
    exit_code = 2
    http_status = 422


class UnknownConventionError(SourceError):
    """No convention fits the source, or the name is not in the table."""

    code = "PEL-BUILD-002"


class BuildError(PeltonError):
    """Bundle or environment could not be made; `log_tail` holds the last 20 lines.

    Args:
        message: What failed.
        log_tail: Last lines of the builder's output, oldest first.
        where: As in PeltonError.
        hint: As in PeltonError.
    """

    code = "PEL-BUILD-003"

    def __init__(
        self, message: str, *, log_tail: tuple[str, ...] = (), where: str = "", hint: str = ""
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.log_tail = log_tail


class FunctionLoadError(BuildError):
    """User code raised, exited or hung while it was loaded; `log_tail` holds the traceback."""

    code = "PEL-FUNCTION-001"


class WakeError(PeltonError):
    """No worker could be started for a request."""

    code = "PEL-FUNCTION-002"
    http_status = 503


class OverloadedError(PeltonError):
    """A bounded queue is full."""

    code = "PEL-FUNCTION-003"
    http_status = 503


class PayloadTooLargeError(PeltonError):
    """A body exceeds the limit that applies to it."""

    code = "PEL-FUNCTION-004"
    http_status = 413


class GatewayError(PeltonError):
    """Envoy refused a configuration or did not come up."""

    code = "PEL-GATEWAY-001"
    http_status = 502


class ComponentError(PeltonError):
    """A component is unknown, misconfigured or unreachable."""

    code = "PEL-COMPONENT-001"
    http_status = 400


class DeliveryError(PeltonError):
    """An event, output or notification was not accepted by its destination.

    Args:
        message: What the destination said.
        retriable: Whether another attempt can help.
        retry_after_s: Seconds the destination asked to wait, or None.
        where: As in PeltonError.
        hint: As in PeltonError.
    """

    code = "PEL-EVENT-001"
    http_status = 502

    def __init__(
        self,
        message: str,
        *,
        retriable: bool = True,
        retry_after_s: float | None = None,
        where: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.retriable = retriable
        self.retry_after_s = retry_after_s
