"""Foreign packages that a test of conformance needs, fetched once into the checkout's virtual environment.

What cannot be fetched fails the test when PELTON_REQUIRE_SERVICES is set, as in CI, and skips it otherwise.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from tests.services.table import required

__all__ = ["fetched", "lacking"]

_TRIES = 2
"""An index that does not answer is asked once more."""


def fetched(name: str, *commands: Sequence[str | Path], timeout_s: float) -> Path:
    """Return the directory of a package, filled by commands that run there when it is not complete yet.

    Args:
        name: The directory's, version included.
        commands: Run one after the other; the last one is the one that asks the index, and is tried twice.
        timeout_s: Seconds for each.
    """
    place = Path(sys.prefix) / "pelton-conformance" / name
    if (place / "ready").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    for command in commands[:-1]:
        subprocess.run(command, cwd=place, check=True, capture_output=True, timeout=timeout_s)
    reason = ""
    for _ in range(_TRIES):
        reason = _run(commands[-1], place, timeout_s)
        if not reason:
            (place / "ready").touch()
            return place
    lacking(f"{commands[-1][0]} did not bring {name}: {reason}")


def lacking(reason: str) -> NoReturn:
    """End a test for which something is not there."""
    if required():
        pytest.fail(reason)
    pytest.skip(reason)


def _run(command: Sequence[str | Path], place: Path, timeout_s: float) -> str:
    """Run a command; returns why it did not work, "" when it did."""
    try:
        done = subprocess.run(
            command, cwd=place, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return str(exc)
    return (done.stderr[-300:] or f"exit code {done.returncode}") if done.returncode else ""
