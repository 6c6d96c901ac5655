"""Pelton's own third-party packages for parts that run beside user code, which must not see them.

A worker that entered a function's environment has none of Pelton's packages on `sys.path` (design decision
7). `borrow` imports one all the same, from where Pelton's lie, and hides it again: whoever borrowed keeps the
reference, user code that imports a module of the same name gets its own environment's. Packages are imported
once per process. Called by `sdk/websocket.py`; `dataplane/loader.py` says where Pelton's packages are.

Rejected: implying the packages into the function's environment, which would let a server of ours meet
whatever version the function pins, and would give every ASGI function an environment that most do not need.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from types import ModuleType

__all__ = ["borrow", "own_entries"]

own_entries: list[str] = []
"""Entries of `sys.path` that were Pelton's; empty while they are still there."""

_kept: dict[str, ModuleType] = {}


def borrow(*names: str, tops: Iterable[str]) -> list[ModuleType]:
    """Import modules from Pelton's own packages; returns them in order.

    Not for use while other threads import: until it returns they could get Pelton's packages.

    Args:
        names: Modules, dotted.
        tops: Top-level names of all third-party packages that these import.
    """
    if not own_entries:
        return [importlib.import_module(name) for name in names]
    if all(name in _kept for name in names):
        return [_kept[name] for name in names]
    hidden = tuple(tops)
    theirs = _take(hidden)
    sys.modules.update(_kept)
    path = sys.path[:]
    sys.path[:] = [*own_entries, *path]
    try:
        found = [importlib.import_module(name) for name in names]
    finally:
        sys.path[:] = path
        _kept.update(_take(hidden))
        sys.modules.update(theirs)
    return found


def _take(tops: tuple[str, ...]) -> dict[str, ModuleType]:
    """Remove all modules of some packages from `sys.modules` and return them."""
    names = [name for name in sys.modules if name.partition(".")[0] in tops]
    return {name: sys.modules.pop(name) for name in names}
