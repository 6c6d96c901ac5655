"""The log follower: what functions print, from the spool of each instance to rotated files and the event bus.

Workers append to one spool file per instance; this reads behind them, turns lines into records in the shape
that Fluent Bit gives to Kafka, appends them to `<logs>/<namespace>/<function>/current.jsonl` and publishes
them on `logs.<namespace>.<function>`. The position is committed only after the bus confirmed, so a kill at
any point loses no line; it may repeat some, which the bus recognises by their ids. Holes are punched behind
the position, and the spool of an instance that is gone is removed once it is read. Called by the runtime
process.
Source: `log-notification` contract, sections 2.1 and 2.2.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import hashlib
import json
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pelton import errors
from pelton.clock import Clock
from pelton.log import get

__all__ = ["Line", "SpoolFollower", "SpoolReader", "follow_logs", "read_logs", "record"]

Publish = Callable[[str, bytes, str], Awaitable[None]]
"""(subject, payload, message id): returns when stored; raises DeliveryError."""

MAX_LINE_BYTES: Final = 1024 * 1024
HOLD_S: Final = 1.0
"""Seconds that a raw line waits for the mark that says whose it is."""

_ACTIVE_S: Final = 0.1
_SCAN_S: Final = 0.5
_CHUNK: Final = 256 * 1024
_BATCH: Final = 256
_HOLE: Final = 1024 * 1024
_FILE_BYTES: Final = 10 * 1024 * 1024
_FILES: Final = 5
_GONE_S: Final = 5.0
_AGAIN_S: Final = 1.0
_MARK: Final = b"\x1e"

_log = get(__name__)


@dataclass(slots=True, kw_only=True)
class Line:
    """One line of output.

    Attributes:
        start, end: Its bytes in the spool, end exclusive, line end included.
        text: The line without its end.
        stream: `stdout` or `stderr`; raw writes to either descriptor count as stdout.
        time_ns: Epoch nanoseconds: of the print for Python streams, of the reading for raw writes.
        invocation: Id of the invocation that printed it; "" when not known.
        raw: Written to the descriptor, so its invocation can only come from a mark.
    """

    start: int
    end: int
    text: str
    stream: str = "stdout"
    time_ns: int = 0
    invocation: str = ""
    raw: bool = False


@dataclass(slots=True)
class SpoolReader:
    """Parses one spool; pure. Feed it bytes in file order and take what is ready.

    Attributes:
        position: Offset of the next byte to feed.
        partial: Bytes of the line that has not ended.
        held: Lines in file order that wait, the first of them for a mark: (line, monotonic seconds read).
    """

    position: int = 0
    partial: bytearray = field(default_factory=bytearray)
    held: deque[tuple[Line, float]] = field(default_factory=deque)
    _cutting: int = 0  # bytes of an overlong line that were dropped so far
    _marks: deque[tuple[str, int, int]] = field(default_factory=lambda: deque(maxlen=1024))

    def feed(self, data: bytes, *, now: float, time_ns: int) -> None:
        """Take bytes in.

        Args:
            data: What follows `position`.
            now: Monotonic seconds.
            time_ns: Epoch nanoseconds, the time of raw lines.
        """
        self.partial += data
        self.position += len(data)
        start = self.position - len(self.partial)
        while (end := self.partial.find(b"\n")) >= 0:
            piece = bytes(self.partial[:end])
            del self.partial[: end + 1]
            if self._cutting:
                self._end_cut(len(piece))
            else:
                self._line(piece, start, now, time_ns)
            start += end + 1
        if len(self.partial) > MAX_LINE_BYTES:
            if not self._cutting:
                self._line(bytes(self.partial[:MAX_LINE_BYTES]), start, now, time_ns, open_ended=True)
                self._cutting -= MAX_LINE_BYTES
            self._cutting += len(self.partial)
            self.partial.clear()

    def finish(self, *, now: float, time_ns: int) -> None:
        """Say that nothing will follow: an unfinished last line counts, and no line waits for a mark."""
        if self.partial and not self._cutting:
            start = self.position - len(self.partial)
            self._line(bytes(self.partial), start, now, time_ns, end=self.position)
        self.partial.clear()
        self.held = deque((line, float("-inf")) for line, _ in self.held)

    def take(self, *, now: float) -> list[Line]:
        """Return the lines that are ready, in file order; `now` is in monotonic seconds."""
        ready = []
        while self.held:
            line, read_at = self.held[0]
            if line.raw and not line.invocation:
                line.invocation = self._owner(line)
                if not line.invocation and now - read_at < HOLD_S:
                    break
            ready.append(line)
            self.held.popleft()
        return ready

    def _owner(self, line: Line) -> str:
        for invocation, start, end in self._marks:
            if start <= line.start < end:
                return invocation
        return ""

    def _end_cut(self, size: int) -> None:
        self._cutting += size
        dropped, self._cutting = self._cutting, 0
        _log.debug("a line was cut, %d bytes dropped", dropped)

    def _line(
        self, piece: bytes, start: int, now: float, time_ns: int, *, open_ended: bool = False, end: int = 0
    ) -> None:
        """Take in the line at `start`; raw bytes before a record in the same line are a line of their own."""
        end = end or start + len(piece) + (0 if open_ended else 1)
        if piece[:1] != _MARK and _MARK in piece:
            raw, _, rest = piece.partition(_MARK)
            self._add(raw, start, start + len(raw), now, time_ns)
            start += len(raw)
            piece = _MARK + rest
        if piece[:2] == b"\x1eM":
            parts = piece.decode(errors="replace").split(" ")
            if len(parts) == 4 and parts[2].isdigit() and parts[3].isdigit():
                self._marks.append((parts[1], int(parts[2]), int(parts[3])))
                return
        self._add(piece, start, end, now, time_ns)

    def _add(self, piece: bytes, start: int, end: int, now: float, time_ns: int) -> None:
        line = Line(start=start, end=end, text="", time_ns=time_ns, raw=True)
        if piece[:1] == _MARK:
            head, tab, rest = piece[1:].partition(b"\t")
            fields = head.split(b" ")
            if tab and len(fields) == 3 and fields[0].isdigit() and fields[1] in {b"o", b"e"}:
                piece = rest
                line.raw = False
                line.time_ns = int(fields[0])
                line.stream = "stdout" if fields[1] == b"o" else "stderr"
                line.invocation = "" if fields[2] == b"-" else fields[2].decode(errors="replace")
        if len(piece) >= MAX_LINE_BYTES:
            piece = piece[:MAX_LINE_BYTES] + b" [line cut]"
        line.text = piece.decode(errors="replace")
        self.held.append((line, now))


def record(line: Line, *, namespace: str, name: str, instance: str) -> dict[str, Any]:
    """Return the record of a line: the keys, their order and types are Fluent Bit's.

    Args:
        line: The line.
        namespace: The function's.
        name: The function's.
        instance: `<revision>-<5 chars>`: the pod name; the revision stands for the image.
    """
    seconds, nanoseconds = divmod(line.time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    found: dict[str, Any] = {
        "@timestamp": round(line.time_ns / 1e9, 6),
        "time": f"{moment}.{nanoseconds:09d}Z",
        "log": line.text + "\n",
        "stream": line.stream,
        "kubernetes": {
            "pod_name": instance,
            "namespace_name": namespace,
            "container_name": "function",
            "docker_id": hashlib.sha256(instance.encode()).hexdigest(),
            "container_image": f"{name}:{instance.rpartition('-')[0] or instance}",
        },
    }
    if line.invocation:
        found["invocation_id"] = line.invocation
    return found


class _Spool:
    """One spool file being followed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.namespace, self.name, self.instance = path.parts[-3], path.parts[-2], path.stem
        self.side = path.with_suffix(".offset")
        self.reader = SpoolReader()
        self.committed = 0
        self.punched = 0
        self.quiet_since = 0.0
        self.handle: Any = None

    def open(self) -> None:
        """Open the file and go to where an earlier follower stopped."""
        self.handle = self.path.open("rb", buffering=0)
        try:
            self.committed = int(self.side.read_text())
        except (FileNotFoundError, ValueError):
            self.committed = 0
        self.committed = min(self.committed, os.fstat(self.handle.fileno()).st_size)
        self.punched = self.committed
        self.reader.position = self.committed
        self.handle.seek(self.committed)

    def commit(self, offset: int) -> None:
        """Remember that everything before an offset is done, and free its blocks."""
        fresh = self.side.with_suffix(".offset-new")
        fresh.write_text(str(offset))
        fresh.replace(self.side)
        self.committed = offset
        if offset - self.punched >= _HOLE:
            _punch(self.path, offset)
            self.punched = offset

    def close(self, *, remove: bool = False) -> None:
        """Close it, and remove it from the disk when it is done with."""
        if self.handle is not None:
            self.handle.close()
            self.handle = None
        if remove:
            self.path.unlink(missing_ok=True)
            self.side.unlink(missing_ok=True)


