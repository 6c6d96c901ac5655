"""Follows files: which ones there are, how far each was read, and what becomes of it when they are rotated.

A file is known by device, inode and a digest of its first bytes, so that a renamed one goes on, a truncated
or replaced one begins anew and a reused inode is no continuation. Positions are kept in one JSON file and
cover what was finished, not what was read: after a kill some records come again. Called by `bus.py`;
`records.py` says what a record is.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pelton.clock import Clock
from pelton.drivers.log_intake.records import Assembler, Multiline, Whole, encode, tag_of
from pelton.log import get

__all__ = ["Entry", "FileFollower", "FileOptions"]

_CHUNK: Final = 128 * 1024
_HEAD: Final = 256
_SCAN_S: Final = 1.0
_SAVE_S: Final = 0.2
_ROTATED_S: Final = 5.0
_QUIET_S: Final = 10.0
_QUIET_LOOK_S: Final = 0.5
_MOST_FILES: Final = 10_000
_GUESS: Final = 200.0

_log = get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """Which files, and how they are read.

    Attributes:
        paths: Patterns; `**` goes through directories.
        exclude: Patterns of paths or names that are left out.
        form, rules, longest, flush_s: See `records.Assembler`.
        from_head: Whether files that are there at the very first start are read from their beginning; those
            that appear later always are.
        forbidden: Directories whose files are never read, links followed.
    """

    paths: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    form: str = "auto"
    rules: tuple[Multiline, ...] = ()
    longest: int = 256 * 1024
    flush_s: float = 1.0
    from_head: bool = False
    forbidden: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A record of a file: where it is, its tag, and its JSON."""

    file: str
    start: int
    tag: str
    data: bytes


@dataclass(slots=True)
class _File:
    """One file that is open."""

    id: str
    path: str
    fd: int
    assembler: Assembler
    head: str = ""
    head_size: int = 0
    open: dict[int, None] = field(default_factory=dict)  # starts of records that are not finished, in order
    saved: int = -1
    rotated_at: float | None = None
    grown_at: float = 0.0
    look_at: float = 0.0

    @property
    def done(self) -> int:
        """Offset before which everything is finished."""
        here = self.assembler.from_here
        return min(next(iter(self.open), here), here)


class FileFollower:
    """The files of one consumer; not safe for several tasks at once.

    Args:
        options: Which files, and how.
        state: Where positions are kept; made when absent.
        clock: Times records without a time, and rotation.
        where: For messages.
    """

    def __init__(self, options: FileOptions, state: Path, *, clock: Clock, where: str) -> None:
        self._options = options
        self._state = state
        self._clock = clock
        self._where = where
        self._files: dict[str, _File] = {}
        self._known: dict[str, dict[str, Any]] = {}
        self._refused: set[str] = set()
        self._scan_at = 0.0
        self._save_at = 0.0
        self._dirty = False
        self._first = True
        self._opened = False
        self._mean = 0.0  # bytes of a record, as seen lately
        self.lost_files = 0
        """Files that were rotated away while nobody read, and could not be found again."""

    def open(self) -> None:
        """Read the positions of an earlier follower."""
        try:
            found = json.loads(self._state.read_text())
            self._known = {str(key): dict(value) for key, value in found["files"].items()}
            self._first = False
        except FileNotFoundError:
            self._first = True
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            _log.warning("%s: positions cannot be read (%s), files are read from the start", self._where, exc)
            self._first = False
        self._opened = True

    def close(self) -> None:
        """Save the positions and close all files; safe to repeat."""
        if not self._opened:
            return
        self._opened = False
        self._save()
        for file in self._files.values():
            os.close(file.fd)
        self._files.clear()

    def read(self, room: int) -> list[Entry]:
        """Return records that are whole, of one file after the other, until there are `room` or no more.

        One more read of a file may go over `room`, by what is in a chunk.
        """
        now = self._clock.monotonic()
        if now >= self._scan_at:
            self._scan(now)
            self._scan_at = self._clock.monotonic() + _SCAN_S
        entries: list[Entry] = []
        for file in list(self._files.values()):
            if len(entries) >= room:
                break
            if file.look_at > now:
                continue
            entries += self._look(file, now)
        if self._dirty and now >= self._save_at:
            self._save()
        return entries

    def finish(self, entry: Entry) -> None:
        """Say that a record is done with."""
        file = self._files.get(entry.file)
        if file is not None and file.open.pop(entry.start, entry) is None:
            self._dirty = True

    def backlog(self) -> int:
        """Return about how many records are in files and were not read yet."""
        size = 0
        for file in self._files.values():
            try:
                size += max(0, os.fstat(file.fd).st_size - file.assembler.position)
            except OSError:
                continue
        return math.ceil(size / (self._mean or _GUESS))

    # -- one file --------------------------------------------------------------------------------------------

    def _look(self, file: _File, now: float) -> list[Entry]:
        time_ns = int(self._clock.now().timestamp() * 1e9)
        try:
            size = os.fstat(file.fd).st_size
            assembler = file.assembler
            if size < assembler.position or (size > assembler.position and not self._same_head(file)):
                _log.info("%s: %s was truncated, it is read from the start", self._where, file.path)
                whole = assembler.finish(now=now, time_ns=time_ns)
                entries = self._entries(file, whole, 0)
                self._reopen(file)
                return entries
            data = os.pread(file.fd, _CHUNK, assembler.position) if size > assembler.position else b""
        except OSError as exc:
            _log.warning("%s: %s cannot be read: %s", self._where, file.path, exc.strerror)
            file.look_at = now + _ROTATED_S
            return []
        if data:
            self._note_head(file, data)
            file.grown_at, file.look_at = now, 0.0
            self._dirty = True
            cut = assembler.cut
            whole = assembler.feed(data, now=now, time_ns=time_ns)
            if assembler.cut and not cut:
                _log.warning(
                    "%s: %s has records of more than %d bytes, which are cut",
                    self._where,
                    file.path,
                    self._options.longest,
                )
            return self._entries(file, whole, len(data))
        whole = assembler.ripe(now=now, time_ns=time_ns)
        if file.rotated_at is None and self._moved(file):
            file.rotated_at = now
            self._scan_at = 0.0  # what took its place is looked for at once
        if file.rotated_at is not None and now - max(file.rotated_at, file.grown_at) >= _ROTATED_S:
            whole += assembler.finish(now=now, time_ns=time_ns)
            entries = self._entries(file, whole, 0)
            if not file.open:
                self._forget(file)
            return entries
        if now - file.grown_at > _QUIET_S:
            file.look_at = now + _QUIET_LOOK_S
        return self._entries(file, whole, 0)

    def _entries(self, file: _File, whole: Iterable[Whole], size: int) -> list[Entry]:
        entries, tag = [], tag_of(file.path)
        for each in whole:
            file.open[each.start] = None
            entries.append(Entry(file=file.id, start=each.start, tag=tag, data=encode(each.record)))
        if size and entries:
            mean = size / len(entries)
            self._mean = self._mean + (mean - self._mean) * 0.1 if self._mean else mean
        return entries

    def _moved(self, file: _File) -> bool:
        try:
            found = os.stat(file.path)  # noqa: PTH116 -- polled for each file
        except OSError:
            return True
        return _id(found) != file.id.partition("#")[0]

    def _reopen(self, file: _File) -> None:
        """Begin a truncated file anew, under another id: its old records may still be worked on."""
        self._files.pop(file.id)
        self._known.pop(file.id, None)
        number = int(file.id.partition("#")[2] or 0) + 1
        fresh = _File(
            id=f"{file.id.partition('#')[0]}#{number}",
            path=file.path,
            fd=file.fd,
            assembler=self._assembler(file.path, 0),
            grown_at=self._clock.monotonic(),
        )
        self._files[fresh.id] = fresh
        self._dirty = True

    def _forget(self, file: _File) -> None:
        self._files.pop(file.id)
        self._known.pop(file.id, None)
        os.close(file.fd)
        self._dirty = True

    def _note_head(self, file: _File, data: bytes) -> None:
        if file.head_size < _HEAD:
            head = os.pread(file.fd, _HEAD, 0)
            file.head, file.head_size = _digest(head), len(head)
        del data

    @staticmethod
    def _same_head(file: _File) -> bool:
        return not file.head_size or _digest(os.pread(file.fd, file.head_size, 0)) == file.head

    # -- which files -----------------------------------------------------------------------------------------

    def _scan(self, now: float) -> None:
        opened = {file.id.partition("#")[0] for file in self._files.values()}
        for path in self._matching():
            try:
                found = os.stat(path)  # noqa: PTH116 -- many files, each second
            except OSError:
                continue
            if not stat.S_ISREG(found.st_mode) or _id(found) in opened:
                continue
            if self._forbidden(path):
                continue
            self._remains_of(path, _id(found), opened, now)
            self._open_file(path, now)
            opened.add(_id(found))
        self._first = False
        for key in [key for key in self._known if key not in self._files]:
            if not Path(self._known[key]["path"]).exists():
                del self._known[key]
                self._dirty = True

    def _matching(self) -> list[str]:
        found: list[str] = []
        for pattern in self._options.paths:
            found += glob.iglob(pattern, recursive=True)  # noqa: PTH207 -- patterns may be absolute
            if len(found) > _MOST_FILES:
                _log.warning("%s: more than %d files match, the rest is left", self._where, _MOST_FILES)
                break
        return [
            path
            for path in dict.fromkeys(found[:_MOST_FILES])
            if not any(
                fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(os.path.basename(path), pattern)  # noqa: PTH119
                for pattern in self._options.exclude
            )
        ]

    def _forbidden(self, path: str) -> bool:
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(place) for place in self._options.forbidden):
            return False
        if path not in self._refused:
            self._refused.add(path)
            _log.warning("%s: %s is not read: it belongs to the system", self._where, path)
        return True

    def _remains_of(self, path: str, new: str, opened: set[str], now: float) -> None:
        """Open the file that had this path at an earlier follower's time and was renamed since."""
        for key, known in list(self._known.items()):
            old = key.partition("#")[0]
            if known.get("path") != path or old == new or key in self._files:
                continue
            directory = Path(os.path.realpath(path)).parent
            for place in sorted(directory.iterdir()):
                try:
                    found = place.stat()
                except OSError:
                    continue
                if _id(found) == old and old not in opened and not self._forbidden(str(place)):
                    self._open_file(str(place), now, known_as=path, rotated=True)
                    opened.add(old)
                    break
            else:
                self.lost_files += 1
                self._known.pop(key)
                self._dirty = True
                _log.warning(
                    "%s: %s was rotated away while nobody read it; what was not read of it is lost",
                    self._where,
                    path,
                )

    def _open_file(self, path: str, now: float, *, known_as: str = "", rotated: bool = False) -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as exc:
            if path not in self._refused:
                self._refused.add(path)
                _log.warning("%s: %s cannot be read: %s", self._where, path, exc.strerror)
            return
        self._refused.discard(path)
        found = os.fstat(fd)
        key = next((name for name in self._known if name.partition("#")[0] == _id(found)), _id(found))
        known = self._known.get(key)
        head_size = int(known.get("head_size", 0)) if known else 0
        position, head = 0, ""
        if known is not None and head_size <= found.st_size:
            head = _digest(os.pread(fd, head_size, 0)) if head_size else ""
            if head == known.get("head", "") and int(known["offset"]) <= found.st_size:
                position = int(known["offset"])
            else:
                head, head_size = "", 0
        elif known is None and self._first and not self._options.from_head:
            position = found.st_size
            start = os.pread(fd, _HEAD, 0)
            head, head_size = _digest(start), len(start)
        else:
            head_size = 0
        self._files[key] = _File(
            id=key,
            path=known_as or path,
            fd=fd,
            assembler=self._assembler(known_as or path, position),
            head=head,
            head_size=head_size,
            rotated_at=now if rotated else None,
            grown_at=now,
        )
        self._dirty = True

    def _assembler(self, path: str, position: int) -> Assembler:
        options = self._options
        return Assembler(
            path,
            position=position,
            form=options.form,
            rules=options.rules,
            longest=options.longest,
            flush_s=options.flush_s,
        )

    # -- positions -------------------------------------------------------------------------------------------

    def _save(self) -> None:
        for file in self._files.values():
            self._known[file.id] = {
                "path": file.path,
                "offset": file.done,
                "head": file.head,
                "head_size": file.head_size,
            }
        self._save_at = self._clock.monotonic() + _SAVE_S
        fresh = self._state.with_suffix(".new")
        try:
            self._state.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh.write_text(json.dumps({"files": self._known}))
            fresh.replace(self._state)
            self._dirty = False
        except OSError as exc:
            _log.warning("%s: positions cannot be saved: %s", self._where, exc.strerror)


def _id(found: os.stat_result) -> str:
    return f"{found.st_dev:x}:{found.st_ino:x}"


def _digest(head: bytes) -> str:
    return hashlib.sha256(head).hexdigest()[:16]
