"""What rules on log records have to remember over a restart, in one SQLite file.

`notify/log_rules.py` writes to it before it tells of an alert or acknowledges a record: counts of groups, the
identities of records counted last, and alerts that the pipeline has not taken yet. One thread holds the
connection.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from pelton import log
from pelton.notify.alert import Alert
from pelton.notify.log_counting import RuleGroup

__all__ = ["RuleStore"]

_T = TypeVar("_T")
_MAKE: Final = (
    "CREATE TABLE IF NOT EXISTS counted (rule TEXT NOT NULL, labels TEXT NOT NULL, data BLOB NOT NULL,"
    " PRIMARY KEY (rule, labels))",
    "CREATE TABLE IF NOT EXISTS seen (rule TEXT PRIMARY KEY, keys BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS alerts (number INTEGER PRIMARY KEY AUTOINCREMENT, data BLOB NOT NULL)",
)
_log = log.get(__name__)
_encode = msgspec.json.Encoder().encode


class RuleStore:
    """The file.

    Args:
        path: It need not be there; None keeps all in memory, without a thread.
        power: Whether a change survives the loss of power, not only of processes.
    """

    def __init__(self, path: Path | None, *, power: bool = False) -> None:
        self._path = path
        self._power = power
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="log-rules")
        self._database: sqlite3.Connection | None = None

    async def load(self, rule: str) -> tuple[dict[tuple[str, ...], RuleGroup], frozenset[str]]:
        """Return a rule's groups, and the identities of the records that it counted last."""
        return await self._run(lambda: self._load(rule))

    async def write(
        self,
        rule: str,
        groups: Iterable[tuple[tuple[str, ...], RuleGroup | None]],
        *,
        seen: Iterable[str] | None = None,
        alerts: Sequence[Alert] = (),
    ) -> None:
        """Keep what has changed, all or nothing; returns once it survives the end of this process.

        Args:
            rule: Which.
            groups: Values of the labels -> group; None = it is gone.
            seen: Identities of the records that were counted with this; None keeps the last ones.
            alerts: To tell; they stay until `told`.

        Raises:
            OSError: It could not be kept.
        """
        changed = [
            (msgspec.json.encode(values).decode(), None if group is None else _encode(group))
            for values, group in groups
        ]
        keys = None if seen is None else _encode(list(seen))
        encoded = _encode(list(alerts)) if alerts else None
        await self._run(lambda: self._write(rule, changed, keys, encoded))

    async def untold(self) -> tuple[list[Alert], int]:
        """Return alerts that were kept and not told yet, in order, and a number for `told`."""
        return await self._run(self._untold)

    async def told(self, number: int) -> None:
        """Forget the alerts that `untold` returned with this number; the pipeline has them."""
        await self._run(lambda: self._told(number))

    async def rules(self) -> list[str]:
        """Return the rules that something is kept of."""
        return await self._run(
            lambda: [rule for (rule,) in self._open().execute("SELECT DISTINCT rule FROM counted")]
        )

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
        except (sqlite3.Error, msgspec.DecodeError) as error:
            raise OSError(f"what rules on logs count cannot be kept: {error}") from error

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            if self._path is not None and not self._path.exists():
                self._path.touch(0o600)
            try:
                self._database = self._connect()
            except sqlite3.OperationalError:  # locked or full: the file itself may be sound
                raise
            except sqlite3.DatabaseError as error:
                if self._path is None:
                    raise
                kept = self._path.with_suffix(".unreadable")
                self._path.rename(kept)
                _log.error("counts of logs could not be read, they begin anew kept=%s error=%s", kept, error)
                self._database = self._connect()
        return self._database

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(
            ":memory:" if self._path is None else str(self._path),
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(f"PRAGMA synchronous = {'FULL' if self._power else 'NORMAL'}")
            for statement in _MAKE:
                database.execute(statement)
        except BaseException:
            database.close()
            raise
        return database

    def _told(self, number: int) -> None:
        self._open().execute("DELETE FROM alerts WHERE number <= ?", (number,))

    def _load(self, rule: str) -> tuple[dict[tuple[str, ...], RuleGroup], frozenset[str]]:
        database = self._open()
        groups = {
            tuple(msgspec.json.decode(labels, type=list[str])): msgspec.json.decode(data, type=RuleGroup)
            for labels, data in database.execute("SELECT labels, data FROM counted WHERE rule = ?", (rule,))
        }
        row = database.execute("SELECT keys FROM seen WHERE rule = ?", (rule,)).fetchone()
        return groups, frozenset(msgspec.json.decode(row[0], type=list[str]) if row else ())

    def _untold(self) -> tuple[list[Alert], int]:
        rows = self._open().execute("SELECT number, data FROM alerts ORDER BY number").fetchall()
        alerts = [alert for _, data in rows for alert in msgspec.json.decode(data, type=list[Alert])]
        return alerts, rows[-1][0] if rows else 0

    def _write(
        self,
        rule: str,
        changed: Sequence[tuple[str, bytes | None]],
        keys: bytes | None,
        alerts: bytes | None,
    ) -> None:
        database = self._open()
        database.execute("BEGIN IMMEDIATE")
        try:
            database.executemany(
                "INSERT OR REPLACE INTO counted VALUES (?, ?, ?)",
                ((rule, labels, data) for labels, data in changed if data is not None),
            )
            database.executemany(
                "DELETE FROM counted WHERE rule = ? AND labels = ?",
                ((rule, labels) for labels, data in changed if data is None),
            )
            if keys is not None:
                database.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (rule, keys))
            if alerts is not None:
                database.execute("INSERT INTO alerts (data) VALUES (?)", (alerts,))
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise
