"""A notification that a destination holds, with what earlier attempts left in its headers.

Used by `notify/sending.py`; what of a notification has arrived is so known after a restart, too.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from pelton.notify.dead_letters import PROGRESS
from pelton.notify.envelope import Notification
from pelton.ports import Delivery

__all__ = ["ATTEMPT", "NOT_BEFORE", "Held", "held"]

ATTEMPT = "Pelton-Attempt"
"""Header: number of the attempt that a message is for; absent for the first."""

NOT_BEFORE = "Pelton-Not-Before"
"""Header: Unix seconds before which an attempt is not made."""


@dataclass(slots=True, eq=False)
class Held:
    """A notification that is here.

    Attributes:
        delivery: As the broker gave it.
        arrived_at: Monotonic seconds.
        attempt: Number of the attempt that it is for.
        sent: Alerts of its group that have arrived.
        done: Parts of the destination that have the message with the next ones.
        waits: Whether it waits for its turn.
        notification: Once it is read.
    """

    delivery: Delivery
    arrived_at: float
    attempt: int
    sent: int = 0
    done: tuple[str, ...] = ()
    waits: bool = True
    notification: Notification | None = None

    def due_s(self, now: float) -> float:
        """Return seconds until its attempt may be made, <= 0 when it may; `now` is Unix seconds."""
        return _number(self.delivery.message.headers.get(NOT_BEFORE), 0.0) - now

    def progress(self) -> str:
        """Return the text of the header PROGRESS, "" for none."""
        if not self.sent and not self.done:
            return ""
        return json.dumps({"sent": self.sent, "done": list(self.done)})


def held(delivery: Delivery, now: float) -> Held:
    """Return a delivery with what its headers say; what cannot be read there counts as absent.

    Args:
        delivery: As the broker gave it.
        now: Monotonic seconds.
    """
    headers = delivery.message.headers
    item = Held(delivery, now, max(1, int(_number(headers.get(ATTEMPT), 1.0))))
    try:
        progress = json.loads(headers.get(PROGRESS) or "{}")
        item.sent, item.done = int(progress.get("sent", 0)), tuple(map(str, progress.get("done", ())))
    except (ValueError, TypeError, AttributeError):
        pass  # at worst something arrives twice
    return item


def _number(text: str | None, default: float) -> float:
    try:
        number = float(text) if text else default
    except ValueError:
        return default
    return number if math.isfinite(number) else default
