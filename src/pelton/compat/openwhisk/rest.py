"""The platform's REST API as far as it concerns invocations: actions, triggers, activations.

Called by `front.py` for /api/v1/namespaces. Not here: creating, changing and deleting things, which is
`pelton apply`'s business (405).
Source: `faas-conventions` contract, section 6.2; apache/openwhisk (Actions). Decided: without the option
`whisk-auth` (`user:key`) the API is as open as the function's own address; a blocking invocation waits as
long as the action may run, so 202 is the answer to non-blocking ones only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from pelton.compat.openwhisk.activation import LIMIT_BYTES, dump
from pelton.compat.openwhisk.manifest import DEFAULT, truthy
from pelton.compat.openwhisk.package import Action, Package
from pelton.compat.openwhisk.web import Refused, decoded_path, query_of
from pelton.model.invocation import Invocation

__all__ = [
    "PREFIX",
    "Call",
    "accepted",
    "authorised",
    "call_of",
    "describe",
    "find",
    "flags_of",
    "is_blocking",
    "knows_secret",
    "loads",
    "part_of",
    "payload",
    "payload_or_form",
]

PREFIX: Final = b"/api/v1/namespaces/"
_NOT_FOUND: Final = "The requested resource does not exist."


class Call:
    """A request to the API.

    Attributes:
        collection: `actions`, `triggers` or `activations`.
        names: What follows, decoded; no empty ones.
    """

    __slots__ = ("collection", "names")

    def __init__(self, collection: str, names: list[str]) -> None:
        self.collection = collection
        self.names = names


def call_of(invocation: Invocation, namespaces: frozenset[str]) -> Call:
    """Read a request's path.

    Raises:
        Refused: It is none of this API's, or of another namespace.
    """
    path = decoded_path(invocation.target.partition(b"?")[0][len(PREFIX) :])
    namespace, _, rest = path.partition("/")
    collection, _, names = rest.partition("/")
    if namespace not in namespaces or collection not in {"actions", "triggers", "activations"}:
        raise Refused(404, _NOT_FOUND)
    return Call(collection, [name for name in names.split("/") if name])


def flags_of(invocation: Invocation) -> dict[str, str]:
    """Return the query's parameters."""
    return dict(parse_qsl(query_of(invocation.target), keep_blank_values=True))


def is_blocking(flags: Mapping[str, str]) -> bool:
    """Tell whether the client waits for the result."""
    return truthy(flags.get("blocking", ""))


def find(package: Package, names: list[str]) -> Action:
    """Return the action that `[package/]action` names.

    Raises:
        Refused: There is none.
    """
    found = (
        package.find(DEFAULT if len(names) == 1 else names[0], names[-1]) if 1 <= len(names) <= 2 else None
    )
    if found is None:
        raise Refused(404, _NOT_FOUND)
    return found


def payload(invocation: Invocation, action: Action | None) -> Any:
    """Return an invocation's parameters, without the action's own.

    Raises:
        Refused: They are no JSON object or array, too long, or set a final parameter.
    """
    body = invocation.body
    if len(body) > LIMIT_BYTES:
        raise Refused(413, f"Request larger than allowed: {len(body)} > {LIMIT_BYTES} bytes.")
    value = loads(body)
    if not isinstance(value, dict | list):
        raise Refused(400, "The request content was malformed: expected a JSON object or array")
    if action is not None and isinstance(value, dict) and not action.final.isdisjoint(value):
        raise Refused(400, "Request defines parameters that are not allowed (e.g., reserved properties).")
    return value


def authorised(invocation: Invocation, auth: str) -> bool:
    """Tell whether a request brings `user:key` as Basic credentials."""
    import base64
    import binascii
    import hmac  # brings OpenSSL along; only API clients with credentials pay for it

    scheme, _, given = (invocation.header(b"authorization") or b"").partition(b" ")
    if scheme.lower() != b"basic" or not auth:
        return False
    try:
        return hmac.compare_digest(base64.b64decode(given.strip(), validate=True), auth.encode())
    except (binascii.Error, ValueError):
        return False


def describe(action: Action, namespace: str) -> dict[str, Any]:
    """Return what the API tells about an action; parameters only by name, since values may be secrets."""
    spec = action.spec
    exec_kind: dict[str, Any] = {"kind": spec.kind or "python:3", "binary": spec.file.endswith(".zip")}
    if spec.sequence:
        exec_kind = {"kind": "sequence", "components": [f"/{namespace}/{key}" for key in spec.sequence]}
    return {
        "namespace": namespace if spec.package == DEFAULT else f"{namespace}/{spec.package}",
        "name": spec.name,
        "version": "0.0.1",
        "publish": False,
        "exec": exec_kind,
        "parameters": [{"key": name} for name in action.params],
        "annotations": [
            {"key": "web-export", "value": action.web},
            {"key": "raw-http", "value": action.raw},
            {"key": "final", "value": bool(action.final)},
        ],
        "limits": {"timeout": spec.timeout_ms or 60_000, "memory": 256, "logs": 10, "concurrency": 1},
    }


def accepted(activation_id: str) -> bytes:
    """Return the answer to an invocation that is carried out later."""
    return dump({"activationId": activation_id})


def loads(body: bytes) -> Any:
    """Return a body's JSON, {} for none.

    Raises:
        Refused: It is none.
    """
    if not body.strip():
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise Refused(400, f"The request content was malformed: {exc}") from exc
    return {} if value is None else value


def payload_or_form(invocation: Invocation) -> Any:
    """Return a plain request's parameters: a form, or JSON of whatever media type; raises as `payload`."""
    media = (invocation.header(b"content-type") or b"").partition(b";")[0].strip().lower()
    body = invocation.body
    if media == b"application/x-www-form-urlencoded" and body.lstrip()[:1] not in (b"{", b"["):
        if len(body) > LIMIT_BYTES:
            raise Refused(413, f"Request larger than allowed: {len(body)} > {LIMIT_BYTES} bytes.")
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    return payload(invocation, None)


def knows_secret(invocation: Invocation, secret: str) -> bool:
    """Tell whether a request brings a web action's secret."""
    import hmac

    given = invocation.header(b"x-require-whisk-auth")
    return given is not None and hmac.compare_digest(given, secret.encode())


def part_of(data: bytes, name: str) -> bytes:
    """Return `result` or `logs` of an activation record.

    Raises:
        Refused: There is no such part.
    """
    found = json.loads(data)
    if name == "result":
        return dump({key: found["response"][key] for key in ("result", "status", "success")})
    if name == "logs":
        return dump({"logs": found["logs"]})
    raise Refused(404, _NOT_FOUND)
