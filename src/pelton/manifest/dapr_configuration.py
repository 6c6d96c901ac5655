"""Configuration of dapr.io/v1alpha1: what apps may do, and sections that have no effect on this platform.

Called through `manifest/kinds`; `compat/dapr/` obeys what the model names. Sections about tracing, metrics
and the like are accepted as they are, since the platform has its own, and `advice` says so.
Source: contracts, Dapr components, section 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pelton.manifest.fields import (
    Boolean,
    Field,
    Items,
    Only,
    Problem,
    Raw,
    Record,
    Text,
    describe,
    render_path,
)
from pelton.manifest.verbs import TableVerbs
from pelton.model import dapr as model

__all__ = ["CONFIGURATION", "configuration_advice"]

_TEXT = Text()
_TEXTS = Items(_TEXT)
_ACTION = Text(choices=("", "allow", "deny"))

_SCOPE = Record(
    model.SecretScope,
    (
        Field("storeName", "store_name", _TEXT, required=True, doc="Secret store."),
        Field("defaultAccess", "default_access", _ACTION, doc="allow (default) or deny."),
        Field("allowedSecrets", "allowed", _TEXTS, doc="The only secrets that may be read."),
        Field("deniedSecrets", "denied", _TEXTS, doc="Secrets that may not be read."),
    ),
)
_OPERATION = Record(
    model.AccessOperation,
    (
        Field("name", "name", _TEXT, required=True, doc="Method, such as /orders or /orders/*."),
        Field("httpVerb", "verbs", _TEXTS, doc="Verbs; * for all."),
        Field("action", "action", _ACTION, doc="allow or deny."),
    ),
)
_POLICY = Record(
    model.AccessPolicy,
    (
        Field("appId", "app_id", _TEXT, required=True, doc="The calling app."),
        Field("defaultAction", "default_action", _ACTION, doc="For methods that are not named."),
        Field("trustDomain", "trust_domain", _TEXT, doc="The caller's; default public."),
        Field("namespace", "namespace", _TEXT, doc="The caller's; default default."),
        Field("operations", "operations", Items(_OPERATION), doc="Methods, tried in order."),
    ),
)
_ACCESS = Record(
    model.AccessControl,
    (
        Field("defaultAction", "default_action", _ACTION, doc="For apps that no policy names."),
        Field("trustDomain", "trust_domain", _TEXT, doc="The trust domain of the app itself."),
        Field("policies", "policies", Items(_POLICY), doc="What each calling app may do."),
    ),
)
_RULE = Record(
    model.ApiRule,
    (
        Field("name", "name", _TEXT, required=True, doc="Group of calls, such as state or publish."),
        Field("version", "version", _TEXT, doc="Such as v1.0; empty: all."),
        Field("protocol", "protocol", Text(choices=("", "http", "grpc")), doc="http, grpc; empty: both."),
    ),
)
_API = Record(
    dict,
    (
        Field("allowed", "api_allowed", Items(_RULE), doc="The only groups that apps may use."),
        Field("denied", "api_denied", Items(_RULE), doc="Groups that apps may not use."),
    ),
)
_FEATURE = Record(
    model.Feature,
    (
        Field("name", "name", _TEXT, required=True, doc="Feature."),
        Field("enabled", "enabled", Boolean(), keep=True, doc="Whether it is on."),
    ),
)
_SECRETS = Only("scopes", Items(_SCOPE), missing=(), doc="One for each secret store.")
_DENY = Only("deny", _TEXTS, missing=(), doc="Types, or type and version with a slash.")
_WITHOUT_EFFECT: Final = (
    "tracing",
    "metric",
    "metrics",
    "mtls",
    "nameResolution",
    "httpPipeline",
    "appHttpPipeline",
    "logging",
    "workflow",
    "wasm",
)

_OBEYED = (
    Field("secrets", "secrets", _SECRETS, doc="Which secrets apps may read."),
    Field("accessControl", "access_control", _ACCESS, doc="Which apps may call methods."),
    Field("components", "denied_components", _DENY, doc="Types of components that are not loaded."),
    Field("features", "features", Items(_FEATURE), doc="Feature flags."),
)


def _configuration(api: dict[str, Any] | None = None, **values: Any) -> model.DaprConfiguration:
    found = {name: values.pop(name, None) for name in _WITHOUT_EFFECT}
    rest = {name: section for name, section in found.items() if section is not None}
    return model.DaprConfiguration(**(api or {}), rest=rest, **values)


class _SpecRecord(Record):
    """The spec, whose `api` is flat in the model and whose other sections are in `rest`."""

    def encode(self, value: Any) -> Any:
        """Write the nested form."""
        written = Record(dict, _OBEYED).encode(value)
        api = _API.encode(value)
        return written | ({"api": api} if api else {}) | value.rest


_SPEC = _SpecRecord(
    _configuration,
    (
        *_OBEYED,
        Field("api", "api", _API, doc="Which groups of calls apps may use."),
        *(Field(name, name, Raw(), doc="Accepted; has no effect here.") for name in _WITHOUT_EFFECT),
    ),
)


def _rules(configuration: model.DaprConfiguration) -> list[Problem]:
    return list(_problems(configuration))


def _problems(configuration: model.DaprConfiguration) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, scope in enumerate(configuration.secrets):
        path = render_path(("spec", "secrets", "scopes", index, "storeName"))
        if not scope.store_name:
            yield Problem(path, "required")
        elif scope.store_name in seen:
            yield Problem(path, f"{describe(scope.store_name)} has a scope already")
        seen.add(scope.store_name)
    for field, rules in (("allowed", configuration.api_allowed), ("denied", configuration.api_denied)):
        for index, rule in enumerate(rules):
            if rule.name.lower() not in model.API_GROUPS:
                yield Problem(
                    render_path(("spec", "api", field, index, "name")),
                    f"{describe(rule.name)} is no group of calls; there are: {', '.join(model.API_GROUPS)}",
                )


def configuration_advice(configuration: model.DaprConfiguration) -> list[Problem]:
    """Name the sections that have no effect."""
    return [
        Problem(f"spec.{name}", "has no effect here: the platform has its own") for name in configuration.rest
    ]


CONFIGURATION: TableVerbs[model.DaprConfiguration] = TableVerbs(
    "dapr.io/v1alpha1", "Configuration", _SPEC, rules=_rules
)
"""The verbs of Configuration."""
