"""RabbitMQ: `pubsub.rabbitmq` (exchange per topic, queue per subscription) and `bindings.rabbitmq`.

Implements `ports.Bus` twice and `ports.Binding`. Connects when used and again when the connection is gone;
every publish waits for the broker's confirmation. The broker knows no delay: a message that is given back
stays unacknowledged while its delay runs in `holding.py`. Names, defaults and arguments are Dapr's, also
where they lose events (a queue that is neither durable nor kept), which is said in the log then. Over 600
lines, since both share connection, subscription and the making of messages.
Source: `dapr-components` contract, section 2 (`pubsub.rabbitmq`); the binding's keys are Dapr's.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import aio_pika
from aio_pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelClosed,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ProbableAuthenticationError,
    PublishError,
)
from yarl import URL

from pelton.autoscale.scalers.rabbitmq import QueueStats, RabbitMqScaling, measure
from pelton.certificates import client_context
from pelton.clock import Clock
from pelton.errors import ComponentError, DeliveryError, ScalerError
from pelton.holding import Holding
from pelton.log import get
from pelton.model.desired import Component
from pelton.model.invocation import Delivered
from pelton.model.scaler import ScalerReading
from pelton.model.settings import (
    ComponentSettings,
    consumer_name,
    is_single,
    positive_seconds,
    server_url,
    truthy,
)
from pelton.ports import Delivery, Message

__all__ = ["RabbitMqBinding", "RabbitMqBus", "RabbitMqQueue", "RabbitMqQueueScaler"]

_ANSWER_S: Final = 10.0
_WITHOUT_MEANING: Final = {
    "autoAck": "an event is acknowledged when its outputs are accepted",
    "requeueInFailure": "retries are Pelton's",
    "reconnectWaitSeconds": "a lost connection is made again at once, then every second",
}
_PERSISTENT: Final = 2
_SCHEMES: Final = ("amqp", "amqps")

_log = get(__name__)


class _Link:
    """One connection, made when it is needed."""

    def __init__(self, component: Component, *, url_key: str) -> None:
        self.settings = ComponentSettings(component)
        self.where = self.settings.where
        for key, why in _WITHOUT_MEANING.items():
            if self.settings.text(key):
                _log.warning("%s: metadata %s has no effect: %s", self.where, key, why)
        self._url = self._address(url_key)
        self._connection: Any = None
        self._publisher: Any = None
        self._exchanges: dict[str, Any] = {}
        self._declared: set[str] = set()
        self._lock = asyncio.Lock()
        self.name = f"rabbitmq at {self._url.host}:{self._url.port}"

    async def channel(self, *, prefetch: int = 0) -> Any:
        """Open a channel; the caller closes it."""
        with self.translated():
            async with asyncio.timeout(_ANSWER_S):
                connection = await self._open()
                channel = await connection.channel(publisher_confirms=False)
                if prefetch:
                    await channel.set_qos(prefetch_count=min(prefetch, 65535))
        return channel

    async def exchange(self, name: str, kind: str) -> Any:
        """Return an exchange to publish to; "" leads to the queue that the routing key names."""
        async with asyncio.timeout(_ANSWER_S), self._lock:
            if self._publisher is None or self._publisher.is_closed:
                self._exchanges.clear()
                self._declared.clear()
                self._publisher = await (await self._connect()).channel(
                    publisher_confirms=True, on_return_raises=True
                )
            if name not in self._exchanges:
                self._exchanges[name] = (
                    await self._publisher.declare_exchange(name, kind, durable=True)
                    if name
                    else self._publisher.default_exchange
                )
            return self._exchanges[name]

    async def publish(self, exchange: str, kind: str, message: aio_pika.Message, routing_key: str) -> None:
        """Publish and wait for the confirmation. Raises DeliveryError."""
        with self.translated():
            found = await self.exchange(exchange, kind)
            await found.publish(message, routing_key, mandatory=not exchange, timeout=_ANSWER_S)

    async def declare_once(self, name: str, declare: Callable[[Any], Awaitable[Any]]) -> None:
        """Declare a queue that is published to, once per connection. Raises DeliveryError, ComponentError."""
        with self.translated():
            await self.exchange("", "")  # forgets what is declared when the connection is a new one
        if name in self._declared:
            return
        channel = await self.channel()
        try:
            await declare(channel)
            self._declared.add(name)
        finally:
            if not channel.is_closed:
                await channel.close()

    def undeclared(self, name: str) -> None:
        """Say that a queue may be gone: it is declared again with the next message."""
        self._declared.discard(name)

    async def close(self) -> None:
        """Close the connection; safe to repeat."""
        connection, self._connection, self._publisher = self._connection, None, None
        if connection is not None and not connection.is_closed:
            await connection.close()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn the library's errors into ours, without texts of connection errors: they may hold URLs."""
        try:
            yield
        except (AuthenticationError, ProbableAuthenticationError) as exc:
            raise ComponentError(
                f"{self.name} rejected the credentials", where=self.where, hint="Check user and password."
            ) from exc
        except ChannelPreconditionFailed as exc:
            raise ComponentError(
                f"{self.name} has a queue or exchange of that name with other settings: {exc}",
                where=self.where,
                hint="Make the metadata equal to what exists, or delete what exists.",
            ) from exc
        except PublishError as exc:
            raise DeliveryError(f"{self.name} has no queue that takes the message", where=self.where) from exc
        except (AMQPError, OSError, TimeoutError, asyncio.InvalidStateError, RuntimeError) as exc:
            if isinstance(exc, RuntimeError | OSError) and not isinstance(exc, ChannelClosed):
                self._connection = self._publisher = None  # it may not know yet that it is dead
            raise DeliveryError(
                f"{self.name} was not reached, or broke off: {type(exc).__name__}", where=self.where
            ) from exc

    async def _open(self) -> Any:
        async with self._lock:
            return await self._connect()

    async def _connect(self) -> Any:
        if self._connection is None or self._connection.is_closed:
            self._connection = await aio_pika.connect(
                self._url, timeout=_ANSWER_S, ssl_context=self._tls() if self._url.scheme == "amqps" else None
            )
        return self._connection

    def _address(self, url_key: str) -> URL:
        settings = self.settings
        text = settings.text(url_key).strip()
        if not text and url_key == "connectionString":
            user, password = settings.text("username", "guest"), settings.text("password", "guest")
            scheme, host = settings.text("protocol", "amqp"), settings.text("hostname", "localhost")
            name, _, port = host.partition(":")
            number = int(port) if port.isdecimal() else (5671 if scheme == "amqps" else 5672)
            url = URL.build(scheme=scheme, host=name, port=number, user=user, password=password, path="/")
        else:
            text = settings.required(url_key, "For example `amqp://user:password@rabbitmq:5672`.")
            try:
                url = URL(text if server_url(text, _SCHEMES) is not None else "")
            except ValueError:
                url = URL()
        if url.scheme not in _SCHEMES or not url.host:
            raise ComponentError(
                f"metadata `{url_key}` is not an amqp:// URL",
                where=self.where,
                hint="For example `amqp://user:password@rabbitmq:5672`; percent-encode what is special in "
                "user and password.",
            ) from None
        if settings.flag("saslExternal"):
            url = url.update_query(auth="external")
        heartbeat = int(settings.seconds("heartBeat", 10.0))
        name = settings.text("clientName")
        return url.update_query({"heartbeat": str(heartbeat), **({"name": name} if name else {})})

    def _tls(self) -> ssl.SSLContext:
        settings = self.settings
        return client_context(
            where=self.where,
            ca=settings.text("caCert"),
            cert=settings.text("clientCert"),
            key=settings.text("clientKey"),
        )


