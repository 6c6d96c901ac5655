"""Keeps the gateway's access log from growing without end.

Envoy writes JSON lines into one file and never renames it. `cli/up` runs `keep`: a file over its limit
becomes `<name>.1`, older ones move on, the oldest goes, and Envoy is told to open its file anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from pelton.clock import Clock
from pelton.log import get

__all__ = ["LIMIT_BYTES", "OLDER", "keep", "rotate"]

LIMIT_BYTES: Final = 10 * 1024 * 1024
OLDER: Final = 5
"""Older files that stay; as for the logs of functions."""
_LOOK_S: Final = 10.0

_log = get(__name__)


def rotate(path: Path, *, limit_bytes: int = LIMIT_BYTES, older: int = OLDER) -> bool:
    """Move a file that has reached its limit out of the way; returns whether it did."""
    try:
        if path.stat().st_size < limit_bytes:
            return False
    except FileNotFoundError:
        return False
    for number in range(older, 0, -1):
        source = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
        if source.exists():
            source.replace(path.with_name(f"{path.name}.{number}"))
    return True


async def keep(path: Path, reopen: Callable[[], Awaitable[None]], clock: Clock) -> None:
    """Look at the file now and then until cancelled.

    Args:
        path: The access log.
        reopen: Has Envoy open it anew.
        clock: Time.
    """
    while True:
        await clock.sleep(_LOOK_S)
        try:
            if rotate(path):
                await reopen()
        except OSError as error:
            _log.warning("the access log stays as it is: %s", error)
