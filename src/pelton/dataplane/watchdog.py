"""Enforces limits by looking, where control groups cannot be had: reads /proc, says who is over.

An instance's processes are its worker, that one's descendants, whatever was once seen among them, and orphans
that have its user namespace or its name in their environment: user code may let a process outlive its parent,
but not its instance. Memory is counted as PSS, shared pages in
proportion, and only of instances whose resident pages alone are over. Called by the zygote a few times per
second while instances run, which kills what this finds. Nothing is killed here but strays.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pelton.dataplane.limits import Ending
from pelton.model.limits import Limits

__all__ = ["PERIOD_S", "Watchdog"]

PERIOD_S: Final = 0.25
"""Between looks: what an instance can take in that time it may be over its limit."""

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_MIB: Final = 1024 * 1024


@dataclass(slots=True)
class _Process:
    parent: int
    session: int
    threads: int
    started: int
    resident_bytes: int


class Watchdog:
    """Watches trees of processes.

    Args:
        memory: Whether to watch memory.
        pids: Whether to watch the number of processes and threads.
        proc: Where /proc is; for tests.
    """

    def __init__(self, *, memory: bool, pids: bool, proc: str = "/proc") -> None:
        self._memory = memory
        self._pids = pids
        self._proc = proc
        self._seen: dict[int, tuple[int, int]] = {}  # pid -> (start time, pid of its worker)
        self._names: dict[int, str] = {}  # pid of a worker -> its instance's name
        self._namespaces: dict[int, str] = {}  # pid of a worker -> its user namespace, if it has its own

    def watch(self, worker: int, name: str) -> None:
        """Take note of a worker and its instance's name."""
        self._names[worker] = name

    def look(self, workers: Mapping[int, tuple[Limits, str]]) -> dict[int, Ending]:
        """Return which workers are over a limit, and which.

        Args:
            workers: Pid of each worker -> (its limits, its own temporary directory or "").
        """
        processes = self._read_all()
        trees = self._trees(processes, set(workers))
        found = {}
        for worker, members in trees.items():
            limits, scratch = workers[worker]
            over = self._over(limits, scratch, members, processes)
            if over.reason:
                found[worker] = over
        return found

    def bury(self, worker: int) -> None:
        """Kill what a worker that has ended left behind; what it started since the last look included."""
        processes = self._read_all()
        for pid, process in processes.items():
            if pid != worker and (
                self._seen.get(pid) == (process.started, worker)
                or process.session == worker
                or (process.parent == os.getpid() and self._identify(pid) == worker)
            ):
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    continue
        self._names.pop(worker, None)
        self._namespaces.pop(worker, None)
        self._seen = {pid: seen for pid, seen in self._seen.items() if seen[1] != worker}

    def _over(
        self, limits: Limits, scratch: str, members: list[int], processes: Mapping[int, _Process]
    ) -> Ending:
        if self._pids:
            count = sum(processes[pid].threads for pid in members)
            if count > limits.pids:
                return Ending("PidsLimit", f"it had {count} processes and threads, of {limits.pids}")
        used = _tree_bytes(scratch, limits.disk_bytes) if scratch else 0
        if used > limits.disk_bytes:
            return Ending(
                "DiskLimit", f"its temporary files took more than {limits.disk_bytes / _MIB:.4g} MiB"
            )
        if self._memory and sum(processes[pid].resident_bytes for pid in members) > limits.memory_bytes:
            took = sum(self._pss_bytes(pid) for pid in members)
            if took > limits.memory_bytes:
                return Ending(
                    "OOMKilled",
                    f"it took {took / _MIB:.4g} MiB of memory, of {limits.memory_bytes / _MIB:.4g} MiB",
                )
        return Ending()

    def _trees(self, processes: Mapping[int, _Process], workers: set[int]) -> dict[int, list[int]]:
        trees: dict[int, list[int]] = {worker: [worker] for worker in workers if worker in processes}
        for worker in trees:
            if worker not in self._namespaces:
                self._namespaces[worker] = self._namespace(worker)
        seen: dict[int, tuple[int, int]] = {}
        for pid, process in processes.items():
            if pid in workers:
                continue
            owner = self._owner(pid, processes, trees)
            before = self._seen.get(pid)
            if owner == 0 and before is not None and before[0] == process.started and before[1] in trees:
                owner = before[1]
            if owner == 0 and process.parent == os.getpid():
                owner = self._identify(pid)
                owner = owner if owner in trees else 0
            if owner:
                seen[pid] = (process.started, owner)
                trees[owner].append(pid)
        self._seen = seen
        return trees

    def _identify(self, pid: int) -> int:
        """Return the worker that an orphan came from, 0 when that cannot be told."""
        own = self._namespace(pid)
        if own:
            found = [worker for worker, namespace in self._namespaces.items() if namespace == own]
            if len(found) == 1:
                return found[0]
        try:
            with open(f"{self._proc}/{pid}/environ", "rb") as file:  # noqa: PTH123 -- no pathlib here
                words = file.read().split(b"\0")
        except OSError:
            return 0
        names = {f"POD_NAME={name}".encode(): worker for worker, name in self._names.items()}
        return next((names[word] for word in words if word in names), 0)

    def _namespace(self, pid: int) -> str:
        """Return a process's user namespace; "" for this process's own, or unknown."""
        try:
            found = os.readlink(f"{self._proc}/{pid}/ns/user")  # noqa: PTH115 -- as above
            return "" if found == os.readlink("/proc/self/ns/user") else found  # noqa: PTH115 -- as above
        except OSError:
            return ""

    @staticmethod
    def _owner(pid: int, processes: Mapping[int, _Process], trees: Mapping[int, object]) -> int:
        if processes[pid].session in trees:
            return processes[pid].session
        for _ in range(len(processes)):
            parent = processes[pid].parent
            if parent in trees:
                return parent
            if parent not in processes:
                return 0
            pid = parent
        return 0

    def _read_all(self) -> dict[int, _Process]:
        found = {}
        for name in os.listdir(self._proc):  # noqa: PTH208 -- pathlib is not loaded in the zygote
            if name.isdecimal():
                process = self._read(name)
                if process is not None:
                    found[int(name)] = process
        return found

    def _read(self, name: str) -> _Process | None:
        try:
            with open(f"{self._proc}/{name}/stat", "rb") as file:  # noqa: PTH123 -- as above
                words = file.read().rpartition(b")")[2].split()
        except OSError:
            return None
        if len(words) < 22:
            return None
        # Fields 4, 6, 20, 22 and 24 of proc_pid_stat(5); `words` begins at the third.
        return _Process(int(words[1]), int(words[3]), int(words[17]), int(words[19]), int(words[21]) * _PAGE)

    def _pss_bytes(self, pid: int) -> int:
        try:
            with open(f"{self._proc}/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123 -- as above
                for line in file:
                    if line.startswith(b"Pss:"):
                        return int(line.split()[1]) * 1024
        except OSError:
            pass
        return 0


def _tree_bytes(directory: str, enough: int) -> int:
    """Return what the files below a directory take on disk; stops counting above `enough`."""
    total, waiting = 0, [directory]
    while waiting and total <= enough:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue
    return total
