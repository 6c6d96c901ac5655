"""The gateway of one machine: which routes Envoy has and where their backends listen.

The node process owns one `Gateway`; `plan/routing` decides the order of routes, `route_config.py`,
`gateway_config.py` and `listener_config.py` render, `xds.py` brings the bytes to Envoy, which `cli/up` starts
by `envoy.py`. Facts: contract sheet gateway-network, sections 2 to 6 and 9.
Over 600 lines: all of it acts on one table of routes and endpoints.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

from pelton import errors
from pelton.log import get
from pelton.model.desired import Route
from pelton.model.routing import (
    EXTERNAL,
    INTERNAL,
    Match,
    PathMatch,
    RoutingState,
    StandaloneRoute,
    Upstream,
)
from pelton.plan.routing import Entry, Explanation, Request, entries_of, explain
from pelton.targets.local import gateway_config as config
from pelton.targets.local import listener_config
from pelton.targets.local.listener_config import Listener
from pelton.targets.local.route_config import RouteTable, check_route
from pelton.targets.local.xds import Change, DeltaServer, RefusedError

__all__ = ["Gateway", "Listener"]

ACK_TIMEOUT_S: Final = 5.0
# Envoy confirms on its main thread; its workers see the change a moment later (measured: well under 10 ms).
_WORKER_POST_S: Final = 0.02
_NOTHING: Final = RoutingState()

_log = get(__name__)

Claim = str | tuple[str, Match]


@dataclass(slots=True)
class _Job:
    """A change: key -> route, None removes; `full` replaces all routes of functions; `state` the rest."""

    routes: Mapping[str, Route | None]
    full: bool
    done: asyncio.Future[dict[str, str]]
    state: RoutingState | None = None


@dataclass(slots=True)
class _Plan:
    """Jobs merged into one new set of routes."""

    routes: dict[str, Route]
    owner: dict[Claim, str]
    state: RoutingState
    asked: bool = False  # whether a state is among the jobs: what was refused may be tried again
    refusals: dict[int, list[str]] = field(default_factory=dict)


class Gateway:
    """Routes and endpoints of everything, kept in Envoy; an async context manager.

    Nothing reaches Envoy before the first `set_routes`: an Envoy that outlived this process must not lose
    routes to a table that is still being filled. Safe for concurrent use by tasks of one loop; route changes
    made while one is under way are sent together.

    Args:
        xds_socket: Socket that Envoy's bootstrap names; at most 107 bytes.
        activator_socket: Where requests go that no worker can take.
        listeners: Ports that are always there, names unique; each has the route table that it names. Further
            ones, of Gateways, get the address and the access log of the first.
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
        self._fixed = {one.routes: one for one in listeners}
        self._listeners = dict(self._fixed)
        self._listening: dict[str, Listener] = {}
        self._ack_timeout_s = ack_timeout_s
        self._server = DeltaServer(xds_socket)
        self._tables: dict[str, RouteTable] = {}
        self._routes: dict[str, Route] = {}
        self._owner: dict[Claim, str] = {}
        self._state = _NOTHING
        self._endpoints: dict[str, tuple[str, ...]] = {}
        self._instances: dict[str, dict[str, str]] = {}
        self._clusters: dict[str, Upstream | bool] = {}
        self._refused_ports: dict[str, str] = {}
        self._shut: set[str] = set()
        self._jobs: list[_Job] = []
        self._work = asyncio.Event()
        self._committer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        for name in self._fixed:
            self._tables[name] = self._new_table(name)
        self._clusters[config.NOBODY] = False
        self._server.record(
            [
                *self._cluster_changes([config.NOBODY]),
                *(self._listener_change(one) for one in self._plain()),
                *(self._table_change(name) for name in self._tables),
            ]
        )
        self._listening = {one.routes: one for one in self._plain()}
        self._committer = asyncio.create_task(self._commit_forever(), name="gateway-routes")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._committer is not None:
            self._committer.cancel()
            await asyncio.gather(self._committer, return_exceptions=True)
        for job in self._jobs:
            _fail(job, errors.GatewayError("the gateway's control plane is closing"))
        await self._server.__aexit__(*exc)

    # ---- what others ask -----------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether an Envoy is connected."""
        return self._server.connected > 0

    @property
    def routes(self) -> tuple[Route, ...]:
        """All routes of functions as they are wanted, by key."""
        return tuple(self._routes[key] for key in sorted(self._routes))

    @property
    def ports(self) -> tuple[Listener, ...]:
        """Where it listens, by name of the route table."""
        return tuple(self._listening[name] for name in sorted(self._listening))

    async def ready(self, *, timeout_s: float = 10.0) -> None:
        """Wait until an Envoy listens on all listeners and has the routes.

        Raises:
            GatewayError: It refused a listener (the reason names the port in use), or was not there in time.
        """
        for type_url in (config.LISTENER, config.ROUTES):
            await self._server.settled(type_url, timeout_s=timeout_s)

    def find(self, request: Request, port: str = EXTERNAL) -> Entry | None:
        """Return the route that answers a request, whether or not Envoy has it yet."""
        table = self._tables.get(port)
        return table.decide(request) if table is not None else None

    def explain(self, request: Request, port: str = EXTERNAL) -> Explanation:
        """Say which route answers a request, and why the others of the port do not.

        Raises:
            GatewayError: There is no such port.
        """
        table = self._tables.get(port)
        if table is None:
            raise errors.GatewayError(
                f'the gateway has no port "{port}"', hint=f"it has: {', '.join(sorted(self._tables))}"
            )
        return explain(table.entries(), request)

    # ---- changes -------------------------------------------------------------------------------------------

    async def set_route(self, route: Route) -> None:
        """Add or change one route; returns when Envoy has it, or at once when none is connected.

        Cancelling the wait leaves the change in place.

        Raises:
            GatewayError: The route is malformed, claims another function's host or path, or Envoy refused it:
                then the previous state is back. Or Envoy did not answer in time: then the route stays
                recorded and Envoy gets it later.
        """
        check_route(route)
        await self._submit({route.key: route}, full=False)

    async def set_routes(self, routes: Sequence[Route]) -> None:
        """Replace all routes of functions in one go; the first call lets Envoy have its configuration.

        Raises:
            GatewayError: Naming every route that could not be taken; the others are in place.
        """
        wanted: dict[str, Route | None] = {}
        problems: list[str] = []
        for route in routes:
            try:
                check_route(route)
            except errors.GatewayError as error:
                problems.append(f"{error.where}: {error.message}")
            else:
                wanted[route.key] = route
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

    async def set_state(self, state: RoutingState) -> dict[str, str]:
        """Replace standalone routes, upstreams and further ports; returns when Envoy has them.

        Returns:
            What Envoy refused: `HTTPRoute namespace/name` or a port's name -> its reason. The rest is in
            place.

        Raises:
            GatewayError: Envoy did not answer in time; it gets the state when it is back.
        """
        return await self._submit({}, full=False, state=state)

    async def set_endpoints(
        self,
        namespace: str,
        name: str,
        sockets: Sequence[str],
        instances: Mapping[str, str] | None = None,
    ) -> None:
        """Say where a function's ready workers listen; returns when Envoy has it.

        An empty list sends everything to the activator. Removing a socket lets its running requests finish.
        For a function without a route the list is kept until it gets one.

        Args:
            namespace: The function's.
            name: The function's, or `name:revision`.
            sockets: Where its workers listen.
            instances: Socket -> name of the instance, for the access log.

        Raises:
            GatewayError: A path is unusable, or Envoy refused the list or did not answer in time.
        """
        key = f"{namespace}/{name}"
        config.check_sockets(key, sockets)
        self._endpoints[key] = tuple(sockets)
        self._instances[key] = dict(instances or {})
        if key in self._clusters:
            await self._apply([self._endpoints_change(key)])

    # ---- route changes, one batch after the other ----------------------------------------------------------

    async def _submit(
        self, routes: Mapping[str, Route | None], *, full: bool, state: RoutingState | None = None
    ) -> dict[str, str]:
        job = _Job(routes, full, asyncio.get_running_loop().create_future(), state)
        self._jobs.append(job)
        self._work.set()
        return await job.done

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
                    _fail(job, errors.GatewayError(reason))

    async def _commit(self, jobs: Sequence[_Job]) -> None:
        """Bring a batch to Envoy; when it is refused, find the culprit by trying each job alone."""
        before, state = dict(self._routes), self._state
        plan = self._merge(jobs)
        try:
            await self._switch(plan, full=any(job.full for job in jobs))
        except RefusedError as error:
            self._restore(before, state)
            if len(jobs) > 1:
                for job in jobs:
                    await self._commit([job])
            elif jobs[0].state is not None:
                await self._commit_piecewise(jobs[0], jobs[0].state)
            else:
                _fail(jobs[0], error)
            return
        except errors.GatewayError as error:
            self._server.record([self._table_change(name) for name in self._tables])  # for the next Envoy
            for job in jobs:
                _fail(job, error)
        for index, job in enumerate(jobs):
            refusals = plan.refusals.get(index)
            if refusals:
                _fail(job, errors.GatewayError("; ".join(refusals)))
            elif not job.done.done():
                job.done.set_result(dict(self._refused_ports))

    async def _commit_piecewise(self, job: _Job, wanted: RoutingState) -> None:
        """Take a state in route by route, so that the one that Envoy refuses is known and alone left out."""
        old = {route.key: route for route in self._state.routes}
        kept = [route for route in wanted.routes if old.get(route.key) == route]
        refused: dict[str, str] = {}
        for route in [None, *(route for route in wanted.routes if route not in kept)]:
            before, state = dict(self._routes), self._state
            tried = kept if route is None else [*kept, route]
            plan = self._merge([replace(job, state=replace(wanted, routes=tuple(tried)))])
            try:
                await self._switch(plan, full=False)
            except RefusedError as error:
                self._restore(before, state)
                if route is not None:
                    refused[f"HTTPRoute {route.key}"] = error.message
            except errors.GatewayError as error:
                _fail(job, error)
                return
            else:
                kept = tried
        if not job.done.done():
            job.done.set_result({**self._refused_ports, **refused})

    def _merge(self, jobs: Sequence[_Job]) -> _Plan:
        """Return the routes after all jobs; of two that claim the same host or path the earlier keeps it."""
        plan = _Plan(dict(self._routes), dict(self._owner), self._state)
        for index, job in enumerate(jobs):
            if job.state is not None:
                plan.state, plan.asked = job.state, True
            gone = set(plan.routes) - set(job.routes) if job.full else set()
            for key in [*gone, *job.routes]:
                old = plan.routes.pop(key, None)
                for claim in _claims(old) if old else ():
                    plan.owner.pop(claim, None)
            for key, route in job.routes.items():
                if route is None:
                    continue
                taken = [claim for claim in _claims(route) if claim in plan.owner]
                if taken:
                    plan.refusals.setdefault(index, []).append(
                        f"Route {key}: {_said(taken[0])} already belongs to {plan.owner[taken[0]]}"
                    )
                    previous = None if job.full else self._routes.get(key)
                    if previous is None or any(claim in plan.owner for claim in _claims(previous)):
                        continue
                    kept = previous
                else:
                    kept = route
                plan.routes[key] = kept
                plan.owner.update(dict.fromkeys(_claims(kept), key))
        return plan

    async def _switch(self, plan: _Plan, *, full: bool) -> None:
        """Clusters before the routes that name them, and after them when they go; listeners in between."""
        old_routes, old_state = self._routes, self._state
        self._routes, self._owner, self._state = plan.routes, plan.owner, plan.state
        wanted = self._wanted_clusters()
        added = self._cluster_changes(
            [key for key, what in wanted.items() if self._clusters.get(key) != what], wanted
        )
        removed = [key for key in self._clusters if key not in wanted]
        changed = self._fill_tables(old_routes, old_state)
        if full and not self._server.opened:
            self._server.record([*added, *(self._table_change(name) for name in changed)])
            self._server.open()
        await self._apply(added)
        # Written only now: requests that came meanwhile have found their way by the activator, see `find`.
        tables = [self._table_change(name) for name in changed]
        if plan.state.ports != old_state.ports or (plan.asked and self._refused_ports):
            await self._listen()
        # A table without a listener is asked for by nobody, so nobody would confirm it.
        used = {one.routes for one in self._listening.values()}
        self._server.record([change for change in tables if change.name not in used])
        await self._apply([change for change in tables if change.name in used])
        if removed:
            if self.connected:
                await asyncio.sleep(_WORKER_POST_S)
            for key in removed:
                del self._clusters[key]
                self._endpoints.pop(key, None)
                self._instances.pop(key, None)
            await self._apply(
                [
                    Change(type_url, key, None)
                    for type_url in (config.CLUSTER, config.ENDPOINTS)
                    for key in removed
                ]
            )

    def _wanted_clusters(self) -> dict[str, Upstream | bool]:
        """Return cluster -> whether it speaks HTTP/2, or the upstream that it stands for."""
        wanted: dict[str, Upstream | bool] = {config.NOBODY: False}
        for key, route in self._routes.items():
            wanted[key] = route.h2c
            for one in route.revision_keys:
                wanted[one] = one in route.h2c_keys
        wanted.update((one.key, one) for one in self._state.upstreams)
        return wanted

    def _fill_tables(self, old_routes: Mapping[str, Route], old_state: RoutingState) -> list[str]:
        """Bring the tables up to date; returns the names of those that changed."""
        ports = {
            **dict.fromkeys(self._fixed),
            **{one.table or one.name: None for one in self._state.ports},
        }
        changed = [name for name in ports if name not in self._tables]
        for name in changed:
            self._tables[name] = self._new_table(name)
        shut = {
            one.table or one.name
            for one in self._state.ports
            if not one.functions and one.name not in self._fixed
        }
        everything = shut != self._shut or self._state.https_port != old_state.https_port
        standalone = {one.key: one for one in self._state.routes}
        before = {one.key: one for one in old_state.routes}
        for name in ports:
            fresh = name in changed
            touched = False
            table = self._tables[name]
            closed = name in shut
            for key in _differing(old_routes, self._routes, everything=everything or fresh):
                route = None if closed else self._routes.get(key)
                touched |= table.set(f"Function {key}", self._entries(route, name) if route else ())
            for key in _differing(before, standalone, everything=fresh):
                other = standalone.get(key)
                touched |= table.set(f"HTTPRoute {key}", self._entries(other, name) if other else ())
            if touched and not fresh:
                changed.append(name)
        self._shut = shut
        return changed

    def _entries(self, route: Route | StandaloneRoute, port: str) -> tuple[Entry, ...]:
        return entries_of(route, port, self._state.https_port)

    def _restore(self, routes: dict[str, Route], state: RoutingState) -> None:
        """Go back to a state that Envoy had; clusters left without a route go with the next change."""
        failed_routes, failed_state = self._routes, self._state
        self._routes, self._state = routes, state
        self._owner = {claim: key for key, route in routes.items() for claim in _claims(route)}
        wanted = self._wanted_clusters()
        again = self._cluster_changes(
            [key for key, what in wanted.items() if self._clusters.get(key) != what], wanted
        )
        changed = self._fill_tables(failed_routes, failed_state)
        self._server.record([*again, *(self._table_change(name) for name in changed)])

    # ---- listeners -----------------------------------------------------------------------------------------

    def _plain(self) -> list[Listener]:
        """Return the listeners that need no certificate to begin with."""
        return [one for one in self._fixed.values() if one.certificates or one.routes in (EXTERNAL, INTERNAL)]

    def _wanted_listeners(self) -> dict[str, Listener]:
        first = next(iter(self._fixed.values()))
        wanted = {one.routes: one for one in self._plain()}
        for port in self._state.ports:
            fixed = self._fixed.get(port.name)
            base = fixed or replace(
                first,
                host=port.host or first.host,
                name=port.name,
                port=port.port,
                routes=port.table or port.name,
                certificates=(),
                dapr=port.dapr,
                headers=port.headers,
                token=port.token,
            )
            own = base.certificates if fixed is not None else ()
            hosts = {one.hosts for one in port.certificates}
            wanted[port.name] = replace(
                base,
                certificates=(*port.certificates, *(one for one in own if one.hosts not in hosts)),
            )
        return wanted

    async def _listen(self) -> None:
        """Open, change and close listeners; a refusal is remembered and leaves the others alone."""
        wanted = self._wanted_listeners()
        secrets = {one.name: one for each in wanted.values() for one in each.certificates}
        await self._apply(
            [
                Change(config.SECRET, listener_config.secret_name(one), listener_config.secret(one))
                for one in secrets.values()
            ]
        )
        self._refused_ports = {}
        asked = {one.routes for one in self._listening.values()}
        for name, one in wanted.items():
            if _shape(self._listening.get(name)) == _shape(one):
                self._listening[name] = one
                continue
            try:
                await self._apply([self._table_change(one.routes), self._listener_change(one)])
            except RefusedError as error:
                self._refused_ports[name] = error.message
                self._server.record([Change(config.LISTENER, one.name, None)])
                self._listening.pop(name, None)
            else:
                self._listening[name] = one
        for name in [name for name in self._listening if name not in wanted]:
            gone = self._listening.pop(name)
            await self._apply([Change(config.LISTENER, gone.name, None)])
        used = {one.routes for one in wanted.values()} | self._fixed.keys()
        for table in [table for table in self._tables if table not in used]:
            del self._tables[table]
            gone_table = Change(config.ROUTES, table, None)
            if table in asked:
                await self._apply([gone_table])
            else:
                self._server.record([gone_table])

    def _listener_change(self, one: Listener) -> Change:
        return Change(config.LISTENER, one.name, listener_config.listener(one))

    def _new_table(self, name: str) -> RouteTable:
        fixed = self._fixed.get(name) or next(iter(self._fixed.values()))
        return RouteTable(name, listed=fixed.loopback)

    # ---- what is sent --------------------------------------------------------------------------------------

    async def _apply(self, changes: Sequence[Change]) -> None:
        if changes:
            await self._server.apply(changes, timeout_s=self._ack_timeout_s)

    def _cluster_changes(
        self, keys: Iterable[str], wanted: Mapping[str, Upstream | bool] | None = None
    ) -> list[Change]:
        clusters, ends = [], []
        for key in keys:
            before = self._clusters.get(key)
            what = self._clusters[key] = (wanted or self._clusters)[key]
            if isinstance(what, Upstream):
                if not isinstance(before, Upstream) or _cluster_of(before) != _cluster_of(what):
                    clusters.append(Change(config.CLUSTER, key, config.upstream_cluster(what)))
                if not what.named:
                    ends.append(Change(config.ENDPOINTS, key, config.upstream_endpoints(what)))
            else:
                clusters.append(Change(config.CLUSTER, key, config.cluster(key, h2c=what)))
                ends.append(self._endpoints_change(key))
        return [*clusters, *ends]

    def _endpoints_change(self, key: str) -> Change:
        activator = self._activator
        if self._h2c_activator is not None and self._clusters.get(key) is True:
            activator = self._h2c_activator(key)
        sockets = self._endpoints.get(key, ())
        return Change(
            config.ENDPOINTS, key, config.endpoints(key, sockets, activator, self._instances.get(key))
        )

    def _table_change(self, name: str) -> Change:
        return Change(config.ROUTES, name, self._tables[name].encode())


