"""CustomResourceDefinition: its row, its defaults and every rule about it. Pure.

`service.py` serves the row; `crd_controller.py` acts on what is stored and `crd_rows.py` makes rows of it.
Rules about schemas are in `schema/`. Source: contracts operator-webhook.md section 5.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pelton.apiserver.builtin.shapes import (
    Shaped,
    array,
    boolean,
    integer,
    keyed,
    kind,
    strings,
    struct,
    text,
)
from pelton.apiserver.conversion import KNOWN_VERSIONS
from pelton.apiserver.registry import Cause, Checked, Row
from pelton.apiserver.rules import Obj, being_deleted
from pelton.apiserver.schema import check, check_rules, drop_unknown_keywords, parse
from pelton.apiserver.schema.problems import (
    duplicate,
    forbidden,
    invalid_value,
    not_supported,
    required,
    too_many,
)
from pelton.apiserver.table import find
from pelton.apiserver.webhooks import client_config
from pelton.manifest.kinds import Column

__all__ = ["APPROVED", "FINALIZER", "GROUP", "ROW", "condition", "protected", "with_condition"]

GROUP = "apiextensions.k8s.io"
"""API group of the definitions."""

FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
"""Keeps a deleted definition until its objects are gone."""

APPROVED = "api-approved.kubernetes.io"
"""Annotation that definitions in Kubernetes' own groups need."""

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # DNS-1035
_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)+")
_PROTECTED = re.compile(r"(.+\.)?(k8s\.io|kubernetes\.io)")
_COLUMN_TYPES = ("integer", "number", "string", "boolean", "date")
_COLUMN_FORMATS = ("int32", "int64", "float", "double", "byte", "date", "date-time", "password")
_SIMPLE_PATH = re.compile(r"(\.[A-Za-z_][-A-Za-z0-9_]*|\['[^']+'\])+")
_MAX_SELECTABLE = 8

_NAMES = {
    "plural": text("Plural, as in paths."),
    "singular": text("Singular; the kind in lower case when absent."),
    "kind": text("Kind, in camel case."),
    "listKind": text("Kind of lists; `<kind>List` when absent."),
    "shortNames": strings("Short names for command lines."),
    "categories": strings("Groups of resources that it belongs to, e.g. `all`."),
}
_VERSION = struct(
    "A version.",
    {
        "name": text("Name, e.g. `v1`."),
        "served": boolean("Whether clients see it."),
        "storage": boolean("Whether objects are kept in it; exactly one version is."),
        "deprecated": boolean("Whether clients are warned."),
        "deprecationWarning": text("What they are told."),
        "schema": struct(
            "Its schema.", {"openAPIV3Schema": {"type": "object", "description": "Structural schema."}}
        ),
        "subresources": struct(
            "What it has beside the object itself.",
            {
                "status": {"type": "object", "description": "Serve /status."},
                "scale": struct(
                    "Serve /scale.",
                    {
                        "specReplicasPath": text("Where the wanted number is, below .spec."),
                        "statusReplicasPath": text("Where the observed number is, below .status."),
                        "labelSelectorPath": text("Where the selector's text is."),
                    },
                    required=("specReplicasPath", "statusReplicasPath"),
                ),
            },
        ),
        "additionalPrinterColumns": array(
            "Columns of `kubectl get`.",
            struct(
                "A column.",
                {
                    "name": text("Heading."),
                    "type": text("integer, number, string, boolean or date."),
                    "format": text("Format of the type."),
                    "description": text("What it shows."),
                    "priority": integer("Above 0: shown by `-o wide` only."),
                    "jsonPath": text("Where the value is."),
                },
                required=("name", "type", "jsonPath"),
            ),
        ),
        "selectableFields": array(
            "Fields for field selectors.",
            struct("A field.", {"jsonPath": text("Where it is.")}, required=("jsonPath",)),
        ),
    },
    required=("name",),
)
_CONDITION = struct(
    "A condition.",
    {
        "type": text("Which."),
        "status": text("True, False or Unknown."),
        "reason": text("In one word."),
        "message": text("For people."),
        "lastTransitionTime": text("When status changed.", form="date-time"),
        "observedGeneration": integer("Of the definition that it is about."),
    },
    required=("type", "status"),
)
_SCHEMA = kind(
    "Defines a kind of your own.",
    {
        "spec": struct(
            "The kind.",
            {
                "group": text("Its API group."),
                "scope": text("Namespaced or Cluster."),
                "names": struct("How it is called.", _NAMES, required=("plural", "kind")),
                "versions": array("Its versions.", _VERSION),
                "conversion": struct(
                    "How objects get from one version to another.",
                    {
                        "strategy": text("None (only apiVersion changes) or Webhook.", default="None"),
                        "webhook": struct(
                            "The webhook.",
                            {
                                "clientConfig": client_config.CLIENT_CONFIG,
                                "conversionReviewVersions": strings(
                                    "Versions of ConversionReview that it understands."
                                ),
                            },
                        ),
                    },
                ),
                "preserveUnknownFields": boolean("Of the past; must be false."),
            },
            required=("group", "scope"),
        ),
        "status": struct(
            "What became of it.",
            {
                "conditions": keyed("Conditions.", _CONDITION, "type"),
                "acceptedNames": struct("The names that are in use.", _NAMES),
                "storedVersions": strings("Versions in which objects were ever stored."),
            },
        ),
    },
    required=("spec",),
)


