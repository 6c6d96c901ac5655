"""What became of each notification, and where messages are that later news belongs to: one SQLite file.

`notify/sending.py` writes it, `pelton notify history` (`cli/notify.py`) reads it beside the running platform.
It is no queue: what it loses is neither sent twice nor forgotten, and a disk that is full stops no alert. One
thread holds the connection. Bounded: the oldest records go first.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec

from pelton import log
from pelton.clock import Clock
from pelton.notify.grouping import Group

__all__ = ["DEAD", "DIGEST", "FAILED", "SENT", "Post", "Record", "RecordedAlert", "Records", "read_history"]

SENT, FAILED, DEAD, DIGEST = "sent", "failed", "dead", "digest"
"""Outcomes: accepted; not accepted, tried again; given up; accepted as part of a digest."""

_MOST_RECORDS: Final = 20_000
_MOST_POSTS: Final = 20_000
_LARGEST_BODY: Final = 64 * 1024
_MOST_BUFFERED: Final = 10_000
_FLUSH_S: Final = 0.5
_FOLLOWED_S: Final = 86_400.0
_BUSY_S: Final = 5.0
_T = TypeVar("_T")
_log = log.get(__name__)

_MAKE: Final = """
CREATE TABLE IF NOT EXISTS notifications (
  number INTEGER PRIMARY KEY, at REAL NOT NULL, id TEXT NOT NULL, receiver TEXT NOT NULL, block TEXT NOT NULL,
  outcome TEXT NOT NULL, attempt INTEGER NOT NULL, detail TEXT NOT NULL, title TEXT NOT NULL,
  alerts TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS posts (
  receiver TEXT NOT NULL, block TEXT NOT NULL, part TEXT NOT NULL, channel TEXT NOT NULL, ts TEXT NOT NULL,
  body BLOB NOT NULL, at REAL NOT NULL, PRIMARY KEY (receiver, block, part, ts));
CREATE TABLE IF NOT EXISTS post_alerts (
  receiver TEXT NOT NULL, block TEXT NOT NULL, part TEXT NOT NULL, fingerprint TEXT NOT NULL,
  ts TEXT NOT NULL, PRIMARY KEY (receiver, block, part, fingerprint));
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedAlert:
    """An alert of a record: enough to find it again."""

    fingerprint: str
    name: str
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one attempt of a notification led to.

    Attributes:
        at: Unix seconds.
        id: The notification's.
        receiver, block: Whom it was for.
        outcome: `sent`, `failed`, `dead` or `digest`.
        attempt: Number of the attempt, 1 for the first.
        detail: The destination's answer, without secrets.
        title: What it was about.
        alerts: Its alerts.
    """

    at: float
    id: str
    receiver: str
    block: str
    outcome: str
    attempt: int
    detail: str
    title: str
    alerts: tuple[RecordedAlert, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """A message that can be changed.

    Attributes:
        part: Channel as the receiver names it.
        channel, ts: Where the message is.
        group: What it says.
    """

    part: str
    channel: str
    ts: str
    group: Group


class Records:
    """The file; an async context manager.

    Args:
        path: Of the file; made when it is missing, moved aside when it cannot be read.
        clock: For the pauses between writes.
        most_bytes: Bytes of records that are kept, and of posts.
        prune_every: Writes between two looks at that.
    """

    def __init__(
        self, path: Path, clock: Clock, *, most_bytes: int = 32 * 1024 * 1024, prune_every: int = 500
    ) -> None:
        self._most_bytes = most_bytes
        self._prune_every = prune_every
        self._path = path
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="records")
        self._connection: sqlite3.Connection | None = None
        self._buffer: deque[Record] = deque(maxlen=_MOST_BUFFERED)
        self._flusher: asyncio.Task[None] | None = None
        self._since_prune = 0
        self._since_tidied = 0
        self._dropped = 0
        self._broken = ""

    async def __aenter__(self) -> Self:
        """Open the file."""
        await self._run("open", self._open, None)
        self._flusher = asyncio.create_task(self._flush_forever())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is left, and close."""
        if self._flusher is not None:
            self._flusher.cancel()
            with suppress(asyncio.CancelledError):
                await self._flusher
        await self._flush()
        await self._run("close", self._close, None)
        self._thread.shutdown(wait=False)

    def add(self, record: Record) -> None:
        """Note what became of a notification; it is in the file within a second."""
        if len(self._buffer) == _MOST_BUFFERED:
            self._dropped += 1
        self._buffer.append(record)

    async def posts(self, receiver: str, block: str, fingerprints: Iterable[str]) -> dict[str, Post]:
        """Return channel -> the one message there that tells all these alerts, where there is such a one.

        Messages without news for a day are not followed: what fires again then is news.
        """
        wanted = sorted(set(fingerprints))
        since = self._clock.now().timestamp() - _FOLLOWED_S
        found: dict[str, Post] = await self._run(
            "posts", lambda db: _posts(db, receiver, block, wanted, since), {}
        )
        return found

    async def keep(self, receiver: str, block: str, posts: Sequence[Post]) -> None:
        """Note new messages, or what they say now; what has nothing that fires any more is forgotten."""
        now = self._clock.now().timestamp()
        self._since_tidied += len(posts)
        prune = self._since_tidied >= self._prune_every
        if prune:
            self._since_tidied = 0
        await self._run(
            "keep", lambda db: _keep(db, receiver, block, posts, now, self._most_bytes if prune else 0), None
        )

    async def _flush_forever(self) -> None:
        while True:
            await self._clock.sleep(_FLUSH_S)
            await self._flush()

    async def _flush(self) -> None:
        if not self._buffer:
            return
        batch = list(self._buffer)
        self._buffer.clear()
        if self._dropped:
            _log.warning(
                "records of notifications were dropped, there were too many dropped=%d", self._dropped
            )
            self._dropped = 0
        self._since_prune += len(batch)
        prune = self._since_prune >= self._prune_every
        if prune:
            self._since_prune = 0
        await self._run("write", lambda db: _write(db, batch, self._most_bytes if prune else 0), None)

    async def _run(self, doing: str, work: Callable[[sqlite3.Connection], _T], otherwise: _T) -> _T:
        """Work on the thread; what fails there is said once and does not stop a notification."""
        loop = asyncio.get_running_loop()
        try:
            result = await loop.run_in_executor(self._thread, self._with_connection, work)
        except (sqlite3.Error, OSError, msgspec.DecodeError) as error:
            if str(error) != self._broken:
                self._broken = str(error)
                _log.error("records of notifications are not kept doing=%s error=%s", doing, error)
            return otherwise
        self._broken = ""
        return result

    # --- on the thread ---

    def _with_connection(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._connection is None:
            self._connection = self._connect()
        with self._connection:
            return work(self._connection)

    def _connect(self) -> sqlite3.Connection:
        for again in (True, False):
            connection = sqlite3.connect(self._path, timeout=_BUSY_S, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.executescript(_MAKE)
                self._path.chmod(0o600)
                return connection
            except sqlite3.OperationalError:  # locked or full: the file itself may be sound
                connection.close()
                raise
            except sqlite3.DatabaseError as error:
                connection.close()
                if not again:
                    raise
                kept = self._path.with_suffix(".unreadable")
                self._path.rename(kept)
                _log.error("records could not be read, there are none now kept=%s error=%s", kept, error)
        raise RuntimeError("unreachable")

    def _open(self, _: sqlite3.Connection) -> None:
        """Nothing but the connection is needed."""

    def _close(self, connection: sqlite3.Connection) -> None:
        connection.commit()
        connection.close()
        self._connection = None


def _write(db: sqlite3.Connection, batch: Sequence[Record], most_bytes: int) -> None:
    db.executemany(
        "INSERT INTO notifications (at, id, receiver, block, outcome, attempt, detail, title, alerts) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                record.at,
                record.id,
                record.receiver,
                record.block,
                record.outcome,
                record.attempt,
                record.detail,
                record.title,
                msgspec.json.encode(record.alerts).decode(),
            )
            for record in batch
        ],
    )
    if most_bytes:
        db.execute(
            "DELETE FROM notifications WHERE number <= (SELECT MAX(number) FROM notifications) - ?",
            (_MOST_RECORDS,),
        )
        db.execute(
            "DELETE FROM notifications WHERE number IN (SELECT number FROM (SELECT number, "
            "SUM(LENGTH(alerts) + LENGTH(detail)) OVER (ORDER BY number DESC) AS total FROM notifications) "
            "WHERE total > ?)",
            (most_bytes,),
        )


def _posts(
    db: sqlite3.Connection, receiver: str, block: str, wanted: Sequence[str], since: float
) -> dict[str, Post]:
    known: dict[str, set[str]] = {}
    count: dict[str, int] = {}
    for fingerprint in wanted:
        for part, ts in db.execute(
            "SELECT part, ts FROM post_alerts WHERE receiver = ? AND block = ? AND fingerprint = ?",
            (receiver, block, fingerprint),
        ):
            known.setdefault(part, set()).add(ts)
            count[part] = count.get(part, 0) + 1
    found = {}
    for part, messages in known.items():
        if len(messages) != 1 or count[part] != len(wanted):
            continue  # in several messages, or not all told yet: that is news of its own
        (ts,) = messages
        row = db.execute(
            "SELECT channel, body FROM posts "
            "WHERE receiver = ? AND block = ? AND part = ? AND ts = ? AND at >= ?",
            (receiver, block, part, ts, since),
        ).fetchone()
        if row is not None:
            group = msgspec.json.decode(row[1], type=Group)
            found[part] = Post(part=part, channel=row[0], ts=ts, group=group)
    return found


def _keep(
    db: sqlite3.Connection, receiver: str, block: str, posts: Sequence[Post], now: float, most_bytes: int
) -> None:
    for post in posts:
        key = (receiver, block, post.part)
        body = msgspec.json.encode(post.group)
        # One that is too large to be kept is not followed up.
        if len(body) > _LARGEST_BODY or all(alert.status != "firing" for alert in post.group.alerts):
            db.execute(
                "DELETE FROM posts WHERE receiver = ? AND block = ? AND part = ? AND ts = ?", (*key, post.ts)
            )
            db.execute(
                "DELETE FROM post_alerts WHERE receiver = ? AND block = ? AND part = ? AND ts = ?",
                (*key, post.ts),
            )
            continue
        db.execute(
            "INSERT OR REPLACE INTO posts (receiver, block, part, channel, ts, body, at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*key, post.channel, post.ts, body, now),
        )
        db.executemany(
            "INSERT OR REPLACE INTO post_alerts (receiver, block, part, fingerprint, ts) "
            "VALUES (?, ?, ?, ?, ?)",
            [(*key, alert.fingerprint, post.ts) for alert in post.group.alerts],
        )
    if most_bytes:
        # The age comes first: what is not followed any more need not be kept.
        db.execute("DELETE FROM posts WHERE at < ?", (now - _FOLLOWED_S,))
        db.execute(
            "DELETE FROM posts WHERE rowid IN (SELECT rowid FROM (SELECT rowid, "
            "SUM(LENGTH(body)) OVER latest AS total, ROW_NUMBER() OVER latest AS place FROM posts "
            "WINDOW latest AS (ORDER BY at DESC, rowid DESC)) WHERE total > ? OR place > ?)",
            (most_bytes, _MOST_POSTS),
        )
        db.execute(
            "DELETE FROM post_alerts WHERE NOT EXISTS (SELECT 1 FROM posts WHERE "
            "posts.receiver = post_alerts.receiver AND posts.block = post_alerts.block AND "
            "posts.part = post_alerts.part AND posts.ts = post_alerts.ts)"
        )


def read_history(
    path: Path, *, receiver: str = "", alert: str = "", limit: int = 100, outcome: str = ""
) -> list[Record]:
    """Return the latest records, the newest first; [] when there is no file.

    Args:
        path: The file; nothing in it is changed.
        receiver: Only this receiver's.
        alert: Only those with an alert of this fingerprint or name.
        limit: Most records.
        outcome: Only these.
    """
    if not path.exists():
        return []
    found: list[Record] = []
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
    try:
        for row in connection.execute(
            "SELECT at, id, receiver, block, outcome, attempt, detail, title, alerts FROM notifications "
            "WHERE (? = '' OR receiver = ?) AND (? = '' OR outcome = ?) ORDER BY number DESC",
            (receiver, receiver, outcome, outcome),
        ):
            alerts = msgspec.json.decode(row[8], type=tuple[RecordedAlert, ...])
            if alert and not any(alert in (each.fingerprint, each.name) for each in alerts):
                continue
            found.append(
                Record(
                    at=row[0],
                    id=row[1],
                    receiver=row[2],
                    block=row[3],
                    outcome=row[4],
                    attempt=row[5],
                    detail=row[6],
                    title=row[7],
                    alerts=alerts,
                )
            )
            if len(found) >= limit:
                break
    finally:
        connection.close()
    return found
