"""One destination: takes its notifications from the bus, renders, sends, and settles each.

`notify/pipeline.py` runs one Destination per receiver and block, each with its own durable consumer, so a
slow or dead one holds up nobody else. It calls `retry.decide` and a `ports.Sender`. An attempt is an answer
of the destination, kept in the headers of a copy that is published before the original is acknowledged: it
survives a kill at any point, and the death of this process or of the broker is no attempt. At-least-once: a
kill between an answer and its acknowledgement sends again, under the same notification id.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from pelton import log
from pelton.clock import Clock
from pelton.errors import ProtocolError
from pelton.notify.envelope import Notification, decode_notification
from pelton.notify.retry import Dead, Done, Pause, Retry, RetryPolicy, decide
from pelton.notify.settings import MISSING
from pelton.notify.template import RENDERERS
from pelton.ports import Bus, Delivery, Message, Sender, SendResult

__all__ = [
    "ATTEMPT",
    "DEAD_ALERTS",
    "DEAD_NOTIFICATIONS",
    "LIMITS",
    "NOT_BEFORE",
    "Destination",
    "Limit",
    "consumer_name",
    "dead_letter",
    "redriven",
    "topic_of",
]

ATTEMPT = "Pelton-Attempt"
"""Header: number of the attempt that a message is for; absent for the first."""

DEAD_NOTIFICATIONS = "pelton.dead.notifications."
"""Before a receiver's name: topic of its dead letters, kept until they are redriven."""

DEAD_ALERTS = "pelton.dead.alerts."
"""Before the reason's kind: topic of batches that could not be read."""

NOT_BEFORE = "Pelton-Not-Before"
"""Header: Unix seconds before which an attempt is not made."""

DELIVERY_ID = "deliveryId"
"""Key added to a Sender's settings: the notification's id, the same for each attempt."""

_EXTEND_EVERY_S = 10.0
_SEND_TIMEOUT_S = 60.0  # a Sender has its own, shorter limit; this one is for a Sender that forgot it
_TROUBLE_S = 1.0
_LONGEST_NAME = 200
_MAX_WAITING = 10_000
_REMEMBERED = 1_000
_LONGEST_REASON = 1_000

_log = log.get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How hard a kind of destination may be driven.

    Attributes:
        interval_s: Least seconds between two sends; 0 for none.
        concurrency: Sends at once, >= 1.
    """

    interval_s: float = 0.0
    concurrency: int = 8


LIMITS: Mapping[str, Limit] = {
    "slack": Limit(interval_s=1.0, concurrency=1),
    "email": Limit(concurrency=2),
    "console": Limit(concurrency=1),
}
"""Block -> limit; contract section 8. Others have `Limit()`."""


@dataclass(slots=True)
class Counters:
    """What happened to one destination's notifications since the start."""

    sent: int = 0
    failed_attempts: int = 0
    pauses: int = 0
    dead: int = 0
    trouble: int = 0
    held: int = 0
    last_error: str = ""


def topic_of(receiver: str, block: str) -> str:
    """Return the topic of a destination's notifications."""
    return f"pelton.notifications.{receiver}.{block}"


def consumer_name(receiver: str, block: str) -> str:
    """Return its durable consumer; brokers refuse dots there, and names of receivers hold no underscore."""
    name = f"notify-{receiver.replace('.', '_')}"
    return f"{name[:_LONGEST_NAME]}-{block}"


def dead_letter(
    delivery: Delivery,
    *,
    subscription: str,
    topic: str,
    id: str,
    reason: str,
    attempts: int,
    failed_at: float,
) -> Message:
    """Return the dead-letter record of a message: its data, why, and where it came from.

    The headers are those of events' dead letters, so that `pelton dlq` lists both; `redriven` leads back.

    Args:
        delivery: What failed.
        subscription: What failed on it, as shown to users.
        topic: Where dead letters of that kind go.
        id: Identity of the message's content; the delivery's key is added, since a redriven message that
            fails again within the broker's window must not be taken for a repetition of its first record.
        reason: One line without secrets.
        attempts: Answers that the destination gave.
        failed_at: Unix seconds.
    """
    return Message(
        topic=topic,
        data=delivery.message.data,
        headers={
            "Pelton-Subscription": subscription,
            "Pelton-Topic": delivery.message.topic,
            "Pelton-Key": delivery.key,
            "Pelton-Attempts": str(attempts),
            "Pelton-Reason": _header_text(reason) or "no reason given",
            "Pelton-Failed-At": f"{failed_at:.3f}",
        },
        id=f"{id}#dead/{delivery.key}",
    )


