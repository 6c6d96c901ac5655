"""Makes Gateways and HTTPRoutes real: reads what they depend on, tells the gateway, says how it went.

Level-triggered, as the reconciler of Functions: every pass reads everything and converges, so a restart at
any point does no harm. `plan/attachment` decides, `targets/local/target` brings the outcome to the node; a
condition says Programmed only once Envoy has taken that very state. `cli/control_plane` runs one `Routes`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pelton.clock import Clock, rfc3339
from pelton.controlplane.tls import pair_of
from pelton.errors import AlreadyExistsError, ConflictError, NotFoundError, PeltonError
from pelton.log import get
from pelton.manifest.gateway_api import GATEWAY, GATEWAY_CLASS, HTTP_ROUTE, REFERENCE_GRANT
from pelton.manifest.keda_http import HTTP_SCALED_OBJECT, INTERCEPTOR_ROUTE
from pelton.manifest.openfunction_networking import GATEWAY as OPENFUNCTION_GATEWAY
from pelton.manifest.verbs import TableVerbs
from pelton.model.desired import Route
from pelton.model.interception import Intercept
from pelton.model.openfunction_gateway import INTERNAL_LISTENER
from pelton.model.routing import Certificate, Port, RoutingState
from pelton.plan.attachment import CONTROLLER, HTTPS, Attached, Pair, Seen, Sources, attach
from pelton.plan.gateways import DEFAULTS, Merged, merge
from pelton.plan.interception import Written, intercepts
from pelton.plan.routing import Conflict, conflicts, entries_of
from pelton.plan.upstreams import Services
from pelton.ports import Store

__all__ = ["OPENFUNCTION_GATEWAYS", "Routes"]

HTTP_ROUTES: Final = "httproutes.gateway.networking.k8s.io"
GATEWAYS: Final = "gateways.gateway.networking.k8s.io"
CLASSES: Final = "gatewayclasses.gateway.networking.k8s.io"
GRANTS: Final = "referencegrants.gateway.networking.k8s.io"
OPENFUNCTION_GATEWAYS: Final = "gateways.networking.openfunction.io"
FUNCTIONS: Final = "functions.core.openfunction.io"
SERVICES, SECRETS, NAMESPACES = "services", "secrets", "namespaces"
SLICES: Final = "endpointslices.discovery.k8s.io"
CONFIG_MAPS = "configmaps"
INTERCEPTOR_ROUTES: Final = "interceptorroutes.http.keda.sh"
HTTP_SCALED_OBJECTS: Final = "httpscaledobjects.http.keda.sh"
_WATCHED: Final = (
    HTTP_ROUTES,
    GATEWAYS,
    CLASSES,
    GRANTS,
    OPENFUNCTION_GATEWAYS,
    FUNCTIONS,
    SERVICES,
    SECRETS,
    NAMESPACES,
    SLICES,
    CONFIG_MAPS,
    INTERCEPTOR_ROUTES,
    HTTP_SCALED_OBJECTS,
)
_BACKENDS: Final = frozenset({SERVICES, SLICES, CONFIG_MAPS})
"""What only matters while a route or an interception may refer to it."""
_REFERRING: Final = (HTTP_ROUTES, INTERCEPTOR_ROUTES, HTTP_SCALED_OBJECTS)
_SETTLE_S: Final = 0.05
"""Changes that come together are worked on together."""
_REST: Final = 4.0
"""Pauses are at least so many times as long as the last pass took: 1,000 Functions that are written at once
would otherwise be read as a whole a hundred times."""
_RETRY_S: Final = 1.0
_CERTIFICATE_S: Final = 5.0
"""How often the default certificate's files are looked at."""
_WRITE_TRIES: Final = 5
_CONFLICTED: Final = "Conflicted"

_log = get(__name__)

Obj = dict[str, Any]
Push = Callable[[RoutingState], Awaitable[tuple[dict[str, str], bool]]]


