"""The store without a disk: the real rules and the real watch, on a journal that forgets.

For tests of controllers and of the REST layer; `tests/contract/store.py` holds it to the same suite as
SQLite.
"""

from __future__ import annotations

from collections.abc import Iterator

from pelton.apiserver.store import ObjectStore
from pelton.clock import Clock, SystemClock

__all__ = ["MemoryStore"]


class _Nowhere:
    def open(self) -> int:
        return 0

    def load(self) -> Iterator[tuple[str, str, str, int, bytes]]:
        return iter(())

    def put(self, resource: str, namespace: str, name: str, version: int, body: bytes) -> None:
        pass

    def remove(self, resource: str, namespace: str, name: str, version: int) -> None:
        pass

    def reserve(self, version: int) -> None:
        pass

    def close(self) -> None:
        pass


class MemoryStore(ObjectStore):
    """An `ObjectStore` that starts empty and forgets on exit.

    Args:
        clock: For creation and deletion times; the machine's when None.
        history: Most changes kept per resource for watches that resume.
    """

    def __init__(self, *, clock: Clock | None = None, history: int = 10_000) -> None:
        super().__init__(_Nowhere(), clock=clock or SystemClock(), history=history)
