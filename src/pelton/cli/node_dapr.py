"""The node's part in calls between apps of Dapr: the ways that the gateway has for them.

`cli/node` tells which functions are apps, `up` which resources the runtime goes by, the runtime process
which programs have joined. What follows is decided in `plan/dapr_routing.py` and joins the routing that the
node has anyway.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Final

import msgspec

from pelton.dataplane import wire
from pelton.errors import PeltonError
from pelton.log import get
from pelton.model.dapr_call import CalledApp, CallingApp, CallRules
from pelton.model.desired import Desired
from pelton.model.routing import RoutingState
from pelton.plan.dapr_routing import app_ways, function_apps
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
        # Until they are known the runtime judges every call.
        self._rules: CallRules | None = None
        self._programs: tuple[tuple[CallingApp, ...], tuple[CalledApp, ...]] = ((), ())
        self._told_by: wire.Peer | None = None
        self._state = RoutingState()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changing: asyncio.Task[None] | None = None
        self._refused: dict[str, str] = {}

    def extend(self, state: RoutingState) -> RoutingState:
        """Return a state of routing with the apps' ways in it."""
        self._state = state
        apps = [self._apps[key] for key in sorted(self._apps)]
        callers, called = function_apps(apps, self._rules or CallRules())
        if self._rules is None:
            callers = tuple(replace(one, direct=False) for one in callers)
        routes, upstreams, ports = app_ways((*callers, *self._programs[0]), (*called, *self._programs[1]))
        if not ports:
            return state
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

    async def take_rules(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        """Take the resources by which the runtime judges calls."""
        rules = msgspec.convert(body["rules"], CallRules)
        if rules != self._rules:
            self._rules = rules
            if self._apps:
                self._change()
        return {}

    async def take_programs(self, peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        """Take all programs that joined, for as long as the connection lasts.

        Returns:
            `refused` (name of a port -> why Envoy does not listen there) and `connected`: whether Envoy is
            there.

        Raises:
            GatewayError: Envoy did not answer in time.
        """
        if self._told_by is not peer:
            self._told_by = peer
            task = asyncio.get_running_loop().create_task(self._until_gone(peer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        programs = msgspec.convert(
            (body["callers"], body["called"]), tuple[tuple[CallingApp, ...], tuple[CalledApp, ...]]
        )
        refused: dict[str, str] = {}
        if programs != self._programs:
            self._programs = programs
            refused = await self._gateway.set_state(self.extend(self._state))
        mine = {one.name for one in programs[0]}
        return {
            "refused": {name: why for name, why in refused.items() if name in mine},
            "connected": self._gateway.connected,
        }

    async def _until_gone(self, peer: wire.Peer) -> None:
        await peer.closed.wait()
        if self._told_by is peer:
            self._told_by = None
            self._programs = ((), ())
            self._change()

    async def close(self) -> None:
        """Give up a change that is under way."""
        tasks = [*self._tasks, *([self._changing] if self._changing is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _change(self) -> None:
        if self._changing is None or self._changing.done():
            self._changing = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        while True:
            await asyncio.sleep(_TOGETHER_S)
            sent = (dict(self._apps), self._rules, self._programs)
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
            if sent == (self._apps, self._rules, self._programs):
                return
