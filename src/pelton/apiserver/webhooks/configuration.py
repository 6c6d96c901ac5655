"""MutatingWebhookConfiguration and ValidatingWebhookConfiguration: their rows, and compiled webhooks. Pure.

`apiserver/service.py` gives the rows to the registry; `admission.py` compiles what is stored.
Source: contracts operator-webhook.md section 2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pelton.apiserver.builtin.core import AGE
from pelton.apiserver.builtin.shapes import (
    Shaped,
    array,
    integer,
    keyed,
    kind,
    mapping,
    strings,
    struct,
    text,
)
from pelton.apiserver.registry import Cause, Row
from pelton.apiserver.rules import Obj
from pelton.apiserver.schema.problems import duplicate, invalid_value, not_supported, required, too_many
from pelton.apiserver.webhooks import client_config
from pelton.apiserver.webhooks.matching import Condition, compile_condition, condition_fault, selector_faults
from pelton.manifest.kinds import Column

__all__ = ["GROUP", "KNOWN_VERSIONS", "MUTATING", "ROWS", "VALIDATING", "Webhook", "compile_webhooks"]

GROUP = "admissionregistration.k8s.io"
"""API group of the configurations; no webhook is ever asked about objects of it."""

KNOWN_VERSIONS = ("v1", "v1beta1")
"""Versions of AdmissionReview that this server speaks."""

_OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?){2,}")
_QUALIFIED = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]")

_SELECTOR = struct(
    "Labels that must be there; empty for all.",
    {
        "matchLabels": mapping("Label -> value."),
        "matchExpressions": array(
            "Further demands.",
            struct(
                "One demand.",
                {
                    "key": text("Label."),
                    "operator": text("In, NotIn, Exists, DoesNotExist."),
                    "values": strings(""),
                },
                required=("key", "operator"),
            ),
        ),
    },
    atomic=True,
)


def _webhook(*, mutating: bool) -> dict[str, Any]:
    fields = {
        "name": text("Fully qualified name, e.g. `defaults.example.com`."),
        "clientConfig": client_config.CLIENT_CONFIG,
        "rules": array(
            "What it is asked about.",
            struct(
                "Operations on resources.",
                {
                    "operations": strings("CREATE, UPDATE, DELETE, CONNECT, or `*`."),
                    "apiGroups": strings("Groups, or `*`."),
                    "apiVersions": strings("Versions, or `*`."),
                    "resources": strings("Plurals, `pods/status`, `pods/*`, `*/scale`, `*` or `*/*`."),
                    "scope": text("Cluster, Namespaced or `*`.", default="*"),
                },
            ),
        ),
        "failurePolicy": text("What a failed call means: Fail or Ignore.", default="Fail"),
        "matchPolicy": text(
            "Exact, or Equivalent: other versions of the resource match too.", default="Equivalent"
        ),
        "namespaceSelector": {**_SELECTOR, "default": {}},
        "objectSelector": {**_SELECTOR, "default": {}},
        "sideEffects": text("None or NoneOnDryRun."),
        "timeoutSeconds": integer("Seconds until a call counts as failed, 1 to 30.", default=10),
        "admissionReviewVersions": strings(
            "Versions of AdmissionReview that it understands, the best first."
        ),
        "matchConditions": keyed(
            "CEL expressions that must all be true.",
            struct(
                "One condition.",
                {
                    "name": text("Name."),
                    "expression": text("CEL over object, oldObject, request, authorizer."),
                },
                required=("name", "expression"),
            ),
            "name",
        ),
    }
    if mutating:
        fields["reinvocationPolicy"] = text(
            "Never, or IfNeeded: again when a later webhook changed the object.", default="Never"
        )
    return struct("A webhook.", fields, required=("name", "clientConfig"))


def _rules(mutating: bool) -> Any:
    def rules(new: Obj, old: Obj | None) -> list[Cause]:
        causes: list[Cause] = []
        names: set[str] = set()
        for at, hook in enumerate(new.get("webhooks") or ()):
            path = f"webhooks[{at}]"
            causes += _check(hook, path, mutating=mutating)
            name = hook.get("name")
            if name and name in names:
                causes.append(duplicate(f"{path}.name", name))
            names.add(name)
        return causes

    return rules


def _check(hook: Mapping[str, Any], path: str, *, mutating: bool) -> list[Cause]:
    causes: list[Cause] = []
    name = hook.get("name")
    if name and not _NAME.fullmatch(name):
        causes.append(
            invalid_value(
                f"{path}.name", name, "should be a domain with at least three segments separated by dots"
            )
        )
    causes += _versions(hook.get("admissionReviewVersions") or (), f"{path}.admissionReviewVersions")
    for at, rule in enumerate(hook.get("rules") or ()):
        causes += _rule(rule, f"{path}.rules[{at}]")
    for key, choices in (
        ("failurePolicy", ("Fail", "Ignore")),
        ("matchPolicy", ("Equivalent", "Exact")),
        *([("reinvocationPolicy", ("IfNeeded", "Never"))] if mutating else []),
    ):
        if hook.get(key) not in choices:
            causes.append(not_supported(f"{path}.{key}", hook.get(key), choices))
    effects = ("None", "NoneOnDryRun")
    if not hook.get("sideEffects"):
        causes.append(required(f"{path}.sideEffects", f"must specify one of {', '.join(effects)}"))
    elif hook["sideEffects"] not in effects:
        causes.append(not_supported(f"{path}.sideEffects", hook["sideEffects"], effects))
    seconds = hook.get("timeoutSeconds", 10)
    if not 1 <= seconds <= 30:
        causes.append(
            invalid_value(
                f"{path}.timeoutSeconds", seconds, "the timeout value must be between 1 and 30 seconds"
            )
        )
    for key in ("namespaceSelector", "objectSelector"):
        for below, message in selector_faults(hook.get(key) or {}):
            causes.append(Cause(field=f"{path}.{key}.{below}", message=message))  # two levels
    causes += client_config.check(hook.get("clientConfig") or {}, f"{path}.clientConfig")
    return causes + _conditions(hook.get("matchConditions") or (), f"{path}.matchConditions")


def _versions(versions: Sequence[str], path: str) -> list[Cause]:
    if not versions:
        return [required(path, f"must specify one of {', '.join(KNOWN_VERSIONS)}")]
    causes = [duplicate(f"{path}[{at}]", each) for at, each in enumerate(versions) if each in versions[:at]]
    if not set(versions) & set(KNOWN_VERSIONS):
        causes.append(
            invalid_value(path, list(versions), f"must include at least one of {', '.join(KNOWN_VERSIONS)}")
        )
    return causes


def _rule(rule: Mapping[str, Any], path: str) -> list[Cause]:
    causes: list[Cause] = []
    for key in ("operations", "apiGroups", "apiVersions", "resources"):
        values = rule.get(key) or ()
        if not values:
            causes.append(required(f"{path}.{key}"))
        if key != "resources" and "*" in values and len(values) > 1:
            causes.append(
                invalid_value(
                    f"{path}.{key}", list(values), "if '*' is present, must not specify other " + key
                )
            )
        if key in ("apiVersions", "resources"):
            causes += [required(f"{path}.{key}[{at}]") for at, each in enumerate(values) if not each]
    for at, operation in enumerate(rule.get("operations") or ()):
        if operation not in _OPERATIONS:
            causes.append(not_supported(f"{path}.operations[{at}]", operation, _OPERATIONS))
    resources = rule.get("resources") or ()
    if "*/*" in resources and len(resources) > 1:
        causes.append(
            invalid_value(
                f"{path}.resources", list(resources), "if '*/*' is present, must not specify other resources"
            )
        )
    if "*" in resources and any("/" not in each and each != "*" for each in resources):
        causes.append(
            invalid_value(
                f"{path}.resources",
                list(resources),
                "if '*' is present, must not specify other resources without subresources",
            )
        )
    if rule.get("scope") not in ("*", "Cluster", "Namespaced"):
        causes.append(not_supported(f"{path}.scope", rule.get("scope"), ("*", "Cluster", "Namespaced")))
    return causes


def _conditions(conditions: Sequence[Mapping[str, Any]], path: str) -> list[Cause]:
    if len(conditions) > 64:
        return [too_many(path, len(conditions), 64)]
    causes = []
    for at, condition in enumerate(conditions):
        name, expression = condition.get("name") or "", condition.get("expression") or ""
        if name and not _QUALIFIED.fullmatch(name):
            causes.append(invalid_value(f"{path}[{at}].name", name, "must be a qualified name"))
        if expression.strip() and (reason := condition_fault(name, expression)):
            causes.append(
                invalid_value(f"{path}[{at}].expression", expression, f"compilation failed: {reason}")
            )
    return causes


def _row(name: str, plural: str, *, mutating: bool) -> Row:
    schema = kind(
        "Webhooks that have a say in writes.",
        {
            "webhooks": keyed(
                "The webhooks, in the order in which they are asked.", _webhook(mutating=mutating), "name"
            )
        },
    )
    return Row(
        group=GROUP,
        version="v1",
        kind=name,
        plural=plural,
        singular=name.lower(),
        namespaced=False,
        categories=("api-extensions",),
        builtin=True,
        columns=(Column("Webhooks", "count", ".webhooks"), AGE),
        schema=schema,
        checks=Shaped(name, schema, rules=_rules(mutating)),
    )


MUTATING = _row("MutatingWebhookConfiguration", "mutatingwebhookconfigurations", mutating=True)
"""Row of MutatingWebhookConfiguration."""

VALIDATING = _row("ValidatingWebhookConfiguration", "validatingwebhookconfigurations", mutating=False)
"""Row of ValidatingWebhookConfiguration."""

ROWS = (MUTATING, VALIDATING)
"""Both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A webhook, ready to be matched and called.

    Attributes:
        configuration: Name of the object that it is in.
        name: Its name.
        client: Its clientConfig.
        rules: As written.
        ignore: Whether a failed call lets the write pass.
        exact: Whether only the versions that the rules name match.
        namespaces, objects: Label selectors.
        timeout_s: Seconds of a call.
        review_version: Version of AdmissionReview.
        conditions: Compiled match conditions.
        again: Whether it is asked again when a later one changed the object.
        dry_run_safe: Whether it may be asked about dry runs.
    """

    configuration: str
    name: str
    client: Mapping[str, Any]
    rules: tuple[Mapping[str, Any], ...]
    ignore: bool
    exact: bool
    namespaces: Mapping[str, Any]
    objects: Mapping[str, Any]
    timeout_s: int
    review_version: str
    conditions: tuple[Condition, ...]
    again: bool
    dry_run_safe: bool


def compile_webhooks(configurations: Sequence[Obj]) -> list[Webhook]:
    """Return the webhooks of stored configurations, in the order in which they are asked: by object name."""
    ordered = sorted(configurations, key=lambda obj: str(obj["metadata"]["name"]))
    return [_compiled(obj["metadata"]["name"], hook) for obj in ordered for hook in obj.get("webhooks") or ()]


def _compiled(configuration: str, hook: Mapping[str, Any]) -> Webhook:
    return Webhook(
        configuration=configuration,
        name=hook["name"],
        client=hook["clientConfig"],
        rules=tuple(hook.get("rules") or ()),
        ignore=hook.get("failurePolicy") == "Ignore",
        exact=hook.get("matchPolicy") == "Exact",
        namespaces=hook.get("namespaceSelector") or {},
        objects=hook.get("objectSelector") or {},
        timeout_s=int(hook.get("timeoutSeconds") or 10),
        review_version=next(v for v in hook["admissionReviewVersions"] if v in KNOWN_VERSIONS),
        conditions=tuple(
            compile_condition(each["name"], each["expression"]) for each in hook.get("matchConditions") or ()
        ),
        again=hook.get("reinvocationPolicy") == "IfNeeded",
        dry_run_safe=hook.get("sideEffects") in ("None", "NoneOnDryRun"),
    )
