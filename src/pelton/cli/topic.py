"""`pelton topic` and `pelton dlq`: what is on the event bus, and events that a function did not accept.

Goes straight to the bus; `dataplane/retry.py` knows how retries and dead letters look on it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from pelton.cli.home import Home
from pelton.cli.logs import seconds_ago
from pelton.cli.printing import print_columns
from pelton.clock import SystemClock, rfc3339
from pelton.dataplane import retry
from pelton.drivers.nats import JetStreamBus, Stored
from pelton.errors import NotFoundError, UsageError
from pelton.model import cloudevent
from pelton.notify.dead_letters import redriven
from pelton.ports import Message

__all__ = ["dead_letters", "lag", "publish", "redrive", "show_dead_letter", "tail"]

_WINDOW = 256
"""Publishes awaiting their confirmation at once."""


@asynccontextmanager
async def _bus(home: Home) -> AsyncIterator[JetStreamBus]:
    async with JetStreamBus(home.endpoints().nats) as bus:
        yield bus


def publish(home: Home, topic: str, data: Sequence[str], *, headers: Sequence[str], raw: bool) -> int:
    """Publish messages, as CloudEvents unless `raw`; returns when the bus has stored all of them."""
    payloads = [payload for item in data for payload in _payloads(item)]
    fields = dict(_header(line) for line in headers)
    try:
        asyncio.run(_publish(home, topic, payloads, fields, raw=raw))
    except ExceptionGroup as group:
        raise _first(group) from None
    print(f"published {len(payloads)} message{'s' if len(payloads) != 1 else ''} on {topic}")
    return 0


async def _publish(
    home: Home, topic: str, payloads: Sequence[bytes], headers: dict[str, str], *, raw: bool
) -> None:
    slots = asyncio.Semaphore(_WINDOW)

    async def one(payload: bytes) -> None:
        async with slots:
            await bus.publish(_message(topic, payload, headers, raw=raw))

    async with _bus(home) as bus, asyncio.TaskGroup() as group:
        for payload in payloads:
            group.create_task(one(payload))


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """Return one of the errors: those of the other messages say the same."""
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _message(topic: str, payload: bytes, headers: dict[str, str], *, raw: bool) -> Message:
    identity = str(uuid4())
    if raw:
        return Message(topic=topic, data=payload, headers=headers, id=identity)
    try:
        json.loads(payload)
        content_type = "application/json"
    except ValueError:
        content_type = "text/plain"
    envelope = cloudevent.wrap(
        payload,
        content_type=content_type,
        id=identity,
        source="pelton/cli",
        topic=topic,
        pubsub="",
        time=rfc3339(SystemClock().now()),
    )
    fields = {"Content-Type": "application/cloudevents+json", **headers}
    return Message(topic=topic, data=cloudevent.to_json(envelope), headers=fields, id=identity)


def _payloads(item: str) -> list[bytes]:
    if item == "@-":
        return [line.rstrip(b"\n") for line in sys.stdin.buffer if line.strip()]
    if item.startswith("@"):
        try:
            return [Path(item[1:]).read_bytes()]
        except OSError as exc:
            raise UsageError(f"-d: {item[1:]} cannot be read: {exc.strerror}") from exc
    return [item.encode()]


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise UsageError(f"-H {line!r} is not `Name: value`")
    return name.strip(), value.strip()


def tail(home: Home, topic: str, *, since: str | None, count: int) -> int:
    """Print messages as they come, one line each: topic, then payload."""
    asyncio.run(_tail(home, topic, since=since, count=count))
    return 0


async def _tail(home: Home, topic: str, *, since: str | None, count: int) -> None:
    shown = 0
    async with _bus(home) as bus:
        if since is not None:
            begin = seconds_ago(since, "--since")
            async for stored in bus.stored(topic):
                if _epoch(stored.time) >= begin:
                    _print(stored.message)
                    shown += 1
                    if shown == count:
                        return
        async for message in bus.tail(topic):
            _print(message)
            shown += 1
            if shown == count:
                return


def _print(message: Message) -> None:
    print(f"{message.topic}  {message.data.decode('utf-8', 'replace')}", flush=True)


def _epoch(text: str) -> float:
    """Read an RFC 3339 time with up to nine fractional digits."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp() + float(f"0.{fraction or 0}")


