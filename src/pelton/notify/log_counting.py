"""Counts log records by a rule and says when its alerts begin and end.

A state machine without clock and I/O: `notify/log_rules.py` feeds it records with their times and carries out
what it returns. Whether so many records lie in the window is decided by the times that they say, so that
records that waited are counted as if they had not; when it is quiet is decided by when they came, so that
catching up is no flapping.
"""

from __future__ import annotations

import re
from bisect import insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from pelton.cel import Program, compile_cel
from pelton.clock import rfc3339
from pelton.errors import CelCostError, CelEvaluateError
from pelton.manifest.log_rule import VARIABLES
from pelton.model.log_rule import LogRule, RuleAlert
from pelton.notify.alert import FIRING, RESOLVED, Alert

__all__ = ["Counting", "Counts", "RuleGroup", "ended", "records_of"]

MOST_GROUPS: Final = 10_000
LASTS_S: Final = 24 * 3600.0
"""How far ahead the end of an alert is said to be; it is said anew after half of that."""
_LONGEST_LOG: Final = 500
_LONGEST_LABEL: Final = 200
_MESSAGE: Final = "{{ $value }} log records, the last: {{ $log }}"
_COST: Final = 200_000
_TIMES: Final = ("time", "@timestamp", "date", "timestamp")
_PLACEHOLDER: Final = re.compile(r"\{\{\s*\$(value|log|labels\.([a-zA-Z_][a-zA-Z0-9_]*))\s*\}\}")
_json = msgspec.json.Decoder()


@dataclass(slots=True)
class RuleGroup:
    """Records of one rule with the same values of its labels.

    Attributes:
        times: Of the latest records, at most as many as the threshold, Unix seconds, sorted.
        count: Records since it was quiet last.
        seen: When the last one came, Unix seconds.
        since: When its alert began, Unix seconds; None = it has none.
        said: When the alert was told last, Unix seconds.
        log: Text of the last record.
        alert: What was told last; None = nothing.
    """

    times: list[float] = field(default_factory=list)
    count: int = 0
    seen: float = 0.0
    since: float | None = None
    said: float = 0.0
    log: str = ""
    alert: Alert | None = None


@dataclass(slots=True)
class Counts:
    """What happened since the start.

    Attributes:
        records: Records that were looked at.
        matched: Those that counted.
        failed: Those that an expression could not be evaluated for: they do not count.
        crowded: Those that counted but for which there was no room for another group.
        fired: Alerts that began.
        error: The last failure of an expression.
    """

    records: int = 0
    matched: int = 0
    failed: int = 0
    crowded: int = 0
    fired: int = 0
    error: str = ""


