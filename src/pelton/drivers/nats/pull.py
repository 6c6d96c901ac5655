"""A durable pull consumer as batches of deliveries: one open request while there is room, acks in batches.

The client library's `fetch` waits once per message; here what has arrived is handed over at once. All
endings of one loop turn share a round trip: the broker handles a consumer's acks in order, so the
confirmation of the last one confirms all before it. Called by `bus.py` beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Final

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext, api

from pelton import errors
from pelton.drivers.nats.link import ANSWER_S, Link, status_of
from pelton.log import get
from pelton.ports import Delivery, Message

__all__ = ["Pull", "finish_all"]

_BATCH: Final = 256
_WINDOW_BYTES: Final = 64 * 1024 * 1024
# Two idle subscriptions per function at 1,000 functions: heartbeats must stay below 100 a second. A broken
# connection is noticed without them; they only tell of a request that the broker forgot.
_EXPIRES_S: Final = 120.0
_HEARTBEAT_S: Final = 30.0

_log = get(__name__)


class _Delivery:
    """One message held; see `ports.Delivery`."""

    __slots__ = ("_pull", "key", "message", "reply")

    def __init__(self, pull: Pull, reply: str, key: str, message: Message) -> None:
        self._pull = pull
        self.reply = reply
        self.key = key
        self.message = message

    async def ack(self) -> None:
        """Finish it, confirmed by the broker."""
        await self._pull.finish(self, b"+ACK")

    async def nak(self, delay_s: float) -> None:
        """Give it back for `delay_s` seconds; confirmed."""
        nanoseconds = int(max(0.0, delay_s) * 1e9)
        await self._pull.finish(self, b'-NAK {"delay": %d}' % nanoseconds if nanoseconds else b"-NAK")

    async def term(self) -> None:
        """Finish it for good, confirmed."""
        await self._pull.finish(self, b"+TERM")

    async def extend(self) -> None:
        """Restart the broker's redelivery timer; not confirmed."""
        with contextlib.suppress(nats.errors.Error, ConnectionError):
            await self._pull.link.client().publish(self.reply, b"+WPI")


async def finish_all(deliveries: Sequence[Delivery]) -> None:
    """Acknowledge deliveries, each at the consumer that it came by; confirmed as `ack` is.

    Raises:
        DeliveryError: Some are not confirmed.
    """
    by_source: dict[Pull, list[_Delivery]] = {}
    for delivery in deliveries:
        if isinstance(delivery, _Delivery):
            by_source.setdefault(delivery._pull, []).append(delivery)
    for source, own in by_source.items():
        await source.finish_all(own, b"+ACK")


