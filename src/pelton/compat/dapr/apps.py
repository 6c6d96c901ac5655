"""The apps that a runtime serves: who they are, which one calls, and what is known about each.

The servers ask who calls: the port decides, where every app has its own, or the token. Whoever starts or
finds an app registers it and keeps its channel, subscriptions and health up to date. No I/O.
Source: contracts, Dapr HTTP, sections 1, 3 and 5.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pelton.model.dapr import DaprConfiguration

__all__ = ["App", "AppHealth", "AppRegistry", "Identify", "RegisteredApp", "Route", "Subscribed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppHealth:
    """How an app is probed; times in seconds, `threshold` failures in a row make it unhealthy."""

    path: str = "/healthz"
    interval_s: float = 5.0
    timeout_s: float = 0.5
    threshold: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """One app.

    Attributes:
        app_id, namespace: Its name; unique together.
        protocol: `http`, `https`, `grpc`, `grpcs` or `h2c`: how it wants to be called.
        port: TCP port at which it listens; 0 when it is never called.
        address: Host of that port.
        socket: Path of a unix socket at which it listens instead; "" for none.
        max_concurrency: Most calls at once; -1 for no limit.
        health: How it is probed; None when it is not.
        api_token: What it must show as `dapr-api-token`; "" for nothing. Never logged.
        app_token: What it is shown as `dapr-api-token` by the runtime; "" for nothing. Never logged.
        configuration: What it may do.
        body_limit_bytes: Largest request that it may send, and largest call that it gets.
        header_limit_bytes: Largest head of a request that it may send.
        allowed_origins: Origins of browsers that may call its runtime; `*` for all.
    """

    app_id: str
    namespace: str = "default"
    protocol: str = "http"
    port: int = 0
    address: str = "127.0.0.1"
    socket: str = ""
    max_concurrency: int = -1
    health: AppHealth | None = None
    api_token: str = field(default="", repr=False)
    app_token: str = field(default="", repr=False)
    configuration: DaprConfiguration = field(default_factory=DaprConfiguration)
    body_limit_bytes: int = 4 * 1024 * 1024
    header_limit_bytes: int = 4096
    allowed_origins: tuple[str, ...] = ("*",)

    @property
    def key(self) -> str:
        """`namespace/app_id`."""
        return f"{self.namespace}/{self.app_id}"

    @property
    def is_called(self) -> bool:
        """Whether the runtime can call it: it listens somewhere."""
        return bool(self.port or self.socket)

    @property
    def speaks_grpc(self) -> bool:
        """Whether it is called over gRPC rather than HTTP."""
        return self.protocol in {"grpc", "grpcs"}


Identify = Callable[[str], "RegisteredApp | None"]
"""Tells which app calls by the `dapr-api-token` it shows ("" for none); None refuses the call."""


class Route(Protocol):
    """A route of a subscription: its expression ("" for all events) and its path."""

    @property
    def match(self) -> str:
        """CEL expression, or ""."""
        ...

    @property
    def path(self) -> str:
        """Path, or ""."""
        ...


class Subscribed(Protocol):
    """A subscription of an app, as the metadata tell about it (a TopicSubscription)."""

    @property
    def pubsub(self) -> str:
        """Name of the component."""
        ...

    @property
    def topic(self) -> str:
        """Topic."""
        ...

    @property
    def rules(self) -> Sequence[Route]:
        """In the order in which they are tried."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """As its declaration has it."""
        ...

    @property
    def dead_letter_topic(self) -> str:
        """Topic, or ""."""
        ...

    @property
    def kind(self) -> str:
        """DECLARATIVE, PROGRAMMATIC or STREAMING."""
        ...


@dataclass(slots=True, eq=False)
class RegisteredApp:
    """What changes about an app while it is registered; one object for as long as it is.

    Attributes:
        app: Who it is; replaced when its settings change.
        ready: Whether the runtime is done with its start: it listens and was asked what it wants.
        healthy: What the last probes said; True without probes.
        subscriptions: What it is subscribed to now.
        channel: The way to it (an AppChannel); None while there is none.
        extended: What it told through the metadata API, key -> value, for as long as it is registered.
    """

    app: App
    ready: bool = False
    healthy: bool = True
    subscriptions: Sequence[Subscribed] = ()
    channel: Any = None
    extended: dict[str, str] = field(default_factory=dict)

    def identify(self, token: str) -> RegisteredApp | None:
        """Return itself as the caller at a port of its own, None for a token that is not its own."""
        own = self.app.api_token
        if own and not hmac.compare_digest(own.encode(), token.encode()):
            return None
        return self


class AppRegistry:
    """All apps of a runtime, by namespace and id. Used from one event loop."""

    def __init__(self) -> None:
        self._apps: dict[str, RegisteredApp] = {}
        self._listeners: list[Callable[[RegisteredApp, bool], None]] = []

    def __iter__(self) -> Iterator[RegisteredApp]:
        return iter(list(self._apps.values()))

    def __len__(self) -> int:
        return len(self._apps)

    def put(self, app: App) -> RegisteredApp:
        """Register an app, or change one; listeners hear of it when something is different."""
        found = self._apps.get(app.key)
        if found is None:
            found = self._apps[app.key] = RegisteredApp(app)
        elif found.app == app:
            return found
        else:
            found.app = app
        self._tell(found, there=True)
        return found

    def remove(self, app_id: str, namespace: str = "default") -> None:
        """Forget an app; safe to repeat."""
        found = self._apps.pop(f"{namespace}/{app_id}", None)
        if found is not None:
            self._tell(found, there=False)

    def find(self, app_id: str, namespace: str = "default") -> RegisteredApp | None:
        """Return an app, or None."""
        return self._apps.get(f"{namespace}/{app_id}")

    def by_token(self, token: str) -> RegisteredApp | None:
        """Return the app whose token this is, or None: the `Identify` of a port that all apps share.

        Every token is compared, in constant time.
        """
        found = None
        for registered in self._apps.values() if token else ():
            own = registered.app.api_token
            if own and hmac.compare_digest(own.encode(), token.encode()):
                found = registered
        return found

    def listen(self, heard: Callable[[RegisteredApp, bool], None]) -> None:
        """Call `heard` with an app, and whether it is there, after each change."""
        self._listeners.append(heard)

    def _tell(self, found: RegisteredApp, *, there: bool) -> None:
        for heard in self._listeners:
            heard(found, there)
