"""Canary steps: how a new revision takes over from the one that serves, by weights and pauses.

`read` understands the annotation `pelton.dev/rollout`, `advance` is the state machine: what was recorded,
what the user asked for since, and the time give the next record. `controlplane/reconciler` keeps the record
in the Function's status, so that a rollout goes on where it was after any restart, and looks again when
`Rollout.wait_s` has passed. `plan/traffic` turns the weight into a layout. Pure.

Grammar: steps with commas between, `10% 5m, 50% pause, 100%`. A step is a whole percentage and what happens
after it: a duration, or `pause`, which waits for `pelton rollout resume`. Percentages rise; the last one is
100% without a pause, and may be left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from pelton.model.function import Function
from pelton.plan.problem import Problem
from pelton.plan.traffic import TRAFFIC, annotation
from pelton.quantity import format_duration, parse_duration

__all__ = [
    "ACTION",
    "DEFAULT_HISTORY",
    "HISTORY_LIMIT",
    "OWN",
    "ROLLED_BACK_TO",
    "ROLLOUT",
    "Rollout",
    "Step",
    "advance",
    "history_limit",
    "read",
]

ROLLOUT = "pelton.dev/rollout"
"""Annotation: the steps."""
ACTION = "pelton.dev/rollout-action"
"""Annotation: what `pelton rollout` asks for, once: `pause|resume REVISION STEP`, `abort REVISION`, or
`restart REVISION TIME` with the time at which the aborted one began its last step."""
ROLLED_BACK_TO = "pelton.dev/rolled-back-to"
"""Annotation: the revision whose content the Function has again; it is taken from its record, at once."""
HISTORY_LIMIT = "pelton.dev/revision-history-limit"
"""Annotation: revisions kept for rollback beside those in use, 0 to 100."""
OWN = frozenset({ROLLOUT, ACTION, ROLLED_BACK_TO, HISTORY_LIMIT, TRAFFIC})
"""Annotations that say how revisions follow each other, and are no part of any."""

DEFAULT_HISTORY = 5
"""Revisions kept for rollback beside those in use, where HISTORY_LIMIT is not given."""
_MAX_HISTORY = 100
_MAX_STEPS = 20
_MAX_PAUSE_S = 30 * 24 * 3600.0
_STEP = re.compile(r"([0-9]{1,3})\s*%(?:\s+(\S+))?")
_GRAMMAR = 'steps such as "10% 5m, 50% pause, 100%"'
_HEALTH_S = 5.0
"""Seconds between two looks at a new revision that has traffic and whose step still lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step.

    Attributes:
        weight: Percentage of the traffic for the new revision, 1 to 100.
        pause_s: Seconds until the next step; None waits for the user; 0 for the last step.
    """

    weight: int
    pause_s: float | None = None

    def __str__(self) -> str:
        if self.weight == 100:
            return "100%"
        return f"{self.weight}% " + ("pause" if self.pause_s is None else format_duration(self.pause_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """How far a rollout has come; `status.rollout`.

    Attributes:
        state: `Progressing`, `Paused` (by its step or by the user), `Completed` or `Aborted`.
        revision: The new revision.
        stable: The one that it replaces.
        step: Index of the current step.
        steps: All steps as they were when it began.
        since: When the step began, moved on by the time it was paused; RFC 3339.
        paused_at: When the user paused it; "" when not.
        message: Why it was aborted; else "".
    """

    state: str
    revision: str
    stable: str
    step: int = 0
    steps: tuple[Step, ...] = ()
    since: str = ""
    paused_at: str = ""
    message: str = ""

    @property
    def active(self) -> bool:
        """Whether both revisions have a part."""
        return self.state in ("Progressing", "Paused")

    @property
    def weight(self) -> int:
        """Percentage of the traffic for the new revision."""
        if self.state == "Completed":
            return 100
        return self.steps[self.step].weight if self.active else 0

    def wait_s(self, now: datetime) -> float | None:
        """Return seconds until there may be something to do; None when only the user can change anything."""
        if not self.active:
            return None
        pause_s = self.steps[self.step].pause_s
        if self.paused_at or pause_s is None:
            return _HEALTH_S
        return min(_HEALTH_S, max(0.0, pause_s - _seconds(self.since, now)))

    def to_status(self) -> dict[str, Any]:
        """Return it as it stands in the status; what is empty is left out."""
        written: dict[str, Any] = {
            "state": self.state,
            "revision": self.revision,
            "stable": self.stable,
            "step": self.step,
            "weight": self.weight,
            "steps": ", ".join(str(step) for step in self.steps),
            "since": self.since,
            "pausedAt": self.paused_at,
            "message": self.message,
        }
        return {key: value for key, value in written.items() if value != ""}

    @classmethod
    def from_status(cls, status: Mapping[str, Any]) -> Rollout | None:
        """Read it from a status; None when there is none or it cannot be read."""
        stored = status.get("rollout")
        if not isinstance(stored, Mapping):
            return None
        steps, complaint = _steps(str(stored.get("steps", "")))
        step = stored.get("step", 0)
        if complaint or not isinstance(step, int) or not 0 <= step < len(steps):
            return None
        found = {key: str(stored.get(key, "")) for key in ("state", "revision", "stable", "since", "message")}
        if found["state"] not in ("Progressing", "Paused", "Completed", "Aborted") or not found["revision"]:
            return None
        return cls(step=step, steps=steps, paused_at=str(stored.get("pausedAt", "")), **found)


def read(function: Function) -> tuple[tuple[Step, ...], list[Problem]]:
    """Return the steps that a Function asks for, () for none, and what is wrong with them."""
    text, path = annotation(function, ROLLOUT)
    if not text:
        return (), []
    steps, complaint = _steps(text)
    if complaint:
        return (), [Problem(reason="InvalidAnnotation", path=path, message=complaint)]
    return steps, []


def history_limit(function: Function) -> tuple[int, list[Problem]]:
    """Return how many revisions to keep beside those in use, and what is wrong with the annotation."""
    text, path = annotation(function, HISTORY_LIMIT)
    if not text:
        return DEFAULT_HISTORY, []
    if text.isdecimal() and int(text) <= _MAX_HISTORY:
        return int(text), []
    message = f'"{text}" is not a whole number from 0 to {_MAX_HISTORY}'
    return DEFAULT_HISTORY, [Problem(reason="InvalidAnnotation", path=path, message=message)]


def _steps(text: str) -> tuple[tuple[Step, ...], str]:
    """Return (steps with the 100% at the end, "") or ((), what is wrong)."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > _MAX_STEPS:
        return (), f"has {len(parts)} steps; there are at most {_MAX_STEPS}"
    steps: list[Step] = []
    for part in parts:
        match = _STEP.fullmatch(part)
        if match is None:
            return (), f'"{part}" is no step; write {_GRAMMAR}'
        weight, pause = int(match[1]), match[2] or ""
        if not 1 <= weight <= 100:
            return (), f'"{part}": a percentage is from 1 to 100'
        if steps and weight <= steps[-1].weight:
            return (), f'"{part}": percentages rise from step to step; write {_GRAMMAR}'
        if weight == 100:
            if pause:
                return (), f'"{part}": nothing follows 100%, so it takes no pause'
            steps.append(Step(weight=100, pause_s=0.0))
            continue
        if not pause:
            return (), f'"{part}" does not say how long it lasts: add a duration, or "pause"'
        pause_s = None if pause == "pause" else _pause_s(pause)
        if pause_s is not None and not 0 < pause_s <= _MAX_PAUSE_S:
            return (), f'"{part}": "{pause}" is neither "pause" nor a duration above 0 and up to 720h'
        steps.append(Step(weight=weight, pause_s=pause_s))
    if steps[-1].weight != 100:
        steps.append(Step(weight=100, pause_s=0.0))
    return tuple(steps), ""