def _cluster_of(upstream: Upstream) -> Upstream:
    """Return what of an upstream is in its Cluster: endpoints are, where they are names."""
    return upstream if upstream.named else replace(upstream, endpoints=())


def _shape(one: Listener | None) -> object:
    """Return what of a listener is in Envoy's message: of certificates the names, not what is in them."""
    if one is None:
        return None
    return replace(one, certificates=()), tuple((each.name, each.hosts) for each in one.certificates)


def _differing(before: Mapping[str, object], now: Mapping[str, object], *, everything: bool) -> list[str]:
    """Return the keys whose value is another one, or is there on one side only."""
    if before is now and not everything:
        return []
    return [
        key for key in dict.fromkeys([*before, *now]) if everything or before.get(key) is not now.get(key)
    ]


def _claims(route: Route) -> list[Claim]:
    """Return what only one function may have: its hosts (with its conditions), its path, and its fronts."""
    hosts = (*route.hosts, *route.internal_hosts)
    conditions = {match for rule in route.rules for match in rule.matches}
    if not conditions or Match() in conditions:
        own: list[Claim] = list(hosts)
    else:
        own = [(host, match) for host in hosts for match in conditions]
    own += [f"{tag}-{host}" for tag, _ in route.tags for host in hosts]
    return [*own, *([route.path] if route.path else []), *route.fronts]


def _said(claim: Claim) -> str:
    if isinstance(claim, str):
        return claim
    host, match = claim
    return f"{host}{match.path.value if match.path != PathMatch() else '/'}"


def _fail(job: _Job, error: errors.GatewayError) -> None:
    if not job.done.done():
        job.done.set_exception(error)
