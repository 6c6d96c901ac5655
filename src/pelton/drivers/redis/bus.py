"""`pubsub.redis`: a topic is a stream, a subscription a consumer group that begins with the oldest entry.

Implements `ports.Bus`. Entries have the fields `data` and `metadata` (JSON object of the headers), as Dapr
writes them. What a subscriber held when it ended is in the group's pending list and comes first to the next
one; what another consumer held too long is claimed. De-duplication is a key per message id, set in the same
script that adds the entry.
Source: `dapr-components` contract, section 2 (`pubsub.redis`).
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from pelton.clock import Clock
from pelton.drivers.redis.link import BLOCK_S, PLAIN_S, RedisLink
from pelton.errors import DeliveryError
from pelton.holding import Holding
from pelton.model.desired import Component
from pelton.model.settings import consumer_name
from pelton.ports import Delivery, Message

__all__ = ["RedisBus"]

_KNOWN_S: Final = 120
"""Seconds for which a message id is remembered, as long as JetStream does by default."""
_LAG_LIMIT: Final = 10_000
# KEYS: stream, key of the message id. ARGV: seconds, trimming (none, MAXLEN, MINID), its bound, then fields.
_ADD: Final = """
if KEYS[2] ~= KEYS[1] and not redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[1]) then return false end
local words = {'XADD', KEYS[1]}
if ARGV[2] ~= 'none' then
  words[#words + 1] = ARGV[2]
  words[#words + 1] = '~'
  words[#words + 1] = ARGV[3]
end
words[#words + 1] = '*'
for index = 4, #ARGV do words[#words + 1] = ARGV[index] end
return redis.call(unpack(words))
"""


class RedisBus:
    """Streams of one server.

    Args:
        component: Its metadata; `consumerID` names the group, else that of a subscription's options, else
            the consumer does. Within its group each subscription has a name of its own.
        clock: Tells what is older than `streamTTL`.
    """

    def __init__(self, component: Component, *, clock: Clock) -> None:
        self._link = RedisLink(component)
        settings = self._link.settings
        self._clock = clock
        self._group = settings.text("consumerID").strip()
        self._processing_ms = int(settings.seconds("processingTimeout", 15.0, plain_s=PLAIN_S) * 1000)
        self._redeliver_s = settings.seconds("redeliverInterval", 60.0, plain_s=PLAIN_S)
        self._concurrency = settings.number("concurrency", 0)
        self._groups: dict[tuple[str, str], str] = {}
        self._depth = max(1, settings.number("queueDepth", 100))
        self._max_length = settings.number("maxLenApprox", 0)
        self._ttl_s = settings.seconds("streamTTL", 0.0, plain_s=PLAIN_S)

    async def __aenter__(self) -> RedisBus:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()

    async def publish(self, message: Message) -> None:
        """Add an entry; one whose id is known for its topic is dropped. See `ports.Bus`."""
        trim, bound = "none", "0"
        if self._max_length > 0:
            trim, bound = "MAXLEN", str(self._max_length)
        elif self._ttl_s > 0:
            trim, bound = "MINID", str(int((self._clock.now().timestamp() - self._ttl_s) * 1000))
        fields: list[str | bytes] = ["data", message.data]
        if message.headers:
            fields += ["metadata", json.dumps(dict(message.headers), ensure_ascii=False)]
        # The braces keep both keys in one slot; without an id the stream stands for itself.
        known = f"{{{message.topic}}}:id:{message.id}" if message.id else message.topic
        with self._link.translated():
            await self._link.client.eval(_ADD, 2, message.topic, known, str(_KNOWN_S), trim, bound, *fields)

    async def subscribe(
        self, topic: str, *, consumer: str, max_in_flight: int, options: Mapping[str, str]
    ) -> AsyncIterator[Sequence[Delivery]]:
        """Iterate over batches of a group; see `ports.Bus`."""
        given = {key.lower(): value for key, value in options.items()}
        group = self._groups[topic, consumer] = self._name(consumer, given.get("consumerid", "").strip())
        if self._concurrency > 0:
            max_in_flight = min(max_in_flight, self._concurrency)
        stream = _Stream(self, topic, group, consumer, max_in_flight)
        async for batch in stream.batches():
            yield batch

    async def pending(self, topic: str, *, consumer: str) -> int:
        """Return entries that the group has not finished; 0 for an unknown one."""
        group = self._groups.get((topic, consumer)) or self._name(consumer)
        with self._link.translated():
            try:
                groups = await self._link.client.xinfo_groups(topic)
            except ResponseError as exc:
                if "no such key" in str(exc):
                    return 0
                raise
            for found in groups:
                if found["name"] == group.encode():
                    lag = found.get("lag")
                    if lag is None:  # the server lost count, which entries deleted in between make it do
                        start = b"(" + found["last-delivered-id"]
                        lag = len(await self._link.client.xrange(topic, min=start, count=_LAG_LIMIT))
                    return int(lag) + int(found["pending"])
        return 0

    def _name(self, consumer: str, named: str = "") -> str:
        text = named or self._group or consumer
        return consumer_name(text, f"{socket.gethostname()}/{self._link.where}/{consumer}")


class _Stream:
    """One subscription: a reader for new entries, and now and then for what others left."""

    def __init__(self, bus: RedisBus, topic: str, group: str, member: str, max_in_flight: int) -> None:
        self._bus = bus
        self._link = bus._link
        self._topic = topic
        self._group = group
        self._member = member
        self._holding = Holding[bytes](max_in_flight, finish=self._finish, extend=self._extend)
        self._after: bytes | None = b"0"
        """Entry of our own pending list to go on after; None when it is read."""

    async def batches(self) -> AsyncIterator[Sequence[Delivery]]:
        holding, bus = self._holding, self._bus
        await self._create()
        fetch: asyncio.Task[None] | None = None
        claim_at = bus._clock.monotonic() + bus._redeliver_s
        try:
            while True:
                batch = holding.take()
                if batch:
                    yield batch
                    continue
                holding.changed.clear()
                if fetch is not None and fetch.done():
                    finished, fetch = fetch, None
                    finished.result()
                    if bus._redeliver_s and bus._processing_ms and bus._clock.monotonic() >= claim_at:
                        claim_at = bus._clock.monotonic() + bus._redeliver_s
                        await self._claim()
                    continue
                if fetch is None and holding.room > 0:
                    fetch = asyncio.create_task(self._fetch(min(holding.room, bus._depth)))
                    fetch.add_done_callback(lambda _task: holding.changed.set())
                await holding.changed.wait()
        finally:
            if fetch is not None:
                fetch.cancel()
                await asyncio.gather(fetch, return_exceptions=True)
            holding.forget()

    async def _create(self) -> None:
        with self._link.translated():
            try:
                await self._link.client.xgroup_create(self._topic, self._group, id="0", mkstream=True)
            except ResponseError as exc:
                if not str(exc).startswith("BUSYGROUP"):
                    raise

    async def _fetch(self, count: int) -> None:
        old = self._after
        with self._link.translated():
            try:
                answer = await self._link.client.xreadgroup(
                    self._group,
                    self._member,
                    {self._topic: old if old is not None else ">"},
                    count=count,
                    block=None if old is not None else int(BLOCK_S * 1000),
                )
            except ResponseError as exc:
                if not str(exc).startswith(("NOGROUP", "UNBLOCKED")):
                    raise
                await self._create()  # somebody deleted the stream while we waited for it
                return
        entries = answer[0][1] if answer else []
        if old is not None:
            self._after = entries[-1][0] if entries else None
        await self._offer(entries)

    async def _claim(self) -> None:
        start: Any = "0-0"
        while self._holding.room > 0:
            with self._link.translated():
                start, entries, *_ = await self._link.client.xautoclaim(
                    self._topic,
                    self._group,
                    self._member,
                    self._bus._processing_ms,
                    start_id=start,
                    count=max(1, min(self._holding.room, self._bus._depth)),
                )
            await self._offer(entries)
            if start in (b"0-0", "0-0"):
                return

    async def _offer(self, entries: Sequence[tuple[bytes, dict[bytes, bytes] | None]]) -> None:
        for number, fields in entries:
            if not fields:
                # Trimmed or deleted while it was pending: there is nothing to deliver any more.
                await self._finish(number, True)
                continue
            message = Message(
                topic=self._topic, data=fields.get(b"data", b""), headers=_headers(fields.get(b"metadata"))
            )
            self._holding.offer(f"{self._topic}:{number.decode()}", message, number)

    async def _finish(self, number: bytes, _success: bool) -> None:
        with self._link.translated():
            await self._link.client.xack(self._topic, self._group, number)

    async def _extend(self, number: bytes) -> None:
        with self._link.translated(DeliveryError):
            await self._link.client.xclaim(
                self._topic, self._group, self._member, min_idle_time=0, message_ids=[number], justid=True
            )


def _headers(text: bytes | None) -> dict[str, str]:
    """Read the headers of an entry; what is no JSON object has none."""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in found.items()}
