"""Tells workers that they woke up as a copy of themselves: user code called `os.fork`.

Such a copy has the original's sockets, loop and load page and must not use them. Called by
`dataplane/worker.py`. Standard library only.
"""

from __future__ import annotations

import os
import weakref
from typing import Final, Protocol

__all__ = ["forget", "watch"]


class Forkable(Protocol):
    """What is told."""

    def forked(self) -> None:
        """Take note of being the copy; may only set attributes: children about to exec come by, too."""
        ...


_watched: Final[weakref.WeakSet[Forkable]] = weakref.WeakSet()
_hooked: Final[list[bool]] = []


def watch(worker: Forkable) -> None:
    """Have `worker.forked` called in every child process that is forked from here on."""
    _watched.add(worker)
    if not _hooked:  # the interpreter's hook cannot be taken back: one per process, whatever is served in it
        _hooked.append(True)
        os.register_at_fork(after_in_child=_tell)


def forget(worker: Forkable) -> None:
    """End `watch`."""
    _watched.discard(worker)


def _tell() -> None:
    for worker in _watched:
        worker.forked()
