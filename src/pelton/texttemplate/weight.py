"""How large values are that a template makes: little text can refer to one value many times over. Pure.

Called by `texttemplate/go_run.py`, `go_functions.py` and `jinja.py` before something is written, compared or
copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["MOST_CHARACTERS", "PER_STEP", "weigh"]

MOST_CHARACTERS: Final = 1_000_000
"""Characters that one rendering may write, and that what it computes with may have."""

PER_STEP: Final = 50
"""Characters handled that count as one step of a rendering."""


def weigh(value: Any, *, deep: bool = True) -> int:
    """Return about how many characters a value has; above MOST_CHARACTERS, any number above it.

    Args:
        value: Any value; one that is part of another several times counts as often.
        deep: Whether what lists and maps hold counts, or only how many entries they have.
    """
    total, waiting = 0, [value]
    while waiting and total <= MOST_CHARACTERS:
        item = waiting.pop()
        if isinstance(item, str | bytes):
            total += len(item)
        elif isinstance(item, list | tuple | Mapping):
            total += len(item)
            if deep and total <= MOST_CHARACTERS:
                waiting += item
                if isinstance(item, Mapping):
                    waiting += item.values()
        else:
            total += 1
    return total
