"""Execution ids, and output as JSON lines where the platform's variables ask for it.

`LOG_EXECUTION_ID` labels every line that an execution prints; `ENTRY_POINT` (the first Python runtime's mode)
gives every line a severity. Both are rare: without them nothing here runs except `ensure_id`, and that only
when a function looks at its request's headers. Called by `compat/gcf/__init__.py` and `http.py` beside it.
Source: `faas-conventions` contract, section 4.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TextIO, cast

from pelton.model.invocation import Headers, Invocation

__all__ = ["ensure_id", "install", "labelled"]

_HEADER: Final = b"function-execution-id"
_TRACE: Final = b"x-cloud-trace-context"
_ALPHABET: Final = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TABLE: Final = bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in range(256))
_LENGTH: Final = 12
_LABELS: Final = "logging.googleapis.com/labels"
_SPAN: Final = "logging.googleapis.com/spanId"
_PIECE: Final = 256 * 1024
"""An unfinished line is written when it gets this long, in characters."""


def ensure_id(headers: Headers) -> str:
    """Return the execution id of a request, giving it one where the caller sent none."""
    for name, value in headers:
        if name == _HEADER and value:
            return value.decode("latin-1")
    import random  # reseeded after every fork

    made = random.randbytes(_LENGTH).translate(_TABLE)  # noqa: S311 -- a label, no secret
    headers.append((_HEADER, made))
    return made.decode()


class _Execution:
    """One call: its labels, and the unfinished line of each stream."""

    __slots__ = ("id", "partial", "span")

    def __init__(self, id: str, span: str) -> None:
        self.id = id
        self.span = span
        self.partial: dict[_JsonLines, str] = {}


_current: ContextVar[_Execution | None] = ContextVar("pelton_gcf_execution", default=None)


@contextmanager
def _execution(invocation: Invocation) -> Iterator[None]:
    if invocation.event is not None and not invocation.headers:
        headers: Headers = []
    else:
        headers = invocation.headers
    execution = _Execution(ensure_id(headers), _span(headers))
    token = _current.set(execution)
    try:
        yield
    finally:
        for stream, rest in execution.partial.items():
            stream.emit(rest, execution)
        execution.partial.clear()
        _current.reset(token)


def _span(headers: Headers) -> str:
    """Return SPAN of `X-Cloud-Trace-Context: TRACE/SPAN;o=1`, or ""."""
    for name, value in headers:
        if name == _TRACE:
            trace, slash, rest = value.decode("latin-1").partition("/")
            span, _, options = rest.partition(";")
            well_formed = slash and trace.isalnum() and span.isdecimal() and options in {"o=0", "o=1"}
            return span if well_formed else ""
    return ""


def labelled(call: Callable[..., Any], *, sync: bool) -> Callable[..., Any]:
    """Return a call (of an invocation, and perhaps more) whose output carries its execution's labels."""
    if sync:

        def call_sync(invocation: Invocation) -> Any:
            with _execution(invocation):
                return call(invocation)

        return call_sync

    async def call_async(invocation: Invocation, *more: Any) -> Any:
        with _execution(invocation):
            return await call(invocation, *more)

    return call_async


def install(*, labels: bool, severity: bool) -> None:
    """Replace `sys.stdout` and `sys.stderr` before user code is imported; safe to repeat.

    Args:
        labels: Whether lines of an execution become JSON with its labels.
        severity: Whether all lines become JSON with INFO or ERROR, both on stderr.
    """
    if isinstance(sys.stdout, _JsonLines):
        return
    out = sys.stderr if severity else sys.stdout
    err = sys.stderr
    sys.stdout = cast("TextIO", _JsonLines(out, labels, "INFO" if severity else ""))
    sys.stderr = cast("TextIO", _JsonLines(err, labels, "ERROR" if severity else ""))


class _JsonLines(io.TextIOBase):
    """A text stream that turns each line into a JSON object on the stream behind it."""

    def __init__(self, target: TextIO, labels: bool, severity: str) -> None:
        self._target = target
        self._labels = labels
        self._severity = severity
        self._rest = ""
        self.buffer = getattr(target, "buffer", None)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the stub has an attribute
        return self._target.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # as above
        return self._target.errors

    def write(self, text: str, /) -> int:
        execution = _current.get() if self._labels else None
        if execution is None and not self._severity:
            return self._target.write(text)
        before = self._rest if execution is None else execution.partial.pop(self, "")
        *lines, rest = (before + text).split("\n")
        if len(rest) > _PIECE:
            lines.append(rest)
            rest = ""
        if execution is None:
            self._rest = rest
        elif rest:
            execution.partial[self] = rest
        for line in lines:
            self.emit(line, execution)
        return len(text)

    def emit(self, line: str, execution: _Execution | None) -> None:
        """Write one line, which does not end in a line break."""
        if not line:
            return
        payload = _as_object(line)
        if self._severity:
            payload.setdefault("severity", self._severity)
        if execution is not None:
            labels = payload.get(_LABELS)
            payload[_LABELS] = {**(labels if isinstance(labels, dict) else {}), "execution_id": execution.id}
            if execution.span:
                payload[_SPAN] = execution.span
        self._target.write(json.dumps(payload) + "\n")

    def flush(self) -> None:
        """Flush the stream behind; an unfinished line waits for its end."""
        self._target.flush()

    def close(self) -> None:
        """Do nothing: a function that closes its output would silence every later call."""

    def fileno(self) -> int:
        return self._target.fileno()

    def isatty(self) -> bool:
        return False

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def reconfigure(self, **_settings: Any) -> None:
        """Accept and ignore: lines are always written whole."""


def _as_object(line: str) -> dict[str, Any]:
    """Return what a line says: its own JSON object, or one with the line as message."""
    if line.startswith("{"):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            return found
    return {"message": line}
