"""What a function's imports cost, package by package; for `pelton run`.

Measures by standing in for `__import__` while the code loads. Time of a package includes what it imports
first, less other top-level packages that are listed themselves.
"""

from __future__ import annotations

import builtins
import sys
import time
from types import TracebackType
from typing import Any, Final

__all__ = ["ImportProfile"]

_WORTH_MS: Final = 5.0
_MOST: Final = 6


class ImportProfile:
    """Context manager around the loading of user code.

    Attributes:
        total_ms: How long the block took.
    """

    def __init__(self) -> None:
        self.total_ms = 0.0
        self._own_s: dict[str, float] = {}
        self._stack: list[tuple[str, float]] = []
        self._original: Any = None
        self._started = 0.0

    def __enter__(self) -> ImportProfile:
        self._original = builtins.__import__
        builtins.__import__ = self._import
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        builtins.__import__ = self._original
        self.total_ms = (time.perf_counter() - self._started) * 1e3

    def _import(self, name: str, *args: Any, **kwargs: Any) -> Any:
        top = name.partition(".")[0]
        if not top or name in sys.modules or (self._stack and self._stack[-1][0] == top):
            return self._original(name, *args, **kwargs)
        started = time.perf_counter()
        self._stack.append((top, 0.0))
        try:
            return self._original(name, *args, **kwargs)
        finally:
            elapsed = time.perf_counter() - started
            _, inner = self._stack.pop()
            self._own_s[top] = self._own_s.get(top, 0.0) + elapsed - inner
            if self._stack:
                outer, before = self._stack[-1]
                self._stack[-1] = (outer, before + elapsed)

    def text(self) -> str:
        """Return one line: the total and the packages that cost most; those under 5 ms are left out."""
        costly = sorted(self._own_s.items(), key=lambda item: -item[1])
        shown = [f"{name} {cost * 1e3:.0f} ms" for name, cost in costly[:_MOST] if cost * 1e3 >= _WORTH_MS]
        return f"loaded in {self.total_ms:.0f} ms" + (f": {', '.join(shown)}" if shown else "")