class SpoolFollower:
    """Follows all spools below a directory; an async context manager.

    Args:
        spool_dir: Holds `<namespace>/<function>/<instance>.log`.
        logs_dir: Receives `<namespace>/<function>/current.jsonl` and its older parts `1.jsonl` to `4.jsonl`.
        publish: Brings one record to the bus.
        clock: Times raw lines and holds.
        is_gone: Tells whether nobody writes to a spool any more; by default, whether nobody has it open.
    """

    def __init__(
        self,
        spool_dir: str | Path,
        logs_dir: str | Path,
        publish: Publish,
        clock: Clock,
        *,
        is_gone: Callable[[Path], bool] | None = None,
    ) -> None:
        self._root = Path(spool_dir)
        self._logs = Path(logs_dir)
        self._publish = publish
        self._clock = clock
        self._is_gone = is_gone or _unwritten
        self._spools: dict[Path, _Spool] = {}
        self._seen: dict[Path, int] = {}  # directory -> mtime when it was listed
        self._tasks: dict[Path, asyncio.Task[None]] = {}
        self._runner: asyncio.Task[None] | None = None
        self.records = 0

    async def __aenter__(self) -> SpoolFollower:
        self._runner = asyncio.create_task(self.run(), name="log-follower")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)

    async def run(self) -> None:
        """Follow until cancelled; what was not confirmed by then is read again by the next follower."""
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # see _unwritten
        try:
            while True:
                self.look()
                await self._clock.sleep(_SCAN_S)
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for spool in self._spools.values():
                spool.close()

    def look(self) -> None:
        """Search for new spools now; call it when an instance starts, to see its first line sooner."""
        for path in self._new():
            spool = _Spool(path)
            try:
                spool.open()
            except OSError as exc:
                _log.warning("the spool %s cannot be read: %s", path, exc)
                continue
            self._spools[path] = spool
            self._tasks[path] = asyncio.create_task(self._follow(spool), name=f"spool-{spool.instance}")

    def _new(self) -> Iterator[Path]:
        """Yield spools that are not followed; lists only directories that changed, for there may be 1,000."""
        for namespace in _directories(self._root):
            for function in _directories(namespace):
                try:
                    changed = function.stat().st_mtime_ns
                except FileNotFoundError:
                    continue
                if self._seen.get(function) == changed:
                    continue
                # A file made within the clock's grain of this listing would be missed later: list once more.
                settled = self._clock.now().timestamp() * 1e9 - changed > 1e8
                self._seen[function] = changed if settled else -1
                for path in function.glob("*.log"):
                    if path not in self._spools:
                        yield path

    async def _follow(self, spool: _Spool) -> None:
        try:
            while True:
                busy = await self._step(spool)
                if busy:
                    continue
                if self._finished(spool):
                    spool.close(remove=True)
                    return
                await self._clock.sleep(_ACTIVE_S)
        except asyncio.CancelledError:
            raise
        except OSError as exc:
            _log.warning("the spool %s is given up: %s", spool.path, exc)
        except Exception:
            _log.exception("the spool %s is given up", spool.path)
        finally:
            spool.close()
            self._spools.pop(spool.path, None)
            self._tasks.pop(spool.path, None)

    async def _step(self, spool: _Spool) -> bool:
        """Read one chunk and bring out what is ready; False when there was nothing."""
        now = self._clock.monotonic()
        data = spool.handle.read(_CHUNK)
        if data:
            spool.quiet_since = now
            spool.reader.feed(data, now=now, time_ns=int(self._clock.now().timestamp() * 1e9))
        lines = spool.reader.take(now=now)
        await self._bring(spool, lines)
        if not spool.reader.held and not spool.reader.partial and spool.reader.position > spool.committed:
            spool.commit(spool.reader.position)  # only marks were left
        return bool(data)

    def _finished(self, spool: _Spool) -> bool:
        if self._clock.monotonic() - spool.quiet_since < _GONE_S or spool.reader.held:
            return False
        if not self._is_gone(spool.path):
            return False
        if os.fstat(spool.handle.fileno()).st_size > spool.reader.position:
            return False
        if spool.reader.partial:
            time_ns = int(self._clock.now().timestamp() * 1e9)
            spool.reader.finish(now=self._clock.monotonic(), time_ns=time_ns)
        return not spool.reader.held

    async def _bring(self, spool: _Spool, lines: list[Line]) -> None:
        """Append, publish, commit: in this order, so that no line is lost."""
        for first in range(0, len(lines), _BATCH):
            batch = lines[first : first + _BATCH]
            encoded = [
                json.dumps(
                    record(line, namespace=spool.namespace, name=spool.name, instance=spool.instance),
                    separators=(",", ":"),
                    ensure_ascii=False,
                ).encode()
                for line in batch
            ]
            _append(self._logs / spool.namespace / spool.name, encoded)
            subject = f"logs.{spool.namespace}.{spool.name}"
            left = list(zip(batch, encoded, strict=True))
            while left:
                left = await self._try(spool, subject, left)
            self.records += len(batch)
            spool.commit(batch[-1].end)

    async def _try(
        self, spool: _Spool, subject: str, left: list[tuple[Line, bytes]]
    ) -> list[tuple[Line, bytes]]:
        """Publish; return what was not confirmed, after a pause. Nothing more is read meanwhile."""
        results = await asyncio.gather(
            *(self._publish(subject, data, f"{spool.instance}:{line.start}") for line, data in left),
            return_exceptions=True,
        )
        failed = []
        for item, result in zip(left, results, strict=True):
            if isinstance(result, asyncio.CancelledError):
                raise result
            if isinstance(result, errors.DeliveryError) and not result.retriable:
                _log.warning("a log line of %s is not published: %s", spool.instance, result)
            elif isinstance(result, BaseException):
                failed.append(item)
        if failed:
            await self._clock.sleep(_AGAIN_S)
        return failed


