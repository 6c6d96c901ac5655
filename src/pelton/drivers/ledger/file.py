"""The file of a ledger: its tables, its bounds, and which processes have something of it.

Each process names itself by a file that it keeps locked; what it was given is its own until it finishes it,
gives it back, or ends, which frees the lock however it ends. `bus.py` calls all of this on its one thread.
Files of a newer form are refused.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pelton import errors
from pelton.model.subject import covers

if TYPE_CHECKING:
    import sqlite3

__all__ = ["MAX_BYTES", "LedgerFile", "Transaction", "hint_for"]

MAX_BYTES: Final = 1 << 30
"""Size of the file beyond which nothing more is stored."""

_VERSION: Final = 1
_BUSY_S: Final = 5.0
_HOLDER: Final = "holder-"
_MAKE: Final = (
    "CREATE TABLE messages (sequence INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, "
    "id TEXT NOT NULL, data BLOB NOT NULL, headers BLOB NOT NULL, stored_at REAL NOT NULL)",
    "CREATE INDEX messages_by_id ON messages (topic, id)",
    "CREATE TABLE consumers (number INTEGER PRIMARY KEY, topic TEXT NOT NULL, name TEXT NOT NULL, "
    "UNIQUE (topic, name))",
    # What a consumer has not finished; `holder` is the process that has it now.
    "CREATE TABLE waiting (consumer INTEGER NOT NULL, sequence INTEGER NOT NULL, due_at REAL NOT NULL, "
    "holder TEXT NOT NULL DEFAULT '', PRIMARY KEY (consumer, sequence)) WITHOUT ROWID",
    "CREATE INDEX waiting_by_time ON waiting (consumer, holder, due_at, sequence)",
    "CREATE INDEX waiting_by_message ON waiting (sequence)",
    "CREATE TABLE ids (topic TEXT NOT NULL, id TEXT NOT NULL, stored_at REAL NOT NULL, "
    "PRIMARY KEY (topic, id)) WITHOUT ROWID",
    "CREATE TABLE attempts (owner TEXT NOT NULL, key TEXT NOT NULL, attempts INTEGER NOT NULL, "
    "stored_at REAL NOT NULL, PRIMARY KEY (owner, key)) WITHOUT ROWID",
    f"PRAGMA user_version = {_VERSION}",
)


class LedgerFile:
    """A SQLite file in a directory, and this process's place among those that have it open.

    Args:
        folder: Holds `ledger.db` and a file per process that has something of it; made when it is needed.
        max_bytes: Largest size of the file.

    Attributes:
        path: The file.
        holder: This process's name, "" while it has not opened the file.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._connection: sqlite3.Connection | None = None
        self._lock_fd = -1
        self.path = folder / "ledger.db"
        self.holder = ""

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    def stamp(self) -> tuple[int, int] | None:
        """Return what changes with every write by whomever; None where nothing was ever stored."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        with contextlib.suppress(OSError):
            found = self.path.with_name(f"{self.path.name}-wal").stat()
        return found.st_mtime_ns, found.st_size

    def connect(self) -> sqlite3.Connection:
        """Return the connection; the first call makes what is not there, and takes what the dead have.

        Raises:
            DeliveryError: The file is of a newer form.
            OSError: A directory or file cannot be made.
            sqlite3.Error: The file cannot be used.
        """
        if self._connection is not None:
            return self._connection
        import sqlite3

        for directory in reversed((self._folder, *self._folder.parents)):
            directory.mkdir(exist_ok=True, mode=0o700)
        self._hold()
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
        try:
            connection.create_function("covers", 2, covers, deterministic=True)
            connection.execute("PRAGMA journal_mode = WAL")
            # A killed process loses nothing; what power takes is what design decision 11 lets it take.
            connection.execute("PRAGMA synchronous = NORMAL")
            self._prepare(connection)
            page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {max(1, self._max_bytes // page_bytes)}")
            self.reap(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def disconnect(self) -> None:
        """Give back what this process holds, and close. Safe to repeat."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # full: whoever comes next finds the lock free
                self.free(connection, self.holder)
            connection.close()
        if self.holder:
            (self._folder / f"{_HOLDER}{self.holder}").unlink(missing_ok=True)
            os.close(self._lock_fd)
            self.holder = ""

    def _prepare(self, connection: sqlite3.Connection) -> None:
        with Transaction(connection):
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise errors.DeliveryError(
                    f"{self.path} was written by a newer Pelton: its form is {version}, known is {_VERSION}",
                    hint="Use that version, or move the file away.",
                )
            if version < _VERSION:
                for statement in _MAKE:
                    connection.execute(statement)

    def _hold(self) -> None:
        """Name this process by a file that is locked before others can see it."""
        if self.holder:
            return
        name = secrets.token_hex(8)
        fresh = self._folder / f".{name}"
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fresh.rename(self._folder / f"{_HOLDER}{name}")
        except BaseException:
            os.close(fd)
            fresh.unlink(missing_ok=True)
            raise
        self.holder, self._lock_fd = name, fd

    # --- who holds what -------------------------------------------------------------------------------------

    @staticmethod
    def free(connection: sqlite3.Connection, holder: str, consumer: int = 0) -> None:
        """Take what a process holds away from it, of one consumer or of all (0)."""
        values = (holder, consumer, consumer)
        some = "holder = ? AND (? = 0 OR consumer = ?)"
        if connection.execute(f"SELECT 1 FROM waiting WHERE {some} LIMIT 1", values).fetchone():  # noqa: S608 -- our words
            connection.execute(f"UPDATE waiting SET holder = '' WHERE {some}", values)  # noqa: S608 -- our words

    def others(self) -> list[str]:
        """Return the names of other processes, dead ones included."""
        try:
            names = [path.name.removeprefix(_HOLDER) for path in self._folder.glob(f"{_HOLDER}*")]
        except OSError:
            return []
        return [name for name in names if name != self.holder]

    def reap(self, connection: sqlite3.Connection) -> None:
        """Take what ended processes hold away from them: their locks are free, or their files gone."""
        rows = connection.execute(
            "SELECT DISTINCT holder FROM waiting WHERE holder NOT IN ('', ?)", (self.holder,)
        )
        for holder in {row[0] for row in rows}.union(self.others()):
            path = self._folder / f"{_HOLDER}{holder}"
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                self.free(connection, holder)
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.free(connection, holder)
                path.unlink(missing_ok=True)
            except BlockingIOError:
                continue  # it lives, or somebody else looks right now
            finally:
                os.close(fd)


class Transaction:
    """A block that is carried out as a whole, or not at all; the only writer while it lasts."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_exc: object) -> None:
        if kind is None:
            try:
                self._connection.execute("COMMIT")
                return
            except BaseException:
                self._undo()
                raise
        self._undo()

    def _undo(self) -> None:
        if self._connection.in_transaction:  # SQLite itself ends one whose disk is full
            self._connection.execute("ROLLBACK")


def hint_for(exc: Exception, max_bytes: int) -> str:
    """Return what to do about an error of SQLite or of the system, "" where nothing is known."""
    name: str = getattr(exc, "sqlite_errorname", "")
    name = name or errno.errorcode.get(getattr(exc, "errno", None) or 0, "")
    if name in {"SQLITE_FULL", "ENOSPC", "EDQUOT", "EFBIG"} or name.startswith("SQLITE_IOERR"):
        return f"Make room on its disk; the file takes at most {max_bytes >> 20} MiB, dead letters included."
    if name in {"SQLITE_NOTADB", "SQLITE_CORRUPT"}:
        return "It is damaged. Move it away: a new one is begun."
    return ""
