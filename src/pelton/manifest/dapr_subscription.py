"""Subscription of dapr.io/v2alpha1, and of v1alpha1, which has one route instead of several.

Called through `manifest/kinds`; `compat/dapr/` subscribes the apps that it is for.
Source: contracts, Dapr components, section 1, and Dapr runtime, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pelton.cel import DYN, compile_cel
from pelton.errors import CelCompileError
from pelton.manifest.fields import (
    Boolean,
    Field,
    Integer,
    Items,
    Mapped,
    Problem,
    Record,
    Text,
    render_path,
)
from pelton.manifest.verbs import TableVerbs
from pelton.manifest.versions import Older
from pelton.model import dapr as model

__all__ = ["SUBSCRIPTION"]

_TEXT = Text()
_BULK = Record(
    model.BulkSubscribe,
    (
        Field("enabled", "enabled", Boolean(), doc="Whether events come in bulk."),
        Field(
            "maxMessagesCount", "max_messages", Integer(minimum=1), doc="Most events at once; default 100."
        ),
        Field(
            "maxAwaitDurationMs",
            "max_wait_ms",
            Integer(minimum=0),
            doc="Longest wait for more; default 1000.",
        ),
    ),
)
_RULE = Record(
    model.SubscriptionRule,
    (
        Field("match", "match", _TEXT, doc="CEL over `event`; empty: every event."),
        Field("path", "path", _TEXT, required=True, doc="Route of the app."),
    ),
)
_ROUTES = Record(
    dict,
    (
        Field("rules", "rules", Items(_RULE), doc="Tried in order."),
        Field("default", "default_route", _TEXT, doc="Route for what no rule takes."),
    ),
)
_COMMON = (
    Field("pubsubname", "pubsub_name", _TEXT, required=True, doc="Name of the pub/sub component."),
    Field("topic", "topic", _TEXT, required=True, doc="Topic."),
)
_FURTHER = (
    Field("metadata", "metadata", Mapped(_TEXT), doc="Settings of the subscription, such as rawPayload."),
    Field("deadLetterTopic", "dead_letter_topic", _TEXT, doc="Topic for what the app gives up."),
    Field("bulkSubscribe", "bulk", _BULK, doc="Delivery in bulk."),
)
_BESIDE = (Field("scopes", "scopes", Items(_TEXT), doc="App ids that get it; empty: all."),)


def _subscription(routes: dict[str, Any] | None = None, **values: Any) -> model.DaprSubscription:
    return model.DaprSubscription(**(routes or {}), **values)


class _SpecRecord(Record):
    """The spec, whose `routes` are flat in the model."""

    def encode(self, value: Any) -> Any:
        """Write the nested form."""
        written = Record(dict, _COMMON).encode(value)
        routes = _ROUTES.encode(value)
        return written | ({"routes": routes} if routes else {}) | Record(dict, _FURTHER).encode(value)


_SPEC = _SpecRecord(
    _subscription,
    (*_COMMON, Field("routes", "routes", _ROUTES, doc="Which events go to which route."), *_FURTHER),
)


def _up(obj: dict[str, Any]) -> dict[str, Any]:
    route = obj["spec"].pop("route", None)
    if route:
        obj["spec"]["routes"] = {"default": route}
    return {**obj, "apiVersion": "dapr.io/v2alpha1"}


def _down(obj: dict[str, Any]) -> dict[str, Any]:
    routes = obj["spec"].pop("routes", None) or {}
    # Rules have no place there; the route that most events take is what an old reader can use.
    route = routes.get("default") or next((rule["path"] for rule in routes.get("rules") or ()), "")
    if route:
        obj["spec"]["route"] = route
    return {**obj, "apiVersion": "dapr.io/v1alpha1"}


def _rules(subscription: model.DaprSubscription) -> list[Problem]:
    return list(_problems(subscription))


def _problems(subscription: model.DaprSubscription) -> Iterator[Problem]:
    if not subscription.pubsub_name:
        yield Problem("spec.pubsubname", "required")
    if not subscription.topic:
        yield Problem("spec.topic", "required")
    if not subscription.rules and not subscription.default_route:
        yield Problem("spec.routes", "needs a default, or a rule with a path")
    for index, rule in enumerate(subscription.rules):
        if not rule.path:
            yield Problem(render_path(("spec", "routes", "rules", index, "path")), "required")
        if rule.match.strip():
            try:
                compile_cel(rule.match, {"event": DYN}, undeclared=DYN)
            except CelCompileError as error:
                yield Problem(render_path(("spec", "routes", "rules", index, "match")), error.message)


SUBSCRIPTION: TableVerbs[model.DaprSubscription] = TableVerbs(
    "dapr.io/v2alpha1",
    "Subscription",
    _SPEC,
    rules=_rules,
    required=True,
    beside=_BESIDE,
    older=(
        Older(
            version="v1alpha1",
            spec=Record(dict, (*_COMMON, Field("route", "route", _TEXT, doc="Route of the app."), *_FURTHER)),
            up=_up,
            down=_down,
            beside=_BESIDE,
        ),
    ),
    moved={"spec.route": "spec.routes.default"},
)
"""The verbs of Subscription."""
