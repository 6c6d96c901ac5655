"""One log line format for every process: time, level, part, sentence, key=value fields.

Standard library only, since zygote and workers use it too. Never pass secrets or webhook URLs as fields.
"""

from __future__ import annotations

import logging
import sys
import time

__all__ = ["get", "setup"]

# They tell each request's URL at INFO, and a URL may hold a secret, as chat webhooks' do.
_SILENT = ("httpx", "httpcore")


class _Line(logging.Formatter):
    @staticmethod
    def converter(seconds: float | None = None) -> time.struct_time:
        return time.gmtime(seconds)

    def __init__(self, part: str) -> None:
        super().__init__(
            f"%(asctime)s.%(msecs)03dZ %(levelname).1s {part} %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
        )


def setup(part: str, level: str = "INFO") -> None:
    """Send this process's log to stderr, each line naming its `part` (up, node, runtime, zygote)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line(part))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.WARNING)


def get(name: str) -> logging.Logger:
    """Return the logger of a module; `name` is `__name__`."""
    return logging.getLogger(name)
