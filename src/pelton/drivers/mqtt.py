"""MQTT 3.1.1: `pubsub.mqtt3` and `bindings.mqtt3`, and the older names without the 3.

Implements `ports.Bus` and `ports.Binding`. A subscription is a connection with a session of its own, which
the broker keeps while nobody is connected unless `cleanSession` says otherwise. A message is acknowledged
after its outcome; one that is not comes again when the connection is made anew, with the packet id that it
had, so a session that the broker still has is gone on with and one that it lost makes everything held here
void. The protocol knows neither headers, nor de-duplication, nor how many messages wait at the broker.
Source: `dapr-components` contract, sections 2 (`pubsub.mqtt3`) and 4 (`bindings.mqtt3`).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import uuid
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from paho.mqtt.client import Client, MQTTMessage, MQTTv311, topic_matches_sub
from paho.mqtt.enums import CallbackAPIVersion

from pelton.certificates import client_context
from pelton.clock import Clock
from pelton.errors import ComponentError, DeliveryError, PeltonError
from pelton.holding import Holding
from pelton.log import get
from pelton.model.desired import Component
from pelton.model.invocation import Delivered
from pelton.model.settings import ComponentSettings, consumer_name, truthy
from pelton.ports import Delivery, Message

__all__ = ["MqttBinding", "MqttBus"]

KEPT: Final = 1000
"""Messages of one subscription that are kept here beyond those in flight; then the connection is made anew
later, and the broker has the rest until then."""

_ANSWER_S: Final = 10.0
_CONNECT_S: Final = 5.0
_KEEPALIVE_S: Final = 60
_LOOK_S: Final = 1.0
_PLAIN: Final = {"tcp": 1883, "mqtt": 1883}
_SECURE: Final = {"ssl": 8883, "tls": 8883, "mqtts": 8883, "tcps": 8883}
_CREDENTIALS: Final = {4, 5, 134, 135}
_LONGEST_ID: Final = 65535
_WITHOUT_MEANING: Final = {
    "backOffMaxRetries": "retries are the subscription's",
    "backOffInterval": "retries are the subscription's",
    "backOffPolicy": "retries are the subscription's",
}

_log = get(__name__)


class _Link:
    """A component's settings, and connections made from them."""

    def __init__(self, component: Component) -> None:
        self.settings = settings = ComponentSettings(component)
        self.component = component
        self.where = settings.where
        for key, why in _WITHOUT_MEANING.items():
            if settings.text(key):
                _log.warning("%s: metadata %s has no effect: %s", self.where, key, why)
        self._address(settings.required("url", "For example `tcp://mosquitto:1883`."))
        self.qos = settings.number("qos", 1)
        if self.qos not in {0, 1, 2}:
            raise ComponentError("metadata `qos` is not 0, 1 or 2", where=self.where)
        self.retain = settings.flag("retain")
        binding = component.type.startswith("bindings.")
        self.clean = settings.flag("cleanSession", binding)
        tls = [settings.text(key) for key in ("caCert", "clientCert", "clientKey")]
        self.tls: ssl.SSLContext | None = None
        if self._secure or any(tls):
            self.tls = client_context(
                where=self.where,
                ca=tls[0],
                cert=tls[1],
                key=tls[2],
                verify=not settings.flag("skipTLSVerify"),
            )
        self.name = f"mqtt at {self.host}:{self.port}"

    def _address(self, text: str) -> None:
        try:
            url = urlsplit(text)
            port = url.port
        except ValueError as exc:
            raise ComponentError("metadata `url` is not a URL", where=self.where) from exc
        known = {**_PLAIN, **_SECURE}
        if url.scheme not in known or not url.hostname:
            raise ComponentError(
                "metadata `url` is not an MQTT URL",
                where=self.where,
                hint="For example `tcp://mosquitto:1883` or `ssl://user:password@broker:8883`.",
            )
        self.host, self.port = url.hostname, port or known[url.scheme]
        self._secure = url.scheme in _SECURE
        self.user = unquote(url.username or "")
        self.password = unquote(url.password or "")

    def client_id(self, consumer: str) -> str:
        """Return what `consumerID` says, or else whoever subscribes; a `{uuid}` in it stays the same.

        It names the session, so it has to be the same after a restart and differ between machines. An app's
        id would not do as the default: several inputs of one app would end each other's connections.
        """
        text = self.settings.text("consumerID") or consumer
        return consumer_name(text, f"{socket.gethostname()}/{self.where}/{consumer}")[:_LONGEST_ID]

    def refused(self, code: Any) -> PeltonError:
        """Return the error for an answer to CONNECT that says no."""
        if getattr(code, "value", code) in _CREDENTIALS:
            return ComponentError(
                f"{self.name} rejected the credentials",
                where=self.where,
                hint="Check user and password in `url`, or the client certificate.",
            )
        return DeliveryError(f"{self.name} refused the connection: {code}", where=self.where)


