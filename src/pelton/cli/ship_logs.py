"""`pelton ship-logs`: log records of this machine into a topic, as a log shipper does; needs no platform.

Takes from `bindings.logs`, or from the functions of the running platform, and publishes what comes as it is.
A record is finished where it came from once the broker has stored it, in order; while the broker is away
nothing more is read.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from pelton import log
from pelton.cli.buses import open_bus
from pelton.cli.home import Home
from pelton.clock import Clock, SystemClock
from pelton.drivers.nats import JetStreamBus
from pelton.errors import ComponentError, DeliveryError, ManifestError, PeltonError, UsageError
from pelton.manifest import dapr
from pelton.manifest.text import parse
from pelton.model.desired import Component
from pelton.ports import Bus, Delivery, Message

__all__ = ["ShipOptions", "ship", "ship_logs"]

_IN_FLIGHT: Final = 1000
_AGAIN_S: Final = 1.0
_CONSUMER: Final = "ship-logs"

_log = log.get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShipOptions:
    """What is shipped where.

    Attributes:
        metadata: Of the `bindings.logs` that is read; empty with `functions`.
        functions: Namespace whose functions' records are read, `*` for all; "" for none.
        topic: Where they go.
        to: File with the Component of a broker; None with `brokers`, or for the platform's own bus.
        brokers: Kafka's addresses; "" for none.
        state: Where positions are kept; None for the home.
    """

    topic: str
    metadata: Mapping[str, str]
    functions: str = ""
    to: Path | None = None
    brokers: str = ""
    state: Path | None = None


def ship_logs(home: Home, options: ShipOptions) -> int:
    """Ship until SIGTERM or SIGINT; says at the end how many records went."""
    log.setup("ship-logs")
    print(f"shipped {asyncio.run(_run(home, options))} records to {options.topic}")
    return 0


async def _run(home: Home, options: ShipOptions) -> int:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(_target(home, options, clock))
        if options.functions:
            source: Bus = await stack.enter_async_context(JetStreamBus(home.endpoints().nats))
            topic = "logs.>" if options.functions == "*" else f"logs.{options.functions}.*"
        else:
            component = Component(
                namespace="cli", name="ship-logs", type="bindings.logs", metadata=dict(options.metadata)
            )
            place = home if options.state is None else Home(options.state)
            source, topic = await open_bus(component, clock=clock, home=place), ""
            stack.push_async_callback(cast(Any, source).close)
        counter = [0]
        shipping = asyncio.create_task(
            ship(source, topic, target, options.topic, clock=clock, counter=counter), name="ship-logs"
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, shipping.cancel)
        print(f"shipping log records to {options.topic}", flush=True)
        try:
            await shipping
        except asyncio.CancelledError:
            pass
        return counter[0]


async def ship(
    source: Bus, topic: str, target: Bus, to: str, *, clock: Clock, counter: list[int] | None = None
) -> None:
    """Bring everything from one bus to a topic of another until cancelled.

    Args:
        source: Where records come from.
        topic: Topic there, "" for a source of one.
        target: Where they go.
        to: Topic there.
        clock: Times repetitions.
        counter: Its first item counts what was shipped.

    Raises:
        ComponentError: The source cannot be used.
    """
    trouble = ""
    while True:
        try:
            batches = source.subscribe(topic, consumer=_CONSUMER, max_in_flight=_IN_FLIGHT, options={})
            async with aclosing(cast(Any, batches)) as iterator:
                async for batch in iterator:
                    trouble = ""
                    await _publish(batch, target, to, clock)
                    await asyncio.gather(*(delivery.ack() for delivery in batch))
                    if counter is not None:
                        counter[0] += len(batch)
        except DeliveryError as exc:
            if str(exc) != trouble:
                _log.warning("records cannot be taken now: %s", exc)
            trouble = str(exc)
            await clock.sleep(_AGAIN_S)


async def _publish(batch: Sequence[Delivery], target: Bus, topic: str, clock: Clock) -> None:
    """Publish all of a batch; what is not stored is tried until it is, what never can be is dropped."""
    left, trouble = list(batch), ""
    while left:
        results = await asyncio.gather(
            *(
                target.publish(Message(topic=topic, data=delivery.message.data, id=delivery.key))
                for delivery in left
            ),
            return_exceptions=True,
        )
        failed = list[Delivery]()
        for delivery, result in zip(left, results, strict=True):
            if isinstance(result, DeliveryError) and not result.retriable:
                _log.warning("a record is dropped (%s): %s", delivery.key, result)
            elif isinstance(result, PeltonError | ConnectionError | TimeoutError):
                failed.append(delivery)
                if str(result) != trouble:
                    _log.warning("records wait: %s", result)
                trouble = str(result)
            elif isinstance(result, BaseException):
                raise result
        left = failed
        if left:
            await clock.sleep(_AGAIN_S)


@asynccontextmanager
async def _target(home: Home, options: ShipOptions, clock: Clock) -> AsyncIterator[Bus]:
    if options.to is None and not options.brokers:
        async with JetStreamBus(home.endpoints().nats) as bus:
            yield bus
        return
    component = Component(
        namespace="cli",
        name="kafka",
        type="pubsub.kafka",
        metadata={"brokers": options.brokers, "authType": "none"},
    )
    if options.to is not None:
        component = _component(options.to, os.environ)
    made = await open_bus(component, clock=clock, home=home)
    try:
        yield made
    finally:
        close = getattr(made, "close", None)
        if close is not None:
            await close()


def _component(path: Path, variables: Mapping[str, str]) -> Component:
    """Read the one Component of a file; secrets come by `envRef`, since there is no platform to ask."""
    try:
        text = path.read_text()
    except OSError as exc:
        raise UsageError(f"--to {path} cannot be read: {exc.strerror}") from exc
    found = parse(text, str(path))
    if found.errors:
        raise found.errors[0]
    documents = [each for each in found.documents if each.data.get("kind") == dapr.KIND]
    if len(documents) != 1:
        raise UsageError(f"--to {path} has {len(documents)} Components, one is needed")
    resource, problems = dapr.decode(documents[0].data)
    if problems:
        raise ManifestError(problems[0].message, where=documents[0].where(problems[0].path))
    metadata = dict[str, str]()
    for item in resource.spec.metadata:
        value: str | None = item.text
        if item.secret_key_ref is not None:
            raise UsageError(
                f"--to {path}: metadata `{item.name}` comes from a Secret", hint="Use envRef for it here."
            )
        if item.env_ref:
            value = variables.get(item.env_ref)
            if value is None:
                raise ComponentError(
                    f"metadata `{item.name}`: the variable {item.env_ref} is not set", where=str(path)
                )
        metadata[item.name] = value or ""
    spec = resource.spec
    return Component(
        namespace="cli",
        name=resource.name,
        type=spec.type,
        version=spec.version or "v1",
        metadata=metadata,
    )
