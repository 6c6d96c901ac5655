"""The connection to a NATS server: held for ever, with answers that fail when the connection does.

The client library's own requests wait for their timer when a connection breaks; here they fail at once and
are sent again as soon as the server is back. Called by `bus.py` and `pull.py` beside it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from pelton import errors
from pelton.certificates import client_context
from pelton.drivers.nats.keys import signing_key
from pelton.log import get
from pelton.model.settings import server_url

__all__ = ["ANSWER_S", "Link", "lower_keys", "status_of"]

ANSWER_S: Final = 10.0
"""Seconds until a request without an answer is sent again."""

_SCHEMES: Final = ("nats", "tls", "ws", "wss")
_HONOURED: Final = frozenset(
    (
        *(
            "natsurl",
            "name",
            "token",
            "jwt",
            "seedkey",
            "tls_client_cert",
            "tls_client_key",
            "domain",
            "apiprefix",
        ),
        *("streamname", "durablename", "queuegroupname", "deliverpolicy", "startsequence", "starttime"),
        *("ackwait", "maxackpending", "replicas", "memorystorage", "concurrency", "rawpayload"),
        *("consumerid", "createstreams"),
    )
)
# Meaningful for push consumers only, or decided by Pelton itself (attempts and backoff are a Subscription's).
_WITHOUT_MEANING: Final = {
    "flowcontrol": "events are pulled",
    "heartbeat": "events are pulled",
    "ratelimit": "events are pulled as workers take them",
    "maxdeliver": "attempts are counted by Pelton",
    "backoff": "retries are timed by Pelton",
    "ackpolicy": "every event is acknowledged by itself",
}

_log = get(__name__)


class Link:
    """A connection to one JetStream account; reconnects for as long as it is open.

    Args:
        url: `nats://host:port`, several separated by commas; may hold credentials.
        user: User name; "" when the URL or `settings` hold the credentials.
        password: Its password.
        settings: Metadata of the component (keys in any case); {} for the embedded bus.
        where: Component or part, for messages, e.g. `Component default/orders`.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str = "",
        password: str = "",
        settings: Mapping[str, str] | None = None,
        where: str = "event bus",
    ) -> None:
        self.settings = lower_keys(settings or {})
        self._url = url
        self._user, self._password = user, password
        self.where = where
        self._client: Client | None = None
        self._up = asyncio.Event()
        self._closed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._inbox = ""
        self._next_token = 0
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self.reconnected: set[Callable[[], None]] = set()
        self._failures = 0
        self._last_error = ""

    async def open(self, *, timeout_s: float = 10.0) -> None:
        """Connect.

        Raises:
            ComponentError: The server refuses the credentials, or settings that cannot work.
            DeliveryError: Not connected within `timeout_s` seconds.
        """
        for key in self.settings:
            if key in _WITHOUT_MEANING:
                _log.warning("%s: %s has no effect: %s", self.where, key, _WITHOUT_MEANING[key])
            elif key not in _HONOURED:
                _log.warning("%s: unknown metadata %s is ignored", self.where, key)
        for server in self._url.split(","):
            # The client library knows servers without a scheme, too.
            if server_url(server if "://" in server else f"nats://{server}", _SCHEMES) is None:
                raise errors.ComponentError(
                    "metadata natsURL is no nats:// URL",
                    where=self.where,
                    hint="For example `nats://user:password@nats:4222`; percent-encode what is special in "
                    "user and password.",
                )
        options = self._connect_options()
        self._keeper = asyncio.create_task(self._keep(options), name=f"nats-{self.where}")
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError:
            await self.close()
            refused = "authorization" in self._last_error.lower()
            raise (errors.ComponentError if refused else errors.DeliveryError)(
                f"no connection to NATS within {timeout_s:g} s: {self._last_error or 'no answer'}",
                where=self.where,
                hint="Check natsURL and the credentials.",
            ) from None

    async def close(self) -> None:
        """Disconnect; durable consumers stay. Safe after a failed open."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        self._lose("the event bus was closed")
        client, self._client = self._client, None
        if client is not None and not client.is_closed:
            with contextlib.suppress(OSError):  # a lost connection need not be told that we leave
                await client.close()

    @property
    def connected(self) -> bool:
        """Whether the server is reachable now."""
        return self._up.is_set()

    def _connect_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"name": self.settings.get("name", "pelton")}
        if self._user:
            options |= {"user": self._user, "password": self._password}
        if token := self.settings.get("token"):
            options["token"] = token
        jwt, seed = self.settings.get("jwt", ""), self.settings.get("seedkey", "")
        if bool(jwt) != bool(seed):
            raise errors.ComponentError("jwt and seedKey go together", where=self.where)
        if jwt:
            key = signing_key(seed, where=self.where)
            options["user_jwt_cb"] = lambda: bytearray(jwt.strip().encode())
            options["signature_cb"] = lambda nonce: base64.b64encode(key.sign(nonce.encode()))
        certificate, secret = self.settings.get("tls_client_cert"), self.settings.get("tls_client_key")
        if bool(certificate) != bool(secret):
            raise errors.ComponentError("tls_client_cert and tls_client_key go together", where=self.where)
        if certificate:
            options["tls"] = client_context(where=self.where, cert=certificate, key=secret or "")
        return options

    async def _keep(self, options: dict[str, Any]) -> None:
        """Hold a connection for ever: the client reconnects by itself, but closes after a refusal."""
        while True:
            self._closed.clear()
            client = Client()
            try:
                await client.connect(
                    servers=self._url.split(","),
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.25,  # type: ignore[arg-type]  # annotated int, used as seconds
                    connect_timeout=5,
                    ping_interval=20,
                    pending_size=16 * 1024 * 1024,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnected,
                    reconnected_cb=self._on_reconnected,
                    closed_cb=self._on_closed,
                    reconnect_to_server_handler=self._backoff,
                    **options,
                )
                self._inbox = client.new_inbox()
                await client.subscribe(f"{self._inbox}.*", cb=self._on_answer)
                self._client = client
                await self._on_reconnected()
                await self._closed.wait()
            except (nats.errors.Error, OSError, TimeoutError) as exc:
                self._note(exc)
            except asyncio.CancelledError:
                if self._client is not client:
                    await asyncio.shield(_quietly_close(client))
                raise
            self._failures += 1
            await asyncio.sleep(min(2.0, 0.05 * 2**self._failures))

    def _backoff(self, servers: list[Any], _info: dict[str, Any]) -> tuple[Any, float]:
        self._failures += 1
        return servers[self._failures % len(servers)], min(2.0, 0.02 * 2 ** min(self._failures, 8))

    def _note(self, exc: Exception) -> None:
        """Keep why there is no connection; a server that refuses credentials says so, then hangs up."""
        if "authorization" not in self._last_error.lower():
            self._last_error = str(exc) or type(exc).__name__

    async def _on_error(self, exc: Exception) -> None:
        self._note(exc)
        _log.debug("%s: %s", self.where, self._last_error)

    async def _on_disconnected(self) -> None:
        if self._up.is_set():
            _log.warning("%s: connection lost, reconnecting", self.where)
        self._lose("the connection to the event bus was lost")

    async def _on_reconnected(self) -> None:
        self._failures = 0
        self._last_error = ""
        self._up.set()
        for notify in self.reconnected:
            notify()

    async def _on_closed(self) -> None:
        self._lose("the connection to the event bus was closed")
        self._closed.set()

    def _lose(self, why: str) -> None:
        self._up.clear()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(ConnectionError(why))

    async def _on_answer(self, msg: Msg) -> None:
        future = self._waiting.pop(msg.subject.rpartition(".")[2], None)
        if future is not None and not future.done():
            future.set_result(msg)

    async def up(self) -> None:
        """Wait until the server is reachable."""
        await self._up.wait()

    @property
    def api_prefix(self) -> str:
        """Subject prefix of JetStream's API, by metadata domain or apiPrefix."""
        if domain := self.settings.get("domain"):
            return f"$JS.{domain}.API"
        return (self.settings.get("apiprefix") or api.DEFAULT_PREFIX).rstrip(".")

    def client(self) -> Client:
        """Return the client library's connection; raises ConnectionError while there is none."""
        if self._client is None:
            raise ConnectionError("not connected to the event bus")
        return self._client

    async def ask(
        self, subject: str, data: bytes, headers: dict[str, str] | None = None, *, deadline_s: float
    ) -> Msg:
        """Send a message and return the answer; sends again when the connection breaks, until the deadline.

        Raises:
            DeliveryError: No answer within `deadline_s` seconds.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        why = "the event bus is not reachable"
        while (left := deadline - loop.time()) > 0:
            self._next_token += 1
            token = str(self._next_token)
            try:
                async with asyncio.timeout(min(left, ANSWER_S)):
                    if not self._up.is_set():
                        await self._up.wait()
                    future: asyncio.Future[Msg] = loop.create_future()
                    self._waiting[token] = future
                    await self.client().publish(subject, data, f"{self._inbox}.{token}", headers)
                    return await future
            except TimeoutError:
                why = "the event bus did not answer"
            except (
                ConnectionError,
                nats.errors.ConnectionClosedError,
                nats.errors.OutboundBufferLimitError,
            ) as exc:
                why = str(exc)
                await asyncio.sleep(0.01)
            except nats.errors.Error as exc:
                raise errors.DeliveryError(str(exc), where=self.where, retriable=False) from exc
            finally:
                self._waiting.pop(token, None)
        raise errors.DeliveryError(f"{why} within {deadline_s:g} s", where=self.where)

    def jetstream(self, timeout_s: float = 5.0) -> JetStreamContext:
        """Return the client library's view of JetStream, with the component's domain or API prefix."""
        return self.client().jetstream(timeout=timeout_s, prefix=self.api_prefix)

    async def manage(self, operation: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Call JetStream's API; raises the client library's APIError for a refusal, else DeliveryError."""
        subject = f"{self.api_prefix}.{operation}"
        message = await self.ask(subject, json.dumps(body).encode(), deadline_s=ANSWER_S)
        answer: dict[str, Any] = json.loads(message.data or b"{}")
        if status_of(message) == "503":
            raise errors.DeliveryError("JetStream does not answer", where=self.where)
        if error := answer.get("error"):
            raise nats.js.errors.APIError.from_error(error)
        return answer


async def _quietly_close(client: Client) -> None:
    with contextlib.suppress(Exception):
        await client.close()


def status_of(msg: Msg) -> str:
    """Return the status that the server put in place of a payload, e.g. `503` for nobody there; else ""."""
    return (msg.headers or {}).get("Status", "")


def lower_keys(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return component metadata with its keys in lower case: they compare so."""
    return {key.lower(): value for key, value in metadata.items()}
