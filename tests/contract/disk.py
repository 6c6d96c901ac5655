"""Disks that take no more: by the kernel's limit on the size of files, or a small filesystem of its own."""

import resource
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def full(size=256 * 1024):
    """Let no file of this process grow beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class SmallDisk:
    """A filesystem in memory.

    Args:
        path: Where it is mounted.
    """

    def __init__(self, path):
        self.path = path
        self._ballast = path / "ballast"

    def fill(self):
        """Leave no room."""
        with pytest.raises(OSError, match="No space left"), self._ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(64 * 1024))

    def free(self):
        """Give the room back."""
        self._ballast.unlink()


@contextmanager
def mounted(size_mb):
    """Mount a SmallDisk that any user may write to; a test that may not mount is skipped."""
    path = Path(tempfile.mkdtemp(prefix="pelton-disk-"))  # pytest's are closed to users of servers
    words = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=1777", "tmpfs", str(path)]
    try:
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no filesystem can be mounted: {done.stderr.strip()}")
        try:
            yield SmallDisk(path)
        finally:
            subprocess.run(["umount", "--lazy", str(path)], check=True, capture_output=True)
    finally:
        path.rmdir()
