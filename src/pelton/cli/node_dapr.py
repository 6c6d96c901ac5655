"""The node's part in calls between apps of Dapr: the ways that the gateway has for them.

`cli/node` tells which functions are apps, `up` which namespaces have policies that only the runtime can carry
out. What follows is decided in `plan/dapr_routing.py` and joins the routing that the node has anyway.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Final

from pelton.dataplane import wire
from pelton.errors import PeltonError
from pelton.log import get
from pelton.model.desired import Desired
from pelton.model.routing import RoutingState
from pelton.plan.dapr_routing import app_ways
from pelton.targets.local.gateway import Gateway

__all__ = ["AppWays"]

_TOGETHER_S: Final = 0.05
"""Changes within this time reach Envoy together: an apply of many apps would write every table each time."""
_log = get(__name__)


class AppWays:
    """Keeps the ways between apps up to date.

    Args:
        gateway: Gets them.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._apps: dict[str, Desired] = {}
        self._held: frozenset[str] = frozenset()
        self._state = RoutingState()
        self._changing: asyncio.Task[None] | None = None
        self._refused: dict[str, str] = {}

    def extend(self, state: RoutingState) -> RoutingState:
        """Return a state of routing with the apps' ways in it."""
        self._state = state
        if not self._apps:
            return state
        routes, upstreams, ports = app_ways(self._apps.values(), held=self._held)
        return replace(
            state,
            routes=(*state.routes, *routes),
            upstreams=(*state.upstreams, *upstreams),
            ports=(*state.ports, *ports),
        )

    def put(self, desired: Desired) -> None:
        """Take note of what a function is now."""
        key = desired.workload.key
        known = self._apps.get(key)
        if desired.dapr is None:
            self.drop(key)
        elif known is None or (known.dapr, known.route) != (desired.dapr, desired.route):
            self._apps[key] = desired
            self._change()

    def drop(self, key: str) -> None:
        """Take note that a function is gone. Safe to repeat."""
        if self._apps.pop(key, None) is not None:
            self._change()

    def keep_only(self, keys: set[str]) -> None:
        """Drop all others."""
        for key in [key for key in self._apps if key not in keys]:
            self.drop(key)

    async def hold(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        """Take the namespaces whose calls all go through the runtime."""
        held = frozenset(body["held"])
        if held != self._held:
            self._held = held
            if self._apps:
                self._change()
        return {}

    async def close(self) -> None:
        """Give up a change that is under way."""
        if self._changing is not None:
            self._changing.cancel()
            await asyncio.gather(self._changing, return_exceptions=True)

    def _change(self) -> None:
        if self._changing is None or self._changing.done():
            self._changing = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        while True:
            await asyncio.sleep(_TOGETHER_S)
            sent = (dict(self._apps), self._held)
            try:
                refused = await self._gateway.set_state(self.extend(self._state))
            except PeltonError as exc:
                _log.error("calls between apps: %s", exc)
                return
            mine = {name: why for name, why in refused.items() if "dapr " in name}
            for name, why in mine.items():
                if self._refused.get(name) != why:
                    _log.error("%s is not served: %s", name, why)
            self._refused = mine
            if sent == (self._apps, self._held):
                return
