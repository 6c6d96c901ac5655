"""The program of `pelton dapr run`: started with Dapr's variables, its lines marked, ended in order.

It has a process group of its own, so that what it started ends with it; it dies with this process. Its two
streams are read line by line and written on, each line in one piece.
Source: contracts, Dapr HTTP, sections 6 and 7.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from pelton.errors import UsageError

__all__ = ["AppProcess"]

_STOP_S: Final = 5.0
_LINE_BYTES: Final = 1024 * 1024
_DRAIN_S: Final = 1.0
# Code of this process must not run after a fork from one with threads, so the program is started by this.
_SHIM: Final = (
    "import ctypes,os,signal,sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)\n"
    "if os.getppid() != int(sys.argv[1]): os._exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[3:])\n"
)


class AppProcess:
    """One program.

    Args:
        command: Its words; looked up in PATH.
        env: Its environment.
        prefix: Stands before each of its lines.
    """

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], prefix: str) -> None:
        self._command = list(command)
        self._env = dict(env)
        self._prefix = prefix.encode()
        self._process: asyncio.subprocess.Process | None = None
        self._pumps: list[asyncio.Task[None]] = []

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Start it.

        Raises:
            UsageError: There is no such program.
        """
        program = shutil.which(self._command[0], path=self._env.get("PATH"))
        if program is None:
            raise UsageError(
                f"there is no program {self._command[0]!r}", hint="Write its path, or see to PATH."
            )
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            "-c",
            _SHIM,
            str(os.getpid()),
            program,
            *self._command,
            env=self._env,
            stdin=asyncio.subprocess.DEVNULL if not sys.stdin or sys.stdin.closed else None,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=_LINE_BYTES,
        )
        for source, target in ((self._process.stdout, sys.stdout), (self._process.stderr, sys.stderr)):
            if source is not None:
                self._pumps.append(asyncio.create_task(self._pump(source, target.fileno())))

    async def wait(self) -> int:
        """Return its exit code once it has ended; negative: the signal that ended it."""
        if self._process is None:
            return 0
        code = await self._process.wait()
        if self._pumps:  # what it printed last; a child of its own may hold the streams open
            await asyncio.wait(self._pumps, timeout=_DRAIN_S)
        return code

    async def stop(self) -> None:
        """End it and what it started: SIGTERM, and SIGKILL for what is left after 5 s. Safe to repeat."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            self._signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_STOP_S):
                    await process.wait()
            except TimeoutError:
                pass
        self._signal(signal.SIGKILL)
        await process.wait()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            try:
                os.killpg(self._process.pid, number)
            except (ProcessLookupError, PermissionError):
                pass

    async def _pump(self, source: asyncio.StreamReader, target: int) -> None:
        while True:
            try:
                line = await source.readuntil(b"\n")
            except asyncio.IncompleteReadError as exc:
                if exc.partial:
                    _write(target, self._prefix + exc.partial + b"\n")
                return
            except asyncio.LimitOverrunError as exc:
                line = await source.readexactly(min(exc.consumed, _LINE_BYTES)) + b"\n"
            _write(target, self._prefix + line)


def _write(target: int, data: bytes) -> None:
    """Write to a descriptor; a reader that has gone must not end the app."""
    try:
        while data:
            data = data[os.write(target, data) :]
    except OSError:
        return
