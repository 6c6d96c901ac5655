"""Patterns of topics as NATS has them: words with dots between them, `*` for one word, `>` for the rest.

Used by the drivers that keep messages themselves. Pure. What a broker matches by itself is not here.
"""

from __future__ import annotations

__all__ = ["covers"]


def covers(pattern: str, topic: str) -> bool:
    """Tell whether a subscription's pattern covers a topic.

    Example: `logs.*.cart` and `logs.>` cover `logs.shop.cart`, `logs.*` does not.
    """
    wanted, words = pattern.split("."), topic.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return len(words) > index
        if index >= len(words) or part not in {"*", words[index]}:
            return False
    return len(wanted) == len(words)
