"""Whether an app may call a method of another one, by the access control of the one that is called. Pure.

Asked by `compat/dapr/invocation.py` for every call that goes to an app with such rules; `dapr_routing.py`
asks whether they are the same for all calls of an app.
Source: contracts, Dapr components, section 1 (access control), and Dapr runtime, section 6. There is one
trust domain on one machine, `public`; a policy for another one holds for nobody.
"""

from __future__ import annotations

import posixpath
import re
from typing import Final
from urllib.parse import unquote

from pelton.model.dapr import AccessControl, AccessOperation, AccessPolicy

__all__ = ["allows", "allows_all"]

_TRUST_DOMAIN: Final = "public"


def allows(control: AccessControl | None, *, caller: str, namespace: str, method: str, verb: str) -> bool:
    """Tell whether a call may be made.

    Args:
        control: Rules of the app that is called; None allows all.
        caller: App id of the caller.
        namespace: Its namespace.
        method: What is called, a path with or without its slash, as it was sent: encoded or not, with a
            query or not. It is judged as apps read it.
        verb: HTTP method, "" for a call over gRPC.
    """
    if control is None:
        return True
    default = _allowed(control.default_action, not control.policies)
    policy = _policy(control, caller, namespace)
    if policy is None:
        return default
    path = _read(method)
    for operation in policy.operations:
        if _matches(operation.name, path) and (not verb or _has_verb(operation, verb)):
            return operation.action.lower() == "allow"
    return _allowed(policy.default_action, default)


def allows_all(control: AccessControl | None, *, caller: str, namespace: str) -> bool:
    """Tell whether an app may make every call of another one, whatever its path and method."""
    if control is None:
        return True
    default = _allowed(control.default_action, not control.policies)
    policy = _policy(control, caller, namespace)
    if policy is None:
        return default
    return not policy.operations and _allowed(policy.default_action, default)


def _read(method: str) -> str:
    """Return a path as an app may read it: decoded, without query, dots and doubled slashes."""
    decoded = re.split(r"[?#]", unquote(method), maxsplit=1)[0]
    return posixpath.normpath("/" + decoded.strip("/")).lower()


def _policy(control: AccessControl, caller: str, namespace: str) -> AccessPolicy | None:
    for policy in control.policies:
        here = (policy.namespace or "default") == namespace
        if policy.app_id == caller and here and (policy.trust_domain or _TRUST_DOMAIN) == _TRUST_DOMAIN:
            return policy
    return None


def _allowed(action: str, default: bool) -> bool:
    return action.lower() == "allow" if action else default


def _matches(pattern: str, path: str) -> bool:
    """Compare a path with `/a`, `/a/*` (one more segment) or `/a/**` (any number of them)."""
    wanted = "/" + pattern.strip("/").lower()
    if wanted.endswith("/**"):
        stem = wanted[:-3]
        return path == (stem or "/") or path.startswith(stem + "/")
    parts, given = wanted.split("/"), path.split("/")
    return len(parts) == len(given) and all(
        part in ("*", word) for part, word in zip(parts, given, strict=True)
    )


def _has_verb(operation: AccessOperation, verb: str) -> bool:
    verbs = [each.upper() for each in operation.verbs]
    return not verbs or "*" in verbs or verb.upper() in verbs
