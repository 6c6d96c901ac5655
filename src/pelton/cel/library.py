"""All functions that an expression may call, by name.

`checker.py` looks overloads up here. Pure: a table made of the tables of its siblings.
"""

from __future__ import annotations

from pelton.cel.kubernetes import KUBERNETES
from pelton.cel.overload import Overload, Table
from pelton.cel.policies import POLICIES
from pelton.cel.standard import STANDARD
from pelton.cel.strings import STRINGS

__all__ = ["LIBRARY", "NAMESPACES"]


def _joined(tables: tuple[Table, ...]) -> Table:
    result: dict[str, list[Overload]] = {}
    for table in tables:
        for name, overloads in table.items():
            result.setdefault(name, []).extend(overloads)
    return {name: tuple(overloads) for name, overloads in result.items()}


LIBRARY: Table = _joined((STANDARD, STRINGS, *KUBERNETES, *POLICIES))
"""Name -> overloads; operators have names such as `_+_`."""

NAMESPACES = frozenset(name.partition(".")[0] for name in LIBRARY if "." in name)
"""What may stand before the dot of a function that is no member: `optional`, `sets`, `ip`, ..."""
