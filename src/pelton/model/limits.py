"""What one instance may take of the machine: memory, CPU, processes, disk.

Asked for by `plan/limits.py`, completed here with the machine's defaults, carried out by
`dataplane/limits.py`, shown by `cli/status.py`. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["DEFAULT_DISK_BYTES", "DEFAULT_PIDS", "Limits", "defaults", "resolve"]

DEFAULT_PIDS = 1024
"""Processes and threads of one instance."""

DEFAULT_DISK_BYTES = 512 * 1024 * 1024
"""Temporary files of one instance."""

_LEAST_MEMORY_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one instance; 0 leaves one to the machine's default.

    Attributes:
        memory_bytes: Memory of all its processes and temporary files; above it, it is killed.
        cpu: Processors it may use, e.g. 0.5; 0 for no limit.
        cpu_request: Processors it is meant to get when all are busy: its share is in proportion.
        pids: Processes and threads at once.
        disk_bytes: Size of its temporary files.
    """

    memory_bytes: int = 0
    cpu: float = 0.0
    cpu_request: float = 0.0
    pids: int = 0
    disk_bytes: int = 0


def defaults(machine_bytes: int) -> Limits:
    """Return what counts where nothing is asked for: half of the memory, no limit of CPU.

    Args:
        machine_bytes: Memory of the machine, or of the container that this is.
    """
    memory = max(_LEAST_MEMORY_BYTES, machine_bytes // 2)
    return Limits(
        memory_bytes=memory,
        cpu_request=0.1,
        pids=DEFAULT_PIDS,
        disk_bytes=min(DEFAULT_DISK_BYTES, memory // 2),
    )


def resolve(asked: Limits, default: Limits) -> Limits:
    """Return what is asked for, with defaults where nothing is."""
    return replace(
        asked,
        memory_bytes=asked.memory_bytes or default.memory_bytes,
        cpu=asked.cpu or default.cpu,
        cpu_request=asked.cpu_request or min(asked.cpu or default.cpu_request, default.cpu_request),
        pids=asked.pids or default.pids,
        disk_bytes=asked.disk_bytes or default.disk_bytes,
    )
