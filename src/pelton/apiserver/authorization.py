"""Who may do what: three roles, each for one namespace or for all. Pure; called by `rest.py`.

This is not RBAC: there are no Role objects. `view` reads everything but Secrets, `edit` also writes what is
in namespaces, `admin` does everything; a role that is given for one namespace holds there only.

Source: the default user-facing roles of Kubernetes; contracts operator-webhook.md 6.1 (answers).
"""

from __future__ import annotations

from dataclasses import dataclass

from pelton.apiserver.calls import ADMIN, EDIT, ROLES, User
from pelton.apiserver.registry import ALL_VERBS
from pelton.apiserver.status import StatusError

__all__ = ["Asked", "check", "may", "resource_rules"]

_READ = ("get", "list", "watch")
_QUESTIONS = ("authentication.k8s.io", "authorization.k8s.io")  # about oneself: open to everybody


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, as authorization sees it.

    Attributes:
        verb: get, list, watch, create, update, patch, delete or deletecollection.
        group, resource, subresource: What; "" for core and for none.
        namespace: "" for all namespaces and for what has none.
        namespaced: Whether the resource lives in namespaces.
        name: "" for a collection.
    """

    verb: str
    group: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    namespaced: bool = True
    name: str = ""


def may(user: User, asked: Asked) -> bool:
    """Return whether the user's role allows it."""
    if user.role not in ROLES:
        return False
    if asked.group in _QUESTIONS:
        return True
    reading = asked.verb in _READ
    if user.namespace:
        own = asked.namespaced and asked.namespace == user.namespace
        itself = (asked.group, asked.resource, asked.name) == ("", "namespaces", user.namespace)
        if not own and not (itself and asked.verb == "get"):
            return False
    if user.role == ADMIN:
        return True
    secret = (asked.group, asked.resource) == ("", "secrets")
    if reading:
        return user.role == EDIT or not secret
    # A token of a service account is a way to its role, which may be more than the asker's.
    token = (asked.resource, asked.subresource) == ("serviceaccounts", "token")
    return user.role == EDIT and asked.namespaced and not token


def check(user: User, asked: Asked) -> None:
    """Raise StatusError 403, with Kubernetes' sentence, when it is not allowed."""
    if may(user, asked):
        return
    called = f"{asked.resource}.{asked.group}" if asked.group else asked.resource
    named = f' "{asked.name}"' if asked.name else ""
    part = f"{asked.resource}/{asked.subresource}" if asked.subresource else asked.resource
    scope = (
        f'in the namespace "{asked.namespace}"'
        if asked.namespaced and asked.namespace
        else "at the cluster scope"
    )
    raise StatusError(
        403,
        "Forbidden",
        f'{called}{named} is forbidden: User "{user.name}" cannot {asked.verb} resource "{part}" in API '
        f'group "{asked.group}" {scope}',
    )


def resource_rules(user: User, namespace: str) -> list[dict[str, list[str]]]:
    """Return what a user may do in a namespace, in the form of SelfSubjectRulesReview."""
    questions = {
        "verbs": ["create"],
        "apiGroups": list(_QUESTIONS),
        "resources": ["selfsubjectreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"],
    }
    if user.role not in ROLES or (user.namespace and user.namespace != namespace):
        return [questions]
    verbs = ["*"] if user.role == ADMIN else list(ALL_VERBS if user.role == EDIT else _READ)
    return [questions, {"verbs": verbs, "apiGroups": ["*"], "resources": ["*"]}]
