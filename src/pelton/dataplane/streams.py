r"""What a function prints: stdout and stderr replacements that write the log spool, line by line.

Spool format (one file per instance, opened O_APPEND, also behind descriptors 1 and 2):
    \x1e<epoch ns> <o|e> <invocation id or ->\t<text>\n      a line from Python's sys.stdout or sys.stderr
    \x1eM <invocation id> <start> <end>\n                     raw lines there are the invocation's
Anything else is a raw write to the descriptor. A raw write may end without a line break, so readers look for
\x1e inside a line, too. The invocation comes from the context variable here, which `dataplane/worker.py`
sets before each call. Output never raises and never waits: what the file does not take is dropped and
counted. Standard library only.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from contextvars import ContextVar
from typing import Any, Final, TextIO, cast

from pelton.model.invocation import Invocation

__all__ = ["INVOCATION", "LINE_LIMIT_BYTES", "Streams"]

INVOCATION: ContextVar[Invocation | None] = ContextVar("pelton_invocation", default=None)
"""The invocation that the running code belongs to."""

LINE_LIMIT_BYTES: Final = 256 * 1024
"""A longer line is cut into pieces of this size."""
_MAX_PARTIAL: Final = 1024
"""Unfinished lines kept at most; beyond, all are written as they are."""

_GAP_NS: Final = 200_000
_CALM_AFTER: Final = 256
_current = INVOCATION.get
_lseek = os.lseek


class Streams:
    """The spool of one instance and the two text streams that feed it.

    Args:
        fd: Descriptor of the spool; a regular file opened O_APPEND. Without that, raw writes are not
        attributed.

    Attributes:
        fd: As given; may be pointed at another file by `os.dup2` as long as nothing runs.
        dropped: Lines that could not be written.
        stdout, stderr: Replacements for the names in `sys`.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.dropped = 0
        self.stdout = cast("TextIO", _Stream(self, b"o", "<stdout>"))
        self.stderr = cast("TextIO", _Stream(self, b"e", "<stderr>"))
        self._partial: dict[tuple[bytes, str | int], bytes] = {}
        self._start = self._end = -1
        self._left_ns = 0
        self._calm = 0
        self._own_bytes = 0
        self._replaced: tuple[TextIO, TextIO] | None = None

    def install(self) -> None:
        """Put the replacements into `sys`; safe to repeat."""
        if sys.stdout is not self.stdout or sys.stderr is not self.stderr:
            self._replaced = (sys.stdout, sys.stderr)
            sys.stdout, sys.stderr = self.stdout, self.stderr

    def uninstall(self) -> None:
        """Put back what `install` found."""
        if self._replaced is not None:
            sys.stdout, sys.stderr = self._replaced
            self._replaced = None

    def write(self, kind: bytes, data: bytes) -> None:
        """Write what is complete of `data` as lines of the current invocation and keep the rest for later.

        Args:
            kind: b"o" or b"e".
            data: Bytes, UTF-8 by convention, with any number of line breaks.
        """
        invocation = _current()
        label = "-" if invocation is None else invocation.id
        # Two threads outside any invocation must not join each other's half lines.
        key = (kind, threading.get_ident() if invocation is None else label)
        partial = self._partial
        if partial:
            data = partial.pop(key, b"") + data
        if data[-1:] != b"\n":
            cut = data.rfind(b"\n") + 1
            rest = data[cut:]
            if len(rest) < LINE_LIMIT_BYTES:
                if rest:
                    if len(partial) >= _MAX_PARTIAL:
                        self.flush_partial()
                    partial[key] = rest
                data = data[:cut]
        if data:
            self.emit(kind, label, data)

    def emit(self, kind: bytes, label: str, data: bytes) -> None:
        """Write `data` as whole lines of the invocation `label` ("-" for none)."""
        prefix = b"\x1e%d %s %s\t" % (time.time_ns(), kind, label.encode("utf-8", "replace"))
        if data[-1:] == b"\n":
            data = data[:-1]
        if b"\n" not in data and len(data) <= LINE_LIMIT_BYTES:
            self._put(prefix + data + b"\n")
            return
        for line in data.split(b"\n"):
            if len(line) <= LINE_LIMIT_BYTES:
                self._put(prefix + line + b"\n")
            else:
                for begin in range(0, len(line), LINE_LIMIT_BYTES):
                    self._put(prefix + line[begin : begin + LINE_LIMIT_BYTES] + b"\n")

    def enter(self, now_ns: int) -> None:
        """Note that an invocation began while no other ran.

        Looking at the file costs as much as a tenth of a short request. Close behind the last look
        (0.2 ms) its size still counts; and while hundreds of looks found no raw output, only one
        invocation per such gap is looked at. Raw output that starts under such load is recorded
        like any other, but its first lines name no invocation.

        Args:
            now_ns: CLOCK_MONOTONIC nanoseconds.
        """
        if now_ns - self._left_ns > _GAP_NS:
            try:
                size = _lseek(self.fd, 0, 2)
            except OSError:
                return
            if size != self._end + self._own_bytes:
                self._calm = 0
            self._end = size
            self._own_bytes = 0
        elif self._calm > _CALM_AFTER:
            return
        self._start = self._end

    def disturb(self) -> None:
        """Note that an invocation began while another ran: raw output is nobody's until both have ended."""
        self._start = -1

    def leave(self, label: str, now_ns: int) -> None:
        """Write out an invocation's unfinished lines and, if it ran alone, mark the raw output it caused."""
        if self._partial:
            for kind in (b"o", b"e"):
                rest = self._partial.pop((kind, label), None)
                if rest is not None:
                    self.emit(kind, label, rest)
        start = self._start
        if start < 0:
            return
        self._start = -1
        try:
            end = _lseek(self.fd, 0, 2)  # a third of the cost of fstat; appending does not look at the offset
        except OSError:
            return
        raw = end - start > self._own_bytes
        self._end = end
        self._own_bytes = 0
        self._left_ns = now_ns
        self._calm += 1
        if raw:
            self._calm = 0
            self._put(b"\x1eM %s %d %d\n" % (label.encode("utf-8", "replace"), start, end))

    def flush_partial(self) -> None:
        """Write out all unfinished lines, e.g. before the process ends."""
        while self._partial:
            (kind, owner), rest = self._partial.popitem()
            self.emit(kind, owner if isinstance(owner, str) else "-", rest)

    def _put(self, line: bytes) -> None:
        try:
            written = os.write(self.fd, line)
        except OSError:  # disk full, file gone: a function must not fail because its log does
            self.dropped += 1
            return
        self._own_bytes += written
        if written < len(line):
            self.dropped += 1
            try:  # keep the next line from running on into the stump of this one
                self._own_bytes += os.write(self.fd, b"\n")
            except OSError:
                pass


