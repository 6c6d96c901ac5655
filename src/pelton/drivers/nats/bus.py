"""NATS JetStream as event bus: the embedded one and any other that a `pubsub.jetstream` component names.

Implements `ports.Ledger`, `ports.Registers` and the look-ups behind `pelton topic` and `pelton dlq`;
`link.py` holds the connection, `pull.py` a subscription. Only these three files import `nats`.
Source: `dapr-components` contract, section 2 (`pubsub.jetstream`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import api

from pelton import errors
from pelton.drivers.nats.link import Link, lower_keys, status_of
from pelton.drivers.nats.pull import Pull, finish_all
from pelton.model.settings import is_single, server_url, truthy
from pelton.ports import Delivery, Message, Place, Recorded, Stored
from pelton.quantity import parse_duration

__all__ = [
    "ATTEMPTS_BUCKET",
    "MAX_PAYLOAD_BYTES",
    "REGISTERS_BUCKET",
    "JetStreamBus",
    "Lag",
    "is_embedded",
]

ATTEMPTS_BUCKET: Final = "PELTON_ATTEMPTS"
_ATTEMPTS: Final = f"$KV.{ATTEMPTS_BUCKET}."
REGISTERS_BUCKET: Final = "PELTON_REGISTERS"
_REGISTERS: Final = f"$KV.{REGISTERS_BUCKET}."
MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024 - 64 * 1024
"""Largest payload: the server's limit less room for headers, so that every event fits into a dead letter."""


_WRONG_LAST_SEQUENCE: Final = 10071
_KNOWN_STREAMS: Final = 10_000
_ACK_WAIT_S: Final = 30.0
_LEAST_ACK_WAIT_S: Final = 15.0
_PUBLISH_DEADLINE_S: Final = 30.0
_LOOK_S: Final = 5.0
_DAY_S: Final = 24 * 3600.0

