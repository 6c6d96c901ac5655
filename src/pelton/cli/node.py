"""The node process: activator, instances, xDS and the scaling tick in one loop.

Started as `python -m pelton.cli.node SETTINGS`.

Wires `dataplane/instances`, `dataplane/activator`, `targets/local/gateway` and `controlplane/autoscaler`, and
serves node.sock for `up` (desired state) and for the runtime (endpoints, wakes, pending events).
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from pelton import log
from pelton.autoscale.decision import Decision
from pelton.autoscale.kpa import TICK_S, mode
from pelton.autoscale.scalers.joined import Readings, active_in, asks
from pelton.cli import cyclic_gc
from pelton.cli.home import Home, Settings
from pelton.cli.node_dapr import AppWays
from pelton.cli.node_gateway import Way, explain, find_way, listens_beyond, make_gateway, take_routes
from pelton.cli.node_interceptor import Interception
from pelton.clock import SystemClock
from pelton.controlplane.autoscaler import OBSERVE_EVERY_S, Autoscaler
from pelton.controlplane.decisions import DecisionLog
from pelton.dataplane import wire
from pelton.dataplane.activator import Activator
from pelton.dataplane.instance import Instance
from pelton.dataplane.instances import InstanceManager
from pelton.dataplane.span_store import SpanStore
from pelton.dataplane.usage import read_usage
from pelton.errors import PeltonError
from pelton.model.desired import Desired, Route, Workload, revision_key
from pelton.model.scaler import ScalerReading
from pelton.model.span import SpanRecord
from pelton.sdk.trace_sender import pairs

__all__ = ["Node", "main"]

_AFTER_WAKE_S: Final = 0.003
_log = log.get(__name__)


class Node:
    """Everything that happens per request, but for the function itself.

    Args:
        settings: What `up` decided.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._run = Path(settings.run)
        self._clock = SystemClock()
        self._spans = SpanStore(url=settings.otlp_url, headers=pairs(settings.otlp_headers), logger=_log)
        self._instances = InstanceManager(
            run_dir=self._run,
            spool_dir=Path(settings.home) / "spool",
            zygote_socket=self._run / "zygote.sock",
            clock=self._clock,
            on_change=self._changed,
            on_spans=self._spans.add,
        )
        self._synced = asyncio.Event()
        self._activator = Activator(
            wake=self._wake_early,
            why_gone=self._instances.why_gone,
            listing=self._listing,
            find=self._find_way,
            clock=self._clock,
            on_spans=self._spans.add,
            exported=bool(settings.otlp_url),
        )
        self._gateway = make_gateway(settings, lambda key: str(self._h2c_socket(key)))
        self._ways = AppWays(self._gateway)
        self._interception = Interception(
            wake=self._instances.wake,
            ready=lambda key: bool(self._instances.ready(key)),
            activator_socket=str(self._run / "activator.sock"),
        )
        self._autoscaler = Autoscaler(self._clock)
        self._readings: dict[str, dict[str, list[ScalerReading] | None]] = {}
        self._decisions = DecisionLog(Home(Path(settings.home)).decisions, self._clock.now)
        # Keys whose requests go through the activator though instances are ready, and since when.
        self._proxied: dict[str, float] = {}
        self._changing: set[asyncio.Task[None]] = set()
        self._watchers: set[wire.Peer] = set()
        self._routed: dict[str, tuple[str, ...]] = {}
        self._ops: wire.Handlers = {
            "sync": self._sync,
            "apply": self._apply,
            "remove": self._remove,
            "check": self._check,
            "observe": self._observe,
            "stats": self._stats,
            "instances": self._list_instances,
            "load": self._load,
            "jobs": self._list_jobs,
            "watch": self._watch,
            "wake": self._wake,
            "pending": self._pending,
            "triggers": self._take_triggers,
            "spans": self._add_spans,
            "trace": self._trace,
            "decision": self._decision,
            "routes": self._take_routes,
            "dapr": self._ways.take_rules,
            "dapr-programs": self._ways.take_programs,
            "explain": partial(explain, self._gateway),
            "intercepted": self._interception.queue,
        }

    async def run(self) -> None:
        """Serve until SIGTERM."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with self._spans, self._instances, self._gateway:
            await self._activator.start(self._run / "activator.sock")
            server = await wire.serve(str(self._run / "node.sock"), self._ops, name="node-client")
            ticking = asyncio.create_task(self._tick(), name="scaling")
            cyclic_gc.rarely()
            await stop.wait()
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)
            server.close()
            await self._ways.close()
            await self._interception.close()
            await self._activator.close()

    # -- for up ----------------------------------------------------------------------------------------------

    async def _sync(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        wanted = [msgspec.convert(item, Desired) for item in body["desired"]]
        await self._instances.keep_only({desired.workload.key for desired in wanted})
        self._ways.keep_only({desired.workload.key for desired in wanted})
        for desired in wanted:
            self._ways.put(desired)
        for desired in wanted:
            if self._instances.desired(desired.workload.key) != desired:
                await self._instances.apply(desired)
        routes = [desired.route for desired in wanted if desired.route is not None]
        for route in routes:
            await self._listen_h2c(route)
        if body.get("routing"):
            # Before the routes of functions: with those Envoy begins to be told what is known.
            await take_routes(self._gateway, self._interception, self._ways, body["routing"])
        try:
            await self._gateway.set_routes(routes)
        except PeltonError as exc:
            _log.error("%s", exc)  # the valid ones are in; the others were refused at their apply, too
        for desired in wanted:
            await self._instances.release(desired.workload.key)
        self._synced.set()
        return {}

    async def _wake_early(self, key: str) -> Instance:
        """Wake for a request; before the first sync nobody here knows which functions there are."""
        await self._synced.wait()
        return await self._instances.wake(key, early=True)

    async def _apply(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        desired = msgspec.convert(body["desired"], Desired)
        key = desired.workload.key
        before = self._instances.desired(key)
        await self._instances.apply(desired)
        if desired.route is not None:
            await self._listen_h2c(desired.route)
            await self._gateway.set_route(desired.route)
            self._forget_h2c(key, keep=desired.route)
        else:
            await self._gateway.remove_route(desired.workload.namespace, desired.workload.name)
            self._forget_h2c(key)
        self._ways.put(desired)
        # Only now does no route lead to what was replaced; a route that was refused leaves it where it is.
        await self._instances.release(key)
        if before is not None:
            self._forget_replaced(before, desired)
        return {}

    def _forget_replaced(self, before: Desired, now: Desired) -> None:
        """Let the histories of load follow revisions that changed places; forget those that are not live."""
        was, now_at = _keys_of(before), _keys_of(now)
        moved = {key: now_at[one] for one, key in was.items() if one in now_at and now_at[one] != key}
        self._autoscaler.move(moved)
        self._decisions.rename(moved)
        # A revision that takes the place of another one goes on with its history.
        for key in set(was.values()) - set(now_at.values()):
            self._autoscaler.forget(key)
        clusters = now.route.revision_keys if now.route is not None else ()
        for key in before.route.revision_keys if before.route is not None else ():
            if key not in clusters:
                self._routed.pop(key, None)

    async def _take_routes(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        return await take_routes(self._gateway, self._interception, self._ways, body)

    def _find_way(self, head: bytes) -> Way | None:
        way = find_way(self._gateway, head)
        return None if way is None or way.key in self._activator.h2c_keys() else way

    def _h2c_socket(self, key: str) -> Path:
        """Return the activator's socket for a function that speaks HTTP/2; the same after a restart."""
        return self._run / "h2c" / f"{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}.sock"

    async def _listen_h2c(self, route: Route) -> None:
        for key in _h2c_keys(route):
            await self._activator.serve_h2c(key, self._h2c_socket(key))

    def _forget_h2c(self, key: str, *, keep: Route | None = None) -> None:
        kept = set(_h2c_keys(keep)) if keep is not None else set()
        for known in self._activator.h2c_keys():
            if known.partition(":")[0] == key and known not in kept:
                self._activator.forget_h2c(known)

    async def _remove(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        key = f"{body['namespace']}/{body['name']}"
        self._ways.drop(key)
        await self._gateway.remove_route(body["namespace"], body["name"])
        self._forget_h2c(key)
        desired = self._instances.desired(key)
        for known in (key, *(desired.route.revision_keys if desired and desired.route else ())):
            self._routed.pop(known, None)
        for known in (key, *(_keys_of(desired).values() if desired else ())):
            self._autoscaler.forget(known)
            self._proxied.pop(known, None)
        await self._instances.remove(key)
        self._instances.forget_jobs(key)
        self._readings.pop(key, None)
        self._decisions.forget(key)
        return {}

    async def _check(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        result = await self._instances.check(msgspec.convert(body["workload"], Workload))
        built: dict[str, Any] = msgspec.to_builtins(result)
        return built

    async def _observe(self, _peer: wire.Peer, body: dict[str, Any]) -> Any:
        return msgspec.to_builtins(self._instances.observe(f"{body['namespace']}/{body['name']}"))

    async def _list_instances(self, _peer: wire.Peer, _body: Any) -> list[dict[str, Any]]:
        """Return every instance there is; functions at rest cost nothing."""
        keys = dict.fromkeys(key.partition(":")[0] for key in self._instances.active())
        observed = [found for key in keys if (found := self._instances.observe(key)) is not None]
        return [
            {
                "namespace": function.namespace,
                "name": function.name,
                "id": instance.id,
                "revision": instance.revision,
                "pid": instance.pid,
                "state": instance.state,
            }
            for function in observed
            for instance in function.instances
        ]

    async def _list_jobs(self, _peer: wire.Peer, _body: Any) -> list[dict[str, Any]]:
        """Return the jobs of all functions, those that have ended included as long as they are remembered."""
        return self._instances.jobs()

    async def _load(self, _peer: wire.Peer, _body: Any) -> dict[str, dict[str, int]]:
        """Return what runs and waits per function; those at rest are left out."""
        keys = {*self._instances.active(), *self._activator.waiting()}
        found: dict[str, dict[str, int]] = {}
        for key in keys:
            name = key.partition(":")[0]
            load = found.setdefault(
                name, {"inFlight": 0, "queued": 0, "pending": self._instances.pending(name)}
            )
            readings = self._instances.readings(key).values()
            load["inFlight"] += sum(one.in_flight for one in readings)
            load["queued"] += self._activator.queued(key) + sum(one.queued for one in readings)
        return found

    async def _stats(self, _peer: wire.Peer, _body: Any) -> dict[str, Any]:
        observed = (self._instances.observe(key) for key in self._instances.keys())  # noqa: SIM118 -- not a dict
        return {
            "functions": [msgspec.to_builtins(item) for item in observed if item is not None],
            "isolation": self._instances.isolation(),
            "limits": self._instances.limits(),
            "decisions_dropped": self._decisions.dropped,
            "gateway_connected": self._gateway.connected,
            "interceptor": {"admin": self._interception.admin},
            "spans": self._spans.counters(),
            "activator": {"overflowed": self._activator.overflowed, "abandoned": self._activator.abandoned},
        }

    # -- for the runtime -------------------------------------------------------------------------------------

    async def _watch(self, peer: wire.Peer, _body: Any) -> dict[str, Any]:
        self._watchers.add(peer)
        for key in self._instances.keys():  # noqa: SIM118 -- not a dict
            self._tell(peer, key)
        return {}

    async def _wake(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any]:
        await self._instances.wake(f"{body['namespace']}/{body['name']}")
        return {}

    async def _decision(self, _peer: wire.Peer, body: dict[str, Any]) -> dict[str, Any] | None:
        decision = self._autoscaler.decision(body["key"])
        return None if decision is None else decision.to_dict()

    async def _pending(self, _peer: wire.Peer, body: dict[str, Any]) -> None:
        self._instances.set_pending(f"{body['namespace']}/{body['name']}", body["count"])

    async def _take_triggers(self, _peer: wire.Peer, body: dict[str, Any]) -> None:
        """Take what scalers read for a function; `readings` None when nothing is read for it any more."""
        key, readings = f"{body['namespace']}/{body['name']}", body["readings"]
        if readings is None:
            self._readings.pop(key, None)
        else:
            self._readings[key] = msgspec.convert(readings, dict[str, list[ScalerReading] | None])
        self._instances.look_at(key)

    async def _add_spans(self, _peer: wire.Peer, body: Any) -> None:
        self._spans.add(msgspec.convert(body, list[SpanRecord]))

    async def _trace(self, _peer: wire.Peer, body: dict[str, Any]) -> Any:
        return msgspec.to_builtins(self._spans.trace(body["trace_id"]))

    def _tell(self, peer: wire.Peer, key: str) -> None:
        namespace, _, name = key.partition("/")
        peer.note(
            "endpoints",
            {
                "namespace": namespace,
                "name": name,
                "revision": self._instances.primary(key),
                "instances": [
                    {"id": i.id, "ctl": i.ctl, "revision": i.workload.revision}
                    for i in self._instances.everywhere(key)
                ],
            },
        )

    # -- changes ---------------------------------------------------------------------------------------------

    async def _changed(self, key: str) -> None:
        """A function's ready instances changed: tell the runtime, then Envoy; returns when Envoy knows."""
        self._watchers = {peer for peer in self._watchers if not peer.closed.is_set()}
        for peer in self._watchers:
            self._tell(peer, key)
        desired = self._instances.desired(key)
        route = desired.route if desired is not None else None
        for cluster in (key, *(route.revision_keys if route is not None else ())):
            await self._route_to(cluster)

    async def _route_to(self, key: str) -> None:
        """Tell Envoy about the ready instances behind one cluster, where they changed."""
        found = () if self._instances.canonical(key) in self._proxied else self._instances.ready(key)
        ready = {instance.http: instance.id for instance in found}
        sockets = tuple(sorted(ready))
        before = self._routed.get(key, ())
        if before == sockets and sockets:
            return
        self._routed[key] = sockets
        if len(sockets) > len(before):
            # The request that woke the function goes first: encoding an update takes this loop milliseconds.
            await self._clock.sleep(_AFTER_WAKE_S)
            if self._routed.get(key) != sockets:
                return  # a later change has taken over
        namespace, _, name = key.partition("/")
        try:
            await self._gateway.set_endpoints(namespace, name, sockets, ready)
        except PeltonError as exc:
            _log.warning("endpoints of %s: %s", key, exc)

    def _listing(self) -> list[str]:
        if listens_beyond(self._settings):
            return []
        lines = []
        for key in sorted(self._instances.keys()):
            desired = self._instances.desired(key)
            if desired is not None and desired.route is not None:
                hosts = ", ".join(f"http://{h}:{self._settings.gateway_port}/" for h in desired.route.hosts)
                lines.append(f"{key}  {hosts}  {desired.route.path}")
        return lines

    # -- scaling ---------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Every 100 ms: observe what is active, decide, scale. A wake from zero does not wait for this."""
        while True:
            waiting = (self._instances.canonical(key) for key in self._activator.waiting())
            asking = [key for key, read in self._readings.items() if self._is_asked(key, read)]
            keys = {*self._instances.active(), *waiting, *asking}
            if not keys:  # nothing runs, nothing waits: no tick, no cost
                await self._instances.until_busy()
            for key in keys:
                try:
                    await self._scale(key)
                except Exception:
                    _log.exception("scaling %s failed", key)
            await self._instances.take_down_overrun()
            await self._clock.sleep(OBSERVE_EVERY_S)

    def _is_asked(self, key: str, read: Readings) -> bool:
        desired = self._instances.desired(key)
        return desired is not None and asks(desired.scaling, read)

    async def _scale(self, key: str) -> None:
        desired = self._instances.desired(key)
        if desired is None:
            return
        scaling = desired.scaling
        count = self._instances.count(key)
        queued = sum(self._activator.queued(name) for name in self._instances.names_of(key))
        pending = self._instances.pending(key)
        read = self._readings.get(key)
        if not (count or queued or pending or scaling.floor or asks(scaling, read)):
            self._autoscaler.forget(key)
            self._proxied.pop(key, None)
            rest = _at_rest(scaling.owner)
            self._decisions.note(key, rest, {})
            self._instances.explain(key, 0, lambda: rest.reason)
            return
        if scaling.jobs is not None:
            self._instances.end_jobs(key, keep=scaling.jobs.policy.min_replicas, waiting=pending)
            count = self._instances.count(key)
        readings = self._instances.readings(key)
        ready = len(self._instances.ready(key))
        decision = self._autoscaler.observe(
            key,
            scaling,
            readings,
            queued=queued,
            pending=pending,
            ready=ready,
            usage=self._usage(key) if scaling.goes_by_usage else None,
            triggers=read,
            jobs=(self._instances.unfinished(key), count),
        )
        in_flight = sum(reading.in_flight for reading in readings.values())
        seen = {
            "ready": ready,
            "instances": count,
            "inFlight": in_flight,
            "queued": queued,
            "pending": pending,
            **({"triggersActive": active_in(read)} if read is not None else {}),
        }
        self._decisions.note(key, decision, seen)
        self._instances.explain(key, decision.desired, lambda: decision.reason)
        self._set_mode(key, decision, ready)
        if decision.desired != count:
            await self._instances.scale(key, decision.desired)

    def _usage(self, key: str) -> dict[str, tuple[float, float]]:
        """Return processor seconds and memory of each ready instance."""
        usage = {
            instance.id: read_usage(instance.pid) for instance in self._instances.ready(key) if instance.pid
        }
        return {name: used for name, used in usage.items() if used is not None}

    def _set_mode(self, key: str, decision: Decision, ready: int) -> None:
        """Take the activator into the path of ready instances, or out of it, as the burst capacity says."""
        ebc = 0 if decision.ebc is None else decision.ebc
        proxied = ready > 0 and ebc < 0 and mode(wanted=decision.desired, ebc=ebc, ready=ready) == "Proxy"
        since = self._proxied.get(key)
        now = self._clock.monotonic()
        # Leaving waits for a period of the original: at the edge it would go in and out ten times a second.
        if proxied == (since is not None) or (since is not None and ready and now - since < TICK_S):
            return
        if proxied:
            self._proxied[key] = now
        else:
            del self._proxied[key]
        # Not awaited: other functions' scaling does not wait for Envoy.
        task = asyncio.create_task(self._changed(key), name=f"mode-{key}")
        self._changing.add(task)
        task.add_done_callback(self._changing.discard)


_AT_REST: Final = Decision(desired=0, steps=(("idle",),))


def _at_rest(owner: str) -> Decision:
    """Return the decision on a function with nothing to do; `owner` is who scales it, "" for itself."""
    return replace(_AT_REST, steps=(*_AT_REST.steps, ("owner", owner))) if owner else _AT_REST


def _keys_of(desired: Desired) -> dict[str, str]:
    """Return revision -> the key under which scaling knows it, for all live revisions of a function."""
    load = desired.workload
    others = {one.revision: revision_key(load.namespace, load.name, one.revision) for one in desired.others}
    return {desired.revision: load.key, **others}


def _h2c_keys(route: Route) -> tuple[str, ...]:
    """Return the keys of a route's clusters whose program speaks HTTP/2 itself."""
    return (*((route.key,) if route.h2c else ()), *route.h2c_keys)


def main() -> None:
    """Run until SIGTERM."""
    log.setup("node")

    async def run() -> None:
        await Node(Settings.load(sys.argv[1])).run()

    uvloop.run(run())


if __name__ == "__main__":
    main()
