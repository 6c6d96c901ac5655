"""Alerts in, notifications out: the durable path from an accepted request to each receiver.

accept -> topic `pelton.alerts` -> dispatcher (`notify/sharing.py`: route, hold back, group) -> perhaps some
time in a group (`notify/timed.py`) -> topic `pelton.notifications.<receiver>.<block>` ->
`sending.Destination` -> Sender. Every arrow is confirmed, by the broker or the disk, before its input is
acknowledged, so a kill anywhere repeats work but loses none; ids let the broker drop what is repeated. Called
by `notify/intake.py` and wired in `cli/`. Source: contracts/log-notification.md 5, 6, 10.
Over 600 lines: what is confirmed before what is one decision.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from pelton import log
from pelton.clock import Clock
from pelton.errors import PayloadTooLargeError, ProtocolError
from pelton.manifest.notification_timing import inhibit_rules, resolve_timeout_s
from pelton.model.matching import Matcher
from pelton.model.notification import ConfigMapKey, Receiver, SecretRef
from pelton.model.notification_routing import Config, NotificationManager, Router, Silence
from pelton.notify.alert import Alert, identified
from pelton.notify.alert_table import AlertTable, Tracked, track
from pelton.notify.dead_letters import DEAD_ALERTS, dead_letter
from pelton.notify.envelope import Batch, Notification, decode_batch, encode, encoded_size
from pelton.notify.explaining import explain_all
from pelton.notify.group_store import GroupStore
from pelton.notify.grouping import aggregate, split
from pelton.notify.groups import Place, labels_of
from pelton.notify.history import HistoryFeed
from pelton.notify.inhibition import Inhibition
from pelton.notify.limits import Limit
from pelton.notify.muting import KeptBack, Muting, Placed
from pelton.notify.records import Records
from pelton.notify.retry import RetryPolicy
from pelton.notify.routing import Routing, Target
from pelton.notify.sending import Destination, topic_of
from pelton.notify.settings import ConfigMapLookup, Outlet, SecretLookup, blocks_of, settings_of
from pelton.notify.sharing import Shares, share_out
from pelton.notify.silences import SilenceBook, SilenceIndex
from pelton.notify.timed import TimedGroups
from pelton.notify.trial import Outlets
from pelton.ports import Bus, Delivery, Message, Sender

__all__ = ["ALERTS_TOPIC", "Options", "Pipeline"]

ALERTS_TOPIC = "pelton.alerts"
"""Where accepted alerts wait for the dispatcher."""

_CONSUMER = "notify-dispatch"
_TROUBLE_S = 1.0
_PUBLISHES = 256  # unconfirmed at once, however many receivers want a batch

_log = log.get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the pipeline works.

    Attributes:
        group_labels: Labels whose values make groups; none = one group per batch and receiver, or per
            receiver that has timers.
        cluster: Value for the label `cluster` where an alert has none; "" adds nothing.
        policy: How long a destination is tried.
        limits: Block -> how hard it may be driven, others any way; None = the providers' limits.
        batch_max_alerts: Alerts per message on the bus, >= 1.
        batch_max_bytes: Bytes of alerts per message. Half of what NATS takes, since a notification repeats
            the labels that its alerts have in common.
        in_flight: Batches dispatched at once, and notifications held per destination.
        merged_in_flight: Notifications held per destination whose limit makes digests of them; the bus bounds
            their bytes.
        close_grace_s: Seconds that sends under way get on closing.
        retire_check_s: Seconds between looks at whether a deleted receiver's queue has run empty.
        most_grouped: Memberships of alerts in groups at once; above that alerts are sent as they come.
    """

    group_labels: tuple[str, ...] = ()
    cluster: str = ""
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    limits: Mapping[str, Limit] | None = None
    batch_max_alerts: int = 100
    batch_max_bytes: int = 384 * 1024
    in_flight: int = 64
    merged_in_flight: int = 4096
    close_grace_s: float = 2.0
    retire_check_s: float = 5.0
    most_grouped: int = 200_000


@dataclass(slots=True)
class _Counters:
    accepted_batches: int = 0
    accepted_alerts: int = 0
    dispatched_batches: int = 0
    notifications: int = 0
    unmatched_alerts: int = 0
    silenced_alerts: int = 0
    dead_batches: int = 0
    trouble: int = 0


def _no_secret(_: SecretRef) -> str | None:
    return None


def _no_config_map(_: ConfigMapKey) -> Mapping[str, str] | None:
    return None


