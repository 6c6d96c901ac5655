"""What a process and its descendants use of processor and memory, out of /proc.

The node (`cli/node.py`) reads it for functions that scale by the HPA on cpu or memory. Nothing here decides.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["read_usage"]

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_MOST_PROCESSES: Final = 200
"""A program that forks more than this is measured by the first of them."""


def read_usage(pid: int) -> tuple[float, float] | None:
    """Return (processor seconds so far, bytes resident) of a process tree; None when it is gone."""
    cpu_s = size = 0.0
    waiting, seen = [pid], 0
    while waiting and seen < _MOST_PROCESSES:
        one = waiting.pop()
        seen += 1
        try:
            # Fields are counted behind the name, which may hold anything: state is the third of all.
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            threads = os.listdir(f"/proc/{one}/task")  # noqa: PTH208 -- one listing, names only
        except (OSError, UnicodeDecodeError):
            if one == pid:
                return None
            continue
        cpu_s += (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
        size += int(fields[21]) * _PAGE_BYTES
        for thread in threads:
            try:
                waiting += [
                    int(child) for child in Path(f"/proc/{one}/task/{thread}/children").read_text().split()
                ]
            except (OSError, ValueError):
                continue
    return cpu_s, size