# Streams of the embedded bus that are there from the start: (stream, subjects, settings). All other topics
# get a stream each, kept for seven days. Retries are a work queue: acknowledged means gone. Dead letters stay
# until they are redriven.
_FAMILIES: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    ("PELTON_LOGS", "logs.>", {"max_age": _DAY_S, "max_bytes": 1 << 30}),
    ("PELTON_RETRY", "pelton.retry.>", {"retention": api.RetentionPolicy.WORK_QUEUE}),
    ("PELTON_DEAD", "pelton.dead.>", {}),
    (f"KV_{ATTEMPTS_BUCKET}", f"{_ATTEMPTS}>", {"max_msgs_per_subject": 1, "max_age": 8 * _DAY_S}),
    (f"KV_{REGISTERS_BUCKET}", f"{_REGISTERS}>", {"max_msgs_per_subject": 1}),
)
_TOPIC_SETTINGS: Final[dict[str, Any]] = {"max_age": 7 * _DAY_S}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far a durable consumer is: messages not delivered yet, delivered and not acked, redelivered."""

    stream: str
    consumer: str
    topic: str
    waiting: int
    unacked: int
    redelivered: int


def is_embedded(metadata: Mapping[str, str], embedded_url: str) -> bool:
    """Tell whether a component means the embedded bus: it names no server, or that one."""
    url = lower_keys(metadata).get("natsurl", "").strip()
    if not url:
        return True
    given, own = server_url(url if "://" in url else f"nats://{url}", ("nats", "tls")), urlsplit(embedded_url)
    if given is None:  # several servers, or a mistake that opening it reports
        return False
    loopback = {"localhost", "127.0.0.1", "::1"}
    same_host = given.hostname == own.hostname or {given.hostname, own.hostname} <= loopback
    return same_host and (given.port or 4222) == own.port


class JetStreamBus(Link):
    """A JetStream account as bus; an async context manager.

    Args:
        url: As for `Link`, as are `user`, `password`, `settings` and `where`.
        user: See `Link`.
        password: See `Link`.
        settings: See `Link`.
        embedded: Whether missing streams are made. An external server's streams are its owner's business,
            unless the metadata `createStreams` says otherwise.
        where: See `Link`.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str = "",
        password: str = "",
        settings: Mapping[str, str] | None = None,
        embedded: bool = True,
        where: str = "event bus",
    ) -> None:
        super().__init__(url, user=user, password=password, settings=settings, where=where)
        self._embedded = embedded
        self._makes_streams = embedded or truthy(self.settings.get("createstreams", ""))
        self._streams: dict[str, str] = {}
        self._consumers: dict[tuple[str, str], tuple[str, str]] = {}
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> JetStreamBus:
        await self.open()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def open(self, *, timeout_s: float = 10.0) -> None:
        """Connect and, on the embedded bus, make the streams that are always there; see `Link.open`."""
        await super().open(timeout_s=timeout_s)
        if self._embedded:
            for name, subject, extra in _FAMILIES:
                await self._create(name, subject, extra)

    async def stream_of(self, topic: str) -> str:
        """Return the name of the stream that stores a topic; makes it where that is ours to do.

        Raises:
            ComponentError: No stream, or several, or the topic is not a NATS subject.
            DeliveryError: The server did not answer.
        """
        if topic.startswith(_ATTEMPTS):
            return f"KV_{ATTEMPTS_BUCKET}"
        if topic.startswith(_REGISTERS):
            return f"KV_{REGISTERS_BUCKET}"
        if named := self.settings.get("streamname"):
            return named
        found = self._streams.get(topic)
        if found is None:
            async with self._lock:
                found = self._streams.get(topic) or await self._find(topic)
            if len(self._streams) >= _KNOWN_STREAMS:
                self._streams.clear()
            self._streams[topic] = found
        return found

    async def _find(self, topic: str) -> str:
        if not topic or any(not part or not part.isprintable() or " " in part for part in topic.split(".")):
            raise errors.ComponentError(
                f"{topic!r} is not a NATS subject", where=self.where, hint="Use words separated by dots."
            )
        try:
            answer = await self.manage("STREAM.NAMES", {"subject": topic})
            names = answer.get("streams") or []
            if len(names) > 1:
                raise errors.ComponentError(
                    f"several streams store {topic}: {', '.join(sorted(names))}",
                    where=self.where,
                    hint="Name one by metadata streamName.",
                )
            if names:
                return str(names[0])
            if not self._makes_streams:
                raise errors.ComponentError(
                    f"no stream stores the subject {topic}",
                    where=self.where,
                    hint="The stream must exist: create it on that server or name it by streamName.",
                )
            name = f"TOPIC_{_safe(topic)}"
            await self._create(name, topic, _TOPIC_SETTINGS)
            return name
        except (nats.errors.Error, ConnectionError, TimeoutError) as exc:
            raise errors.DeliveryError(
                f"the stream of {topic} cannot be had: {exc}", where=self.where
            ) from exc

    async def _create(self, name: str, subject: str, extra: Mapping[str, Any]) -> None:
        memory = truthy(self.settings.get("memorystorage", ""))
        config = api.StreamConfig(
            name=name,
            subjects=[subject],
            storage=api.StorageType.MEMORY if memory else api.StorageType.FILE,
            num_replicas=self._number("replicas", self.settings, 1),
            duplicate_window=120.0,
            allow_direct=True,
            allow_rollup_hdrs=name.startswith("KV_"),
        ).evolve(**extra)
        try:
            await self.jetstream().add_stream(config)
        except nats.js.errors.BadRequestError as exc:
            if exc.err_code != 10058:  # exists with other settings: an operator changed them, and may
                raise errors.ComponentError(
                    f"the stream {name} cannot be made: {exc.description}", where=self.where
                ) from exc

    # --- ports.Bus ------------------------------------------------------------------------------------------

    async def publish(self, message: Message, *, deadline_s: float = _PUBLISH_DEADLINE_S) -> None:
        """Publish and wait until the stream has stored it; waits for a lost connection to return.

        Args:
            message: Its id, when there is one, makes repeats within two minutes harmless.
            deadline_s: Seconds after which it is given up.

        Raises:
            DeliveryError: Not stored, or not known to be.
            ComponentError: No stream takes the topic.
        """
        if len(message.data) > MAX_PAYLOAD_BYTES:
            raise errors.DeliveryError(
                f"a message of {len(message.data)} bytes exceeds {MAX_PAYLOAD_BYTES}",
                where=self.where,
                retriable=False,
            )
        headers = dict(message.headers)
        if message.id:
            headers["Nats-Msg-Id"] = message.id
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        while True:
            await self.stream_of(message.topic)
            left = max(0.001, deadline - loop.time())
            answer = await self.ask(message.topic, message.data, headers or None, deadline_s=left)
            if status_of(answer) != "503":
                break
            # Nobody takes the subject: the stream was deleted, or a restarted server recovers it yet.
            self._streams.pop(message.topic, None)
            if loop.time() >= deadline:
                raise errors.DeliveryError(f"no stream takes {message.topic}", where=self.where)
            await asyncio.sleep(0.05)
        error = json.loads(answer.data).get("error")
        if error:
            raise errors.DeliveryError(
                f"{message.topic} was not stored: {error.get('description', error)}",
                where=self.where,
                retriable=error.get("code", 500) >= 500,
            )

    async def subscribe(
        self, topic: str, *, consumer: str, max_in_flight: int, options: Mapping[str, str]
    ) -> AsyncIterator[Sequence[Delivery]]:
        """Iterate over batches of one durable pull consumer, which is made when missing; see `ports.Bus`.

        `options` are the component's metadata. What an earlier holder left unacked is delivered again at
        once, not after `ackWait`: this process is the consumer's only one.
        """
        merged = {**self.settings, **lower_keys(options)}
        if is_single(merged.get("concurrency", ""), where=self.where):
            max_in_flight = 1
        durable = merged.get("durablename") or merged.get("queuegroupname") or _safe(consumer)
        stream = merged.get("streamname") or await self.stream_of(topic)
        self._consumers[topic, consumer] = (stream, durable)
        pull = Pull(self, stream, self._consumer_config(topic, durable, max_in_flight, merged), max_in_flight)
        self.reconnected.add(pull.reset)
        task = asyncio.create_task(pull.run(), name=f"pull-{durable}")
        try:
            while True:
                yield await pull.next(task)
        finally:
            self.reconnected.discard(pull.reset)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await pull.close()

    async def finish_all(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge several deliveries of this bus at once; raises DeliveryError."""
        await finish_all(deliveries)

    def _consumer_config(
        self, topic: str, durable: str, max_in_flight: int, options: Mapping[str, str]
    ) -> api.ConsumerConfig:
        policy = options.get("deliverpolicy", "").strip().lower() or "all"
        policies = {
            "all": api.DeliverPolicy.ALL,
            "last": api.DeliverPolicy.LAST,
            "new": api.DeliverPolicy.NEW,
            "sequence": api.DeliverPolicy.BY_START_SEQUENCE,
            "time": api.DeliverPolicy.BY_START_TIME,
        }
        if policy not in policies:
            raise errors.ComponentError(
                "metadata `deliverPolicy` is unknown",
                where=self.where,
                hint=f"Use one of {', '.join(policies)}.",
            )
        try:
            ack_wait_s = _seconds(options.get("ackwait", "")) or _ACK_WAIT_S
        except ValueError as exc:
            raise errors.ComponentError(f"metadata `ackWait`: {exc}", where=self.where) from exc
        config = api.ConsumerConfig(
            name=durable,
            durable_name=durable,
            filter_subject=topic,
            deliver_policy=policies[policy],
            ack_policy=api.AckPolicy.EXPLICIT,
            # A holder renews every 5 s; a shorter wait would redeliver what is being worked on.
            ack_wait=max(ack_wait_s, _LEAST_ACK_WAIT_S),
            max_deliver=-1,
            max_ack_pending=self._number("maxAckPending", options, max(max_in_flight, 1), least=-1),
        )
        if policy == "sequence":
            config.opt_start_seq = self._number("startSequence", options)
        if policy == "time":
            config.opt_start_time = datetime.fromtimestamp(self._number("startTime", options), UTC)
        return config

    def _number(
        self, key: str, settings: Mapping[str, str], default: int | None = None, *, least: int = 1
    ) -> int:
        """Return a whole number of at least `least`; raises ComponentError for anything else."""
        text = settings.get(key.lower(), "").strip()
        if not text and default is not None:
            return default
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise errors.ComponentError(
                f"metadata `{key}` is not a whole number from {least} on", where=self.where
            )
        return number

    async def pending(self, topic: str, *, consumer: str) -> int:
        """Return messages that the consumer has not finished; 0 when there is no such consumer yet."""
        known = self._consumers.get((topic, consumer))
        try:
            stream, durable = known or (await self.stream_of(topic), _safe(consumer))
            info = await self.manage(f"CONSUMER.INFO.{stream}.{durable}", {})
        except nats.js.errors.NotFoundError:
            return 0
        except nats.errors.Error as exc:
            raise errors.DeliveryError(f"the lag of {topic} cannot be read: {exc}", where=self.where) from exc
        return int(info.get("num_pending", 0)) + int(info.get("num_ack_pending", 0))

    # --- attempts -------------------------------------------------------------------------------------------

    async def load_attempts(self, owner: str) -> dict[str, int]:
        """Return delivery key -> attempts so far of one subscription, as recorded before a restart."""
        subject = f"{_ATTEMPTS}{_safe(owner)}.>"
        found: dict[str, int] = {}
        async for stored in self.stored(subject):
            body = json.loads(stored.message.data)
            found[body["key"]] = int(body["attempts"])
        return found

    async def put_attempts(self, owner: str, key: str, attempts: int) -> None:
        """Record attempts of one delivery durably."""
        body = json.dumps({"key": key, "attempts": attempts}).encode()
        await self.publish(Message(topic=self._attempts_subject(owner, key), data=body))

    async def delete_attempts(self, owner: str, key: str) -> None:
        """Forget the attempts of a finished delivery; safe to repeat."""
        body = {"filter": self._attempts_subject(owner, key)}
        try:
            await self.manage(f"STREAM.PURGE.KV_{ATTEMPTS_BUCKET}", body)
        except nats.errors.Error as exc:
            raise errors.DeliveryError(f"attempts cannot be deleted: {exc}", where=self.where) from exc

    def _attempts_subject(self, owner: str, key: str) -> str:
        return f"{_ATTEMPTS}{_safe(owner)}.{_safe(key)}"

    async def forget(self, topic: str, *, consumer: str) -> None:
        """Drop a consumer's position; the topic keeps its messages. Safe to repeat.

        Raises:
            DeliveryError: The server did not answer.
        """
        known = self._consumers.get((topic, consumer))
        stream, durable = known or (await self.stream_of(topic), _safe(consumer))
        self._consumers.pop((topic, consumer), None)
        try:
            await self.manage(f"CONSUMER.DELETE.{stream}.{durable}", {})
        except nats.js.errors.NotFoundError:
            return
        except nats.errors.Error as exc:
            raise errors.DeliveryError(f"{consumer} cannot be forgotten: {exc}", where=self.where) from exc

    async def discard(self, topic: str, *, consumer: str) -> int:
        """Drop what waits on a topic and its consumer; see `ports.Ledger`."""
        stream = await self.stream_of(topic)
        try:
            answer = await self.manage(f"STREAM.PURGE.{stream}", {"filter": topic})
            with contextlib.suppress(nats.js.errors.NotFoundError):
                await self.manage(f"CONSUMER.DELETE.{stream}.{_safe(consumer)}", {})
        except nats.errors.Error as exc:
            raise errors.DeliveryError(f"{topic} cannot be emptied: {exc}", where=self.where) from exc
        self._consumers.pop((topic, consumer), None)
        return int(answer.get("purged", 0))

    # --- registers ------------------------------------------------------------------------------------------

    async def read_register(self, name: str) -> tuple[bytes, int]:
        """Return value and revision; see `ports.Registers`."""
        body = {"last_by_subj": f"{_REGISTERS}{_safe(name)}"}
        try:
            answer = await self.manage(f"STREAM.MSG.GET.KV_{REGISTERS_BUCKET}", body)
        except nats.js.errors.NotFoundError:
            return b"", 0
        except nats.errors.Error as exc:
            raise errors.DeliveryError(f"{name} cannot be read: {exc}", where=self.where) from exc
        raw = answer["message"]
        return base64.b64decode(raw.get("data", "")), int(raw["seq"])

    async def write_register(self, name: str, data: bytes, *, revision: int) -> int:
        """Replace the value of a revision; see `ports.Registers`."""
        headers = {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        answer = await self.ask(f"{_REGISTERS}{_safe(name)}", data, headers, deadline_s=_PUBLISH_DEADLINE_S)
        if status_of(answer) == "503":
            raise errors.DeliveryError(f"{name} was not stored: no stream takes it", where=self.where)
        body = json.loads(answer.data)
        if error := body.get("error"):
            if error.get("err_code") == _WRONG_LAST_SEQUENCE:
                raise errors.ConflictError(f"{name} was changed by somebody else", where=self.where)
            raise errors.DeliveryError(
                f"{name} was not stored: {error.get('description', error)}", where=self.where
            )
        return int(body["seq"])

    async def delete_register(self, name: str) -> None:
        """Forget a value; safe to repeat."""
        body = {"filter": f"{_REGISTERS}{_safe(name)}"}
        try:
            await self.manage(f"STREAM.PURGE.KV_{REGISTERS_BUCKET}", body)
        except nats.errors.Error as exc:
            raise errors.DeliveryError(f"{name} cannot be deleted: {exc}", where=self.where) from exc

    # --- looking at what is stored --------------------------------------------------------------------------

    async def stored(self, topic: str, *, first: int = 1) -> AsyncIterator[Stored]:
        """Iterate over the messages at rest under a subject, oldest first, from a sequence number on.

        Ends at the last message of the moment; for `dlq list`, `topic tail --since` and recorded attempts.
        """
        stream = await self.stream_of(topic)
        while True:
            try:
                answer = await self.manage(f"STREAM.MSG.GET.{stream}", {"seq": first, "next_by_subj": topic})
            except nats.js.errors.NotFoundError:
                return
            found = _stored(stream, answer["message"])
            yield found
            first = found.sequence + 1

    async def read(self, topic: str, *, first: Place, last: Place) -> AsyncIterator[Sequence[Recorded]]:
        """Iterate over what a subject's stream keeps; see `ports.ReadableBus`. Offsets are sequences."""
        stream = await self.stream_of(topic)
        info = await self.manage(f"STREAM.INFO.{stream}", {})
        end = int(info["state"]["last_seq"])
        if last.offset >= 0:
            end = min(end, last.offset)
        begin = first.offset
        if begin < 0:
            begin = await self._sequence_at(topic, first.time_s, end) if first.time_s else 1
        async for stored in self.stored(topic, first=max(1, begin)):
            at = _epoch(stored.time)
            if stored.sequence > end or (last.time_s and last.offset < 0 and at >= last.time_s):
                return
            key = f"{stored.stream}:{stored.sequence}"
            yield [Recorded(key=key, time_s=at, message=stored.message)]

    async def _sequence_at(self, topic: str, time_s: float, end: int) -> int:
        """Return the sequence from which on messages are not older, by halving; behind the end for none."""
        low, high = 1, end + 1
        while low < high:
            middle = (low + high) // 2
            found = [stored async for stored in _first(self.stored(topic, first=middle))]
            if found and _epoch(found[0].time) < time_s:
                low = found[0].sequence + 1
            else:
                high = middle
        return low

    def follow(self, topic: str) -> AsyncIterator[Message]:
        """Iterate over messages that come from now on; see `ports.ReadableBus`."""
        return self.tail(topic)

    async def remove(self, stored: Stored) -> None:
        """Delete one message from its stream; safe to repeat."""
        try:
            await self.manage(f"STREAM.MSG.DELETE.{stored.stream}", {"seq": stored.sequence})
        except nats.js.errors.APIError as exc:
            if exc.err_code not in {10037, 10043, 10057}:  # no message found, or deleted already
                raise errors.DeliveryError(
                    f"message {stored.sequence} stays: {exc}", where=self.where
                ) from exc

    async def tail(self, topic: str, *, new: bool = True) -> AsyncIterator[Message]:
        """Iterate over messages as they arrive, without a trace on the server; never ends by itself."""
        stream = await self.stream_of(topic)
        first = 1
        if new:
            info = await self.manage(f"STREAM.INFO.{stream}", {})
            first = int(info["state"]["last_seq"]) + 1
        arrived = asyncio.Event()

        async def wake(_msg: Msg) -> None:
            arrived.set()

        # The plain subscription only says that something came; what counts is read from the stream.
        subscription = await self.client().subscribe(topic, cb=wake)
        try:
            while True:
                arrived.clear()
                async for found in self.stored(topic, first=first):
                    first = found.sequence + 1
                    yield found.message
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await arrived.wait()
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def lags(self) -> list[Lag]:
        """Return every durable consumer with its lag, sorted by topic and consumer."""
        found = []
        names = (await self.manage("STREAM.NAMES", {})).get("streams") or []
        for stream in names:
            answer = await self.manage(f"CONSUMER.LIST.{stream}", {})
            found += [
                Lag(
                    stream=stream,
                    consumer=info["name"],
                    topic=info["config"].get("filter_subject", ""),
                    waiting=info.get("num_pending", 0),
                    unacked=info.get("num_ack_pending", 0),
                    redelivered=info.get("num_redelivered", 0),
                )
                for info in answer.get("consumers") or []
                if info["config"].get("durable_name")
            ]
        return sorted(found, key=lambda lag: (lag.topic, lag.consumer))


def _safe(text: str) -> str:
    """Return a token for names of streams, consumers and keys: readable, unique, no dots or wildcards."""
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "-_") else "_" for char in text)
    if plain == text and len(text) <= 64:
        return text
    return f"{plain[:64]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _stored(stream: str, raw: Mapping[str, Any]) -> Stored:
    headers: dict[str, str] = {}
    for line in base64.b64decode(raw.get("hdrs", "")).decode().split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip()
    message = Message(topic=raw["subject"], data=base64.b64decode(raw.get("data", "")), headers=headers)
    return Stored(stream=stream, sequence=int(raw["seq"]), time=str(raw["time"]), message=message)


def _epoch(text: str) -> float:
    """Read an RFC 3339 time with up to nine fractional digits."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp() + float(f"0.{fraction or 0}")


async def _first(messages: AsyncIterator[Stored]) -> AsyncIterator[Stored]:
    async for stored in messages:
        yield stored
        return


def _seconds(text: str) -> float:
    """Read a duration in Go's notation, or plain seconds; 0 for none."""
    return float(text) if text.replace(".", "", 1).isdigit() else parse_duration(text or "0")