class Routes:
    """Works on all Gateways and HTTPRoutes until cancelled.

    Args:
        store: Where they are, and what they refer to.
        push: Brings a state to the gateway; returns what Envoy refused, and whether Envoy is there.
        functions: Returns the routes of functions that are served, by `namespace/name`.
        clock: Time.
        addresses: What the gateway is reached by, e.g. `127.0.0.1`.
        https_port: Port of `pelton up --tls`; 0 while it was not asked for.
        default_pair: Returns the certificate for names that no listener has.
    """

    def __init__(
        self,
        *,
        store: Store,
        push: Push,
        functions: Callable[[], Mapping[str, Route]],
        clock: Clock,
        addresses: Sequence[str],
        https_port: int = 0,
        default_pair: Callable[[], Pair] | None = None,
    ) -> None:
        self._store = store
        self._push = push
        self._functions = functions
        self._clock = clock
        self._addresses = tuple(addresses)
        self._https_port = https_port
        self._default_pair = default_pair
        self._dirty = asyncio.Event()
        self._pairs: dict[str, tuple[str, Pair]] = {}
        self._sent: RoutingState | None = None
        self._refused: dict[str, str] = {}
        self._conflicted: set[str] = set()
        self._referred = True  # whether a route or an interception exists, as last seen

    async def run(self) -> None:
        """Make what has to be there by default, then watch and work until cancelled."""
        await self._make_defaults()
        async with asyncio.TaskGroup() as group:
            for resource in _WATCHED:
                group.create_task(self._watch(resource))
            if self._https_port:
                group.create_task(self._look_at_certificate())
            group.create_task(self._work())

    async def _make_defaults(self) -> None:
        for resource, obj in DEFAULTS:
            try:
                await self._store.create(resource, _filled(resource, obj))
            except AlreadyExistsError:
                continue

    async def _watch(self, resource: str) -> None:
        while True:
            try:
                async for event in self._store.watch(resource):
                    if event.type != "BOOKMARK" and (self._referred or resource not in _BACKENDS):
                        self._dirty.set()
                return  # the store was closed
            except Exception as error:
                _log.warning("watch of %s broke off, starting again: %s", resource, error)
                await self._clock.sleep(1.0)
                self._dirty.set()

    async def _look_at_certificate(self) -> None:
        while True:
            await self._clock.sleep(_CERTIFICATE_S)
            self._dirty.set()

    async def _work(self) -> None:
        pause_s = _SETTLE_S
        while True:
            await self._dirty.wait()
            await self._clock.sleep(pause_s)
            self._dirty.clear()
            began = self._clock.monotonic()
            try:
                again = not await self.reconcile()
            except Exception as error:
                _log.warning(
                    "routes are worked on again: %s", error, exc_info=not isinstance(error, PeltonError)
                )
                again = True
            pause_s = max(_SETTLE_S, min(_RETRY_S, _REST * (self._clock.monotonic() - began)))
            if again:
                await self._clock.sleep(_RETRY_S)
                self._dirty.set()

    # -- one pass --------------------------------------------------------------------------------------------

    async def reconcile(self) -> bool:
        """Converge once; returns False when Envoy was not there to take the state."""
        seen = await self._sources()
        sources, merged = seen
        attached = attach(sources)
        state = replace(
            self._with_default(attached.state), intercepts=await self._intercepts(sources.services)
        )
        connected = True
        if state != self._sent or self._refused:
            self._refused, connected = await self._push(state)
            self._sent = state if connected else None
        if self._refused:
            attached = attach(replace(sources, refused=self._refused))
        met = self._conflicts(attached)
        await self._write(attached, merged, met, programmed=connected)
        return connected

    async def _sources(self) -> tuple[Sources, Merged]:
        # What refers to backends is read first: a backend that changes after that marks the state dirty.
        listed = {resource: (await self._store.list(resource))[0] for resource in _REFERRING}
        self._referred = any(listed.values())
        for resource in _WATCHED:
            unused = resource == FUNCTIONS or (resource in _BACKENDS and not self._referred)
            if resource not in listed and not unused:
                listed[resource] = (await self._store.list(resource))[0]
        merged = merge(
            _seen(GATEWAY, listed[GATEWAYS]),
            [one.resource for one in _seen(OPENFUNCTION_GATEWAY, listed[OPENFUNCTION_GATEWAYS])],
        )
        return (
            Sources(
                classes=_seen(GATEWAY_CLASS, listed[CLASSES]),
                gateways=merged.gateways,
                routes=_seen(HTTP_ROUTE, listed[HTTP_ROUTES]),
                grants=[one.resource for one in _seen(REFERENCE_GRANT, listed[GRANTS])],
                services=Services.read(listed.get(SERVICES, ()), listed.get(SLICES, ()), self._functions()),
                certificates=self._certificates(listed[SECRETS]),
                namespaces={
                    one["metadata"]["name"]: one["metadata"].get("labels") or {} for one in listed[NAMESPACES]
                },
                https_port=self._https_port,
                internal=merged.internal,
                open_to_functions=merged.open_to_functions,
            ),
            merged,
        )

    async def _intercepts(self, services: Services) -> tuple[Intercept, ...]:
        """Return what InterceptorRoutes and HTTPScaledObjects say."""
        written = [
            Written(resource=one.resource, created=one.created)
            for resource, verbs in (
                (INTERCEPTOR_ROUTES, INTERCEPTOR_ROUTE),
                (HTTP_SCALED_OBJECTS, HTTP_SCALED_OBJECT),
            )
            for one in _seen(verbs, (await self._store.list(resource))[0])
        ]
        if not written:
            return ()
        maps = {_key_of(one): one for one in (await self._store.list(CONFIG_MAPS))[0]}
        return intercepts(written, services, maps)

    def _certificates(self, secrets: Iterable[Obj]) -> dict[str, Pair]:
        """Parse the certificates of Secrets, those that did not change only once."""
        found: dict[str, tuple[str, Pair]] = {}
        for secret in secrets:
            if secret.get("type") != "kubernetes.io/tls":
                continue
            metadata = secret["metadata"]
            key, version = f"{metadata['namespace']}/{metadata['name']}", str(metadata.get("resourceVersion"))
            known = self._pairs.get(key)
            found[key] = known if known and known[0] == version else (version, pair_of(secret))
        self._pairs = found
        return {key: pair for key, (_, pair) in found.items()}

    def _with_default(self, state: RoutingState) -> RoutingState:
        """Add the port for TLS with the certificate for names that no listener has."""
        if not self._https_port or self._default_pair is None:
            return state
        pair = self._default_pair()
        if pair.problem:
            _log.error("the gateway's own certificate cannot be used: %s", pair.problem)
            return state
        own = Certificate(name="pelton/default", hosts=(), chain=pair.chain, key=pair.key)
        port = next(
            (one for one in state.ports if one.name == HTTPS), Port(name=HTTPS, port=self._https_port)
        )
        if any(not one.hosts for one in port.certificates):
            return state
        port = replace(port, certificates=(*port.certificates, own))
        return replace(state, ports=(*(one for one in state.ports if one.name != HTTPS), port))

    def _conflicts(self, attached: Attached) -> tuple[Conflict, ...]:
        standalone = attached.state.routes
        if not standalone:
            return ()
        ports = {port for one in standalone for port, _ in one.hosts}
        functions = list(self._functions().values())
        found: dict[tuple[str, str, str], Conflict] = {}
        for port in sorted(ports):
            own = [entry for one in standalone for entry in entries_of(one, port)]
            hosts = {entry.host for entry in own}
            others = [entry for one in functions for entry in entries_of(one, port) if entry.host in hosts]
            for conflict in conflicts([*own, *others]):
                found.setdefault((conflict.winner, conflict.loser, conflict.host), conflict)
        return tuple(found.values())

    # -- statuses --------------------------------------------------------------------------------------------

    async def _write(
        self, attached: Attached, merged: Merged, met: Sequence[Conflict], *, programmed: bool
    ) -> None:
        for name, status in attached.classes.items():
            await self._update(CLASSES, "", name, _with(status))
        functions = self._functions()
        for key, status in attached.gateways.items():
            full = {
                **status,
                "addresses": [{"type": _address_type(one), "value": one} for one in self._addresses],
            }
            if not programmed:
                full["conditions"] = [_pending(one) for one in full["conditions"]]
            if key in merged.stored:
                await self._update(GATEWAYS, *_pair(key), _with(full))
            for owner, names in merged.owners.get(key, {}).items():
                own = _openfunction_status(full, names, functions.values())
                await self._update(OPENFUNCTION_GATEWAYS, *_pair(owner), _with(own))
        await self._tell_intercepts(programmed=programmed)
        said = _sentences(met)
        for key, status in attached.routes.items():
            owner = f"HTTPRoute {key}"
            refused = self._refused.get(owner, "")
            parents = [
                _finished(parent, refused, said.get(owner, ""), programmed) for parent in status["parents"]
            ]
            await self._update(
                HTTP_ROUTES,
                *_pair(key),
                _with_parents(parents),
            )
        await self._tell_functions(said)

    async def _tell_intercepts(self, *, programmed: bool) -> None:
        """Say of each InterceptorRoute and HTTPScaledObject whether its requests come through."""
        planned = {one.key: one for one in (self._sent.intercepts if self._sent is not None else ())}
        for resource in (INTERCEPTOR_ROUTES, HTTP_SCALED_OBJECTS):
            for obj in (await self._store.list(resource))[0]:
                one = planned.get(_key_of(obj))
                problem = one.target.problem if one is not None else ""
                ready = programmed and one is not None and not problem
                reason = "Reconciled" if ready else "TargetNotFound" if problem else "Pending"
                generation = int(obj["metadata"].get("generation", 1))
                condition = _condition("Ready", ready, reason, problem, generation)
                await self._update(resource, *_pair(_key_of(obj)), _with({"conditions": [condition]}))

    async def _tell_functions(self, said: Mapping[str, str]) -> None:
        """Say on Functions, too, that a route wants the same requests; take it back when none does."""
        now = {owner.partition(" ")[2]: text for owner, text in said.items() if owner.startswith("Function ")}
        for key in {*now, *self._conflicted}:
            text = now.get(key, "")

            def change(obj: Obj, text: str = text) -> Obj:
                status = _status(obj)
                kept = [one for one in status.get("conditions") or () if one.get("type") != _CONFLICTED]
                if text:
                    generation = int(obj["metadata"].get("generation", 1))
                    kept.append(_condition(_CONFLICTED, True, "RouteConflict", text, generation))
                return {**status, "conditions": kept}

            await self._update(FUNCTIONS, *_pair(key), change)
        self._conflicted = set(now)

    async def _update(self, resource: str, namespace: str, name: str, change: Callable[[Obj], Obj]) -> None:
        """Write a status where it differs, with times of transition; an object that is gone needs none."""
        for _ in range(_WRITE_TRIES):
            try:
                obj = await self._store.get(resource, namespace, name)
                status = _timed(_status(obj), change(obj), rfc3339(self._clock.now()))
                if status == _status(obj):
                    return
                await self._store.update(resource, {**obj, "status": status}, subresource="status")
                return
            except NotFoundError:
                return
            except ConflictError:
                continue
        self._dirty.set()


