"""Triggers of `pelton run`: schedules fire, topics of a NATS server that the metadata name are consumed.

A small stand-in for the dispatcher: no durable record of attempts, no retry stream and no dead letters. An
event that fails comes back as often as on the platform and is then given up with a line. Used by
`run_outputs.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from pelton.cli.printing import tell
from pelton.cli.tables import resolve_driver
from pelton.clock import Clock
from pelton.dataplane import wire
from pelton.dataplane.dispatcher import to_event
from pelton.errors import ComponentError, PeltonError
from pelton.model.desired import Component, Subscription
from pelton.ports import Bus, Delivery

__all__ = ["Triggers"]

_CRON: Final = "bindings.cron"
_NATS: Final = "pubsub.jetstream"
_AGAIN_S: Final = 2.0
_BUSY_S: Final = 0.5
_IN_FLIGHT: Final = 100


class Triggers:
    """All triggers of the function.

    Args:
        subscriptions: What drives it.
        clock: Time.
        bus_of: Connects to the server that a component names.
    """

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        *,
        clock: Clock,
        bus_of: Callable[[Component], Awaitable[Bus]],
    ) -> None:
        self._subscriptions = subscriptions
        self._clock = clock
        self._bus_of = bus_of
        self._waiting: dict[str, asyncio.Future[tuple[str, str]]] = {}
        self._attempts: dict[str, int] = {}
        self._handlers: set[asyncio.Task[None]] = set()
        self._number = 0

    @asynccontextmanager
    async def firing(self, peer: wire.Peer) -> AsyncIterator[None]:
        """Let them fire while the context lasts; what cannot is told in the terminal."""
        feeds = []
        for subscription in self._subscriptions:
            trouble = self._trouble(subscription)
            if trouble:
                _tell(subscription, f"does not fire here: {trouble}")
            else:
                feeds.append(asyncio.create_task(self._feed(subscription, peer)))
        try:
            yield
        finally:
            tasks = [*feeds, *self._handlers]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def outcomes(self, _peer: wire.Peer, body: Any) -> None:
        """Take what the worker says about events that it got."""
        for invocation_id, outcome, reason in body:
            future = self._waiting.pop(invocation_id, None)
            if future is not None and not future.done():
                future.set_result((outcome, reason))

    def _trouble(self, subscription: Subscription) -> str:
        component = subscription.component
        if component.type == _CRON:
            try:
                self._cron(component)
            except ComponentError as exc:
                return exc.message
            return ""
        if component.type != _NATS:
            return (
                f"{component.type or 'a trigger without type'} needs the platform (pelton up, pelton deploy)"
            )
        if not subscription.topic:
            return "it has no topic"
        if not any(key.lower() == "natsurl" for key in component.metadata):
            return "its metadata name no server (natsURL)"
        return ""

    def _cron(self, component: Component) -> Bus:
        where = f"trigger {component.name}"
        bus: Bus = resolve_driver(component.type)(component.metadata, clock=self._clock, where=where)
        return bus

    async def _feed(self, subscription: Subscription, peer: wire.Peer) -> None:
        component = subscription.component
        said = ""
        while True:
            try:
                bus = self._cron(component) if component.type == _CRON else await self._bus_of(component)
                batches = bus.subscribe(
                    subscription.topic,
                    consumer=f"run.{subscription.id}",
                    max_in_flight=_IN_FLIGHT,
                    options=component.metadata,
                )
                async for batch in batches:
                    said = ""
                    for delivery in batch:
                        task = asyncio.create_task(self._handle(subscription, delivery, peer))
                        self._handlers.add(task)
                        task.add_done_callback(self._handlers.discard)
            except (PeltonError, ConnectionError, TimeoutError) as exc:
                if str(exc) != said:
                    said = str(exc)
                    _tell(subscription, said)
            await self._clock.sleep(_AGAIN_S)

    async def _handle(self, subscription: Subscription, delivery: Delivery, peer: wire.Peer) -> None:
        key = f"{subscription.id}:{delivery.key}"
        attempt = self._attempts.get(key, 0) + 1
        event = to_event(subscription, delivery.message, key=delivery.key, attempt=attempt)
        self._number += 1
        invocation_id = f"{delivery.key}-{attempt}-{self._number}"
        future = self._waiting[invocation_id] = asyncio.get_running_loop().create_future()
        peer.note("events", [[invocation_id, event, 0.0]])
        outcome, reason = await future
        try:
            if outcome == "ok":
                await delivery.ack()
            elif outcome == "busy":
                await delivery.nak(_BUSY_S)
                return
            else:
                if outcome == "error" and attempt < subscription.max_attempts:
                    _tell(subscription, f"attempt {attempt} failed: {reason}")
                    self._attempts[key] = attempt
                    await delivery.nak(
                        min(subscription.max_backoff_s, subscription.backoff_s * 2 ** (attempt - 1))
                    )
                    return
                _tell(subscription, f"given up after attempt {attempt}: {reason}")
                await delivery.term()
        except (PeltonError, ConnectionError, TimeoutError) as exc:
            _tell(subscription, f"{delivery.key} will come again: {exc}")
        self._attempts.pop(key, None)


def _tell(subscription: Subscription, what: str) -> None:
    tell(f"trigger {subscription.name}: {what}")