def _pause_s(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError:
        return -1.0


def advance(
    recorded: Rollout | None,
    *,
    revision: str,
    stable: str,
    steps: tuple[Step, ...],
    action: str,
    failure: str,
    now: datetime,
) -> Rollout | None:
    """Return how far the rollout is now; None when none is under way and none was.

    Idempotent, and never more than one step at a call: each step lasts its time while it can be seen.

    Args:
        recorded: What the last call returned.
        revision: The Function's newest revision; it has been loaded once, successfully.
        stable: The revision that serves so far; "" for none.
        steps: Steps to begin with, () to switch at once; a rollout under way keeps those that it began with.
        action: Text of the annotation ACTION.
        failure: Why instances of the new revision do not start; "" while they do.
        now: The time.
    """
    known = recorded if recorded is not None and recorded.revision == revision else None
    if known is not None and known.state == "Aborted" and action == f"restart {revision} {known.since}":
        known = None
    if known is not None and known.state in ("Completed", "Aborted"):
        return known
    if known is None or known.stable != stable:
        if not stable or stable == revision:
            return None  # nothing to take over from: the first revision, or back to what serves anyway
        if not steps:
            return None
        known = Rollout(state="Progressing", revision=revision, stable=stable, steps=steps, since=_text(now))
    if not steps:
        return replace(known, state="Completed", step=len(known.steps) - 1, paused_at="")
    began = _time(known.since)
    if began is None or began > now:
        known = replace(known, since=_text(now))  # the clock was set back: the step begins anew
    verb = _verb(action, known)
    if failure or verb == "abort":
        return replace(
            known, state="Aborted", paused_at="", message=failure or "aborted by `pelton rollout abort`"
        )
    known = _paused(known, verb, now)
    step = known.steps[known.step]
    over = step.pause_s is not None and _seconds(known.since, now) >= step.pause_s
    if not known.paused_at and (over or (step.pause_s is None and verb == "resume")):
        known = replace(known, step=min(known.step + 1, len(known.steps) - 1), since=_text(now))
    step = known.steps[known.step]
    if step.weight == 100:
        return replace(known, state="Completed", paused_at="")
    waits = bool(known.paused_at) or step.pause_s is None
    return replace(known, state="Paused" if waits else "Progressing")


def _verb(action: str, rollout: Rollout) -> str:
    """Return what is asked of this step; "" when the annotation speaks of another one, or of nothing."""
    words = action.split()
    if len(words) == 2 and words[0] == "abort" and words[1] == rollout.revision:
        return "abort"
    if len(words) == 3 and words[1:] == [rollout.revision, str(rollout.step)]:
        return words[0]
    return ""


def _paused(rollout: Rollout, verb: str, now: datetime) -> Rollout:
    """Take in the user's pause, or its end: the time in between does not count for the step."""
    if verb == "pause" and not rollout.paused_at:
        return replace(rollout, paused_at=_text(now))
    if verb != "pause" and rollout.paused_at:
        began, paused = _time(rollout.since), _time(rollout.paused_at)
        lasted = max(paused - began, timedelta()) if began is not None and paused is not None else timedelta()
        return replace(rollout, paused_at="", since=_text(now - lasted))
    return rollout


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _seconds(since: str, now: datetime) -> float:
    """Return seconds since a time, 0 where that cannot be read or is still to come."""
    began = _time(since)
    return max(0.0, (now - began).total_seconds()) if began is not None else 0.0
