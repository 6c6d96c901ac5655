"""`pelton topic` and `pelton dlq`: what is on the event bus, and events that a function did not accept.

Goes straight to the bus, or to the file of an app that ran without one; `dataplane/retry.py` knows how
retries and dead letters look there.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Container, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from pelton.cli.home import Home
from pelton.cli.logs import seconds_ago
from pelton.cli.printing import print_columns
from pelton.cli.runtime_process import ask_runtime
from pelton.cli.topic_brokers import broker, first_of, show_lag
from pelton.clock import SystemClock, rfc3339
from pelton.dataplane import retry
from pelton.drivers.nats import JetStreamBus
from pelton.errors import ComponentError, NotFoundError, NotRunningError, PeltonError, UsageError
from pelton.model import cloudevent
from pelton.notify.dead_letters import redriven
from pelton.ports import Message, Place, Stored, StoredMessages

__all__ = ["dead_letters", "divided", "lag", "publish", "redrive", "show_dead_letter", "tail"]

_WINDOW = 256
"""Publishes awaiting their confirmation at once."""


@asynccontextmanager
async def _bus(home: Home) -> AsyncIterator[JetStreamBus]:
    async with JetStreamBus(home.endpoints().nats) as bus:
        yield bus


def _bus_of(home: Home, component: str, namespace: str) -> AbstractAsyncContextManager[Any]:
    """Open a component's broker, or the embedded bus where none is named."""
    return broker(home, component, namespace) if component else _bus(home)


def publish(
    home: Home,
    topic: str,
    data: Sequence[str],
    *,
    headers: Sequence[str],
    raw: bool,
    component: str = "",
    namespace: str = "default",
) -> int:
    """Publish messages, as CloudEvents unless `raw`; returns when the broker has stored all of them."""
    payloads = [payload for item in data for payload in _payloads(item)]
    fields = dict(_header(line) for line in headers)
    try:
        asyncio.run(_publish(_bus_of(home, component, namespace), topic, payloads, fields, raw=raw))
    except ExceptionGroup as group:
        raise first_of(group) from None
    print(f"published {len(payloads)} message{'s' if len(payloads) != 1 else ''} on {topic}")
    return 0


async def _publish(
    opened: AbstractAsyncContextManager[Any],
    topic: str,
    payloads: Sequence[bytes],
    headers: dict[str, str],
    *,
    raw: bool,
) -> None:
    slots = asyncio.Semaphore(_WINDOW)

    async def one(payload: bytes) -> None:
        async with slots:
            await bus.publish(_message(topic, payload, headers, raw=raw))

    async with opened as bus, asyncio.TaskGroup() as group:
        for payload in payloads:
            group.create_task(one(payload))


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


def tail(
    home: Home,
    topic: str,
    *,
    since: str | None,
    count: int,
    component: str = "",
    namespace: str = "default",
) -> int:
    """Print messages as they come, one line each: topic, then payload."""
    begin = None if since is None else seconds_ago(since, "--since")
    asyncio.run(_tail(_bus_of(home, component, namespace), topic, since_s=begin, count=count))
    return 0


async def _tail(
    opened: AbstractAsyncContextManager[Any], topic: str, *, since_s: float | None, count: int
) -> None:
    shown = 0
    async with opened as bus:
        if not hasattr(bus, "follow"):
            raise ComponentError("this broker's messages cannot be read beside its consumers")
        if since_s is not None:
            async for batch in bus.read(topic, first=Place(time_s=since_s), last=Place()):
                for recorded in batch:
                    _print(recorded.message)
                    shown += 1
                    if shown == count:
                        return
        async for message in bus.follow(topic):
            _print(message)
            shown += 1
            if shown == count:
                return


def _print(message: Message) -> None:
    print(f"{message.topic}  {message.data.decode('utf-8', 'replace')}", flush=True)


def lag(home: Home, *, output: str, component: str = "", namespace: str = "default") -> int:
    """Show what waits for each durable consumer, or for those of a component's broker."""
    if component:
        return show_lag(home, component, namespace, output=output)

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