class _Session:
    """One connection; made once, and done with when it breaks."""

    def __init__(
        self,
        link: _Link,
        client_id: str,
        *,
        clean: bool,
        take: Callable[[MQTTMessage], None] | None = None,
        lost: Callable[[], None] | None = None,
    ) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._lost = lost or (lambda: None)
        self._connected: asyncio.Future[bool] = self._loop.create_future()
        self._published: dict[int, asyncio.Future[None]] = {}
        self._subscribed: dict[int, asyncio.Future[None]] = {}
        self._housekeeper: asyncio.Task[None] | None = None
        self.ended = False
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=clean,
            protocol=MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = _CONNECT_S
        client.max_inflight_messages_set(1000)
        if link.user or link.password:
            client.username_pw_set(link.user, link.password or None)
        if link.tls is not None:
            client.tls_set_context(link.tls)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close
        client.on_socket_register_write = self._on_register_write
        client.on_socket_unregister_write = self._on_unregister_write
        if take is not None:
            client.on_message = lambda _client, _data, message: take(message)
        self._client = client

    async def open(self) -> bool:
        """Connect; returns whether the broker had the session still. Raises ComponentError, DeliveryError."""
        link = self._link
        try:
            async with asyncio.timeout(_ANSWER_S):
                await asyncio.to_thread(self._client.connect, link.host, link.port, _KEEPALIVE_S)
                self._housekeeper = asyncio.create_task(self._keep(), name="mqtt-keepalive")
                return await self._connected
        except (OSError, TimeoutError, ValueError) as exc:
            await self.close()
            reason = getattr(exc, "reason", None) or getattr(exc, "strerror", None) or type(exc).__name__
            raise DeliveryError(f"{link.name} was not reached: {reason}", where=link.where) from exc
        except BaseException:
            await self.close()
            raise

    async def subscribe(self, topic: str, qos: int) -> None:
        """Subscribe and wait for the answer. Raises ComponentError, DeliveryError."""
        link = self._link
        try:
            _, mid = self._client.subscribe(topic, qos)
        except ValueError as exc:
            raise ComponentError(f"{topic!r} is not a topic to subscribe to", where=link.where) from exc
        if mid is None:
            raise self._gone()
        done = self._subscribed[mid] = self._loop.create_future()
        try:
            async with asyncio.timeout(_ANSWER_S):
                await done
        except TimeoutError as exc:
            raise self._gone() from exc
        finally:
            self._subscribed.pop(mid, None)

    async def publish(self, topic: str, data: bytes, *, qos: int, retain: bool) -> None:
        """Publish and wait until the broker has it (qos 0: until it is sent). Raises DeliveryError."""
        if self.ended:
            raise self._gone()
        link = self._link
        try:
            sent = self._client.publish(topic, data, qos, retain)
        except ValueError as exc:
            raise DeliveryError(
                f"{link.name}: {topic!r} cannot be published to: {exc}", where=link.where, retriable=False
            ) from exc
        done = self._published[sent.mid] = self._loop.create_future()
        try:
            async with asyncio.timeout(_ANSWER_S):
                await done
        except TimeoutError as exc:
            raise DeliveryError(
                f"{link.name} did not confirm within {_ANSWER_S:g} s", where=link.where
            ) from exc
        finally:
            self._published.pop(sent.mid, None)

    def ack(self, mid: int, qos: int) -> None:
        """Acknowledge a message. Raises DeliveryError when the connection is gone."""
        if self.ended:
            raise self._gone()
        self._client.ack(mid, qos)

    async def close(self) -> None:
        """Disconnect; safe to repeat and after a failed open."""
        if self._housekeeper is not None:
            self._housekeeper.cancel()
            self._housekeeper = None
        if not self.ended:
            self._client.disconnect()
            with suppress(OSError, ValueError):
                self._client.loop_write()  # what is queued, acknowledgements and DISCONNECT at the end
        sock = self._client.socket()
        if sock is not None and sock.fileno() >= 0:
            self._on_socket_close(None, None, sock)
            sock.close()
        self._end()

    def _gone(self) -> DeliveryError:
        return DeliveryError(f"{self._link.name} broke off", where=self._link.where)

    def _end(self) -> None:
        self.ended = True
        waiting: list[asyncio.Future[Any]] = [
            *self._published.values(),
            *self._subscribed.values(),
            self._connected,
        ]
        for future in waiting:
            if not future.done():
                future.set_exception(self._gone())
                future.exception()  # whoever waits gets it; where nobody does, nothing is to be said
        self._lost()

    async def _keep(self) -> None:
        """Send pings and see their answers missing."""
        while not self.ended:
            await asyncio.sleep(_LOOK_S)
            self._client.loop_misc()

    # -- called by the library, in this loop but for the opening ---------------------------------------------

    def _on_connect(self, _client: Any, _data: Any, flags: Any, code: Any, _properties: Any) -> None:
        if self._connected.done():
            return
        if code.is_failure:
            self._connected.set_exception(self._link.refused(code))
        else:
            self._connected.set_result(bool(flags.session_present))

    def _on_disconnect(self, *_args: Any) -> None:
        self._end()

    def _on_publish(self, _client: Any, _data: Any, mid: int, *_args: Any) -> None:
        done = self._published.get(mid)
        if done is not None and not done.done():
            done.set_result(None)

    def _on_subscribe(self, _client: Any, _data: Any, mid: int, codes: Any, _properties: Any) -> None:
        done = self._subscribed.get(mid)
        if done is None or done.done():
            return
        if any(code.is_failure for code in codes):
            done.set_exception(
                ComponentError(f"{self._link.name} refused the subscription", where=self._link.where)
            )
        else:
            done.set_result(None)

    def _in_loop(self, call: Callable[..., Any], *args: Any) -> None:
        if self._loop.is_closed():
            return
        if threading.get_ident() == self._thread:
            call(*args)
        else:
            self._loop.call_soon_threadsafe(call, *args)

    def _on_socket_open(self, _client: Any, _data: Any, sock: Any) -> None:
        self._in_loop(self._watch, sock)

    def _watch(self, sock: Any) -> None:
        if self.ended:  # closed while the connection was being made
            sock.close()
        elif sock.fileno() >= 0:
            self._loop.add_reader(sock.fileno(), self._readable, sock)

    def _on_socket_close(self, _client: Any, _data: Any, sock: Any) -> None:
        fd = sock.fileno()
        if fd >= 0:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)

    def _on_register_write(self, _client: Any, _data: Any, sock: Any) -> None:
        self._in_loop(self._watch_write, sock)

    def _watch_write(self, sock: Any) -> None:
        if sock.fileno() >= 0 and not self.ended:
            self._loop.add_writer(sock.fileno(), self._client.loop_write)

    def _on_unregister_write(self, _client: Any, _data: Any, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._loop.remove_writer(sock.fileno())

    def _readable(self, sock: Any) -> None:
        self._client.loop_read()
        # What TLS has decrypted already does not make the socket readable again.
        while self._link.tls is not None and sock.fileno() >= 0 and sock.pending():
            self._client.loop_read()


class _Subscription:
    """Messages of one session, pushed by the broker, held here."""

    def __init__(self, link: _Link, client_id: str, topic: str, max_in_flight: int) -> None:
        self._link = link
        self.client_id = client_id
        self._topic = topic
        # A shared subscription is `$share/<group>/<filter>`.
        self._filter = (
            topic.split("/", 2)[2] if topic.startswith("$share/") and topic.count("/") > 1 else topic
        )
        self._session: _Session | None = None
        self._most = max(1, max_in_flight) + KEPT
        self._left = 0
        self._unacknowledged = 0
        self.holding = Holding[tuple[int, int]](max_in_flight, finish=self._finish)

    async def batches(self) -> AsyncIterator[Sequence[Delivery]]:
        """Iterate until the connection is gone. Raises DeliveryError, ComponentError."""
        holding = self.holding
        try:
            while True:
                await self._connect()
                while not (self._left and len(holding) <= self._most // 2):
                    if self._session is None or self._session.ended:
                        raise DeliveryError(f"{self._link.name} broke off", where=self._link.where)
                    batch = holding.take()
                    if batch:
                        yield batch
                        continue
                    holding.changed.clear()
                    if not self._session.ended:
                        await holding.changed.wait()
                _log.info("%s: %d messages that found no room are fetched now", self._link.where, self._left)
        finally:
            holding.forget()
            await self._disconnect()

    async def open_only(self) -> None:
        """Make the session and leave it to the broker."""
        await self._connect()
        await self._disconnect()

    async def _connect(self) -> None:
        await self._disconnect()
        self._left = 0
        session = _Session(
            self._link,
            self.client_id,
            clean=self._link.clean,
            take=self._take,
            lost=self.holding.changed.set,
        )
        self._session = session
        if not await session.open():
            # Packet ids of a session that is gone may be those of other messages now.
            self.holding.forget()
        # Acknowledged by hand, so a message of quality 2 would be lost between its two answers: 1 is enough.
        await session.subscribe(self._topic, min(1, self._link.qos))

    async def _disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _take(self, received: MQTTMessage) -> None:
        try:
            topic = received.topic
        except UnicodeDecodeError:
            _log.warning("%s: a message whose topic is no UTF-8 is dropped", self._link.where)
            self._drop(received)
            return
        if not topic_matches_sub(self._filter, topic):
            self._drop(received)  # of a subscription that this session had once
            return
        if len(self.holding) >= self._most:
            if not self._left:
                _log.warning("%s: %d messages wait here, more stay behind", self._link.where, self._most)
            self._left += 1
            return
        name = f"{received.mid}"
        if not received.qos:
            self._unacknowledged += 1
            name = f"q{self._unacknowledged}"
        digest = zlib.crc32(received.payload, zlib.crc32(topic.encode()))
        headers = {"topic": topic, **({"retain": "true"} if received.retain else {})}
        message = Message(topic=topic, data=bytes(received.payload), headers=headers)
        self.holding.offer(f"{self.client_id}:{name}-{digest:08x}", message, (received.mid, received.qos))

    def _drop(self, received: MQTTMessage) -> None:
        if received.qos and self._session is not None:
            self._session.ack(received.mid, received.qos)

    async def _finish(self, handle: tuple[int, int], _success: bool) -> None:
        mid, qos = handle
        if qos:
            if self._session is None:
                raise DeliveryError(f"{self._link.name} broke off", where=self._link.where)
            self._session.ack(mid, qos)


class _Publisher:
    """The connection that is published on, made when it is needed."""

    def __init__(self, link: _Link) -> None:
        self._link = link
        self._session: _Session | None = None
        self._lock = asyncio.Lock()

    async def publish(self, topic: str, data: bytes, metadata: Mapping[str, str]) -> None:
        given = {key.lower(): value for key, value in metadata.items()}
        retain = truthy(given["retain"]) if given.get("retain") else self._link.retain
        qos = self._link.qos
        if given.get("qos"):
            if given["qos"] not in {"0", "1", "2"}:
                raise ComponentError("`qos` is not 0, 1 or 2", where=self._link.where)
            qos = int(given["qos"])
        session = await self._open()
        await session.publish(topic, data, qos=qos, retain=retain)

    async def _open(self) -> _Session:
        async with self._lock:
            if self._session is None or self._session.ended:
                # A name of its own: a broker ends the older of two connections with one name.
                name = f"{self._link.client_id('pelton')[:40]}-{uuid.uuid4().hex[:12]}"
                session = _Session(self._link, name, clean=True)
                await session.open()
                self._session = session
            return self._session

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class MqttBus:
    """Topics of one broker; `bindings.mqtt3` as a source is the one topic that its metadata name.

    Args:
        component: `url` is required, and `topic` for the binding; the keys of the contract.
        clock: Unused; the broker keeps no times.

    Raises:
        ComponentError: The metadata cannot be used.
    """

    def __init__(self, component: Component, *, clock: Clock) -> None:
        self._link = _Link(component)
        self._topic = ""
        if component.type.startswith("bindings."):
            self._topic = self._link.settings.required("topic")
        self._publisher = _Publisher(self._link)
        self._subscriptions: dict[tuple[str, str], _Subscription] = {}

    async def __aenter__(self) -> MqttBus:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection that is published on."""
        await self._publisher.close()

    async def publish(self, message: Message) -> None:
        """Publish to the topic; see `ports.Bus`. Headers are not sent, a repeated id is a second message.

        Metadata: `retain`, `qos`.
        """
        await self._publisher.publish(self._topic or message.topic, message.data, message.metadata)

    async def subscribe(
        self, topic: str, *, consumer: str, max_in_flight: int, options: Mapping[str, str]
    ) -> AsyncIterator[Sequence[Delivery]]:
        """Iterate over batches of a session; see `ports.Bus`."""
        del options
        name = self._name(topic, consumer)
        if any(name == other.client_id for other in self._subscriptions.values()):
            raise DeliveryError(
                f"the client id {name!r} is in use by another subscription of this component",
                where=self._link.where,
            )
        if self._link.clean:
            _log.warning(
                "%s: cleanSession is true; what is published while %s is not connected is lost",
                self._link.where,
                name,
            )
        subscription = _Subscription(self._link, name, self._topic or topic, max_in_flight)
        self._subscriptions[topic, consumer] = subscription
        try:
            async for batch in subscription.batches():
                yield batch
        finally:
            del self._subscriptions[topic, consumer]
            subscription.holding.forget()

    async def prepare(self, topic: str, *, consumer: str, options: Mapping[str, str]) -> None:
        """Make the session of a consumer, so that what is published from now on waits for it."""
        del options
        name = self._name(topic, consumer)
        await _Subscription(self._link, name, self._topic or topic, 1).open_only()

    async def pending(self, topic: str, *, consumer: str) -> int:
        """Return what is held here; what waits at the broker cannot be asked for. 0 for an unknown one."""
        found = self._subscriptions.get((topic, consumer))
        return len(found.holding) if found is not None else 0

    def _name(self, topic: str, consumer: str) -> str:
        """Return the client id; a session holds one topic's messages, so a pub/sub one names it too."""
        name = self._link.client_id(consumer)
        return name if self._topic else f"{name}-{topic}"


class MqttBinding:
    """`bindings.mqtt3` as an output: one topic.

    Args:
        component: `url` and `topic` are required.

    Raises:
        ComponentError: The metadata cannot be used.
    """

    def __init__(self, component: Component) -> None:
        self._link = _Link(component)
        self._topic = self._link.settings.required("topic")
        self._publisher = _Publisher(self._link)

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> Delivered:
        """Publish and wait until the broker has it; see `ports.Binding`.

        Args:
            operation: create.
            data: The payload.
            metadata: `topic` instead of the component's, `retain`, `qos`.
        """
        if operation.lower() != "create":
            raise ComponentError(
                f"bindings.mqtt3 has no operation {operation!r}", where=self._link.where, hint="Use create."
            )
        given = {key.lower(): value for key, value in metadata.items()}
        await self._publisher.publish(given.get("topic") or self._topic, data, metadata)
        return Delivered(ok=True)

    async def close(self) -> None:
        """Close the connection."""
        await self._publisher.close()
