"""The components of a runtime: which app may use which, with what settings, and the open driver of each.

`sync` takes all that are declared and changes what is different; apps find the new one with their next call.
A driver is opened when an app first uses it, and shared by the apps for which the settings come out the same.
One that cannot be opened is tried again with the next use, so a backend that was away at the start comes
later. Asked by the operations beside this file and by `delivery.py`; `Drivers` (`ports.py`) come from `cli/`.
Source: contracts, Dapr components, section 1.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pelton import log
from pelton.compat.dapr.apps import App
from pelton.compat.dapr.ports import Drivers
from pelton.errors import ComponentError, DeliveryError, PeltonError
from pelton.manifest.component_types import unknown_version
from pelton.model.component import ComponentResource, MetadataItem
from pelton.model.desired import Component

__all__ = ["CATEGORIES", "Components", "Problem", "is_variable_allowed"]

CATEGORIES: Final = ("pubsub", "bindings", "state", "secretstores", "configuration", "lock")
"""Categories of types that are served."""

_INIT_TIMEOUT_S: Final = 5.0
_PLATFORM: Final = "kubernetes"
"""Secret store that is always there on a platform, under Dapr's name for it."""
_LINGER_S: Final = 5.0
"""Seconds that a driver goes on after its component changed, for the calls that have it."""

