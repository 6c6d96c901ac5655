"""Asks the runtime process, over its private socket, what only it knows."""

from __future__ import annotations

from typing import Any

from pelton.cli.home import Home
from pelton.dataplane import wire
from pelton.errors import NotRunningError

__all__ = ["ask_runtime"]

_ASK_S = 10.0


async def ask_runtime(home: Home, op: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to an operation of `cli/runtime.py`.

    Raises:
        NotRunningError: Nobody listens: no platform runs, or the process is being restarted.
        PeltonError: It refused, or did not answer within 10 s (TimeoutError, ConnectionError).
    """
    try:
        peer = await wire.connect(str(home.run_directory() / "runtime.sock"), name="runtime")
    except OSError as exc:
        raise NotRunningError(
            f"the runtime does not answer: {exc.strerror}", hint="pelton status says what runs"
        ) from exc
    try:
        answer: dict[str, Any] = await peer.call(op, body, timeout=_ASK_S)
    finally:
        await peer.close()
    return answer
