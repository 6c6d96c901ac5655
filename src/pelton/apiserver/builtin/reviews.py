"""Questions about oneself (authentication.k8s.io, authorization.k8s.io): who am I, may I. Nothing is stored.

`kubectl auth whoami` and `kubectl auth can-i` ask them. Rows for `builtin/table.py`.

Source: contracts operator-webhook.md 6.1; behaviour of Kubernetes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pelton.apiserver import authorization
from pelton.apiserver.authorization import Asked
from pelton.apiserver.builtin.shapes import (
    Schema,
    Shaped,
    array,
    boolean,
    kind,
    mapping,
    strings,
    struct,
    text,
)
from pelton.apiserver.calls import Call
from pelton.apiserver.registry import Registry, Row
from pelton.apiserver.rules import Obj

__all__ = ["rows"]

_USER = struct(
    "A user.",
    {
        "extra": mapping("More about the user.", values=strings("Values.")),
        "groups": strings("Groups of the user."),
        "uid": text("Stable identity."),
        "username": text("Name."),
    },
)
_RESOURCE = struct(
    "An access to a resource.",
    {
        key: text(f"The {key} of it; `*` is all.")
        for key in ("group", "name", "namespace", "resource", "subresource", "verb", "version")
    }
    | {key: {"type": "object"} for key in ("fieldSelector", "labelSelector")},
)
_PATH = struct("An access to a path.", {"path": text("URL path."), "verb": text("HTTP verb, lower case.")})


def rows(registry: Callable[[], Registry]) -> list[Row]:
    """Return the rows; `registry` says which resources live in namespaces."""

    async def who(call: Call, obj: Obj) -> Obj:
        user = call.user
        info = {"username": user.name, "uid": user.uid, "groups": list(user.groups)}
        return {**obj, "status": {"userInfo": {key: value for key, value in info.items() if value}}}

    async def can(call: Call, obj: Obj) -> Obj:
        spec = obj.get("spec") or {}
        if "resourceAttributes" in spec:
            allowed = authorization.may(call.user, _asked(registry(), spec["resourceAttributes"] or {}))
        else:
            allowed = (spec.get("nonResourceAttributes") or {}).get("verb") in ("get", "head", "*")
        reason = f"role {call.user.role!r}" + (
            f" in namespace {call.user.namespace!r}" if call.user.namespace else ""
        )
        return {**obj, "status": {"allowed": allowed, "reason": reason}}

    async def rules(call: Call, obj: Obj) -> Obj:
        namespace = (obj.get("spec") or {}).get("namespace", "")
        status = {
            "resourceRules": authorization.resource_rules(call.user, namespace),
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["*"]}],
            "incomplete": False,
        }
        return {**obj, "status": status}

    access = struct("The question.", {"nonResourceAttributes": _PATH, "resourceAttributes": _RESOURCE})
    answer = struct(
        "The answer.",
        {
            "allowed": boolean("Whether it is allowed."),
            "denied": boolean("Whether it is forbidden whoever else would allow it."),
            "evaluationError": text("What went wrong."),
            "reason": text("Why."),
        },
    )
    return [
        _row(
            "authentication.k8s.io",
            "SelfSubjectReview",
            {"status": struct("The answer.", {"userInfo": _USER})},
            who,
        ),
        _row("authorization.k8s.io", "SelfSubjectAccessReview", {"spec": access, "status": answer}, can),
        _row(
            "authorization.k8s.io",
            "SelfSubjectRulesReview",
            {
                "spec": struct("The question.", {"namespace": text("Where.")}),
                "status": struct(
                    "The answer.",
                    {
                        "evaluationError": text("What went wrong."),
                        "incomplete": boolean("Whether rules are missing."),
                        "nonResourceRules": array("Paths.", {"type": "object", "description": "A rule."}),
                        "resourceRules": array("Resources.", {"type": "object", "description": "A rule."}),
                    },
                ),
            },
            rules,
        ),
    ]


def _row(
    group: str, name: str, fields: dict[str, Schema], answer: Callable[[Any, Obj], Awaitable[Obj]]
) -> Row:
    schema = kind("A question about oneself.", fields)
    checks = Shaped(name, schema)

    async def answered(call: Call, obj: Obj) -> Obj:
        filled = checks.default(obj)
        checks.check(filled, None, subresource="")
        return await answer(call, filled)

    return Row(
        group=group,
        version="v1",
        kind=name,
        plural=f"{name.lower()}s",
        singular=name.lower(),
        namespaced=False,
        builtin=True,
        verbs=("create",),
        schema=schema,
        answer=answered,
    )


def _asked(registry: Registry, given: Obj) -> Asked:
    resource, _, part = str(given.get("resource", "")).partition("/")
    group = str(given.get("group", ""))
    found = registry.versions(group, resource)
    return Asked(
        verb=str(given.get("verb", "")),
        group=group,
        resource=resource,
        subresource=str(given.get("subresource") or part),
        namespace=str(given.get("namespace", "")),
        namespaced=found[0].namespaced if found else bool(given.get("namespace")),
        name=str(given.get("name", "")),
    )