class _Checks:
    """Checks of definitions: the shape of the object first, then the rules below."""

    def __init__(self) -> None:
        self._shape = Shaped("CustomResourceDefinition", _SCHEMA)

    def default(self, obj: Obj, /) -> Obj:
        """Fill in names and the conversion strategy."""
        filled = self._shape.default(obj)
        spec = filled.get("spec")
        names = spec.get("names") if isinstance(spec, dict) else None
        if not isinstance(spec, dict) or not isinstance(names, dict):
            return filled
        name = names.get("kind")
        if isinstance(name, str) and name:
            names = {"singular": name.lower(), "listKind": f"{name}List", **names}
        return {**filled, "spec": {"conversion": {"strategy": "None"}, **spec, "names": names}}

    def check(self, obj: Obj, old: Obj | None, /, *, subresource: str) -> Checked:
        """Prune and validate."""
        checked = self._shape.check(obj, old, subresource=subresource)
        result = copy.deepcopy(checked.obj)
        unknown = list(checked.unknown)
        for at, version in enumerate((result.get("spec") or {}).get("versions") or ()):
            path = f"spec.versions[{at}].schema.openAPIV3Schema"
            unknown += drop_unknown_keywords((version.get("schema") or {}).get("openAPIV3Schema"), path)
        causes = list(checked.causes)
        if subresource == "status":
            causes += _stored(result, (result.get("status") or {}).get("storedVersions"))
        elif not causes:
            causes += _definition(result, old)
        return Checked(obj=result, causes=causes, warnings=checked.warnings, unknown=unknown)

    def prune(self, obj: Obj, /) -> tuple[Obj, Sequence[str]]:
        """Return the object without unknown fields, and their paths."""
        return self._shape.prune(obj)

    def read(self, obj: Obj, /) -> Obj:
        """Return it as it is."""
        return obj


def _marked(obj: Obj) -> Obj:
    """Return what a DELETE makes of a definition: it stays until its objects are gone."""
    if being_deleted(obj):
        return obj
    marks = [*(obj["metadata"].get("finalizers") or ())]
    return {**obj, "metadata": {**obj["metadata"], "finalizers": [*marks, *({FINALIZER} - set(marks))]}}


