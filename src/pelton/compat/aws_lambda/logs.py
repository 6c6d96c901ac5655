"""What a Lambda function's log looks like: records of the root logger, errors, platform lines, the tail.

Used by `handler.py`, which stands for the Python runtime, and for platform lines by `runtime_api.py`, too.
Source: `faas-conventions` contract, sections 2.4 and 2.5. Different on purpose: lines of one message are
separated by line ends and indented by plain spaces, where Lambda uses carriage returns and no-break spaces
to keep its log service from splitting them.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any, Final, TextIO

__all__ = ["TAIL_BYTES", "RootLogger", "Tail", "error_line", "platform_lines"]

TAIL_BYTES: Final = 4096
"""Most of the log that the Invoke API gives back."""

_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_TEXT: Final = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s"
_KNOWN: Final = {
    *vars(logging.LogRecord("", 0, "", 0, "", (), None)),
    "message",
    "asctime",
    "aws_request_id",
    "tenant_id",
    "taskName",
}
_json = json.JSONEncoder(ensure_ascii=False, default=str).encode


class RootLogger(logging.Handler):
    """Handler of the root logger: writes records the way Lambda's does, to sys.stdout.

    Args:
        environ: Has AWS_LAMBDA_LOG_FORMAT (`JSON` or text) and AWS_LAMBDA_LOG_LEVEL.

    Attributes:
        request_id: Of the invocation that runs.
        tenant: Of the invocation that runs; "" for none.
        as_json: Whether records are JSON objects.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__()
        self.request_id = ""
        self.tenant = ""
        self.as_json = environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"
        self._level = environ.get("AWS_LAMBDA_LOG_LEVEL", "").upper()
        formatter = _JsonFormatter() if self.as_json else logging.Formatter(_TEXT, "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
        self.setFormatter(formatter)
        self.addFilter(self._fill)

    def install(self) -> None:
        """Become the root logger's handler, once."""
        root = logging.getLogger()
        root.handlers[:] = [item for item in root.handlers if not isinstance(item, RootLogger)]
        root.addHandler(self)
        level = "DEBUG" if self._level == "TRACE" else self._level
        if level in logging.getLevelNamesMapping():
            root.setLevel(level)

    def _fill(self, record: logging.LogRecord) -> bool:
        record.aws_request_id = self.request_id
        record.tenant_id = self.tenant or None
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record to wherever sys.stdout leads now."""
        try:
            sys.stdout.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        info = record.exc_info
        kind, value, trace = info or (None, None, None)
        found = {
            "timestamp": self.formatTime(record, _TIME),
            "level": record.levelname,
            "message": record.msg
            if isinstance(record.msg, dict) and not record.args
            else record.getMessage(),
            "logger": record.name,
            "stackTrace": traceback.format_tb(trace) if info else None,
            "errorType": kind.__name__ if kind else None,
            "errorMessage": str(value) if info else None,
            "requestId": getattr(record, "aws_request_id", None),
            "location": f"{record.pathname}:{record.funcName}:{record.lineno}" if info else None,
            "tenantId": getattr(record, "tenant_id", None),
        }
        found.update(
            {name: value for name, value in vars(record).items() if name not in _KNOWN and name not in found}
        )
        return _json({name: value for name, value in found.items() if value is not None})


def error_line(document: Mapping[str, Any], *, as_json: bool = False) -> str:
    """Return what the runtime writes to the log about an error document, with its line end."""
    if as_json:
        return _json({"timestamp": time.strftime(_TIME, time.gmtime()), "level": "ERROR", **document}) + "\n"
    kind, message = document.get("errorType") or "", document.get("errorMessage") or ""
    lines = [f"[ERROR] {kind}: {message}" if kind and message else f"[ERROR] {kind or message}"]
    stack = document.get("stackTrace")
    if stack:
        lines.append("Traceback (most recent call last):")
        lines += [line for item in stack for line in item.splitlines()]
    return "\n".join(lines) + "\n"


def platform_lines(
    request_id: str,
    version: str,
    memory_mb: str,
    *,
    elapsed_s: float,
    init_s: float = 0.0,
    status: str = "",
    used_mb: int = 0,
) -> tuple[str, str]:
    """Return what the platform writes before and after an invocation: START; END and REPORT.

    Args:
        request_id: Of the invocation.
        version: The function's version.
        memory_mb: Its memory, as text.
        elapsed_s: Seconds that the invocation took.
        init_s: Seconds that loading took, for the first invocation; 0 leaves it out.
        status: `timeout` or `error`; "" leaves it out.
        used_mb: Most memory that the runtime used, in MB; 0 for that of this process.
    """
    import resource  # few invocations are reported

    used_mb = used_mb or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    report = (
        f"REPORT RequestId: {request_id}\tDuration: {elapsed_s * 1000:.2f} ms\t"
        f"Billed Duration: {-int(-elapsed_s * 1000 // 1)} ms\tMemory Size: {memory_mb} MB\t"
        f"Max Memory Used: {used_mb} MB\t"
    )
    if init_s:
        report += f"Init Duration: {init_s * 1000:.2f} ms\t"
    if status:
        report += f"Status: {status}\t"
    return (
        f"START RequestId: {request_id} Version: {version}\n",
        f"END RequestId: {request_id}\n{report}\n",
    )


class Tail:
    """Copies what one invocation prints; for callers that want the end of the log.

    Takes the place of sys.stdout and sys.stderr inside its `with` block, which is sound because one
    invocation runs at a time.
    """

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0

    def __enter__(self) -> Tail:
        self._before = sys.stdout, sys.stderr
        sys.stdout = _Copy(self._before[0], self)
        sys.stderr = _Copy(self._before[1], self)
        return self

    def __exit__(self, *_exc: object) -> None:
        sys.stdout, sys.stderr = self._before

    def add(self, text: str) -> None:
        """Take a piece of the log."""
        self._parts.append(text)
        self._length += len(text)
        if self._length > 16 * TAIL_BYTES:
            kept = "".join(self._parts)[-TAIL_BYTES:]
            self._parts, self._length = [kept], len(kept)

    def bytes(self) -> bytes:
        """Return the last 4 KiB."""
        return "".join(self._parts).encode("utf-8", "backslashreplace")[-TAIL_BYTES:]


class _Copy:
    """A text stream that shows a Tail what passes."""

    def __init__(self, stream: TextIO, tail: Tail) -> None:
        self._stream = stream
        self._tail = tail

    def write(self, text: str) -> int:
        self._tail.add(text)
        return self._stream.write(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
