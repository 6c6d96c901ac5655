"""What keeps a function away from the platform and from other functions (design decision 15).

`enter` makes the zygote's namespaces once, `prepare` and `confine` are what each child does before user code.
As root: a uid and a view of the files per function; else a user namespace and a view per process; else
Landlock; else nothing, and the reason is reported. `dataplane/mounts.py` makes views, `dataplane/landlock.py`
rules. What each of them keeps away: docs/security.md. Linux only; ctypes on libc, since the standard library
has none of these calls before 3.12. Called by `dataplane/zygote.py`, `template.py` and the parts in `cli/`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pelton.dataplane import landlock, mounts

__all__ = ["Isolation", "confine", "die_with_parent", "enter", "no_new_privileges", "outer_pid", "prepare"]

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWIPC: Final = 0x08000000
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWPID: Final = 0x20000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_RUN: Final = "/run"
_RUN_KEPT: Final = ("systemd/resolve", "resolvconf", "NetworkManager", "nscd")
"""What of /run a function needs: name resolution. The rest are sockets of services that act for others."""
_SYSTEM: Final = frozenset(
    {"", "bin", "dev", "etc", "lib", "lib64", "nonexistent", "proc", "sbin", "sys", "usr"}
)
_DEVICES: Final = ("/dev", "/proc")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Isolation:
    """What the zygote could get.

    Attributes:
        kind: `uid`, `userns`, `landlock` or `none`; in a template's children `inherited`.
        reason: Why not more, for `landlock` and `none`.
        pid_namespace: Whether children of workers die with the zygote.
        outer_proc: Descriptor of the /proc that shows outer pids, or -1.
        layout: What each process's view of the files is made of; None without mount namespaces.
        landlock_abi: ABI of the kernel's Landlock, 0 without.
        rules: What stays reachable where Landlock guards the files; None else.
        gaps: What does not hold here although it does with this kind elsewhere, one clause each.
    """

    kind: str
    reason: str = ""
    pid_namespace: bool = False
    outer_proc: int = -1
    layout: mounts.Layout | None = None
    landlock_abi: int = 0
    rules: landlock.Rules | None = None
    gaps: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """The kind, with what is missing and why in parentheses."""
        missing = "; ".join(filter(None, (self.reason, *self.gaps)))
        return f"{self.kind} ({missing})" if missing else self.kind


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


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


# -- the zygote ----------------------------------------------------------------------------------------------


def enter(
    *,
    visible: Iterable[str],
    shelves: Sequence[str],
    writable: Iterable[str],
    hide: Sequence[str],
    use: str = "",
    at_end: Callable[[], None] = lambda: None,
) -> Isolation:
    """Give this process the namespaces that it may have; forks once, the caller goes on as the child.

    The parent stays as a thin process that waits and ends with the child's status, so that whoever started it
    sees one process. Everything under `visible` stays readable by any uid, whatever its parents' modes are.

    Args:
        visible: What functions must be able to read: the interpreter, programs.
        shelves: Directories of bundles and environments; a function sees its own entries only.
        writable: What this process itself must be able to reach and write (sockets, spools).
        hide: Directories whose content functions must not see.
        use: `none` asks for nothing, `landlock` for no namespace; "" for what is to be had.
        at_end: Called in the thin process when all others have ended.
    """
    version = landlock.abi()
    root = os.geteuid() == 0
    if use == "none":
        return Isolation("none", reason="switched off")
    hidden = [os.path.realpath(path) for path in hide if os.path.isdir(path)]  # noqa: PTH112 -- no pathlib here
    seen = _real(visible)
    layout = mounts.Layout(
        hidden=tuple(hidden),
        shelves=tuple(_real(shelves)),
        visible=(*seen, *_real(f"{_RUN}/{name}" for name in _RUN_KEPT)),
    )
    why = "switched off" if use == "landlock" else _try(layout)
    if why:
        return _without_mounts(version, hidden, seen, why)
    isolation = Isolation(
        "uid" if root else "userns", pid_namespace=True, layout=layout, landlock_abi=version
    )
    _enter_namespaces()
    _fork_and_wait(at_end)
    isolation.outer_proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.set_inheritable(isolation.outer_proc, False)
    mounts.make_private()
    # With a user namespace per function nobody may trace another, with a uid per function neither; what may
    # not be traced is not shown.
    shown = mounts.mount_proc(
        *(("hidepid=invisible", "hidepid=2") if root else ("hidepid=ptraceable", "hidepid=4"))
    )
    if shown in ("", "none"):
        isolation.gaps.append("/proc lists other functions' processes")
    if root:
        mounts.open_ways([*seen, *_real(shelves)], list(writable))
    elif version < landlock.SCOPE_ABI:
        isolation.gaps.append(
            f"functions can signal each other: Landlock has ABI {version}, that takes {landlock.SCOPE_ABI}"
        )
    return isolation


def _without_mounts(version: int, hidden: Sequence[str], seen: Sequence[str], why: str) -> Isolation:
    """Return what is left where no mount namespace is to be had: uids as root, and Landlock."""
    rules = _rules(hidden, seen) if version else None
    if os.geteuid() == 0:
        isolation = Isolation("uid", landlock_abi=version, rules=rules, gaps=[why])
        if rules is None:
            isolation.gaps.append("functions can read each other's source: there is no Landlock")
        return isolation
    if rules is None:
        return Isolation("none", reason=f"{why}, and there is no Landlock")
    isolation = Isolation("landlock", reason=why, landlock_abi=version, rules=rules)
    if version < landlock.SCOPE_ABI:
        isolation.gaps.append(
            f"functions can signal each other: Landlock has ABI {version}, that takes {landlock.SCOPE_ABI}"
        )
    return isolation


def _rules(hidden: Sequence[str], seen: Sequence[str]) -> landlock.Rules:
    """Return rules: what is not hidden is readable, temporary directories are writable if they can be.

    A directory cannot be opened but for something below it, so one above a hidden place stays closed.
    """
    scratch = [
        path
        for path in dict.fromkeys(map(os.path.realpath, mounts.SCRATCH))
        if os.path.isdir(path) and not any(mounts.inside(place, path) for place in hidden)  # noqa: PTH112 -- as above
    ]
    return landlock.Rules(
        readable=(*landlock.around(hidden), *seen, *_real(f"{_RUN}/{name}" for name in _RUN_KEPT)),
        writable=tuple(scratch),
        devices=_DEVICES,
    )


def _real(paths: Iterable[str]) -> list[str]:
    return [os.path.realpath(path) for path in dict.fromkeys(paths) if os.path.exists(path)]  # noqa: PTH110 -- as above


def _try(layout: mounts.Layout) -> str:
    """Make namespaces and a view in a child that then ends; returns why that is not permitted, "" if it is.

    Some systems permit a user namespace and then refuse what it is for; there is no way back from one.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        said = ""
        try:
            _enter_namespaces()
            mounts.make_private()
            own = _Own(os.geteuid(), os.getegid()) if os.geteuid() else None
            _view(layout, own).finish((), mounts.SCRATCH_BYTES)
        except OSError as exc:
            said = f"namespaces are not permitted: {exc.strerror}"
        os.write(write_end, said.encode()[:1024])
        os._exit(0)
    os.close(write_end)
    said = os.read(read_end, 1024).decode()
    os.close(read_end)
    os.waitpid(child, 0)
    return said


