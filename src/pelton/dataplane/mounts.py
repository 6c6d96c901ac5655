"""The files that one function sees: a mount namespace of its own, made in two steps.

`prepare` hides the platform, the user's home and other functions' temporary files; it is the slow step and a
spare has it behind it before anybody waits. `finish` adds the function's own bundle and environment and makes
everything but the scratch directories read-only. `open_ways` is for the zygote, once. Called by
`dataplane/isolation.py`, which knows whether mounting is permitted at all. Linux only, ctypes on libc.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["SCRATCH", "Layout", "View", "inside", "make_private", "mount_proc", "open_ways"]

SCRATCH: Final = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 -- each function gets its own
"""What is empty and writable in every view; one file system with one size limit."""

SCRATCH_BYTES: Final = 512 * 1024 * 1024
"""Size of it until `View.finish` says another."""

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = (
    1,
    2,
    4,
    32,
    4096,
    16384,
    1 << 18,
)
_MOUNT_SETATTR: Final = 442  # the same on all architectures
_AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = -100, 0x8000, 1
_O_PATH: Final = 0o10000000

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """Which paths a view is made of; all absolute and real.

    Attributes:
        hidden: Directories that become empty.
        shelves: Directories below hidden ones that hold one entry per bundle or environment.
        visible: What stays readable although it is below a hidden or a scratch directory.
    """

    hidden: tuple[str, ...]
    shelves: tuple[str, ...]
    visible: tuple[str, ...]


class View:
    """One process's own view of the file system; `prepare`, then `finish`.

    Args:
        layout: What is hidden and what is not.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._shelves: dict[str, int] = {}
        self._scratch: list[str] = []

    def prepare(self) -> None:
        """Hide what no function may see; in a mount namespace that only this process has.

        Raises:
            OSError: The kernel refuses a mount.
        """
        layout = self._layout
        scratch = dict.fromkeys(map(os.path.realpath, SCRATCH))  # one may be a link to another
        self._scratch = [path for path in scratch if os.path.isdir(path)]  # noqa: PTH112 -- no pathlib here
        self._shelves = {path: os.open(path, _O_PATH | os.O_CLOEXEC) for path in layout.shelves}
        covered = (*layout.hidden, *self._scratch)
        back = [
            (os.open(path, _O_PATH | os.O_CLOEXEC), path)
            for path in _outermost(layout.visible)
            if any(inside(path, directory) for directory in covered) and os.path.exists(path)  # noqa: PTH110 -- as above
        ]
        for directory in _outermost(layout.hidden):
            if not any(inside(directory, scratch) for scratch in self._scratch):
                _mount("tmpfs", directory, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=1m")
        first = self._scratch[0] if self._scratch else ""
        for directory in self._scratch:
            if directory == first:
                size = f"mode=1777,size={SCRATCH_BYTES}"
                _mount("tmpfs", directory, "tmpfs", _MS_NOSUID | _MS_NODEV, size)
            else:
                _mount(first, directory, None, _MS_BIND)
        for fd, path in back:
            _bind(fd, path)
            os.close(fd)

    def finish(self, keep: Sequence[str], scratch_bytes: int) -> None:
        """Add what this function may read, and make everything read-only but for its scratch directories.

        Args:
            keep: Its bundle and environment.
            scratch_bytes: Size limit of the scratch directories together.

        Raises:
            OSError: The kernel refuses a mount.
        """
        for path in map(os.path.realpath, keep):
            for shelf, shelf_fd in self._shelves.items():
                if inside(path, shelf):
                    fd = os.open(path[len(shelf) + 1 :], _O_PATH | os.O_CLOEXEC, dir_fd=shelf_fd)
                    _bind(fd, path)
                    os.close(fd)
        for fd in self._shelves.values():
            os.close(fd)
        if self._scratch and scratch_bytes != SCRATCH_BYTES:
            flags = _MS_REMOUNT | _MS_NOSUID | _MS_NODEV
            _mount("none", self._scratch[0], None, flags, f"size={scratch_bytes}")
        try:
            _set_read_only("/", on=True, recursive=True)
        except OSError:  # before Linux 5.12
            _mount("none", "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)
            return
        for path in (*self._scratch, "/proc"):
            _set_read_only(path, on=False, recursive=False)


def make_private() -> None:
    """Keep what is mounted here from now on out of every other namespace."""
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)


def mount_proc(*options: str) -> str:
    """Mount this PID namespace's /proc with the first option the kernel takes.

    Returns:
        The option; "none" when nothing could be mounted: a container may forbid it, and /proc then shows
        outer pids.
    """
    for option in (*options, ""):
        try:
            _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV, option or None)
        except OSError:
            continue
        return option
    return "none"


