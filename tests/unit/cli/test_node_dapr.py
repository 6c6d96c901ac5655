"""Ways between apps as the node keeps them: since when there are any, and until when."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from pelton.cli.node_dapr import AppWays
from pelton.model.dapr_app import DaprApp, DaprPorts
from pelton.model.dapr_call import CalledApp, CallingApp, CallRules
from pelton.model.desired import Desired, Route, Scaling, Workload
from pelton.model.routing import Endpoint, RoutingState

CALLER = CallingApp(name="dapr run default/c 90", app_id="c", namespace="default", port=90, inner=91)
PROGRAM = CalledApp(
    key="Service dapr app default/p", app_id="p", namespace="default",
    endpoints=(Endpoint(host="127.0.0.1", port=80),),
)  # fmt: skip
PROGRAMS = msgspec.to_builtins({"callers": [CALLER], "called": [PROGRAM]})


class Table:
    """Stands for the gateway; keeps what it was given last."""

    def __init__(self) -> None:
        self.connected = True
        self.state = RoutingState()
        self.changed = asyncio.Event()
        self.refused: dict[str, str] = {}

    async def set_state(self, state: RoutingState) -> dict[str, str]:
        """Take a state."""
        self.state = state
        self.changed.set()
        return self.refused

    def targets(self, port: str) -> set[str]:
        """Return the clusters that requests at a port can reach, the runtime's apart."""
        tables = [one.table for one in self.state.ports if one.name == port]
        return {
            backend.key
            for route in self.state.routes
            if route.name in tables
            for rule in route.rules
            for backend in rule.backends
        }


def peer() -> Any:
    return SimpleNamespace(closed=asyncio.Event())


def app(name: str, number: int) -> Desired:
    ports = DaprPorts(http=number, grpc=number + 1, inner=number + 2, token="t")
    return Desired(
        workload=Workload(namespace="default", name=name, revision=f"{name}-1", bundle="/b"),
        scaling=Scaling(),
        route=Route(namespace="default", name=name),
        dapr=DaprApp(app_id=name, ports=ports),
    )


async def test_functions_have_ways_once_it_is_known_what_judges_calls() -> None:
    table = Table()
    ways = AppWays(cast(Any, table))
    ways.put(app("a", 100))
    ways.put(app("b", 200))
    await table.changed.wait()
    before = table.targets("dapr default/a")

    table.changed.clear()
    await ways.take_rules(peer(), {"rules": msgspec.to_builtins(CallRules())})
    await table.changed.wait()
    await ways.close()

    assert before == set()
    assert table.targets("dapr default/a") == {"default/a", "default/b"}


async def test_programs_are_there_as_long_as_the_runtime_that_told_of_them() -> None:
    table, first, second = Table(), peer(), peer()
    ways = AppWays(cast(Any, table))

    answer = await ways.take_programs(first, PROGRAMS)
    assert answer == {"refused": {}, "connected": True}
    assert table.targets(CALLER.name) == {PROGRAM.key}

    # A runtime that has started again tells the same before the end of the old one is seen: they stay.
    await ways.take_programs(second, PROGRAMS)
    first.closed.set()
    await asyncio.sleep(0)
    assert table.targets(CALLER.name)

    table.changed.clear()
    second.closed.set()
    await table.changed.wait()
    await ways.close()
    assert table.state == RoutingState()


async def test_port_that_envoy_refuses_is_told_to_whoever_wants_it() -> None:
    table = Table()
    table.refused = {CALLER.name: "address in use", "another": "refused as well"}
    ways = AppWays(cast(Any, table))

    answer = await ways.take_programs(peer(), PROGRAMS)
    await ways.close()

    assert answer["refused"] == {CALLER.name: "address in use"}