def _enter_namespaces() -> None:
    uid, gid = os.geteuid(), os.getegid()
    _unshare(_CLONE_NEWPID | _CLONE_NEWNS | (_CLONE_NEWUSER if uid else 0))
    if uid:
        _map(uid, gid)


def _map(uid: int, gid: int) -> None:
    """Be the same user inside a new user namespace as outside."""
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid} {uid} 1")
    _write("/proc/self/gid_map", f"{gid} {gid} 1")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _fork_and_wait(at_end: Callable[[], None]) -> None:
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
    at_end()
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


# -- its children --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Own:
    """Who this process is inside its own user namespace."""

    uid: int
    gid: int


def prepare(isolation: Isolation) -> mounts.View | None:
    """Do what a child can do before it knows its function; the slow part of `confine`.

    Returns:
        What `confine` finishes; None without views.

    Raises:
        OSError: The kernel refuses now what it gave to the zygote's trial.
    """
    if isolation.layout is None:
        return None
    return _view(isolation.layout, _Own(os.geteuid(), os.getegid()) if isolation.kind == "userns" else None)


def _view(layout: mounts.Layout, own: _Own | None) -> mounts.View:
    # A user namespace of its own: processes of one user may trace each other only inside one.
    _unshare(_CLONE_NEWNS | _CLONE_NEWIPC | (_CLONE_NEWUSER if own else 0))
    if own is not None:
        _map(own.uid, own.gid)
    view = mounts.View(layout)
    view.prepare()
    return view


def confine(
    isolation: Isolation,
    view: mounts.View | None,
    *,
    uid: int,
    keep: Sequence[str],
    parent: int,
    scratch_bytes: int = mounts.SCRATCH_BYTES,
    scratch: str = "",
) -> None:
    """Confine a child to its function: the last privileged thing it does.

    Args:
        isolation: What `enter` gave.
        view: What `prepare` returned.
        uid: Uid and gid of the function, for kind `uid`.
        keep: Its bundle and environment, read-only.
        parent: Pid of the zygote, for the parent-death check.
        scratch_bytes: Size limit of its temporary directories, where there is a view.
        scratch: Its own temporary directory, where there is none.

    Raises:
        OSError: The kernel refuses; user code must not run.
    """
    if view is not None:
        view.finish(keep, scratch_bytes)
    if isolation.kind == "uid":
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        _prctl(_PR_SET_DUMPABLE, 1)  # lost with the uid, and with it the function's own /proc/self
    elif isolation.kind == "userns":
        _drop_capabilities()
    no_new_privileges()
    if isolation.kind != "none" and isolation.landlock_abi:
        rules = isolation.rules
        if rules is not None:
            own = (scratch,) if scratch else ()
            rules = landlock.Rules((*rules.readable, *keep), (*rules.writable, *own), rules.devices)
        landlock.restrict(isolation.landlock_abi, rules)
    die_with_parent(parent)


def _drop_capabilities() -> None:
    """Give up every capability in the user namespace, for good (no_new_privileges follows)."""

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    header = Header(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(data)), "capset")


def visible_paths() -> list[str]:
    """Return what must stay readable: the interpreter, its import path, and what PELTON_VISIBLE names."""
    paths = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    paths.update(entry for entry in sys.path if entry)
    for name in ("LD_LIBRARY_PATH", "PELTON_VISIBLE"):
        paths.update(entry for entry in os.environ.get(name, "").split(":") if entry.startswith("/"))
    return sorted(path for path in paths if os.path.exists(path))  # noqa: PTH110 -- pathlib is not loaded here


def private_places() -> list[str]:
    """Return directories of the user and of services that act for users: not for functions to see.

    The user's home is not among them where it is a part of the system (`/`, `/usr/sbin`, `/tmp`).
    """
    places = {_RUN, os.environ.get("XDG_RUNTIME_DIR", "")}
    home = os.path.realpath(os.environ.get("HOME", "/"))
    if os.geteuid() and home.strip("/").partition("/")[0] not in _SYSTEM | {"tmp"} and home != "/var/tmp":  # noqa: S108 -- only compared
        places.add(home)
    return sorted(path for path in places if path)
