"""Looks every few seconds at what the runtime says and lets a status follow it.

Called by those that keep the status of Receivers, LogRules and the inputs of Functions; what they write, and
whether anything has changed, is theirs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pelton import log
from pelton.clock import Clock

__all__ = ["keep_looking"]

_log = log.get(__name__)


async def keep_looking(
    look: Callable[[], Awaitable[None]], clock: Clock, *, every_s: float, what: str
) -> None:
    """Look until cancelled; a look that fails is made up for by the next one.

    Args:
        look: Writes what has changed, once.
        clock: Time.
        every_s: Seconds before each look.
        what: Whose status it is, for the log, such as `the status of receivers`.
    """
    while True:
        await clock.sleep(every_s)
        try:
            await look()
        except Exception as exc:  # the runtime restarts, or the store is closing
            _log.debug("%s is written later: %s", what, exc)
