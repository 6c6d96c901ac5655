"""The status of a Function, written from what was planned and what happened.

`controlplane/reconciler` stores what `function_status` returns, and only when it differs from what is stored:
the same input gives the same output, times of transition included, so writing a status never causes another
write. Pure: `now` is an argument.

Source: contracts, OpenFunction, section 2.5; conditions in Kubernetes' form.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pelton.model.desired import Desired, Route
from pelton.plan.problem import Problem
from pelton.plan.rollout import Rollout
from pelton.plan.traffic import traffic_status

__all__ = ["Phase", "function_status", "of_problems"]

LOG_LINES = 20
_SETTLED = {"Succeeded", "Running", "Skipped"}
_BROKEN = {"Failed", "Timeout", "Canceled", "UnknownRuntime"}
_OWN = ("Ready", "LocalTarget", "RolledOut", "ScaledByObject", "HostAliases")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """How the build or the serving of a Function stands.

    Attributes:
        state: One of the states of the contract, e.g. `Building`, `Running`, `Failed`.
        reason: CamelCase; "" repeats the state.
        message: For people; may be "".
        log_tail: Last lines of output, oldest first; the last 20 are shown below the message.
        ref: Name of the Builder or Serving; "" for none.
        last_successful: Name of that which succeeded last; "" for none.
        content: Hash of what the phase was carried out on; "" when it was not carried out.
        revision: The revision that is to be served; "" for a build.
        duration: How long the build took, e.g. `12s`; "" for none.
    """

    state: str
    reason: str = ""
    message: str = ""
    log_tail: tuple[str, ...] = ()
    ref: str = ""
    last_successful: str = ""
    content: str = ""
    revision: str = ""
    duration: str = ""

    @classmethod
    def stored(cls, phase: Mapping[str, Any]) -> Phase:
        """Read a phase as it was written, so that writing it again changes nothing."""
        text = {
            name: phase[key]
            for name, key in _KEYS.items()
            if isinstance(phase.get(key), str)  # other versions wrote other things
        }
        return cls(**{"state": "", **text})


_KEYS = {
    "state": "state",
    "reason": "reason",
    "message": "message",
    "ref": "resourceRef",
    "last_successful": "lastSuccessfulResourceRef",
    "content": "resourceHash",
    "revision": "revision",
    "duration": "buildDuration",
}


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
    internal: str = "",
    now: str,
    rollout: Rollout | None = None,
    latest: str = "",
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
        internal: URL of its internal port, where what is cluster-local is served.
        now: RFC 3339 time, for conditions whose status changes.
        rollout: How far a new revision has come; None when none is or was being rolled out.
        latest: The newest revision; "" for none.
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
                status["addresses"] = _addresses(
                    live.route, internal if live.route.internal and internal else gateway
                )
            status["route"] = {
                "hosts": list(live.route.hosts),
                "paths": [{"type": "PathPrefix", "value": "/"}],
            }
            status["traffic"] = traffic_status(live, latest=latest)
    if rollout is not None:
        status["rollout"] = rollout.to_status()
    if digest:
        status["revision"] = {"imageDigest": digest}
        status["sources"] = [{"name": "default", "bundle": {"digest": digest}}]
    own = [_ready(build, serving, live), _local_target(partial)]
    own += [_rolled_out(rollout)] if rollout is not None else []
    own += [_scaled_by(live.scaling.owner)] if live is not None and live.scaling.owner else []
    own += [_aliases(live.aliases)] if live is not None and live.aliases else []
    status["conditions"] = _conditions(previous, own, generation, now)
    return status


def _phase(phase: Phase) -> dict[str, Any]:
    lines = [phase.message, *phase.log_tail[-LOG_LINES:]] if phase.log_tail else [phase.message]
    written = {key: getattr(phase, name) for name, key in _KEYS.items()}
    written["reason"] = phase.reason or phase.state
    written["message"] = "\n".join(line for line in lines if line)
    return {key: value for key, value in written.items() if value}


def _addresses(route: Route, gateway: str) -> list[dict[str, str]]:
    """Return External addresses by host name, and an Internal one by path, which needs no name resolution."""
    parts = urlsplit(gateway)
    port = f":{parts.port}" if parts.port not in (None, 80) else ""
    found = [
        {"type": "External", "value": f"{parts.scheme}://{host}{port}/"}
        for host in route.hosts
        if not host.startswith("*") and not route.internal
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


def _rolled_out(rollout: Rollout) -> dict[str, str]:
    status = {"Completed": "True", "Aborted": "False"}.get(rollout.state, "Unknown")
    if rollout.active:
        message = (
            f"{rollout.revision} has {rollout.weight} % of the traffic, step {rollout.step + 1} of "
            f"{len(rollout.steps)}, {rollout.stable} the rest"
        )
    elif rollout.state == "Aborted":
        message = f"{rollout.revision} gets no traffic: {rollout.message.partition(chr(10))[0]}"
    else:
        message = ""
    return {"type": "RolledOut", "status": status, "reason": rollout.state, "message": message}


def _scaled_by(owner: str) -> dict[str, str]:
    kind, _, name = owner.partition(" ")
    message = f"{kind} {name} decides how many instances there are; scaleOptions and annotations do not"
    return {"type": "ScaledByObject", "status": "True", "reason": kind, "message": message}


def _aliases(aliases: Iterable[tuple[str, str]]) -> dict[str, str]:
    message = "\n".join(f"{name} stands for {address}" for name, address in aliases)
    return {"type": "HostAliases", "status": "True", "reason": "Resolved", "message": message}


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