class _Subscription:
    """Messages of one queue, pushed by the broker, held here."""

    def __init__(self, link: _Link, channel: Any, topic: str, prefix: str, max_in_flight: int) -> None:
        self._link = link
        self._channel = channel
        self._topic = topic
        self._prefix = prefix
        self._ended = False
        self.holding = Holding[Any](max_in_flight, finish=self._finish)

    async def batches(self, queue: Any) -> AsyncIterator[Sequence[Delivery]]:
        holding = self.holding
        self._channel.close_callbacks.add(self._end)
        with self._link.translated():
            underlay = await self._channel.get_underlay_channel()
            underlay.on_consumer_cancel_callbacks.add(self._end)  # the queue was deleted
            await queue.consume(self._take, timeout=_ANSWER_S)
        while True:
            if self._ended:
                raise DeliveryError(f"{self._link.name} ended the subscription", where=self._link.where)
            batch = holding.take()
            if batch:
                yield batch
                continue
            holding.changed.clear()
            if not self._ended:
                await holding.changed.wait()

    async def close(self) -> None:
        """Give back what is held."""
        self.holding.forget()
        if not self._channel.is_closed:
            try:
                async with asyncio.timeout(_ANSWER_S):
                    await self._channel.close()
            except (AMQPError, OSError, TimeoutError, RuntimeError) as exc:
                _log.debug("%s: channel ended with %s", self._link.where, type(exc).__name__)

    def _end(self, *_reason: Any) -> None:
        self._ended = True
        self.holding.changed.set()

    async def _take(self, received: Any) -> None:
        name = received.message_id or f"tag-{received.delivery_tag}"
        key, number = f"{self._prefix}:{name}", 1
        while key in self.holding:  # published twice with one id: two messages all the same
            number += 1
            key = f"{self._prefix}:{name}#{number}"
        headers = {str(name): _text(value) for name, value in (received.headers or {}).items()}
        if received.content_type and not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = received.content_type
        message = Message(
            topic=self._topic, data=received.body, headers=headers, id=received.message_id or ""
        )
        self.holding.offer(key, message, received)

    async def _finish(self, received: Any, success: bool) -> None:
        with self._link.translated():
            await (received.ack() if success else received.reject(requeue=False))


