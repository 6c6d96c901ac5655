"""`pelton up --detach`: the platform as a process of its own, in a session of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence

from pelton.cli.announcement import announcement
from pelton.cli.home import Home
from pelton.errors import NotRunningError, PeltonError

__all__ = ["detached"]

_READY_TIMEOUT_S = 60.0


def detached(home: Home, arguments: Sequence[str]) -> int:
    """Start `pelton` with the same arguments less `--detach`; returns when it is ready.

    Raises:
        PeltonError: It ended before it was ready; the message is its own.
    """
    home.prepare()
    log = home.platform_logs / "up.log"
    with log.open("ab") as output:
        begin = output.tell()
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "pelton.cli.main",
                *(word for word in arguments if word != "--detach"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.stderr.write(_since(log, begin))
            return process.returncode or 1
        with contextlib.suppress(NotRunningError):
            found = home.endpoints()
            # It publishes where it is before it says so.
            if found.pid == process.pid and announcement(home, found) in (text := _since(log, begin)):
                sys.stdout.write(text)
                return 0
        time.sleep(0.02)
    raise PeltonError(f"the platform was not ready within {_READY_TIMEOUT_S:g} s", hint=f"its log is {log}")


def _since(log: object, begin: int) -> str:
    from pathlib import Path

    with Path(str(log)).open("rb") as file:
        file.seek(begin)
        return file.read().decode("utf-8", "replace")