def lag(home: Home, *, output: str) -> int:
    """Show what waits for each durable consumer."""

    async def ask() -> list[Any]:
        async with _bus(home) as bus:
            return await bus.lags()

    found = asyncio.run(ask())
    rows = [
        {
            "topic": item.topic,
            "consumer": item.consumer,
            "waiting": item.waiting,
            "unacked": item.unacked,
            "redelivered": item.redelivered,
        }
        for item in found
    ]
    if output == "json":
        print(json.dumps(rows, indent=2))
    elif not rows:
        print("no subscriptions", file=sys.stderr)
    else:
        heading = ("TOPIC", "CONSUMER", "WAITING", "UNACKED", "REDELIVERED")
        print_columns(heading, [[str(value) for value in row.values()] for row in rows])
    return 0


async def _letters(bus: JetStreamBus, function: str, namespace: str) -> list[tuple[Stored, retry.Letter]]:
    found = []
    async for stored in bus.stored(retry.DEAD_TOPICS):
        letter = retry.letter(stored.message)
        if not function or letter.subscription.startswith(f"{namespace}.{function}."):
            found.append((stored, letter))
    return found


def dead_letters(home: Home, function: str, *, namespace: str, output: str) -> int:
    """List dead letters, oldest first."""

    async def ask() -> list[tuple[Stored, retry.Letter]]:
        async with _bus(home) as bus:
            return await _letters(bus, function, namespace)

    rows = [
        {
            "number": stored.sequence,
            "subscription": letter.subscription,
            "topic": letter.topic,
            "attempts": letter.attempts,
            "failedAt": rfc3339(datetime.fromtimestamp(letter.failed_at, UTC)),
            "reason": letter.reason,
        }
        for stored, letter in asyncio.run(ask())
    ]
    if output == "json":
        print(json.dumps(rows, indent=2))
    elif not rows:
        print("no dead letters", file=sys.stderr)
    else:
        heading = ("NUMBER", "SUBSCRIPTION", "TOPIC", "ATTEMPTS", "FAILED AT", "REASON")
        print_columns(heading, [[str(value) for value in row.values()] for row in rows])
    return 0


def show_dead_letter(home: Home, number: int) -> int:
    """Print one dead letter."""

    async def ask() -> retry.Letter:
        async with _bus(home) as bus:
            return retry.letter((await _one(bus, number)).message)

    letter = asyncio.run(ask())
    print(f"subscription: {letter.subscription}")
    print(f"topic:        {letter.topic}")
    print(f"attempts:     {letter.attempts}")
    print(f"failed at:    {rfc3339(datetime.fromtimestamp(letter.failed_at, UTC))}")
    print(f"reason:       {letter.reason}")
    for name, value in letter.headers.items():
        print(f"header:       {name}: {value}")
    print()
    sys.stdout.flush()
    sys.stdout.buffer.write(letter.data + b"\n")
    sys.stdout.buffer.flush()
    return 0


async def _one(bus: JetStreamBus, number: int) -> Stored:
    async for stored in bus.stored(retry.DEAD_TOPICS, first=number):
        if stored.sequence == number:
            return stored
        break
    raise NotFoundError(f"there is no dead letter {number}", hint="see: pelton dlq list")


def redrive(home: Home, letters: Sequence[int], *, function: str, namespace: str) -> int:
    """Give dead letters back to their subscriptions; a letter goes only after its event is stored again."""

    async def work() -> int:
        async with _bus(home) as bus:
            if letters:
                chosen = [await _one(bus, number) for number in letters]
            else:
                chosen = [stored for stored, _ in await _letters(bus, function, namespace)]
            for stored in chosen:
                key = str(stored.sequence)
                again = redriven(stored.message, key=key) or retry.redrive(stored.message, key=key)
                await bus.publish(again)
                await bus.remove(stored)
            return len(chosen)

    count = asyncio.run(work())
    print(f"redriven {count} dead letter{'s' if count != 1 else ''}")
    return 0
