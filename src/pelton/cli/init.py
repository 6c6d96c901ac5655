"""`pelton init NAME`: write a new function that `run`, `deploy` and `apply` accept as it is.

The text comes from `builders/scaffold.py`; this file only refuses what is there already and writes.
"""

from __future__ import annotations

from pathlib import Path

from pelton.builders.scaffold import scaffold
from pelton.cli.tables import CONVENTIONS
from pelton.errors import UnknownConventionError, UsageError

__all__ = ["init"]


def init(name: str, trigger: str = "http", convention: str | None = None) -> int:
    """Write the directory and say what comes next; returns the exit code.

    Args:
        name: Directory to make; its last part is the function's name.
        trigger: `http`, `cloudevent` or `topic`.
        convention: Name in the convention table; None takes the usual one.

    Raises:
        UsageError: The directory holds something already, or cannot be written.
        UnknownConventionError: No such convention.
    """
    if convention and convention not in CONVENTIONS:
        raise UnknownConventionError(
            f"there is no convention {convention!r}", hint=f"Known conventions: {', '.join(CONVENTIONS)}."
        )
    place = Path(name)
    files = scaffold(place.name, trigger, convention or "")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError(f"{name} exists and is not empty", hint="Choose another name, or remove it.")
    try:
        place.mkdir(parents=True, exist_ok=True)
        for relative, text in files.items():
            (place / relative).write_text(text)
    except OSError as exc:
        raise UsageError(f"{name} cannot be written: {exc.strerror}") from exc
    print(f"wrote {', '.join(f'{name}/{relative}' for relative in files)}")
    print(f"  try it alone    pelton run {name}")
    print(f"  on the platform pelton deploy {name}")
    return 0