_log = log.get(__name__)
_Secrets = Callable[[str, str], Awaitable[Mapping[str, str] | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a component cannot be used now.

    Attributes:
        namespace, name: Which.
        type: Its type.
        error: What opening it said.
        tolerated: Whether it says `ignoreErrors`.
    """

    namespace: str
    name: str
    type: str
    error: PeltonError
    tolerated: bool

    @property
    def is_away(self) -> bool:
        """Whether only its backend was not reached, so that a later try may work."""
        return isinstance(self.error, DeliveryError)


_Content = tuple[str, str, str, str, str, tuple[tuple[str, str], ...]]
"""Category and all of a component: apps for which these are the same share one driver."""


@dataclass(slots=True, eq=False)
class _Shared:
    """A driver, or the opening of it, and how many apps have it or wait for it."""

    opening: asyncio.Task[Any]
    users: int = 0


@dataclass(slots=True, eq=False)
class _Open:
    """A driver that is open for one app."""

    resource: ComponentResource
    content: _Content
    port: Any


class Components:
    """What is declared, and what is open of it. Used from one event loop.

    Args:
        drivers: Opens them.
        secrets: Returns the entries of a Secret of the platform by namespace and name, None where there is
            none; None when there is no platform: then references without a secret store stay empty, as Dapr
            has it.
        variables: What `envRef` may name.
        pod_name: What `{podName}` stands for.
    """

    def __init__(
        self,
        drivers: Drivers,
        *,
        secrets: _Secrets | None = None,
        variables: Mapping[str, str] | None = None,
        pod_name: str = "",
    ) -> None:
        self._drivers = drivers
        self._secrets = secrets
        self._variables = variables or {}
        self._pod_name = pod_name
        self._resources: dict[tuple[str, str], ComponentResource] = {}
        self._open: dict[tuple[str, str, str], _Open] = {}
        self._shared: dict[_Content, _Shared] = {}
        self._resolved: dict[tuple[str, str], tuple[ComponentResource, Component]] = {}
        self._opening: dict[tuple[str, str, str], asyncio.Task[_Open]] = {}
        self._said: dict[tuple[str, str, str], str] = {}
        self._lingering: dict[asyncio.TimerHandle, _Open] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._listeners: list[Callable[[frozenset[str]], None]] = []
        self.generation = 0
        """Grows whenever a port that `get` gave may be closed soon, so that whoever keeps one asks again."""

    def listen(self, heard: Callable[[frozenset[str]], None]) -> None:
        """Call `heard` with the names of components that came, went or changed, after each `sync`."""
        self._listeners.append(heard)

    def sync(self, resources: Iterable[ComponentResource]) -> frozenset[str]:
        """Make these the components; returns the names of those that came, went or changed.

        One with an empty namespace is for the apps of every namespace.
        """
        wanted = {(each.namespace, each.name): each for each in resources}
        changed = {
            key
            for key in wanted.keys() | self._resources.keys()
            if wanted.get(key) != self._resources.get(key)
        }
        self._resources = wanted
        names = frozenset(name for _, name in changed)
        if names:
            self.refresh(names)
        return names

    def refresh(self, names: frozenset[str]) -> None:
        """Open these anew with their next use, as after a change of a secret that they refer to."""
        self.generation += 1
        for key in [key for key in self._open if key[2] in names]:
            self._retire(self._open.pop(key))
        for key in [key for key in self._opening if key[2] in names]:
            self._opening.pop(key).cancel()
        self._resolved = {key: found for key, found in self._resolved.items() if key[1] not in names}
        for heard in self._listeners:
            heard(names)

    def forget(self, app: App) -> None:
        """Close what was open for an app that is gone, or that has changed."""
        self.generation += 1
        for key in [key for key in self._open if key[0] == app.key]:
            self._retire(self._open.pop(key))
        for resolved in [key for key in self._resolved if key[0] == app.key]:
            del self._resolved[resolved]
        self._said = {key: said for key, said in self._said.items() if key[0] != app.key}

    def listed(self, app: App) -> list[ComponentResource]:
        """Return the components that an app may use, by name."""
        found = {
            name: resource
            for (namespace, name), resource in sorted(self._resources.items())
            if namespace in {"", app.namespace} and _in_scope(resource, app)
        }
        return [found[name] for name in sorted(found)]

    def of(self, app: App, category: str) -> dict[str, ComponentResource]:
        """Return those of a category by name."""
        return {each.name: each for each in self.listed(app) if each.spec.category == category}

    def find(self, app: App, name: str) -> ComponentResource | None:
        """Return the component that an app means by a name, None where it may use none."""
        resource = self._resources.get((app.namespace, name)) or self._resources.get(("", name))
        return resource if resource is not None and _in_scope(resource, app) else None

    async def get(self, category: str, app: App, name: str) -> Any:
        """Return the open port of a component; None when the app has no such one.

        Raises:
            ComponentError: Its type is unknown, or a setting is missing or wrong.
            DeliveryError: Its backend is away, or its start took too long.
        """
        key = (app.key, category, name)
        found = self._open.get(key)
        if found is not None:
            return found.port
        resource = self.find(app, name)
        if resource is None or resource.spec.category != category:
            return None
        task = self._opening.get(key)
        if task is None:
            task = self._opening[key] = asyncio.create_task(self._start(category, app, resource, key))
            task.add_done_callback(lambda done: self._started(key, done))
        try:
            return (await asyncio.shield(task)).port
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            return await self.get(category, app, name)  # the component changed while it was opened

    async def need(self, category: str, app: App, name: str) -> Any:
        """Return the open port of a component that was there a moment ago; raises as `get`."""
        port = await self.get(category, app, name)
        if port is None:
            raise ComponentError(f"component {name} has just gone")
        return port

    async def component(self, app: App, name: str) -> Component | None:
        """Return a component as an app has it, secrets and templates filled in; None when it has none.

        Raises:
            ComponentError: A secret or variable that it refers to is missing.
        """
        resource = self.find(app, name)
        if resource is None:
            return None
        known = self._resolved.get((app.key, name))
        if known is None or known[0] is not resource:
            known = (resource, await self._resolve(app, resource))
            self._resolved[app.key, name] = known
        return known[1]

    def broker_topic(self, app: App, name: str, topic: str) -> str:
        """Return a topic's name at the broker: behind the namespace, where the component has it so."""
        resource = self.find(app, name)
        if resource is None or not any("{namespace}" in item.text for item in resource.spec.metadata):
            return topic
        return app.namespace + topic

    async def check(self, app: App) -> list[Problem]:
        """Open all that an app may use, side by side; return those that cannot be, with the reason."""
        listed = self.listed(app)
        results = await asyncio.gather(
            *(self.get(each.spec.category, app, each.name) for each in listed), return_exceptions=True
        )
        problems: list[Problem] = []
        for resource, result in zip(listed, results, strict=True):
            if isinstance(result, PeltonError):
                problems.append(
                    Problem(
                        namespace=resource.namespace,
                        name=resource.name,
                        type=resource.spec.type,
                        error=result,
                        tolerated=bool(resource.spec.ignore_errors),
                    )
                )
            elif isinstance(result, BaseException):
                raise result
        return problems

    async def close(self) -> None:
        """Close all drivers."""
        for task in self._opening.values():
            task.cancel()
        for handle in self._lingering:
            handle.cancel()
        left = [*self._open.values(), *self._lingering.values()]
        self._open.clear()
        self._lingering.clear()
        await asyncio.gather(*(self._release(each) for each in left), *self._closing, return_exceptions=True)

    # -- opening ---------------------------------------------------------------------------------------------

    async def _start(
        self, category: str, app: App, resource: ComponentResource, key: tuple[str, str, str]
    ) -> _Open:
        where = f"Component {resource.namespace or app.namespace}/{resource.name}"
        opener = self._drivers.open.get(category)
        known = self._drivers.types.get(category, ())
        if opener is None or resource.spec.type not in known:
            raise ComponentError(
                f"there is no component type {resource.spec.type!r}",
                where=where,
                hint=f"Known: {', '.join(known) or ', '.join(self._drivers.types)}.",
            )
        if other := unknown_version(resource.spec.type, resource.spec.version):
            raise ComponentError(other, where=where, hint="Correct spec.version.")
        if _denied(app, resource):
            raise ComponentError(
                f"{resource.spec.type} is denied by Configuration {app.configuration.name}", where=where
            )
        limit_s = resource.spec.init_timeout_s or _INIT_TIMEOUT_S
        try:
            async with asyncio.timeout(limit_s):
                component = await self._resolve_for(app, resource)
                content = _content(category, component)
                port = await self._share(content, opener, component)
        except TimeoutError as exc:
            raise DeliveryError(
                f"{resource.spec.type} did not start within {limit_s:g} s",
                where=where,
                hint="Look at its backend, or raise spec.initTimeout.",
            ) from exc
        except OSError as exc:
            raise DeliveryError(f"{resource.spec.type} cannot be reached: {exc}", where=where) from exc
        return _Open(resource, content, port)

    async def _share(
        self, content: _Content, opener: Callable[[Component], Awaitable[Any]], component: Component
    ) -> Any:
        """Return the driver of a content, opened by the first who wants it."""
        shared = self._shared.get(content)
        if shared is None:
            shared = self._shared[content] = _Shared(asyncio.create_task(_opened(opener, component)))
        shared.users += 1
        try:
            return await asyncio.shield(shared.opening)
        except BaseException:
            shared.users -= 1
            if not shared.users:
                if self._shared.get(content) is shared:
                    del self._shared[content]
                shared.opening.cancel()
            raise

    async def _release(self, found: _Open) -> None:
        """Take one user away; the last one closes the driver."""
        shared = self._shared.get(found.content)
        if shared is None:
            return
        shared.users -= 1
        if not shared.users:
            del self._shared[found.content]
            await _close(found)

    def _started(self, key: tuple[str, str, str], task: asyncio.Task[_Open]) -> None:
        if self._opening.get(key) is task:
            del self._opening[key]
        elif not task.cancelled() and task.exception() is None:
            self._retire(task.result())  # it changed meanwhile
            return
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._open[key] = task.result()
            self._said.pop(key, None)
        elif self._said.get(key) != str(error):  # each call tries it again: once is enough
            self._said[key] = str(error)
            _log.warning("component %s for app %s: %s", key[2], key[0], error)

    async def _resolve_for(self, app: App, resource: ComponentResource) -> Component:
        found = await self.component(app, resource.name)
        return found if found is not None else await self._resolve(app, resource)

    async def settings(self, app: App, resource: ComponentResource) -> dict[str, str]:
        """Return name -> value of metadata as an app has them, secrets and templates filled in.

        Raises:
            ComponentError: A secret or variable that they refer to is missing.
        """
        return {item.name: await self._value(app, resource, item) for item in resource.spec.metadata}

    async def _resolve(self, app: App, resource: ComponentResource) -> Component:
        metadata = await self.settings(app, resource)
        return Component(
            namespace=resource.namespace or app.namespace,
            name=resource.name,
            type=resource.spec.type,
            version=resource.spec.version or "v1",
            metadata=metadata,
        )

    async def _value(self, app: App, resource: ComponentResource, item: MetadataItem) -> str:
        where = f"Component {resource.namespace or app.namespace}/{resource.name}"
        if item.secret_key_ref is not None:
            name = item.secret_key_ref.name
            key = item.secret_key_ref.key or name
            entries = await self._secret(app, resource, name, where)
            if entries is None:
                return ""
            value = entries.get(key, entries.get(name))
            if value is None:
                raise ComponentError(
                    f"`{item.name}` is key {key!r} of secret {name!r}, which has no such key",
                    where=where,
                    hint="Add it to the secret, or correct secretKeyRef.",
                )
            return value
        if item.env_ref:
            if not is_variable_allowed(item.env_ref, self._variables):
                raise ComponentError(
                    f"`{item.name}` refers to the environment variable {item.env_ref!r}, which may not be "
                    "read",
                    where=where,
                )
            return self._variables.get(item.env_ref, "")
        text = item.text
        if "{" not in text:
            return text
        while "{uuid}" in text:
            text = text.replace("{uuid}", str(uuid.uuid4()), 1)
        text = text.replace("{podName}", self._pod_name).replace("{appID}", app.app_id)
        return text.replace("{namespace}", f"{app.namespace}.{app.app_id}")

    async def _secret(
        self, app: App, resource: ComponentResource, name: str, where: str
    ) -> Mapping[str, str] | None:
        """Return the entries of a secret; None where nobody keeps secrets."""
        own = resource.secret_store == _PLATFORM and self.find(app, _PLATFORM) is None
        if resource.secret_store and not (own and self._secrets is not None):
            if resource.secret_store == resource.name:
                raise ComponentError("it is its own secret store", where=where)
            store = await self.get("secretstores", app, resource.secret_store)
            if store is None:
                known = ", ".join(self.of(app, "secretstores")) or "none"
                raise ComponentError(
                    f"there is no secret store {resource.secret_store!r}; there are: {known}",
                    where=where,
                    hint="Apply it, or correct auth.secretStore.",
                )
            entries: Mapping[str, str] = await store.get(name)
            return entries
        if self._secrets is None:
            return None
        found = await self._secrets(resource.namespace or app.namespace, name)
        if found is None:
            raise ComponentError(
                f"there is no Secret {name!r}", where=where, hint="Apply it, or correct secretKeyRef."
            )
        return found

    # -- closing ---------------------------------------------------------------------------------------------

    def _retire(self, found: _Open) -> None:
        loop = asyncio.get_running_loop()

        def end() -> None:
            self._lingering.pop(handle, None)
            task = loop.create_task(self._release(found))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

        handle = loop.call_later(_LINGER_S, end)
        self._lingering[handle] = found


def is_variable_allowed(name: str, variables: Mapping[str, str]) -> bool:
    """Tell whether `envRef` may name a variable: never Dapr's own, and only listed ones where a list is."""
    if not name or name == "APP_API_TOKEN" or name.startswith("DAPR_") or " " in name:
        return False
    listed = variables.get("DAPR_ENV_KEYS", "").split()
    return not listed or name in listed


def _in_scope(resource: ComponentResource, app: App) -> bool:
    return not resource.scopes or app.app_id in resource.scopes


def _denied(app: App, resource: ComponentResource) -> bool:
    denied: Sequence[str] = app.configuration.denied_components
    spec = resource.spec
    return spec.type in denied or f"{spec.type}/{spec.version or 'v1'}" in denied


async def _opened(opener: Callable[[Component], Awaitable[Any]], component: Component) -> Any:
    return await opener(component)


def _content(category: str, component: Component) -> _Content:
    settings = tuple(sorted(component.metadata.items()))
    return (
        category,
        component.namespace,
        component.name,
        component.type,
        component.version,
        settings,
    )


async def _close(found: _Open) -> None:
    close = getattr(found.port, "close", None)
    if close is None:
        return
    try:
        await close()
    except (PeltonError, OSError) as exc:
        _log.warning("closing component %s: %s", found.resource.name, exc)
