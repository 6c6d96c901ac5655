"""`pelton why scale NAME`: what decided how many instances a function has, now or at a time in the past.

Changes come from the files that the node writes (`controlplane/decisions.py`), so that they can be asked for
after a restart and without a platform; the decision of this moment comes from the node, if it runs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pelton.cli.home import Home
from pelton.cli.printing import print_columns
from pelton.clock import SystemClock, rfc3339
from pelton.controlplane.decisions import in_effect, read_changes, target_key
from pelton.dataplane import wire
from pelton.errors import NotFoundError, PeltonError, UsageError
from pelton.quantity import parse_duration

__all__ = ["why_scale"]

_SHOWN = 12
"""Changes that the words list."""


def why_scale(home: Home, name: str, *, namespace: str, at: str | None, output: str) -> int:
    """Print the decision in effect and the changes that led to it.

    Args:
        home: Whose records.
        name: The function's; `NAME:REVISION` for one that serves beside the first, `deployment/NAME` or
            `statefulset/NAME` for what a ScaledObject scales.
        namespace: The function's.
        at: RFC 3339 time, seconds since 1970, or a duration ago; None for now.
        output: `table` or `json`.

    Raises:
        NotFoundError: Nothing was decided about such a function, or not yet at that time.
    """
    kind, slash, target = name.partition("/")
    key = target_key(kind, f"{namespace}/{target}") if slash else f"{namespace}/{name}"
    moment = SystemClock().now() if at is None else _moment(at)
    changes = [change for change in read_changes(home.decisions, key) if change["key"] == key]
    change = in_effect(changes, moment)
    live = asyncio.run(_ask(home, key)) if at is None else None
    if change is None and live is None:
        known = f"the first change was at {changes[0]['time']}" if changes else "no change was recorded"
        raise NotFoundError(
            f"nothing is known about its scaling{'' if at is None else ' at ' + rfc3339(moment)}",
            where=f"{kind.capitalize()} {namespace}/{target}" if slash else f"Function {key}",
            hint=f"{known}; `pelton status` lists functions, `pelton get scaledobjects` what else is scaled",
        )
    shown = [one for one in changes if one["at"] <= moment.timestamp()]
    if output == "json":
        print(json.dumps({"function": key, "now": live, "inEffect": change, "changes": shown}, indent=2))
        return 0
    title = (kind.lower(), f"{namespace}/{target}") if slash else ("function", key)
    _show(title, change, live, shown)
    return 0


def _moment(text: str) -> datetime:
    try:
        return SystemClock().now() - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        pass
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--at {text!r} is no time",
            hint="write a time such as 2026-01-02T03:04:05Z, seconds since 1970, or how long ago, such as 5m",
        ) from None
    return moment if moment.tzinfo else moment.astimezone()


async def _ask(home: Home, key: str) -> dict[str, Any] | None:
    """Return the node's present decision; None when no platform runs or the function is at rest."""
    try:
        peer = await wire.connect(str(home.run_directory() / "node.sock"), name="node")
    except OSError:
        return None
    try:
        answer: dict[str, Any] | None = await peer.call("decision", {"key": key}, timeout=5)
    except (PeltonError, TimeoutError, ConnectionError):
        return None
    finally:
        await peer.close()
    return answer


def _show(
    title: tuple[str, str],
    change: Mapping[str, Any] | None,
    live: Mapping[str, Any] | None,
    changes: list[dict[str, Any]],
) -> None:
    decision = live if live is not None else (change or {})["decision"]
    rows = [title, ("wanted", str(decision["desired"]))]
    if change is not None:
        rows.append(("since", f"{change['time']}, before that {change['from']}"))
    rows += [("why", decision["steps"][0]["text"] if decision["steps"] else "-")]
    rows += [("", step["text"]) for step in decision["steps"][1:]]
    bounds = f"{decision['minimum']} to {decision['maximum'] or 'any number'}"
    rows.append(("bounds", bounds))
    if decision["excessBurstCapacity"] is not None:
        rows.append(("burst capacity", f"{decision['excessBurstCapacity']} in excess"))
    if change is not None:
        seen = ", ".join(f"{name} {count}" for name, count in change["inputs"].items())
        rows.append(("seen at the change", seen))
    print_columns(None, rows)
    if decision["proposals"]:
        print()
        print_columns(
            ("MEASURED", "VALUE", "TARGET", "ASKS FOR"),
            [
                (
                    one["source"],
                    "-" if one["value"] is None else f"{one['value']:g}",
                    f"{one['target']:g}",
                    "-" if one["wanted"] is None else str(one["wanted"]),
                )
                for one in decision["proposals"]
            ],
        )
    if changes:
        print()
        print_columns(
            ("CHANGED", "FROM", "TO", "WHY"),
            [
                (one["time"], str(one["from"]), str(one["to"]), one["decision"]["reason"].partition(": ")[2])
                for one in changes[-_SHOWN:]
            ],
        )
