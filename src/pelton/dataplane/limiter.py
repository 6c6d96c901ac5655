"""The zygote's record of what each of its children may take, and of the directories that are a child's own.

A ward is a child process: a spare, an instance, a template or a template's spare. It gets a control group
before it is needed, limits when it is known what it becomes, and is cleared away when it has ended: its
processes killed, its group and temporary directory removed. Called by `dataplane/zygote.py`; uses
`dataplane/limits.py` and `dataplane/watchdog.py`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, Final

from pelton.dataplane.isolation import Isolation
from pelton.dataplane.limits import Ending, Group, Groups
from pelton.dataplane.watchdog import PERIOD_S, Watchdog
from pelton.model.limits import Limits, resolve

__all__ = ["Limiter"]

_SLACK_BYTES: Final = 1024 * 1024 * 1024
"""Beyond twice the memory limit, for RLIMIT_DATA: stacks and arenas are reserved before they are used."""

_SWEEP_S: Final = 0.05


@dataclass(slots=True)
class _Ward:
    group: Group | None
    limits: Limits
    scratch: str = ""
    ending: Ending | None = None
    watched: bool = False


class Limiter:
    """Keeps children within their limits.

    Args:
        groups: Control groups, as far as there are any.
        isolation: What the zygote could get.
        default: Limits where nothing is asked for.
    """

    def __init__(self, groups: Groups, isolation: Isolation, default: Limits) -> None:
        self._groups = groups
        self._isolation = isolation
        self._default = default
        self._wards: dict[int, _Ward] = {}
        self._scratch_users: dict[str, int] = {}  # a template and its instances share one
        self._looked_at = 0.0
        self._sweeping = False
        blind = [name for name in ("memory", "pids") if name not in groups.controllers]
        watch = bool(blind) or isolation.layout is None
        self._watchdog = Watchdog(memory="memory" in blind, pids="pids" in blind) if watch else None

    def describe(self) -> dict[str, Any]:
        """Return `means` in words, what is `missing`, and the `default` limits by name."""
        groups = self._groups
        means = []
        if groups:
            means.append(f"cgroup v{groups.version} ({', '.join(groups.controllers)})")
        if self._watchdog is not None:
            means.append("rlimits and watchdog")
        return {
            "means": ", ".join(means),
            "missing": groups.missing,
            "default": {name: getattr(self._default, name) for name in Limits.__dataclass_fields__},
        }

    def order(self, asked: dict[str, Any], path: str) -> dict[str, Any]:
        """Return what a child must know to confine itself: its scratch directory, sizes and rlimits.

        Args:
            asked: The limits of its workload, by name.
            path: A file of its own; its scratch directory is made beside it, where it needs one.
        """
        limits = resolve(Limits(**asked), self._default)
        blind = self._watchdog is not None
        data = 0 if "memory" in self._groups.controllers else 2 * limits.memory_bytes + _SLACK_BYTES
        return {
            "limits": {name: getattr(limits, name) for name in Limits.__dataclass_fields__},
            "scratch": self._make_scratch(path),
            "data_bytes": data,
            "nproc": self._nproc(limits) if blind or self._isolation.kind == "userns" else 0,
        }

    def _nproc(self, limits: Limits) -> int:
        """Return the backstop for what may happen between two looks of the watchdog.

        The kernel counts per uid: in a process's own user namespace that is its tree, for a function's uid
        all its instances, else everything of this user.
        """
        kind = self._isolation.kind
        if kind == "userns":
            return limits.pids
        if kind == "uid":
            return 4 * limits.pids
        return _tasks_of(os.geteuid()) + 2 * limits.pids

    def _make_scratch(self, path: str) -> str:
        if self._isolation.kind != "landlock":
            return ""
        scratch = f"{path.rpartition('.')[0]}.tmp"
        try:
            os.mkdir(scratch, 0o700)  # noqa: PTH102 -- no pathlib in the zygote
        except FileExistsError:
            pass
        return scratch

    def adopt(self, pid: int) -> None:
        """Take in a child that nobody waits for yet."""
        group = self._groups.make()
        ward = self._wards[pid] = _Ward(group, self._default)
        if group is not None:
            try:
                group.limit(self._default)
                group.put(pid)
            except OSError:
                self._groups.drop(group)
                ward.group = None

    def begin(self, pid: int, order: dict[str, Any]) -> None:
        """Set a child's limits, before user code runs in it; takes it in if that has not been done.

        Raises:
            OSError: They cannot be set.
        """
        if pid not in self._wards:
            self.adopt(pid)
        ward = self._wards[pid]
        limits = Limits(**order["limits"])
        if ward.group is not None and limits != ward.limits:
            ward.group.limit(limits)
        if order["scratch"] and not ward.scratch:
            self._scratch_users[order["scratch"]] = self._scratch_users.get(order["scratch"], 0) + 1
        ward.limits, ward.scratch, ward.watched = limits, order["scratch"], True
        if self._watchdog is not None and "instance" in order:
            self._watchdog.watch(pid, order["instance"])

    def ended(self, pid: int) -> Ending:
        """Clear away after a child; returns which limit ended it, if one did."""
        ward = self._wards.pop(pid, None)
        if ward is None:
            return Ending()
        ending = ward.ending or Ending()
        if ward.group is not None:
            ending = ward.ending or ward.group.ending()
            self._groups.drop(ward.group)
            self._sweeping = True
        if self._watchdog is not None and ward.watched:
            self._watchdog.bury(pid)
        if ward.scratch:
            self._scratch_users[ward.scratch] -= 1
            if not self._scratch_users[ward.scratch]:
                del self._scratch_users[ward.scratch]
                _remove_apart(ward.scratch)
        return ending

    def patience(self) -> float | None:
        """Return seconds until `look` has something to do, None while it has not."""
        if self._sweeping:
            return _SWEEP_S
        if self._watchdog is not None and any(ward.watched for ward in self._wards.values()):
            return max(0.0, self._looked_at + PERIOD_S - time.monotonic())
        return None

    def look(self) -> list[int]:
        """Finish what is to be cleared away, and return children to be killed for being over a limit."""
        if self._sweeping:
            self._sweeping = self._groups.sweep()
        if self._watchdog is None or time.monotonic() < self._looked_at + PERIOD_S:
            return []
        watched = {
            pid: (ward.limits, ward.scratch)
            for pid, ward in self._wards.items()
            if ward.watched and ward.ending is None
        }
        if not watched:
            return []
        found = self._watchdog.look(watched)
        for pid, ending in found.items():
            self._wards[pid].ending = ending
        self._looked_at = time.monotonic()
        return list(found)

    def close(self) -> None:
        """Clear away after all children; they have been killed."""
        for ward in self._wards.values():
            if ward.group is not None:
                self._groups.drop(ward.group)
        deadline = time.monotonic() + 1.0
        while self._groups.sweep() and time.monotonic() < deadline:
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pass
            time.sleep(0.005)
        self._groups.close()


def _tasks_of(uid: int) -> int:
    """Return the threads of all processes of a user."""
    count = 0
    for name in os.listdir("/proc"):  # noqa: PTH208 -- no pathlib in the zygote
        if name.isdecimal():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:  # noqa: PTH116 -- as above
                    count += len(os.listdir(f"/proc/{name}/task"))  # noqa: PTH208 -- as above
            except OSError:
                continue
    return count


def _remove_apart(directory: str) -> None:
    """Remove a directory in a child of its own: it may hold a million files, and the zygote does not wait."""
    if os.fork():
        return
    try:
        for folder, _folders, names in os.walk(directory, topdown=False):
            for name in names:
                os.unlink(f"{folder}/{name}")  # noqa: PTH108 -- as above
            os.rmdir(folder)  # noqa: PTH106 -- as above
    except OSError:
        pass
    finally:
        os._exit(0)