def inside(path: str, directory: str) -> bool:
    """Tell whether a path is below a directory."""
    return path.startswith(directory.rstrip("/") + "/")


def open_ways(visible: Sequence[str], writable: Sequence[str]) -> None:
    """Cover every ancestor that blocks the way with an empty directory that has just what is needed in it.

    Args:
        visible: What any uid must be able to read, whatever its parents' modes are.
        writable: What this process itself must be able to reach and write.
    """
    covers: dict[str, tuple[list[str], list[str]]] = {}
    for index, group in enumerate((visible, writable)):
        for path in group:
            blocked = _blocked_ancestor(path) if os.path.exists(path) else None  # noqa: PTH110 -- as above
            if blocked is not None:
                covers.setdefault(blocked, ([], []))[index].append(os.path.realpath(path))
    for directory in sorted(covers):
        readable = covers[directory][0]
        if readable:
            # Whatever this process itself needs below the cover must come along, even if no function may read
            # it.
            own = [path for path in map(os.path.realpath, writable) if inside(path, directory)]
            _cover(directory, readable, own)


def _outermost(paths: Sequence[str]) -> list[str]:
    found: list[str] = []
    for path in sorted(set(paths)):
        if not any(path == other or inside(path, other) for other in found):
            found.append(path)
    return found


def _blocked_ancestor(path: str) -> str | None:
    """Return the topmost ancestor that other users cannot search, or None."""
    current = "/"
    for part in os.path.realpath(path).strip("/").split("/")[:-1]:
        current = os.path.join(current, part)  # noqa: PTH118 -- as above
        if not os.stat(current).st_mode & stat.S_IXOTH:  # noqa: PTH116 -- as above
            return current
    return None


def _cover(directory: str, readable: Sequence[str], writable: Sequence[str]) -> None:
    """Mount an empty tmpfs over a directory and bind what is listed back into it."""
    wanted = [(path, False) for path in dict.fromkeys(readable)] + [
        (path, True) for path in dict.fromkeys(writable)
    ]
    wanted = [
        item for item in wanted if not any(inside(item[0], other) and w == item[1] for other, w in wanted)
    ]
    opened = [
        (os.open(path, _O_PATH | os.O_CLOEXEC), path, rw)
        for path, rw in wanted
        if os.path.exists(path)  # noqa: PTH110 -- as above
    ]
    _mount("tmpfs", directory, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=1m")
    for fd, path, rw in opened:
        _bind(fd, path, writable=rw)
        os.close(fd)


def _bind(fd: int, path: str, *, writable: bool = False) -> None:
    """Put what a descriptor names at a path below a cover, making the way to it."""
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.makedirs(path, mode=0o755, exist_ok=True)  # noqa: PTH103 -- as above
    else:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)  # noqa: PTH103, PTH120 -- as above
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(f"/proc/self/fd/{fd}", path, None, _MS_BIND | _MS_REC)
    if not writable:
        try:
            _set_read_only(path, on=True, recursive=True)
        except OSError:
            try:
                _mount("none", path, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID)
            except OSError:
                pass  # locked mount flags in a user namespace: it stays as writable as its modes allow


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    _check(
        _libc.mount(
            source.encode(),
            target.encode(),
            kind.encode() if kind else None,
            ctypes.c_ulong(flags),
            data.encode() if data else None,
        ),
        f"mount {target}",
    )


def _set_read_only(path: str, *, on: bool, recursive: bool) -> None:
    attr = _MountAttr(_MOUNT_ATTR_RDONLY if on else 0, 0 if on else _MOUNT_ATTR_RDONLY, 0, 0)
    _check(
        _libc.syscall(
            _MOUNT_SETATTR,
            _AT_FDCWD,
            path.encode(),
            _AT_RECURSIVE if recursive else 0,
            ctypes.byref(attr),
            ctypes.c_size_t(ctypes.sizeof(attr)),
        ),
        f"mount_setattr {path}",
    )


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
