"""When an input of a Trigger is true, and which conditions hold for an event. Pure.

An input is true from an event on until the window after its last event. Time is that of the events, as the
broker stored them, so that an event which is delivered again, or after an outage, meets the same inputs as
the first time. What is kept per input is its present stretch: since when it has been true without a gap, and
its last event. Called by `dataplane/triggers`, which stores the state. Source: contracts, OpenFunction, 9.4.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pelton.cel import BOOL, Program, compile_cel

__all__ = ["Conditions", "Marks", "Stretch", "decode", "encode", "is_true", "marked", "merged"]


class Stretch(NamedTuple):
    """Epoch seconds of the first and the last event between which an input was true all the time."""

    since: float
    last: float


Marks = Mapping[str, Stretch]
"""Input name -> its present stretch; inputs that had no event are missing."""


def marked(marks: Marks, names: Iterable[str], at: float, window_s: float) -> dict[str, Stretch]:
    """Return the marks after an event.

    Args:
        marks: Before.
        names: Inputs that the event is of.
        at: Its time, epoch seconds.
        window_s: Window, seconds, > 0.
    """
    return merged(marks, dict.fromkeys(names, Stretch(at, at)), window_s)


def merged(one: Marks, other: Marks, window_s: float) -> dict[str, Stretch]:
    """Return what both know, in any order: stretches without a gap are one, of others the later counts."""
    result = dict(one)
    for name, stretch in other.items():
        known = result.get(name)
        result[name] = stretch if known is None else _joined(known, stretch, window_s)
    return result


def _joined(one: Stretch, other: Stretch, window_s: float) -> Stretch:
    early, late = sorted((one, other), key=lambda stretch: (stretch.last, stretch.since))
    if late.since >= early.last + window_s:
        return late
    return Stretch(min(early.since, late.since), late.last)


def is_true(stretch: Stretch | None, at: float, window_s: float, *, late: bool = False) -> bool:
    """Tell whether an input is true at a time.

    Args:
        stretch: Its present stretch; None when it had no event.
        at: Epoch seconds.
        window_s: Window, seconds.
        late: Whether it also counts when it becomes true within the window after `at`: the event of `at`
            comes late, behind one that should have met it.
    """
    if stretch is None:
        return False
    begins = stretch.since - window_s if late else stretch.since
    inside = at > begins if late else at >= begins
    return inside and at < stretch.last + window_s


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions of a Trigger, compiled.

    Attributes:
        names: All inputs.
        programs: One per subscriber, in order.
    """

    names: tuple[str, ...]
    programs: tuple[Program, ...]

    @classmethod
    def of(cls, names: Iterable[str], expressions: Iterable[str]) -> Conditions:
        """Compile; raises CelCompileError."""
        known = tuple(names)
        types = dict.fromkeys(known, BOOL)
        return cls(known, tuple(compile_cel(one, types, result=BOOL) for one in expressions))

    def met(self, marks: Marks, own: Iterable[str], at: float, window_s: float) -> list[int]:
        """Return the positions of the conditions that hold for an event.

        One holds with the inputs as they were at the time of the event, or, for an event that comes late,
        with those that became true within the window behind it.

        Args:
            marks: The event included.
            own: Inputs that the event is of: true in any case.
            at: Its time, epoch seconds.
            window_s: Window, seconds.
        """
        mine = set(own)
        views = []
        for late in (False, True):
            view = {
                name: name in mine or is_true(marks.get(name), at, window_s, late=late) for name in self.names
            }
            if view not in views:
                views.append(view)
        return [
            index
            for index, program in enumerate(self.programs)
            if any(program.evaluate(view) is True for view in views)
        ]

    def truth(self, marks: Marks, at: float, window_s: float) -> list[bool]:
        """Return for each condition whether it holds at a time, without an event."""
        view = {name: is_true(marks.get(name), at, window_s) for name in self.names}
        return [program.evaluate(view) is True for program in self.programs]


def encode(uid: str, marks: Marks) -> bytes:
    """Write the state of the Trigger with that uid."""
    return json.dumps(
        {"uid": uid, "marks": {name: list(stretch) for name, stretch in sorted(marks.items())}},
        separators=(",", ":"),
    ).encode()


def decode(data: bytes, uid: str) -> dict[str, Stretch]:
    """Read a state; that of another object of the same name, or none, is empty."""
    if not data:
        return {}
    body = json.loads(data)
    if body.get("uid") != uid:
        return {}
    return {name: Stretch(*map(float, stretch)) for name, stretch in body["marks"].items()}
