"""Feeds of apps: a dispatcher of its own whose invoker calls apps.

Implements `Feeds` of `compat/dapr/callbacks.py` with `dataplane/dispatcher.py`; the ledger is the one of
functions, so that `pelton dlq` shows what apps gave up as well. Made by the runtime process and by
`pelton dapr run`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pelton.clock import Clock
from pelton.compat.dapr.apps import App, AppRegistry
from pelton.compat.dapr.callbacks import AppComponent
from pelton.compat.dapr.delivery import AppInvoker
from pelton.dataplane.dispatcher import Dispatcher
from pelton.dataplane.event_traces import NO_TRACES, EventTraces
from pelton.errors import ComponentError
from pelton.model.desired import Component, Desired, Scaling, Subscription, Workload
from pelton.ports import Bus, Ledger

__all__ = ["AppFeeds"]

_GRACE_S = 30.0


class AppFeeds:
    """Fetches events for apps.

    Args:
        registry: The apps.
        open_bus: Opens what brings events of a component to an app; the same for the same component.
        ledger: Keeps retries, attempts and dead letters.
        clock: Time.
        traces: Takes deliveries that are traced.
        on_pending: Told how many events wait for an app: namespace, app id, number.
    """

    def __init__(
        self,
        registry: AppRegistry,
        *,
        open_bus: Callable[[App, Component], Awaitable[Bus]],
        ledger: Ledger,
        clock: Clock,
        traces: EventTraces = NO_TRACES,
        on_pending: Callable[[str, str, int], None] | None = None,
    ) -> None:
        self._registry = registry
        self._fetched: dict[str, Subscription] = {}
        self._open_bus = open_bus
        self.invoker = AppInvoker(bus_of=self._bus_of, clock=clock)
        self._dispatcher = Dispatcher(
            invoker=self.invoker,
            ledger=ledger,
            bus_of=self._bus_of,
            clock=clock,
            on_pending=on_pending,
            traces=traces,
            unwrap=self.invoker.event,
        )

    async def start(self) -> None:
        """Begin measuring."""
        await self._dispatcher.start()

    async def apply(self, app: App, subscriptions: Sequence[Subscription]) -> None:
        """Make an app's subscriptions these; see `Feeds`."""
        mine = (app.namespace, app.app_id)
        others = {name: one for name, one in self._fetched.items() if (one.namespace, one.function) != mine}
        self._fetched = others | {one.id: one for one in subscriptions}
        if not subscriptions:
            await self._dispatcher.remove(app.namespace, app.app_id, grace_s=_GRACE_S)
            return
        nothing = Workload(namespace=app.namespace, name=app.app_id, revision="", bundle="")
        desired = Desired(workload=nothing, scaling=Scaling(), subscriptions=tuple(subscriptions))
        await self._dispatcher.apply(desired, grace_s=_GRACE_S)

    async def stop(self, grace_s: float = 4.0) -> None:
        """Stop all; what is not done within `grace_s` seconds stays with the broker."""
        await self._dispatcher.stop(grace_s)

    def stats(self) -> dict[str, dict[str, Any]]:
        """Return subscription id -> whose it is, and counters of the feed and of what the app gave up.

        `function` is the app's id.
        """
        counts = self.invoker.counts()
        return {
            name: {
                "namespace": self._fetched[name].namespace,
                "function": self._fetched[name].function,
                "topic": self._fetched[name].topic,
                **found,
                "dropped": counts[name].dropped if name in counts else 0,
                "dead_lettered": counts[name].dead_lettered if name in counts else 0,
            }
            for name, found in self._dispatcher.stats().items()
            if name in self._fetched
        }

    async def _bus_of(self, component: Component) -> Bus:
        if not isinstance(component, AppComponent):
            raise ComponentError(f"component {component.name} belongs to no app")
        namespace, _, app_id = component.app.partition("/")
        registered = self._registry.find(app_id, namespace)
        if registered is None:
            raise ComponentError(f"app {component.app} is gone")
        return await self._open_bus(registered.app, component)