class RabbitMqBus:
    """Exchanges and queues of one virtual host.

    Args:
        component: Its metadata; `consumerID` begins the names of queues, else that of a subscription's
            options, else the consumer does.
        clock: Unused; the broker's clock counts.
    """

    def __init__(self, component: Component, *, clock: Clock) -> None:
        self._link = _Link(component, url_key="connectionString")
        settings = self._link.settings
        self._kind = settings.text("exchangeKind", "fanout").strip().lower()
        if self._kind not in {"fanout", "topic", "direct", "headers"}:
            raise ComponentError(
                "metadata `exchangeKind` is unknown",
                where=settings.where,
                hint="Use fanout, topic, direct or headers.",
            )
        self._consumer = settings.text("consumerID").strip()
        self._durable = settings.flag("durable")
        self._unused = settings.flag("deletedWhenUnused", True)
        self._dead_letter = settings.flag("enableDeadLetter")
        self._single = is_single(settings.text("concurrency"), where=settings.where)
        # A durable queue is meant to outlive the broker; its messages do so only when they are persistent.
        self._mode = settings.number("deliveryMode", 0) or (_PERSISTENT if self._durable else 1)
        self._arguments: dict[str, Any] = {}
        for key, argument in (("maxLen", "x-max-length"), ("maxLenBytes", "x-max-length-bytes")):
            if settings.text(key):
                self._arguments[argument] = settings.number(key, 0)
        if settings.text("ttlInSeconds"):
            self._arguments["x-message-ttl"] = settings.number("ttlInSeconds", 0) * 1000
        self._holdings: dict[str, Holding[Any]] = {}
        self._names: dict[tuple[str, str], str] = {}

    async def __aenter__(self) -> RabbitMqBus:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    async def publish(self, message: Message) -> None:
        """Publish to the exchange of the topic; see `ports.Bus`. A repeated id is a second message."""
        given = {key.lower(): value for key, value in message.metadata.items()}
        packed = _packed(
            message.data,
            message.headers,
            message_id=message.id,
            given=given,
            mode=self._mode,
            where=self._link,
        )
        await self._link.publish(message.topic, self._kind, packed, given.get("routingkey", ""))

    async def subscribe(
        self, topic: str, *, consumer: str, max_in_flight: int, options: Mapping[str, str]
    ) -> AsyncIterator[Sequence[Delivery]]:
        """Iterate over batches of a queue; see `ports.Bus`."""
        name = self._names[topic, consumer] = self._queue_name(topic, consumer, options)
        concurrency = next((text for key, text in options.items() if key.lower() == "concurrency"), "")
        if self._single or is_single(concurrency, where=self._link.where):
            max_in_flight = 1
        # Half of the messages in flight may wait out a delay here, unacknowledged (`dataplane/retry.py`).
        prefetch = self._link.settings.number("prefetchCount", 0) or 2 * max(1, max_in_flight)
        channel = await self._link.channel(prefetch=prefetch)
        subscription = _Subscription(self._link, channel, topic, name, max_in_flight)
        self._holdings[name] = subscription.holding
        try:
            queue = await self._declare(channel, topic, name, options)
            if not self._durable or self._unused:
                _log.warning(
                    "%s: queue %s is %s; events are lost with it (durable, deletedWhenUnused)",
                    self._link.where,
                    name,
                    "deleted when nobody subscribes" if self._unused else "not durable",
                )
            async for batch in subscription.batches(queue):
                yield batch
        finally:
            if self._holdings.get(name) is subscription.holding:
                del self._holdings[name]
            await subscription.close()

    async def prepare(self, topic: str, *, consumer: str, options: Mapping[str, str]) -> None:
        """Make the queue of a consumer, so that what is published from now on waits for it."""
        channel = await self._link.channel()
        try:
            await self._declare(channel, topic, self._queue_name(topic, consumer, options), options)
        finally:
            if not channel.is_closed:
                await channel.close()

    async def pending(self, topic: str, *, consumer: str) -> int:
        """Return what waits in the queue and what is held here; 0 for an unknown consumer."""
        name = self._names.get((topic, consumer)) or self._queue_name(topic, consumer, {})
        return await _waiting(self._link, name) + len(self._holdings.get(name, ()))

    def _queue_name(self, topic: str, consumer: str, options: Mapping[str, str]) -> str:
        given = {key.lower(): value.strip() for key, value in options.items()}
        seed = f"{socket.gethostname()}/{self._link.where}/{consumer}"
        name = consumer_name(given.get("consumerid") or self._consumer or consumer, seed)
        return given.get("queuename") or self._link.settings.text("queueName").strip() or f"{name}-{topic}"

    async def _declare(self, channel: Any, topic: str, name: str, options: Mapping[str, str]) -> Any:
        given = {key.lower(): value.strip() for key, value in options.items()}
        arguments = dict(self._arguments)
        if kind := given.get("queuetype"):
            if kind not in {"classic", "quorum"}:
                raise ComponentError("`queueType` is neither classic nor quorum", where=self._link.where)
            arguments["x-queue-type"] = kind
        if priority := given.get("maxpriority"):
            if not priority.isdecimal():
                raise ComponentError("`maxPriority` is not a whole number", where=self._link.where)
            arguments["x-max-priority"] = min(255, int(priority))
        if truthy(given.get("singleactiveconsumer", "")):
            arguments["x-single-active-consumer"] = True
        link = self._link
        with link.translated():
            async with asyncio.timeout(_ANSWER_S):
                exchange = await channel.declare_exchange(topic, self._kind, durable=True)
                if self._dead_letter:
                    dead = await channel.declare_exchange(f"dlx-{name}", "fanout", durable=True)
                    kept = await channel.declare_queue(f"dlq-{name}", durable=True)
                    await kept.bind(dead)
                    arguments["x-dead-letter-exchange"] = f"dlx-{name}"
                queue = await channel.declare_queue(
                    name, durable=self._durable, auto_delete=self._unused, arguments=arguments or None
                )
                for routing_key in given.get("routingkey", "").split(","):
                    await queue.bind(exchange, routing_key.strip())
        return queue


