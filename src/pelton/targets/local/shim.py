"""Start a program so that it dies with its parent: `python -I -S shim.py PARENT_PID PROGRAM [ARG ...]`.

Set in the child by a program of its own, never by `preexec_fn` in a process with threads. PDEATHSIG survives
exec. Runs without site-packages: nothing may be imported here but the standard library. Used by
`supervisor.py`.
"""

import ctypes
import os
import signal
import sys

if __name__ == "__main__":
    parent = int(sys.argv[1])
    if ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit("prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit(1)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 -- becoming another program is what this file is for
