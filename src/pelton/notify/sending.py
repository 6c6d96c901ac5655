"""One destination: takes its notifications from the bus, renders, sends, and settles each.

`notify/pipeline.py` runs one Destination per receiver and block, each with its own durable consumer, so a
slow or dead one holds up nobody else. It calls `render`, `retry.decide` and a `ports.Sender`. An attempt is
an answer of the destination, kept in the headers of a copy that is published before the original is
acknowledged, with what of the notification has arrived: both survive a kill at any point, and the death of
this process or of the broker is no attempt. At-least-once: a kill between an answer and its acknowledgement
sends again, under the same notification id. What waits too long for a turn becomes one digest;
of one group, what was decided later waits (`order.py`). Over 600 lines: whose turn it is, what is sent and
what follows from the answer share what is held.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from pelton import log
from pelton.clock import Clock
from pelton.errors import ProtocolError
from pelton.notify.alert import Alert
from pelton.notify.dead_letters import DEAD_NOTIFICATIONS, PROGRESS, dead_letter
from pelton.notify.digest import digest_payload
from pelton.notify.envelope import Notification, decode_notification
from pelton.notify.grouping import Group, group_of
from pelton.notify.held import ATTEMPT, NOT_BEFORE, Held, held
from pelton.notify.limits import Turnstile
from pelton.notify.order import GroupOrder
from pelton.notify.records import DEAD, DIGEST, FAILED, SENT, Post, Record, RecordedAlert, Records
from pelton.notify.render import Piece, render, shown
from pelton.notify.retry import Dead, Done, Pause, Retry, RetryPolicy, decide
from pelton.notify.settings import MISSING, Outlet
from pelton.notify.template import title
from pelton.outgoing import timeout_of
from pelton.ports import Bus, Message, Sender, SendResult

__all__ = [
    "Destination",
    "consumer_name",
    "topic_of",
]

DELIVERY_ID = "deliveryId"
"""Key added to a Sender's settings: the notification's id, the same for each attempt."""

_EXTEND_EVERY_S = 10.0
_SEND_TIMEOUT_S = 60.0  # a Sender has its own, shorter limit; this one is for a Sender that forgot it
_TROUBLE_S = 1.0
_BEHIND_S = 0.5  # how soon a notification asks again whether older ones of its group have gone
_STEP_S = 1.0
_LONGEST_NAME = 200
_MAX_WAITING = 10_000
_REMEMBERED = 1_000

_log = log.get(__name__)


@dataclass(slots=True)
class Counters:
    """What happened to one destination's notifications since the start."""

    sent: int = 0
    failed_attempts: int = 0
    pauses: int = 0
    dead: int = 0
    trouble: int = 0
    held: int = 0
    digests: int = 0
    digested: int = 0
    followed: int = 0
    template_faults: int = 0
    last_error: str = ""


def topic_of(receiver: str, block: str) -> str:
    """Return the topic of a destination's notifications."""
    return f"pelton.notifications.{receiver}.{block}"


def consumer_name(receiver: str, block: str) -> str:
    """Return its durable consumer; brokers refuse dots there, and names of receivers hold no underscore."""
    name = f"notify-{receiver.replace('.', '_')}"
    return f"{name[:_LONGEST_NAME]}-{block}"