class RabbitMqQueue:
    """`bindings.rabbitmq` as a source: one queue, named by the component.

    Args:
        component: `host` (a URL) and `queueName` are required.
        clock: Unused; the broker's clock counts.
    """

    def __init__(self, component: Component, *, clock: Clock) -> None:
        self._link = _Link(component, url_key="host")
        self._name = self._link.settings.required("queueName")
        self._holding: Holding[Any] | None = None

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    async def publish(self, message: Message) -> None:
        """Put a message into the queue."""
        await _send(self._link, self._name, message.data, message.headers, message.id, {})

    async def subscribe(
        self, topic: str, *, consumer: str, max_in_flight: int, options: Mapping[str, str]
    ) -> AsyncIterator[Sequence[Delivery]]:
        """Iterate over batches; consumers share the queue. See `ports.Bus`."""
        del consumer, options
        prefetch = self._link.settings.number("prefetchCount", 0) or 2 * max(1, max_in_flight)
        channel = await self._link.channel(prefetch=prefetch)
        subscription = _Subscription(self._link, channel, topic, self._name, max_in_flight)
        self._holding = subscription.holding
        try:
            queue = await _declare_queue(self._link, channel, self._name)
            async for batch in subscription.batches(queue):
                yield batch
        finally:
            self._holding = None
            await subscription.close()

    async def pending(self, topic: str, *, consumer: str) -> int:
        """Return what waits in the queue and what is held here."""
        return await _waiting(self._link, self._name) + len(self._holding or ())


class RabbitMqBinding:
    """`bindings.rabbitmq` as an output: one queue.

    Args:
        component: `host` (a URL) and `queueName` are required.
    """

    def __init__(self, component: Component) -> None:
        self._link = _Link(component, url_key="host")
        self._name = self._link.settings.required("queueName")

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> Delivered:
        """Put a message into the queue and wait until the broker has it; see `ports.Binding`.

        Args:
            operation: create.
            data: The body.
            metadata: `ttlInSeconds`, `priority`, `contentType`, `correlationID`, `messageID`.
        """
        if operation.lower() != "create":
            raise ComponentError(
                f"bindings.rabbitmq has no operation {operation!r}",
                where=self._link.where,
                hint="Use create.",
            )
        given = {key.lower(): value for key, value in metadata.items()}
        await _send(self._link, self._name, data, {}, given.get("messageid", ""), given)
        return Delivered(ok=True)

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()


