"""What the benchmarks ask of the machine: CPU time and memory of processes, and which CPU they run on."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

__all__ = ["cpu_s", "cpus", "descendants", "free_port", "pin", "pinned", "pss_mb", "rss_mb"]


def cpu_s(*pids: int) -> float:
    """Return the CPU seconds that processes have used, all threads that live, user and system."""
    return sum(_cpu_s(pid) for pid in pids)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    coarse = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    fine = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            fine += int((task / "schedstat").read_text().split()[0])
    # schedstat counts in nanoseconds, but forgets threads that have ended, and is not there on every kernel.
    return max(fine / 1e9, coarse - 0.02) if fine else coarse


def descendants(pid: int) -> list[int]:
    """Return a process and everything it has started."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def pss_mb(pid: int) -> float:
    """Return the proportional set size in MB of 10^6 bytes; shared pages count by their share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def rss_mb(pid: int) -> float:
    """Return the resident set size in MB of 10^6 bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpus() -> tuple[set[int], set[int]]:
    """Return the CPUs for who is measured and for who measures; the same where there is only one."""
    all_cpus = sorted(os.sched_getaffinity(0))
    return {all_cpus[0]}, set(all_cpus[1:] or all_cpus)


def pin(pids: Iterable[int], to: set[int]) -> None:
    """Let processes with all their threads run on these CPUs only."""
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(task.name), to)


@contextlib.contextmanager
def pinned(to: set[int]) -> Iterator[None]:
    """Run this process, and what it starts meanwhile, on these CPUs only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, to)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """Return a TCP port on the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return cast("int", probe.getsockname()[1])
