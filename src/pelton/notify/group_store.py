"""What groups of alerts have to remember over a restart, in one SQLite file.

`notify/timed.py` writes to it before it acknowledges or publishes anything, and reads all of it once, at the
start. One thread holds the connection, so that a slow disk holds up nobody else. Notifications that were
decided wait here (`outbox`) until the bus has confirmed them: what is told and the record of it are one
transaction.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from pelton import log
from pelton.notify.alert_table import Tracked
from pelton.notify.groups import Saved, Sent
from pelton.ports import Message

__all__ = ["Changes", "GroupStore", "Kept"]

_T = TypeVar("_T")

_VERSION: Final = 1
_CACHE_KIB: Final = 32 * 1024
_CHECKPOINT_PAGES: Final = 4_000
_MAKE: Final = (
    # With rowids: new alerts are appended, only the index is written to at random (a third of the time).
    "CREATE TABLE IF NOT EXISTS alerts (name TEXT PRIMARY KEY, ends REAL NOT NULL, data BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS held (name TEXT NOT NULL, receiver TEXT NOT NULL, block TEXT NOT NULL,"
    " PRIMARY KEY (name, receiver, block)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS groups (key TEXT PRIMARY KEY, next_flush REAL NOT NULL,"
    " flushed INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS sent (key TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS outbox (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
    " topic TEXT NOT NULL, data BLOB NOT NULL)",
)
_log = log.get(__name__)
_encode = msgspec.json.Encoder().encode
_tracked = msgspec.json.Decoder(Tracked)
_sent = msgspec.json.Decoder(Sent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """One transaction.

    Attributes:
        alerts: To keep, or keep anew.
        held, unheld: (fingerprint, receiver, block) of alerts that are held back for a receiver without
            timers, and that are no more.
        groups, ended: Groups to keep, and keys of those to forget.
        sent, unsent: (key, record) to keep, and keys of those to forget.
        outbox, published: Notifications to keep, and ids of those to forget.
        over_before: Alerts that were over before this moment go, Unix seconds; None = none.
    """

    alerts: Sequence[Tracked] = ()
    held: Iterable[tuple[str, str, str]] = ()
    unheld: Iterable[tuple[str, str, str]] = ()
    groups: Iterable[Saved] = ()
    ended: Iterable[str] = ()
    sent: Iterable[tuple[str, Sent]] = ()
    unsent: Iterable[str] = ()
    outbox: Sequence[Message] = ()
    published: Iterable[str] = ()
    over_before: float | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """All that was kept; `held` has (fingerprint, receiver, block)."""

    alerts: list[Tracked] = field(default_factory=list)
    held: frozenset[tuple[str, str, str]] = frozenset()
    groups: list[Saved] = field(default_factory=list)
    sent: list[tuple[str, Sent]] = field(default_factory=list)
    outbox: list[Message] = field(default_factory=list)


class GroupStore:
    """The file.

    Args:
        path: It need not be there; None keeps all in memory, without a thread.
        power: Whether a change survives the loss of power, not only of processes.
    """

    def __init__(self, path: Path | None, *, power: bool = False) -> None:
        self._path = path
        self._power = power
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="alert-groups")
        self._database: sqlite3.Connection | None = None

    async def load(self) -> Kept:
        """Open the file and return what is in it; one that cannot be read is put aside."""
        return await self._run(self._load)

    async def write(self, changes: Changes) -> None:
        """Carry out changes, all or none; returns once they survive the end of this process.

        Raises:
            OSError: They could not be kept.
        """
        await self._run(lambda: self._write(changes))

    async def close(self) -> None:
        """Close the file; safe after a failed open, and twice."""
        if self._database is not None:
            database, self._database = self._database, None
            await self._run(database.close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], _T]) -> _T:
        try:
            if self._path is None:
                return work()
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise OSError(f"the groups of alerts cannot be kept: {error}") from error

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            name = ":memory:" if self._path is None else str(self._path)
            if self._path is not None and not self._path.exists():
                self._path.touch(0o600)  # alerts may hold what is nobody else's business
            database = sqlite3.connect(name, isolation_level=None, check_same_thread=False)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(f"PRAGMA synchronous = {'FULL' if self._power else 'NORMAL'}")
            database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            database.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            for statement in _MAKE:
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {_VERSION}")
            self._database = database
        return self._database

    def _load(self) -> Kept:
        try:
            return self._read(self._open())
        except (sqlite3.DatabaseError, msgspec.DecodeError) as error:
            if self._path is None or isinstance(error, sqlite3.OperationalError):
                raise
            if self._database is not None:
                self._database.close()
                self._database = None
            kept = self._path.with_suffix(".unreadable")
            self._path.rename(kept)
            for suffix in ("-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            _log.error("groups of alerts could not be read, there are none now kept=%s error=%s", kept, error)
            return self._read(self._open())

    @staticmethod
    def _read(database: sqlite3.Connection) -> Kept:
        return Kept(
            alerts=[_tracked.decode(data) for (data,) in database.execute("SELECT data FROM alerts")],
            held=frozenset(database.execute("SELECT name, receiver, block FROM held")),
            groups=[
                Saved(key, next_flush, bool(flushed))
                for key, next_flush, flushed in database.execute("SELECT * FROM groups")
            ],
            sent=[(key, _sent.decode(data)) for key, data in database.execute("SELECT key, data FROM sent")],
            outbox=[
                Message(topic=topic, data=data, id=id)
                for id, topic, data in database.execute("SELECT id, topic, data FROM outbox ORDER BY number")
            ],
        )

    def _write(self, changes: Changes) -> None:
        database = self._open()
        many = database.executemany
        database.execute("BEGIN IMMEDIATE")
        try:
            if changes.alerts:
                many(
                    "INSERT OR REPLACE INTO alerts VALUES (?, ?, ?)",
                    ((each.alert.fingerprint, each.ends, _encode(each)) for each in changes.alerts),
                )
            many("INSERT OR IGNORE INTO held VALUES (?, ?, ?)", changes.held)
            many("DELETE FROM held WHERE name = ? AND receiver = ? AND block = ?", changes.unheld)
            many(
                "INSERT OR REPLACE INTO groups VALUES (?, ?, ?)",
                ((each.key, each.next_flush, each.flushed) for each in changes.groups),
            )
            many("DELETE FROM groups WHERE key = ?", ((key,) for key in changes.ended))
            many(
                "INSERT OR REPLACE INTO sent VALUES (?, ?)",
                ((key, _encode(record)) for key, record in changes.sent),
            )
            many("DELETE FROM sent WHERE key = ?", ((key,) for key in changes.unsent))
            many(
                "INSERT OR IGNORE INTO outbox (id, topic, data) VALUES (?, ?, ?)",
                ((each.id, each.topic, each.data) for each in changes.outbox),
            )
            many("DELETE FROM outbox WHERE id = ?", ((id,) for id in changes.published))
            if changes.over_before is not None:
                database.execute("DELETE FROM alerts WHERE ends < ?", (changes.over_before,))
                database.execute("DELETE FROM held WHERE name NOT IN (SELECT name FROM alerts)")
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise
