"""Brings events from brokers to functions: one feed per Subscription, bounded, at least once.

A feed iterates over the topic and over its own retry stream, unwraps CloudEvents, has the invoker deliver
each event and carries out what `retry.py` decides. An event is finished at the broker only after what
follows from it is stored: attempts before the NAK, the copy in the retry stream or the dead letter before
the ack. So the death of this process, or of the broker, at any point loses nothing and counts as no
attempt.
Events travel to workers in batches. Where a broker keeps an order (Kafka, within a partition), the events of
a lane are one run that grows while it goes on (`batching.py`); an event that fails ends it and is tried again
here, short waits included, before what is behind goes on; lanes run side by side.
Called by the runtime process, which hands in the bus of each component; `event_of.py` says what a function
gets, `lanes.py` keeps what is under way. Over 600 lines, since all of a feed acts on the same deliveries.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import msgspec

from pelton import errors
from pelton.clock import Clock
from pelton.dataplane import retry
from pelton.dataplane.batching import RunLength
from pelton.dataplane.event_of import to_event
from pelton.dataplane.event_parts import EventPart, parts_of
from pelton.dataplane.event_traces import NO_TRACES, EventTraces, Hop
from pelton.dataplane.lanes import Batch, Held, Lane, lost
from pelton.log import get
from pelton.model.desired import Component, Desired, Subscription
from pelton.model.invocation import Event
from pelton.plan import names
from pelton.ports import BatchInvoker, Bus, Delivery, EventResult, Invoker, Ledger, Message

__all__ = ["Dispatcher", "FeedStats", "Unwrap", "to_event"]

_EXTEND_S: Final = 5.0
_MEASURE_S: Final = 0.5
_AGAIN_S: Final = 1.0
# Brokers that keep an order give a partition's events in a row: while those wait, others should be there.
_AHEAD: Final = 4
# Parked events wait as unacked messages of the retry consumer; the broker's window must not end the waiting.
_RETRY_OPTIONS: Final = {"maxAckPending": "1000000"}

_log = get(__name__)


@dataclass(slots=True, kw_only=True)
class FeedStats:
    """Counters of one subscription.

    Attributes:
        pending: Events not finished, parked retries included, as last measured.
        due: Those of them that a worker could handle now: what scaling looks at.
        in_flight: Events held now.
        delivered: Events that ended well.
        failed: Attempts that did not.
        retried: Attempts that were given another try.
        dead: Dead letters written.
        lanes: Partitions held; 0 where the broker keeps no order. With order, as many workers have work.
    """

    pending: int = 0
    due: int = 0
    in_flight: int = 0
    delivered: int = 0
    failed: int = 0
    retried: int = 0
    dead: int = 0
    lanes: int = 0


def _options(subscription: Subscription) -> dict[str, str]:
    """Return the metadata of component and subscription; a consumer that neither names is Dapr's, the app."""
    metadata = {**subscription.component.metadata, **subscription.options}
    if any(name.lower() == "consumerid" for name in metadata):
        return metadata
    app_id = subscription.consumer or names.app_id(subscription.namespace, subscription.function)
    return {"consumerID": app_id, **metadata}


class Unwrap(Protocol):
    """Makes an event of a message, as `to_event` does; a ProtocolError makes it a dead letter."""

    def __call__(self, subscription: Subscription, message: Message, *, key: str, attempt: int) -> Event:
        """Return the event."""
        ...


