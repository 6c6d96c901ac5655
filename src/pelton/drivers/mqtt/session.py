"""One MQTT connection: a component's settings read once, and the client library run by our event loop.

A Session is made once and done with when it breaks; whoever holds it makes another. Messages are acknowledged
by hand. Called by `bus.py` beside it.
Source: `dapr-components` contract, sections 2 (`pubsub.mqtt3`) and 4 (`bindings.mqtt3`).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from urllib.parse import unquote

from paho.mqtt.client import Client, MQTTMessage, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion

from pelton.certificates import client_context
from pelton.errors import ComponentError, DeliveryError, PeltonError
from pelton.log import get
from pelton.model.desired import Component
from pelton.model.settings import ComponentSettings, consumer_name, server_url

__all__ = ["Link", "Session"]

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


class Link:
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
        known = {**_PLAIN, **_SECURE}
        url = server_url(text, known)
        if url is None:
            raise ComponentError(
                "metadata `url` is not an MQTT URL",
                where=self.where,
                hint="For example `tcp://mosquitto:1883` or `ssl://user:password@broker:8883`; "
                "percent-encode what is special in user and password.",
            )
        self.host, self.port = url.hostname or "", url.port or known[url.scheme]
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


class _Handshakes:
    """A TLS context that knows the socket of a handshake: the library leaves one that fails open."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._socket: ssl.SSLSocket | None = None
        self.check_hostname = context.check_hostname

    def wrap_socket(self, sock: socket.socket, **options: Any) -> ssl.SSLSocket:
        """Wrap a socket as the context does."""
        self._socket = self._context.wrap_socket(sock, **options)
        return self._socket

    def close(self) -> None:
        """Close the last one; safe to repeat."""
        if self._socket is not None:
            self._socket.close()


class Session:
    """One connection; made once, and done with when it breaks."""

    def __init__(
        self,
        link: Link,
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
        self._handshakes = _Handshakes(link.tls) if link.tls is not None else None
        if self._handshakes is not None:
            client.tls_set_context(self._handshakes)  # type: ignore[arg-type]  # all that it uses of one
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
        if self._handshakes is not None:
            self._handshakes.close()
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
