"""The SQLite file under the store: every committed write, nothing else.

SQLite is the journal and memory the read model: `store.py` loads everything on opening and only appends here
afterwards. Opened exclusively, since a second writer would make that read model wrong. Layout: table `meta`
(schema, version = the resourceVersion handed out last) and table `objects`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from pelton.errors import HomeError, HomeInUseError, StoreFullError, StoreVersionError

__all__ = ["SCHEMA", "Journal", "SqliteJournal"]

SCHEMA = 1
"""Layout version that this code reads and writes."""

_APPLICATION_ID = 0x50_4C_54_4E  # "PLTN": tells our file from somebody else's database
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE objects (
    resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    version INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (resource, namespace, name)
);
"""
_PUT = (
    "INSERT INTO objects (resource, namespace, name, version, body) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT DO UPDATE SET version = excluded.version, body = excluded.body"
)


class Journal(Protocol):
    """Where committed writes go. A call that returned is durable to the degree that was asked for."""

    def open(self) -> int:
        """Open or make it; return the resourceVersion handed out last, 0 for a new one."""
        ...

    def load(self) -> Iterator[tuple[str, str, str, int, bytes]]:
        """Yield (resource, namespace, name, resourceVersion, JSON) of every object."""
        ...

    def put(self, resource: str, namespace: str, name: str, version: int, body: bytes) -> None:
        """Store an object and its resourceVersion, all or nothing."""
        ...

    def remove(self, resource: str, namespace: str, name: str, version: int) -> None:
        """Remove an object; `version` is the resourceVersion of the removal."""
        ...

    def reserve(self, version: int) -> None:
        """Note that versions up to this one may be handed out; `open` returns at least it from now on."""
        ...

    def close(self) -> None:
        """Close; safe to repeat and after a failed open."""
        ...


class SqliteJournal:
    """A journal in one SQLite file, mode 0600 (SQLite gives its side files the same mode).

    Args:
        path: The file; made when absent.
        durability: `process` survives `kill -9` of any process, `power` also a power loss, at the price of
            one fsync per write.
    """

    def __init__(self, path: Path, *, durability: str) -> None:
        if durability not in ("process", "power"):
            raise ValueError(f"durability {durability!r} is neither 'process' nor 'power'")
        self._path = path
        self._durability = durability
        self._db: sqlite3.Connection | None = None

    def open(self) -> int:
        """Open or make the file.

        Raises:
            StoreVersionError: A newer Pelton wrote it.
            HomeInUseError: Another process has it open.
            HomeError: It cannot be read or written, or it is no store.
        """
        where = str(self._path)
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._path.chmod(0o600)
            self._db = sqlite3.connect(self._path, isolation_level=None, timeout=0.2)
            return self._prepare(self._db)
        except OSError as error:
            self.close()
            raise HomeError(
                f"the store cannot be opened: {error.strerror}", where=where, hint="Check owner and mode."
            ) from error
        except sqlite3.Error as error:
            self.close()
            if "locked" in str(error):
                raise HomeInUseError(
                    "another process has the store open",
                    where=where,
                    hint="Stop the running platform first: pelton down.",
                ) from error
            raise HomeError(
                f"the store cannot be read: {error}",
                where=where,
                hint="Restore the file from a copy, or move it away to start empty.",
            ) from error
        except BaseException:
            self.close()
            raise

    def _prepare(self, db: sqlite3.Connection) -> int:
        # Exclusive before WAL: then SQLite keeps the lock for good and needs no shared-memory file.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if self._durability == 'power' else 'NORMAL'}")
        db.execute("BEGIN EXCLUSIVE")
        try:
            version = self._check(db)
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
        return version

    def _check(self, db: sqlite3.Connection) -> int:
        where = str(self._path)
        tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        identity = db.execute("PRAGMA application_id").fetchone()[0]
        if not tables:
            for statement in _TABLES.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            db.execute("INSERT INTO meta VALUES ('schema', ?), ('version', 0)", (SCHEMA,))
            return 0
        if identity != _APPLICATION_ID or "meta" not in tables:
            raise HomeError("this SQLite file is not a Pelton store", where=where, hint="Move it away.")
        meta = dict(db.execute("SELECT key, value FROM meta"))
        if meta.get("schema", 0) > SCHEMA:
            raise StoreVersionError(
                f"the store has layout {meta['schema']}, this Pelton knows layouts up to {SCHEMA}",
                where=where,
                hint="Install the newer Pelton again, or set PELTON_HOME to an empty directory and apply "
                "the manifests there.",
            )
        return int(meta["version"])

    def load(self) -> Iterator[tuple[str, str, str, int, bytes]]:
        """Yield every object, in no particular order."""
        yield from self._connection.execute("SELECT resource, namespace, name, version, body FROM objects")

    def put(self, resource: str, namespace: str, name: str, version: int, body: bytes) -> None:
        """Store an object; raises HomeError, and then nothing is stored, when the disk refuses."""
        self._commit(version, _PUT, (resource, namespace, name, version, body))

    def remove(self, resource: str, namespace: str, name: str, version: int) -> None:
        """Remove an object; raises HomeError, and then it stays, when the disk refuses."""
        statement = "DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?"
        self._commit(version, statement, (resource, namespace, name))

    def reserve(self, version: int) -> None:
        """Note that versions up to this one may be handed out; raises HomeError when the disk refuses."""
        self._commit(version, "", ())

    def _commit(self, version: int, statement: str, values: tuple[str | int | bytes, ...]) -> None:
        db = self._connection
        try:
            db.execute("BEGIN IMMEDIATE")
            if statement:
                db.execute(statement, values)
            db.execute("UPDATE meta SET value = MAX(value, ?) WHERE key = 'version'", (version,))
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            full = (
                error.sqlite_errorcode == sqlite3.SQLITE_FULL if hasattr(error, "sqlite_errorcode") else False
            )
            raise (StoreFullError if full else HomeError)(
                f"the store cannot be written: {error}",
                where=str(self._path),
                hint="Nothing was changed; free disk space or repair the file system, then repeat.",
            ) from error

    def close(self) -> None:
        """Fold the write-ahead log into the file and close."""
        db, self._db = self._db, None
        if db is not None:
            db.close()

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise HomeError("the store is closed", where=str(self._path))
        return self._db