class Pipeline:
    """The way of alerts to receivers; an async context manager that runs its consumers while open.

    Nothing is dispatched before the first `set_receivers`: right after a start an alert would else meet an
    empty list and count as unwanted.

    Args:
        bus: Durable queue.
        senders: Block name -> Sender; a receiver's block without one is left out and counted in `stats`.
        clock: Time.
        options: Limits.
        secret: Resolves secret references of receivers.
        config_map: Returns ConfigMaps with templates.
        records: Where outcomes are noted; None = nowhere.
        book: Silences that were posted; None = there are none.
        store: What groups have to remember; in memory by default.
        table: Is told what was accepted, and what was kept over a restart.
        randomness: Returns 0 <= r < 1, for jitter.
        new_id: Returns a fresh random id.
    """

    def __init__(
        self,
        bus: Bus,
        senders: Mapping[str, Sender],
        clock: Clock,
        *,
        options: Options | None = None,
        secret: SecretLookup = _no_secret,
        config_map: ConfigMapLookup = _no_config_map,
        records: Records | None = None,
        book: SilenceBook | None = None,
        store: GroupStore | None = None,
        table: AlertTable | None = None,
        randomness: Callable[[], float] = random.random,
        new_id: Callable[[], str] = lambda: uuid4().hex,
    ) -> None:
        self._bus = bus
        self._senders = senders
        self._clock = clock
        self._options = options or Options()
        self._limits = self._options.limits
        self._secret = secret
        self._config_map = config_map
        self._records = records
        self._book = book
        self._table = table or AlertTable()
        self._randomness = randomness
        self._new_id = new_id
        self._routing = Routing()
        self._inhibition = Inhibition()
        self._arrangement: tuple[Any, ...] = ()
        self._resolve_timeout_s = resolve_timeout_s({})
        self._timed = TimedGroups(
            store or GroupStore(None),
            publish=self._publish,
            topic_of=topic_of,
            muting=self._muted_places,
            clock=clock,
            most=self._options.most_grouped,
        )
        self._history = HistoryFeed(bus, senders.get("webhook"), clock)
        self._known = asyncio.Event()
        self._publishing = asyncio.Semaphore(_PUBLISHES)
        self._destinations: dict[str, Destination] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._unsent_blocks: list[str] = []
        self._open = False
        self._counters = _Counters()

    async def __aenter__(self) -> Self:
        """Start consuming."""
        self._open = True
        self._tasks["dispatch"] = asyncio.create_task(self._dispatch_forever())
        self._tasks["history"] = asyncio.create_task(self._history.run())
        for topic in self._destinations:
            self._run(topic)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop taking, finish or give back what is held; within `close_grace_s` + 2 seconds."""
        self._open = False
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._timed.close()

    async def accept(self, alerts: Sequence[Alert]) -> Sequence[Alert]:
        """Store alerts durably; returns them as stored, once the broker has confirmed all of them.

        When it raises after a part was stored, repeating the request may notify twice, never not at all.

        Raises:
            PayloadTooLargeError: One alert is above `batch_max_bytes`; nothing was stored.
            DeliveryError: The broker did not take them.
        """
        options = self._options
        alerts = [self._identified(alert) for alert in alerts]
        sizes = {id(alert): encoded_size(alert) for alert in alerts}
        for alert in alerts:
            if (size := sizes[id(alert)]) > options.batch_max_bytes:
                name = alert.labels.get("alertname", "")
                raise PayloadTooLargeError(
                    f"The alert {name[:80]!r} has {size} bytes; the limit is {options.batch_max_bytes}."
                )
        now = self._clock.now()
        for part in split(
            alerts,
            max_alerts=options.batch_max_alerts,
            max_bytes=options.batch_max_bytes,
            size=lambda alert: sizes[id(alert)],
        ):
            batch = Batch(id=self._new_id(), alerts=part, received_at=now.timestamp())
            await self._bus.publish(Message(topic=ALERTS_TOPIC, data=encode(batch), id=batch.id))
            self._counters.accepted_batches += 1
            self._counters.accepted_alerts += len(part)
            self._table.note(part, now=now, resolve_timeout_s=self._resolve_timeout_s)
        return alerts

    def _identified(self, alert: Alert) -> Alert:
        """Return an alert with the label `cluster` and the fingerprint of its labels."""
        manager = self._routing.manager
        return identified(alert, (manager.cluster if manager is not None else "") or self._options.cluster)

    def set_receivers(
        self,
        receivers: Iterable[Receiver],
        *,
        configs: Sequence[Config] = (),
        routers: Iterable[Router] = (),
        silences: Iterable[Silence] = (),
        manager: NotificationManager | None = None,
    ) -> None:
        """Replace the receivers and what shares alerts out among them.

        Takes effect with the next batch and the next attempt. What waits for a receiver that is gone becomes
        dead letters. Call it again when a secret changed.
        """
        targets: list[Target] = []
        routers = tuple(routers)
        makes = Outlets(configs, manager, secret=self._secret, config_map=self._config_map)
        outlets: dict[str, Outlet] = {}
        unsent: list[str] = []
        for receiver in receivers:
            unsent += [f"{receiver.name}/{block}" for block in receiver.undelivered]
            for block, spec in blocks_of(receiver):
                if block not in self._senders:
                    unsent.append(f"{receiver.name}/{block}")
                    continue
                topic = topic_of(receiver.name, block)
                targets.append(
                    Target(
                        receiver=receiver.name,
                        block=block,
                        selector=spec.alert_selector,
                        labels=receiver.labels,
                        annotations=receiver.annotations,
                    )
                )
                outlet = makes.outlet(receiver, block, spec)
                if self._limits is not None:
                    outlet = replace(outlet, limit=self._limits.get(block, Limit()))
                outlets[topic] = outlet
                if topic not in self._destinations:
                    self._destinations[topic] = self._destination(receiver.name, block, outlet.limit)
        for topic, destination in list(self._destinations.items()):
            was, destination.outlet = destination.outlet, outlets.get(topic)
            if not self._open:
                continue
            self._run(topic)
            retiring = f"retire {topic}"
            if was is not None and destination.outlet is None and retiring not in self._tasks:
                self._tasks[retiring] = asyncio.create_task(self._retire(topic))
        self._history.settings = (
            settings_of(manager.history, self._secret)
            if manager is not None and manager.history is not None and manager.history.enabled
            else None
        )
        if unsent and unsent != self._unsent_blocks:
            _log.warning("receivers without a sender, nothing goes there blocks=%s", ",".join(unsent))
        self._unsent_blocks = unsent
        self._routing = Routing(
            targets,
            routers=routers,
            silences=silences,
            manager=manager,
            group_labels=self._options.group_labels,
        )
        annotations = manager.annotations if manager is not None else {}
        self._resolve_timeout_s = resolve_timeout_s(annotations)
        if (rules := inhibit_rules(annotations)) != self._inhibition.rules:
            known = [*self._table.firing(self._clock.now()), *self._timed.groups.alerts()]
            self._inhibition = Inhibition(rules, sources=known)
        self._known.set()
        # Most calls are about something else, such as a secret; a hundred thousand alerts are not moved then.
        if (arrangement := (tuple(targets), routers, manager)) != self._arrangement:
            self._arrangement = arrangement
            self._timed.rearrange(self._places)
        self._timed.look_soon()

    def receivers(self) -> list[str]:
        """Return the names of receivers that something can be sent by, sorted."""
        return sorted({each.receiver for each in self._destinations.values() if each.outlet is not None})

    def placing(self) -> Callable[[Alert], Placed]:
        """Return what says of alerts where they would go and what keeps them back, at this moment."""
        muting = self._muting(self._clock.now().timestamp())
        routing = self._routing

        def placed(alert: Alert) -> Placed:
            kept = KeptBack()
            groups: dict[tuple[str, tuple[tuple[str, str], ...]], None] = {}
            for way in routing.decide(alert.labels).ways:
                place = way.place or way.hold
                groups[way.target.receiver, tuple(labels_of(place, alert).items())] = None
                kept = kept or muting.keeps_back(alert.labels, alert.fingerprint, way.owner)
            return Placed(tuple((receiver, dict(labels)) for receiver, labels in groups), kept)

        return placed

    def explain(self, wanted: Sequence[Matcher], name: str = "") -> list[dict[str, Any]]:
        """Say of alerts why they went where they went, and when they go next: `explaining.explain_all`."""
        now = self._clock.now()
        return explain_all(
            wanted,
            name,
            known=[*self._table.firing(now), *self._timed.groups.alerts()],
            identify=self._identified,
            routing=self._routing,
            muting=self._muting(now.timestamp()),
            groups=self._timed.groups,
            posted=self._book.get if self._book is not None else lambda _: None,
            now=now.timestamp(),
        )

    def silences_changed(self) -> None:
        """Look soon at what is held back: silences were posted or ended."""
        self._timed.look_soon()

    def problems(self) -> dict[tuple[str, str], tuple[str, str]]:
        """Return (receiver, block) -> what keeps it from working, as `Destination.problem` says it."""
        return {
            (each.receiver, each.block): each.problem()
            for each in self._destinations.values()
            if each.outlet is not None
        }

    def stats(self) -> dict[str, Any]:
        """Return counters since the start: totals, `receivers` by `<receiver>/<block>`, `without_sender`."""
        return {
            **asdict(self._counters),
            "receivers": {
                f"{destination.receiver}/{destination.block}": destination.stats()
                for destination in self._destinations.values()
            },
            "without_sender": list(self._unsent_blocks),
            "history": {"posted": self._history.posted, "dead": self._history.dead},
            "groups": {
                **asdict(self._timed.counts),
                "groups": len(self._timed.groups),
                "alerts": self._timed.groups.count,
            },
        }

    def _destination(self, receiver: str, block: str, limit: Limit) -> Destination:
        in_flight = self._options.in_flight
        if limit.digest_after_s is not None:
            in_flight = max(in_flight, self._options.merged_in_flight)
        return Destination(
            bus=self._bus,
            sender=self._senders[block],
            clock=self._clock,
            receiver=receiver,
            block=block,
            policy=self._options.policy,
            randomness=self._randomness,
            max_in_flight=in_flight,
            records=self._records,
            on_sent=lambda notification, outlet: self._history.note(notification, outlet.channels),
        )

    def _run(self, topic: str) -> None:
        if topic not in self._tasks:
            run = self._destinations[topic].run(grace_s=self._options.close_grace_s)
            self._tasks[topic] = asyncio.create_task(run)

    async def _retire(self, topic: str) -> None:
        """Let a deleted receiver's queue run into dead letters, then end its consumer."""
        destination = self._destinations[topic]
        try:
            while True:
                # Slept first: a batch that was matched before the deletion may still be on its way here.
                await self._clock.sleep(self._options.retire_check_s)
                if destination.outlet is not None:
                    return  # the receiver came back
                try:
                    left = await self._bus.pending(topic, consumer=destination.consumer)
                except Exception as error:  # the broker is away: look again
                    self._trouble("pending", error)
                    continue
                if left == 0:
                    break
            if destination.outlet is None:
                task = self._tasks.pop(topic, None)
                del self._destinations[topic]
                if task is not None:
                    task.cancel()
                    await asyncio.wait([task])
        finally:
            self._tasks.pop(f"retire {topic}", None)

    async def _dispatch_forever(self) -> None:
        await self._known.wait()
        await self._restore()
        self._tasks["groups"] = asyncio.create_task(self._timed.run())
        while True:
            stream = self._bus.subscribe(
                ALERTS_TOPIC, consumer=_CONSUMER, max_in_flight=self._options.in_flight, options={}
            )
            try:
                async for batch in stream:
                    await self._dispatch(batch)
            except Exception as error:  # whatever the broker's client raises, the dispatcher goes on
                self._trouble("subscribe", error)
            finally:
                if (close := getattr(stream, "aclose", None)) is not None:
                    with suppress(Exception):
                        await close()
            await self._clock.sleep(_TROUBLE_S)

    async def _restore(self) -> None:
        """Read what groups have to remember; nothing is dispatched before, since it might be told twice."""
        kept = None
        while kept is None:
            try:
                kept = await self._timed.open(self._places)
            except OSError as error:
                self._trouble("restore", error)
                await self._clock.sleep(_TROUBLE_S)
        self._inhibition = Inhibition(self._inhibition.rules, sources=kept.alerts)
        self._table.restore(kept.alerts)
        if kept.alerts:
            _log.info("alerts kept over the restart alerts=%d groups=%d", len(kept.alerts), len(kept.groups))

    async def _dispatch(self, deliveries: Sequence[Delivery]) -> None:
        """Share out what was accepted, in order; what is sent as it comes is published side by side."""
        taken = [(delivery, await self._take(delivery)) for delivery in deliveries]
        try:
            await self._timed.commit()
        except OSError as error:  # redelivery puts the same in again
            self._trouble("keep", error)
            for delivery, what in taken:
                if what is not None:
                    with suppress(Exception):
                        await delivery.nak(_TROUBLE_S)
            return
        await asyncio.gather(*(self._finish(delivery, *what) for delivery, what in taken if what is not None))

    async def _take(self, delivery: Delivery) -> tuple[Batch, Shares] | None:
        """Put a batch into groups; returns it with what is left to do for it, or None: nothing is."""
        try:
            try:
                batch = decode_batch(delivery.message.data)
            except ProtocolError as error:
                await self._bury(delivery, error.message)
                return None
            shares = self._share_out(batch)
            overflow = self._timed.put(shares.placed, released=shares.released, keep=shares.keep)
        except Exception as error:  # the bus refused; redelivery puts the same in again
            self._trouble("dispatch", error)
            with suppress(Exception):
                await delivery.nak(_TROUBLE_S)
            return None
        for place, tracked in overflow:
            shares.direct.setdefault((place.receiver, place.block), []).append(tracked.alert)
        return batch, shares

    async def _finish(self, delivery: Delivery, batch: Batch, shares: Shares) -> None:
        try:
            messages = self._messages(batch, shares.direct)
            await asyncio.gather(*(self._publish(message) for message in messages))
            self._counters.dispatched_batches += 1
            self._counters.notifications += len(messages)
            await delivery.ack()
        except Exception as error:  # the broker refused; redelivery repeats the publishes under the same ids
            self._trouble("dispatch", error)
            with suppress(Exception):
                await delivery.nak(_TROUBLE_S)
            return
        self._counters.silenced_alerts += shares.kept_back
        if shares.unwanted:
            self._counters.unmatched_alerts += shares.unwanted
            _log.warning("alerts that no receiver wants batch=%s alerts=%d", batch.id, shares.unwanted)

    async def _publish(self, message: Message) -> None:
        async with self._publishing:
            await self._bus.publish(message)

    def _messages(self, batch: Batch, direct: Mapping[tuple[str, str], list[Alert]]) -> list[Message]:
        created_at = self._clock.now().timestamp()
        manager = self._routing.manager
        group_labels = (manager.group_labels if manager is not None else ()) or self._options.group_labels
        messages: list[Message] = []
        for (receiver, block), alerts in direct.items():
            for number, group in enumerate(aggregate(alerts, group_labels=group_labels, receiver=receiver)):
                notification = Notification(
                    id=f"{batch.id}/{receiver}/{block}/{number}",
                    receiver=receiver,
                    block=block,
                    created_at=created_at,
                    group=group,
                )
                messages.append(
                    Message(topic=topic_of(receiver, block), data=encode(notification), id=notification.id)
                )
        return messages

    def _share_out(self, batch: Batch) -> Shares:
        now = self._clock.now().timestamp()
        received = batch.received_at or now
        timeout_s = self._resolve_timeout_s
        return share_out(
            [
                # One object for the list and the groups: a hundred thousand alerts are in both.
                track(self._table.same(alert), received=received, resolve_timeout_s=timeout_s)
                for alert in batch.alerts
            ],
            routing=self._routing,
            inhibition=self._inhibition,
            muting=lambda: self._muting(now),
            held=self._timed.groups.has,
            now=now,
        )

    def _places(self, tracked: Tracked) -> list[Place]:
        """Return where an alert that is kept belongs by the objects of now."""
        ways = self._routing.decide(tracked.alert.labels).ways
        timed = not tracked.alert.upstream
        return [way.place if way.place is not None and timed else way.hold for way in ways]

    def _muting(self, now: float) -> Muting:
        posted = (
            self._book.active(datetime.fromtimestamp(now, UTC)) if self._book is not None else SilenceIndex()
        )
        return Muting(self._routing, posted, self._inhibition, now)

    def _muted_places(self, now: float) -> Callable[[Place, Alert], bool]:
        """Return whether something keeps an alert back from a place, for a round of looks at groups."""
        self._inhibition.forget(now)
        muting = self._muting(now)
        if muting.idle:
            return lambda place, alert: False
        routing = self._routing

        def muted(place: Place, alert: Alert) -> bool:
            way = routing.way(place.receiver, place.block)
            # A target that is gone takes nothing; its groups are about to be put in order.
            return way is None or bool(muting.keeps_back(alert.labels, alert.fingerprint, way.owner))

        return muted

    async def _bury(self, delivery: Delivery, reason: str) -> None:
        _log.error("batch of alerts became a dead letter key=%s reason=%r", delivery.key, reason)
        await self._bus.publish(
            dead_letter(
                delivery,
                subscription=_CONSUMER,
                topic=f"{DEAD_ALERTS}unreadable",
                id=ALERTS_TOPIC,
                reason=reason,
                attempts=0,
                failed_at=self._clock.now().timestamp(),
            )
        )
        self._counters.dead_batches += 1
        await delivery.term()

    def _trouble(self, doing: str, error: Exception) -> None:
        self._counters.trouble += 1
        _log.warning("bus trouble doing=%s error=%s", doing, error)