def read_logs(
    logs_dir: str | Path, namespace: str, name: str, *, since: float = 0.0
) -> Iterator[dict[str, Any]]:
    """Yield the records of a function, oldest first.

    Args:
        logs_dir: As given to `SpoolFollower`.
        namespace: The function's.
        name: The function's.
        since: Epoch seconds; older records are left out.
    """
    directory = Path(logs_dir) / namespace / name
    for path in [*_older(directory), _current(directory)]:
        handle = _open(path)
        if handle is not None:
            with handle:
                yield from _records(handle, since)


async def follow_logs(
    logs_dir: str | Path, namespace: str, name: str, clock: Clock, *, since: float = 0.0
) -> AsyncIterator[dict[str, Any]]:
    """Yield the records of a function, then new ones as they come; never ends by itself."""
    directory = Path(logs_dir) / namespace / name
    # Opened before the older files are read and read on without a gap: what is written meanwhile comes later,
    # and if it becomes one of the older files meanwhile, it is not read twice.
    handle = _open(_current(directory))
    try:
        for path in _older(directory):
            older = _open(path)
            if older is not None:
                with older:
                    if handle is None or not os.path.sameopenfile(older.fileno(), handle.fileno()):
                        for found in _records(older, since):
                            yield found
        while True:
            if handle is None:
                handle = _open(_current(directory))
            if handle is not None:
                for found in _records(handle, since):
                    yield found
                if _replaced(handle, _current(directory)):
                    for found in _records(handle, since):
                        yield found
                    handle.close()
                    handle = _current(directory).open("rb")
                    continue
            await clock.sleep(_ACTIVE_S)
    finally:
        if handle is not None:
            handle.close()


