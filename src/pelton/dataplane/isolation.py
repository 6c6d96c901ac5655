"""What keeps a function away from the platform and from other functions (design decision 15).

`enter` makes the zygote's namespaces once; `confine` is what each child does before user code. As root: a PID
and a mount namespace and one uid per function; else a user namespace in which PELTON_HOME and the run
directory are hidden; else nothing, and the reason is reported. Linux only; ctypes on libc, since the standard
library has none of these calls before 3.12. Called by `dataplane/zygote.py` and by the parts in `cli/`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Isolation", "confine", "die_with_parent", "enter", "no_new_privileges", "outer_pid"]

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWPID: Final = 0x20000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = (
    1,
    2,
    4,
    32,
    4096,
    16384,
    1 << 18,
)
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 1, 38, 36
_O_PATH: Final = 0o10000000

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Isolation:
    """What the zygote could get.

    Attributes:
        kind: `uid`, `userns` or `none`.
        reason: Why not more, for `none`.
        pid_namespace: Whether children of workers die with the zygote.
        outer_proc: Descriptor of the /proc that shows outer pids, or -1.
        hide: Directories that a confined child must not see (kind `userns`).
    """

    kind: str
    reason: str = ""
    pid_namespace: bool = False
    outer_proc: int = -1
    hide: tuple[str, ...] = ()

    def describe(self) -> str:
        """`uid`, `userns` or `none (reason)`."""
        return f"none ({self.reason})" if self.kind == "none" else self.kind


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


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


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), "prctl")


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel SIGKILL this process when its parent dies; exit at once if that has already happened.

    Args:
        parent: Pid that the parent must have; None skips the check. setuid clears the setting, so call after
        it.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def no_new_privileges() -> None:
    """Make set-uid programs powerless in this process and its children."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def become_subreaper() -> None:
    """Inherit grandchildren whose parents end, so that their exit statuses come here."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def outer_pid(outer_proc: int) -> int:
    """Return this process's pid as the rest of the platform sees it; see Isolation.outer_proc."""
    if outer_proc >= 0:
        return int(os.readlink("self", dir_fd=outer_proc))
    return os.getpid()


def enter(
    *, visible: Iterable[str], writable: Iterable[str], hide: Sequence[str], namespaces: bool = True
) -> Isolation:
    """Give this process the namespaces that it may have; forks once, the caller goes on as the child.

    The parent stays as a thin process that waits and ends with the child's status, so that whoever started it
    sees one process. Everything under `visible` stays readable by any uid, whatever its parents' modes are.

    Args:
        visible: What functions must be able to read (interpreter, bundles, environments).
        writable: What this process itself must be able to reach and write (sockets, spools).
        hide: Directories whose content confined children must not see.
        namespaces: False to ask for none (reported as such).
    """
    root = os.geteuid() == 0
    if not namespaces:
        return Isolation("none", reason="switched off")
    uid, gid = os.geteuid(), os.getegid()
    try:
        _unshare(_CLONE_NEWPID | _CLONE_NEWNS | (0 if root else _CLONE_NEWUSER))
    except OSError as exc:
        kind = "uid" if root else "none"
        return Isolation(kind, reason="" if root else f"namespaces are not permitted: {exc.strerror}")
    if not root:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    _fork_and_wait()
    outer_proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.set_inheritable(outer_proc, False)
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    try:
        _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV)
    except OSError:
        pass  # a container may forbid it; /proc then shows outer pids, which few programs would notice
    if root:
        _open_ways(list(visible), list(writable))
    return Isolation(
        "uid" if root else "userns",
        pid_namespace=True,
        outer_proc=outer_proc,
        hide=() if root else tuple(hide),
    )


