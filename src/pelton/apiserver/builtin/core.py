"""ConfigMap, Secret and ServiceAccount (core v1): rows for `builtin/table.py`.

There is no RBAC, so a ServiceAccount says itself what its tokens may, by an annotation.

Source: contracts operator-webhook.md 3 (Secret types), 6.1; behaviour of Kubernetes where it is silent.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from starlette.responses import Response
from starlette.types import ASGIApp

from pelton.apiserver import bodies, forms
from pelton.apiserver.builtin.shapes import Shaped, array, boolean, keyed, kind, mapping, struct, text
from pelton.apiserver.calls import ROLES, VIEW, Call
from pelton.apiserver.registry import Cause, Row, Subresource
from pelton.apiserver.rules import Obj
from pelton.apiserver.status import FieldsInvalidError
from pelton.apiserver.store import ObjectStore, decode
from pelton.errors import ProtocolError
from pelton.manifest.kinds import Column
from pelton.manifest.notification_fields import template_text_problems

__all__ = ["AGE", "CONFIG_MAP", "SECRET", "SERVICE_ACCOUNT", "Issue", "with_tokens"]

Issue = Callable[[str, str, str, int], tuple[str, str]]
"""(user name, role, namespace, seconds) -> (token, RFC 3339 time of its end)."""

ROLE = "pelton.dev/role"
"""Annotation of a ServiceAccount: the role of its tokens in its namespace."""

AGE = Column("Age", "date", ".metadata.creationTimestamp")
"""The last column of almost every kind."""

_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_LIMIT_BYTES = 1 << 20
_NEEDED = {  # type -> keys of data that must be there
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}
_REFERENCE = struct("A name in the same namespace.", {"name": text("Name.", default="")}, atomic=True)


def _immutable(new: Obj, old: Obj | None, fields: Sequence[str]) -> list[Cause]:
    """Return causes for changes of an object that was declared immutable."""
    if old is None or not old.get("immutable"):
        return []
    causes = []
    if not new.get("immutable"):
        causes.append(
            Cause(
                field="immutable",
                message="Forbidden: field is immutable when `immutable` is set",
                reason="FieldValueForbidden",
            )
        )
    causes += [
        Cause(
            field=field,
            message="Forbidden: field is immutable when `immutable` is set",
            reason="FieldValueForbidden",
        )
        for field in fields
        if (new.get(field) or {}) != (old.get(field) or {})
    ]
    return causes


def _keys(obj: Obj, fields: Sequence[str]) -> list[Cause]:
    """Return causes for keys that cannot be file names, and for data over 1 MiB."""
    causes, size = [], 0
    for field in fields:
        for key, value in (obj.get(field) or {}).items():
            size += len(value) * 3 // 4 if field == "binaryData" else len(value.encode())
            if not _KEY.fullmatch(key) or key in (".", "..") or key.startswith(".."):
                causes.append(
                    Cause(
                        field=f"{field}[{key}]",
                        message=f'Invalid value: "{key}": a valid config key must consist of alphanumeric '
                        "characters, '-', '_' or '.'",
                    )
                )
    if size > _LIMIT_BYTES:
        causes.append(
            Cause(
                field=fields[0],
                message=f"Too long: may not be more than {_LIMIT_BYTES} bytes",
                reason="FieldValueTooLong",
            )
        )
    return causes


def _config_map(new: Obj, old: Obj | None) -> list[Cause]:
    both = set(new.get("data") or {}) & set(new.get("binaryData") or {})
    causes = [
        Cause(field=f"data[{key}]", message="Invalid value: the key is in binaryData, too")
        for key in sorted(both)
    ]
    return _keys(new, ("data", "binaryData")) + causes + _immutable(new, old, ("data", "binaryData"))


def _config_map_advice(obj: Obj) -> list[str]:
    """Name what is wrong with templates of notifications among the entries."""
    return [
        f"data[{key}]: {problem}"
        for key, text in (obj.get("data") or {}).items()
        for problem in template_text_problems(key, text)
    ]


def _secret_defaults(obj: Obj) -> Obj:
    """Move stringData into data, where it wins; it is never shown again."""
    plain = obj.get("stringData")
    if not isinstance(plain, dict):
        return obj
    data = dict(obj.get("data") or {})
    for key, value in plain.items():
        if not isinstance(value, str):
            return obj  # refused by the schema, with its path
        data[key] = base64.b64encode(value.encode()).decode()
    result = {key: value for key, value in obj.items() if key != "stringData"}
    return {**result, "data": data} if data else result


def _secret(new: Obj, old: Obj | None) -> list[Cause]:
    causes = _keys(new, ("data",)) + _immutable(new, old, ("data",))
    if old is not None and new.get("type") != old.get("type"):
        causes.append(Cause(field="type", message=f'Invalid value: "{new.get("type")}": field is immutable'))
    data = new.get("data") or {}
    wanted = _NEEDED.get(new.get("type", ""), ())
    if new.get("type") == "kubernetes.io/basic-auth" and not {"username", "password"} & data.keys():
        wanted = ("username",)
    causes += [
        Cause(field=f"data[{key}]", message="Required value", reason="FieldValueRequired")
        for key in wanted
        if key not in data
    ]
    if not causes and wanted[:1] in ((".dockerconfigjson",), (".dockercfg",)):
        try:
            json.loads(base64.b64decode(data[wanted[0]]))
        except ValueError:
            causes.append(Cause(field=f"data[{wanted[0]}]", message="Invalid value: must be JSON"))
    return causes


_CONFIG_MAP_SCHEMA = kind(
    "Settings by name, as text or as bytes.",
    {
        "binaryData": mapping("Bytes by name, as base64.", values=text("", form="byte")),
        "data": mapping("Text by name."),
        "immutable": boolean("Whether the data can never change again."),
    },
)
_SECRET_SCHEMA = kind(
    "Confidential settings by name.",
    {
        "data": mapping("Bytes by name, as base64.", values=text("", form="byte")),
        "immutable": boolean("Whether the data can never change again."),
        "stringData": mapping("Text by name, for writing only; it ends up in data."),
        "type": text("Which keys there are, e.g. kubernetes.io/tls.", default="Opaque"),
    },
)
_SERVICE_ACCOUNT_SCHEMA = kind(
    "An identity for programs.",
    {
        "automountServiceAccountToken": boolean("Whether pods get its token."),
        "imagePullSecrets": array("Secrets for pulling images.", _REFERENCE),
        "secrets": keyed(
            "Secrets that its pods may use.",
            struct(
                "A reference to an object.",
                {
                    key: text("Of the object.")
                    for key in (
                        "apiVersion",
                        "fieldPath",
                        "kind",
                        "name",
                        "namespace",
                        "resourceVersion",
                        "uid",
                    )
                },
                atomic=True,
            ),
            "name",
        ),
    },
)

CONFIG_MAP = Row(
    group="",
    version="v1",
    kind="ConfigMap",
    plural="configmaps",
    singular="configmap",
    short_names=("cm",),
    generation=False,
    builtin=True,
    columns=(Column("Data", "count", ".data"), AGE),
    schema=_CONFIG_MAP_SCHEMA,
    checks=Shaped("ConfigMap", _CONFIG_MAP_SCHEMA, rules=_config_map, advice=_config_map_advice),
)
SECRET = Row(
    group="",
    version="v1",
    kind="Secret",
    plural="secrets",
    singular="secret",
    generation=False,
    builtin=True,
    columns=(Column("Type", "string", ".type"), Column("Data", "count", ".data"), AGE),
    schema=_SECRET_SCHEMA,
    checks=Shaped("Secret", _SECRET_SCHEMA, defaults=_secret_defaults, rules=_secret),
    selectable={"type": ".type"},
)
SERVICE_ACCOUNT = Row(
    group="",
    version="v1",
    kind="ServiceAccount",
    plural="serviceaccounts",
    singular="serviceaccount",
    short_names=("sa",),
    generation=False,
    builtin=True,
    columns=(AGE,),
    schema=_SERVICE_ACCOUNT_SCHEMA,
    checks=Shaped("ServiceAccount", _SERVICE_ACCOUNT_SCHEMA),
)


def with_tokens(row: Row, store: ObjectStore, issue: Issue) -> Row:
    """Return the row of ServiceAccounts with `serviceaccounts/token`, for `kubectl create token`."""

    async def answer(call: Call) -> ASGIApp:
        account = decode(store.entry(call.key, call.namespace, call.name).raw)
        media = bodies.content_type(call.request)
        request = bodies.parse(await bodies.read(call.request), media)
        if not isinstance(request, dict) or request.get("kind") != "TokenRequest":
            raise ProtocolError("the body is not a TokenRequest of authentication.k8s.io/v1")
        spec = request.get("spec") or {}
        seconds = spec.get("expirationSeconds") or 3600
        if not isinstance(seconds, int) or not 600 <= seconds <= 1 << 32:
            message = f"Invalid value: {seconds}: may not specify a duration less than 10 minutes"
            raise FieldsInvalidError(
                _TOKEN_REQUEST, call.name, [Cause(field="spec.expirationSeconds", message=message)]
            )
        role = (account["metadata"].get("annotations") or {}).get(ROLE, VIEW)
        user = f"system:serviceaccount:{call.namespace}:{call.name}"
        token, ends = issue(user, role if role in ROLES else VIEW, call.namespace, seconds)
        answer = {
            **request,
            "metadata": {"name": call.name, "namespace": call.namespace},
            "spec": {**spec, "expirationSeconds": seconds},
            "status": {"token": token, "expirationTimestamp": ends},
        }
        return Response(forms.encode(answer), status_code=201, media_type="application/json")

    token = Subresource(
        name="token",
        kind="TokenRequest",
        group="authentication.k8s.io",
        verbs=("create",),
        answer=answer,
    )
    return replace(row, subresources=(token,))


_TOKEN_REQUEST = Row(
    group="authentication.k8s.io", version="v1", kind="TokenRequest", plural="tokenrequests", singular=""
)
