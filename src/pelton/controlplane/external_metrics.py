"""What a KEDA elsewhere may scale on: intercepted requests by route, and requests and events of functions.

Served by `compat/keda_external.py`. Every half second the counts are fetched from the node. A ScaledObject's
metadata name what it asks for: `interceptorRoute`, `httpScaledObject`, `interceptorTargetPendingRequests` as
in KEDA's HTTP add-on, or `function`, which is Pelton's own. Source: contracts, autoscaling section 5.6.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

from pelton.autoscale.http import Counts
from pelton.autoscale.policy import read_policy
from pelton.autoscale.window import Ring
from pelton.clock import Clock
from pelton.controlplane.http_scaling import HTTP_SCALED_OBJECTS, INTERCEPTOR_ROUTES
from pelton.controlplane.scaled_objects import route_metrics
from pelton.errors import NotFoundError, PeltonError
from pelton.log import get
from pelton.manifest.keda_http import INTERCEPTOR_ROUTE
from pelton.model.desired import Desired
from pelton.model.scaler import ScalerReading
from pelton.model.scaling import HttpScaling
from pelton.ports import Store

__all__ = ["ExternalMetrics"]

_TICK_S: Final = 0.5
_FRESH_TICKS: Final = 2
_KEYS: Final = ("interceptorRoute", "httpScaledObject", "interceptorTargetPendingRequests", "function")

_log = get(__name__)

Report = Mapping[str, Mapping[str, int]]


@dataclass(slots=True)
class _Route:
    counts: Counts
    ring: Ring
    concurrency: float = 0.0


class ExternalMetrics:
    """Works until cancelled.

    Args:
        store: Where routes and HTTPScaledObjects are.
        intercepted: Returns route -> {Concurrency, RequestCount}.
        load: Returns `namespace/name` of a function -> {inFlight, queued, pending}.
        desired: Returns what was applied of a function by `namespace/name`; None for none.
        clock: Time.
    """

    def __init__(
        self,
        *,
        store: Store,
        intercepted: Callable[[], Awaitable[Report]],
        load: Callable[[], Awaitable[Report]],
        desired: Callable[[str], Desired | None],
        clock: Clock,
    ) -> None:
        self._store = store
        self._intercepted = intercepted
        self._load_of = load
        self._desired = desired
        self._clock = clock
        self._routes: dict[str, _Route] = {}
        self._windows: dict[str, tuple[float, float]] = {}
        self._load: Report = {}
        self._fresh_at: float | None = None

    def healthy(self) -> bool:
        """Return whether the counts are fresh."""
        at = self._fresh_at
        return at is not None and self._clock.monotonic() - at <= (_FRESH_TICKS + 0.5) * _TICK_S

    async def run(self) -> None:
        """Fetch again and again."""
        while True:
            try:
                await self.tick()
            except PeltonError as error:
                _log.debug("counts cannot be fetched: %s", error)
            except Exception:
                _log.exception("counts are fetched again")
            await self._clock.sleep(_TICK_S)

    async def tick(self) -> None:
        """Fetch once. Raises PeltonError while the node is away."""
        reports = await self._intercepted()
        self._load = await self._load_of()
        now = self._clock.monotonic()
        for key, report in reports.items():
            window = self._windows.get(key, (60.0, 1.0))
            route = self._routes.get(key)
            if route is None or (route.ring.window_s, route.ring.granularity_s) != window:
                route = self._routes[key] = _Route(
                    route.counts if route is not None else Counts(), Ring(*window)
                )
            pair = (float(report["Concurrency"]), float(report["RequestCount"]))
            route.concurrency, requests = route.counts.take({"node": pair})
            route.ring.record(now, requests)
        for key in self._routes.keys() - reports.keys():
            del self._routes[key]
        self._fresh_at = now

    async def measure(self, name: str, namespace: str, metadata: Mapping[str, str]) -> list[ScalerReading]:
        """Return the metrics that a ScaledObject asks for.

        Raises:
            NotFoundError: It names nothing that exists.
            PeltonError: The counts are not fresh.
        """
        asked = next((key for key in _KEYS if metadata.get(key)), "")
        if not asked:
            raise NotFoundError(
                f"the trigger of {namespace}/{name} names nothing; give one of: {', '.join(_KEYS)}"
            )
        if not self.healthy():
            raise PeltonError("nothing could be counted lately: the node does not answer")
        value = metadata[asked]
        if asked == "interceptorTargetPendingRequests":
            return [self._interceptor(value)]
        place = metadata.get("namespace") or namespace
        if asked == "function":
            return self._function(f"{place}/{value}", metadata)
        return await (self._route if asked == "interceptorRoute" else self._http_scaled_object)(place, value)

    def _interceptor(self, text: str) -> ScalerReading:
        if not text.isdecimal() or int(text) < 1:
            raise NotFoundError(f"interceptorTargetPendingRequests is {text!r}, not a whole number from 1 up")
        total = sum(route.concurrency for route in self._routes.values())
        return _metric("interceptorTargetPendingRequests", total, float(text))

    async def _route(self, namespace: str, name: str) -> list[ScalerReading]:
        obj = await self._get(INTERCEPTOR_ROUTES, namespace, name, "InterceptorRoute")
        policy = route_metrics(INTERCEPTOR_ROUTE.decode(obj)[0])
        concurrency, rate = self._counted(f"{namespace}/{name}", policy)
        found = []
        if policy.concurrency_target > 0:
            found.append(_metric(f"http_{name}_concurrency", concurrency, policy.concurrency_target))
        if policy.rate_target > 0:
            found.append(_metric(f"http_{name}_rate", rate, policy.rate_target))
        return found

    async def _http_scaled_object(self, namespace: str, name: str) -> list[ScalerReading]:
        obj = await self._get(HTTP_SCALED_OBJECTS, namespace, name, "HTTPScaledObject")
        policy = read_policy({"algorithm": "keda-http", "spec": obj["spec"]}).http
        concurrency, rate = self._counted(f"{namespace}/{name}", policy)
        metric = f"http-{_escaped(namespace)}_002F{_escaped(name)}"
        if policy.rate_target > 0:
            return [_metric(metric, float(ceil(rate)), policy.rate_target)]
        return [_metric(metric, concurrency, policy.concurrency_target)]

    def _counted(self, key: str, policy: HttpScaling) -> tuple[float, float]:
        """Return (concurrency, average of requests per bucket); the ring is the route's from now on."""
        self._windows[key] = (policy.rate_window_s, policy.granularity_s)
        route = self._routes.get(key)
        if route is None:
            return 0.0, 0.0
        return route.concurrency, route.ring.average(self._clock.monotonic())

    def _function(self, key: str, metadata: Mapping[str, str]) -> list[ScalerReading]:
        desired = self._desired(key)
        if desired is None:
            raise NotFoundError(f"there is no Function {key}")
        load = self._load.get(key, {})
        name = desired.workload.name
        scaling = desired.scaling
        found = []
        if desired.subscriptions:
            target = _number(metadata, "eventsTarget", scaling.lag_threshold)
            found.append(_metric(f"{name}-events", float(load.get("pending", 0)), target))
        if desired.route is not None:
            requests = float(load.get("inFlight", 0) + load.get("queued", 0))
            target = _number(metadata, "requestsTarget", max(0.01, scaling.target * scaling.utilization))
            found.append(_metric(f"{name}-requests", requests, target))
        if not found:
            raise NotFoundError(f"Function {key} has neither events nor requests to scale on")
        return found

    async def _get(self, resource: str, namespace: str, name: str, kind: str) -> dict[str, Any]:
        try:
            return await self._store.get(resource, namespace, name)
        except NotFoundError:
            raise NotFoundError(f"there is no {kind} {namespace}/{name}") from None


def _metric(name: str, value: float, target: float) -> ScalerReading:
    return ScalerReading(metric=name, value=value, target=target, active=value > 0)


def _escaped(text: str) -> str:
    """Return a name with what a metric's name must not have as `_%04X`, as the add-on does."""
    return re.sub(r"[^A-Za-z0-9-]", lambda match: f"_{ord(match[0]):04X}", text)


def _number(metadata: Mapping[str, str], key: str, default: float) -> float:
    text = metadata.get(key, "")
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise NotFoundError(f"{key} is {text!r}, not a number greater than 0")
    return number
