"""What a Lambda runtime may ask for next: the state machine behind the Runtime API, without any I/O.

`runtime_api.py` asks it for every request and renders what it refuses. Pure: no clock, no sockets.
Source: `faas-conventions` contract, section 2.1. Decided where it is silent: a runtime that serves several
invocations at once (AWS_LAMBDA_MAX_CONCURRENCY) gets another invocation with each `next` and is never handed
the same one twice, since nobody can tell which of its processes asks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pelton.compat.aws_lambda.calls import PAYLOAD_LIMIT_BYTES

__all__ = [
    "BAD_MODE",
    "INVALID_ID",
    "TOO_LARGE",
    "TRUNCATED",
    "Phase",
    "Refusal",
    "RuntimeStates",
    "error_type",
]


class Phase(StrEnum):
    """What a runtime is doing, in the platform's words."""

    STARTED = "Started"
    INIT_ERROR = "InitError"
    RESTORING = "Restoring"
    RESTORE_ERROR = "RestoreError"
    READY = "Ready"
    RUNNING = "Running"
    RESPONSE = "InvocationResponse"
    ERROR_RESPONSE = "InvocationErrorResponse"
    SENT = "ResponseSent"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request cannot be done.

    Attributes:
        status: HTTP status.
        error_type: The API's name for it, e.g. `InvalidStateTransition`.
        message: One sentence.
    """

    status: int
    error_type: str
    message: str


INVALID_ID: Final = Refusal(400, "InvalidRequestID", "Invalid request ID")
BAD_MODE: Final = Refusal(400, "InvalidFunctionResponseMode", "Invalid function response mode")
TRUNCATED: Final = Refusal(400, "TruncatedHTTPRequest", "The request ended before its body was complete")
TOO_LARGE: Final = Refusal(
    413, "RequestEntityTooLarge", f"Exceeded maximum allowed payload size ({PAYLOAD_LIMIT_BYTES} bytes)."
)

_FAILED: Final = frozenset({Phase.INIT_ERROR, Phase.RESTORE_ERROR})
_valid_type = re.compile(r"(?:Runtime|Function)\.[A-Z][a-zA-Z]+").fullmatch


def error_type(said: str) -> str:
    """Return the error type that counts for what a runtime said in its header; "" is Runtime.Unknown."""
    if _valid_type(said):
        return said
    return "Function.Unknown" if said.startswith("Function.") else "Runtime.Unknown"


class RuntimeStates:
    """Where one runtime process stands.

    Args:
        several: Whether it takes several invocations at once.
        caching: Whether its init may be restored later (SnapStart): then `restore_next` may be called.

    Attributes:
        polled: Whether it ever asked for an invocation, which ends its init.
    """

    __slots__ = ("_base", "_caching", "_open", "_several", "polled")

    def __init__(self, *, several: bool = False, caching: bool = False) -> None:
        self.polled = False
        self._base = Phase.STARTED
        self._several = several
        self._caching = caching
        self._open: dict[str, Phase] = {}

    def __repr__(self) -> str:
        return f"<{self.phase}, running {list(self._open)}>"

    @property
    def phase(self) -> Phase:
        """What it is doing; with several invocations at once: Ready from its first `next` on."""
        if self._open and not self._several:
            return next(iter(self._open.values()))
        return self._base

    @property
    def running(self) -> tuple[str, ...]:
        """Ids of the invocations that it has and did not answer, oldest first."""
        return tuple(self._open)

    # --- what the runtime asks ----------------------------------------------------------------------------

    def next(self) -> Refusal | str:
        """Ask for an invocation: returns the id of the one to hand out again, or "" to wait for a new one."""
        if self._base in _FAILED:
            return self._forbidden(Phase.READY)
        if not self._several:
            for request_id, phase in self._open.items():
                return request_id if phase is Phase.RUNNING else self._forbidden(Phase.READY)
        self._base = Phase.READY
        self.polled = True
        return ""

    def answer(self, request_id: str, phase: Phase = Phase.RESPONSE) -> Refusal | None:
        """Begin to answer an invocation, well (RESPONSE) or badly (ERROR_RESPONSE)."""
        now = self._open.get(request_id)
        if now is None:
            return INVALID_ID
        if now is not Phase.RUNNING:
            return _transition(now, phase)
        self._open[request_id] = phase
        return None

    def sent(self, request_id: str) -> None:
        """Note that an answer is complete.

        Raises:
            ValueError: Nobody began to answer that invocation.
        """
        if self._open.get(request_id) not in {Phase.RESPONSE, Phase.ERROR_RESPONSE}:
            raise ValueError(f"{request_id} is not being answered")
        del self._open[request_id]
        if not self._several:
            self._base = Phase.SENT

    def init_error(self) -> Refusal | None:
        """Give up before the first invocation."""
        if self._base is Phase.RESTORING:
            self._base = Phase.RESTORE_ERROR
        elif self._base is Phase.STARTED:
            self._base = Phase.INIT_ERROR
        else:
            return self._forbidden(Phase.INIT_ERROR)
        return None

    def restore_next(self) -> Refusal | None:
        """Say that init is done and may be kept; call only with `caching`."""
        if not self._caching or self._base is not Phase.STARTED:
            return self._forbidden(Phase.RESTORING)
        self._base = Phase.RESTORING
        return None

    def restore_error(self) -> Refusal | None:
        """Give up while what was kept is brought back."""
        if self._base is not Phase.RESTORING:
            return self._forbidden(Phase.RESTORE_ERROR)
        self._base = Phase.RESTORE_ERROR
        return None

    # --- what the platform does ---------------------------------------------------------------------------

    @property
    def free(self) -> bool:
        """Whether it waits for an invocation."""
        return self._base is Phase.READY and (self._several or not self._open)

    def invoke(self, request_id: str) -> None:
        """Hand it an invocation.

        Raises:
            ValueError: It does not wait for one, or has this one already.
        """
        if not self.free or request_id in self._open:
            raise ValueError(f"a runtime in {self!r} cannot take {request_id}")
        self._open[request_id] = Phase.RUNNING

    def _forbidden(self, wanted: Phase) -> Refusal:
        return _transition(self.phase, wanted)


def _transition(now: Phase, wanted: Phase) -> Refusal:
    return Refusal(403, "InvalidStateTransition", f"The runtime is in state {now} and cannot go to {wanted}")
