"""The Dapr runtime: one object that answers for any number of apps, behind any number of ports.

`cli/` makes it, feeds it resources and apps, and opens a port of `grpc_server.py` or `http_server.py` for
each app, or one for all. What calls apps is handed in as `Invocation` and `TopicStreams` (`ports.py`).
Source: contracts, Dapr runtime and Dapr HTTP.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

from pelton.clock import Clock
from pelton.compat.dapr.apps import AppRegistry, RegisteredApp
from pelton.compat.dapr.blocks import Bindings, Configurations, Locks, Secrets
from pelton.compat.dapr.components import Components
from pelton.compat.dapr.endpoints import Endpoints
from pelton.compat.dapr.guard import Guard
from pelton.compat.dapr.ports import Drivers, Invocation, TopicStreams, Traces
from pelton.compat.dapr.publishing import Publishing
from pelton.compat.dapr.resiliency import Calls
from pelton.compat.dapr.states import Query, States
from pelton.model.component import ComponentResource
from pelton.model.dapr import HttpEndpoint
from pelton.model.resiliency import Resiliency

__all__ = ["DaprRuntime"]


class DaprRuntime:
    """Everything behind the Dapr service. Used from one event loop; an async context manager.

    Args:
        drivers: Opens components.
        clock: Time.
        query: Runs state queries.
        version: What it says about itself.
        secrets: Entries of the platform's Secrets by namespace and name; None when there is no platform.
        variables: What `envRef` of components may name.
        pod_name: What `{podName}` stands for.
        traces: Takes calls that ask for a trace; None traces nothing.
        calls: Carries out policies; None for none.
        shutdown: Called when an app asks for the end of its runtime; None when that ends nothing, because the
            runtime is shared.

    Attributes:
        apps, components: What there is.
        topics, states, bindings, secrets, configurations, locks: The blocks.
        invocation, streams: Set by whoever calls apps; None answers UNIMPLEMENTED.
        endpoints: HTTPEndpoints, and the ways to them.
        resiliencies: All Resiliency objects.
        outbound_ready: Whether apps may call; False until the components are known.
        version: As above.
        shutdown: As above.
    """

    def __init__(
        self,
        drivers: Drivers,
        *,
        clock: Clock,
        query: Query,
        version: str,
        secrets: Callable[[str, str], Awaitable[Mapping[str, str] | None]] | None = None,
        variables: Mapping[str, str] | None = None,
        pod_name: str = "",
        traces: Traces | None = None,
        calls: Calls | None = None,
        shutdown: Callable[[RegisteredApp, bool], None] | None = None,
    ) -> None:
        self.version = version
        self.shutdown = shutdown
        self.apps = AppRegistry()
        self.components = Components(drivers, secrets=secrets, variables=variables, pod_name=pod_name)
        self._guard = Guard(calls)
        self.topics = Publishing(self.components, self._guard, clock, traces)
        self.states = States(self.components, self._guard, query)
        self.bindings = Bindings(self.components, self._guard)
        self.secrets = Secrets(self.components, self._guard)
        self.configurations = Configurations(self.components, self._guard)
        self.locks = Locks(self.components, self._guard)
        self.invocation: Invocation | None = None
        self.streams: TopicStreams | None = None
        self.endpoints = Endpoints(self.components, {})
        self.resiliencies: tuple[Resiliency, ...] = ()
        self.outbound_ready = False
        self.apps.listen(self._app_changed)

    async def __aenter__(self) -> DaprRuntime:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    def sync(
        self,
        *,
        components: Iterable[ComponentResource] = (),
        resiliencies: Iterable[Resiliency] = (),
        endpoints: Iterable[HttpEndpoint] = (),
    ) -> None:
        """Make these the resources; what did not change stays as it is. From then on apps may call."""
        self.resiliencies = tuple(resiliencies)
        self._guard.set_policies(self.resiliencies)
        self.endpoints.known = {(each.namespace, each.name): each for each in endpoints}
        self.components.sync(components)
        self.outbound_ready = True

    async def close(self) -> None:
        """End subscriptions to settings and close all drivers; the ports are closed before."""
        await self.configurations.close()
        await self.endpoints.close()
        await self.components.close()

    def _app_changed(self, registered: RegisteredApp, there: bool) -> None:
        # A change may be one of the Configuration, which decides what is opened.
        self.components.forget(registered.app)
        if not there:
            self.configurations.forget(registered.app)
