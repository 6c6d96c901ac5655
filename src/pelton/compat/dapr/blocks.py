"""The small blocks: output bindings, secrets, configuration, locks.

Called by both servers. Each is a class over the same components and guard; none knows a protocol.
Source: contracts, Dapr runtime, sections 5 and 9, and Dapr HTTP, sections 2 and 4.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from pelton import log
from pelton.compat.dapr import faults
from pelton.compat.dapr.apps import App
from pelton.compat.dapr.components import Components
from pelton.compat.dapr.faults import Code, Fault
from pelton.compat.dapr.guard import Guard
from pelton.compat.dapr.publishing import Trace
from pelton.compat.dapr.states import key_prefix
from pelton.errors import ComponentError, PeltonError
from pelton.model.component import ComponentResource
from pelton.model.invocation import Delivered
from pelton.ports import Binding, ConfigurationItem, ConfigurationStore, Lock, SecretStore, Unlocked

__all__ = ["Bindings", "Configurations", "Locks", "Secrets"]

Items = Mapping[str, ConfigurationItem]
_MOST_SUBSCRIPTIONS: Final = 1000
_log = log.get(__name__)


class Bindings:
    """Calls outside systems for all apps."""

    def __init__(self, components: Components, guard: Guard) -> None:
        self._components = components
        self._guard = guard

    async def invoke(
        self,
        app: App,
        name: str,
        operation: str,
        data: bytes,
        metadata: Mapping[str, str],
        trace: Trace | None = None,
    ) -> Delivered:
        """Carry out one operation; an answer that refuses comes back with `ok` False.

        Raises:
            Fault: No such binding, no operation, or the other side was not reached.
        """
        resource = self._components.find(app, name)
        if resource is None or resource.spec.category != "bindings":
            known = ", ".join(self._components.of(app, "bindings")) or "none"
            raise self._failed(name, f"couldn't find output binding {name}; there are: {known}")
        if not operation:
            raise self._failed(name, "operation field is missing from request")
        given = dict(metadata)
        for key, value in (("traceparent", trace.parent), ("tracestate", trace.state)) if trace else ():
            if value:
                given.setdefault(key, value)

        async def attempt() -> Delivered:
            binding: Binding = await self._components.need("bindings", app, name)
            if not hasattr(binding, "invoke"):
                raise ComponentError(f"{resource.spec.type} only brings events, it takes none")
            return await binding.invoke(operation, data, given)

        return await self._guard.run(app, name, "Binding", attempt, lambda why: self._failed(name, why))

    @staticmethod
    def _failed(name: str, why: str) -> Fault:
        return Fault(
            f"error invoking output binding {name}: {why}",
            code=Code.INTERNAL,
            status=500,
            error_code="ERR_INVOKE_OUTPUT_BINDING",
        )


class Secrets:
    """Reads secrets for all apps, within the scopes of their Configurations."""

    def __init__(self, components: Components, guard: Guard) -> None:
        self._components = components
        self._guard = guard

    async def get(self, app: App, store: str, name: str, metadata: Mapping[str, str]) -> dict[str, str]:
        """Return key -> value of one secret.

        Raises:
            Fault: PERMISSION_DENIED (403) for one that the app may not read; no such store or secret.
        """
        _find(self._components, app, "secretstores", store)
        if not app.configuration.secret_scope(store).allows(name):
            raise Fault(
                f"access denied by policy to get {name!r} from {store!r}",
                code=Code.PERMISSION_DENIED,
                status=403,
                error_code="ERR_PERMISSION_DENIED",
            )
        found: dict[str, str] = await self._run(
            app,
            store,
            lambda port: port.get(name, metadata=metadata),
            "ERR_SECRET_GET",
            f"failed getting secret with key {name} from secret store {store}",
        )
        return found

    async def get_all(self, app: App, store: str, metadata: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """Return name -> secret, of those that the app may read."""
        _find(self._components, app, "secretstores", store)
        found: dict[str, dict[str, str]] = await self._run(
            app,
            store,
            lambda port: port.get_all(metadata=metadata),
            "ERR_SECRET_GET",
            f"failed getting secrets from secret store {store}",
        )
        scope = app.configuration.secret_scope(store)
        return {name: secret for name, secret in found.items() if scope.allows(name)}

    async def _run(
        self,
        app: App,
        store: str,
        ask: Callable[[SecretStore], Awaitable[Any]],
        error_code: str,
        what: str,
    ) -> Any:
        async def attempt() -> Any:
            return await ask(await self._components.need("secretstores", app, store))

        return await self._guard.run(
            app,
            store,
            "Secretstore",
            attempt,
            lambda why: Fault(f"{what}: {why}", code=Code.INTERNAL, status=500, error_code=error_code),
        )


class Configurations:
    """Reads settings for all apps, and tells them of changes.

    A subscription over gRPC lives as long as its stream; one over HTTP until it is unsubscribed or its app is
    gone.
    """

    def __init__(self, components: Components, guard: Guard) -> None:
        self._components = components
        self._guard = guard
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def get(
        self, app: App, store: str, keys: Sequence[str], metadata: Mapping[str, str]
    ) -> dict[str, ConfigurationItem]:
        """Return key -> item; no keys mean all.

        Raises:
            Fault: No such store, or it cannot be read.
        """
        _find(self._components, app, "configuration", store)

        async def attempt() -> dict[str, ConfigurationItem]:
            port: ConfigurationStore = await self._components.need("configuration", app, store)
            return await port.get(keys, metadata=metadata)

        return await self._guard.run(
            app,
            store,
            "Configuration",
            attempt,
            lambda why: _configuration_failed("ERR_CONFIGURATION_GET", store, "get", keys, why),
        )

    async def follow(
        self,
        app: App,
        store: str,
        keys: Sequence[str],
        metadata: Mapping[str, str],
        tell: Callable[[str, Items], Awaitable[None]],
        ended: Callable[[], None] = lambda: None,
    ) -> str:
        """Have `tell` called with changed items until `unfollow`; returns the subscription's id.

        Args:
            app: Who wants to know.
            store: The store.
            keys: Which; none mean all.
            metadata: Of the request.
            tell: Takes the subscription's id and items; while it waits, newer values replace older ones.
            ended: Called once no more will come.

        Raises:
            Fault: No such store, it cannot be used, or the app has too many subscriptions.
        """
        _find(self._components, app, "configuration", store)

        async def attempt() -> AsyncIterator[Items]:
            port: ConfigurationStore = await self._components.need("configuration", app, store)
            return port.subscribe(keys, metadata=metadata)

        def failed(why: str) -> Fault:
            return _configuration_failed("ERR_CONFIGURATION_SUBSCRIBE", store, "subscribe to", keys, why)

        if sum(key == app.key for key, _ in self._tasks) >= _MOST_SUBSCRIPTIONS:
            raise failed(f"{_MOST_SUBSCRIPTIONS} subscriptions of this app are open")
        changes = await self._guard.run(app, store, "Configuration", attempt, failed)
        subscription_id = str(uuid.uuid4())

        async def run() -> None:
            try:
                async for items in changes:
                    await tell(subscription_id, items)
            except PeltonError as exc:
                _log.warning("configuration %s of app %s: %s", store, app.key, exc)
            finally:
                self._tasks.pop((app.key, subscription_id), None)
                ended()
                await _close_iterator(changes)

        self._tasks[app.key, subscription_id] = asyncio.create_task(run())
        return subscription_id

    def unsubscribe(self, app: App, store: str, subscription_id: str) -> bool:
        """End a subscription as its app asks; False where the app has none of that id.

        Raises:
            Fault: No such store.
        """
        _find(self._components, app, "configuration", store)
        return self.unfollow(app, subscription_id)

    def unfollow(self, app: App, subscription_id: str) -> bool:
        """End a subscription; False where the app has none of that id."""
        task = self._tasks.pop((app.key, subscription_id), None)
        if task is None:
            return False
        task.cancel()
        return True

    def forget(self, app: App) -> None:
        """End all subscriptions of an app that is gone."""
        for key in [key for key in self._tasks if key[0] == app.key]:
            self._tasks.pop(key).cancel()

    async def close(self) -> None:
        """End all subscriptions."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Locks:
    """Locks for all apps; a lock belongs to the names that the app gave, behind its prefix."""

    def __init__(self, components: Components, guard: Guard) -> None:
        self._components = components
        self._guard = guard

    async def try_lock(self, app: App, store: str, resource: str, owner: str, expiry_s: int) -> bool:
        """Take a lock; False when somebody has it.

        Raises:
            Fault: An empty name, a time that is not above 0, or a store that cannot be used.
        """
        _find(self._components, app, "lock", store)
        _check_lock(store, resource, owner)
        if expiry_s <= 0:
            raise faults.malformed(f"ExpiryInSeconds is not positive in lock store {store}")

        async def attempt() -> bool:
            port, key = await self._key(app, store, resource)
            return await port.try_lock(key, owner, expiry_s)

        return await self._guard.run(
            app,
            store,
            "Lock",
            attempt,
            lambda why: _lock_failed("ERR_TRY_LOCK", "failed to try acquiring lock", why),
        )

    async def unlock(self, app: App, store: str, resource: str, owner: str) -> Unlocked:
        """Give a lock back. Raises Fault as `try_lock`."""
        _find(self._components, app, "lock", store)
        _check_lock(store, resource, owner)

        async def attempt() -> Unlocked:
            port, key = await self._key(app, store, resource)
            return await port.unlock(key, owner)

        return await self._guard.run(
            app, store, "Lock", attempt, lambda why: _lock_failed("ERR_UNLOCK", "failed to release lock", why)
        )

    async def _key(self, app: App, store: str, resource: str) -> tuple[Lock, str]:
        port: Lock = await self._components.need("lock", app, store)
        component = await self._components.component(app, store)
        prefix = key_prefix(component, app, namespaced=False) if component is not None else ""
        return port, f"lock||{prefix}{resource}"


async def _close_iterator(iterator: AsyncIterator[Any]) -> None:
    """End an iterator that may be a generator."""
    close = getattr(iterator, "aclose", None)
    if close is not None:
        await close()


def _find(components: Components, app: App, category: str, name: str) -> ComponentResource:
    resource = components.find(app, name)
    if resource is None or resource.spec.category != category:
        raise faults.store_missing(category, name, components.of(app, category))
    return resource


def _check_lock(store: str, resource: str, owner: str) -> None:
    if not resource:
        raise faults.malformed(f"ResourceId is empty in lock store {store}")
    if not owner:
        raise faults.malformed(f"LockOwner is empty in lock store {store}")
    if "||" in resource:
        raise faults.malformed(f"input key {resource!r} can't contain '||'")


def _lock_failed(error_code: str, what: str, why: str) -> Fault:
    return Fault(f"{what}: {why}", code=Code.INTERNAL, status=500, error_code=error_code)


def _configuration_failed(error_code: str, store: str, verb: str, keys: Sequence[str], why: str) -> Fault:
    return Fault(
        f"failed to {verb} {', '.join(keys) or 'all'} from configuration store {store}: {why}",
        code=Code.INTERNAL,
        status=500,
        error_code=error_code,
    )