ROW = Row(
    group=GROUP,
    version="v1",
    kind="CustomResourceDefinition",
    plural="customresourcedefinitions",
    singular="customresourcedefinition",
    short_names=("crd", "crds"),
    namespaced=False,
    categories=("api-extensions",),
    builtin=True,
    status=True,
    columns=(Column("Created At", "string", ".metadata.creationTimestamp"),),
    schema=_SCHEMA,
    checks=_Checks(),
    deleted=_marked,
)
"""Row of CustomResourceDefinition."""


def condition(obj: Obj, name: str) -> Mapping[str, Any]:
    """Return a condition of a definition, {} when it has none of that type."""
    conditions: Sequence[Mapping[str, Any]] = (obj.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each.get("type") == name), {})


def with_condition(
    conditions: Sequence[Mapping[str, Any]], name: str, status: str, reason: str, message: str, *, now: str
) -> list[Mapping[str, Any]]:
    """Return conditions with one set; its lastTransitionTime changes only when its status does."""
    had = next((each for each in conditions if each.get("type") == name), {})
    since = had.get("lastTransitionTime", now) if had.get("status") == status else now
    new = {"type": name, "status": status, "lastTransitionTime": since, "reason": reason, "message": message}
    if had:
        return [new if each is had else each for each in conditions]
    return [*conditions, new]


def protected(group: str) -> bool:
    """Return whether a group is Kubernetes' own, so that its definitions need the approval annotation."""
    return _PROTECTED.fullmatch(group) is not None


# -- rules -------------------------------------------------------------------------------------------------


def _definition(obj: Obj, old: Obj | None) -> list[Cause]:
    spec = obj["spec"]
    causes = _names(spec)
    name = f"{spec['names'].get('plural', '')}.{spec['group']}" if isinstance(spec.get("names"), dict) else ""
    if obj["metadata"].get("name") != name:
        given = obj["metadata"].get("name")
        causes.append(invalid_value("metadata.name", given, 'must be spec.names.plural+"."+spec.group'))
    if spec["scope"] not in ("Cluster", "Namespaced"):
        causes.append(not_supported("spec.scope", spec["scope"], ("Cluster", "Namespaced")))
    if spec.get("preserveUnknownFields"):
        causes.append(
            invalid_value(
                "spec.preserveUnknownFields",
                True,
                "must be false: write x-kubernetes-preserve-unknown-fields in the schema",
            )
        )
    if protected(spec["group"]) and not (obj["metadata"].get("annotations") or {}).get(APPROVED):
        causes.append(
            required(
                f"metadata.annotations[{APPROVED}]",
                "protected groups must have an approval annotation: the URL of the review, or "
                "`unapproved, ...`",
            )
        )
    causes += _versions(spec)
    causes += _conversion(spec)
    if old is not None:
        causes += _immutable(spec, old)
        causes += _stored(obj, (old.get("status") or {}).get("storedVersions") or ())
    return causes


def _names(spec: Mapping[str, Any]) -> list[Cause]:
    names, causes = spec.get("names"), []
    group = spec["group"]
    if not _DOMAIN.fullmatch(group) or len(group) > 253:
        causes.append(invalid_value("spec.group", group, "should be a domain with at least one dot"))
    if not isinstance(names, dict):
        return [*causes, required("spec.names")]
    causes += [
        invalid_value(f"spec.names.{key}", names[key], "must be a DNS-1035 label")
        for key in ("plural", "singular")
        if names.get(key) and not _label(names[key])
    ]
    mixed = "may have mixed case, but should otherwise match: a DNS-1035 label"
    causes += [
        invalid_value(f"spec.names.{key}", names[key], mixed)
        for key in ("kind", "listKind")
        if names.get(key) and not _label(names[key].lower())
    ]
    for key in ("shortNames", "categories"):
        for at, each in enumerate(names.get(key) or ()):
            if not _label(each):
                causes.append(invalid_value(f"spec.names.{key}[{at}]", each, "must be a DNS-1035 label"))
    if names.get("kind") and names.get("kind") == names.get("listKind"):
        causes.append(
            invalid_value("spec.names.listKind", names["listKind"], "kind and listKind may not be the same")
        )
    return causes