@asynccontextmanager
async def _shelf(home: Home, app_id: str, namespace: str) -> AsyncIterator[StoredMessages]:
    """Open what has the dead letters: the bus, or the file of an app that ran without a platform."""
    if app_id:
        from pelton.drivers.ledger import SqliteLedger

        async with SqliteLedger(home.dapr_ledger(namespace, app_id), clock=SystemClock()) as ledger:
            yield ledger
        return
    try:
        url = home.endpoints().nats
    except NotRunningError as exc:
        exc.hint += "; --app-id ID shows those of an app of `pelton dapr run` without a platform"
        raise
    async with JetStreamBus(url) as bus:
        yield bus


async def _letters(shelf: StoredMessages, function: str, namespace: str) -> list[tuple[Stored, retry.Letter]]:
    found = []
    async for stored in shelf.stored(retry.DEAD_TOPICS):
        letter = retry.letter(stored.message)
        if not function or letter.subscription.startswith(f"{namespace}.{function}."):
            found.append((stored, letter))
    return found


def dead_letters(home: Home, function: str, *, namespace: str, output: str, app_id: str = "") -> int:
    """List dead letters, oldest first; with `app_id` those of an app that ran without a platform."""

    async def ask() -> list[tuple[Stored, retry.Letter]]:
        async with _shelf(home, app_id, namespace) as shelf:
            return await _letters(shelf, function, namespace)

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


def show_dead_letter(home: Home, number: int, *, namespace: str, app_id: str = "") -> int:
    """Print one dead letter."""

    async def ask() -> retry.Letter:
        async with _shelf(home, app_id, namespace) as shelf:
            return retry.letter((await _one(shelf, number)).message)

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


async def _one(shelf: StoredMessages, number: int) -> Stored:
    async for stored in shelf.stored(retry.DEAD_TOPICS, first=number):
        if stored.sequence == number:
            return stored
        break
    raise NotFoundError(f"there is no dead letter {number}", hint="see: pelton dlq list")


def redrive(home: Home, letters: Sequence[int], *, function: str, namespace: str, app_id: str = "") -> int:
    """Give dead letters back to their subscriptions; a letter goes only after its event is stored again.

    Letters of a subscription that does not exist now are left, since nobody would find their events again.

    Returns:
        Exit code: 1 when some were left.
    """

    async def work() -> tuple[int, Counter[str]]:
        taken = None if app_id else await _subscriptions(home)
        async with _shelf(home, app_id, namespace) as shelf:
            if letters:
                chosen = [await _one(shelf, number) for number in letters]
            else:
                chosen = [stored for stored, _ in await _letters(shelf, function, namespace)]
            wanted, left = divided(chosen, taken)
            for stored in wanted:
                key = str(stored.sequence)
                again = redriven(stored.message, key=key) or retry.redrive(stored.message, key=key)
                await shelf.publish(again)
                await shelf.remove(stored)
            return len(wanted), left

    count, left = asyncio.run(work())
    print(f"redriven {count} dead letter{'s' if count != 1 else ''}")
    for subscription, number in sorted(left.items()):
        print(
            f"left {number} of {subscription}: nobody takes its events now; apply what it belongs to, and "
            "repeat this, or see: pelton dlq show",
            file=sys.stderr,
        )
    return 1 if left else 0


def divided(letters: Sequence[Stored], taken: Container[str] | None) -> tuple[list[Stored], Counter[str]]:
    """Return the dead letters whose events somebody takes, and how many others each subscription has.

    Args:
        letters: Any.
        taken: Ids of the subscriptions that there are; None where nobody knows.
    """
    wanted: list[Stored] = []
    left: Counter[str] = Counter()
    for stored in letters:
        subscription = retry.letter(stored.message).subscription
        # Others, such as notifications, have no subscription that could be missing.
        of_an_event = stored.message.topic == retry.dead_topic(subscription)
        if taken is not None and of_an_event and subscription not in taken:
            left[subscription] += 1
        else:
            wanted.append(stored)
    return wanted, left


async def _subscriptions(home: Home) -> frozenset[str] | None:
    """Return the ids of all subscriptions; None while the runtime process is being restarted."""
    try:
        answer = await ask_runtime(home, "stats", {})
    except (PeltonError, ConnectionError, TimeoutError):
        return None
    return frozenset(one["id"] for one in answer["subscriptions"])
