"""An event loop of its own for synchronous user code that runs on the worker's: `asyncio.run` has to work.

A sync function may call `asyncio.run(...)` or `asyncio.get_event_loop().run_until_complete(...)`, as on the
main thread of the platform that it was written for. Here it runs on the thread of the worker's loop, or on a
thread that has none, and both refuse. `hide` comes before a call, `install` once before all. Used by
the worker around every sync call.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

__all__ = ["hide", "install", "rearm"]

_LAST_WITH_POLICIES = (3, 13)
_freed = False


def hide() -> None:
    """Let this thread look as if no loop ran on it, until `asyncio._set_running_loop` says so again.

    Callers do the asking and the restoring themselves: on the hot path each call costs.
    """
    global _freed
    asyncio._set_running_loop(None)
    if not _freed:  # the worker's loop is not for `get_event_loop` to find, either
        _freed = True
        asyncio.set_event_loop(None)


def rearm() -> None:
    """Have the next `hide` free the thread's loop again: another loop serves from now on."""
    global _freed
    _freed = False


def install() -> None:
    """Give every thread that asks with `asyncio.get_event_loop` a loop, as a main thread gets one.

    Nothing from Python 3.14 on: there it is an error on main threads, too.
    """
    if sys.version_info[:2] <= _LAST_WITH_POLICIES and not isinstance(
        asyncio.get_event_loop_policy(), _policy()
    ):
        asyncio.set_event_loop_policy(_policy()())


def _policy() -> Any:
    """Return the class of the policy, made when it is first wanted."""
    global _made
    if _made is None:

        class Policy(asyncio.DefaultEventLoopPolicy):
            def get_event_loop(self) -> asyncio.AbstractEventLoop:
                if self._local._loop is None:  # type: ignore[attr-defined]  # as the class itself does
                    self.set_event_loop(self.new_event_loop())
                return super().get_event_loop()

        _made = Policy
    return _made


_made: Any = None
