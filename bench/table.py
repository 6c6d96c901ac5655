"""The one table that the benchmarks print: rows, budgets, and how both become text or JSON. Pure.

Every section returns a list of Row; `__main__` prints them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Row", "as_dict", "met", "render", "spread"]

_BUDGET = re.compile(r"(ours )?(>=|<=) ([0-9.]+)")


@dataclass(frozen=True)
class Row:
    """One line: ours against a peer.

    Attributes:
        name: What is compared.
        ours, peer: Medians of what was measured, in `unit`; None where it could not be measured or where
            there is nothing to compare with.
        unit: Of both.
        budget: `>= 0.6` or `<= 1.5` for the ratio, `ours <= 10` for our figure; "" for a row that only
            informs.
        spread: How far single turns lie apart, in words, e.g. from `spread`.
        note: Anything a reader must know, such as why a row has no figure.
    """

    name: str
    ours: float | None
    peer: float | None
    unit: str
    budget: str = ""
    spread: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours divided by the peer's; None without a peer."""
        if self.ours is None or not self.peer:
            return None
        return self.ours / self.peer


def met(row: Row) -> bool | None:
    """Return whether a row keeps its budget; None without a budget or without a figure."""
    found = _BUDGET.fullmatch(row.budget)
    if found is None:
        if row.budget:
            raise ValueError(f"budget {row.budget!r} of {row.name!r} is not understood")
        return None
    value = row.ours if found[1] else row.ratio
    if value is None:
        return None
    limit = float(found[3])
    return value >= limit if found[2] == ">=" else value <= limit


def spread(ours: Sequence[float], peer: Sequence[float]) -> str:
    """Return the smallest and the largest ratio of turns that ran next to each other."""
    ratios = [mine / other for mine, other in zip(ours, peer, strict=False) if other]
    return f"{_number(min(ratios))}..{_number(max(ratios))}" if ratios else ""


def as_dict(row: Row) -> dict[str, Any]:
    """Return a row for JSON, with what follows from it."""
    return {**asdict(row), "ratio": row.ratio, "met": met(row)}


def render(rows: Sequence[Row]) -> str:
    """Return rows as an aligned table, one line each, with a head."""
    head = ("what", "ours", "peer", "unit", "ratio", "spread", "budget", "met")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    right = {1, 2, 4}
    printed = []
    for line, row in zip(lines, [None, *rows], strict=True):
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        note = f"  {row.note}" if row is not None and row.note else ""
        printed.append(("  ".join(cells) + note).rstrip())
    return "\n".join(printed)


def _cells(row: Row) -> tuple[str, ...]:
    verdict = met(row)
    return (
        row.name,
        _number(row.ours),
        _number(row.peer),
        row.unit,
        _number(row.ratio),
        row.spread,
        row.budget,
        "" if not row.budget else "?" if verdict is None else "yes" if verdict else "NO",
    )


def _number(value: float | None) -> str:
    """Return three significant digits, without an exponent."""
    if value is None:
        return "-"
    size = abs(value)
    for limit, digits in ((100, 0), (10, 1), (1, 2)):
        if size >= limit:
            return f"{value:.{digits}f}"
    return f"{value:.3f}" if size else "0"
