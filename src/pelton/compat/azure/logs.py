"""What `logging` does in an Azure worker: user code's records from INFO on are printed.

Called by `compat/azure/__init__.py` before user code is imported. There the host prints them; its levels in
host.json (`logging.logLevel.default`) count here, too.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["install"]

_LEVELS: Final = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "information": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "none": logging.CRITICAL + 1,
}


class _Stderr(logging.Handler):
    """Write to whatever sys.stderr is now: the worker replaces it after loading."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


def install(host: Mapping[str, Any]) -> None:
    """Print what the root logger gets, unless somebody configured it already.

    Args:
        host: Content of host.json.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    said: Any = host.get("logging")
    for key in ("logLevel", "default"):
        said = said.get(key) if isinstance(said, Mapping) else None
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    root.addHandler(handler)
    root.setLevel(_LEVELS.get(str(said or "").lower(), logging.INFO))
    for name in ("azure", "asyncio"):  # the library's own chatter is not the function's
        logging.getLogger(name).setLevel(logging.WARNING)
