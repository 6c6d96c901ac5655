"""The local target: desired state goes to the node (workers, routes) and to the runtime (events, outputs).

Holds what was applied last, so that a part that was restarted can be brought up to date in one message.
Implements `ports.Target`; `cli/up.py` hands in the two callers.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from pelton.model.desired import Desired, Route, Workload
from pelton.model.routing import RoutingState
from pelton.model.snapshot import CheckResult, FunctionObserved

__all__ = ["Caller", "LocalTarget"]

_APPLY_TIMEOUT_S = 120.0
_CHECK_TIMEOUT_S = 180.0


class Caller(Protocol):
    """Calls another process of the platform; waits while that one is being restarted."""

    async def call(self, op: str, body: Any = None, *, timeout_s: float = 30.0) -> Any:
        """Return the answer's body; raises PeltonError."""
        ...


class LocalTarget:
    """This machine.

    Args:
        node: Caller of the node process.
        runtime: Caller of the runtime process.
    """

    def __init__(self, node: Caller, runtime: Caller) -> None:
        self._node = node
        self._runtime = runtime
        self._applied: dict[tuple[str, str], Desired] = {}
        self._routing: dict[str, Any] | None = None

    async def observe(self, namespace: str, name: str) -> tuple[Desired | None, FunctionObserved | None]:
        """Return what was applied last and how it fares."""
        applied = self._applied.get((namespace, name))
        if applied is None:
            return None, None
        body = await self._node.call("observe", {"namespace": namespace, "name": name})
        observed = msgspec.convert(body, FunctionObserved, strict=False) if body else None
        return applied, observed

    async def check(self, workload: Workload) -> CheckResult:
        """Load a revision once and say whether it loads."""
        body = await self._node.call(
            "check", {"workload": msgspec.to_builtins(workload)}, timeout_s=_CHECK_TIMEOUT_S
        )
        return msgspec.convert(body, CheckResult, strict=False)

    async def apply(self, desired: Desired) -> None:
        """Make it so; returns when Envoy routes to it and events are subscribed."""
        key = (desired.workload.namespace, desired.workload.name)
        self._applied[key] = desired
        body = {"desired": msgspec.to_builtins(desired)}
        await self._node.call("apply", body, timeout_s=_APPLY_TIMEOUT_S)
        await self._runtime.call("apply", body, timeout_s=_APPLY_TIMEOUT_S)

    async def ask_runtime(self, op: str, body: dict[str, Any]) -> Any:
        """Call an operation of the runtime; raises PeltonError, ConnectionError or TimeoutError."""
        return await self._runtime.call(op, body, timeout_s=_APPLY_TIMEOUT_S)

    async def remove(self, namespace: str, name: str) -> None:
        """Take all parts of a Function away: first what feeds it, then its workers."""
        self._applied.pop((namespace, name), None)
        body = {"namespace": namespace, "name": name}
        await self._runtime.call("remove", body, timeout_s=_APPLY_TIMEOUT_S)
        await self._node.call("remove", body, timeout_s=_APPLY_TIMEOUT_S)

    async def instances(self) -> list[dict[str, Any]]:
        """Return every instance there is: namespace, name, id, revision, pid, state."""
        found: list[dict[str, Any]] = await self._node.call("instances", {}, timeout_s=5.0)
        return found

    async def route(self, state: RoutingState) -> tuple[dict[str, str], bool]:
        """Bring everything about routing that no function brings to the gateway.

        Returns:
            What Envoy refused (object or port -> reason), and whether Envoy is there.

        Raises:
            PeltonError: It did not confirm in time, and gets the state later.
        """
        self._routing = {"state": msgspec.to_builtins(state)}
        answer = await self._node.call("routes", self._routing, timeout_s=_APPLY_TIMEOUT_S)
        return dict(answer["refused"]), bool(answer["connected"])

    async def intercepted(self) -> dict[str, dict[str, int]]:
        """Return the counts of intercepted requests: route -> {Concurrency, RequestCount}."""
        found: dict[str, dict[str, int]] = await self._node.call("intercepted", {}, timeout_s=5.0)
        return found

    async def load(self) -> dict[str, dict[str, int]]:
        """Return what runs and waits: `namespace/name` -> {inFlight, queued, pending}."""
        found: dict[str, dict[str, int]] = await self._node.call("load", {}, timeout_s=5.0)
        return found

    def applied(self, key: str) -> Desired | None:
        """Return what was applied last of a function, by `namespace/name`."""
        namespace, _, name = key.partition("/")
        return self._applied.get((namespace, name))

    def read_for(self) -> list[str]:
        """Return the functions whose own options have triggers that scalers read."""
        return [one.workload.key for one in self._applied.values() if one.scalers and not one.scaling.owner]

    async def scalers(self, kind: str, owners: dict[str, Any]) -> dict[str, Any]:
        """Have triggers read, those of all owners of a kind; returns owner -> last round.

        Args:
            kind: How the names of owners begin; owners so named that are missing are read no longer.
            owners: Owner -> triggers, polling_s and cached; None for the same as before.
        """
        found: dict[str, Any] = await self._runtime.call(
            "scalers", {"kind": kind, "owners": owners}, timeout_s=5.0
        )
        return found

    async def jobs(self) -> list[dict[str, Any]]:
        """Return the jobs of functions: namespace, name, id, state, started, ended, events, share."""
        found: list[dict[str, Any]] = await self._node.call("jobs", {}, timeout_s=5.0)
        return found

    def routes(self) -> dict[str, Route]:
        """Return the routes of functions that were applied, by `namespace/name`."""
        return {one.route.key: one.route for one in self._applied.values() if one.route is not None}

    def snapshot(self) -> dict[str, Any]:
        """Return everything that was applied, as the body of a `sync`."""
        return {
            "desired": [msgspec.to_builtins(desired) for desired in self._applied.values()],
            "routing": self._routing,
        }
