"""Opens the bus that a component means: what each driver's constructor takes, in one place.

Called by the runtime process and by commands that ship between brokers. The embedded bus is the caller's
business: it is open already where the platform runs.
"""

from __future__ import annotations

from typing import Any, Final

from pelton.cli.home import Home
from pelton.cli.tables import BUSES, TRIGGER_TYPES, resolve_bus, resolve_driver
from pelton.clock import Clock
from pelton.errors import ComponentError
from pelton.model.desired import Component
from pelton.ports import Bus

__all__ = ["open_bus"]

_OPEN_S: Final = 4.0
"""Seconds for a connection: less than a component has to start, so that what hinders it is told."""


async def open_bus(component: Component, *, clock: Clock, home: Home) -> Bus:
    """Return a component's bus; the caller closes it.

    Args:
        component: A broker's, a schedule or logs, with its secrets filled in.
        clock: For drivers that keep times.
        home: Where drivers keep what outlives a restart.

    Raises:
        ComponentError: The type is unknown or cannot deliver events, or its metadata cannot be used.
        DeliveryError: A server that has to be there at once was not reached.
    """
    if component.type in BUSES:
        broker: Bus = resolve_bus(component.type)(component, clock=clock)
        return broker
    where = f"component {component.namespace}/{component.name}"
    if component.type not in TRIGGER_TYPES:
        known = ", ".join(sorted(TRIGGER_TYPES))
        raise ComponentError(f"{component.type} cannot deliver events", where=where, hint=f"Known: {known}.")
    driver: Any = resolve_driver(component.type)
    bus: Bus
    if component.type == "pubsub.jetstream":
        url = next((v for k, v in component.metadata.items() if k.lower() == "natsurl"), "")
        if not url:
            raise ComponentError("metadata `natsURL` is required", where=where)
        jetstream = driver(url, settings=component.metadata, embedded=False, where=where)
        await jetstream.open(timeout_s=_OPEN_S)
        bus = jetstream
    elif component.type == "bindings.logs":
        bus = driver(component, clock=clock, folder=home.log_positions, forbidden=[home.path])
    elif component.type == "bindings.cron":
        bus = driver(component.metadata, clock=clock, where=where)
    else:  # both of Kafka's types
        bus = resolve_driver("pubsub.kafka")(component.metadata, where=where)
    return bus
