"""The conditions of a ScaledObject in KEDA's words, and how they are written.

Called by `controlplane/http_scaling.py` and `controlplane/trigger_targets.py`.
Source: contracts, autoscaling section 1.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from pelton.autoscale.keda import Seen
from pelton.clock import Clock, rfc3339
from pelton.errors import ConflictError, NotFoundError
from pelton.model.scaling import KedaPolicy
from pelton.ports import Store

__all__ = ["condition", "conditions", "refusal", "remembered", "write_status"]

_OURS: Final = ("Ready", "Active", "Fallback", "Paused")

Obj = dict[str, Any]


def condition(kind: str, status: str, reason: str, message: str) -> Obj:
    """Return a condition without its time."""
    return {"type": kind, "status": status, "reason": reason, "message": message}


def remembered(obj: Obj, clock: Clock) -> tuple[float, float | None]:
    """Return when an object was made and was active last, as it says, in seconds on the monotonic clock.

    Returns:
        The first is now where nothing says it, the second None for never.
    """
    now = clock.monotonic()

    def moment(text: Any) -> float | None:
        try:
            return now - max(0.0, (clock.now() - datetime.fromisoformat(str(text))).total_seconds())
        except (ValueError, TypeError):
            return None

    created = moment(obj["metadata"].get("creationTimestamp"))
    return now if created is None else created, moment((obj.get("status") or {}).get("lastActiveTime"))


def refusal(problem: str) -> list[Obj]:
    """Return the only condition of an object that is not followed."""
    return [condition("Ready", "False", "ScaledObjectCheckFailed", problem)]


def conditions(
    keda: KedaPolicy, seen: Seen, *, active: bool | None, cooling: bool, failed: str, ignored: str = ""
) -> list[Obj]:
    """Return the conditions of an object that is followed.

    Args:
        keda: Its policy.
        seen: What the last look found.
        active: Whether a trigger is active; None before the first look.
        cooling: Whether the cooldown runs.
        failed: What failed, for people; used when `seen` says that something did.
        ignored: Which part of the object does not count; "" for none.
    """
    ready = condition("Ready", "True", "ScaledObjectReady", ignored)
    if seen.failed and not seen.fallback:
        status, reason = ("Unknown", "PartialTriggerError") if seen.active else ("False", "TriggerError")
        ready = condition("Ready", status, reason, failed)
    state = condition("Active", "False", "ScalerNotActive", "no trigger is active")
    if active is None:
        state = condition("Active", "Unknown", "ScalerNotActive", "not looked at yet")
    elif active:
        state = condition("Active", "True", "ScalerActive", "a trigger is active")
    elif cooling:
        state = condition("Active", "False", "ScalerCooldown", "no trigger is active; the cooldown runs")
    fallback = condition("Fallback", "False", "NoFallbackFound", "")
    if seen.fallback:
        message = "triggers could not be read too often; the fallback answers"
        fallback = condition("Fallback", "True", "FallbackExists", message)
    notes = {
        "paused": keda.paused,
        "paused-replicas": keda.paused_replicas is not None,
        "paused-scale-in": keda.paused_in,
        "paused-scale-out": keda.paused_out,
    }
    held = [f"autoscaling.keda.sh/{name}" for name, given in notes.items() if given]
    paused = condition("Paused", "False", "ScaledObjectUnpaused", "")
    if held:
        paused = condition("Paused", "True", "ScaledObjectPaused", f"by annotation {', '.join(held)}")
    return [ready, state, fallback, paused]


async def write_status(
    store: Store,
    clock: Clock,
    resource: str,
    obj: Obj,
    said: Iterable[Obj],
    further: Mapping[str, Any] | None = None,
) -> None:
    """Write conditions and further fields of a status where they changed; others' conditions stay.

    A field whose value is None is taken away. What somebody else wrote meanwhile wins.
    """
    status = obj.get("status") or {}
    before = {one.get("type"): one for one in status.get("conditions") or ()}
    now, written = rfc3339(clock.now()), []
    for one in said:
        old = before.get(one["type"], {})
        kept = old.get("lastTransitionTime") if old.get("status") == one["status"] else None
        written.append({**one, "lastTransitionTime": kept or now})
    written += [one for kind, one in before.items() if kind not in _OURS]
    made = {**status, **(further or {}), "conditions": written}
    made = {name: value for name, value in made.items() if value is not None}
    if made == status:
        return
    try:
        await store.update(resource, {**obj, "status": made}, subresource="status")
    except (ConflictError, NotFoundError):
        return
