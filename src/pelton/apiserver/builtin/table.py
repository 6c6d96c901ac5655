"""The table of built-in kinds; `cli/` gives it to the registry."""

from __future__ import annotations

from pelton.apiserver.builtin import namespaces
from pelton.apiserver.registry import Row

__all__ = ["ROWS"]

ROWS: tuple[Row, ...] = (namespaces.ROW,)