def confine(isolation: Isolation, *, uid: int, keep: Sequence[str], parent: int) -> None:
    """Confine a child to its function: the last privileged thing it does.

    Args:
        isolation: What `enter` gave.
        uid: Uid and gid of the function, for kind `uid`.
        keep: Directories under hidden ones that it still needs (its bundle and environment), read-only.
        parent: Pid of the zygote, for the parent-death check.
    """
    if isolation.kind == "uid":
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    elif isolation.kind == "userns":
        _unshare(_CLONE_NEWNS)
        for directory in isolation.hide:
            _cover(directory, [path for path in keep if _inside(path, directory)], [])
        _drop_capabilities()
    no_new_privileges()
    die_with_parent(parent)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _fork_and_wait() -> None:
    """Fork; the child returns, the parent relays TERM and INT, waits, and ends with the child's status."""
    child = os.fork()
    if child == 0:
        # The parent lives in the outer PID namespace, so getppid() is 0 here: only the signal can be set.
        die_with_parent()
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _frame: os.kill(child, n))
    while True:
        try:
            _pid, status = os.waitpid(child, 0)
            break
        except InterruptedError:
            continue
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _inside(path: str, directory: str) -> bool:
    return os.path.realpath(path).startswith(os.path.realpath(directory).rstrip("/") + "/")


def _blocked_ancestor(path: str) -> str | None:
    """Return the topmost ancestor that other users cannot search, or None."""
    current = "/"
    for part in os.path.realpath(path).strip("/").split("/")[:-1]:
        current = os.path.join(current, part)  # noqa: PTH118 -- pathlib is not loaded in the zygote
        if not os.stat(current).st_mode & stat.S_IXOTH:  # noqa: PTH116 -- as above
            return current
    return None


def _open_ways(visible: list[str], writable: list[str]) -> None:
    """Cover every ancestor that blocks the way with an empty directory that has just what is needed in it."""
    covers: dict[str, tuple[list[str], list[str]]] = {}
    for index, group in enumerate((visible, writable)):
        for path in group:
            blocked = _blocked_ancestor(path) if os.path.exists(path) else None  # noqa: PTH110 -- as above
            if blocked is not None:
                covers.setdefault(blocked, ([], []))[index].append(os.path.realpath(path))
    if not any(readable for readable, _ in covers.values()):
        return
    for directory in sorted(covers):
        readable = covers[directory][0]
        if readable:
            # Whatever this process itself needs below the cover must come along, even if no function may read
            # it.
            own = [
                path
                for group in (writable,)
                for path in map(os.path.realpath, group)
                if _inside(path, directory)
            ]
            _cover(directory, readable, own)


def _cover(directory: str, readable: Sequence[str], writable: Sequence[str]) -> None:
    """Mount an empty tmpfs over a directory and bind what is listed back into it."""
    wanted = [(path, False) for path in dict.fromkeys(readable)] + [
        (path, True) for path in dict.fromkeys(writable)
    ]
    wanted = [
        item for item in wanted if not any(_inside(item[0], other) and w == item[1] for other, w in wanted)
    ]
    opened = [
        (os.open(path, _O_PATH | os.O_CLOEXEC), path, rw)
        for path, rw in wanted
        if os.path.exists(path)  # noqa: PTH110 -- as above
    ]
    real = os.path.realpath(directory)
    _mount("tmpfs", real, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=1m")
    for fd, path, rw in opened:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.makedirs(path, mode=0o755, exist_ok=True)  # noqa: PTH103 -- as above
        else:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)  # noqa: PTH103, PTH120 -- as above
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
        _mount(f"/proc/self/fd/{fd}", path, None, _MS_BIND | _MS_REC)
        if not rw:
            try:
                _mount("none", path, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID)
            except OSError:
                pass  # locked mount flags in a user namespace: it stays as writable as its modes allow
        os.close(fd)


def _drop_capabilities() -> None:
    """Give up every capability in the user namespace, for good (no_new_privileges follows)."""

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    header = Header(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(data)), "capset")


def interpreter_paths() -> list[str]:
    """Return what an interpreter of this one's kind must be able to read: prefixes and import path."""
    paths = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    paths.update(entry for entry in sys.path if entry)
    return sorted(path for path in paths if os.path.exists(path))  # noqa: PTH110 -- as above
