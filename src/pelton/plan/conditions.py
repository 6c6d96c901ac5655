"""The status of a Function, written from what was planned and what happened.

`controlplane/reconciler` stores what `function_status` returns, and only when it differs from what is stored:
the same input gives the same output, times of transition included, so writing a status never causes another
write. Pure: `now` is an argument.

Source: contracts, OpenFunction, section 2.5; conditions in Kubernetes' form.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pelton.model.desired import Desired, Route
from pelton.plan.problem import Problem

__all__ = ["REVISION_REF", "Phase", "function_status", "of_problems"]

REVISION_REF = "pelton.dev/revision"
"""Key of the revision in `status.serving.resourceRef` and `lastSuccessfulResourceRef`."""
LOG_LINES = 20
_SETTLED = {"Succeeded", "Running", "Skipped"}
_BROKEN = {"Failed", "Timeout", "Canceled", "UnknownRuntime"}
_OWN = ("Ready", "LocalTarget")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """How the build or the serving of a Function stands.

    Attributes:
        state: One of the states of the contract, e.g. `Building`, `Running`, `Failed`.
        reason: CamelCase; "" repeats the state.
        message: For people; may be "".
        log_tail: Last lines of output, oldest first; the last 20 are shown below the message.
        refs: What the phase produced, key -> text.
        last_successful: The same of the last success.
        content: Hash of what the phase was carried out on; "" when it was not carried out.
    """

    state: str
    reason: str = ""
    message: str = ""
    log_tail: tuple[str, ...] = ()
    refs: Mapping[str, str] = field(default_factory=dict)
    last_successful: Mapping[str, str] = field(default_factory=dict)
    content: str = ""


def of_problems(problems: Iterable[Problem]) -> tuple[str, str]:
    """Return (reason of the first, all sentences one per line); ("", "") for none."""
    listed = list(problems)
    return (listed[0].reason if listed else ""), "\n".join(str(problem) for problem in listed)


def function_status(
    previous: Mapping[str, Any],
    *,
    generation: int,
    build: Phase,
    serving: Phase,
    live: Desired | None,
    digest: str,
    partial: Iterable[tuple[str, str]],
    gateway: str,
    now: str,
) -> dict[str, Any]:
    """Return the whole status.

    Args:
        previous: The stored status; transition times and conditions of others are taken over from it.
        generation: metadata.generation that this is about.
        build: How the build stands.
        serving: How the serving stands.
        live: What traffic reaches now, after a failed change the previous revision; None for nothing.
        digest: `sha256:...` of the last successful build; "" for none.
        partial: (field path, sentence) of fields that are accepted and not honoured.
        gateway: URL of the gateway without path; "" while it is unknown.
        now: RFC 3339 time, for conditions whose status changes.
    """
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "build": _phase(build),
        "serving": _phase(serving),
    }
    if live is not None:
        status["serving"]["service"] = live.workload.name
        if live.route is not None:
            if gateway:
                status["addresses"] = _addresses(live.route, gateway)
            status["route"] = {
                "hosts": list(live.route.hosts),
                "paths": [{"type": "PathPrefix", "value": "/"}],
            }
    if digest:
        status["revision"] = {"imageDigest": digest}
    status["conditions"] = _conditions(
        previous, [_ready(build, serving, live), _local_target(partial)], generation, now
    )
    return status


def _phase(phase: Phase) -> dict[str, Any]:
    lines = [phase.message, *phase.log_tail[-LOG_LINES:]] if phase.log_tail else [phase.message]
    written: dict[str, Any] = {
        "state": phase.state,
        "reason": phase.reason or phase.state,
        "message": "\n".join(line for line in lines if line),
        "resourceRef": dict(phase.refs),
        "lastSuccessfulResourceRef": dict(phase.last_successful),
        "resourceHash": phase.content,
    }
    return {key: value for key, value in written.items() if value}


def _addresses(route: Route, gateway: str) -> list[dict[str, str]]:
    """Return External addresses by host name, and an Internal one by path, which needs no name resolution."""
    parts = urlsplit(gateway)
    port = f":{parts.port}" if parts.port not in (None, 80) else ""
    found = [
        {"type": "External", "value": f"{parts.scheme}://{host}{port}/"}
        for host in route.hosts
        if not host.startswith("*")
    ]
    if route.path:
        listen = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(parts.hostname or "", parts.hostname or "")
        if ":" in listen and not listen.startswith("["):
            listen = f"[{listen}]"
        found.append({"type": "Internal", "value": f"{parts.scheme}://{listen}{port}{route.path}/"})
    return found


def _ready(build: Phase, serving: Phase, live: Desired | None) -> dict[str, str]:
    for phase in (build, serving):
        if phase.state in _BROKEN:
            message = phase.message.partition("\n")[0]
            if live is not None:
                message += f" (revision {live.workload.revision} keeps serving)"
            return {
                "type": "Ready",
                "status": "False",
                "reason": phase.reason or phase.state,
                "message": message,
            }
    if build.state in _SETTLED and serving.state in _SETTLED:
        return {"type": "Ready", "status": "True", "reason": serving.state, "message": ""}
    current = serving if build.state in _SETTLED else build
    return {
        "type": "Ready",
        "status": "Unknown",
        "reason": current.reason or current.state,
        "message": current.message.partition("\n")[0],
    }


def _local_target(partial: Iterable[tuple[str, str]]) -> dict[str, str]:
    listed = [f"{path}: {sentence}" for path, sentence in partial]
    if not listed:
        return {"type": "LocalTarget", "status": "True", "reason": "Complete", "message": ""}
    return {"type": "LocalTarget", "status": "False", "reason": "Partial", "message": "\n".join(listed)}


def _conditions(
    previous: Mapping[str, Any], own: list[dict[str, str]], generation: int, now: str
) -> list[dict[str, Any]]:
    before = [entry for entry in previous.get("conditions") or () if isinstance(entry, dict)]
    known = {entry.get("type"): entry for entry in before}
    written: list[dict[str, Any]] = []
    for condition in own:
        old = known.get(condition["type"], {})
        kept = old.get("lastTransitionTime") if old.get("status") == condition["status"] else None
        written.append({**condition, "observedGeneration": generation, "lastTransitionTime": kept or now})
    return written + [entry for entry in before if entry.get("type") not in _OWN]
