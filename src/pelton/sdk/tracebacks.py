"""Tracebacks as the author of a function wants them: own frames in full, everybody else's folded.

Pelton's and the import system's frames are left out; runs of frames of installed packages become one line
that names the packages. Used where user code is loaded (`dataplane/loader.py`) and called
(`dataplane/worker.py`).
"""

from __future__ import annotations

import os.path
import traceback
from typing import Any, Final

__all__ = ["lines", "message", "place", "reason"]

_PELTON: Final = os.path.abspath(__file__).rpartition("/sdk/")[0]  # noqa: PTH100 -- pathlib costs a worker 8 ms
_FOLD_FROM: Final = 3
"""Shorter runs of foreign frames are shown."""
_REASON_CHARACTERS: Final = 500


def lines(exc: BaseException, bundle: str = "") -> list[str]:
    """Return an exception's traceback, one line per item.

    Args:
        exc: The exception; its causes and contexts are included.
        bundle: File names below this directory are given relative to it.
    """
    try:
        summary = traceback.TracebackException.from_exception(exc)
        _strip(summary, bundle, set())
        return [line for chunk in summary.format() for line in chunk.rstrip("\n").split("\n")]
    except Exception:  # attributes that raise, a thousand chained causes: the worker has to go on
        return [f"{reason(exc)} (its traceback cannot be shown)"]


def message(exc: BaseException) -> str:
    """Return what an exception says; a `__str__` that raises, or gives surrogates, does no harm."""
    try:
        return str(exc).encode("utf-8", "backslashreplace").decode()
    except Exception:
        return "<its text cannot be shown>"


def reason(exc: BaseException) -> str:
    """Return an exception in one line of at most 500 characters: type and message."""
    return " ".join(f"{type(exc).__name__}: {message(exc)}".split())[:_REASON_CHARACTERS]


def place(exc: BaseException, bundle: str) -> str:
    """Return `file:line` of the user's innermost frame, or of the syntax error; "" for neither."""
    if isinstance(exc, SyntaxError) and exc.filename:
        return f"{relative(exc.filename, bundle)}:{exc.lineno}"
    found = ""
    for frame in traceback.extract_tb(exc.__traceback__):
        if frame.filename.startswith(f"{bundle.rstrip('/')}/"):
            found = f"{relative(frame.filename, bundle)}:{frame.lineno}"
    return found


def relative(path: str, bundle: str) -> str:
    """Return a path relative to the bundle, or as it is when it lies elsewhere."""
    return path.removeprefix(bundle.rstrip("/") + "/") if bundle else path


def _strip(summary: traceback.TracebackException, bundle: str, seen: set[int]) -> None:
    if id(summary) in seen:
        return
    seen.add(id(summary))
    summary.stack[:] = _folded(
        [frame for frame in summary.stack if not _is_own(frame.filename, bundle)], bundle
    )
    if getattr(summary, "filename", None):  # a syntax error's place
        summary.filename = relative(str(summary.filename), bundle)
    inner: list[Any] = [summary.__cause__, summary.__context__, *(getattr(summary, "exceptions", None) or ())]
    for other in inner:
        if other is not None:
            _strip(other, bundle, seen)


def _folded(frames: list[traceback.FrameSummary], bundle: str) -> list[traceback.FrameSummary]:
    """Put runs of frames of installed packages together; the very last, where it went wrong, stays."""
    found: list[traceback.FrameSummary] = []
    run: list[traceback.FrameSummary] = []
    for index, frame in enumerate(frames):
        if "/site-packages/" in frame.filename and index < len(frames) - 1:
            run.append(frame)
            continue
        found += _one_line(run)
        run = []
        frame.filename = relative(frame.filename, bundle)
        found.append(frame)
    return found + run


def _one_line(run: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    if len(run) < _FOLD_FROM:
        return run
    packages = dict.fromkeys(_package(frame.filename) for frame in run)
    name = f"{len(run)} frames in {', '.join(packages)}"
    return [traceback.FrameSummary(f"<{name}>", run[-1].lineno, run[-1].name, lookup_line=False, line="")]


def _package(filename: str) -> str:
    return filename.rpartition("/site-packages/")[2].partition("/")[0].removesuffix(".py")


def _is_own(filename: str, bundle: str) -> bool:
    if bundle and filename.startswith(f"{bundle.rstrip('/')}/"):
        return False  # a bundle may lie below Pelton's own directory: the examples of the wheel
    return filename.startswith((f"{_PELTON}/", "<frozen importlib"))
