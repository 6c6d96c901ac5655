"""Carries out limits: control groups where they can be had, else rlimits and a watchdog.

`Groups` makes one control group per instance (v2, else v1; each of memory, pids and cpu may be missing);
`dataplane/watchdog.py` looks at the processes themselves where groups for memory or pids are missing. The
zygote owns both. It makes groups ahead of need and moves spares into them, since moving a process can take
the kernel milliseconds. Everything is a file below a root that tests replace. No policy: what is allowed
comes from `model/limits.py`. Source: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pelton.model.limits import Limits

__all__ = ["Ending", "Group", "Groups", "Rlimits", "machine_bytes", "open_groups"]

CONTROLLERS: Final = ("memory", "pids", "cpu")
_PERIOD_US: Final = 100_000
_LEAST_QUOTA_US: Final = 1000
FUNCTIONS_SHARE: Final = 0.9
"""Of the machine's memory, for all functions together: the rest is the platform's and the system's."""

_NOFILE: Final = 16_384
"""Open files of one process: what user code exhausts is its own."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Why an instance ended, if a limit was the reason.

    Attributes:
        reason: `OOMKilled`, `PidsLimit` or `DiskLimit`; "" for anything else.
        message: A sentence.
    """

    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Rlimits:
    """Per-process limits that a child sets for itself, hard ones; 0 leaves one as it is.

    Attributes:
        data_bytes: RLIMIT_DATA.
        nproc: RLIMIT_NPROC, which counts per uid, in a user namespace of its own per process tree.
    """

    data_bytes: int = 0
    nproc: int = 0

    def apply(self) -> None:
        """Set them in this process, with what every function has: no core files, a bound on open files."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _lower(resource.RLIMIT_NOFILE, _NOFILE)
        if self.data_bytes:
            _lower(resource.RLIMIT_DATA, self.data_bytes)
        if self.nproc:
            _lower(resource.RLIMIT_NPROC, self.nproc)


def _lower(which: int, value: int) -> None:
    soft, hard = resource.getrlimit(which)
    infinity = resource.RLIM_INFINITY
    hard = value if hard == infinity else min(hard, value)
    resource.setrlimit(which, (hard if soft == infinity else min(soft, hard), hard))


def machine_bytes(root: str = "/") -> int:
    """Return the memory of this machine, or of the container that it is by its control group."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    base = root.rstrip("/")
    for path in (f"{base}/sys/fs/cgroup/memory.max", f"{base}/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _read(path).strip()
        if text.isdecimal():
            found = min(found, int(text))
    return found


@dataclass(slots=True)
class Group:
    """The control groups of one instance.

    Attributes:
        paths: Controller -> its directory; in v2 all the same.
        version: 1 or 2.
        limits: What was set last.
    """

    paths: Mapping[str, str]
    version: int
    limits: Limits = field(default_factory=Limits)

    def put(self, pid: int) -> None:
        """Move a process in; one that has ended is no error."""
        for directory in dict.fromkeys(self.paths.values()):
            try:
                _put(f"{directory}/cgroup.procs", str(pid))
            except ProcessLookupError:
                return

    def limit(self, limits: Limits) -> None:
        """Set limits, all of them above 0 but `cpu`; raises OSError when the kernel refuses."""
        self.limits = limits
        for controller, directory in self.paths.items():
            for name, value in _settings(controller, self.version, limits):
                try:
                    _put(f"{directory}/{name}", value)
                except (FileNotFoundError, PermissionError):
                    if name not in _OPTIONAL:
                        raise

    def ending(self) -> Ending:
        """Return which limit ended a process in it."""
        if "memory" in self.paths:
            name = "memory.events" if self.version == 2 else "memory.oom_control"
            if _field(f"{self.paths['memory']}/{name}", "oom_kill"):
                size = _mebibytes(self.limits.memory_bytes)
                return Ending("OOMKilled", f"it took more than its {size} of memory")
        return Ending()

    def kill(self) -> None:
        """Kill whatever is in it, and let nothing more begin."""
        if "pids" in self.paths:
            _try_put(f"{self.paths['pids']}/pids.max", "0")
        for directory in dict.fromkeys(self.paths.values()):
            if self.version == 2 and _try_put(f"{directory}/cgroup.kill", "1"):
                continue
            for word in _read(f"{directory}/cgroup.procs").split():
                try:
                    os.kill(int(word), signal.SIGKILL)
                except (ProcessLookupError, ValueError):
                    continue

    def remove(self) -> bool:
        """Remove it; False while something is in it."""
        for directory in dict.fromkeys(self.paths.values()):
            try:
                os.rmdir(directory)  # noqa: PTH106 -- no pathlib in the zygote
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True


class Groups:
    """Control groups of all instances, below one of this platform's own.

    Args:
        parents: Controller -> directory of the platform's group; in v2 all the same.
        version: 1 or 2.
        missing: Why controllers are missing; "" when none is.

    Attributes:
        controllers: Those it has, of `memory`, `pids` and `cpu`.
    """

    def __init__(self, parents: Mapping[str, str], version: int, missing: str = "") -> None:
        self._parents = parents
        self._number = 0
        self._leaving: list[Group] = []
        self.version = version
        self.missing = missing
        self.controllers = tuple(parents)

    def __bool__(self) -> bool:
        return bool(self._parents)

    def make(self) -> Group | None:
        """Make a group; None without controllers, or when the kernel gives no more."""
        if not self._parents:
            return None
        self._number += 1
        group = Group(
            {name: f"{parent}/{self._number}" for name, parent in self._parents.items()}, self.version
        )
        try:
            for directory in dict.fromkeys(group.paths.values()):
                os.mkdir(directory)  # noqa: PTH102 -- as above
        except FileExistsError:
            self.drop(group)  # an earlier zygote's
            return self.make()
        except OSError:
            group.remove()
            return None
        return group

    def drop(self, group: Group) -> None:
        """Kill what is in a group and remove it, at once or when `sweep` comes by."""
        group.kill()
        self._leave(group)

    def _leave(self, group: Group) -> None:
        if not group.remove():
            self._leaving.append(group)

    def sweep(self) -> bool:
        """Go on with what `drop` could not finish; True while something is left to do."""
        for group in self._leaving:
            group.kill()
        self._leaving = [group for group in self._leaving if not group.remove()]
        return bool(self._leaving)

    def clear(self) -> None:
        """Kill what is in any group, also of an earlier zygote, and remove those that are empty by then."""
        for parent in dict.fromkeys(self._parents.values()):
            for name in os.listdir(parent):  # noqa: PTH208 -- as above
                if name.isdecimal():
                    controllers = [one for one, place in self._parents.items() if place == parent]
                    group = Group(dict.fromkeys(controllers, f"{parent}/{name}"), self.version)
                    group.kill()
                    group.remove()

    def close(self) -> None:
        """Remove the platform's group with all below, as far as nothing runs there any more."""
        self.clear()
        for parent in dict.fromkeys(self._parents.values()):
            try:
                os.rmdir(parent)  # noqa: PTH106 -- as above
            except OSError:
                continue


def open_groups(tag: str, *, total_bytes: int, root: str = "/") -> Groups:
    """Make the platform's group below the one that this process is in, as far as that is permitted.

    Args:
        tag: Names the platform.
        total_bytes: Memory of the machine; all functions together get a share of it.
        root: Where /proc and /sys are; for tests.
    """
    base = root.rstrip("/")
    own = _own_groups(_read(f"{base}/proc/self/cgroup"))
    mounted = _mounts(_read(f"{base}/proc/self/mountinfo"), base)
    why = ""
    for version, attempt in ((2, _open_v2), (1, _open_v1)):
        try:
            parents = attempt(mounted, own, f"pelton-{tag}", base)
        except OSError as exc:
            why = why or f"cgroup v{version}: {exc.strerror}"
            continue
        if not parents:
            continue
        _limit_all(parents, version, total_bytes)
        lacking = [name for name in CONTROLLERS if name not in parents]
        groups = Groups(parents, version, f"no cgroup controller for {', '.join(lacking)}" if lacking else "")
        groups.clear()  # of a platform that was killed
        return groups
    return Groups({}, 0, why or "no control group can be written")


def _limit_all(parents: Mapping[str, str], version: int, total_bytes: int) -> None:
    if "memory" in parents:
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        _try_put(f"{parents['memory']}/{name}", str(int(total_bytes * FUNCTIONS_SHARE)))


def _open_v2(mounted: _Mounted, own: Mapping[str, str], name: str, base: str) -> dict[str, str]:
    if "" not in mounted or "" not in own:
        return {}
    here = _place(mounted[""], own[""])
    there = _read(f"{here}/cgroup.controllers").split()
    wanted = [controller for controller in CONTROLLERS if controller in there]
    if "memory" not in wanted and "pids" not in wanted:
        return {}
    try:
        _enable(here, wanted)
    except OSError as exc:
        if exc.errno != errno.EBUSY:
            raise
        # A group with processes cannot share out: the platform's own make room by going one level down.
        leaf = f"{here}/{name}-parts"
        _mkdir(leaf)
        family = _family(base)
        for word in _read(f"{here}/cgroup.procs").split():
            if int(word) in family:
                _put(f"{leaf}/cgroup.procs", word)
        _enable(here, wanted)
    parent = f"{here}/{name}"
    _mkdir(parent)
    _enable(parent, wanted)
    return dict.fromkeys(wanted, parent)


def _enable(directory: str, controllers: Sequence[str]) -> None:
    given = _read(f"{directory}/cgroup.subtree_control").split()
    for controller in controllers:
        if controller not in given:
            _put(f"{directory}/cgroup.subtree_control", f"+{controller}")


def _family(base: str) -> set[int]:
    """Return this process, its parent (`up`) and the parent's other children (the parts)."""
    parent = os.getppid()
    family = {os.getpid(), parent}
    for word in os.listdir(f"{base}/proc"):  # noqa: PTH208 -- as above
        if word.isdecimal():
            words = _read(f"{base}/proc/{word}/stat").rpartition(")")[2].split()
            if len(words) > 1 and int(words[1]) == parent:
                family.add(int(word))
    return family


def _open_v1(mounted: _Mounted, own: Mapping[str, str], name: str, _base: str) -> dict[str, str]:
    parents: dict[str, str] = {}
    failed: OSError | None = None
    for controller in CONTROLLERS:
        if controller not in mounted or controller not in own:
            continue
        parent = f"{_place(mounted[controller], own[controller])}/{name}"
        try:
            _mkdir(parent)
        except OSError as exc:
            failed = exc
        else:
            parents[controller] = parent
    if not parents and failed is not None:
        raise failed
    return parents


_Mounted = dict[str, tuple[str, str]]
"""Controller, "" for v2 -> (mount point, which group is mounted there)."""


def _own_groups(text: str) -> dict[str, str]:
    """Read /proc/self/cgroup: controller, "" for v2 -> path of the group."""
    found = {}
    for line in text.splitlines():
        _number, names, path = line.split(":", 2)
        for controller in names.split(","):
            found[controller] = path
    return found


def _mounts(text: str, base: str) -> _Mounted:
    found: _Mounted = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        words, kinds = left.split(), right.split()
        if kinds[0] == "cgroup2":
            found.setdefault("", (base + words[4], words[3]))
        elif kinds[0] == "cgroup":
            for controller in kinds[2].split(","):
                found.setdefault(controller, (base + words[4], words[3]))
    return found


def _place(mounted: tuple[str, str], group: str) -> str:
    """Return a group's directory; a container's mount may begin below the hierarchy's root."""
    point, begin = mounted
    if begin != "/" and (group == begin or group.startswith(f"{begin}/")):
        group = group[len(begin) :]
    return f"{point}{group}".rstrip("/")


_OPTIONAL: Final = frozenset({"memory.memsw.limit_in_bytes", "memory.swap.max", "memory.oom.group"})
"""Not in every kernel: without swap accounting swapped memory is not counted."""


def _settings(controller: str, version: int, limits: Limits) -> list[tuple[str, str]]:
    """Return (file, value) in the order of writing."""
    if controller == "pids":
        return [("pids.max", str(limits.pids))]
    if controller == "memory":
        size = str(limits.memory_bytes)
        if version == 2:
            return [("memory.max", size), ("memory.swap.max", "0"), ("memory.oom.group", "1")]
        return [("memory.limit_in_bytes", size), ("memory.memsw.limit_in_bytes", size)]
    quota = max(_LEAST_QUOTA_US, round(limits.cpu * _PERIOD_US))
    if version == 2:
        weight = min(10_000, max(1, round(limits.cpu_request * 100)))
        most = f"{quota if limits.cpu else 'max'} {_PERIOD_US}"
        return [("cpu.weight", str(weight)), ("cpu.max", most)]
    shares = min(262_144, max(2, round(limits.cpu_request * 1024)))
    return [
        ("cpu.shares", str(shares)),
        ("cpu.cfs_period_us", str(_PERIOD_US)),
        ("cpu.cfs_quota_us", str(quota if limits.cpu else -1)),
    ]


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.4g} MiB"


def _mkdir(path: str) -> None:
    try:
        os.mkdir(path)  # noqa: PTH102 -- as above
    except FileExistsError:
        pass


def _put(path: str, text: str) -> None:
    # Control group file systems make no files; elsewhere (tests) one is made.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _try_put(path: str, text: str) -> bool:
    try:
        _put(path, text)
    except OSError:
        return False
    return True


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 -- as above
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _field(path: str, name: str) -> int:
    for line in _read(path).splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name:
            return int(words[1])
    return 0