class Pull:
    """Keeps one pull request open at a durable consumer while there is room, and confirms acks in batches."""

    def __init__(self, link: Link, stream: str, config: api.ConsumerConfig, window: int) -> None:
        self.link = link
        self._stream = stream
        self._config = config
        self._window = max(1, window)
        self._held: dict[str, _Delivery] = {}
        self._buffer: list[_Delivery] = []
        self._arrived = asyncio.Event()
        self._changed = asyncio.Event()
        self._asked = 0  # messages that the open request may still bring
        self._request = 0  # serial number of that request: tells its status messages from older ones
        self._seen = 0.0
        self._held_bytes = 0
        self._mean_bytes = 1024.0  # of the last messages, weighted
        self._subscription: Subscription | None = None
        self._bound: Client | None = None  # the connection that carries the inbox subscription
        self._inbox = ""
        self._ready = False
        self._trouble = ""  # what was logged last, to say it once
        self._endings: list[tuple[str, bytes]] = []
        self._ended: asyncio.Future[None] | None = None
        self._enders: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Keep asking; raises ComponentError only for what waiting cannot cure."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self.link.up()
                if not self._ready:
                    await self._prepare()
                room = self._room()
                if self._asked and loop.time() - self._seen > 2.5 * _HEARTBEAT_S:
                    self._asked = 0  # neither message nor heartbeat: the request is gone
                if not self._asked and room > 0:
                    await self._ask(room)
                self._changed.clear()
                async with asyncio.timeout(_HEARTBEAT_S):
                    await self._changed.wait()
            except (ConnectionError, TimeoutError):
                continue
            except (nats.errors.Error, errors.DeliveryError) as exc:
                if str(exc) != self._trouble:
                    self._trouble = str(exc)
                    _log.warning("%s: %s: %s; trying on", self.link.where, self._config.durable_name, exc)
                self._ready = False
                await asyncio.sleep(0.5)

    def reset(self) -> None:
        """Forget the open request: its connection ended."""
        self._ready = False
        self._asked = 0
        self._changed.set()

    async def next(self, task: asyncio.Task[None]) -> list[Delivery]:
        """Return what has arrived, waiting for the first; raises what ended `task`."""
        if not self._buffer:
            self._arrived.clear()
            waiter = asyncio.ensure_future(self._arrived.wait())
            try:
                await asyncio.wait({waiter, task}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiter.cancel()
            if task.done():
                task.result()
        batch: list[Delivery] = list(self._buffer)
        self._buffer.clear()
        return batch

    async def finish(self, delivery: _Delivery, ending: bytes) -> None:
        """End a delivery, confirmed by the broker; all endings of one loop turn share a round trip."""
        await self.finish_all([delivery], ending)

    async def finish_all(self, deliveries: Sequence[_Delivery], ending: bytes) -> None:
        """End several; as `finish`."""
        if not self._endings:
            self._ended = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(self._confirm())
            self._enders.add(task)
            task.add_done_callback(self._enders.discard)
        ended = self._ended
        for delivery in deliveries:
            self._endings.append((delivery.reply, ending))
            if self._held.get(delivery.key) is delivery:
                del self._held[delivery.key]
                self._held_bytes -= len(delivery.message.data)
                if not self._asked:
                    self._changed.set()
        if ended is not None:
            await asyncio.shield(ended)

    def _room(self) -> int:
        """Return how many messages may be asked for, by their number and by the memory they would take."""
        by_bytes = (_WINDOW_BYTES - self._held_bytes) / max(self._mean_bytes, 1.0)
        if by_bytes < 1 and not self._held:
            by_bytes = 1  # one message always fits
        return min(_BATCH, self._window - len(self._held), int(by_bytes))

    async def close(self) -> None:
        """Give up the inbox, and with it the open request; acks of what is held still work."""
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error):
                await self._subscription.unsubscribe()

    async def _confirm(self) -> None:
        endings, self._endings = self._endings, []
        ended, self._ended = self._ended, None
        failed: errors.DeliveryError | None = None
        for attempt in range(1, 4):
            try:
                client = self.link.client()
                for reply, ending in endings[:-1]:
                    await client.publish(reply, ending)
                # A second try after a lost connection repeats all: which of them arrived is not known.
                await self.link.ask(*endings[-1], deadline_s=ANSWER_S)
                failed = None
                break
            except (errors.DeliveryError, nats.errors.Error, ConnectionError) as exc:
                failed = errors.DeliveryError(
                    f"{len(endings)} acks are not confirmed: {exc}", where=self.link.where
                )
                await asyncio.sleep(0.1 * attempt)
        if ended is None or ended.done():
            return
        if failed is None:
            ended.set_result(None)
        else:
            ended.set_exception(failed)
            ended.exception()  # waiters may be gone; the broker redelivers, and the dispatcher says so

    async def _prepare(self) -> None:
        client = self.link.client()
        jetstream = self.link.jetstream()
        name = str(self._config.durable_name)
        try:
            before = await jetstream.consumer_info(self._stream, name)
        except nats.js.errors.NotFoundError:
            before = None
        try:
            if before is None:
                await jetstream.add_consumer(self._stream, self._config)
            else:
                await self._adopt(jetstream, before)
        except nats.js.errors.BadRequestError as exc:
            raise errors.ComponentError(
                f"the consumer {name} cannot be made: {exc.description}", where=self.link.where
            ) from exc
        if self._bound is not client:
            self._inbox = client.new_inbox()
            self._subscription = await client.subscribe(f"{self._inbox}.*", cb=self._on_message)
            self._bound = client
        self._asked = 0
        self._ready = True
        self._trouble = ""

    async def _adopt(self, jetstream: JetStreamContext, before: api.ConsumerInfo) -> None:
        """Take over a durable consumer; what nobody holds any more becomes deliverable at once.

        Shortening the ack wait for a moment makes the broker queue every unacked message again, also those
        that wait out a short NAK: after a crash a retry may come early. Messages that this process still
        holds come twice and are dropped on arrival.
        """
        config = before.config.evolve(
            ack_wait=self._config.ack_wait,
            max_ack_pending=self._config.max_ack_pending,
            max_deliver=-1,
            filter_subject=self._config.filter_subject,
        )
        if (before.num_ack_pending or 0) > 0:
            await jetstream.add_consumer(self._stream, config.evolve(ack_wait=0.01))
            await asyncio.sleep(0.15)  # the broker looks 100 ms after the change
        await jetstream.add_consumer(self._stream, config)

    async def _ask(self, room: int) -> None:
        self._request += 1
        self._asked = room
        self._seen = asyncio.get_running_loop().time()
        body = {
            "batch": room,
            "expires": int(_EXPIRES_S * 1e9),
            "idle_heartbeat": int(_HEARTBEAT_S * 1e9),
        }
        subject = f"{self.link.api_prefix}.CONSUMER.MSG.NEXT.{self._stream}.{self._config.durable_name}"
        await self.link.client().publish(subject, json.dumps(body).encode(), f"{self._inbox}.{self._request}")

    async def _on_message(self, msg: Msg) -> None:
        self._seen = asyncio.get_running_loop().time()
        if not msg.reply.startswith("$JS.ACK."):
            self._on_status(msg)
            return
        parts = msg.reply.split(".")
        # $JS.ACK[.domain.account].stream.consumer.delivered.sequence.consumer-sequence.time.pending[.random]
        short = len(parts) == 9
        key = f"{parts[2]}:{parts[5]}" if short else f"{parts[4]}:{parts[7]}"
        self._asked = max(0, self._asked - 1)
        if not self._asked:
            self._changed.set()
        known = self._held.get(key)
        if known is not None:
            known.reply = msg.reply
            return
        message = Message(
            topic=msg.subject,
            data=msg.data,
            headers=msg.headers or {},
            at=int(parts[7] if short else parts[9]) / 1e9,
        )
        delivery = self._held[key] = _Delivery(self, msg.reply, key, message)
        self._held_bytes += len(msg.data)
        self._mean_bytes += (len(msg.data) - self._mean_bytes) / 16
        self._buffer.append(delivery)
        self._arrived.set()

    def _on_status(self, msg: Msg) -> None:
        status = status_of(msg)
        if status == "100" or msg.subject.rpartition(".")[2] != str(self._request):
            return
        if status == "503" or "Deleted" in (msg.headers or {}).get("Description", ""):
            self._ready = False
        self._asked = 0
        self._changed.set()