def _label(name: str) -> bool:
    return len(name) <= 63 and _LABEL.fullmatch(name) is not None


def _versions(spec: Mapping[str, Any]) -> list[Cause]:
    versions = spec.get("versions") or []
    if not versions:
        return [required("spec.versions", "must have exactly one version marked as storage version")]
    causes: list[Cause] = []
    names = [version.get("name") for version in versions]
    stored = [name for name, version in zip(names, versions, strict=True) if version.get("storage")]
    if len(stored) != 1:
        causes.append(
            invalid_value("spec.versions", names, "must have exactly one version marked as storage version")
        )
    for at, version in enumerate(versions):
        path = f"spec.versions[{at}]"
        if version.get("name") and not _label(version["name"]):
            causes.append(invalid_value(f"{path}.name", version["name"], "must be a DNS-1035 label"))
        if version.get("name") in names[:at]:
            causes.append(duplicate(f"{path}.name", version["name"]))
        causes += [required(f"{path}.{key}") for key in ("served", "storage") if key not in version]
        causes += _deprecation(version, path)
        causes += _version_schema(version, path)
        causes += _subresources(version.get("subresources") or {}, f"{path}.subresources")
        causes += _columns(version.get("additionalPrinterColumns") or (), f"{path}.additionalPrinterColumns")
        causes += _selectable(version, f"{path}.selectableFields")
    return causes


def _deprecation(version: Mapping[str, Any], path: str) -> list[Cause]:
    warning = version.get("deprecationWarning")
    if warning is None:
        return []
    field = f"{path}.deprecationWarning"
    if not version.get("deprecated"):
        return [invalid_value(field, warning, "can only be set for deprecated versions")]
    if not warning:
        return [invalid_value(field, warning, "must not be an empty string")]
    if len(warning) > 256:
        return [
            Cause(reason="FieldValueTooLong", field=field, message="Too long: may not be more than 256 bytes")
        ]
    if not warning.isprintable():
        return [invalid_value(field, warning, "must only contain printable characters")]
    return []


def _version_schema(version: Mapping[str, Any], path: str) -> list[Cause]:
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    field = f"{path}.schema.openAPIV3Schema"
    if schema is None:
        return [required(field, "schemas are required")]
    return check(schema, field) or check_rules(parse(schema), field)


def _subresources(given: Mapping[str, Any], path: str) -> list[Cause]:
    scale = given.get("scale")
    if scale is None:
        return []
    causes = []
    for key, below in (("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")):
        value = scale.get(key)
        if value and not (value.startswith(below) and _SIMPLE_PATH.fullmatch(value)):
            causes.append(
                invalid_value(f"{path}.scale.{key}", value, f"should be a json path under {below[:-1]}")
            )
    labels = scale.get("labelSelectorPath")
    if labels and not (labels.startswith((".spec.", ".status.")) and _SIMPLE_PATH.fullmatch(labels)):
        causes.append(
            invalid_value(
                f"{path}.scale.labelSelectorPath",
                labels,
                "should be a json path under either .status or .spec",
            )
        )
    return causes


def _columns(columns: Sequence[Mapping[str, Any]], path: str) -> list[Cause]:
    causes = []
    for at, column in enumerate(columns):
        if column.get("type") and column["type"] not in _COLUMN_TYPES:
            causes.append(not_supported(f"{path}[{at}].type", column["type"], _COLUMN_TYPES))
        if column.get("format") and column["format"] not in _COLUMN_FORMATS:
            causes.append(not_supported(f"{path}[{at}].format", column["format"], _COLUMN_FORMATS))
        if column.get("jsonPath") and not _readable(column["jsonPath"]):
            causes.append(invalid_value(f"{path}[{at}].jsonPath", column["jsonPath"], "is an invalid path"))
    return causes