class Destination:
    """One receiver's block and its way out.

    Args:
        bus: Where notifications wait.
        sender: Brings one to its destination.
        clock: Time.
        receiver: Receiver name.
        block: Name of the block, as `slack`.
        policy: How long to try.
        randomness: Returns 0 <= r < 1, for jitter.
        max_in_flight: Notifications held at once, waiting ones included.
        records: Where outcomes are noted, and messages that later news belongs to; None = nowhere.
        on_sent: Told each notification that was accepted, before it is acknowledged.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        sender: Sender,
        clock: Clock,
        receiver: str,
        block: str,
        policy: RetryPolicy,
        randomness: Callable[[], float],
        max_in_flight: int = 64,
        records: Records | None = None,
        on_sent: Callable[[Notification, Outlet], Awaitable[None]] | None = None,
    ) -> None:
        self._bus = bus
        self._sender = sender
        self._clock = clock
        self._policy = policy
        self._randomness = randomness
        self._max_in_flight = max_in_flight
        self._records = records
        self._on_sent = on_sent
        self._order = GroupOrder()
        self._turnstile = Turnstile(())
        self._paused_until = float("-inf")
        self._unconfirmed: OrderedDict[str, None] = OrderedDict()
        # By identity: a driver's Delivery need not be hashable.
        self._held: dict[int, Held] = {}
        self._pending: deque[Held] = deque()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.receiver = receiver
        self.block = block
        self.topic = topic_of(receiver, block)
        self.consumer = consumer_name(receiver, block)
        self.outlet: Outlet | None = None
        """What it is at present; None once the block is deleted: what waits becomes dead letters."""
        self._refused = ""
        self._fault = ""
        self._failing = ""
        self._counters = Counters()

    def stats(self) -> dict[str, Any]:
        """Return its counters by name."""
        self._counters.held = len(self._held)
        return {**asdict(self._counters), "ready": not self.problem()[0]}

    def problem(self) -> tuple[str, str]:
        """Return what keeps it from working: a reason in one word and a sentence, or ("", "")."""
        outlet = self.outlet
        if outlet is None:
            return "", ""
        if missing := outlet.settings.get(MISSING) or outlet.settings.get("appMissing"):
            return "NotConfigured", str(missing)
        if self._refused:
            return "CredentialsRefused", self._refused
        if faults := [fault for fault in (self._fault, outlet.fault) if fault]:
            return "TemplateFault", "; ".join(faults)
        return ("NotAccepted", self._failing) if self._failing else ("", "")

    async def run(self, *, grace_s: float) -> None:
        """Serve until cancelled.

        Cancelling stops taking, lets sends that are under way finish for `grace_s` seconds, and gives the
        rest back.
        """
        helpers = [asyncio.create_task(self._heartbeat()), asyncio.create_task(self._pump())]
        try:
            while True:
                await self._consume()
                await self._clock.sleep(_TROUBLE_S)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await self._wind_up(grace_s)

    async def _consume(self) -> None:
        stream = self._bus.subscribe(
            self.topic,
            consumer=self.consumer,
            max_in_flight=self._max_in_flight,
            # Those that wait for another attempt are not held here but count at the broker: without room for
            # them, a few that the destination never takes would stop all others.
            options={"maxAckPending": str(_MAX_WAITING)},
        )
        try:
            async for batch in stream:
                # All are held from now on, so that the heartbeat covers those that wait for their turn.
                now = self._clock.monotonic()
                for delivery in batch:
                    self._held[id(delivery)] = item = held(delivery, now)
                    self._pending.append(item)
                self._changed.set()
                while len(self._held) >= self._max_in_flight:
                    await self._change()
        except Exception as error:  # whatever the broker's client raises, the destination goes on
            self._trouble("subscribe", error)
        finally:
            if (close := getattr(stream, "aclose", None)) is not None:
                with suppress(Exception):
                    await close()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # --- whose turn it is ---

    async def _pump(self) -> None:
        """Take what is pending to its sending."""
        while True:
            try:
                await self._step()
            except Exception as error:  # else nothing would be sent here any more
                self._trouble("turn", error)
                await self._clock.sleep(_TROUBLE_S)

    async def _step(self) -> None:
        """Begin one sending, or wait: one by one or, where it has to wait too long, as a digest."""
        outlet = self.outlet
        if not self._pending or (outlet is not None and len(self._tasks) >= outlet.limit.concurrency):
            await self._change()
        elif outlet is None:
            self._start([self._next()], self._settle)
        elif (wait_s := self._wait_s(outlet)) > 0:
            # In steps, since meanwhile the limit may change or the receiver go.
            await self._clock.sleep(min(wait_s, _STEP_S))
        elif len(merged := self._to_merge(outlet)) > 1:
            for item in merged:
                item.waits = False
            self._pending = deque(item for item in self._pending if item.waits)
            self._turnstile.passed(self._clock.monotonic())
            self._start(merged, self._settle_merged)
        else:
            self._take_turn(outlet)

    def _wait_s(self, outlet: Outlet) -> float:
        """Return how long the destination takes nothing at all; others are given back instead of held."""
        now = self._clock.monotonic()
        if self._turnstile.rates != outlet.limit.rates:
            self._turnstile = Turnstile(outlet.limit.rates)
        pause_s = self._paused_until - now if outlet.limit.digest_after_s is not None else 0.0
        return max(self._turnstile.wait_s(now), pause_s, 0.0)

    def _to_merge(self, outlet: Outlet) -> list[Held]:
        """Return what becomes one digest now; nothing unless one of them has waited too long."""
        patience_s = outlet.limit.digest_after_s
        if patience_s is None or outlet.settings.get(MISSING):
            return []
        fresh = [
            item
            for item in self._pending
            if not item.progress() and item.due_s(self._clock.now().timestamp()) <= 0
        ]
        oldest = min((item.arrived_at for item in fresh), default=math.inf)
        return fresh if self._clock.monotonic() - oldest >= patience_s else []

    def _take_turn(self, outlet: Outlet) -> None:
        item = self._next()
        wait_s = max(item.due_s(self._clock.now().timestamp()), self._paused_until - self._clock.monotonic())
        if wait_s > 0:
            # Bounded: a wall clock that was set back must not hold a notification for years.
            delay_s = min(wait_s, self._policy.max_pause_s)
            self._start([item], lambda items: items[0].delivery.nak(delay_s))
            return
        if not outlet.settings.get(MISSING):
            self._turnstile.passed(self._clock.monotonic())
        self._start([item], self._settle)

    def _next(self) -> Held:
        item = self._pending.popleft()
        item.waits = False
        return item

    def _start(self, items: list[Held], settle: Callable[[list[Held]], Awaitable[None]]) -> None:
        task = asyncio.create_task(self._handle(items, settle))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, items: list[Held], settle: Callable[[list[Held]], Awaitable[None]]) -> None:
        try:
            await settle(items)
        except Exception as error:  # the broker refused: it redelivers, and the attempt was not counted
            self._trouble("settle", error)
            for item in items:
                with suppress(Exception):
                    await item.delivery.nak(_TROUBLE_S)
        finally:
            asyncio.get_running_loop().call_soon(self._changed.set)
        # Not reached when cancelled: what was cut off on closing is still held and is given back there.
        for item in items:
            if not item.waits:
                self._held.pop(id(item.delivery), None)

    # --- one notification ---

    async def _settle(self, items: list[Held]) -> None:
        (item,) = items
        outlet = self.outlet
        if not await self._readable(item, outlet) or item.notification is None or outlet is None:
            return
        notification = item.notification
        now = self._clock.now().timestamp()
        if not self._order.enter(notification.group_key, notification.id, notification.created_at, now):
            if not outlet.settings.get(MISSING):
                self._turnstile.give_back()
            await item.delivery.nak(_BEHIND_S)
            return
        result = await self._send(item, notification, outlet)
        await self._conclude(item, outlet, result)

    async def _readable(self, item: Held, outlet: Outlet | None) -> bool:
        """Read a notification; settles one that cannot be read or needs no sending."""
        delivery = item.delivery
        try:
            item.notification = decode_notification(delivery.message.data)
        except ProtocolError as error:
            await self._bury(item, self.topic, error.message, item.attempt - 1)
            return False
        if outlet is None:
            await self._bury(item, item.notification.id, "The receiver was deleted.", item.attempt - 1)
            return False
        if item.notification.id in self._unconfirmed:
            await self._confirm(item)
            return False
        return True

    async def _send(self, item: Held, notification: Notification, outlet: Outlet) -> SendResult:
        """Send what is left of a notification, message by message."""
        if missing := outlet.settings.get(MISSING):
            return SendResult(ok=False, detail=str(missing))  # it may be created any moment
        try:
            pieces = render(notification.group, outlet.style, skip=item.sent)
        except Exception as error:  # the same group fails the same way each time
            _log.exception("rendering failed receiver=%s id=%s", self.receiver, notification.id)
            return SendResult(
                ok=False, retriable=False, detail=f"Rendering failed with {type(error).__name__}."
            )
        result = SendResult(ok=True)
        for number, piece in enumerate(pieces):
            self._note_fault(notification, piece)
            if number:
                await self._await_turn(outlet)
            alerts = notification.group.alerts[item.sent : item.sent + piece.alerts]
            id = f"{notification.id}#{item.sent}" if item.sent else notification.id
            result = await self._call(item, outlet, id, piece.payload, alerts)
            if not result.ok:
                item.done = result.done
                return result
            item.sent, item.done = item.sent + piece.alerts, ()
        return result

    async def _call(
        self, item: Held, outlet: Outlet, id: str, payload: dict[str, Any], alerts: Sequence[Alert]
    ) -> SendResult:
        posts = await self._earlier(outlet, alerts)
        told: dict[str, Post] = {}
        if posts:
            news = merge(next(iter(posts.values())).group, alerts, receiver=self.receiver)
            told = {part: replace(post, group=news) for part, post in posts.items()}
            payload = payload | {
                "posts": {part: {"channel": post.channel, "ts": post.ts} for part, post in posts.items()},
                "current": shown(news, outlet.style),
                "followUp": outlet.settings.get("followUp"),
            }
        result = await self._ask(outlet, id, payload, item.done)
        if self._records is not None and (result.receipts or told):
            labels = item.notification.group.group_labels if item.notification is not None else {}
            said = group_of(alerts, receiver=self.receiver, group_labels=labels)
            made = {
                part: Post(part=part, channel=at["channel"], ts=at["ts"], group=said)
                for part, at in result.receipts.items()
            }
            kept = {**{part: post for part, post in told.items() if part in result.done}, **made}
            self._counters.followed += len(kept) - len(made)
            await self._records.keep(self.receiver, self.block, list(kept.values()))
        return result

    async def _earlier(self, outlet: Outlet, alerts: Sequence[Alert]) -> dict[str, Post]:
        """Return messages that tell of these alerts already, by channel."""
        follows = outlet.settings.get("followUp", "message") != "message"
        if self._records is None or not follows or not outlet.settings.get("channels"):
            return {}
        return await self._records.posts(self.receiver, self.block, [each.fingerprint for each in alerts])

    async def _ask(
        self, outlet: Outlet, id: str, payload: Mapping[str, Any], done: Sequence[str]
    ) -> SendResult:
        settings = {**outlet.settings, DELIVERY_ID: id, "done": list(done)}
        # One call per channel or address, and one for a token.
        timeout_s = max(_SEND_TIMEOUT_S, (1 + len(outlet.channels)) * timeout_of(outlet.settings, 0.0))
        try:
            async with asyncio.timeout(timeout_s):
                return await self._sender.send(settings, payload)
        except TimeoutError:
            return SendResult(ok=False, detail=f"No answer within {timeout_s:g} s.", done=tuple(done))
        except Exception as error:  # a Sender does not raise; a foreign error's text may hold an address
            detail = f"The sender failed with {type(error).__name__}."
            return SendResult(ok=False, detail=detail, done=tuple(done))

    async def _await_turn(self, outlet: Outlet) -> None:
        while (wait_s := self._turnstile.wait_s(self._clock.monotonic())) > 0:
            await self._clock.sleep(wait_s)
        self._turnstile.passed(self._clock.monotonic())

    # --- many in one ---

    async def _settle_merged(self, items: list[Held]) -> None:
        """Send one digest in place of several notifications; each is settled by its outcome."""
        outlet = self.outlet
        # Gone from the list are those that need no sending, and those that older ones of their group hold up.
        readable = [item for item in items if await self._readable(item, outlet)]
        left = await self._in_order(readable)
        if outlet is None or not left:
            return
        # The later state of an alert counts, in whatever order they were given out.
        left.sort(key=lambda item: item.notification.created_at if item.notification is not None else 0.0)
        groups = [item.notification.group for item in left if item.notification is not None]
        first = left[0].notification
        payload = digest_payload(groups, outlet.limit, outlet.style)
        result = await self._ask(outlet, f"{first.id if first else ''}#digest", payload, ())
        if result.ok:
            self._counters.digests += 1
            self._counters.digested += len(left)
            _log.warning(
                "notifications merged into a digest receiver=%s block=%s notifications=%d",
                self.receiver, self.block, len(left),
            )  # fmt: skip
        # A digest is one message: parts that have it must not be taken for parts that have the rest.
        outcome = replace(result, done=())
        # Side by side, so that the broker confirms them together.
        await asyncio.gather(*(self._conclude(item, outlet, outcome, merged=True) for item in left))

    async def _in_order(self, items: list[Held]) -> list[Held]:
        """Give back what older notifications of its group, which are not among these, hold up."""
        now = self._clock.now().timestamp()
        found: list[Held] = []
        beside = {item.notification.id for item in items if item.notification is not None}
        for item in items:
            said = item.notification
            if said is None:
                continue
            if self._order.enter(said.group_key, said.id, said.created_at, now, beside=beside):
                found.append(item)
            else:
                await item.delivery.nak(_BEHIND_S)
        return found

    # --- what follows ---

    async def _conclude(
        self, item: Held, outlet: Outlet, result: SendResult, *, merged: bool = False
    ) -> None:
        notification = item.notification
        if notification is None:
            return
        now = self._clock.now().timestamp()
        step = decide(
            result,
            attempt=item.attempt,
            age_s=max(0.0, now - notification.created_at),
            policy=self._policy,
            randomness=self._randomness(),
        )
        self._refused = result.detail if result.refused else "" if result.ok else self._refused
        if isinstance(step, Done):
            self._counters.sent += 1
            self._failing = ""
            if self._on_sent is not None:
                await self._on_sent(notification, outlet)
            self._note(notification, DIGEST if merged else SENT, item.attempt, result.detail)
            await self._confirm(item)
            return
        self._counters.last_error = self._failing = result.detail
        if isinstance(step, Pause):
            self._counters.pauses += 1
            self._paused_until = max(self._paused_until, self._clock.monotonic() + step.delay_s)
            self._note(notification, FAILED, item.attempt, result.detail)
            if outlet.limit.digest_after_s is None:
                await item.delivery.nak(step.delay_s)
            else:
                item.waits = True
                self._pending.appendleft(item)
            return
        self._counters.failed_attempts += 1
        if isinstance(step, Dead):
            self._note(notification, DEAD, item.attempt, step.reason)
            await self._bury(item, notification.id, step.reason, item.attempt)
        else:
            self._note(notification, FAILED, item.attempt, result.detail)
            await self._again(item, notification, step)

    async def _confirm(self, item: Held) -> None:
        """Acknowledge what was accepted; should the broker not hear it, its redelivery is not sent again."""
        id = item.notification.id if item.notification is not None else ""
        self._left(item)
        self._unconfirmed[id] = None
        if len(self._unconfirmed) > _REMEMBERED:
            self._unconfirmed.popitem(last=False)
        await item.delivery.ack()
        self._unconfirmed.pop(id, None)

    async def _again(self, item: Held, notification: Notification, step: Retry) -> None:
        _log.warning(
            "notification not accepted receiver=%s block=%s id=%s attempt=%d next_in_s=%.1f answer=%r",
            self.receiver, self.block, notification.id, item.attempt, step.delay_s, self._counters.last_error,
        )  # fmt: skip
        progress = item.progress()
        copy = Message(
            topic=self.topic,
            data=item.delivery.message.data,
            headers={
                ATTEMPT: str(item.attempt + 1),
                NOT_BEFORE: f"{self._clock.now().timestamp() + step.delay_s:.3f}",
                **({PROGRESS: progress} if progress else {}),
            },
            # Found again by the broker when we die before the acknowledgement and fail this attempt once
            # more.
            id=f"{notification.id}#{item.attempt + 1}",
        )
        await self._bus.publish(copy)
        await item.delivery.ack()

    async def _bury(self, item: Held, id: str, reason: str, attempts: int) -> None:
        _log.error(
            "notification became a dead letter receiver=%s block=%s id=%s attempts=%d reason=%r",
            self.receiver, self.block, id, attempts, reason,
        )  # fmt: skip
        await self._bus.publish(
            dead_letter(
                item.delivery,
                subscription=f"notifications.{self.receiver}.{self.block}",
                topic=DEAD_NOTIFICATIONS + self.receiver,
                id=id,
                reason=reason,
                attempts=attempts,
                failed_at=self._clock.now().timestamp(),
                progress=item.progress(),
            )
        )
        self._counters.dead += 1
        self._left(item)
        await item.delivery.term()

    def _left(self, item: Held) -> None:
        if item.notification is not None:
            self._order.leave(item.notification.group_key, item.notification.id)

    def _note(self, notification: Notification, outcome: str, attempt: int, detail: str) -> None:
        if self._records is None:
            return
        alerts = tuple(
            RecordedAlert(
                fingerprint=alert.fingerprint, name=alert.labels.get("alertname", ""), status=alert.status
            )
            for alert in notification.group.alerts
        )
        self._records.add(
            Record(
                at=self._clock.now().timestamp(),
                id=notification.id,
                receiver=self.receiver,
                block=self.block,
                outcome=outcome,
                attempt=attempt,
                detail=detail,
                title=title(notification.group),
                alerts=alerts,
            )
        )

    def _note_fault(self, notification: Notification, piece: Piece) -> None:
        self._fault = str(piece.fault) if piece.fault is not None else ""
        if piece.fault is not None:
            self._counters.template_faults += 1
            _log.warning(
                "template failed, plain words are sent receiver=%s block=%s id=%s fault=%s",
                self.receiver, self.block, notification.id, piece.fault,
            )  # fmt: skip

    async def _heartbeat(self) -> None:
        while True:
            await self._clock.sleep(_EXTEND_EVERY_S)
            for item in list(self._held.values()):
                try:
                    await item.delivery.extend()
                except Exception as error:  # at worst it is delivered twice
                    self._trouble("extend", error)

    async def _wind_up(self, grace_s: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        # Given back at once, the next start need not wait for the broker to miss us.
        with suppress(Exception):
            async with asyncio.timeout(1.0):
                await asyncio.gather(
                    *(item.delivery.nak(0.0) for item in self._held.values()), return_exceptions=True
                )
        self._held.clear()
        self._pending.clear()

    def _trouble(self, doing: str, error: Exception) -> None:
        self._counters.trouble += 1
        _log.warning(
            "bus trouble receiver=%s block=%s doing=%s error=%s",
            self.receiver, self.block, doing, error,
        )  # fmt: skip


def merge(earlier: Group, news: Sequence[Alert], *, receiver: str) -> Group:
    """Return an earlier group with the newer state of its alerts."""
    newer = {alert.fingerprint: alert for alert in news}
    alerts = []
    for alert in earlier.alerts:
        latest = newer.pop(alert.fingerprint, alert)
        # Who says that something is over often says nothing else.
        alerts.append(replace(latest, annotations={**alert.annotations, **latest.annotations}))
    return group_of([*alerts, *newer.values()], receiver=receiver, group_labels=earlier.group_labels)
