"""Keeps the platform's processes alive: starts them, restarts what dies, stops everything in order.

A part is one program. Its output goes to a file of its own under PELTON_HOME/logs/platform. Called by
`cli/up.py`; starts programs through `shim.py`, so that nothing outlives `up`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pelton.clock import Clock
from pelton.errors import PeltonError
from pelton.log import get
from pelton.model.snapshot import PartObserved

__all__ = ["Part", "Supervisor"]

_SHIM: Final = str(Path(__file__).with_name("shim.py"))
_FIRST_BACKOFF_S: Final = 0.02
_LAST_BACKOFF_S: Final = 1.0
_STEADY_S: Final = 10.0
"""A part that lived this long starts again without waiting."""

_LOG_LIMIT_BYTES: Final = 10 * 1024 * 1024

_log = get(__name__)


@dataclass(slots=True)
class Part:
    """One process of the platform.

    Attributes:
        name: As `pelton status` shows it.
        command: Program (absolute path) and arguments; asked for at every start.
        ready: Returns when the part can be used; None means "once started".
        env: Environment variables besides the inherited ones.
        stop_signal: What asks it to end.
        stop_timeout_s: Seconds until it is killed.
    """

    name: str
    command: Callable[[], Sequence[str]]
    ready: Callable[[], Awaitable[None]] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    stop_signal: int = signal.SIGTERM
    stop_timeout_s: float = 2.0


@dataclass(slots=True)
class _Running:
    part: Part
    state: str = "starting"
    restarts: int = 0
    process: asyncio.subprocess.Process | None = None
    task: asyncio.Task[None] | None = None
    first_ready: asyncio.Event = field(default_factory=asyncio.Event)
    last_words: str = ""


class Supervisor:
    """Runs parts until `stop`.

    Args:
        logs_dir: Where each part's output goes, `<name>.log`.
        clock: Time.
        environment: Base environment of all parts.
    """

    def __init__(self, *, logs_dir: Path, clock: Clock, environment: Mapping[str, str]) -> None:
        self._logs_dir = logs_dir
        self._clock = clock
        self._environment = dict(environment)
        self._running: dict[str, _Running] = {}
        self._stopping = False

    def start(self, part: Part) -> None:
        """Start a part and keep it running; does not wait."""
        running = _Running(part)
        self._running[part.name] = running
        running.task = asyncio.create_task(self._keep(running), name=f"part-{part.name}")

    async def wait_ready(self, name: str, *, timeout_s: float = 20.0) -> None:
        """Wait until a part is ready for the first time.

        Raises:
            PeltonError: It did not become ready; the message has the last line it printed.
        """
        running = self._running[name]
        try:
            async with asyncio.timeout(timeout_s):
                await running.first_ready.wait()
        except TimeoutError:
            words = _last_line(self._log_path(name))
            raise PeltonError(
                f"{name} did not become ready within {timeout_s:g} s: {words}",
                hint=f"its output is in {self._log_path(name)}",
            ) from None

    def observe(self) -> tuple[PartObserved, ...]:
        """Return every part's state."""
        return tuple(
            PartObserved(
                name=running.part.name,
                pid=running.process.pid if running.process and running.process.returncode is None else 0,
                state=running.state,
                restarts=running.restarts,
            )
            for running in self._running.values()
        )

    async def stop(self, names: Sequence[str]) -> None:
        """Stop parts in the given order, each within its own limit; unknown names are skipped."""
        self._stopping = True
        for name in names:
            running = self._running.get(name)
            if running is not None:
                await self._end(running)

    async def kill(self) -> None:
        """End every part at once; returns when none is left."""
        self._stopping = True
        left = [r.process for r in self._running.values() if r.process and r.process.returncode is None]
        for process in left:
            _signal(process, signal.SIGKILL)
        await asyncio.gather(*(process.wait() for process in left))

    async def _end(self, running: _Running) -> None:
        running.state = "stopped"
        process = running.process
        if process is not None and process.returncode is None:
            _signal(process, running.part.stop_signal)
            try:
                async with asyncio.timeout(running.part.stop_timeout_s):
                    await process.wait()
            except TimeoutError:
                _log.warning(
                    "%s did not stop in %g s; killed", running.part.name, running.part.stop_timeout_s
                )
                _signal(process, signal.SIGKILL)
                await process.wait()
        if running.task is not None:
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)

    async def _keep(self, running: _Running) -> None:
        backoff = _FIRST_BACKOFF_S
        while not self._stopping:
            started = self._clock.monotonic()
            try:
                await self._run_once(running)
            except OSError as exc:
                _log.error("%s cannot be started: %s", running.part.name, exc)
            if running.state == "stopped":
                return
            running.state = "failed"
            running.restarts += 1
            if self._clock.monotonic() - started > _STEADY_S:
                backoff = _FIRST_BACKOFF_S
            await self._clock.sleep(backoff)
            backoff = min(backoff * 2, _LAST_BACKOFF_S)

    async def _run_once(self, running: _Running) -> None:
        part = running.part
        running.state = "starting"
        path = self._log_path(part.name)
        if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))
        output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                _SHIM,
                str(os.getpid()),
                *part.command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**self._environment, **part.env},
                start_new_session=True,
            )
        finally:
            os.close(output)
        running.process = process
        waiter = asyncio.create_task(process.wait())
        try:
            await self._until_ready(running, waiter)
            code = await waiter
        finally:
            waiter.cancel()
        if not self._stopping:
            running.last_words = _last_line(path)
            _log.warning("%s ended with %s: %s", part.name, code, running.last_words)

    async def _until_ready(self, running: _Running, waiter: asyncio.Task[int]) -> None:
        if running.part.ready is not None:
            ready = asyncio.ensure_future(running.part.ready())
            done, _ = await asyncio.wait({ready, waiter}, return_when=asyncio.FIRST_COMPLETED)
            if ready not in done:
                ready.cancel()
                return
            if ready.exception() is not None:
                _log.error("%s is not ready: %s", running.part.name, ready.exception())
                return
        running.state = "running"
        running.first_ready.set()

    def _log_path(self, name: str) -> Path:
        return self._logs_dir / f"{name}.log"


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        pass


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return lines[-1] if lines else ""