# ---------------------------------------------------------------------------------------------------- details


def _key_of(obj: Obj) -> str:
    return f"{obj['metadata'].get('namespace', '')}/{obj['metadata']['name']}"


def _filled(resource: str, obj: Obj) -> Obj:
    verbs: dict[str, TableVerbs[Any]] = {
        CLASSES: GATEWAY_CLASS, GATEWAYS: GATEWAY, OPENFUNCTION_GATEWAYS: OPENFUNCTION_GATEWAY
    }  # fmt: skip
    return verbs[resource].default(obj)


def _seen(verbs: TableVerbs[Any], objects: Iterable[Obj]) -> list[Seen[Any]]:
    """Decode objects; those that are being deleted, or were written around the API's checks, do not count."""
    found = []
    for obj in objects:
        metadata = obj["metadata"]
        if metadata.get("deletionTimestamp"):
            continue
        try:
            model, _ = verbs.decode(verbs.default(obj))
        except PeltonError as error:
            _log.warning("an object cannot be read: %s", error)
            continue
        found.append(
            Seen(
                resource=model,
                generation=int(metadata.get("generation", 1)),
                created=str(metadata.get("creationTimestamp") or ""),
            )
        )
    return found


def _pair(key: str) -> tuple[str, str]:
    namespace, _, name = key.partition("/")
    return namespace, name


