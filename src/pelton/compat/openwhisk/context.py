"""An activation's context in the environment: the variables `__OW_*`.

Written before each activation by `front.py`, `container.py` and `package.py`. Only Python's own view of the
environment changes then: the C library keeps every value that a variable ever had, so that writing three of
them per request would cost memory for ever, and more time than the rest of a short activation. Programs that
an action starts get the variables nevertheless: they are written through when one is about to be started.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

__all__ = ["VARIABLES", "follow_to_programs", "put"]

_STARTS: Final = frozenset(
    {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"}
)
_PREFIX: Final = b"__OW_"
_following = False


def put(name: bytes, value: str) -> None:
    """Set a variable.

    Args:
        name: Its name, which starts with `__OW_`.
        value: Its text, without NUL.
    """
    VARIABLES[name] = value.encode("utf-8", "surrogateescape")


def follow_to_programs() -> None:
    """Have programs that are started from now on in this process see the variables; safe to repeat."""
    global _following
    if not _following:
        _following = True
        sys.addaudithook(_write_through)


def _write_through(event: str, _args: Any) -> None:
    if event in _STARTS:
        for name, value in list(VARIABLES.items()):
            if name.startswith(_PREFIX):
                os.putenv(name, value)


# CPython's os.environ keeps bytes here; there is no other way to set a variable for Python alone.
VARIABLES: Final[dict[bytes, bytes]] = os.environ._data  # type: ignore[attr-defined]  # not in the stub
"""Python's view of the environment, name -> value."""
