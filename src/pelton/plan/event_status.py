"""The status of EventSources and Triggers: a history of conditions in upstream's words. Pure.

Pending, Created, Ready, or Error with its reason; a change of the spec begins anew. Upstream appends for
ever; here the latest are kept, so that a broker that comes and goes does not fill the store. Called by
`controlplane/event_framework`. Source: contracts, OpenFunction, section 9.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pelton.plan.event_world import Fault

__all__ = ["HISTORY", "event_status"]

HISTORY: Final = 20
"""Conditions that are kept."""


def event_status(
    before: Mapping[str, Any],
    *,
    kind: str,
    generation: int,
    fault: Fault | None,
    ready: bool,
    trouble: str,
    renamed: Sequence[tuple[str, str]] = (),
    now: str,
) -> dict[str, Any]:
    """Return the status.

    Args:
        before: The stored one.
        kind: `EventSource` or `Trigger`.
        generation: metadata.generation that this is about.
        fault: What is in the way of its plan; None when it is planned.
        ready: Whether its brokers have answered.
        trouble: What keeps it from one of them; "" for nothing.
        renamed: (name, address that it stands for) of hosts in its spec.
        now: RFC 3339 time.
    """
    history: list[dict[str, Any]] = list(before.get("conditions") or ())

    def add(type_: str, status: str, reason: str, message: str) -> None:
        last = history[-1] if history else {}
        if (last.get("type"), last.get("reason"), last.get("message")) != (type_, reason, message):
            history.append(
                {"timestamp": now, "type": type_, "status": status, "reason": reason, "message": message}
            )

    if before.get("observedGeneration") != generation or not history:
        add("Pending", "Unknown", "PendingCreation", f"{kind} is being looked at")
    if fault is not None:
        add("Error", "False", fault.reason, fault.message)
    else:
        if history[-1]["type"] == "Pending" or (
            history[-1]["type"] == "Error" and history[-1]["reason"] != f"ErrorCreating{kind}"
        ):
            stand_for = "".join(f"; {name} stands for {address}" for name, address in renamed)
            message = f"{kind} is at work in the runtime process{stand_for}"
            add("Created", "True", f"{kind}FunctionCreated", message)
        if trouble:
            add("Error", "False", f"ErrorCreating{kind}", trouble)
        elif ready:
            add("Ready", "True", f"{kind}IsReady", f"{kind} is ready")
    return {"observedGeneration": generation, "conditions": history[-HISTORY:]}
