"""Retries, attempts and dead letters in a SQLite file: the ledger of an app that runs without a platform.

Implements `ports.Ledger` and `ports.StoredMessages`; `cli/dapr_alone.py` has one per app, `pelton dlq` reads.
`file.py` has the file and who else has it open. Nothing is stored, and SQLite is not loaded, before there is
something to store. One thread per ledger holds the connection. A disk that takes no more, or a file that is
as large as it may be, is a DeliveryError, which the dispatcher shows and tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from pelton import errors
from pelton.clock import Clock, rfc3339
from pelton.drivers.ledger.file import MAX_BYTES, LedgerFile, Transaction, hint_for
from pelton.log import get
from pelton.model.subject import covers
from pelton.ports import Delivery, Message, Stored

if TYPE_CHECKING:
    import sqlite3

__all__ = ["SqliteLedger"]

_T = TypeVar("_T")
_QUEUES: Final = "pelton.retry.>"
"""Topics whose messages are gone when they are acknowledged; others stay until they are removed."""
_LETTERS: Final = "pelton.dead.>"
_BATCH: Final = 256
_PAGE: Final = 100
_LOOK_S: Final = 1.0
_ROUNDS: Final = 5
"""Looks after which the file is asked all the same, and whether another process has ended."""
_AGAIN_S: Final = 1.0
_TIDY_S: Final = 60.0
_KNOWN_S: Final = 120.0
_ATTEMPTS_S: Final = 8 * 24 * 3600.0
_LARGEST_SHARE: Final = 8

_log = get(__name__)


class _Subscription:
    """What one consumer has been given in this process."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.changed = asyncio.Event()
        self.failed = False


class _Delivery:
    """One message held; see `ports.Delivery`."""

    def __init__(
        self,
        ledger: SqliteLedger,
        subscription: _Subscription,
        consumer: int,
        sequence: int,
        message: Message,
    ) -> None:
        self._ledger = ledger
        self._subscription = subscription
        self._consumer = consumer
        self._sequence = sequence
        self.message = message
        self.key = f"ledger:{sequence}"

    async def ack(self) -> None:
        """Finish it; waits for a disk that takes nothing now."""
        await self._end(lambda: self._ledger.finish(self._consumer, self._sequence))

    async def nak(self, delay_s: float) -> None:
        """Give it back for `delay_s` seconds; waits like `ack`."""
        await self._end(lambda: self._ledger.give_back(self._consumer, self._sequence, delay_s))

    async def term(self) -> None:
        """Finish it for good."""
        await self.ack()

    async def extend(self) -> None:
        """Nothing lapses while this process lives."""

    async def _end(self, action: Callable[[], Any]) -> None:
        if self._sequence not in self._subscription.held:
            return
        await action()
        self._subscription.held.discard(self._sequence)
        self._subscription.changed.set()