def records_of(data: bytes) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield (record, text) of every record in a message.

    A JSON object is one record, an array of them several, as log shippers send them; anything else is a
    record whose `log` is the text. The text is the record's `log`, else its `message`, else all of it.
    """
    if not data:
        return
    try:
        found = _json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        text = data.decode(errors="replace")
        yield {"log": text}, text
        return
    for item in found if isinstance(found, list) else [found]:
        if isinstance(item, dict):
            said = item.get("log", item.get("message"))
            yield item, said if isinstance(said, str) else msgspec.json.encode(item).decode()
        elif item is not None:
            text = item if isinstance(item, str) else msgspec.json.encode(item).decode()
            yield {"log": text}, text


class Counting:
    """One rule at work.

    Args:
        rule: The rule; its expressions compile.
        groups: What was kept: values of the labels -> group.
    """

    def __init__(self, rule: LogRule, groups: Mapping[tuple[str, ...], RuleGroup] | None = None) -> None:
        self.rule = rule
        self.groups = dict(groups or {})
        self.counts = Counts()
        self._match = compile_cel(rule.match, VARIABLES)
        self._values: Sequence[Program] = [compile_cel(each, VARIABLES) for each in rule.group_by.values()]

    def feed(
        self, record: Mapping[str, Any], text: str, now: float, *, topic: str = ""
    ) -> tuple[tuple[str, ...], Alert | None] | None:
        """Count a record; returns the values of its group and the alert that begins with it, if any.

        Returns None when the record does not count.
        """
        counts = self.counts
        counts.records += 1
        bindings = {"record": record, "text": text, "topic": topic}
        try:
            if self._match.evaluate(bindings, budget=_COST) is not True:
                return None
            values = tuple(_label(program.evaluate(bindings, budget=_COST)) for program in self._values)
        except (CelEvaluateError, CelCostError) as error:
            counts.failed += 1
            counts.error = error.message
            return None
        counts.matched += 1
        group = self.groups.get(values)
        if group is None:
            if len(self.groups) >= MOST_GROUPS:
                counts.crowded += 1
                return None
            group = self.groups[values] = RuleGroup()
        insort(group.times, _time(record, now))
        if len(group.times) > self.rule.threshold:
            del group.times[0]
        group.count += 1
        group.seen = now
        group.log = text.strip()[:_LONGEST_LOG]
        times = group.times
        if group.since is not None:
            return values, None
        if len(times) < self.rule.threshold or times[-1] - times[0] > self.rule.window_s:
            return values, None
        group.since, group.said = times[-1], now
        counts.fired += 1
        group.alert = self._alert(values, group, FIRING, now + LASTS_S)
        return values, group.alert

    def tick(self, now: float) -> list[tuple[tuple[str, ...], Alert | None]]:
        """Return the groups that change with time, with the alert to tell: those that end, or last long."""
        changed: list[tuple[tuple[str, ...], Alert | None]] = []
        for values, group in list(self.groups.items()):
            if group.since is None:
                if now - group.seen >= max(self.rule.window_s, 1.0):
                    del self.groups[values]
                    changed.append((values, None))
            elif now - group.seen >= self.rule.resolve_after_s:
                changed.append((values, self._alert(values, group, RESOLVED, now)))
                del self.groups[values]
            elif now - group.said >= LASTS_S / 2:
                group.said = now
                group.alert = self._alert(values, group, FIRING, now + LASTS_S)
                changed.append((values, group.alert))
        return changed

    def _alert(self, values: Sequence[str], group: RuleGroup, status: str, ends: float) -> Alert:
        rule = self.rule
        said = rule.alert or RuleAlert()
        labels = {
            "alertname": said.name or rule.name,
            **said.labels,
            **dict(zip(rule.group_by, values, strict=True)),
        }
        annotations = said.annotations or {"message": _MESSAGE}
        return Alert(
            status=status,
            labels={name: value for name, value in labels.items() if value},
            annotations={name: _filled(text, labels, group) for name, text in annotations.items()},
            starts_at=_moment(group.since if group.since is not None else ends),
            ends_at=_moment(ends),
        )


def ended(groups: Iterable[RuleGroup], now: float) -> list[Alert]:
    """Return the alerts of groups whose rule is gone, as resolved."""
    return [
        replace(group.alert, status=RESOLVED, ends_at=_moment(now))
        for group in groups
        if group.alert is not None
    ]


def _filled(text: str, labels: Mapping[str, str], group: RuleGroup) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] == "value":
            return str(group.count)
        return group.log if found[1] == "log" else labels.get(found[2], "")

    return _PLACEHOLDER.sub(value, text)


def _label(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)[:_LONGEST_LABEL] if value is not None else ""


def _time(record: Mapping[str, Any], now: float) -> float:
    """Return when a record says that it was written, else `now`; not before 1970, nor yet to come."""
    for name in _TIMES:
        value = record.get(name)
        seconds = 0.0
        if isinstance(value, int | float) and not isinstance(value, bool):
            seconds = min(value, now)  # compared before it becomes a float: JSON has numbers that are none
        elif isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                continue
            seconds = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
        if seconds > 0:
            return min(float(seconds), now)
    return now


def _moment(seconds: float) -> str:
    return rfc3339(datetime.fromtimestamp(seconds, UTC), fraction=True)
