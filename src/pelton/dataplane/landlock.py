"""Landlock: rules that a process gives itself, for good, without any privilege.

A process that is restricted sends signals and connects abstract sockets only among itself and its children
(ABI 6, Linux 6.12). With `Rules` it besides reaches only the files that they list (ABI 1, Linux 5.13), for
where no mount namespace is to be had. Called by `dataplane/isolation.py`. ctypes on libc: the standard
library has none of these calls. Source: Linux, Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["SCOPE_ABI", "Rules", "abi", "around", "restrict"]

SCOPE_ABI: Final = 6
"""First ABI that keeps signals and abstract sockets inside."""

# Numbers are the same on all architectures.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION: Final = 1
_PATH_BENEATH: Final = 1
_SCOPE_ABSTRACT_UNIX, _SCOPE_SIGNAL = 1, 2
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE: Final = 1 << 14
_IOCTL_DEV: Final = 1 << 15
_READ: Final = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15}
"""ABI -> number of file rights it knows; from 5 on it is 16."""
_O_PATH: Final = 0o10000000

_libc = ctypes.CDLL(None, use_errno=True)


class _RulesetAttr(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


@dataclass(frozen=True, slots=True)
class Rules:
    """What stays reachable.

    Attributes:
        readable: Files and directories to read and execute, with all below.
        writable: Directories in which everything may be done, with all below.
        devices: Directories whose files may be read and written, but none made (`/dev`, `/proc`).
    """

    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


def abi() -> int:
    """Return the kernel's Landlock ABI; 0 without Landlock."""
    found = int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION))
    return max(0, found)


def around(hidden: Iterable[str]) -> list[str]:
    """Return what covers the whole file system but for some directories, since rules can only allow.

    That is every neighbour of each hidden directory and of its ancestors. What is made beside them later is
    out of reach, too.

    Args:
        hidden: Absolute real paths.
    """
    hidden = set(hidden)
    on_the_way = {"/"}
    for path in hidden:
        parts = path.strip("/").split("/")
        on_the_way.update("/" + "/".join(parts[:length]) for length in range(1, len(parts)))
    found = []
    for directory in sorted(on_the_way - hidden):
        if any(directory.startswith(f"{path}/") for path in hidden):
            continue
        try:
            names = os.listdir(directory)  # noqa: PTH208 -- pathlib is not loaded in the zygote
        except OSError:
            continue
        for name in names:
            path = f"{directory.rstrip('/')}/{name}"
            if path not in on_the_way and path not in hidden:
                found.append(path)
    return found


def restrict(version: int, rules: Rules | None = None) -> None:
    """Bind this process and its future children; `no_new_privs` must be set.

    Args:
        version: What `abi` returned, 1 or more.
        rules: What stays reachable; None leaves files alone.

    Raises:
        OSError: The kernel refuses.
    """
    handled = (1 << _RIGHTS.get(version, 16)) - 1 if rules is not None else 0
    scoped = _SCOPE_ABSTRACT_UNIX | _SCOPE_SIGNAL if version >= SCOPE_ABI else 0
    if not handled and not scoped:
        return
    attr = _RulesetAttr(handled, 0, scoped)
    size = 24 if version >= SCOPE_ABI else 16 if version >= 4 else 8
    ruleset = _call(_CREATE_RULESET, ctypes.byref(attr), ctypes.c_size_t(size), 0)
    try:
        if rules is not None:
            for paths, rights in (
                (rules.readable, _READ),
                (rules.devices, _READ | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV),
                (rules.writable, handled),
            ):
                for path in paths:
                    _allow(ruleset, path, rights & handled)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        # A link must not open what it leads to, which may be above a hidden place.
        fd = os.open(path, _O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # it went away, or is out of reach already
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _ON_FILES
        attr = _PathBeneathAttr(rights, fd)
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(attr), 0)
    except OSError:
        pass  # not a place that rules can name (an anonymous or internal file system)
    finally:
        os.close(fd)


def _call(number: int, *words: object) -> int:
    result = int(_libc.syscall(number, *words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return result