class SqliteLedger:
    """A ledger in a directory; an async context manager.

    Args:
        folder: Holds `ledger.db` and a file per process that has something of it; made when it is needed.
        clock: Times waits, in seconds since the epoch: they go on over a restart.
        max_bytes: Largest size of the file.
        look_s: Seconds between looks for what other processes have stored.
    """

    def __init__(
        self, folder: Path, *, clock: Clock, max_bytes: int = MAX_BYTES, look_s: float = _LOOK_S
    ) -> None:
        self._file = LedgerFile(folder, max_bytes=max_bytes)
        self._clock = clock
        self._max_bytes = max_bytes
        self._look_s = look_s
        self._thread: ThreadPoolExecutor | None = None
        self._subscriptions: dict[tuple[str, str], _Subscription] = {}
        self._reaped = self._tidied = 0.0
        self._trouble = ""

    async def __aenter__(self) -> SqliteLedger:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give back what is held, and close the file. Safe to repeat."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._file.disconnect)
            thread.shutdown(wait=False)

    # --- ports.Bus ------------------------------------------------------------------------------------------

    async def publish(self, message: Message) -> None:
        """Store a message, unless its id is known: for two minutes, and for as long as such a retry waits.

        Raises:
            DeliveryError: Not stored; for good where it is larger than an eighth of the file may be.
        """
        largest = self._max_bytes // _LARGEST_SHARE
        if len(message.data) > largest:
            raise errors.DeliveryError(
                f"a message of {len(message.data)} bytes exceeds {largest}",
                where=str(self._file.path),
                retriable=False,
            )
        await self._write(lambda connection: self._store(connection, message))
        for (topic, _), subscription in self._subscriptions.items():
            if covers(topic, message.topic):
                subscription.changed.set()

    async def subscribe(
        self, topic: str, *, consumer: str, max_in_flight: int, options: Mapping[str, str]
    ) -> AsyncIterator[Sequence[Delivery]]:
        """Iterate over batches; see `ports.Bus`. A new consumer begins with the oldest message kept.

        What this process holds of an earlier iteration is delivered again, unless an error ended that one:
        then its deliveries count, for they are still being worked on.
        """
        del options  # no broker, nothing to set
        state = self._subscriptions.setdefault((topic, consumer), _Subscription())
        again = not state.failed
        if again:
            state.held = set()
        state.failed = False
        while True:
            state.changed.clear()
            wait_s = self._look_s
            seen = self._file.stamp()
            room = min(_BATCH, max(1, max_in_flight) - len(state.held))
            if room > 0:
                try:
                    found = await self._read(partial(self._claim, (topic, consumer), room, again=again))
                except errors.DeliveryError:
                    state.failed = True
                    raise
                if found is not None:
                    number, rows, due_at = found
                    again = False
                    state.held.update(sequence for sequence, _ in rows)
                    if rows:
                        yield [_Delivery(self, state, number, *row) for row in rows]
                        continue
                    if due_at is not None:
                        wait_s = min(wait_s, max(0.0, due_at - self._now()))
            await self._look(state, seen, wait_s)

    async def _look(self, state: _Subscription, seen: tuple[int, int] | None, wait_s: float) -> None:
        """Wait for something to do: here, due, stored by another process, or left by one that has ended."""
        for _ in range(_ROUNDS):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await state.changed.wait()
                return
            if wait_s < self._look_s or self._file.stamp() != seen:
                return
        if seen and self._clock.monotonic() - self._reaped >= self._look_s:
            self._reaped = self._clock.monotonic()
            if self._file.others():
                await self._read(self._file.reap)

    async def pending(self, topic: str, *, consumer: str) -> int:
        """Return messages that the consumer has not finished, in any process; 0 for an unknown one."""
        row = await self._read(
            lambda connection: connection.execute(
                "SELECT count(*) FROM waiting JOIN consumers ON consumers.number = waiting.consumer "
                "WHERE consumers.topic = ? AND consumers.name = ?",
                (topic, consumer),
            ).fetchone(),
        )
        return int(row[0]) if row is not None else 0

    # --- ports.Ledger ---------------------------------------------------------------------------------------

    async def load_attempts(self, owner: str) -> dict[str, int]:
        """Return delivery key -> attempts of a subscription, of the last eight days."""
        rows = await self._read(
            lambda connection: connection.execute(
                "SELECT key, attempts FROM attempts WHERE owner = ?", (owner,)
            ).fetchall(),
        )
        return {str(key): int(count) for key, count in rows or ()}

    async def put_attempts(self, owner: str, key: str, attempts: int) -> None:
        """Record attempts; a smaller number of a process that did not know of others' changes nothing."""
        now = self._now()
        await self._write(
            lambda connection: connection.execute(
                "INSERT INTO attempts (owner, key, attempts, stored_at) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (owner, key) DO UPDATE SET attempts = max(attempts, excluded.attempts), "
                "stored_at = excluded.stored_at",
                (owner, key, attempts, now),
            )
        )

    async def delete_attempts(self, owner: str, key: str) -> None:
        """Forget attempts."""
        await self._write(
            lambda connection: connection.execute(
                "DELETE FROM attempts WHERE owner = ? AND key = ?", (owner, key)
            )
        )

    async def discard(self, topic: str, *, consumer: str) -> int:
        """Drop what waits on a topic and its consumer; see `ports.Ledger`."""

        def drop(connection: sqlite3.Connection) -> int:
            row = connection.execute(
                "SELECT number FROM consumers WHERE topic = ? AND name = ?", (topic, consumer)
            ).fetchone()
            count = 0
            if row is not None:
                count = connection.execute("DELETE FROM waiting WHERE consumer = ?", row).rowcount
                connection.execute("DELETE FROM consumers WHERE number = ?", row)
            connection.execute("DELETE FROM messages WHERE covers(?, topic)", (topic,))
            connection.execute("DELETE FROM waiting WHERE sequence NOT IN (SELECT sequence FROM messages)")
            return count

        count = await self._write(drop) if self._file.stamp() else 0
        state = self._subscriptions.pop((topic, consumer), None)
        if state is not None:
            state.held.clear()
        return count

    # --- ports.StoredMessages -------------------------------------------------------------------------------

    async def stored(self, topic: str, *, first: int = 1) -> AsyncIterator[Stored]:
        """Iterate over what is at rest under a pattern; see `ports.StoredMessages`."""

        def page(connection: sqlite3.Connection) -> list[tuple[int, float, Message]]:
            rows = connection.execute(
                "SELECT sequence, stored_at, topic, data, headers FROM messages "
                "WHERE sequence >= ? AND covers(?, topic) ORDER BY sequence LIMIT ?",
                (first, topic, _PAGE),
            )
            return [(sequence, stored_at, _message(*fields)) for sequence, stored_at, *fields in rows]

        while found := await self._read(page):
            for sequence, stored_at, message in found:
                time = rfc3339(datetime.fromtimestamp(stored_at, UTC))
                yield Stored(stream=str(self._file.path), sequence=sequence, time=time, message=message)
            first = found[-1][0] + 1

    async def counts(self) -> tuple[int, int]:
        """Return how many retries wait and how many dead letters there are."""
        return await self._read(_counts) or (0, 0)

    async def remove(self, stored: Stored) -> None:
        """Delete one message; safe to repeat."""

        def delete(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM waiting WHERE sequence = ?", (stored.sequence,))
            connection.execute("DELETE FROM messages WHERE sequence = ?", (stored.sequence,))

        await self._write(delete)

    # --- deliveries -----------------------------------------------------------------------------------------

    async def finish(self, consumer: int, sequence: int) -> None:
        """Take a message off a consumer; a retry that nobody else waits for is deleted."""

        def end(connection: sqlite3.Connection) -> None:
            connection.execute(
                "DELETE FROM waiting WHERE consumer = ? AND sequence = ?", (consumer, sequence)
            )
            connection.execute(
                "DELETE FROM messages WHERE sequence = ? AND covers(?, topic) "
                "AND NOT EXISTS (SELECT 1 FROM waiting WHERE waiting.sequence = messages.sequence)",
                (sequence, _QUEUES),
            )

        await self._insist(end)

    async def give_back(self, consumer: int, sequence: int, delay_s: float) -> None:
        """Let a message be delivered again after `delay_s` seconds."""
        due_at = self._now() + delay_s
        await self._insist(
            lambda connection: connection.execute(
                "UPDATE waiting SET holder = '', due_at = max(due_at, ?) WHERE consumer = ? AND sequence = ?",
                (due_at if delay_s > 0 else 0.0, consumer, sequence),
            )
        )

    async def _insist(self, action: Callable[[sqlite3.Connection], Any]) -> None:
        """Carry out what ends a delivery until it works: nobody else does it for this process."""
        while True:
            try:
                await self._write(action)
            except errors.DeliveryError as exc:
                if str(exc) != self._trouble:
                    self._trouble = str(exc)
                    _log.warning("%s; tried again every second", exc)
                await self._clock.sleep(_AGAIN_S)
            else:
                self._trouble = ""
                return

    # --- on the ledger's own thread -------------------------------------------------------------------------

    def _store(self, connection: sqlite3.Connection, message: Message) -> None:
        now = self._now()
        if message.id:
            named = (message.topic, message.id)
            known = connection.execute(
                "SELECT 1 FROM ids WHERE topic = ? AND id = ? AND stored_at > ?", (*named, now - _KNOWN_S)
            ).fetchone()
            if known is None and covers(_QUEUES, message.topic):
                known = connection.execute(
                    "SELECT 1 FROM messages WHERE topic = ? AND id = ?", named
                ).fetchone()
            if known is not None:
                return
            connection.execute(
                "INSERT OR REPLACE INTO ids (topic, id, stored_at) VALUES (?, ?, ?)", (*named, now)
            )
        cursor = connection.execute(
            "INSERT INTO messages (topic, id, data, headers, stored_at) VALUES (?, ?, ?, ?, ?)",
            (message.topic, message.id, message.data, msgspec.json.encode(dict(message.headers)), now),
        )
        connection.execute(
            "INSERT INTO waiting (consumer, sequence, due_at) "
            "SELECT number, ?, ? FROM consumers WHERE covers(topic, ?)",
            (cursor.lastrowid, now, message.topic),
        )
        if now - self._tidied >= _TIDY_S:
            self._tidy(connection, now)

    def _tidy(self, connection: sqlite3.Connection, now: float) -> None:
        self._tidied = now
        connection.execute("DELETE FROM ids WHERE stored_at <= ?", (now - _KNOWN_S,))
        connection.execute("DELETE FROM attempts WHERE stored_at <= ?", (now - _ATTEMPTS_S,))

    def _claim(
        self, who: tuple[str, str], room: int, connection: sqlite3.Connection, *, again: bool
    ) -> tuple[int, list[tuple[int, Message]], float | None]:
        """Take what is due; returns the consumer's number, messages, and when the next one is due."""
        number = self._consumer(connection, *who)
        if again:
            self._file.free(connection, self._file.holder, number)
        now = self._now()
        due = connection.execute(
            "SELECT sequence FROM waiting WHERE consumer = ? AND holder = '' AND due_at <= ? "
            "ORDER BY due_at, sequence LIMIT ?",
            (number, now, room),
        ).fetchall()
        if not due:
            row = connection.execute(
                "SELECT min(due_at) FROM waiting WHERE consumer = ? AND holder = ''", (number,)
            ).fetchone()
            return number, [], row[0]
        found = []
        with Transaction(connection):
            for (sequence,) in due:
                taken = connection.execute(
                    "UPDATE waiting SET holder = ? WHERE consumer = ? AND sequence = ? AND holder = ''",
                    (self._file.holder, number, sequence),
                ).rowcount
                row = connection.execute(
                    "SELECT topic, data, headers FROM messages WHERE sequence = ?", (sequence,)
                ).fetchone()
                if taken and row is not None:  # else another process was faster
                    found.append((sequence, _message(*row)))
        return number, found, now if not found else None

    def _consumer(self, connection: sqlite3.Connection, topic: str, name: str) -> int:
        """Return a consumer's number; a new one is given all messages that there are."""
        find = "SELECT number FROM consumers WHERE topic = ? AND name = ?"
        row = connection.execute(find, (topic, name)).fetchone()
        if row is None:
            with Transaction(connection):
                row = connection.execute(find, (topic, name)).fetchone()
                if row is None:
                    connection.execute("INSERT INTO consumers (topic, name) VALUES (?, ?)", (topic, name))
                    row = connection.execute(find, (topic, name)).fetchone()
                    connection.execute(
                        "INSERT INTO waiting (consumer, sequence, due_at) "
                        "SELECT ?, sequence, stored_at FROM messages WHERE covers(?, topic)",
                        (*row, topic),
                    )
        return int(row[0])

    def _open(self) -> sqlite3.Connection:
        known = self._file.is_open
        connection = self._file.connect()
        if not known:
            with contextlib.suppress(Exception):  # a full disk can still be read; it is done again later
                self._tidy(connection, self._now())
            counts = _counts(connection)
            if any(counts):
                _log.info("%d retries wait and %d dead letters are kept in %s", *counts, self._file.path)
        return connection

    # --- between --------------------------------------------------------------------------------------------

    async def _read(self, work: Callable[[sqlite3.Connection], _T]) -> _T | None:
        """Look at the file; None where there is none yet."""
        return await self._on_thread(work) if self._file.stamp() else None

    async def _write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        def write(connection: sqlite3.Connection) -> _T:
            with Transaction(connection):
                return work(connection)

        return await self._on_thread(write)

    async def _on_thread(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        def run() -> _T:
            import sqlite3

            try:
                return work(self._open())
            except (sqlite3.Error, OSError) as exc:
                raise errors.DeliveryError(
                    f"{self._file.path} cannot be used: {exc}", hint=hint_for(exc, self._max_bytes)
                ) from exc

        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _counts(connection: sqlite3.Connection) -> tuple[int, int]:
    count = "SELECT count(*) FROM messages WHERE covers(?, topic)"
    retries, letters = (connection.execute(count, (each,)).fetchone()[0] for each in (_QUEUES, _LETTERS))
    return int(retries), int(letters)


def _message(topic: str, data: bytes, headers: bytes) -> Message:
    return Message(topic=topic, data=data, headers=msgspec.json.decode(headers, type=dict[str, str]))