def redriven(letter: Message, *, key: str) -> Message | None:
    """Return a dead alert or notification as a fresh message, or None when the dead letter is an event's.

    Args:
        letter: The dead letter, as `dead_letter` made it.
        key: Distinguishes this redrive from others, e.g. the letter's sequence number.
    """
    if not letter.topic.startswith((DEAD_NOTIFICATIONS, DEAD_ALERTS)):
        return None
    return Message(
        topic=letter.headers["Pelton-Topic"], data=letter.data, id=f"redriven/{letter.topic}/{key}"
    )


class Destination:
    """One receiver's block and its way out.

    Args:
        bus: Where notifications wait.
        sender: Brings one to its destination.
        clock: Time.
        receiver: Receiver name.
        block: `slack`, `webhook` or `console`; a key of `template.RENDERERS`.
        limit: How hard to drive it.
        policy: How long to try.
        randomness: Returns 0 <= r < 1, for jitter.
        max_in_flight: Notifications held at once, waiting ones included.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        sender: Sender,
        clock: Clock,
        receiver: str,
        block: str,
        limit: Limit,
        policy: RetryPolicy,
        randomness: Callable[[], float],
        max_in_flight: int = 64,
    ) -> None:
        self._bus = bus
        self._sender = sender
        self._clock = clock
        self._policy = policy
        self._randomness = randomness
        self._max_in_flight = max_in_flight
        self._limit = limit
        self._slots = asyncio.Semaphore(limit.concurrency)
        self._next_send = float("-inf")
        self._paused_until = float("-inf")
        self._unconfirmed: OrderedDict[str, None] = OrderedDict()
        # By identity: a driver's Delivery need not be hashable.
        self._held: dict[int, Delivery] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.receiver = receiver
        self.block = block
        self.topic = topic_of(receiver, block)
        self.consumer = consumer_name(receiver, block)
        self.settings: Mapping[str, Any] | None = None
        """Settings with secrets resolved; None once the block is deleted: what waits becomes dead letters."""
        self._counters = Counters()

    def stats(self) -> dict[str, Any]:
        """Return its counters by name."""
        self._counters.held = len(self._held)
        return asdict(self._counters)

    async def run(self, *, grace_s: float) -> None:
        """Serve until cancelled.

        Cancelling stops taking, lets sends that are under way finish for `grace_s` seconds, and gives the
        rest back.
        """
        heartbeat = asyncio.create_task(self._heartbeat())
        try:
            while True:
                await self._consume()
                await self._clock.sleep(_TROUBLE_S)
        finally:
            heartbeat.cancel()
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
                # All are held from now on, so that the heartbeat covers those that wait for a slot.
                self._held.update((id(delivery), delivery) for delivery in batch)
                for delivery in batch:
                    await self._slots.acquire()
                    task = asyncio.create_task(self._handle(delivery))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
        except Exception as error:  # whatever the broker's client raises, the destination goes on
            self._trouble("subscribe", error)
        finally:
            if (close := getattr(stream, "aclose", None)) is not None:
                with suppress(Exception):
                    await close()

    async def _handle(self, delivery: Delivery) -> None:
        try:
            await self._settle(delivery)
        except Exception as error:  # the broker refused: it redelivers, and the attempt was not counted
            self._trouble("settle", error)
            with suppress(Exception):
                await delivery.nak(_TROUBLE_S)
        finally:
            self._slots.release()
        # Not reached when cancelled: what was cut off on closing is still held and is given back there.
        self._held.pop(id(delivery), None)

    async def _settle(self, delivery: Delivery) -> None:
        message = delivery.message
        attempt = max(1, int(_number(message.headers.get(ATTEMPT), 1.0)))
        now = self._clock.now().timestamp()
        due_s = _number(message.headers.get(NOT_BEFORE), 0.0) - now
        pause_s = self._paused_until - self._clock.monotonic()
        if (wait_s := max(due_s, pause_s)) > 0 and self.settings is not None:
            # Bounded: a wall clock that was set back must not hold a notification for years.
            await delivery.nak(min(wait_s, self._policy.max_pause_s))
            return
        try:
            notification = decode_notification(message.data)
        except ProtocolError as error:
            await self._bury(delivery, self.topic, error.message, attempt - 1)
            return
        if self.settings is None:
            await self._bury(delivery, notification.id, "The receiver was deleted.", attempt - 1)
            return
        if notification.id in self._unconfirmed:
            await self._confirm(delivery, notification.id)
            return
        result = await self._send(notification, self.settings)
        step = decide(
            result,
            attempt=attempt,
            age_s=max(0.0, now - notification.created_at),
            policy=self._policy,
            randomness=self._randomness(),
        )
        if isinstance(step, Done):
            self._counters.sent += 1
            await self._confirm(delivery, notification.id)
            return
        self._counters.last_error = result.detail
        if isinstance(step, Pause):
            self._counters.pauses += 1
            self._paused_until = max(self._paused_until, self._clock.monotonic() + step.delay_s)
            await delivery.nak(step.delay_s)
            return
        self._counters.failed_attempts += 1
        if isinstance(step, Dead):
            await self._bury(delivery, notification.id, step.reason, attempt)
        else:
            await self._again(delivery, notification, attempt, step)

    async def _send(self, notification: Notification, settings: Mapping[str, Any]) -> SendResult:
        try:
            payload = RENDERERS[self.block](notification.group)
        except Exception as error:  # the same group fails the same way each time
            return SendResult(
                ok=False, retriable=False, detail=f"Rendering failed with {type(error).__name__}."
            )
        if missing := settings.get(MISSING):
            return SendResult(ok=False, detail=str(missing))  # it may be created any moment
        await self._await_turn()
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                return await self._sender.send({**settings, DELIVERY_ID: notification.id}, payload)
        except Exception as error:  # a Sender does not raise; a foreign error's text may hold an address
            return SendResult(ok=False, detail=f"The sender failed with {type(error).__name__}.")

    async def _await_turn(self) -> None:
        if self._limit.interval_s <= 0:
            return
        now = self._clock.monotonic()
        turn = max(now, self._next_send)
        self._next_send = turn + self._limit.interval_s
        if turn > now:
            await self._clock.sleep(turn - now)

    async def _confirm(self, delivery: Delivery, id: str) -> None:
        """Acknowledge what was accepted; should the broker not hear it, its redelivery is not sent again."""
        self._unconfirmed[id] = None
        if len(self._unconfirmed) > _REMEMBERED:
            self._unconfirmed.popitem(last=False)
        await delivery.ack()
        self._unconfirmed.pop(id, None)

    async def _again(self, delivery: Delivery, notification: Notification, attempt: int, step: Retry) -> None:
        _log.warning(
            "notification not accepted receiver=%s block=%s id=%s attempt=%d next_in_s=%.1f answer=%r",
            self.receiver, self.block, notification.id, attempt, step.delay_s, self._counters.last_error,
        )  # fmt: skip
        copy = Message(
            topic=self.topic,
            data=delivery.message.data,
            headers={
                ATTEMPT: str(attempt + 1),
                NOT_BEFORE: f"{self._clock.now().timestamp() + step.delay_s:.3f}",
            },
            # Found again by the broker when we die before the acknowledgement and fail this attempt once
            # more.
            id=f"{notification.id}#{attempt + 1}",
        )
        await self._bus.publish(copy)
        await delivery.ack()

    async def _bury(self, delivery: Delivery, id: str, reason: str, attempts: int) -> None:
        _log.error(
            "notification became a dead letter receiver=%s block=%s id=%s attempts=%d reason=%r",
            self.receiver, self.block, id, attempts, reason,
        )  # fmt: skip
        await self._bus.publish(
            dead_letter(
                delivery,
                subscription=f"notifications.{self.receiver}.{self.block}",
                topic=DEAD_NOTIFICATIONS + self.receiver,
                id=id,
                reason=reason,
                attempts=attempts,
                failed_at=self._clock.now().timestamp(),
            )
        )
        self._counters.dead += 1
        await delivery.term()

    async def _heartbeat(self) -> None:
        while True:
            await self._clock.sleep(_EXTEND_EVERY_S)
            for delivery in list(self._held.values()):
                try:
                    await delivery.extend()
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
                    *(delivery.nak(0.0) for delivery in self._held.values()), return_exceptions=True
                )
        self._held.clear()

    def _trouble(self, doing: str, error: Exception) -> None:
        self._counters.trouble += 1
        _log.warning(
            "bus trouble receiver=%s block=%s doing=%s error=%s",
            self.receiver, self.block, doing, error,
        )  # fmt: skip


def _header_text(text: str) -> str:
    """Return one line that any broker takes as a header: a destination's answer may hold anything."""
    line = " ".join(text.split())[:_LONGEST_REASON]
    return "".join(character if " " <= character <= "~" else "?" for character in line)


def _number(text: str | None, default: float) -> float:
    try:
        number = float(text) if text else default
    except ValueError:
        return default
    return number if math.isfinite(number) else default
