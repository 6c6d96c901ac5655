"""A disk that takes no more, by the kernel's limit on the size of files."""

import resource
from contextlib import contextmanager


@contextmanager
def full(size=256 * 1024):
    """Let no file of this process grow beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
