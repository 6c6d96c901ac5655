"""`state.sqlite`: values in a SQLite file, in the tables that Dapr makes.

Implements `ports.StateStore` (contracts, Dapr components, section 3). One thread per store holds the
connection, so that a slow disk holds up nobody else; several processes may use one file (WAL and a busy
time-out). Times are kept as SQLite writes them, to the second.
"""

from __future__ import annotations

import asyncio
import base64
import re
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

from pelton.clock import Clock
from pelton.errors import ComponentError
from pelton.model.desired import Component
from pelton.model.settings import ComponentSettings
from pelton.model.state import StateChange, StateItem, check_etag

__all__ = ["SqliteStates"]

_T = TypeVar("_T")
_TABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TIMEOUT_S: Final = 20.0
_BUSY_S: Final = 2.0

# `@state` and `@notes` stand for the tables' names, which are settings.
_READ: Final = (
    "SELECT value, is_binary, etag, expiration_time FROM @state "
    "WHERE key = ? AND (expiration_time IS NULL OR expiration_time > ?)"
)
_SCAN: Final = (
    "SELECT key, value, is_binary, etag, expiration_time FROM @state "
    "WHERE key >= ? AND substr(key, 1, ?) = ? "
    "AND (expiration_time IS NULL OR expiration_time > ?) ORDER BY key LIMIT ?"
)
_SAVE: Final = (
    "INSERT OR REPLACE INTO @state (key, value, is_binary, etag, expiration_time, update_time) "
    "VALUES (?, ?, ?, ?, ?, ?)"
)
_DELETE: Final = "DELETE FROM @state WHERE key = ?"
_CLEAN: Final = "DELETE FROM @state WHERE expiration_time <= ?"
_MAKE: Final = (
    "CREATE TABLE IF NOT EXISTS @notes (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS @state (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL, "
    "is_binary BOOLEAN NOT NULL, etag TEXT NOT NULL, expiration_time TIMESTAMP DEFAULT NULL, "
    "update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)",
    # What Dapr looks for before it makes its tables.
    "INSERT OR IGNORE INTO @notes (key, value) VALUES ('migrations', '1')",
)