def _records(handle: Any, since: float) -> Iterator[dict[str, Any]]:
    while True:
        before = handle.tell()
        line = handle.readline()
        if not line.endswith(b"\n"):
            handle.seek(before)  # being written, or the torn end of a file whose writer was killed
            return
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if found.get("@timestamp", 0.0) >= since:
            yield found


def _replaced(handle: Any, path: Path) -> bool:
    try:
        return path.stat().st_ino != os.fstat(handle.fileno()).st_ino
    except FileNotFoundError:
        return False


def _older(directory: Path) -> list[Path]:
    return [directory / f"{number}.jsonl" for number in range(_FILES - 1, 0, -1)]


def _open(path: Path) -> Any:
    """Open a file for reading; None when it is not there."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _current(directory: Path) -> Path:
    return directory / "current.jsonl"


def _append(directory: Path, encoded: list[bytes]) -> None:
    """Append records, rotating first when the file is full."""
    current = _current(directory)
    try:
        size = current.stat().st_size
    except FileNotFoundError:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        size = 0
    if size >= _FILE_BYTES:
        for number in range(_FILES - 2, 0, -1):
            older = directory / f"{number}.jsonl"
            if older.exists():
                older.replace(directory / f"{number + 1}.jsonl")
        current.replace(directory / "1.jsonl")
    with current.open("ab+") as handle:
        if handle.seek(0, os.SEEK_END):
            handle.seek(-1, os.SEEK_END)
            if handle.read(1) != b"\n":  # an earlier follower was killed while it wrote
                handle.write(b"\n")
        handle.write(b"".join(data + b"\n" for data in encoded))


def _directories(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _unwritten(path: Path) -> bool:
    """Tell whether no process has a file open for writing.

    A read lease is granted only then; it is given back at once. Should somebody open the file in between, the
    kernel would send SIGIO, which the follower ignores. Where leases are not to be had, the answer is no.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _punch(path: Path, end: int) -> None:
    """Free the blocks before an offset, as far as the file system can."""
    keep_size, punch_hole = 1, 2
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        length = end - end % 4096
        libc.fallocate(fd, keep_size | punch_hole, ctypes.c_long(0), ctypes.c_long(length))
    except (AttributeError, OSError):
        pass  # not Linux; the spool then keeps its size until its instance is gone
    finally:
        os.close(fd)
