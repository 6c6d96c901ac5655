"""What decorators said about functions: name -> signature type, filled by the shims.

By name rather than as a function attribute, since an outer decorator may replace the function object. Read by
`compat/gcf.py`. Source: functions-framework-python, whose registry has the same key.
"""

from __future__ import annotations

__all__ = ["SIGNATURES"]

SIGNATURES: dict[str, str] = {}
"""Function name -> `http`, `cloudevent`, `typed`. One function is loaded per process."""
