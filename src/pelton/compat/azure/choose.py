"""Which function of an app an event is meant for.

Pure. Azure's host knows by the trigger's connection; Pelton's events come from components of the platform's
own, so names decide: the function's, or what its trigger listens to. Used by `serve.py`.
Decided here (no source says): topic before component, a timer for the clock, else the only one it can be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pelton.compat.azure import schedule
from pelton.compat.azure.app import Function
from pelton.errors import DeliveryError
from pelton.sdk.trigger import Trigger

__all__ = ["choose", "listens_to"]

_FIELDS: Final = ("queueName", "topic", "topicName", "eventHubName", "bindingName", "methodName")


def listens_to(function: Function, resolve: Callable[[str], str]) -> frozenset[str]:
    """Return the names under which events reach a function: topics, queues, containers, bindings, its own.

    Args:
        function: The function.
        resolve: Puts app settings in the places of `%NAME%`.
    """
    fields = function.trigger.fields
    found = {resolve(str(fields[name])) for name in _FIELDS if fields.get(name)}
    if fields.get("path"):
        found.add(resolve(str(fields["path"])).partition("/")[0])
    return frozenset({*found, function.name, function.trigger.name})


def choose(
    functions: Sequence[Function], listening: Mapping[str, frozenset[str]], trigger: Trigger
) -> Function:
    """Return the function that an event is meant for.

    Args:
        functions: All of an app.
        listening: Function name -> what it listens to.
        trigger: What happened.

    Raises:
        DeliveryError: Several could be meant, or none.
    """
    others = [item for item in functions if not item.is_http and item.trigger.type != "warmupTrigger"]
    for name in (trigger.topic, trigger.source):
        hits = [item for item in others if name and name in listening[item.name]]
        if len(hits) == 1:
            return hits[0]
    timers = [item for item in others if item.trigger.type == "timerTrigger"]
    if trigger.kind == "timer":
        by_schedule = [item for item in timers if trigger.schedule and _same(item, trigger.schedule)]
        candidates = by_schedule or timers or others
    elif trigger.kind == "cloudevent":
        grid = [item for item in others if item.trigger.type == "eventGridTrigger"]
        candidates = grid or [item for item in others if item not in timers] or timers
    else:
        candidates = [item for item in others if item not in timers] or timers
    if not others:
        candidates = [item for item in functions if item.is_http]
    if len(candidates) == 1:
        return candidates[0]
    what = f"an event of {trigger.topic or trigger.source or trigger.kind}"
    names = ", ".join(f"{item.name} ({item.trigger.type})" for item in candidates or functions)
    raise DeliveryError(
        f"{what} fits {len(candidates)} functions of the app: {names}",
        retriable=False,
        hint="Name the component or topic like the function or its queue, topic or binding; or serve one "
        "function alone with the annotation pelton.dev/function.",
    )


def _same(function: Function, written: str) -> bool:
    own = str(function.trigger.fields.get("schedule") or "")
    if own == written:
        return True
    try:
        return schedule.parse(own).cron() == written
    except schedule.ScheduleError:
        return False