class SqliteStates:
    """A store in a SQLite database, opened by its first use.

    Args:
        component: `connectionString` is required: a path (relative ones below `folder`), a `file:` URI, or
            `:memory:`. Also `timeout`, `busyTimeout`, `disableWAL`, `tableName`, `metadataTableName` and
            `cleanupInterval` (expired rows stay in the file without it); keys in any case.
        clock: Ends what has a time-to-live.
        folder: Directory of databases whose path is relative; made when it is missing.
    """

    def __init__(self, component: Component, *, clock: Clock, folder: Path | None = None) -> None:
        settings = ComponentSettings(component)
        self._where = settings.where
        self._clock = clock
        self._database = _database(settings.text("connectionString").strip(), folder, self._where)
        self._table = self._identifier(settings.text("tableName", "state"))
        self._notes = self._identifier(settings.text("metadataTableName", "metadata"))
        self._timeout_s = settings.seconds("timeout", _TIMEOUT_S)
        self._busy_s = settings.seconds("busyTimeout", _BUSY_S)
        self._cleanup_s = settings.seconds("cleanupInterval", 0.0)
        self._cleaned = clock.monotonic()
        self._wal = not settings.flag("disableWAL") and ":memory:" not in self._database
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    async def get(self, keys: Sequence[str]) -> list[StateItem]:
        """Return an item per key; see `ports.StateStore`."""
        return await self._on_thread(lambda: self._get(keys))

    async def write(self, changes: Sequence[StateChange]) -> None:
        """Carry out all changes in one transaction; see `ports.StateStore`."""
        await self._on_thread(lambda: self._write(changes))

    async def scan(self, prefix: str, *, limit: int) -> list[StateItem]:
        """Return items whose key begins so, in order of their keys."""
        return await self._on_thread(lambda: self._scan(prefix, limit))

    async def close(self) -> None:
        """Close the database after what is under way."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._disconnect)
            thread.shutdown(wait=False)

    # --- on the store's own thread ---

    def _get(self, keys: Sequence[str]) -> list[StateItem]:
        rows = (self._row(key) for key in keys)
        return [_item(key, row) for key, row in zip(keys, rows, strict=True)]

    def _write(self, changes: Sequence[StateChange]) -> None:
        connection = self._connect()
        now = self._now()
        connection.execute("BEGIN IMMEDIATE")
        try:
            for change in changes:
                row = self._row(change.key)
                check_etag(change, row[2] if row is not None else "")
                if change.delete:
                    connection.execute(self._sql(_DELETE), (change.key,))
                    continue
                ttl_s = change.ttl_s()
                value, binary = _stored(change)
                connection.execute(
                    self._sql(_SAVE),
                    (
                        change.key,
                        value,
                        binary,
                        str(uuid.uuid4()),
                        _text(now + timedelta(seconds=ttl_s)) if ttl_s else None,
                        _text(now),
                    ),
                )
            self._clean(connection, now)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _scan(self, prefix: str, limit: int) -> list[StateItem]:
        rows = self._connect().execute(
            self._sql(_SCAN),
            (prefix, len(prefix), prefix, _text(self._now()), limit),
        )
        return [_item(key, row) for key, *row in rows]

    def _row(self, key: str) -> tuple[str, int, str, str | None] | None:
        cursor = self._connect().execute(self._sql(_READ), (key, _text(self._now())))
        found: tuple[str, int, str, str | None] | None = cursor.fetchone()
        return found

    def _clean(self, connection: sqlite3.Connection, now: datetime) -> None:
        elapsed = self._clock.monotonic() - self._cleaned
        if self._cleanup_s and elapsed >= self._cleanup_s:
            self._cleaned += elapsed
            connection.execute(self._sql(_CLEAN), (_text(now),))

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(
                self._database,
                timeout=self._busy_s,
                isolation_level=None,
                uri=self._database.startswith("file:"),
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if self._wal:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
        for statement in _MAKE:
            connection.execute(self._sql(statement))

    def _sql(self, statement: str) -> str:
        return statement.replace("@state", self._table).replace("@notes", self._notes)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # --- between ---

    async def _on_thread(self, work: Callable[[], _T]) -> _T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="state-sqlite")
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            async with asyncio.timeout(self._timeout_s or None):
                return await future
        except TimeoutError as exc:
            raise ComponentError(
                f"no answer from {self._database} within {self._timeout_s:g} s", where=self._where
            ) from exc
        except sqlite3.Error as exc:
            raise ComponentError(f"{self._database} cannot be used: {exc}", where=self._where) from exc

    def _now(self) -> datetime:
        return self._clock.now().astimezone(UTC)

    def _identifier(self, name: str) -> str:
        if _TABLE.fullmatch(name) is None:
            raise ComponentError(
                f"{name!r} is no table name", where=self._where, hint="Use letters, digits and _."
            )
        return name


def _database(text: str, folder: Path | None, where: str) -> str:
    if not text:
        raise ComponentError(
            "metadata `connectionString` is required", where=where, hint="A path such as `orders.db`."
        )
    if text == ":memory:" or text.startswith("file:"):
        return text
    path = Path(text).expanduser()
    if not path.is_absolute() and folder is not None:
        path = folder / path
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise ComponentError(f"{path.parent} cannot be made: {exc.strerror}", where=where) from exc
    return str(path)


def _text(moment: datetime) -> str:
    """Render a time as SQLite's CURRENT_TIMESTAMP does, which is what Dapr compares with."""
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _stored(change: StateChange) -> tuple[str, bool]:
    """Return a value's column and whether it is base64: JSON stands as it is, anything else does not."""
    if change.json:
        try:
            return change.data.decode(), False
        except UnicodeDecodeError as exc:
            raise ComponentError(f"the value of key {change.key!r} is no JSON text: {exc}") from exc
    return base64.b64encode(change.data).decode(), True


def _item(key: str, row: Sequence[object] | None) -> StateItem:
    if row is None:
        return StateItem(key=key)
    value, binary, etag = str(row[0]), bool(row[1]), str(row[2])
    data = base64.b64decode(value) if binary else value.encode()
    expires = f"{str(row[3]).replace(' ', 'T')}Z" if row[3] else ""
    return StateItem(key=key, data=data, json=not binary, etag=etag, expires=expires)
