"""`pelton why alert ID`: where an alert goes, what keeps it back, what was told, and when the next comes.

The runtime process is asked for what it would decide now (`notify/explaining.py`); what destinations answered
is read from the file of notifications, which outlives it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from pelton.cli.home import Home
from pelton.cli.printing import print_columns
from pelton.cli.runtime_process import ask_runtime
from pelton.clock import rfc3339
from pelton.errors import NotFoundError, ProtocolError, UsageError
from pelton.model.matching import parse_matcher
from pelton.notify.records import Record, read_history

__all__ = ["why_alert"]

_ANSWERS: Final = 5
"""Answers of destinations that the words list per alert."""
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{16}")


def why_alert(home: Home, words: Sequence[str], *, output: str) -> int:
    """Print why alerts went where they went; 0 when one is known or asked for by labels.

    Args:
        home: Of the running platform.
        words: A fingerprint, or matchers such as `alertname=DiskFull`; all have to match.
        output: `table` or `json`.

    Raises:
        UsageError: A word is neither.
        NotFoundError: No such alert is known, nor was one told of.
        NotRunningError: No platform runs here.
    """
    name, matchers = _asked(words)
    home.endpoints()
    alerts = asyncio.run(_ask(home, {"name": name, "matchers": matchers}))
    answers = {
        each["fingerprint"]: read_history(home.notifications, alert=each["fingerprint"], limit=_ANSWERS)
        for each in alerts
    }
    if not alerts and name and (old := read_history(home.notifications, alert=name, limit=_ANSWERS)):
        answers[name] = old
    if not alerts and not answers:
        raise NotFoundError(
            f"no such alert is known: {' '.join(words)}",
            hint="amtool alert query lists what fires; name labels to see where an alert would go",
        )
    if output == "json":
        told = {each: [_plain(one) for one in records] for each, records in answers.items()}
        print(json.dumps({"alerts": alerts, "answers": told}, indent=2))
        return 0
    for number, alert in enumerate(alerts):
        if number:
            print()
        _show(alert, answers.get(alert["fingerprint"], []))
    if not alerts:
        print(f"{name} does not fire and waits in no group; this is what was told:")
        _show_answers(answers[name])
    return 0


def _asked(words: Sequence[str]) -> tuple[str, list[str]]:
    if len(words) == 1 and _FINGERPRINT.fullmatch(words[0]):
        return words[0], []
    for word in words:
        try:
            parse_matcher(word)
        except ProtocolError as error:
            raise UsageError(
                f"{word!r} is neither a fingerprint (16 hex digits) nor a matcher",
                hint="write alertname=DiskFull, severity=~'warn.*', or the fingerprint of amtool's JSON",
            ) from error
    return "", list(words)


async def _ask(home: Home, asked: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await ask_runtime(home, "alert", asked))["alerts"]
    return found


def _show(alert: dict[str, Any], answers: Sequence[Record]) -> None:
    labels = ", ".join(f"{name}={value}" for name, value in sorted(alert["labels"].items()))
    until = f"counts until {alert['endsAt']} unless it comes again" if alert["endAssumed"] else ""
    state = f"{alert['status']} since {alert['startsAt']}" + (f", {until}" if until else "")
    if not alert["known"]:
        state = "not known at present; an alert with these labels would go so"
    facts = [("alert", labels), ("fingerprint", alert["fingerprint"]), ("state", state)]
    if alert["upstreamGroup"]:
        facts.append(("upstream", f"grouped by an Alertmanager: {alert['upstreamGroup']}"))
    for target in alert["targets"]:
        facts += _target(target, alert)
    if not alert["targets"]:
        facts.append(("goes to", "nobody"))
    print_columns(None, facts)
    if alert["refused"]:
        print()
        rows = [(f"{each['receiver']}/{each['block']}", each["why"]) for each in alert["refused"]]
        print_columns(("NOT TO", "WHY"), rows)
    if answers:
        print()
        _show_answers(answers)


def _target(target: dict[str, Any], alert: dict[str, Any]) -> Iterator[tuple[str, str]]:
    via = f" by Router {target['router']}" if target["router"] else ""
    yield ("goes to", f"{target['receiver']}/{target['block']}{via}")
    for reason in _reasons(target["keptBack"], alert):
        yield ("  kept back", reason)
    group = target["group"]
    if group is not None:
        timing = group["timing"]
        count = group["alerts"]
        yield ("  group", f"{group['key']}, {count} alert{'' if count == 1 else 's'}")
        yield (
            "  timers",
            f"wait {timing['group_wait_s']:g} s, interval {timing['group_interval_s']:g} s, "
            f"repeat {timing['repeat_interval_s']:g} s",
        )
        if group["lastTold"]:
            yield ("  told", f"{group['lastTold']}, {'with' if group['told'] else 'without'} this alert")
    yield ("  next", target["next"] + (f", {target['nextAt']}" if target["nextAt"] else ""))


def _reasons(kept: dict[str, Any] | None, alert: dict[str, Any]) -> Iterator[str]:
    if kept is None:
        return
    for name in kept["silences"]:
        yield f"Silence {name}"
    for id in kept["posted"]:
        said = alert["silences"].get(id) or {}
        more = f" until {said['endsAt']} by {said['createdBy']}: {said['comment']}" if said else ""
        yield f"silence {id}{more}"
    if kept["inhibitedBy"]:
        labels = alert["inhibitors"].get(kept["inhibitedBy"]) or {}
        named = labels.get("alertname", "")
        yield f"inhibited by {kept['inhibitedBy']}" + (f" ({named})" if named else "")


def _show_answers(answers: Sequence[Record]) -> None:
    rows = [
        (
            rfc3339(datetime.fromtimestamp(each.at, UTC)),
            f"{each.receiver}/{each.block}",
            f"{each.outcome}, attempt {each.attempt}",
            each.detail or "-",
        )
        for each in answers
    ]
    print_columns(("AT", "TO", "OUTCOME", "ANSWER"), rows)


def _plain(record: Record) -> dict[str, Any]:
    return {
        "at": rfc3339(datetime.fromtimestamp(record.at, UTC), fraction=True),
        "receiver": record.receiver,
        "block": record.block,
        "outcome": record.outcome,
        "attempt": record.attempt,
        "answer": record.detail,
        "notification": record.id,
    }
