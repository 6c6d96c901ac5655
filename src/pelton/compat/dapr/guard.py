"""Runs a call to a component under its policies, within a time, and turns what goes wrong into a Fault.

Every operation on a component goes through `Guard.run`; the policies are those of the Resiliency objects of
the app's namespace, the attempts are made by `resiliency.py`.
Source: contracts, Dapr runtime, section 8.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

from pelton.compat.dapr.apps import App
from pelton.compat.dapr.faults import Fault
from pelton.compat.dapr.resiliency import Calls, Failure
from pelton.errors import ConflictError, NotFoundError, PeltonError
from pelton.model.resiliency import Resiliency
from pelton.plan.resiliency import Policies, Policy

__all__ = ["Guard"]

T = TypeVar("T")

_LIMIT_S: Final = 60.0
_BINDING_LIMIT_S: Final = 300.0
_NONE: Final = Policy()


class Guard:
    """Policies for calls to components. Used from one event loop.

    Args:
        calls: Makes attempts and keeps circuit breakers; None when there are no policies at all.
    """

    def __init__(self, calls: Calls | None = None) -> None:
        self._calls = calls
        self._resources: dict[str, list[Resiliency]] = {}
        self._policies: dict[tuple[str, str, str], Policy] = {}

    def set_policies(self, resources: Iterable[Resiliency]) -> None:
        """Make these the Resiliency objects; one with an empty namespace is for every namespace."""
        self._resources = {}
        for resource in resources:
            self._resources.setdefault(resource.namespace, []).append(resource)
        self._policies.clear()

    async def run(
        self,
        app: App,
        component: str,
        kind: str,
        attempt: Callable[[], Awaitable[T]],
        failed: Callable[[str], Fault],
    ) -> T:
        """Call a component and return what it says.

        Args:
            app: Whose call it is.
            component: Name of the component.
            kind: `Statestore`, `Pubsub`, `Binding`, `Secretstore`, `Configuration` or `Lock`.
            attempt: Makes the call once.
            failed: Makes the Fault for a sentence of what went wrong.

        Raises:
            Fault: It failed.
            ConflictError: The stored value is not the one that the call is meant for; never repeated.
        """
        limit_s = _BINDING_LIMIT_S if kind == "Binding" else _LIMIT_S
        policy = self._policy(app, component, kind)
        try:
            if policy is _NONE or self._calls is None:
                async with asyncio.timeout(limit_s):
                    return await attempt()
            return await self._calls.run(
                policy,
                attempt,
                target=f"component/{app.namespace}/{component}",
                failed=lambda error: (
                    None if isinstance(error, ConflictError | NotFoundError | Fault) else Failure()
                ),
            )
        except (ConflictError, Fault):
            raise
        except TimeoutError as exc:
            raise failed(f"component {component} did not answer in time") from exc
        except (PeltonError, OSError) as exc:
            raise failed(_sentence(exc)) from exc

    def _policy(self, app: App, component: str, kind: str) -> Policy:
        if not self._resources:
            return _NONE
        key = (app.key, component, kind)
        found = self._policies.get(key)
        if found is None:
            resources = [*self._resources.get("", ()), *self._resources.get(app.namespace, ())]
            found = Policies(resources, app.app_id).component(component, kind, "outbound")
            if found.timeout_s is None and found.retry is None and found.breaker is None:
                found = _NONE
            self._policies[key] = found
        return found


def _sentence(error: Exception) -> str:
    return error.message if isinstance(error, PeltonError) else str(error) or type(error).__name__