def _status(obj: Obj) -> Obj:
    return obj.get("status") or {}


def _with(status: Obj) -> Callable[[Obj], Obj]:
    return lambda obj: {**_status(obj), **status}


def _with_parents(parents: list[Obj]) -> Callable[[Obj], Obj]:
    return lambda obj: {**_status(obj), "parents": _kept(obj) + parents}


def _kept(obj: Obj) -> list[Obj]:
    """Return what other controllers say about a route."""
    return [one for one in _status(obj).get("parents") or () if one.get("controllerName") != CONTROLLER]


def _condition(kind: str, status: bool, reason: str, message: str, generation: int) -> Obj:
    return {
        "type": kind,
        "status": "True" if status else "False",
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
    }


def _pending(condition: Obj) -> Obj:
    if condition["type"] != "Programmed" or condition["status"] != "True":
        return condition
    return {**condition, "status": "False", "reason": "Pending", "message": "Envoy has not taken it yet"}


def _finished(parent: Obj, refused: str, conflict: str, programmed: bool) -> Obj:
    """Add to a parent's conditions what Envoy says, and what other routes want."""
    listed = list(parent["conditions"])
    generation = listed[0]["observedGeneration"]
    if listed[0]["status"] == "True":
        reason = "Invalid" if refused else "Programmed" if programmed else "Pending"
        message = refused or ("" if programmed else "Envoy has not taken it yet")
        listed.append(_condition("Programmed", programmed and not refused, reason, message, generation))
    if conflict:
        listed.append(_condition(_CONFLICTED, True, "RouteConflict", conflict, generation))
    return {**parent, "conditions": listed}


