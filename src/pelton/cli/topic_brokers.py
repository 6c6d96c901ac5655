"""`pelton topic replay`, and `publish`, `tail` and `lag` of a component's broker.

The runtime says what a component is, with its secrets, over its private socket; the broker is then asked from
here, by the drivers that functions use. A replay gives stored messages to one function only, by its retry
stream: other subscribers do not see them. Called by `cli/commands.py` and `cli/topic.py`.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from pelton.cli.buses import open_bus
from pelton.cli.home import Home
from pelton.cli.logs import seconds_ago
from pelton.cli.printing import print_columns
from pelton.cli.runtime_process import ask_runtime
from pelton.clock import SystemClock
from pelton.dataplane import retry
from pelton.drivers.nats import JetStreamBus, is_embedded
from pelton.errors import ComponentError, NotFoundError, UsageError
from pelton.model.desired import Component, OutputBinding, Subscription
from pelton.ports import Message, Place

__all__ = ["broker", "place_of", "replay", "show_lag"]

_WINDOW: Final = 256
"""Messages on their way into the retry stream at once."""
_DURATION: Final = re.compile(r"(?:[0-9.]+(?:ns|us|ms|s|m|h|d))+")


def place_of(text: str, flag: str) -> Place:
    """Read an offset (`1200`), a time (RFC 3339), or how long ago (`10m`); "" is the begin or the end.

    Raises:
        UsageError: It is none of them.
    """
    if not text:
        return Place()
    if text.isdecimal():
        return Place(offset=int(text))
    if _DURATION.fullmatch(text):
        return Place(time_s=seconds_ago(text, flag))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{flag} {text!r} is neither an offset nor a time",
            hint="for example 1200, 2026-01-31T12:00:00Z, or 10m for ten minutes ago",
        ) from None
    return Place(time_s=(moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


async def _known(home: Home, namespace: str) -> tuple[list[Subscription], list[OutputBinding]]:
    home.endpoints()
    answer = await ask_runtime(home, "components", {"namespace": namespace})
    return (
        msgspec.convert(answer["subscriptions"], list[Subscription]),
        msgspec.convert(answer["outputs"], list[OutputBinding]),
    )


@asynccontextmanager
async def _opened(home: Home, component: Component) -> AsyncIterator[Any]:
    """Open a component's bus for a while."""
    url = home.endpoints().nats
    if component.type == "pubsub.jetstream" and is_embedded(component.metadata, url):
        async with JetStreamBus(url) as embedded:
            yield embedded
        return
    bus: Any = await open_bus(component, clock=SystemClock(), home=home)
    try:
        yield bus
    finally:
        close = getattr(bus, "close", None)
        if close is not None:
            await close()


@asynccontextmanager
async def broker(home: Home, name: str, namespace: str) -> AsyncIterator[Any]:
    """Open the bus of a component that a Function of a namespace uses.

    Raises:
        NotFoundError: No Function uses one of that name.
    """
    subscriptions, outputs = await _known(home, namespace)
    used = {each.component.name: each.component for each in outputs}
    used |= {each.component.name: each.component for each in subscriptions}
    if name not in used:
        listed = ", ".join(sorted(used)) or "none"
        raise NotFoundError(
            f"no Function in {namespace} uses a component {name!r}; there are: {listed}",
            hint="Components are known here once a Function takes from or sends to them.",
        )
    async with _opened(home, used[name]) as bus:
        yield bus


