"""What the Dapr service needs from others: drivers of components, calls to apps, events on streams.

`Drivers` come from `cli/`. `Invocation` and `TopicStreams` are implemented beside this file by what calls
apps; the servers know only these Protocols.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pelton.compat.dapr.apps import RegisteredApp
from pelton.model.desired import Component

__all__ = [
    "AsgiReceive",
    "AsgiScope",
    "AsgiSend",
    "Drivers",
    "Hop",
    "Invocation",
    "TopicStreams",
    "Traces",
]

AsgiScope = dict[str, Any]
AsgiReceive = Callable[[], Awaitable[dict[str, Any]]]
AsgiSend = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drivers:
    """Opens what components stand for, and says which types there are.

    Each opener takes a component with its secrets filled in, may be slow, and raises ComponentError for a
    type or a setting that cannot be used and DeliveryError or OSError for a backend that is away. What it
    returns may be shared with others that have the same component; `close` gives it back.

    Attributes:
        open: Category (`pubsub`, `bindings`, `state`, `secretstores`, `configuration`, `lock`) -> opener of
            a port of `pelton.ports`.
        types: Category -> the known types of it, sorted.
    """

    open: Mapping[str, Callable[[Component], Awaitable[Any]]]
    types: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Hop(Protocol):
    """A piece of work that is being traced; `context` is the `traceparent` of what it causes."""

    @property
    def context(self) -> Any:
        """Its own context; as text a `traceparent`."""
        ...

    def end(self, error: str = "", **tags: str) -> None:
        """Report it."""
        ...


class Traces(Protocol):
    """Begins hops for calls whose `traceparent` asks for a trace."""

    def begin(self, traceparent: str, *, name: str, kind: str, tags: dict[str, str]) -> Hop | None:
        """Return the hop, None where nobody asks for it.

        Args:
            traceparent: Of the call; "" for none.
            name: Such as `publish orders`.
            kind: `producer`, `consumer`, `client` or `server`.
            tags: OpenTelemetry's names.
        """
        ...


class Invocation(Protocol):
    """Calls methods of other apps, and passes on calls of their own services."""

    async def invoke_service(
        self, caller: RegisteredApp, request: Any, context: Any, *, timeout_s: float | None
    ) -> Any:
        """Answer InvokeService: a common.v1.InvokeResponse for a runtime.v1.InvokeServiceRequest.

        `context` is the grpc.aio.ServicerContext. Raises Fault.
        """
        ...

    async def invoke_http(
        self,
        caller: RegisteredApp,
        *,
        target: str,
        method_path: str,
        scope: AsgiScope,
        receive: AsgiReceive,
        send: AsgiSend,
    ) -> None:
        """Answer an HTTP request that is meant for another app.

        Args:
            caller: Who asks.
            target: App id, `app.namespace`, name of an HTTPEndpoint, or a URL; not empty.
            method_path: What stands behind `/method/`, or the whole path of a request with `dapr-app-id`,
                still encoded, without the query.
            scope: The request's ASGI scope; the token is taken out of its headers.
            receive: ASGI.
            send: ASGI; nothing has been sent.

        Raises:
            Fault: The call cannot be made; nothing has been sent.
        """
        ...

    def proxy(self, caller: RegisteredApp, method: str, metadata: Mapping[str, str | bytes]) -> Any:
        """Return a grpc.RpcMethodHandler for a call of a service that is not Dapr's, or None.

        Args:
            caller: Who asks.
            method: `/package.Service/Method`.
            metadata: The call's, lower-case key -> value; `dapr-app-id` names the target.
        """
        ...


class TopicStreams(Protocol):
    """Brings topics to apps that ask on a stream."""

    def subscribe(self, caller: RegisteredApp, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Answer SubscribeTopicEventsAlpha1: responses for as long as the stream lasts.

        Closing the iterator ends the subscription; what is not finished is delivered again. Raises Fault.
        """
        ...
