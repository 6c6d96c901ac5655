"""`pelton why trigger NAME`: each input's state and age, which conditions hold, and what would fire.

The runtime process is asked, which reads the state as it is stored; one that is not at work has its reason in
the status of the object, which the API has, as it has the EventSources whose events cannot come.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

from pelton.cli.client import Client
from pelton.cli.home import Home
from pelton.cli.printing import print_columns, to_yaml
from pelton.cli.runtime_process import ask_runtime
from pelton.model.event_framework import SOURCE_KINDS
from pelton.plan.event_world import DEFAULT_BUS
from pelton.quantity import format_duration

__all__ = ["unheard", "why_trigger"]


def why_trigger(home: Home, name: str, *, namespace: str, output: str) -> int:
    """Print how a Trigger stands; 0 when it is at work, 1 when something is in its way.

    Args:
        home: Of the running platform.
        name: The Trigger's.
        namespace: The Trigger's.
        output: `table`, `yaml` or `json`.

    Raises:
        NotFoundError: There is no such Trigger.
        NotRunningError: No platform runs here.
    """
    with Client(home) as api:

        def listed(plural: str) -> dict[tuple[str, str], dict[str, Any]]:
            items = api.list(api.resource(f"{plural}.events.openfunction.io"), None)["items"]
            return {(one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in items}

        obj = api.get(api.resource("triggers.events.openfunction.io"), namespace, name)
        buses = listed("eventbuses") | listed("clustereventbuses")
        deaf = unheard(obj, listed("eventsources"), buses)
    conditions = (obj.get("status") or {}).get("conditions") or []
    found = asyncio.run(_ask(home, namespace, name))
    if output != "table":
        report = {"trigger": found, "conditions": conditions, "unheard": deaf}
        sys.stdout.write(json.dumps(report, indent=2) + "\n" if output == "json" else to_yaml(report))
        return 0 if found else 1
    last = conditions[-1] if conditions else {}
    print_columns(
        None,
        [
            ("trigger", f"{namespace}/{name}"),
            ("status", " ".join(filter(None, (last.get("type"), last.get("reason"))))),
            *([("because", last["message"])] if last.get("type") == "Error" else []),
            *(_summary(found) if found else []),
            *((f"no event of {input_name}", why) for input_name, why in deaf.items()),
        ],
    )
    if found:
        _show(found)
    return 0 if found else 1


def unheard(
    trigger: Mapping[str, Any],
    sources: Mapping[tuple[str, str], Mapping[str, Any]],
    buses: Mapping[tuple[str, str], Mapping[str, Any]],
) -> dict[str, str]:
    """Return input -> why no event of it can come, for those of which that is known.

    Args:
        trigger: The object.
        sources: (namespace, name) -> EventSource, of all namespaces.
        buses: The same of EventBuses, and of ClusterEventBuses with the namespace "".
    """
    spec, own = trigger.get("spec") or {}, trigger["metadata"]["namespace"]
    found = {}
    for name, wanted in (spec.get("inputs") or {}).items():
        where = (wanted.get("namespace") or own, wanted["eventSource"])
        source = sources.get(where)
        if source is None:
            found[name] = f"there is no EventSource {'/'.join(where)}"
            continue
        offered, title = source.get("spec") or {}, f"EventSource {'/'.join(where)}"
        events = [event for kind in SOURCE_KINDS for event in offered.get(kind) or {}]
        last = ((source.get("status") or {}).get("conditions") or [{}])[-1]
        bus = offered.get("eventBus", "")
        if wanted["event"] not in events:
            found[name] = f"{title} has no event {wanted['event']}; it has {', '.join(events) or 'none'}"
        elif not bus:
            found[name] = f"{title} publishes on no bus"
        elif _meaning(bus, where[0], buses) != _meaning(spec.get("eventBus", ""), own, buses):
            found[name] = f"{title} publishes on the bus {bus}, which is another one"
        elif last.get("type") == "Error":
            found[name] = f"{title} does not work: {last.get('message', '')}"
    return found


def _meaning(name: str, namespace: str, buses: Mapping[tuple[str, str], Mapping[str, Any]]) -> object:
    """Return what tells buses apart: their settings, {} for the embedded one, or the name of none."""
    obj = buses.get((namespace, name)) or buses.get(("", name))
    if obj is None:
        return {} if name == DEFAULT_BUS else name
    spec = obj.get("spec") or {}
    return {kind: spec[kind] for kind in ("natsStreaming", "kafka", "jetstream") if spec.get(kind)}


async def _ask(home: Home, namespace: str, name: str) -> dict[str, Any] | None:
    answer = await ask_runtime(home, "trigger", {"namespace": namespace, "name": name})
    found: dict[str, Any] | None = answer["trigger"]
    return found


def _summary(found: dict[str, Any]) -> list[tuple[str, str]]:
    looked = f"{found['events']} events looked at since the runtime began"
    if found["passedOver"]:
        looked += f", {found['passedOver']} from before the Trigger passed over"
    return [("window", f"{format_duration(found['windowSeconds'])}; {looked}")]


def _show(found: dict[str, Any]) -> None:
    now, window_s = found["now"], found["windowSeconds"]
    print()
    print_columns(
        ("INPUT", "IS", "LAST EVENT", "STAYS TRUE FOR", "WAITING", "TOPIC"),
        [
            [
                one["name"],
                "true" if one["true"] else "false",
                "never" if one["last"] is None else f"{_seconds(now - one['last'])} ago",
                _seconds(one["last"] + window_s - now) if one["true"] else "-",
                str(one["waiting"]),
                one["topic"],
            ]
            for one in found["inputs"]
        ],
    )
    for one in found["subscribers"]:
        print()
        fires = (
            f"fires on the next event of {' or '.join(one['firesOn'])}"
            if one["firesOn"]
            else "cannot fire now"
        )
        print(f"{one['condition']}: {'holds' if one['holds'] else 'does not hold'}; {fires}")
        times = f"fired {one['fired']} times since the runtime began"
        ago = f", last {_seconds(now - one['lastFired'])} ago" if one["lastFired"] else ""
        print(f"  {times}{ago}")
        for title, listed in (("to", one["destinations"]), ("else", one["deadLetters"])):
            for place in listed:
                print(
                    f"  {title} {place['to']}: {place['delivered']} delivered, {place['pending']} waiting, "
                    f"{place['failed']} attempts failed, {place['dead']} given up"
                )


def _seconds(value: float) -> str:
    return f"{max(0.0, value):.1f}s"