def show_lag(home: Home, component: str, namespace: str, *, output: str) -> int:
    """Show how far each consumer group of a Kafka cluster is."""

    async def ask() -> Sequence[Any]:
        async with broker(home, component, namespace) as bus:
            if not hasattr(bus, "lags"):
                raise ComponentError(f"{component} cannot tell how far its consumers are")
            found: Sequence[Any] = await bus.lags()
            return found

    rows: list[dict[str, Any]] = []
    for item in asyncio.run(ask()):
        if hasattr(item, "partition"):
            row = {
                "topic": item.topic,
                "partition": item.partition,
                "consumer": item.group,
                "waiting": item.waiting,
            }
        else:
            row = {"topic": item.topic, "partition": 0, "consumer": item.consumer, "waiting": item.waiting}
        rows.append(row)
    if output == "json":
        print(json.dumps(rows, indent=2))
    elif not rows:
        print("no consumers", file=sys.stderr)
    else:
        heading = ("TOPIC", "PARTITION", "CONSUMER", "WAITING")
        print_columns(heading, [[str(value) for value in row.values()] for row in rows])
    return 0


def replay(
    home: Home, topic: str, *, function: str, namespace: str, component: str, first: Place, last: Place
) -> int:
    """Give what a topic keeps to one function again; returns when all of it is stored for that."""
    try:
        count = asyncio.run(_replay(home, topic, function, namespace, component, first, last))
    except ExceptionGroup as group:
        raise first_of(group) from None
    print(f"replayed {count} message{'s' if count != 1 else ''} of {topic} to {namespace}/{function}")
    return 0


def first_of(group: ExceptionGroup[Exception]) -> Exception:
    """Return one of the errors: those of the other messages say the same."""
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _replay(
    home: Home, topic: str, function: str, namespace: str, component: str, first: Place, last: Place
) -> int:
    subscriptions, _ = await _known(home, namespace)
    chosen = choose(subscriptions, topic, function=function, namespace=namespace, component=component)
    ledger_url = home.endpoints().nats
    run = uuid.uuid4().hex[:8]
    slots = asyncio.Semaphore(_WINDOW)
    count = 0
    async with JetStreamBus(ledger_url) as ledger, _opened(home, chosen.component) as bus:
        if not hasattr(bus, "read"):
            raise ComponentError(
                f"messages of {chosen.component.type} cannot be read again",
                where=f"component {namespace}/{chosen.component.name}",
                hint="Kafka and JetStream keep theirs.",
            )

        async def store(message: Message) -> None:
            try:
                await ledger.publish(message)
            finally:
                slots.release()

        async with asyncio.TaskGroup() as group:
            async for batch in bus.read(topic, first=first, last=last):
                for recorded in batch:
                    again = retry.park(
                        recorded.message,
                        chosen.id,
                        key=f"{recorded.key}:replayed-{run}",
                        attempts=0,
                        not_before=0.0,
                    )
                    await slots.acquire()
                    group.create_task(store(again))
                    count += 1
    return count


def choose(
    subscriptions: Sequence[Subscription], topic: str, *, function: str, namespace: str, component: str
) -> Subscription:
    """Return the one subscription of a function that a topic's messages are for.

    Raises:
        NotFoundError: The function has none.
        UsageError: It has several.
    """
    own = [
        each
        for each in subscriptions
        if each.function == function
        and (each.topic == topic or (not each.topic and topic in _topics(each.component.metadata)))
        and component in {"", each.component.name, each.name}
    ]
    if not own:
        taken = sorted(
            {name for each in subscriptions if each.function == function for name in _of(each)} - {""}
        )
        raise NotFoundError(
            f"{namespace}/{function} does not take from {topic}",
            hint=f"It takes from {', '.join(taken)}." if taken else "No such Function has a topic here.",
        )
    if len(own) > 1:
        raise UsageError(
            f"{namespace}/{function} takes from {topic} by several components",
            hint=f"--component one of {', '.join(sorted(each.component.name for each in own))}",
        )
    return own[0]


def _of(subscription: Subscription) -> list[str]:
    return [subscription.topic] if subscription.topic else _topics(subscription.component.metadata)


def _topics(metadata: Mapping[str, str]) -> list[str]:
    text = next((value for key, value in metadata.items() if key.lower() == "topics"), "")
    return [part.strip() for part in text.split(",") if part.strip()]