def _sentences(met: Iterable[Conflict]) -> dict[str, str]:
    """Return owner -> who it meets, and who of the two gets the requests."""
    said: dict[str, list[str]] = {}
    for one in met:
        what = f"requests for {one.host} ({one.match.path.type} {one.match.path.value})"
        said.setdefault(one.winner, []).append(f"{one.loser} wants the same {what}; they come here")
        said.setdefault(one.loser, []).append(f"{one.winner} wants the same {what}; they go there")
    return {owner: "; ".join(sorted(lines)) for owner, lines in said.items()}


def _address_type(address: str) -> str:
    return "IPAddress" if address.replace(".", "").isdigit() or ":" in address else "Hostname"


def _openfunction_status(full: Obj, names: frozenset[str], functions: Iterable[Route]) -> Obj:
    """Return the status of an OpenFunction Gateway: that of the Gateway under it, its own listeners only."""
    routes = list(functions)
    listeners = []
    for one in full["listeners"]:
        if one["name"] in names:
            inside = one["name"] == INTERNAL_LISTENER
            attached = sum(inside or not route.internal for route in routes)
            listeners.append({**one, "attachedRoutes": one["attachedRoutes"] + attached})
    return {"addresses": full["addresses"], "conditions": full["conditions"], "listeners": listeners}


def _timed(before: Any, now: Any, time: str) -> Any:
    """Give each condition the time of its last transition: that of before where the status is the same."""
    if isinstance(now, dict):
        old = before if isinstance(before, dict) else {}
        return {
            key: _conditions(old.get(key), value, time)
            if key == "conditions"
            else _timed(old.get(key), value, time)
            for key, value in now.items()
        }
    if isinstance(now, list):
        old_list = before if isinstance(before, list) else []
        return [
            _timed(old_list[index] if index < len(old_list) else None, item, time)
            for index, item in enumerate(now)
        ]
    return now


def _conditions(before: Any, now: Sequence[Obj], time: str) -> list[Obj]:
    known = {one.get("type"): one for one in before or () if isinstance(one, dict)}
    written = []
    for one in now:
        old = known.get(one["type"], {})
        kept = old.get("lastTransitionTime") if old.get("status") == one["status"] else None
        written.append({**one, "lastTransitionTime": kept or one.get("lastTransitionTime") or time})
    return written
