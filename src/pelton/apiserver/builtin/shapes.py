"""Schemas of built-in kinds: words to write them with, and checking objects against them. Pure.

The schemas are OpenAPI v3 as Kubernetes publishes it, so one description serves validation, defaults,
`kubectl explain`, merge keys of strategic patches and list keys of server-side apply. Only what built-in
kinds need is understood here; custom resources have the full set of `schema/`.

Source: contracts operator-webhook.md 5.1 (extensions) and 6.1 (answers).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pelton.apiserver.registry import Cause, Checked
from pelton.apiserver.rules import Obj
from pelton.apiserver.status import RefusedError

__all__ = [
    "INT_OR_STRING",
    "METADATA",
    "Shaped",
    "array",
    "boolean",
    "integer",
    "kind",
    "keyed",
    "mapping",
    "strings",
    "struct",
    "text",
]

Schema = dict[str, Any]

_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)"
)  # RFC 3339, which MicroTime is too
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}


def text(
    about: str = "", *, one_of: Sequence[str] = (), default: str | None = None, form: str = ""
) -> Schema:
    """Return a string; `form` is `date-time` or `byte` (base64)."""
    schema: Schema = {"type": "string", "description": about}
    if one_of:
        schema["enum"] = list(one_of)
    if default is not None:
        schema["default"] = default
    if form:
        schema["format"] = form
    return schema


def integer(
    about: str = "", *, low: int | None = None, high: int | None = None, default: int | None = None
) -> Schema:
    """Return a whole number, bounds inclusive."""
    schema: Schema = {"type": "integer", "format": "int32", "description": about}
    for key, value in (("minimum", low), ("maximum", high), ("default", default)):
        if value is not None:
            schema[key] = value
    return schema


def boolean(about: str = "", *, default: bool | None = None) -> Schema:
    """Return a truth value."""
    schema: Schema = {"type": "boolean", "description": about}
    return schema if default is None else {**schema, "default": default}


def struct(
    about: str, fields: Mapping[str, Schema], *, required: Sequence[str] = (), atomic: bool = False
) -> Schema:
    """Return a mapping with known fields."""
    schema: Schema = {"type": "object", "description": about, "properties": dict(fields)}
    if required:
        schema["required"] = list(required)
    if atomic:
        schema["x-kubernetes-map-type"] = "atomic"
    return schema


def mapping(about: str = "", *, values: Schema | None = None, atomic: bool = False) -> Schema:
    """Return a mapping with any keys, of strings unless `values` says otherwise."""
    schema: Schema = {
        "type": "object",
        "description": about,
        "additionalProperties": values or {"type": "string", "default": ""},
    }
    return {**schema, "x-kubernetes-map-type": "atomic"} if atomic else schema


def array(about: str, items: Schema) -> Schema:
    """Return a list that is one value: whoever writes it owns all of it."""
    return {"type": "array", "description": about, "items": items, "x-kubernetes-list-type": "atomic"}


def keyed(about: str, items: Schema, *keys: str, merge: str = "") -> Schema:
    """Return a list whose items are told apart by `keys`, and merged by `merge` in strategic patches."""
    return {
        "type": "array",
        "description": about,
        "items": items,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": list(keys),
        "x-kubernetes-patch-strategy": "merge",
        "x-kubernetes-patch-merge-key": merge or keys[0],
    }


def strings(about: str, *, merged: bool = False) -> Schema:
    """Return a list of strings; `merged` makes it a set."""
    schema: Schema = {"type": "array", "description": about, "items": {"type": "string"}}
    if merged:
        return {**schema, "x-kubernetes-list-type": "set", "x-kubernetes-patch-strategy": "merge"}
    return {**schema, "x-kubernetes-list-type": "atomic"}


INT_OR_STRING: Schema = {"x-kubernetes-int-or-string": True, "description": "A number or a name."}
"""A port by number or by name."""

METADATA: Schema = struct(
    "Name, namespace, labels and what else every object has.",
    {
        "annotations": mapping("Notes for tools; not for selecting. At most 256 KiB together."),
        "creationTimestamp": text("When the server stored it first.", form="date-time"),
        "deletionGracePeriodSeconds": {"type": "integer", "format": "int64", "description": "Grace left."},
        "deletionTimestamp": text("When its deletion was asked for.", form="date-time"),
        "finalizers": strings("Who has to agree before it goes.", merged=True),
        "generateName": text("Beginning of a name that the server completes."),
        "generation": {"type": "integer", "format": "int64", "description": "Grows when the spec changes."},
        "labels": mapping("Names and values to select by."),
        "managedFields": array("Who wrote which field.", {"type": "object", "description": "One writer."}),
        "name": text("Unique in its namespace and kind."),
        "namespace": text("Where it lives."),
        "ownerReferences": keyed(
            "Objects with which this one goes.",
            struct(
                "One owner.",
                {
                    "apiVersion": text("Group and version of the owner."),
                    "blockOwnerDeletion": boolean("Whether a foreground deletion of the owner waits."),
                    "controller": boolean("Whether the owner is the one that manages this object."),
                    "kind": text("Kind of the owner."),
                    "name": text("Name of the owner."),
                    "uid": text("uid of the owner."),
                },
                required=("apiVersion", "kind", "name", "uid"),
                atomic=True,
            ),
            "uid",
        ),
        "resourceVersion": text("Changes with every write."),
        "selfLink": text("No longer set."),
        "uid": text("Unique for all time."),
    },
)
"""ObjectMeta."""


def kind(about: str, fields: Mapping[str, Schema], *, required: Sequence[str] = ()) -> Schema:
    """Return the schema of a whole object."""
    return struct(
        about,
        {
            "apiVersion": text("Group and version, e.g. `v1`."),
            "kind": text("Which kind of object this is."),
            "metadata": METADATA,
            **fields,
        },
        required=required,
    )


Rules = Callable[[Obj, Obj | None], Sequence[Cause]]


class Shaped:
    """Checks of a built-in kind: its schema, then what a schema cannot say.

    Args:
        name: Kind, for messages.
        schema: Of the whole object.
        defaults: Further defaults, after those of the schema.
        rules: (new, old or None) -> broken rules.
        advice: Object -> sentences for whoever writes it.
    """

    def __init__(
        self,
        name: str,
        schema: Schema,
        *,
        defaults: Callable[[Obj], Obj] | None = None,
        rules: Rules | None = None,
        advice: Callable[[Obj], Sequence[str]] | None = None,
    ) -> None:
        self._name = name
        self._schema = schema
        self._defaults = defaults
        self._rules = rules
        self._advice = advice

    def default(self, obj: Obj, /) -> Obj:
        """Return a copy with defaults; null fields are left out, as decoding into a struct does."""
        filled: Obj = _filled(self._schema, obj)
        return self._defaults(filled) if self._defaults else filled

    def check(self, obj: Obj, old: Obj | None, /, *, subresource: str) -> Checked:
        """Prune and validate.

        Raises:
            RefusedError: 400, a value has the wrong type: the object cannot even be read as this kind.
        """
        wrong: list[str] = []
        causes: list[Cause] = []
        unknown: list[str] = []
        pruned = _walk(self._schema, obj, "", wrong, causes, unknown)
        if wrong:
            version, told = obj.get("apiVersion", ""), "; ".join(wrong)
            raise RefusedError(
                f'{self._name} in version "{version}" cannot be handled as a {self._name}: {told}', status=400
            )
        if self._rules and not subresource:
            causes += self._rules(pruned, old)
        warnings = self._advice(pruned) if self._advice and not subresource else ()
        return Checked(obj=pruned, causes=causes, warnings=warnings, unknown=unknown)

    def prune(self, obj: Obj, /) -> tuple[Obj, Sequence[str]]:
        """Return the object without unknown fields, and their paths; values are not judged."""
        unknown: list[str] = []
        pruned: Obj = _walk(self._schema, obj, "", [], [], unknown)
        return pruned, unknown

    def read(self, obj: Obj, /) -> Obj:
        """Return it as it is."""
        return obj


def _filled(schema: Schema, value: Any) -> Any:
    if isinstance(value, dict):
        fields, extra = schema.get("properties", {}), schema.get("additionalProperties", {})
        result = {
            key: _filled(fields.get(key, extra), entry) for key, entry in value.items() if entry is not None
        }
        for key, field in fields.items():
            if "default" in field and key not in result:
                result[key] = field["default"]
        return result
    if isinstance(value, list):
        return [_filled(schema.get("items", {}), entry) for entry in value]
    return value


def _walk(
    schema: Mapping[str, Any],
    value: Any,
    path: str,
    wrong: list[str],
    causes: list[Cause],
    unknown: list[str],
) -> Any:
    """Return the value without unknown fields; adds to the lists what is wrong."""
    expected = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, (int, str)) or isinstance(value, bool):
            wrong.append(f"{path}: expected a number or a string, not {_word(value)}")
        return value
    if expected is None:
        return value
    kinds: tuple[type, ...] = _TYPES[expected]
    if not isinstance(value, kinds) or (isinstance(value, bool) and expected != "boolean"):
        wrong.append(f"{path or 'the object'}: expected {expected}, not {_word(value)}")
        return value
    if isinstance(value, dict):
        return _walk_fields(schema, value, path, wrong, causes, unknown)
    if isinstance(value, list):
        items = schema.get("items", {})
        kept = [
            _walk(items, entry, f"{path}[{at}]", wrong, causes, unknown) for at, entry in enumerate(value)
        ]
        if not wrong:
            causes += _repeated(schema, kept, path)
        return kept
    causes += _scalar(schema, value, path)
    return value


def _walk_fields(
    schema: Mapping[str, Any],
    value: Obj,
    path: str,
    wrong: list[str],
    causes: list[Cause],
    unknown: list[str],
) -> Obj:
    fields, extra = schema.get("properties"), schema.get("additionalProperties")
    if fields is None and extra is None:
        return value
    kept: Obj = {}
    for key, entry in value.items():
        at = f"{path}.{key}" if path else key
        field = (fields or {}).get(key, extra)
        if field is None:
            unknown.append(at)
        else:
            kept[key] = _walk(field, entry, at, wrong, causes, unknown)
    for key in schema.get("required", ()):
        if kept.get(key) in (None, ""):
            at = f"{path}.{key}" if path else key
            causes.append(Cause(field=at, message="Required value", reason="FieldValueRequired"))
    return kept


def _scalar(schema: Mapping[str, Any], value: Any, path: str) -> list[Cause]:
    choices = schema.get("enum")
    if choices and value not in choices and value != "":
        listed = ", ".join(f'"{choice}"' for choice in choices)
        message = f'Unsupported value: "{value}": supported values: {listed}'
        return [Cause(field=path, message=message, reason="FieldValueNotSupported")]
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None and not low <= value <= high:
        return [
            Cause(field=path, message=f"Invalid value: {value}: must be between {low} and {high}, inclusive")
        ]
    if low is not None and value < low:
        return [Cause(field=path, message=f"Invalid value: {value}: must be greater than or equal to {low}")]
    form = schema.get("format")
    if form == "date-time" and not _TIME.fullmatch(value):
        return [Cause(field=path, message=f'Invalid value: "{value}": must be a time as RFC 3339 writes it')]
    if form == "byte" and not _base64(value):
        return [Cause(field=path, message="Invalid value: must be base64")]
    return []


def _repeated(schema: Mapping[str, Any], items: Sequence[Any], path: str) -> list[Cause]:
    """Return a cause per item of a keyed list or a set that was there before."""
    keys = schema.get("x-kubernetes-list-map-keys", ())
    if schema.get("x-kubernetes-list-type") not in ("map", "set"):
        return []
    seen: set[str] = set()
    causes = []
    for at, item in enumerate(items):
        identity = repr([item.get(key) for key in keys] if keys and isinstance(item, dict) else item)
        if identity in seen:
            shown = {key: item.get(key) for key in keys} if keys else item
            causes.append(
                Cause(
                    field=f"{path}[{at}]", message=f"Duplicate value: {shown}", reason="FieldValueDuplicate"
                )
            )
        seen.add(identity)
    return causes


def _base64(value: str) -> bool:
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _word(value: Any) -> str:
    """Return JSON's word for the type of a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, dict) else "array" if isinstance(value, list) else "number"