class _Feed:
    """One Subscription's events, from the broker to their outcome."""

    def __init__(
        self,
        subscription: Subscription,
        timeout_s: float,
        *,
        invoker: Invoker,
        ledger: Ledger,
        bus_of: Callable[[Component], Awaitable[Bus]],
        clock: Clock,
        traces: EventTraces,
        unwrap: Unwrap,
    ) -> None:
        self._traces = traces
        self._unwrap = unwrap
        self.subscription = subscription
        self.timeout_s = timeout_s
        self.stats = FeedStats()
        self.trouble = ""
        self.ready = False  # whether its brokers have answered
        self._troubled_at = 0.0
        self._invoker = invoker
        self._ledger = ledger
        self._bus_of = bus_of
        self._clock = clock
        self._bus: Bus | None = None
        self._attempts: dict[str, int] = {}
        self._waiting: dict[str, float] = {}  # delivery key -> monotonic seconds when its NAK's delay ends
        self._held: dict[int, Held] = {}
        self._handlers: set[asyncio.Task[None]] = set()
        self._fetchers: list[asyncio.Task[None]] = []
        self._lanes: dict[str, Lane] = {}
        self.length = RunLength(2 * subscription.batch_size)
        self._done: list[Delivery] = []  # ended well; acknowledged together in the next turn of the loop
        self._old: set[int] = set()
        self._touched = True
        self.stopping = False
        self._next = 0

    # --- life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin fetching; a queue has no topic, only what is put into its retry stream."""
        name = self.subscription.id
        self._fetchers = [asyncio.create_task(self._fetch_retries(), name=f"retries-{name}")]
        if not self.subscription.queued:
            self._fetchers.append(asyncio.create_task(self._fetch_topic(), name=f"feed-{name}"))

    async def stop(self, grace_s: float) -> None:
        """Stop fetching, wait for what is in flight, leave the rest unacked: the broker keeps it."""
        self.stopping = True
        for task in self._fetchers:
            task.cancel()
        await asyncio.gather(*self._fetchers, return_exceptions=True)
        if self._handlers:
            await asyncio.wait(self._handlers, timeout=grace_s)
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _fetch_topic(self) -> None:
        subscription = self.subscription
        await self._insist(self._load)

        async def fetch() -> None:
            self._bus = bus = await self._bus_of(subscription.component)
            self._touched = True
            batches = bus.subscribe(
                subscription.topic,
                consumer=subscription.id,
                max_in_flight=subscription.max_in_flight * (1 if subscription.ordering == "none" else _AHEAD),
                options=_options(subscription),
            )
            async with aclosing(cast(Any, batches)) as iterator:
                async for batch in iterator:
                    self.trouble = ""
                    self._take(batch)

        await self._insist(fetch)

    async def _fetch_retries(self) -> None:
        async def fetch() -> None:
            batches = self._ledger.subscribe(
                retry.retry_topic(self.subscription.id),
                consumer=self.subscription.id,
                max_in_flight=self.subscription.max_in_flight,
                options=_RETRY_OPTIONS,
            )
            async with aclosing(cast(Any, batches)) as iterator:
                async for batch in iterator:
                    for delivery in batch:
                        self._begin(delivery, self._handle_parked(delivery))

        await self._insist(fetch)

    async def _insist(self, action: Callable[[], Awaitable[None]], *, unless_final: bool = False) -> None:
        """Carry out an action that talks to a broker until it works; what hinders it shows in the stats.

        With `unless_final`, a refusal that no further attempt can cure is raised.
        """
        while True:
            try:
                await action()
                return
            except (errors.PeltonError, ConnectionError, TimeoutError) as exc:
                if unless_final and isinstance(exc, errors.DeliveryError) and not exc.retriable:
                    raise
                if str(exc) != self.trouble:
                    _log.warning("subscription %s: %s", self.subscription.id, exc)
                self.note(exc)
                await self._clock.sleep(_AGAIN_S)

    def note(self, exc: Exception) -> None:
        """Remember what keeps the feed from a broker, until it has worked for a while."""
        self.trouble = str(exc) or type(exc).__name__
        self._troubled_at = self._clock.monotonic()

    async def _load(self) -> None:
        self._attempts = await self._ledger.load_attempts(self.subscription.id)

    async def extend(self) -> None:
        """Renew what was held at the last call already, so that the broker does not give it to others."""
        old, self._old = self._old, set(self._held)
        for number in old & self._old:
            held = self._held.get(number)
            for delivery in held.open() if held is not None else ():
                await delivery.extend()

    # --- what has arrived -----------------------------------------------------------------------------------

    def _take(self, deliveries: Sequence[Delivery]) -> None:
        """Put each delivery into its lane, and what has none into batches."""
        free: list[Delivery] = []
        lanes = self._lanes
        self.stats.in_flight += len(deliveries)
        self._touched = True
        lane_of = self._lane_of
        for delivery in self._split(deliveries):
            name = lane_of(delivery)
            if not name:
                free.append(delivery)
                continue
            lane = lanes.get(name)
            if lane is None:
                lane = lanes[name] = Lane(self, self._clock)
                self._spawn(self._work_through(name, lane))
            lane.queue.append(delivery)
        size = self.subscription.batch_size
        for first in range(0, len(free), size):
            self._spawn(self._work_off(free[first : first + size]))

    def _split(self, deliveries: Sequence[Delivery]) -> Iterable[Delivery]:
        """Return deliveries, batches of CloudEvents as their events."""
        for delivery in deliveries:
            parts = parts_of(delivery) if delivery.message.data[:1] == b"[" else None
            if parts is None:
                yield delivery
                continue
            self.stats.in_flight += len(parts) - 1
            yield from parts
            if not parts:
                self._spawn(self._settle_empty(delivery))

    async def _settle_empty(self, delivery: Delivery) -> None:
        try:
            await delivery.ack()
        except errors.PeltonError as exc:
            _log.warning("subscription %s: %s: %s", self.subscription.id, delivery.key, exc)

    def _begin(self, delivery: Delivery, work: Any) -> None:
        self.stats.in_flight += 1
        self._touched = True
        self._spawn(self._guard(work, delivery))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)

    def _hold(self, held: Held) -> int:
        self._next += 1
        self._held[self._next] = held
        return self._next

    def _lane_of(self, delivery: Delivery) -> str:
        """Return what an event has to wait for, "" for nothing."""
        if isinstance(delivery, EventPart):
            return delivery.lane
        ordering = self.subscription.ordering
        lane: str = getattr(delivery, "lane", "") if ordering != "none" else ""
        if lane and ordering == "key":
            key = getattr(delivery, "order_key", "")
            return f"{lane} {key}" if key else ""
        return lane

    # --- batches --------------------------------------------------------------------------------------------

    def prepare(self, delivery: Delivery) -> tuple[str, Event, Hop | None]:
        """Return an invocation id, what the function gets, and what is traced of it.

        Raises:
            ProtocolError: It says that it is a CloudEvent, and is none.
        """
        key = delivery.key
        attempt = 1
        if self._attempts:
            attempt += self._attempts.get(key, 0)
        if self._waiting:
            self._waiting.pop(key, None)
        event = self._unwrap(self.subscription, delivery.message, key=key, attempt=attempt)
        traces = self._traces
        hop = traces.delivery(self.subscription, event) if event.attributes or traces.begins else None
        return f"{key}-{attempt}-{self._next}", event, hop

    async def _work_off(self, deliveries: Sequence[Delivery]) -> None:
        """Bring a batch without order to its end; what fails goes on by itself."""
        batch = Batch(deliveries)
        number = self._hold(batch)
        times = 0
        try:
            while True:
                why = await self._deliver(batch)
                for delivery, result in batch.take_failures():
                    self._spawn(self._guard(self._handle(delivery, first=result), delivery))
                if not batch.left or self.stopping:  # unacked: the broker keeps them for the next holder
                    return
                times += 1
                _log.debug("subscription %s: %d events wait: %s", self.subscription.id, batch.left, why)
                await self._clock.sleep(retry.busy_delay(times))
        finally:
            self.stats.in_flight -= batch.left
            del self._held[number]
            self._touched = True

    async def _deliver(self, batch: Batch) -> str:
        """Have the events of a batch that are left run; returns why some did not begin."""
        indices: list[int] = []
        events: list[tuple[str, Event]] = []
        for index, delivery in batch.items():
            try:
                invocation_id, event, hop = self.prepare(delivery)
            except errors.ProtocolError as exc:
                batch.settle(index, EventResult(outcome="drop", reason=str(exc)))
                continue
            if hop is not None:
                batch.hops[index] = hop
            indices.append(index)
            events.append((invocation_id, event))

        def settled(results: Sequence[tuple[int, EventResult]]) -> None:
            ended = [batch.settle(indices[position], result) for position, result in results]
            done = [delivery for delivery in ended if delivery is not None]
            if done:
                self.finish(done)
            for delivery, result in batch.take_failures():
                self._spawn(self._guard(self._handle(delivery, first=result), delivery))

        if not events:
            return ""
        invoker = self._invoker
        if isinstance(invoker, BatchInvoker):
            return await invoker.invoke_many(
                self.subscription, events, settled=settled, timeout_s=self.timeout_s
            )

        async def one(position: int) -> str:
            invocation_id, event = events[position]
            result = await invoker.invoke(
                self.subscription, event, invocation_id=invocation_id, timeout_s=self.timeout_s
            )
            if result.outcome == "busy":
                return result.reason
            settled([(position, result)])
            return ""

        return max(await asyncio.gather(*(one(position) for position in range(len(events)))))

    async def _work_through(self, name: str, lane: Lane) -> None:
        """Handle the events of a lane in order; at a stop the rest stays with the broker."""
        queue, times = lane.queue, 0
        number = self._hold(lane)
        try:
            while queue:
                if self.stopping or lost(queue[0]):
                    await queue.popleft().nak(0.0)
                    self.stats.in_flight -= 1
                    continue
                if self.subscription.linger_s and lane.short:
                    await self._clock.sleep(self.subscription.linger_s)
                before = lane.progress
                lane.begin()
                result = await self._run(lane)
                if lane.broken:
                    result, lane.broken = EventResult(outcome="drop", reason=lane.broken), ""
                if lane.progress > before:
                    times = 0
                if result is not None and result.outcome != "busy":
                    delivery = lane.failed(result)
                    await self._guard(self._handle(delivery, ordered=True, first=result), delivery)
                elif lane.progress == before:
                    times += 1
                    await self._clock.sleep(retry.busy_delay(times))
        finally:
            self.stats.in_flight -= len(queue)
            del self._lanes[name]
            del self._held[number]

    async def _run(self, lane: Lane) -> EventResult | None:
        """Have a worker handle events from the front of a lane, as `ports.BatchInvoker.invoke_run` does."""
        invoker = self._invoker
        if isinstance(invoker, BatchInvoker):
            return await invoker.invoke_run(
                self.subscription, more=lane.more, done=lane.done, timeout_s=self.timeout_s
            )
        while events := lane.more(1):
            invocation_id, event = events[0]
            result = await invoker.invoke(
                self.subscription, event, invocation_id=invocation_id, timeout_s=self.timeout_s
            )
            if result.outcome != "ok":
                return result
            lane.done(1)
        return None

    def finish(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge events that ended well, together with all others of this turn of the loop."""
        if not self._done:
            self._spawn(self._acknowledge())
        self._done += deliveries

    async def _acknowledge(self) -> None:
        done, self._done = self._done, []
        parts = [delivery for delivery in done if isinstance(delivery, EventPart)]
        whole = [delivery for delivery in done if not isinstance(delivery, EventPart)] if parts else done
        try:
            await asyncio.gather(*(part.ack() for part in parts))
            finish = getattr(self._bus, "finish_all", None)
            if finish is not None:
                await finish(whole)
            else:
                await asyncio.gather(*(delivery.ack() for delivery in whole))
            self.stats.delivered += len(done)
            if self._attempts:
                for delivery in done:
                    await self._forget(delivery.key)
        except errors.PeltonError as exc:
            # Not confirmed by the broker, which will deliver them again: at least once.
            _log.warning("subscription %s: %d events: %s", self.subscription.id, len(done), exc)
        finally:
            self.stats.in_flight -= len(done)
            self._touched = True

    # --- one event ------------------------------------------------------------------------------------------

    async def _guard(self, work: Awaitable[None], delivery: Delivery) -> None:
        number = self._hold(Held((delivery,)))
        try:
            await work
        except errors.PeltonError as exc:
            # Not confirmed by the broker, which will deliver it again: at least once.
            _log.warning("subscription %s: %s: %s", self.subscription.id, delivery.key, exc)
            if getattr(delivery, "lane", ""):  # a broker that keeps an order waits to be told
                await delivery.nak(_AGAIN_S)
        except Exception:
            _log.exception("subscription %s: %s failed inside Pelton", self.subscription.id, delivery.key)
            await delivery.nak(_AGAIN_S)
        finally:
            del self._held[number]
            self.stats.in_flight -= 1
            self._touched = True

    async def _handle(
        self, delivery: Delivery, *, ordered: bool = False, first: EventResult | None = None
    ) -> None:
        """Bring an event to its end, or to its next delivery; in order it waits here for its next attempt.

        `first` is the outcome of an attempt that has just been made.
        """
        key, message = delivery.key, delivery.message
        while True:
            self._waiting.pop(key, None)
            attempts = self._attempts.get(key, 0)
            result = first or await self._invoke(message, key, attempts + 1)
            first = None
            # A broker that ends with this process would take what waits there along.
            volatile = bool(getattr(self._bus, "volatile", False))
            decision = self._decide(result, attempts, parked=volatile)
            if decision.action != "nak":
                break
            await self._insist(
                lambda count=decision.attempts: self._ledger.put_attempts(  # type: ignore[misc]
                    self.subscription.id, key, count
                )
            )
            self._attempts[key] = decision.attempts
            self._waiting[key] = self._clock.monotonic() + decision.delay_s
            if not ordered:
                await delivery.nak(decision.delay_s)
                return
            await self._clock.sleep(decision.delay_s)
            if self.stopping or lost(delivery):
                await delivery.nak(0.0)
                return
        if decision.action == "ack":
            await delivery.ack()
        else:
            await self._move(message, key, decision)
            await (delivery.ack() if decision.action == "park" else delivery.term())
        await self._forget(key)

    async def _handle_parked(self, delivery: Delivery) -> None:
        parked = retry.unpark(delivery.message)
        early_s = parked.not_before - self._clock.now().timestamp()
        if early_s > 0:
            await delivery.nak(early_s)
            return
        result = await self._invoke(parked.message, parked.key, parked.attempts + 1)
        decision = self._decide(result, parked.attempts, parked=True)
        if decision.action != "ack":
            await self._move(parked.message, parked.key, decision)
        await delivery.ack()

    async def _invoke(self, message: Message, key: str, attempt: int) -> EventResult:
        """Return the function's outcome; an event that nobody takes is held here, which stops fetching."""
        try:
            event = self._unwrap(self.subscription, message, key=key, attempt=attempt)
        except errors.ProtocolError as exc:
            return EventResult(outcome="drop", reason=str(exc))
        times = 0
        hop = self._traces.delivery(self.subscription, event)
        while True:
            result = await self._invoker.invoke(
                self.subscription,
                event,
                invocation_id=f"{key}-{attempt}-{self._next}",
                timeout_s=self.timeout_s,
            )
            if result.outcome != "busy":
                if hop is not None:
                    hop.end(result.reason if result.outcome != "ok" else "", **{"pelton.busy": str(times)})
                return result
            if self.stopping:
                raise asyncio.CancelledError  # unacked: the broker keeps it for the next holder
            times += 1
            await self._clock.sleep(retry.busy_delay(times))

    def _decide(self, result: EventResult, attempts: int, *, parked: bool) -> retry.Decision:
        now = self._clock.monotonic()
        if self._waiting:
            # A broker that lost a NAK with its own death delivers earlier; entries of the past mean nothing.
            self._waiting = {key: until for key, until in self._waiting.items() if until > now}
        decision = retry.decide(
            result,
            self.subscription,
            attempts=attempts,
            waiting=len(self._waiting),
            parked=parked,
            draw=random.random(),  # noqa: S311 -- no secret
        )
        stats = self.stats
        if decision.action == "ack":
            stats.delivered += 1
        else:
            stats.failed += 1
            if decision.action == "bury":
                stats.dead += 1
            else:
                stats.retried += 1
        return decision

    async def _move(self, message: Message, key: str, decision: retry.Decision) -> None:
        if decision.action == "bury" and self.subscription.dead_letters:
            await self._hand_over(message, key, decision)
            return
        now = self._clock.now().timestamp()
        if decision.action == "park":
            moved = retry.park(
                message,
                self.subscription.id,
                key=key,
                attempts=decision.attempts,
                not_before=now + decision.delay_s,
            )
        else:
            moved = retry.bury(
                message,
                self.subscription.id,
                key=key,
                attempts=decision.attempts,
                reason=decision.reason,
                failed_at=now,
            )
            _log.warning(
                "subscription %s: %s is a dead letter after attempt %d: %s",
                self.subscription.id,
                key,
                decision.attempts,
                decision.reason,
            )
        try:
            await self._insist(lambda: self._ledger.publish(moved), unless_final=True)
        except errors.DeliveryError as exc:
            await self._bury_what_fits(message, key, decision, exc.message)

    async def _bury_what_fits(self, message: Message, key: str, decision: retry.Decision, why: str) -> None:
        """Write the dead letter of an event that is larger than the ledger takes, by data or by headers.

        The record itself stays with its broker; the letter names it.
        """
        lost = f"its {len(message.data)} bytes are"
        cuts = [(f"{lost} not kept here", msgspec.structs.replace(message, data=b""))]
        if message.headers:
            without = msgspec.structs.replace(message, headers={})
            cuts.insert(0, ("its headers are not kept here", without))
            cuts.append((f"{lost} not kept here, nor its headers", Message(topic=message.topic, data=b"")))
        for number, (cut, rest) in enumerate(cuts, start=1):
            letter = retry.bury(
                rest,
                self.subscription.id,
                key=key,
                attempts=decision.attempts,
                reason=f"{decision.reason}; {cut}: {why}",
                failed_at=self._clock.now().timestamp(),
            )
            try:
                await self._insist(
                    lambda letter=letter: self._ledger.publish(letter),  # type: ignore[misc]
                    unless_final=number < len(cuts),
                )
                return
            except errors.DeliveryError:
                continue

    async def _hand_over(self, message: Message, key: str, decision: retry.Decision) -> None:
        """Give an event up to the queues that its subscription names for that."""
        name = self.subscription.id
        for queue in self.subscription.dead_letters:
            given = retry.hand_over(
                message, name, queue, key=key, attempts=decision.attempts, reason=decision.reason
            )
            try:
                await self._insist(
                    lambda given=given: self._ledger.publish(given),  # type: ignore[misc]
                    unless_final=True,
                )
            except errors.DeliveryError as exc:  # what is added to its headers makes it too large
                await self._bury_what_fits(message, key, decision, exc.message)
                return
        _log.warning(
            "subscription %s: %s goes to its dead letters after attempt %d: %s",
            name,
            key,
            decision.attempts,
            decision.reason,
        )

    async def _forget(self, key: str) -> None:
        if self._attempts.pop(key, None) is not None:
            await self._ledger.delete_attempts(self.subscription.id, key)

    # --- measuring ------------------------------------------------------------------------------------------

    @property
    def quiet(self) -> bool:
        """Nothing moved since the last measuring, and nothing is left: idle feeds cost nothing."""
        return not self._touched and not self.stats.pending and not self.trouble

    @property
    def hindrance(self) -> str:
        """What keeps the feed from its broker, by its own experience or the driver's; "" for nothing."""
        tell = getattr(self._bus, "trouble", None)
        told: str = tell(self.subscription.topic, consumer=self.subscription.id) if tell else ""
        return self.trouble or told

    async def measure(self) -> None:
        """Ask the brokers how much is pending."""
        self._touched = False
        parked = await self._ledger.pending(
            retry.retry_topic(self.subscription.id), consumer=self.subscription.id
        )
        fresh = 0
        if self._bus is not None:
            fresh = await self._bus.pending(self.subscription.topic, consumer=self.subscription.id)
            if count := getattr(self._bus, "lanes", None):
                self.stats.lanes = count(self.subscription.topic, consumer=self.subscription.id)
        self.ready = self._bus is not None or self.subscription.queued
        if self.trouble and self._clock.monotonic() - self._troubled_at > 2 * _AGAIN_S:
            self.trouble = ""  # what failed has been tried again since, and did not fail
        self.stats.pending = fresh + parked
        self.stats.due = max(self.stats.in_flight, fresh - len(self._waiting))


class Dispatcher:
    """All feeds of this process.

    Args:
        invoker: Delivers events to workers.
        ledger: The embedded bus, which keeps retries, attempts and dead letters of all subscriptions.
        bus_of: Returns the bus of a component, the same for the same component; raises ComponentError.
        clock: Times waits and stamps dead letters.
        on_pending: Told (namespace, function, due events) of every function whose number changed.
        traces: Takes deliveries that are traced.
        unwrap: Makes events of messages, as the invoker wants them.
    """

    def __init__(
        self,
        *,
        invoker: Invoker,
        ledger: Ledger,
        bus_of: Callable[[Component], Awaitable[Bus]],
        clock: Clock,
        on_pending: Callable[[str, str, int], None] | None = None,
        traces: EventTraces = NO_TRACES,
        unwrap: Unwrap = to_event,
    ) -> None:
        self._traces = traces
        self._unwrap = unwrap
        self._invoker = invoker
        self._ledger = ledger
        self._bus_of = bus_of
        self._clock = clock
        self._on_pending = on_pending
        self._feeds: dict[tuple[str, str], dict[str, _Feed]] = {}
        self._reported: dict[tuple[str, str], int] = {}
        self._meters: list[asyncio.Task[None]] = []
        self._measuring: dict[_Feed, tuple[tuple[str, str], asyncio.Task[None]]] = {}
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Begin measuring; feeds begin with `apply`."""
        self._meters = [
            asyncio.create_task(self._measure(), name="dispatcher-meter"),
            asyncio.create_task(self._extend(), name="dispatcher-extend"),
        ]

    async def apply(self, desired: Desired, *, grace_s: float = 30.0) -> None:
        """Make a function's subscriptions these; unchanged ones go on undisturbed. Idempotent."""
        workload = desired.workload
        await self.feed(
            (workload.namespace, workload.name),
            desired.subscriptions,
            timeout_s=workload.request_timeout_s,
            grace_s=grace_s,
        )

    async def feed(
        self,
        where: tuple[str, str],
        subscriptions: Iterable[Subscription],
        *,
        timeout_s: float,
        grace_s: float = 30.0,
    ) -> None:
        """Make the subscriptions of (namespace, name) these; as `apply`, for what is no function."""
        wanted = {subscription.id: subscription for subscription in subscriptions}
        async with self._lock:
            feeds = self._feeds.setdefault(where, {})
            gone = [
                feeds.pop(name) for name, feed in list(feeds.items()) if wanted.get(name) != feed.subscription
            ]
            await asyncio.gather(*(feed.stop(grace_s) for feed in gone))
            for name, subscription in wanted.items():
                if name in feeds:
                    feeds[name].timeout_s = timeout_s
                    continue
                feeds[name] = feed = _Feed(
                    subscription,
                    timeout_s,
                    invoker=self._invoker,
                    ledger=self._ledger,
                    bus_of=self._bus_of,
                    clock=self._clock,
                    traces=self._traces,
                    unwrap=self._unwrap,
                )
                feed.start()
            if not feeds:
                del self._feeds[where]

    async def remove(self, namespace: str, name: str, *, grace_s: float = 30.0) -> None:
        """Stop a function's subscriptions; its durable consumers stay with the broker. Idempotent."""
        async with self._lock:
            feeds = self._feeds.pop((namespace, name), {})
            self._reported.pop((namespace, name), None)
            await asyncio.gather(*(feed.stop(grace_s) for feed in feeds.values()))

    async def sync(self, wanted: Iterable[Desired]) -> None:
        """Make the whole set these: apply all, remove the others."""
        listed = list(wanted)
        keep = {(desired.workload.namespace, desired.workload.name) for desired in listed}
        for namespace, name in [where for where in self._feeds if where not in keep]:
            await self.remove(namespace, name)
        for desired in listed:
            await self.apply(desired)

    async def stop(self, grace_s: float = 4.0) -> None:
        """Stop all feeds; what is not done within `grace_s` seconds stays with the broker."""
        async with self._lock:
            feeds = [feed for found in self._feeds.values() for feed in found.values()]
            self._feeds.clear()
            await asyncio.gather(*(feed.stop(grace_s) for feed in feeds))
        meters = [*self._meters, *(task for _, task in self._measuring.values())]
        for meter in meters:
            meter.cancel()
        await asyncio.gather(*meters, return_exceptions=True)

    def stats(self) -> dict[str, dict[str, Any]]:
        """Return subscription id -> counters, with `trouble` where a broker cannot be used."""
        return {
            name: {
                **{field: getattr(feed.stats, field) for field in FeedStats.__slots__},
                "trouble": feed.hindrance,
            }
            for feeds in self._feeds.values()
            for name, feed in feeds.items()
        }

    def states(self) -> dict[str, tuple[bool, str]]:
        """Return subscription id -> (whether its brokers have answered, what keeps it from them or "")."""
        return {
            name: (feed.ready, feed.hindrance)
            for feeds in self._feeds.values()
            for name, feed in feeds.items()
        }

    async def _measure(self) -> None:
        while True:
            changed = {where for where in self._feeds if where not in self._reported}
            for where, feeds in self._feeds.items():
                for feed in feeds.values():
                    if not feed.quiet and feed not in self._measuring:
                        self._measuring[feed] = (where, asyncio.create_task(self._look(feed)))
            if self._measuring:
                # A broker that does not answer keeps its own feeds waiting, and nobody else.
                await asyncio.wait([task for _, task in self._measuring.values()], timeout=_MEASURE_S)
            for feed, (where, task) in list(self._measuring.items()):
                if task.done():
                    changed.add(where)
                    del self._measuring[feed]
            for where in changed & self._feeds.keys():
                due = sum(feed.stats.due for feed in self._feeds[where].values())
                if self._reported.get(where) != due:
                    self._reported[where] = due
                    if self._on_pending is not None:
                        self._on_pending(*where, due)
            await self._clock.sleep(_MEASURE_S)

    async def _look(self, feed: _Feed) -> None:
        try:
            await feed.measure()
        except (errors.PeltonError, ConnectionError, TimeoutError) as exc:
            feed.note(exc)
        except Exception as exc:
            _log.exception("subscription %s cannot be measured", feed.subscription.id)
            feed.note(exc)

    async def _extend(self) -> None:
        while True:
            await self._clock.sleep(_EXTEND_S)
            for feed in [feed for feeds in list(self._feeds.values()) for feed in feeds.values()]:
                await feed.extend()
