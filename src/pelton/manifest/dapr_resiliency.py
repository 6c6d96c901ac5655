"""Resiliency of dapr.io/v1alpha1: its table and rules.

Called through `manifest/kinds`. The spec's policies and targets are flat in the model. What a target names
must be among the policies, conditions must compile: both are told at admission instead of at the first call.
Source: contracts, Dapr components, section 1, and Dapr runtime, section 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pelton.cel import BOOL, INT, compile_cel
from pelton.errors import CelCompileError
from pelton.manifest.fields import (
    Duration,
    Field,
    Integer,
    Items,
    Mapped,
    Problem,
    Record,
    Text,
    describe,
    nearest,
    render_path,
)
from pelton.manifest.verbs import TableVerbs
from pelton.model import resiliency as model

__all__ = ["RESILIENCY", "resiliency_advice"]

_TEXT = Text()
_LEAST = Duration(minimum_s=0)


def _retry(matching: dict[str, Any] | None = None, **values: Any) -> model.RetryPolicy:
    return model.RetryPolicy(**(matching or {}), **values)


class _RetryRecord(Record):
    """A retry policy, whose `matching` is flat in the model."""

    def encode(self, value: Any) -> Any:
        """Write the nested form."""
        codes = {"httpStatusCodes": value.http_codes, "gRPCStatusCodes": value.grpc_codes}
        matching = {name: text for name, text in codes.items() if text}
        flat = Record(model.RetryPolicy, [row for row in self.table if row.json != "matching"])
        return flat.encode(value) | ({"matching": matching} if matching else {})


_MATCHING = Record(
    dict,
    (
        Field("httpStatusCodes", "http_codes", _TEXT, doc="Codes and ranges, such as 429,500-599."),
        Field("gRPCStatusCodes", "grpc_codes", _TEXT, doc="Codes and ranges, such as 1,13-14."),
    ),
)
_RETRY = _RetryRecord(
    _retry,
    (
        Field(
            "policy",
            "policy",
            Text(choices=("constant", "exponential")),
            doc="How intervals grow; default constant.",
        ),
        Field("duration", "duration_s", _LEAST, doc="Interval, or the first one; default 5s."),
        Field("maxInterval", "max_interval_s", _LEAST, doc="Longest interval of exponential; default 60s."),
        Field(
            "maxRetries", "max_retries", Integer(minimum=-1), doc="Further attempts; default -1: no limit."
        ),
        Field("matching", "matching", _MATCHING, doc="What is repeated; default: all failures."),
    ),
)
_BREAKER = Record(
    model.BreakerPolicy,
    (
        Field("maxRequests", "max_requests", Integer(minimum=0), doc="Calls that try again; default 1."),
        Field("interval", "interval_s", _LEAST, doc="When counts are cleared; default 0s: never."),
        Field("timeout", "timeout_s", _LEAST, doc="How long calls are refused; default 60s."),
        Field("trip", "trip", Text(min_length=1), doc="CEL; default consecutiveFailures > 5."),
    ),
)
_NAMES = (
    Field("timeout", "timeout", _TEXT, doc="Name of a timeout."),
    Field("retry", "retry", _TEXT, doc="Name of a retry policy."),
    Field("circuitBreaker", "breaker", _TEXT, doc="Name of a circuit breaker."),
)
_CACHE = Field("circuitBreakerCacheSize", "cache_size", Integer(minimum=1), doc="Most circuit breakers kept.")
_APP = Record(model.ResiliencyTarget, (*_NAMES, _CACHE))
_ACTOR = Record(
    model.ResiliencyTarget,
    (
        *_NAMES,
        Field(
            "circuitBreakerScope",
            "scope",
            Text(choices=("id", "type", "both")),
            doc="What shares a circuit breaker.",
        ),
        _CACHE,
    ),
)
_DIRECTION = Record(model.ResiliencyTarget, _NAMES)
_COMPONENT = Record(
    model.ComponentTarget,
    (
        Field("inbound", "inbound", _DIRECTION, doc="For what comes from it."),
        Field("outbound", "outbound", _DIRECTION, doc="For what goes to it."),
    ),
)
_PARTS: Mapping[str, tuple[Field, ...]] = {
    "policies": (
        Field("timeouts", "timeouts", Mapped(_LEAST), doc="Name -> longest time of one attempt."),
        Field("retries", "retries", Mapped(_RETRY), doc="Name -> how a call is repeated."),
        Field("circuitBreakers", "breakers", Mapped(_BREAKER), doc="Name -> when calls are refused."),
    ),
    "targets": (
        Field("apps", "apps", Mapped(_APP), doc="App id -> its policies."),
        Field("actors", "actors", Mapped(_ACTOR), doc="Type of actor -> its policies."),
        Field("components", "components", Mapped(_COMPONENT), doc="Component -> its policies."),
    ),
}
_DOCS = {"policies": "What targets can name.", "targets": "What the policies are for."}


def _spec(**parts: Any) -> model.Resiliency:
    flat = {name: value for key in _PARTS for name, value in (parts.pop(key, None) or {}).items()}
    return model.Resiliency(**flat, **parts)


class _SpecRecord(Record):
    """The spec, whose two parts are flat in the model."""

    def encode(self, value: Any) -> Any:
        """Write the nested form."""
        written = {key: Record(dict, table).encode(value) for key, table in _PARTS.items()}
        return {key: part for key, part in written.items() if part}


_SPEC = _SpecRecord(
    _spec, tuple(Field(key, key, Record(dict, table), doc=_DOCS[key]) for key, table in _PARTS.items())
)


def _rules(resiliency: model.Resiliency) -> list[Problem]:
    return list(_problems(resiliency))


def _problems(resiliency: model.Resiliency) -> Iterator[Problem]:
    for name, retry in resiliency.retries.items():
        for field, text in (("httpStatusCodes", retry.http_codes), ("gRPCStatusCodes", retry.grpc_codes)):
            try:
                model.code_ranges(text)
            except ValueError as error:
                yield Problem(
                    render_path(("spec", "policies", "retries", name, "matching", field)), str(error)
                )
    for name, breaker in resiliency.breakers.items():
        try:
            compile_cel(breaker.trip, dict.fromkeys(model.BREAKER_COUNTS, INT), result=BOOL)
        except CelCompileError as error:
            yield Problem(
                render_path(("spec", "policies", "circuitBreakers", name, "trip")),
                f"{error.message} (variables: {', '.join(model.BREAKER_COUNTS)})",
            )
    for path, target in _targets(resiliency):
        for field, name, known in (
            ("timeout", target.timeout, resiliency.timeouts),
            ("retry", target.retry, resiliency.retries),
            ("circuitBreaker", target.breaker, resiliency.breakers),
        ):
            if name and name not in known:
                close = nearest(name, known)
                hint = f"; did you mean {close}?" if close else ""
                yield Problem(f"{path}.{field}", f"there is no policy {describe(name)}{hint}")


def resiliency_advice(resiliency: model.Resiliency) -> list[Problem]:
    """Name the targets that have no effect."""
    return [
        Problem(render_path(("spec", "targets", "actors", name)), "has no effect here: there are no actors")
        for name in resiliency.actors
    ]


def _targets(resiliency: model.Resiliency) -> Iterator[tuple[str, model.ResiliencyTarget]]:
    for kind, targets in (("apps", resiliency.apps), ("actors", resiliency.actors)):
        for name, target in targets.items():
            yield render_path(("spec", "targets", kind, name)), target
    for name, component in resiliency.components.items():
        for direction in ("inbound", "outbound"):
            found = getattr(component, direction)
            if found is not None:
                yield render_path(("spec", "targets", "components", name, direction)), found


RESILIENCY: TableVerbs[model.Resiliency] = TableVerbs(
    "dapr.io/v1alpha1",
    "Resiliency",
    _SPEC,
    rules=_rules,
    required=True,
    beside=(Field("scopes", "scopes", Items(_TEXT), doc="App ids that it holds for; empty: all."),),
)
"""The verbs of Resiliency."""
