"""What a convention says about a source file: the functions that it recognises there, and by which rule.

Made by each convention's `detect` (`compat/`), compared by `builders/detect.py`. Plain data.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Match"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One function that a convention recognises in a syntax tree.

    Attributes:
        target: Name of the function.
        signature: Signature type, e.g. `http`, `cloudevent`, `openfunction`.
        rule: The rule that matched, as a sentence fragment, e.g. `decorated with functions_framework.http`.
        rank: Strength of the rule, lower is stronger; 0 = said outright (decorator, annotation), 1 = by
            habit.
        line: Line of the `def`.
    """

    target: str
    signature: str
    rule: str
    rank: int = 0
    line: int = 0