class _Stream(io.TextIOBase):
    """`sys.stdout` or `sys.stderr` of a worker: lines per invocation, never closed, never an OSError."""

    mode = "w"
    line_buffering = True
    write_through = False

    def __init__(self, streams: Streams, kind: bytes, name: str) -> None:
        self._streams = streams
        self._kind = kind
        self.name = name
        self.buffer = _Bytes(streams, kind, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the stub has an attribute
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]  # as above
        return "backslashreplace"

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            self._streams.write(self._kind, text.encode("utf-8", "backslashreplace"))
        return len(text)

    def reconfigure(self, **_settings: Any) -> None:
        """Accept and ignore: encoding and buffering are the spool's."""

    def flush(self) -> None:
        """Do nothing: whole lines are already written, half lines wait for their end."""

    def close(self) -> None:
        """Do nothing: user code that closes sys.stdout would silence every later invocation."""

    def fileno(self) -> int:
        return self._streams.fd

    def isatty(self) -> bool:
        return False

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


class _Bytes(io.BufferedIOBase):
    """The `buffer` of a stream."""

    mode = "wb"

    def __init__(self, streams: Streams, kind: bytes, name: str) -> None:
        self._streams = streams
        self._kind = kind
        self.name = name

    def write(self, data: Any, /) -> int:
        view = bytes(memoryview(data))
        if view:
            self._streams.write(self._kind, view)
        return len(view)

    def flush(self) -> None:
        """Do nothing, as the text stream does."""

    def close(self) -> None:
        """Do nothing, as the text stream does."""

    def fileno(self) -> int:
        return self._streams.fd

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True
