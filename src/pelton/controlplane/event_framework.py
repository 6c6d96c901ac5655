"""Makes EventSources and Triggers work: gathers facts, has them planned, and writes how they fare.

The plan goes to the runtime as a whole whenever it differs from the last one; what did not change is not
disturbed there. Only changes of the four kinds, and of objects that one of them refers to, cause a look.
`cli/control_plane.py` runs one. Decides nothing: `plan/event_framework` and `plan/event_status` do.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from pelton import log
from pelton.clock import Clock, rfc3339
from pelton.errors import ConflictError, NotFoundError, PeltonError
from pelton.manifest import openfunction_events
from pelton.model.event_framework import (
    EventBus,
    EventPlan,
    EventSource,
    PlannedTrigger,
    Reference,
    Relay,
    Trigger,
)
from pelton.plan import event_framework as planning
from pelton.plan.aliases import NO_ALIASES, Aliases
from pelton.plan.event_status import event_status
from pelton.plan.event_world import Address, Fault, World
from pelton.ports import Store

__all__ = ["EventFrameworkController"]

SOURCES: Final = "eventsources.events.openfunction.io"
TRIGGERS: Final = "triggers.events.openfunction.io"
BUSES: Final = "eventbuses.events.openfunction.io"
CLUSTER_BUSES: Final = "clustereventbuses.events.openfunction.io"
FUNCTIONS: Final = "functions.core.openfunction.io"
SERVICES: Final = "services"
KNATIVE_SERVICES: Final = "services.serving.knative.dev"
SLICES: Final = "endpointslices.discovery.k8s.io"
SECRETS: Final = "secrets"
_OWN: Final = (SOURCES, TRIGGERS, BUSES, CLUSTER_BUSES)
_REFERRED: Final = (FUNCTIONS, SERVICES, SLICES, SECRETS)
_SERVICE_NAME: Final = "kubernetes.io/service-name"
_OF_FUNCTION: Final = "openfunction.io/function"
_SOON_S: Final = 0.3
_LATER_S: Final = 3.0
_AGAIN_S: Final = 1.0

_log = log.get(__name__)

Obj = dict[str, Any]
Used = tuple[str, str, str]  # resource, namespace, name


@dataclass(slots=True)
class _Seen:
    """An EventSource or Trigger: its object, and what is in the way of its plan."""

    resource: str
    kind: str
    obj: Obj
    fault: Fault | None = None


class EventFrameworkController:
    """Works until cancelled.

    Args:
        store: Where objects are.
        push: Brings a plan to the runtime; raises PeltonError while it is away.
        states: Asks the runtime how things stand: `<kind>/<namespace>/<name>` -> {ready, trouble}.
        clock: Time.
        aliases: Host names that stand for other addresses.
    """

    def __init__(
        self,
        *,
        store: Store,
        push: Callable[[EventPlan], Awaitable[None]],
        states: Callable[[], Awaitable[Mapping[str, Mapping[str, Any]]]],
        clock: Clock,
        aliases: Aliases = NO_ALIASES,
    ) -> None:
        self._aliases = aliases
        self._store = store
        self._push = push
        self._states = states
        self._clock = clock
        self._changed = asyncio.Event()
        self._changed.set()
        self._known: dict[Used, str] = {}
        self._used: frozenset[Used] = frozenset()
        self._objects: dict[str, _Seen] = {}
        self._plan: EventPlan | None = None
        self._restless = False

    async def run(self) -> None:
        """Look, plan, push, write; again and again."""
        async with asyncio.TaskGroup() as tasks:
            for resource in (*_OWN, *_REFERRED):
                tasks.create_task(self._watch(resource), name=f"events: {resource}")
            while True:
                try:
                    await self.tick()
                except PeltonError as error:
                    _log.warning("event sources and triggers are looked at again: %s", error)
                    self._changed.set()
                    await self._clock.sleep(_AGAIN_S)
                except Exception:
                    _log.exception("event sources and triggers are looked at again")
                    self._changed.set()
                    await self._clock.sleep(_AGAIN_S)
                await self._wait()

    async def _wait(self) -> None:
        """Wait for a change; while there is anything, at most until the next look at how it fares."""
        if not self._objects:
            await self._changed.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SOON_S if self._restless else _LATER_S):
                await self._changed.wait()
            return
        if any(seen.fault is not None for seen in self._objects.values()):
            self._changed.set()  # what is missing may be of a kind that nobody watches

    async def _watch(self, resource: str) -> None:
        while True:
            try:
                async for event in self._store.watch(resource):
                    self._note(resource, event.type, event.object)
            except PeltonError as error:
                _log.debug("%s are watched anew: %s", resource, error)
            self._changed.set()
            await self._clock.sleep(_AGAIN_S)

    def _note(self, resource: str, type_: str, obj: Obj) -> None:
        metadata = obj["metadata"]
        used = (resource, str(metadata.get("namespace", "")), str(metadata["name"]))
        if resource == SLICES:
            used = (SERVICES, used[1], str((metadata.get("labels") or {}).get(_SERVICE_NAME, "")))
        if resource in _REFERRED:
            if used in self._used:
                self._changed.set()
            return
        # What this controller writes itself, the status, causes no look.
        content = json.dumps(
            [metadata.get("uid"), metadata.get("generation"), metadata.get("annotations"), type_ == "DELETED"]
        )
        if self._known.get(used) != content:
            self._known[used] = content
            self._changed.set()
        if type_ == "DELETED":
            del self._known[used]

    async def tick(self) -> None:
        """Look once; plan when something changed, and write what is new about how things fare."""
        if self._changed.is_set():
            self._changed.clear()
            plan = await self._gather()
            if plan != self._plan:
                await self._push(plan)
                self._plan = plan
        states: Mapping[str, Mapping[str, Any]] = {}
        if self._objects:
            with contextlib.suppress(PeltonError):  # it is being restarted
                states = await self._states()
        self._restless = False
        for key, seen in self._objects.items():
            state = states.get(key, {})
            ready, trouble = bool(state.get("ready")), str(state.get("trouble", ""))
            if seen.fault is None and not ready:
                self._restless = True
            await self._tell(seen, ready, trouble)

    async def _tell(self, seen: _Seen, ready: bool, trouble: str) -> None:
        obj = seen.obj
        status = event_status(
            obj.get("status") or {},
            kind=seen.kind,
            generation=int(obj["metadata"].get("generation", 0)),
            fault=seen.fault,
            ready=ready,
            trouble=trouble,
            renamed=self._aliases.within(obj.get("spec") or {}),
            now=rfc3339(self._clock.now()),
        )
        if status == obj.get("status"):
            return
        metadata = obj["metadata"]
        try:
            seen.obj = await self._store.update(
                seen.resource, {**obj, "status": status}, subresource="status"
            )
        except ConflictError:
            with contextlib.suppress(NotFoundError):
                fresh = await self._store.get(seen.resource, metadata["namespace"], metadata["name"])
                if fresh["metadata"].get("generation") == metadata.get("generation"):
                    seen.obj = fresh
            self._restless = True
        except NotFoundError:
            self._restless = True  # the watch tells, too

    # --- what there is --------------------------------------------------------------------------------------

    async def _gather(self) -> EventPlan:
        sources = await self._list(SOURCES)
        triggers = await self._list(TRIGGERS)
        buses = await self._buses() if sources or triggers else {}
        objects: dict[str, _Seen] = {}
        wanted: list[tuple[EventSource | Trigger, _Seen]] = []
        for resource, kind, verbs, listed in (
            (SOURCES, "EventSource", openfunction_events.EVENT_SOURCE, sources),
            (TRIGGERS, "Trigger", openfunction_events.TRIGGER, triggers),
        ):
            for obj in listed:
                key = f"{kind}/{obj['metadata']['namespace']}/{obj['metadata']['name']}"
                seen = objects[key] = _Seen(resource, kind, obj)
                try:
                    model: Any = verbs.decode(verbs.default(obj))[0]
                    problems = verbs.rules(model)
                    if problems:  # stored by an older version, or around admission
                        message = "; ".join(f"{path}: {what}" for path, what in problems)
                        seen.fault = Fault(reason="ErrorConfiguration", message=message)
                    else:
                        wanted.append((model, seen))
                except PeltonError as error:
                    seen.fault = Fault(reason="ErrorConfiguration", message=error.message)
        world = await self._world([model for model, _ in wanted], buses)
        relays: list[Relay] = []
        planned: list[PlannedTrigger] = []
        for model, seen in wanted:
            metadata = seen.obj["metadata"]
            created = _epoch(str(metadata.get("creationTimestamp", "")))
            if isinstance(model, EventSource):
                made, seen.fault = planning.plan_source(model, world, created=created)
                relays += made
                continue
            trigger, seen.fault = planning.plan_trigger(
                model, world, uid=str(metadata.get("uid", "")), created=created
            )
            if trigger is not None:
                planned.append(trigger)
        for key, fault in planning.rivals(relays).items():
            objects[f"EventSource/{key}"].fault = fault
            relays = [relay for relay in relays if relay.key != key]
        resting = [key for key, seen in objects.items() if seen.fault is not None]
        self._objects = objects
        return EventPlan(relays=tuple(relays), triggers=tuple(planned), resting=tuple(resting))

    async def _list(self, resource: str) -> list[Obj]:
        return [
            obj
            for obj in (await self._store.list(resource))[0]
            if not obj["metadata"].get("deletionTimestamp")
        ]

    async def _buses(self) -> dict[tuple[str, str], EventBus]:
        found: dict[tuple[str, str], EventBus] = {}
        for resource, verbs in (
            (BUSES, openfunction_events.EVENT_BUS),
            (CLUSTER_BUSES, openfunction_events.CLUSTER_EVENT_BUS),
        ):
            for obj in await self._list(resource):
                with contextlib.suppress(PeltonError):  # written around admission: no such bus
                    bus, _ = verbs.decode(verbs.default(obj))
                    found[bus.namespace if resource == BUSES else "", bus.name] = bus
        return found

    async def _world(
        self, models: list[EventSource | Trigger], buses: dict[tuple[str, str], EventBus]
    ) -> World:
        world = World(buses=buses, aliases=self._aliases)
        references = {ref for model in models for ref in planning.sinks_of(model)}
        named = {each for model in models for each in planning.secrets_of(model, world)}
        # Noted before reading: what appears in between then causes a look.
        self._used = frozenset(
            [
                *((SECRETS, namespace, name) for namespace, name in named),
                *((_resource(ref), ref.namespace, ref.name) for ref in references),
                *((FUNCTIONS, ref.namespace, ref.name) for ref in references),
            ]
        )
        addresses: dict[Reference, Address] = {}
        for ref in sorted(references, key=repr):
            address = await self._address(ref)
            if address is not None:
                addresses[ref] = address
        secrets: dict[tuple[str, str, str], str] = {}
        for namespace, name in sorted(named):
            with contextlib.suppress(NotFoundError):
                secret = await self._store.get(SECRETS, namespace, name)
                secrets |= {(namespace, name, key): text for key, text in _values(secret).items()}
        return replace(world, addresses=addresses, secrets=secrets)

    async def _address(self, ref: Reference) -> Address | None:
        """Return where an object is reached; None when it does not exist or is not ready."""
        try:
            if ref.kind == "Function":
                return _of_function(await self._store.get(FUNCTIONS, ref.namespace, ref.name))
            if ref.api_version.startswith("serving.knative.dev/"):
                service = await self._store.get(KNATIVE_SERVICES, ref.namespace, ref.name)
                url = (service.get("status") or {}).get("url")
                return Address(url=str(url)) if url else None
            service = await self._store.get(SERVICES, ref.namespace, ref.name)
            function = (service["metadata"].get("labels") or {}).get(_OF_FUNCTION)
            if function:
                return _of_function(await self._store.get(FUNCTIONS, ref.namespace, function))
        except NotFoundError:
            return None
        spec = service.get("spec") or {}
        ports = spec.get("ports") or [{"port": 80}]
        if spec.get("type") == "ExternalName":
            return Address(url=f"http://{spec.get('externalName', '')}:{ports[0].get('port', 80)}")
        slices = await self._store.list(SLICES, ref.namespace)
        return _of_slices(
            [
                obj
                for obj in slices[0]
                if (obj["metadata"].get("labels") or {}).get(_SERVICE_NAME) == ref.name
            ],
            str(ports[0].get("name", "")),
            f"{ref.name}.{ref.namespace}.svc.cluster.local",
        )


def _resource(ref: Reference) -> str:
    if ref.kind == "Function":
        return FUNCTIONS
    return KNATIVE_SERVICES if ref.api_version.startswith("serving.knative.dev/") else SERVICES


def _of_function(function: Obj) -> Address | None:
    """Return the Internal address, else any."""
    addresses = (function.get("status") or {}).get("addresses") or []
    for wanted in ("Internal", "External"):
        for one in addresses:
            if one.get("type") == wanted and one.get("value"):
                return Address(url=str(one["value"]))
    return None


def _of_slices(slices: list[Obj], port: str, host: str) -> Address | None:
    """Return the first ready endpoint of a Service."""
    for one in sorted(slices, key=lambda obj: str(obj["metadata"]["name"])):
        ports = one.get("ports") or []
        number = next((each["port"] for each in ports if each.get("name", "") == port), None)
        number = number or next((each["port"] for each in ports), None)
        for endpoint in one.get("endpoints") or ():
            ready = (endpoint.get("conditions") or {}).get("ready")
            if number and ready is not False and endpoint.get("addresses"):
                address = endpoint["addresses"][0]
                return Address(
                    url=f"http://{f'[{address}]' if ':' in address else address}:{number}", host=host
                )
    return None


def _values(secret: Obj) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in (secret.get("data") or {}).items():
        with contextlib.suppress(binascii.Error, ValueError, TypeError):
            found[key] = base64.b64decode(value, validate=True).decode()
    return found | {key: str(value) for key, value in (secret.get("stringData") or {}).items()}


def _epoch(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
