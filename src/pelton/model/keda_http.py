"""The HTTP add-on's resources in the platform's words: InterceptorRoute and HTTPScaledObject.

`manifest/keda_http` makes and writes these; `plan/` turns both into routes of the gateway. Durations are
seconds. Source: contracts, autoscaling, sections 5.1 and 5.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "ColdStart",
    "ConcurrencyMetric",
    "ConfigMapEntry",
    "Failover",
    "HeaderMatch",
    "HttpScaledObjectResource",
    "HttpTimeouts",
    "InterceptorRoute",
    "RateMetric",
    "ReplicaBounds",
    "RouteRule",
    "ScaleTargetService",
    "ScalingMetric",
    "ServiceTarget",
    "StaticResponse",
    "StaticRoute",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTarget:
    """A Service and one of its ports, by number or by name; one of them is given."""

    service: str
    port: int | None = None
    port_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderMatch:
    """A header that a request must have; value None = with any value."""

    name: str
    value: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRule:
    """Requests that are meant; an empty attribute means any.

    Attributes:
        hosts: Exact, `*.` in front for any depth, or `*`.
        paths: Prefixes that match on whole segments.
        headers: All of them must match.
    """

    hosts: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    headers: tuple[HeaderMatch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyMetric:
    """Wanted requests in flight per instance."""

    target: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RateMetric:
    """Wanted requests per second and instance, averaged over a window in buckets of `granularity_s`."""

    target: int = 100
    window_s: float = 60.0
    granularity_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingMetric:
    """What decides the number of instances; with both the larger answer counts."""

    concurrency: ConcurrencyMetric | None = None
    rate: RateMetric | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTimeouts:
    """Limits, seconds; None = the platform's setting, 0 = none.

    Attributes:
        readiness_s: Wait for the first ready endpoint.
        request_s: Whole request.
        response_header_s: Until the answer's head.
    """

    readiness_s: float | None = None
    request_s: float | None = None
    response_header_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigMapEntry:
    """An entry of a ConfigMap; key "" = the request's path."""

    name: str
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticResponse:
    """An answer that needs no instance.

    Attributes:
        status: 100 to 599; None for the default of its place (placeholder 503, static route 200).
        body: Text, at most 32768 bytes; None when absent.
        body_from: ConfigMap with the body; None when absent. Never both.
        headers: Name -> value.
    """

    status: int | None = None
    body: str | None = None
    body_from: ConfigMapEntry | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticRoute:
    """Requests that are answered without the target, `Always` or (also "") `WhenUnavailable`."""

    rules: tuple[RouteRule, ...]
    response: StaticResponse
    mode: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """What a request meets while no instance is ready.

    Attributes:
        fallback: Service to turn to once the readiness timeout is over; None when absent.
        placeholder: Answered at once; None when absent.
        max_pending: Requests that may wait; None for any number.
        overflow: `Reject` (also "") or `Placeholder` for requests beyond that.
    """

    fallback: ServiceTarget | None = None
    placeholder: StaticResponse | None = None
    max_pending: int | None = None
    overflow: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterceptorRoute:
    """Requests that wake and load a Service.

    Attributes:
        name, namespace, labels, annotations: Of the resource itself.
        target: Where requests go.
        rules: Which requests; empty = all.
        metric: At least one metric; None only in an invalid object.
        timeouts: None when absent.
        cold_start: None when absent.
        static_routes: First match wins.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    target: ServiceTarget
    rules: tuple[RouteRule, ...] = ()
    metric: ScalingMetric | None = None
    timeouts: HttpTimeouts | None = None
    cold_start: ColdStart | None = None
    static_routes: tuple[StaticRoute, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleTargetService(ServiceTarget):
    """A Service, and the workload behind it that is scaled; "" means apps/v1 and Deployment."""

    name: str = ""
    api_version: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failover(ServiceTarget):
    """Where requests go that waited `timeout_s` seconds for an instance."""

    timeout_s: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaBounds:
    """Instances, both inclusive; None means 0 and 100."""

    minimum: int | None = None
    maximum: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpScaledObjectResource:
    """The older resource for the same, which brings its own scaling.

    Attributes:
        name, namespace, labels, annotations: Of the resource itself.
        hosts, path_prefixes, headers: As in RouteRule.
        target: Service and workload.
        failover: None when absent.
        replicas: None means 0 to 100.
        pending: Wanted requests in flight per instance, older spelling; None means 100.
        scaledown_period_s: From the last request to zero; None means 300.
        initial_cooldown_period_s: The same from creation; None means 0.
        metric: At most one metric; with none `pending` counts.
        timeouts: Without `request_s`; None when absent.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    path_prefixes: tuple[str, ...] = ()
    headers: tuple[HeaderMatch, ...] = ()
    target: ScaleTargetService
    failover: Failover | None = None
    replicas: ReplicaBounds | None = None
    pending: int | None = None
    scaledown_period_s: int | None = None
    initial_cooldown_period_s: int | None = None
    metric: ScalingMetric | None = None
    timeouts: HttpTimeouts | None = None
