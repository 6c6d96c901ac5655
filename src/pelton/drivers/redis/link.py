"""The connection to a Redis server: a component's metadata read once, clients made from it, errors named.

The pool connects at first use and again whenever a connection is gone, so a server that is away at the start
is an error of each call and of no object. Called by `bus.py`, `state.py` and `binding.py` beside it.
Source: `dapr-components` contract, section 2 (`pubsub.redis`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError, ResponseError

from pelton.certificates import PemFiles, client_context
from pelton.errors import ComponentError, DeliveryError, PeltonError
from pelton.log import get
from pelton.model.desired import Component
from pelton.model.settings import ComponentSettings

__all__ = ["BLOCK_S", "PLAIN_S", "RedisLink"]

BLOCK_S: Final = 1.0
"""Seconds that a read waits at the server; answers may take this much longer than `readTimeout`."""

PLAIN_S: Final = 0.001
"""Seconds that 1 stands for where a duration is a plain number; -1 means none."""

_PORT: Final = 6379
_CONNECTIONS: Final = 64
_REFUSED: Final = {
    "useEntraID": "Entra ID",
    "useAzureAD": "Entra ID",
    "useOIDC": "a login by OIDC",
    "failover": "Sentinel",
}

_log = get(__name__)


class RedisLink:
    """Clients of one server.

    Args:
        component: `redisHost` is required (`host:port`); the keys of the contract, in any case.

    Raises:
        ComponentError: The metadata cannot be used, or ask for Cluster or Sentinel.
    """

    def __init__(self, component: Component) -> None:
        settings = ComponentSettings(component)
        self.settings = settings
        self.where = settings.where
        host, port = self._address(settings)
        self._refuse(settings)
        retries = settings.number("redisMaxRetries", 3)
        minimum = settings.seconds("redisMinRetryInterval", 0.008, plain_s=PLAIN_S)
        maximum = settings.seconds("redisMaxRetryInterval", 0.512, plain_s=PLAIN_S)
        read_s = settings.seconds("readTimeout", 3.0, plain_s=PLAIN_S)
        options: dict[str, Any] = {
            "host": host,
            "port": port,
            "db": settings.number("redisDB", 0),
            "username": settings.text("redisUsername") or None,
            "password": settings.text("redisPassword") or None,
            "socket_connect_timeout": settings.seconds("dialTimeout", 5.0, plain_s=PLAIN_S) or None,
            "socket_timeout": read_s + BLOCK_S if read_s else None,
            "retry": Retry(ExponentialBackoff(maximum, minimum), max(0, retries)),
            "max_connections": settings.number("poolSize", 0) or _CONNECTIONS,
            "protocol": 2,
            "decode_responses": False,
        }
        self._pem = PemFiles()
        if settings.flag("enableTLS"):
            options |= self._tls(settings)
        self.name = f"redis at {host}:{port}"
        # The stubs give unions of both protocols' answers; protocol 2 is fixed above.
        self.client: Any = Redis(**options)

    async def close(self) -> None:
        """Close the connections; safe to repeat."""
        await self.client.aclose()
        self._pem.close()

    @contextmanager
    def translated(self, kind: type[PeltonError] = DeliveryError) -> Iterator[None]:
        """Turn the library's errors into `kind`; refused credentials are a ComponentError always."""
        try:
            yield
        except (AuthenticationError, AuthorizationError) as exc:
            raise self._credentials() from exc
        except ResponseError as exc:
            if str(exc).startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
                raise self._credentials() from exc
            raise kind(f"{self.name} refused: {exc}", where=self.where) from exc
        except (RedisError, OSError, TimeoutError) as exc:
            reason = str(exc) or type(exc).__name__
            raise kind(f"{self.name} was not reached: {reason}", where=self.where) from exc

    def _credentials(self) -> ComponentError:
        return ComponentError(
            f"{self.name} rejected the credentials",
            where=self.where,
            hint="Check redisUsername, redisPassword and what that user may do.",
        )

    @staticmethod
    def _address(settings: ComponentSettings) -> tuple[str, int]:
        text = settings.required("redisHost", "For example `redis:6379`.")
        host, colon, port = text.rpartition(":")
        if any(char in text for char in "/@,") or (colon and not (port.isdecimal() and int(port) < 65536)):
            # A URL would be shown with what is in it, as an address that is not reached.
            raise ComponentError(
                "metadata `redisHost` is not host:port",
                where=settings.where,
                hint="User and password have keys of their own: redisUsername, redisPassword.",
            )
        if not colon:
            return text, settings.number("redisPort", _PORT)
        return host.strip("[]"), int(port)

    @staticmethod
    def _refuse(settings: ComponentSettings) -> None:
        for key, what in _REFUSED.items():
            if settings.flag(key):
                raise ComponentError(
                    f"metadata `{key}`: {what} is not supported", where=settings.where, hint="Name one node."
                )
        kind = settings.text("redisType", "node").strip().lower()
        if kind != "node":
            raise ComponentError(
                f"metadata `redisType`: {kind} is not supported", where=settings.where, hint="Use node."
            )

    def _tls(self, settings: ComponentSettings) -> dict[str, Any]:
        # Made once only to say at once what is wrong with a certificate; the library makes its own.
        client_context(
            where=self.where,
            ca=settings.text("caCert"),
            cert=settings.text("clientCert"),
            key=settings.text("clientKey"),
        )
        options: dict[str, Any] = {"ssl": True}
        if settings.flag("insecureSkipTLSVerify"):
            options |= {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
        if settings.text("caCert"):
            options["ssl_ca_certs"] = self._pem.path(settings.text("caCert"))
        if settings.text("clientCert"):
            options["ssl_certfile"] = self._pem.path(settings.text("clientCert"))
            options["ssl_keyfile"] = self._pem.path(settings.text("clientKey") or settings.text("clientCert"))
        return options
