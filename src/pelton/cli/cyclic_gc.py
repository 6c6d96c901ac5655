"""The interpreter's cycle collector in processes that hold much for long: rarer, and without what never goes.

A full collection looks at every object; with a few hundred functions in memory it stops the event loop for
0.1 to 0.25 s (measured), and finds next to nothing, since what is kept has no cycles. Called by the
long-running processes: `cli/up.py`, `cli/node.py` and `cli/runtime.py` once they have started,
`cli/dapr_run.py`, whose start somebody waits for, around it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["rarely", "starting"]

_THRESHOLDS: Final = (5_000, 20, 100)
"""New objects per young collection, young per middle, middle per full one; the interpreter's: 700, 10, 10."""


def rarely() -> None:
    """Leave out what exists now, and collect the rest seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


@contextmanager
def starting() -> Iterator[None]:
    """Collect nothing while the block imports and makes what stays; from then on as `rarely`.

    In a process that has started before, nothing changes: what it does not need any more has to go.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(*_THRESHOLDS)
        gc.enable()
