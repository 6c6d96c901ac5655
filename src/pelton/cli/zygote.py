"""The zygote process: `python -m pelton.cli.zygote HOME RUN`.

Wires isolation, the convention table and the loop. It is told two directories and no more: what this process
knows, every function can read in its own memory.

Light on purpose (an import contract checks it): whatever is imported here is in every worker's memory.
"""

from __future__ import annotations

import importlib
import os
import sys

# Loaded for the workers' sake, before any fork: each of these costs milliseconds that no cold start then
# pays.
import httptools  # noqa: F401
import uvloop  # noqa: F401

from pelton import log
from pelton.cli.tables import CONVENTIONS, resolve_convention
from pelton.dataplane import isolation, limits
from pelton.dataplane.limiter import Limiter
from pelton.dataplane.loader import leave_packages
from pelton.dataplane.rehearsal import settle
from pelton.dataplane.zygote import Zygote
from pelton.model.limits import defaults

__all__ = ["main"]


def main() -> None:
    """Run until SIGTERM."""
    isolation.die_with_parent(int(os.environ["PELTON_PARENT"]) if "PELTON_PARENT" in os.environ else None)
    log.setup("zygote")
    os.umask(0o022)
    home, run = sys.argv[1:3]
    machine = limits.machine_bytes()
    groups = limits.open_groups(run.rpartition("-")[2], total_bytes=machine)
    granted = isolation.enter(
        visible=isolation.visible_paths(),
        shelves=[f"{home}/bundles", f"{home}/environments"],
        writable=[f"{home}/spool", run],
        hide=[home, run, *isolation.private_places()],
        use=os.environ.get("PELTON_ISOLATION", ""),
        at_end=groups.close,
    )
    limiter = Limiter(groups, granted, defaults(machine))
    for module in CONVENTIONS.values():
        importlib.import_module(module)
    leave_packages()
    settle()
    Zygote(f"{run}/zygote.sock", granted, limiter, resolve_convention).serve()


if __name__ == "__main__":
    main()
