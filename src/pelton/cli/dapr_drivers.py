"""Opens the components of Dapr apps: the drivers of functions, behind the names of `compat/dapr/ports.py`.

A bus is shared by all who have the same component, so that apps and functions meet on it; the others are
opened per app. Made by whoever makes a runtime for apps, `dapr_host.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pelton.cli.state_stores import StateStores
from pelton.cli.tables import (
    BUSES,
    CONFIGURATIONS,
    DRIVERS,
    LOCKS,
    OUTPUT_TYPES,
    SECRET_STORES,
    STATES,
    TRIGGER_TYPES,
    resolve_configuration,
    resolve_driver,
    resolve_lock,
    resolve_secret_store,
)
from pelton.clock import Clock
from pelton.compat.dapr.ports import Drivers
from pelton.errors import ComponentError
from pelton.model.desired import Component
from pelton.model.invocation import Delivered
from pelton.ports import Bus, Delivery, Message

__all__ = ["BINDING_TRIGGERS", "drivers"]

BINDING_TRIGGERS: Final = frozenset(each for each in TRIGGER_TYPES if each.startswith("bindings."))
"""Types of bindings that bring events."""


def drivers(
    *,
    bus_of: Callable[[Component], Awaitable[Bus]],
    clock: Clock,
    stores: StateStores,
    kubeconfig: Path | None = None,
) -> Drivers:
    """Return what opens components.

    Args:
        bus_of: Returns the bus of a component; its owner closes it.
        clock: Time.
        stores: Opens state stores.
        kubeconfig: Of the platform, for its Secrets; None where there is none.
    """

    async def pubsub(component: Component) -> Any:
        return _SharedBus(await bus_of(component))

    async def binding(component: Component) -> Any:
        if component.type not in OUTPUT_TYPES:
            return _InputOnly(component)
        return resolve_driver(component.type)(component)

    async def state(component: Component) -> Any:
        return stores.open(component)

    async def secrets(component: Component) -> Any:
        more = {"kubeconfig": kubeconfig} if component.type == "secretstores.kubernetes" else {}
        return resolve_secret_store(component.type)(component, clock=clock, **more)

    async def configuration(component: Component) -> Any:
        return resolve_configuration(component.type)(component, clock=clock)

    async def lock(component: Component) -> Any:
        return resolve_lock(component.type)(component, clock=clock)

    types = {*DRIVERS, *BUSES}
    return Drivers(
        open={
            "pubsub": pubsub,
            "bindings": binding,
            "state": state,
            "secretstores": secrets,
            "configuration": configuration,
            "lock": lock,
        },
        types={
            "pubsub": _of(types, "pubsub"),
            "bindings": _of(types, "bindings"),
            "state": sorted(STATES),
            "secretstores": sorted(SECRET_STORES),
            "configuration": sorted(CONFIGURATIONS),
            "lock": sorted(LOCKS),
        },
    )


def _of(types: set[str], category: str) -> list[str]:
    return sorted(each for each in types if each.startswith(f"{category}."))


class _SharedBus:
    """A bus that others use as well, so that nobody of them closes it."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def __getattr__(self, name: str) -> Any:
        if name == "close":
            raise AttributeError(name)
        return getattr(self._bus, name)

    async def publish(self, message: Message) -> None:
        await self._bus.publish(message)

    def subscribe(
        self, topic: str, *, consumer: str, max_in_flight: int, options: Mapping[str, str]
    ) -> AsyncIterator[Sequence[Delivery]]:
        return self._bus.subscribe(topic, consumer=consumer, max_in_flight=max_in_flight, options=options)

    async def pending(self, topic: str, *, consumer: str) -> int:
        return await self._bus.pending(topic, consumer=consumer)


class _InputOnly:
    """A binding that brings events and cannot be called."""

    def __init__(self, component: Component) -> None:
        self._component = component

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> Delivered:
        raise ComponentError(
            f"{self._component.type} has no operation {operation!r}: it only brings events",
            where=f"component {self._component.namespace}/{self._component.name}",
        )

    async def close(self) -> None:
        return
