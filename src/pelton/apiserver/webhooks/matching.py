"""Which webhooks a write concerns: rules, selectors and match conditions. Pure; called by `admission.py`.

Source: contracts operator-webhook.md section 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pelton.apiserver.registry import Row
from pelton.cel import (
    AUTHORIZER,
    BOOL,
    DYN,
    STRING,
    Field,
    Program,
    Type,
    compile_cel,
    list_of,
    map_of,
    object_of,
)
from pelton.errors import CelCompileError, CelCostError, CelEvaluateError

__all__ = [
    "CONDITION_BUDGET",
    "Condition",
    "compile_condition",
    "condition_fault",
    "conditions_hold",
    "rule_matches",
    "selects",
    "selector_faults",
]

CONDITION_BUDGET = 2_500_000
"""Most cost of all match conditions of one webhook for one request."""

_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def _fields(type_name: str, /, **types: Type) -> Type:
    return object_of(type_name, {key: Field(kind, key) for key, kind in types.items()})


_KIND = _fields("kubernetes.GroupVersionKind", group=STRING, version=STRING, kind=STRING)
_RESOURCE = _fields("kubernetes.GroupVersionResource", group=STRING, version=STRING, resource=STRING)
_USER = _fields(
    "kubernetes.UserInfo",
    username=STRING,
    uid=STRING,
    groups=list_of(STRING),
    extra=map_of(STRING, list_of(STRING)),
)
_REQUEST = _fields(
    "kubernetes.AdmissionRequest",
    kind=_KIND,
    resource=_RESOURCE,
    subResource=STRING,
    requestKind=_KIND,
    requestResource=_RESOURCE,
    requestSubResource=STRING,
    name=STRING,
    namespace=STRING,
    operation=STRING,
    userInfo=_USER,
    dryRun=BOOL,
    options=DYN,
)
_VARIABLES = {
    "object": DYN,
    "oldObject": DYN,
    "request": _REQUEST,
    "authorizer": AUTHORIZER,
    "authorizer.requestResource": Type("opaque", name="kubernetes.authorization.ResourceCheck"),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled match condition."""

    name: str
    program: Program


def compile_condition(name: str, expression: str) -> Condition:
    """Return a match condition; raises CelCompileError."""
    return Condition(name, compile_cel(expression, _VARIABLES, result=BOOL))


def conditions_hold(conditions: Iterable[Condition], bindings: Mapping[str, Any]) -> bool:
    """Return whether a webhook is to be called.

    A condition that is false skips it, even where others fail.

    Raises:
        CelEvaluateError: None is false, and at least one has no value.
        CelCostError: The budget is spent.
    """
    left = CONDITION_BUDGET
    failed: CelEvaluateError | None = None
    for condition in conditions:
        try:
            holds, cost = condition.program.run(bindings, budget=left)
        except CelEvaluateError as error:
            failed = failed or CelEvaluateError(f"expression '{condition.name}': {error.message}")
            continue
        except CelCostError as error:
            raise CelCostError(
                f"validation failed due to running out of cost budget at '{condition.name}'"
            ) from error
        left -= cost
        if holds is False:
            return False
    if failed is not None:
        raise failed
    return True


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Return whether a LabelSelector selects labels; an empty one selects everything."""
    if not selector:
        return True
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions") or ():
        value, values = labels.get(expression["key"]), expression.get("values") or ()
        match expression["operator"]:
            case "In":
                holds = value is not None and value in values
            case "NotIn":
                holds = value is None or value not in values
            case "Exists":
                holds = value is not None
            case _:
                holds = value is None
        if not holds:
            return False
    return True


def selector_faults(selector: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (path below the selector, sentence) of what is wrong with a LabelSelector."""
    faults = []
    for at, expression in enumerate(selector.get("matchExpressions") or ()):
        path = f"matchExpressions[{at}]"
        operator, values = expression.get("operator"), expression.get("values") or ()
        if not expression.get("key"):
            faults.append((f"{path}.key", "Required value"))
        if operator not in _OPERATORS:
            faults.append((f"{path}.operator", f'Invalid value: "{operator}": not a valid selector operator'))
        elif operator in ("In", "NotIn") and not values:
            faults.append(
                (f"{path}.values", "Required value: must be specified when `operator` is 'In' or 'NotIn'")
            )
        elif operator in ("Exists", "DoesNotExist") and values:
            faults.append(
                (
                    f"{path}.values",
                    "Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                )
            )
    return faults


def _resource_matches(pattern: str, plural: str, subresource: str) -> bool:
    resource, slash, sub = pattern.partition("/")
    if resource not in ("*", plural):
        return False
    if pattern == "*/*":
        return True
    return sub in ("*", subresource) if slash else not subresource


def rule_matches(
    rule: Mapping[str, Any], row: Row, operation: str, subresource: str, *, version: str | None = None
) -> bool:
    """Return whether a rule names a request.

    Args:
        rule: An entry of `rules`.
        row: The resource.
        operation: CREATE, UPDATE, DELETE or CONNECT.
        subresource: "" for the object itself.
        version: Version to look for; that of the row when None.
    """

    def named(key: str, wanted: str) -> bool:
        values: Sequence[str] = rule.get(key) or ()
        return "*" in values or wanted in values

    scope = rule.get("scope") or "*"
    # A Namespace is cluster-scoped, whatever namespace a request on it carries.
    if scope != "*" and (scope == "Namespaced") != row.namespaced:
        return False
    return (
        named("operations", operation)
        and named("apiGroups", row.group)
        and named("apiVersions", row.version if version is None else version)
        and any(
            _resource_matches(pattern, row.plural, subresource) for pattern in rule.get("resources") or ()
        )
    )


def condition_fault(name: str, expression: str) -> str:
    """Return why a match condition cannot be used, "" when it can."""
    try:
        compile_condition(name, expression)
    except CelCompileError as error:
        return error.message
    return ""
