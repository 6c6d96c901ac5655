"""Run a command as an ordinary user: `python as_user.py UID COMMAND...`, itself run as root.

The interpreter and the code under test may be below directories that only root can search (a home, a scratch
directory); in a mount namespace of the command's own they are made visible, by the platform's own means.
"""

import ctypes
import os
import sys

from pelton.dataplane import mounts
from pelton.dataplane.isolation import visible_paths

CLONE_NEWNS = 0x00020000


def main():
    uid = int(sys.argv[1])
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    mounts.make_private()
    mounts.open_ways(visible_paths(), [])
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
