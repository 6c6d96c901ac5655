"""What keeps outputs from their destinations, by how the last sends went: for conditions and metrics.

Nothing is asked of a destination for this. A send that failed counts until one gets there, at most a minute;
so does one whose confirmation does not come, as while a Kafka partition has no leader. Pure but for the log;
called by `outputs.py` beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from pelton.log import get

__all__ = ["LATE_S", "OutputTroubles", "Place"]

LATE_S: Final = 10.0
"""Seconds after which an unconfirmed send counts as trouble."""

_TOLD_S: Final = 60.0
"""Seconds for which a failure counts while nothing else is sent."""

_FLAPS_S: Final = 10.0
"""Seconds for which a failure counts in any case: every third send may fail."""

_log = get(__name__)

Place = tuple[str, str, str]
"""Namespace, function, output."""


@dataclass(slots=True)
class _Output:
    failed_at: float = 0.0
    trouble: str = ""
    arrived: bool = False  # whether a send got there after the last failure
    under_way: dict[int, float] = field(default_factory=dict)  # send -> when it began


class OutputTroubles:
    """Troubles of all outputs of this process; times are monotonic seconds."""

    def __init__(self) -> None:
        self._outputs: dict[Place, _Output] = {}
        self._sends = 0

    def begin(self, place: Place, now: float) -> int:
        """Note that a send begins, and return what names it."""
        self._sends += 1
        output = self._outputs.get(place)
        if output is None:
            output = self._outputs[place] = _Output()
        output.under_way[self._sends] = now
        return self._sends

    def end(self, place: Place, send: int, trouble: str | None, now: float) -> None:
        """Note how a send ended.

        Args:
            place: Whose it is.
            send: What `begin` returned; 0 for one that was not noted, since it may take long.
            trouble: Why the destination was not reached; "" when it was, None when that is not known.
            now: The time.
        """
        output = self._outputs.get(place)
        if output is None:
            if not trouble:
                return
            output = self._outputs[place] = _Output()
        output.under_way.pop(send, None)
        if trouble:
            if trouble != output.trouble:
                _log.warning("output %s of %s/%s: %s", place[2], place[0], place[1], trouble)
            output.failed_at, output.trouble, output.arrived = now, trouble, False
        elif trouble is not None:
            output.arrived = True

    def of(self, place: Place, now: float) -> str:
        """Return what keeps an output from its destination, "" for nothing."""
        output = self._outputs.get(place)
        if output is None:
            return ""
        if output.trouble and now - output.failed_at >= (_FLAPS_S if output.arrived else _TOLD_S):
            output.trouble = ""
        # Sends are noted in their order: the first one is the oldest.
        oldest = next(iter(output.under_way.values()), now)
        late = f"not confirmed within {LATE_S:g} s" if now - oldest >= LATE_S else ""
        return output.trouble or late

    def forget(self, namespace: str, function: str) -> None:
        """Forget a function's outputs."""
        for place in [place for place in self._outputs if place[:2] == (namespace, function)]:
            del self._outputs[place]
