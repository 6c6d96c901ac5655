r"""Request bodies in Kubernetes' Protobuf, which typed clients send for built-in kinds; answers are JSON.

A body is the magic `k8s\0` and an envelope that names apiVersion and kind and holds the object. The tables
below give the field numbers of the kinds that are served; fields that they do not know are skipped. As in
JSON, fields without a value are left out. Pure; called by `bodies.py`.

Source: the published message definitions of the Kubernetes API (facts: numbers, names, types).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pelton.errors import ProtocolError

__all__ = ["MEDIA", "decode"]

MEDIA: Final = "application/vnd.kubernetes.protobuf"
"""Media type of these bodies."""

_MAGIC: Final = b"k8s\x00"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DEEPEST: Final = 20

# A field is (JSON name, type). Types: text, int, bool and bytes leave out the zero value; with `?` a value
# that was sent is kept even then. `time` and `micro` are times, `port` is a number or a name, `fields` is raw
# JSON. A table is a message, [type] is repeated, {type} is a map from text. A message without a name is part
# of the one around it.
Message = dict[int, tuple[str, Any]]


def _numbered(*names: str, kind: Any = "text", first: int = 1) -> Message:
    return {number: (name, kind) for number, name in enumerate(names, first)}


_OWNER: Message = {
    1: ("kind", "text"),
    3: ("name", "text"),
    4: ("uid", "text"),
    5: ("apiVersion", "text"),
    6: ("controller", "bool?"),
    7: ("blockOwnerDeletion", "bool?"),
}
_MANAGED: Message = {
    **_numbered("manager", "operation", "apiVersion"),
    4: ("time", "time"),
    6: ("fieldsType", "text"),
    7: ("fieldsV1", "fields"),
    8: ("subresource", "text"),
}
_META: Message = {
    **_numbered("name", "generateName", "namespace", "selfLink", "uid", "resourceVersion"),
    7: ("generation", "int"),
    8: ("creationTimestamp", "time"),
    9: ("deletionTimestamp", "time"),
    10: ("deletionGracePeriodSeconds", "int?"),
    11: ("labels", {"text"}),
    12: ("annotations", {"text"}),
    13: ("ownerReferences", [_OWNER]),
    14: ("finalizers", ["text"]),
    17: ("managedFields", [_MANAGED]),
}
_REFERENCE = _numbered("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
_CONDITION: Message = {
    1: ("type", "text"),
    2: ("status", "text"),
    3: ("observedGeneration", "int"),
    4: ("lastTransitionTime", "time"),
    5: ("reason", "text"),
    6: ("message", "text"),
}
_SERVICE_SPEC: Message = {
    1: (
        "ports",
        [
            {
                1: ("name", "text"),
                2: ("protocol", "text"),
                3: ("port", "int"),
                4: ("targetPort", "port"),
                5: ("nodePort", "int"),
                6: ("appProtocol", "text"),
            }
        ],
    ),
    2: ("selector", {"text"}),
    3: ("clusterIP", "text"),
    4: ("type", "text"),
    5: ("externalIPs", ["text"]),
    7: ("sessionAffinity", "text"),
    8: ("loadBalancerIP", "text"),
    9: ("loadBalancerSourceRanges", ["text"]),
    10: ("externalName", "text"),
    11: ("externalTrafficPolicy", "text"),
    12: ("healthCheckNodePort", "int"),
    13: ("publishNotReadyAddresses", "bool"),
    14: ("sessionAffinityConfig", {1: ("clientIP", {1: ("timeoutSeconds", "int?")})}),
    17: ("ipFamilyPolicy", "text"),
    18: ("clusterIPs", ["text"]),
    19: ("ipFamilies", ["text"]),
    20: ("allocateLoadBalancerNodePorts", "bool?"),
    21: ("loadBalancerClass", "text"),
    22: ("internalTrafficPolicy", "text"),
    23: ("trafficDistribution", "text"),
}
_INGRESS: Message = {1: ("ip", "text"), 2: ("hostname", "text"), 3: ("ipMode", "text")}
_SERVICE_STATUS: Message = {
    1: ("loadBalancer", {1: ("ingress", [_INGRESS])}),
    2: ("conditions", [_CONDITION]),
}
_SERIES: Message = {1: ("count", "int"), 2: ("lastObservedTime", "micro")}
_SOURCE = _numbered("component", "host")
_ENDPOINT: Message = {
    1: ("addresses", ["text"]),
    2: ("conditions", _numbered("ready", "serving", "terminating", kind="bool?")),
    3: ("hostname", "text"),
    4: ("targetRef", _REFERENCE),
    5: ("deprecatedTopology", {"text"}),
    6: ("nodeName", "text"),
    7: ("zone", "text"),
}
_SLICE_PORT: Message = {
    1: ("name", "text?"),
    2: ("protocol", "text"),
    3: ("port", "int?"),
    4: ("appProtocol", "text"),
}
_LEASE: Message = {
    1: ("holderIdentity", "text?"),
    2: ("leaseDurationSeconds", "int?"),
    3: ("acquireTime", "micro"),
    4: ("renewTime", "micro"),
    5: ("leaseTransitions", "int?"),
    6: ("strategy", "text"),
    7: ("preferredHolder", "text"),
}
_ATTRIBUTES = _numbered("namespace", "verb", "group", "version", "resource", "subresource", "name")
_OPTIONS: Message = {
    1: ("gracePeriodSeconds", "int?"),
    2: ("preconditions", _numbered("uid", "resourceVersion")),
    3: ("orphanDependents", "bool?"),
    4: ("propagationPolicy", "text"),
    5: ("dryRun", ["text"]),
}
_TOKEN_SPEC: Message = {
    1: ("audiences", ["text"]),
    3: ("boundObjectRef", _numbered("kind", "apiVersion", "name", "uid")),
    4: ("expirationSeconds", "int?"),
}


_SELECTOR: Message = {
    1: ("matchLabels", {"text"}),
    2: ("matchExpressions", [{1: ("key", "text"), 2: ("operator", "text"), 3: ("values", ["text"])}]),
}
_CONDITIONS: tuple[str, Any] = ("matchConditions", [_numbered("name", "expression")])
_HOOK: Message = {
    1: ("name", "text"),
    2: (
        "clientConfig",
        {
            1: ("service", {**_numbered("namespace", "name", "path"), 4: ("port", "int?")}),
            2: ("caBundle", "bytes"),
            3: ("url", "text"),
        },
    ),
    3: (
        "rules",
        [
            {
                1: ("operations", ["text"]),
                2: (
                    "",
                    {
                        **{
                            number: (name, ["text"])
                            for number, name in enumerate(("apiGroups", "apiVersions", "resources"), 1)
                        },
                        4: ("scope", "text"),
                    },
                ),
            }
        ],
    ),
    4: ("failurePolicy", "text"),
    5: ("namespaceSelector", _SELECTOR),
    6: ("sideEffects", "text"),
    7: ("timeoutSeconds", "int?"),
    8: ("admissionReviewVersions", ["text"]),
    9: ("matchPolicy", "text"),
}
_MUTATING: Message = {
    **_HOOK,
    10: ("reinvocationPolicy", "text"),
    11: ("objectSelector", _SELECTOR),
    12: _CONDITIONS,
}
_VALIDATING: Message = {**_HOOK, 10: ("objectSelector", _SELECTOR), 11: _CONDITIONS}


def _whole(*fields: tuple[str, Any]) -> Message:
    """Return a kind: metadata is always the first field."""
    return {1: ("metadata", _META), **dict(enumerate(fields, 2))}


_KINDS: Final[Mapping[tuple[str, str], Message]] = {
    ("v1", "Namespace"): _whole(
        ("spec", {1: ("finalizers", ["text"])}),
        ("status", {1: ("phase", "text"), 2: ("conditions", [_CONDITION])}),
    ),
    ("v1", "ConfigMap"): _whole(("data", {"text"}), ("binaryData", {"bytes"}), ("immutable", "bool?")),
    ("v1", "Secret"): _whole(
        ("data", {"bytes"}), ("type", "text"), ("stringData", {"text"}), ("immutable", "bool?")
    ),
    ("v1", "ServiceAccount"): _whole(
        ("secrets", [_REFERENCE]),
        ("imagePullSecrets", [_numbered("name")]),
        ("automountServiceAccountToken", "bool?"),
    ),
    ("v1", "Service"): _whole(("spec", _SERVICE_SPEC), ("status", _SERVICE_STATUS)),
    ("v1", "Event"): _whole(
        ("involvedObject", _REFERENCE),
        ("reason", "text"),
        ("message", "text"),
        ("source", _SOURCE),
        ("firstTimestamp", "time"),
        ("lastTimestamp", "time"),
        ("count", "int"),
        ("type", "text"),
        ("eventTime", "micro"),
        ("series", _SERIES),
        ("action", "text"),
        ("related", _REFERENCE),
        ("reportingComponent", "text"),
        ("reportingInstance", "text"),
    ),
    ("events.k8s.io/v1", "Event"): _whole(
        ("eventTime", "micro"),
        ("series", _SERIES),
        ("reportingController", "text"),
        ("reportingInstance", "text"),
        ("action", "text"),
        ("reason", "text"),
        ("regarding", _REFERENCE),
        ("related", _REFERENCE),
        ("note", "text"),
        ("type", "text"),
        ("deprecatedSource", _SOURCE),
        ("deprecatedFirstTimestamp", "time"),
        ("deprecatedLastTimestamp", "time"),
        ("deprecatedCount", "int"),
    ),
    ("coordination.k8s.io/v1", "Lease"): _whole(("spec", _LEASE)),
    ("discovery.k8s.io/v1", "EndpointSlice"): _whole(
        ("endpoints", [_ENDPOINT]), ("ports", [_SLICE_PORT]), ("addressType", "text")
    ),
    ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"): _whole(("webhooks", [_MUTATING])),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"): _whole(
        ("webhooks", [_VALIDATING])
    ),
    ("autoscaling/v1", "Scale"): _whole(
        ("spec", {1: ("replicas", "int")}), ("status", {1: ("replicas", "int"), 2: ("selector", "text")})
    ),
    ("authentication.k8s.io/v1", "SelfSubjectReview"): _whole(),
    ("authentication.k8s.io/v1", "TokenRequest"): _whole(("spec", _TOKEN_SPEC)),
    ("authorization.k8s.io/v1", "SelfSubjectAccessReview"): _whole(
        (
            "spec",
            {
                1: ("resourceAttributes", _ATTRIBUTES),
                2: ("nonResourceAttributes", _numbered("path", "verb")),
            },
        )
    ),
    ("authorization.k8s.io/v1", "SelfSubjectRulesReview"): _whole(("spec", _numbered("namespace"))),
}


def decode(body: bytes) -> dict[str, Any] | None:
    """Return the object of a body; None when its kind is not one of those served in Protobuf.

    Raises:
        ProtocolError: The body is damaged.
    """
    if not body.startswith(_MAGIC):
        raise ProtocolError("the body is not Protobuf as Kubernetes writes it: its first bytes are not k8s")
    try:
        unknown: dict[int, Any] = {number: value for number, _, value in _fields(body[len(_MAGIC) :])}
        identity = {number: value for number, _, value in _fields(unknown.get(1, b""))}
        api_version, kind = (identity.get(number, b"").decode() for number in (1, 2))
        message = _OPTIONS if kind == "DeleteOptions" else _KINDS.get((api_version, kind))
        if message is None:
            return None
        obj = _message(message, unknown.get(2, b""), 0)
    except (ValueError, IndexError, AttributeError, TypeError, OverflowError) as error:
        raise ProtocolError(f"the Protobuf body cannot be read: {error}") from error
    return {"apiVersion": api_version, "kind": kind, **obj}


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than 64 bits")


def _fields(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """Yield (number, wire type, value): a number, or the bytes of text, messages and maps."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        value: int | bytes
        if wire == 0:
            value, at = _varint(data, at)
        elif wire == 2:
            length, at = _varint(data, at)
            value = data[at : at + length]
            if len(value) != length:
                raise ValueError("it ends too early")
            at += length
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value = data[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {wire} is not known")
        yield number, wire, value


def _message(message: Message, data: bytes, depth: int) -> dict[str, Any]:
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    result: dict[str, Any] = {}
    for number, _, value in _fields(data):
        if number not in message:
            continue
        name, kind = message[number]
        if isinstance(kind, list):
            # Items are kept whatever they hold: their place in the list counts.
            found = _value(kind[0], value, depth)
            result.setdefault(name, []).append("" if found is None else found)
        elif isinstance(kind, set):
            entry = {number: value for number, _, value in _fields(value)}
            (inner,) = kind
            found = _value(inner, entry.get(2, b""), depth)
            result.setdefault(name, {})[entry.get(1, b"").decode()] = "" if found is None else found
        else:
            found = _value(kind, value, depth)
            if found is not None and not name:
                result |= found
            elif found is not None:
                result[name] = found
    return result


def _value(kind: Any, value: Any, depth: int) -> Any:
    """Return a value as JSON has it; None for one that JSON leaves out."""
    if isinstance(kind, dict):
        return _message(kind, value, depth + 1) or ({} if depth else None)
    keep = kind.endswith("?")
    match kind.rstrip("?"):
        case "text":
            return value.decode() if value or keep else None
        case "int":
            number = value - (1 << 64) if value >= 1 << 63 else value
            return number if number or keep else None
        case "bool":
            return bool(value) if value or keep else None
        case "bytes":
            return base64.b64encode(value).decode()
        case "fields":
            raw = {number: inner for number, _, inner in _fields(value)}.get(1, b"{}")
            return json.loads(raw)
        case "port":
            parts = {number: inner for number, _, inner in _fields(value)}
            if parts.get(1, 0):
                return parts.get(3, b"").decode()
            return parts.get(2, 0) or None
        case "time" | "micro":
            return _time(value, micro=kind == "micro")
    raise ValueError(f"type {kind} is not known")


def _time(value: bytes, *, micro: bool) -> str | None:
    if not value:
        return None
    parts = {number: inner for number, _, inner in _fields(value)}
    seconds, nanos = parts.get(1, 0), parts.get(2, 0)
    if seconds >= 1 << 63:
        seconds -= 1 << 64
    moment = _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")
