"""The interpreter's cycle collector in processes that hold much for long: rarer, and without what never goes.

A full collection looks at every object; with a few hundred functions in memory it stops the event loop for
0.1 to 0.25 s (measured), and finds next to nothing, since what is kept has no cycles. Called by the
long-running processes (`cli/up.py`, `cli/node.py`, `cli/runtime.py`) once they have started.
"""

from __future__ import annotations

import gc
from typing import Final

__all__ = ["rarely"]

_THRESHOLDS: Final = (5_000, 20, 100)
"""New objects per young collection, young per middle, middle per full one; the interpreter's: 700, 10, 10."""


def rarely() -> None:
    """Leave out what exists now, and collect the rest seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