def _readable(path: str) -> bool:
    try:
        find(path)
    except ValueError:
        return False
    return True


def _selectable(version: Mapping[str, Any], path: str) -> list[Cause]:
    fields = version.get("selectableFields") or ()
    if len(fields) > _MAX_SELECTABLE:
        return [too_many(path, len(fields), _MAX_SELECTABLE)]
    causes = []
    seen: set[str] = set()
    for at, field in enumerate(fields):
        given, here = field.get("jsonPath") or "", f"{path}[{at}].jsonPath"
        if not given:
            continue
        if given in seen:
            causes.append(duplicate(here, given))
        seen.add(given)
        if not _SIMPLE_PATH.fullmatch(given):
            causes.append(invalid_value(here, given, "is an invalid path: does not refer to a valid field"))
        elif given.startswith(".metadata"):
            causes.append(invalid_value(here, given, "must not point to fields in metadata"))
        elif _type_at((version.get("schema") or {}).get("openAPIV3Schema"), given) not in (
            "string",
            "boolean",
            "integer",
        ):
            causes.append(
                invalid_value(
                    here, given, "must point to a field of type string, boolean or integer in the schema"
                )
            )
    return causes


def _type_at(schema: Any, path: str) -> str:
    for key in path.removeprefix(".").split("."):
        properties = schema.get("properties") if isinstance(schema, dict) else None
        schema = properties.get(key) if isinstance(properties, dict) else None
    return str(schema.get("type") or "") if isinstance(schema, dict) else ""


def _conversion(spec: Mapping[str, Any]) -> list[Cause]:
    conversion = spec.get("conversion") or {}
    strategy, webhook, path = conversion.get("strategy"), conversion.get("webhook"), "spec.conversion"
    if strategy not in ("None", "Webhook"):
        return [not_supported(f"{path}.strategy", strategy, ("None", "Webhook"))]
    if strategy == "None":
        if webhook is None:
            return []
        return [forbidden(f"{path}.webhook", "should not be set when strategy is not set to Webhook")]
    if webhook is None:
        return [required(f"{path}.webhook.clientConfig", "required when strategy is set to Webhook")]
    causes = []
    client = webhook.get("clientConfig")
    if client is None:
        causes.append(required(f"{path}.webhook.clientConfig", "required when strategy is set to Webhook"))
    else:
        causes += client_config.check(client, f"{path}.webhook.clientConfig")
    field, versions = (
        f"{path}.webhook.conversionReviewVersions",
        webhook.get("conversionReviewVersions") or [],
    )
    if not versions:
        causes.append(required(field))
    elif not set(versions) & set(KNOWN_VERSIONS):
        causes.append(
            invalid_value(field, versions, f"must include at least one of {', '.join(KNOWN_VERSIONS)}")
        )
    return causes


def _immutable(spec: Mapping[str, Any], old: Obj) -> list[Cause]:
    before, causes = old["spec"], []
    fields = [("spec.group", before["group"], spec["group"])]
    if condition(old, "Established").get("status") == "True":
        fields.append(("spec.scope", before["scope"], spec["scope"]))
        fields += [
            (f"spec.names.{k}", before["names"].get(k), spec["names"].get(k)) for k in ("plural", "kind")
        ]
    for field, was, now in fields:
        if was != now:
            causes.append(invalid_value(field, now, "field is immutable"))  # reads as a rule
    return causes


def _stored(obj: Obj, stored: Any) -> list[Cause]:
    versions = obj["spec"].get("versions") or ()
    names = [version.get("name") for version in versions]
    if not isinstance(stored, (list, tuple)):
        return []
    return [
        invalid_value(
            f"status.storedVersions[{at}]",
            each,
            f"missing from spec.versions; {each} was previously a storage version, and must remain in "
            "spec.versions "
            f"until a storage migration ensures no data remains persisted in {each} and removes {each} from "
            "status.storedVersions",
        )
        for at, each in enumerate(stored)
        if each not in names
    ]
