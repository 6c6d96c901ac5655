"""InterceptorRoute (http.keda.sh/v1beta1) and HTTPScaledObject (http.keda.sh/v1alpha1): tables and rules.

Called through `manifest/kinds`; `plan/` turns both into routes. Source: contracts, autoscaling, sections 5.1
and 5.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pelton.manifest.fields import (
    Duration,
    Field,
    Integer,
    Items,
    Mapped,
    Only,
    Path,
    Problem,
    Reading,
    Record,
    Text,
    describe,
)
from pelton.manifest.verbs import TableVerbs
from pelton.model import keda_http as model

__all__ = [
    "HTTP_SCALED_OBJECT",
    "INTERCEPTOR_ROUTE",
    "http_scaled_object_advice",
    "interceptor_route_advice",
]

_TEXT = Text()
_COUNT = Integer(minimum=0)
_PORT = Integer(minimum=1, maximum=65535)
_TIME = Duration(minimum_s=0)
_LONGEST_BODY = 32768
_HOST = re.compile(
    r"\*|(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.IGNORECASE
)


def _ports(what: str) -> tuple[Field, ...]:
    return (
        Field("port", "port", _PORT, doc=f"Port of the {what} by number; exactly one of port and portName."),
        Field("portName", "port_name", _TEXT, doc=f"Port of the {what} by name."),
    )


_SERVICE = (
    Field("service", "service", Text(min_length=1), required=True, doc="Name of the Service."),
    *_ports("Service"),
)
_HEADERS = Items(
    Record(
        model.HeaderMatch,
        (
            Field("name", "name", Text(min_length=1), required=True, doc="Header, in any letter case."),
            Field("value", "value", _TEXT, keep=True, doc="Its exact value; default: any."),
        ),
    )
)
_PATH = Text(min_length=1)
_RULE = Record(
    model.RouteRule,
    (
        Field("hosts", "hosts", Items(_TEXT), doc="Host names, *.suffix, or * for all; default: all."),
        Field(
            "paths",
            "paths",
            Items(Only("value", _PATH, required=True, doc="Path prefix.")),
            doc="Path prefixes; default: /.",
        ),
        Field("headers", "headers", _HEADERS, doc="Headers that a request must have, all of them."),
    ),
)


def _response(default: str) -> Record:
    return Record(
        model.StaticResponse,
        (
            Field(
                "statusCode",
                "status",
                Integer(minimum=100, maximum=599),
                doc=f"Status; default {default}.",
            ),
            Field("body", "body", Text(max_length=_LONGEST_BODY), keep=True, doc="Body."),
            Field(
                "bodyFromConfigMap",
                "body_from",
                Record(
                    model.ConfigMapEntry,
                    (
                        Field(
                            "name", "name", Text(min_length=1), required=True, doc="Name of the ConfigMap."
                        ),
                        Field("key", "key", _TEXT, doc="Entry in it; default: the request's path."),
                    ),
                ),
                doc='Body from a ConfigMap with the label http.keda.sh/response-body: "true".',
            ),
            Field("headers", "headers", Mapped(_TEXT), doc="Headers of the answer."),
        ),
    )


def _metric(*, default: int | None) -> Record:
    """Return scalingMetric; `default` is the target where none is written, None where it must be."""
    target = Field(
        "targetValue",
        "target",
        Integer(minimum=1),
        required=default is None,
        doc="Wanted value per instance.",
        default=default,
    )
    return Record(
        model.ScalingMetric,
        (
            Field(
                "concurrency",
                "concurrency",
                Record(model.ConcurrencyMetric, (target,)),
                doc="Scale by requests in flight.",
            ),
            Field(
                "requestRate",
                "rate",
                Record(
                    model.RateMetric,
                    (
                        target,
                        Field("window", "window_s", Duration(), doc="Time averaged over.", default="1m"),
                        Field(
                            "granularity",
                            "granularity_s",
                            Duration(),
                            doc="Length of a bucket.",
                            default="1s",
                        ),
                    ),
                ),
                doc="Scale by requests per second.",
            ),
        ),
    )


# ------------------------------------------------------------------------------------------- InterceptorRoute

_FALLBACK = Record(
    model.ServiceTarget,
    (
        Field("name", "service", Text(min_length=1), required=True, doc="Name of the Service."),
        *_ports("Service"),
    ),
)
_INTERCEPTOR_ROUTE_SPEC = Record(
    model.InterceptorRoute,
    (
        Field(
            "target", "target", Record(model.ServiceTarget, _SERVICE), required=True, doc="Where requests go."
        ),
        Field("rules", "rules", Items(_RULE), doc="Which requests; default: all."),
        Field(
            "scalingMetric",
            "metric",
            _metric(default=None),
            required=True,
            doc="What decides the number of instances; at least one metric.",
        ),
        Field(
            "timeouts",
            "timeouts",
            Record(
                model.HttpTimeouts,
                (
                    Field("readiness", "readiness_s", _TIME, doc="Wait for an instance; 0s = no limit."),
                    Field("request", "request_s", _TIME, doc="Whole request; 0s = no limit."),
                    Field("responseHeader", "response_header_s", _TIME, doc="Until the answer begins."),
                ),
            ),
            doc="Limits in time; default: the platform's.",
        ),
        Field(
            "coldStart",
            "cold_start",
            Record(
                model.ColdStart,
                (
                    Field(
                        "fallback",
                        "fallback",
                        Only("service", _FALLBACK, required=True, doc="The Service."),
                        doc="Service that gets the request when no instance came in time.",
                    ),
                    Field(
                        "placeholder",
                        "placeholder",
                        Only("response", _response("503"), required=True, doc="The answer."),
                        doc="Answer at once while no instance is ready; the request still wakes one.",
                    ),
                    Field(
                        "maxPendingRequests", "max_pending", Integer(minimum=1), doc="Requests that may wait."
                    ),
                    Field(
                        "overflow",
                        "overflow",
                        Text(choices=("Reject", "Placeholder")),
                        doc="What the others get: 503 (Reject, the default) or the placeholder.",
                    ),
                ),
            ),
            doc="What a request meets while no instance is ready.",
        ),
        Field(
            "staticRoutes",
            "static_routes",
            Items(
                Record(
                    model.StaticRoute,
                    (
                        Field(
                            "rules", "rules", Items(_RULE, min_items=1), required=True, doc="Which requests."
                        ),
                        Field("response", "response", _response("200"), required=True, doc="Their answer."),
                        Field(
                            "responseMode",
                            "mode",
                            Text(choices=("WhenUnavailable", "Always")),
                            doc="Whether it is given only while no instance is ready.",
                            default="WhenUnavailable",
                        ),
                    ),
                )
            ),
            doc="Requests that are answered without the target and wake nothing; the first match counts.",
        ),
    ),
)


def _one_port(path: str, target: model.ServiceTarget | None) -> Iterator[Problem]:
    if target is not None and (target.port is None) == (not target.port_name):
        found = "neither is given" if target.port is None else "both are given"
        yield Problem(path, f"exactly one of port and portName is required, {found}")


def _hosts(path: str, hosts: Sequence[str]) -> Iterator[Problem]:
    for index, host in enumerate(hosts):
        if not _HOST.fullmatch(host):
            yield Problem(
                f"{path}[{index}]",
                f"must be a host name, *.suffix, or *, without a port; found {describe(host)}",
            )


def _answer(path: str, response: model.StaticResponse | None) -> Iterator[Problem]:
    if response is None:
        return
    if response.body is not None and response.body_from is not None:
        yield Problem(path, "at most one of body and bodyFromConfigMap")
    if response.body is not None and len(response.body.encode()) > _LONGEST_BODY >= len(response.body):
        yield Problem(f"{path}.body", f"must have at most {_LONGEST_BODY} bytes")


def _interceptor_route_rules(route: model.InterceptorRoute) -> list[Problem]:
    return list(_interceptor_route(route))


def _interceptor_route(route: model.InterceptorRoute) -> Iterator[Problem]:
    yield from _one_port("spec.target", route.target)
    for index, rule in enumerate(route.rules):
        yield from _hosts(f"spec.rules[{index}].hosts", rule.hosts)
    metric = route.metric
    if metric is not None and metric.concurrency is None and metric.rate is None:
        yield Problem("spec.scalingMetric", "at least one of concurrency and requestRate is required")
    yield from _rate(metric)
    cold = route.cold_start
    if cold is not None:
        if cold.fallback is None and cold.placeholder is None:
            yield Problem("spec.coldStart", "needs fallback or placeholder")
        yield from _one_port("spec.coldStart.fallback.service", cold.fallback)
        yield from _answer("spec.coldStart.placeholder.response", cold.placeholder)
        if cold.overflow == "Placeholder" and cold.placeholder is None:
            yield Problem("spec.coldStart.overflow", "Placeholder needs spec.coldStart.placeholder")
    for index, static in enumerate(route.static_routes):
        path = f"spec.staticRoutes[{index}]"
        for number, rule in enumerate(static.rules):
            yield from _hosts(f"{path}.rules[{number}].hosts", rule.hosts)
        yield from _answer(f"{path}.response", static.response)


def _rate(metric: model.ScalingMetric | None) -> Iterator[Problem]:
    rate = metric.rate if metric is not None else None
    if rate is None:
        return
    path = "spec.scalingMetric.requestRate"
    window_s: Any = rate.window_s  # both are None where they could not be read
    granularity_s: Any = rate.granularity_s
    if granularity_s is not None and granularity_s <= 0:
        yield Problem(f"{path}.granularity", "must be greater than 0")
    elif window_s is not None and granularity_s is not None and window_s < granularity_s:
        yield Problem(f"{path}.window", "must not be shorter than granularity")


INTERCEPTOR_ROUTE: TableVerbs[model.InterceptorRoute] = TableVerbs(
    "http.keda.sh/v1beta1",
    "InterceptorRoute",
    _INTERCEPTOR_ROUTE_SPEC,
    rules=_interceptor_route_rules,
    required=True,
)
"""The verbs of InterceptorRoute."""


def interceptor_route_advice(route: model.InterceptorRoute) -> list[Problem]:
    """Return what in an InterceptorRoute has no effect."""
    cold = route.cold_start
    if cold is not None and cold.overflow and cold.max_pending is None:
        return [Problem("spec.coldStart.overflow", "has no effect without maxPendingRequests")]
    waiting = cold is not None and cold.max_pending is not None and cold.overflow == "Placeholder"
    if cold is not None and cold.placeholder is not None and cold.fallback is not None and not waiting:
        return [
            Problem(
                "spec.coldStart.fallback",
                "is not reached: the placeholder answers at once while no instance is ready",
            )
        ]
    return []


# ------------------------------------------------------------------------------------------- HTTPScaledObject


def _target(*, service: str = "", deployment: str = "", **rest: Any) -> model.ScaleTargetService:
    named = {"name": deployment, **rest} if deployment else rest
    return model.ScaleTargetService(service=service, **named)


class _TargetRecord(Record):
    """The target, whose older field `deployment` is read as `name`."""

    def values(self, value: dict[str, Any], path: Path, reading: Reading) -> dict[str, Any]:
        """Read the fields; say what to write in place of the older one."""
        if value.get("deployment") is not None:
            reading.warn((*path, "deployment"), "is an older spelling: write name")
        return super().values(value, path, reading)

    def encode(self, value: Any) -> Any:
        """Write it with `name`."""
        return Record(model.ScaleTargetService, _TARGET).encode(value)


_TARGET = (
    Field("name", "name", _TEXT, doc="Workload that is scaled; default: that of the Service's name."),
    Field("apiVersion", "api_version", _TEXT, doc="Its version; default apps/v1."),
    Field("kind", "kind", _TEXT, doc="Its kind; default Deployment."),
    *_SERVICE,
)
_HTTP_SCALED_OBJECT_SPEC = Record(
    model.HttpScaledObjectResource,
    (
        Field("hosts", "hosts", Items(_TEXT), doc="Host names, *.suffix, or * for all; default: all."),
        Field("pathPrefixes", "path_prefixes", Items(_TEXT), doc="Path prefixes; default: /."),
        Field("headers", "headers", _HEADERS, doc="Headers that a request must have, all of them."),
        Field(
            "scaleTargetRef",
            "target",
            _TargetRecord(
                _target, (*_TARGET, Field("deployment", "deployment", _TEXT, doc="Older spelling of name."))
            ),
            required=True,
            doc="Where requests go, and what is scaled.",
        ),
        Field(
            "coldStartTimeoutFailoverRef",
            "failover",
            Record(
                model.Failover,
                (
                    *_SERVICE,
                    Field(
                        "timeoutSeconds",
                        "timeout_s",
                        Integer(minimum=1),
                        doc="Seconds a request waits for an instance before.",
                        default=30,
                    ),
                ),
            ),
            doc="Service that gets the request when no instance came in time.",
        ),
        Field(
            "replicas",
            "replicas",
            Record(
                model.ReplicaBounds,
                (
                    Field("min", "minimum", _COUNT, doc="Fewest instances; default 0."),
                    Field("max", "maximum", _COUNT, doc="Most instances; default 100."),
                ),
            ),
            doc="Bounds of the number of instances.",
        ),
        Field("targetPendingRequests", "pending", _COUNT, doc="Older spelling of scalingMetric.concurrency."),
        Field(
            "scaledownPeriod",
            "scaledown_period_s",
            _COUNT,
            doc="Seconds from the last request to zero; default 300.",
        ),
        Field(
            "initialCooldownPeriod",
            "initial_cooldown_period_s",
            _COUNT,
            doc="Seconds from creation to zero while there was no request; default 0.",
        ),
        Field("scalingMetric", "metric", _metric(default=100), doc="What decides the number of instances."),
        Field(
            "timeouts",
            "timeouts",
            Record(
                model.HttpTimeouts,
                (
                    Field("conditionWait", "readiness_s", _TIME, doc="Wait for an instance."),
                    Field("responseHeader", "response_header_s", _TIME, doc="Until the answer begins."),
                ),
            ),
            doc="Limits in time; default: the platform's.",
        ),
    ),
)


def _http_scaled_object_rules(scaled: model.HttpScaledObjectResource) -> list[Problem]:
    problems = [*_hosts("spec.hosts", scaled.hosts), *_one_port("spec.scaleTargetRef", scaled.target)]
    problems += _one_port("spec.coldStartTimeoutFailoverRef", scaled.failover)
    replicas = scaled.replicas
    if replicas is not None:
        low, high = replicas.minimum or 0, 100 if replicas.maximum is None else replicas.maximum
        if low > high:
            problems.append(Problem("spec.replicas.min", f"must not be above max, found {low} and {high}"))
    metric = scaled.metric
    if metric is not None and metric.concurrency is not None and metric.rate is not None:
        problems.append(Problem("spec.scalingMetric", "at most one of concurrency and requestRate"))
    return [*problems, *_rate(metric)]


HTTP_SCALED_OBJECT: TableVerbs[model.HttpScaledObjectResource] = TableVerbs(
    "http.keda.sh/v1alpha1",
    "HTTPScaledObject",
    _HTTP_SCALED_OBJECT_SPEC,
    rules=_http_scaled_object_rules,
    required=True,
)
"""The verbs of HTTPScaledObject."""


def http_scaled_object_advice(scaled: model.HttpScaledObjectResource) -> list[Problem]:
    """Return what in an HTTPScaledObject is out of date or has no effect."""
    advice = []
    if scaled.pending is not None:
        advice.append(
            Problem(
                "spec.targetPendingRequests",
                "has no effect beside scalingMetric"
                if scaled.metric is not None
                else "is an older spelling: write spec.scalingMetric.concurrency.targetValue",
            )
        )
    if not scaled.hosts:
        advice.append(Problem("spec.hosts", "not given: requests for every host are taken"))
    if (
        scaled.failover is not None
        and scaled.timeouts is not None
        and scaled.timeouts.readiness_s is not None
    ):
        advice.append(
            Problem(
                "spec.timeouts.conditionWait",
                "has no effect: coldStartTimeoutFailoverRef.timeoutSeconds says how long a request waits",
            )
        )
    return advice