async def _send(
    link: _Link,
    queue: str,
    data: bytes,
    headers: Mapping[str, str],
    message_id: str,
    given: Mapping[str, str],
) -> None:
    """Publish to a queue by its name, making it first where it is missing."""
    mode = _PERSISTENT if link.settings.flag("durable") else 1
    kind = given.get("contenttype") or link.settings.text("contentType")
    packed = _packed(
        data,
        {**headers, **({"Content-Type": kind} if kind else {})},
        message_id=message_id,
        given=given,
        mode=mode,
        where=link,
    )
    for last in (False, True):
        await link.declare_once(queue, lambda channel: _declare_queue(link, channel, queue))
        try:
            await link.publish("", "", packed, queue)
            return
        except DeliveryError as exc:
            link.undeclared(queue)
            if last or not isinstance(exc.__cause__, PublishError):
                raise


async def _declare_queue(link: _Link, channel: Any, name: str) -> Any:
    settings = link.settings
    arguments: dict[str, Any] = {}
    if settings.text("ttlInSeconds"):
        arguments["x-message-ttl"] = settings.number("ttlInSeconds", 0) * 1000
    if settings.text("maxPriority"):
        arguments["x-max-priority"] = settings.number("maxPriority", 0)
    with link.translated():
        return await channel.declare_queue(
            name,
            durable=settings.flag("durable"),
            auto_delete=settings.flag("deleteWhenUnused"),
            exclusive=settings.flag("exclusive"),
            arguments=arguments or None,
            timeout=_ANSWER_S,
        )


class RabbitMqQueueScaler:
    """Scaler `rabbitmq` over AMQP: ready messages of one queue. Implements `ports.Scaler`.

    Args:
        settings: Of the trigger.
        clock: Unused; deadlines are the link's.
        where: For messages.
    """

    def __init__(self, settings: RabbitMqScaling, *, clock: Clock, where: str) -> None:
        del clock
        metadata = {
            "host": settings.url,
            "caCert": settings.ca,
            "clientCert": settings.certificate,
            "clientKey": settings.key,
            "clientName": "pelton-scaler",
        }
        self._settings = settings
        self._where = where
        self._link = _Link(
            Component(namespace="", name="", type="bindings.rabbitmq", metadata=metadata), url_key="host"
        )
        self._link.where = where

    async def read(self) -> Sequence[ScalerReading]:
        """Return the queue's length; see `ports.Scaler`."""
        channel = await self._link.channel()
        try:
            with self._link.translated():
                try:
                    found = await channel.declare_queue(self._settings.queue, passive=True, timeout=_ANSWER_S)
                except ChannelNotFoundEntity as exc:
                    raise ScalerError(
                        f"{self._link.name} has no queue {self._settings.queue}",
                        where=self._where,
                        hint="check queueName and vhostName",
                    ) from exc
            count = int(found.declaration_result.message_count or 0)
        finally:
            if not channel.is_closed:
                await channel.close()
        return [measure(self._settings, QueueStats(messages=float(count)))]

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()


async def _waiting(link: _Link, queue: str) -> int:
    channel = await link.channel()
    try:
        with link.translated():
            try:
                found = await channel.declare_queue(queue, passive=True, timeout=_ANSWER_S)
            except ChannelNotFoundEntity:
                return 0
            return int(found.declaration_result.message_count or 0)
    finally:
        if not channel.is_closed:
            await channel.close()


def _packed(
    data: bytes,
    headers: Mapping[str, str],
    *,
    message_id: str,
    given: Mapping[str, str],
    mode: int,
    where: _Link,
) -> aio_pika.Message:
    """Make a message; `given` is what the publisher asks for, keys in small letters."""
    priority = given.get("priority", "")
    if priority and not priority.isdecimal():
        raise ComponentError("`priority` is not a whole number", where=where.where)
    try:
        ttl_s = positive_seconds(given.get("ttl") or given.get("ttlinseconds", ""))
    except ValueError as exc:
        raise ComponentError("`ttlInSeconds` is no positive time", where=where.where) from exc
    kind = next((value for name, value in headers.items() if name.lower() == "content-type"), None)
    return aio_pika.Message(
        data,
        headers=dict(headers),
        content_type=kind,
        delivery_mode=mode,
        # Names the message for its whole life: attempts are counted by it.
        message_id=message_id or str(uuid.uuid4()),
        correlation_id=given.get("correlationid") or None,
        expiration=ttl_s or None,
        priority=min(255, int(priority)) if priority else None,
    )


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes | bytearray) else str(value)
