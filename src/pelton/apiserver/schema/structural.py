"""Whether a CRD's schema is structural: every rule, every fault with its path.

The controller of definitions calls this when a definition is admitted; what passes can be read by
`node.parse`. Rules about CEL are in `rules.py`, since they need the types of the whole schema. Pure.
Source: contracts operator-webhook.md 5.1.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pelton.apiserver.registry import Cause
from pelton.apiserver.schema import fill
from pelton.apiserver.schema.node import ABSENT, parse
from pelton.apiserver.schema.problems import (
    duplicate,
    forbidden,
    invalid_type,
    invalid_value,
    not_supported,
    required,
    shown,
)
from pelton.apiserver.schema.validate import validate
from pelton.cel.regex import RegexError, compile_regex

__all__ = ["KEYWORDS", "check", "drop_unknown_keywords", "unknown_keywords"]

_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_SCALARS = ("boolean", "integer", "number", "string")
_JUNCTORS = ("allOf", "anyOf", "oneOf")
_FORBIDDEN = ("$ref", "definitions", "dependencies", "id", "patternProperties", "additionalItems", "$schema")
_EXTENSIONS = {
    "x-kubernetes-preserve-unknown-fields": bool,
    "x-kubernetes-embedded-resource": bool,
    "x-kubernetes-int-or-string": bool,
    "x-kubernetes-list-type": str,
    "x-kubernetes-list-map-keys": list,
    "x-kubernetes-map-type": str,
    "x-kubernetes-validations": list,
}
KEYWORDS: Mapping[str, type | tuple[type, ...]] = {
    "type": str,
    "format": str,
    "title": str,
    "description": str,
    "nullable": bool,
    "default": object,
    "example": object,
    "externalDocs": dict,
    "enum": list,
    "required": list,
    "pattern": str,
    "properties": dict,
    "additionalProperties": (dict, bool),
    "items": dict,
    "allOf": list,
    "anyOf": list,
    "oneOf": list,
    "not": dict,
    "uniqueItems": bool,
    "exclusiveMinimum": bool,
    "exclusiveMaximum": bool,
    "minimum": (int, float),
    "maximum": (int, float),
    "multipleOf": (int, float),
    "minLength": int,
    "maxLength": int,
    "minItems": int,
    "maxItems": int,
    "minProperties": int,
    "maxProperties": int,
    **_EXTENSIONS,
    **dict.fromkeys(_FORBIDDEN, object),
}
"""Keyword -> type of its value."""

_NOT_IN_JUNCTORS = (
    "type",
    "default",
    "nullable",
    "title",
    "description",
    "additionalProperties",
    *_EXTENSIONS,
)
_INT_OR_STRING = ({"type": "integer"}, {"type": "string"})
_MAX_DEPTH = 60


def unknown_keywords(schema: Any, path: str) -> list[str]:
    """Return the paths of keywords that no schema has."""
    levels = _levels(schema, path, 0)
    return [f"{field}.{key}" for field, level in levels for key in level if key not in KEYWORDS]


def drop_unknown_keywords(schema: Any, path: str) -> list[str]:
    """Remove keywords that no schema has, in place; returns their paths."""
    found = unknown_keywords(schema, path)
    for _, level in _levels(schema, path, 0) if found else ():
        for key in [key for key in level if key not in KEYWORDS]:
            del level[key]
    return found


def check(schema: Any, path: str) -> list[Cause]:
    """Return every fault of a schema.

    Args:
        schema: openAPIV3Schema as submitted.
        path: Where it is, e.g. `spec.versions[0].schema.openAPIV3Schema`.
    """
    if not isinstance(schema, dict):
        return [invalid_type(path, "", "must be an object")]
    problems: list[Cause] = []
    for field, level in _levels(schema, path, 0):
        _types(level, field, problems)
    if problems:
        return problems  # the rules below read values of the right types
    if _depth(schema) > _MAX_DEPTH:
        return [forbidden(path, f"schemas are nested at most {_MAX_DEPTH} levels deep")]
    for field, level in _levels(schema, path, 0):
        _keywords(level, field, problems)
    _root(schema, path, problems)
    _level(schema, path, problems, junctor=False, inherited=None)
    if not problems:
        _defaults(schema, path, problems)
        _metadata_of_embedded(schema, path, problems)
    return problems


def _levels(schema: Any, path: str, depth: int) -> list[tuple[str, dict[str, Any]]]:
    """Return every schema inside of a schema with its path, the outer ones first."""
    if not isinstance(schema, dict) or depth > _MAX_DEPTH + 5:
        return []
    found = [(path, schema)]
    properties = schema.get("properties")
    if isinstance(properties, dict):
        for key, value in properties.items():
            found += _levels(value, f"{path}.properties[{key}]", depth + 1)
    for key in ("additionalProperties", "items", "not"):
        found += _levels(schema.get(key), f"{path}.{key}", depth + 1)
    for key in _JUNCTORS:
        parts = schema.get(key)
        for at, part in enumerate(parts if isinstance(parts, list) else ()):
            found += _levels(part, f"{path}.{key}[{at}]", depth + 1)
    return found


def _depth(schema: Any) -> int:
    deepest, waiting = 0, [(schema, 1)]
    while waiting:
        level, depth = waiting.pop()
        deepest = max(deepest, depth)
        inner = [
            *(level.get("properties") or {}).values(),
            level.get("additionalProperties"),
            level.get("items"),
        ]
        inner += [level.get("not"), *(part for key in _JUNCTORS for part in level.get(key) or ())]
        waiting += [(part, depth + 1) for part in inner if isinstance(part, dict)]
    return deepest


def _types(level: dict[str, Any], path: str, problems: list[Cause]) -> None:
    for key, value in level.items():
        wanted = KEYWORDS.get(key)
        if wanted is None or wanted is object or value is None:
            continue
        wrong = not isinstance(value, wanted) or (isinstance(value, bool) and wanted is int)
        if wrong or (isinstance(value, bool) and wanted == (int, float)):
            problems.append(
                invalid_type(f"{path}.{key}", shown(value), "has the wrong type for this keyword")
            )
    problems.extend(
        invalid_type(f"{path}.{key}", shown(level[key]), "must be a list of strings")
        for key in ("required", "x-kubernetes-list-map-keys")
        if isinstance(level.get(key), list) and not all(isinstance(name, str) for name in level[key])
    )
    problems.extend(
        invalid_type(f"{path}.{key}", shown(level[key]), "must be a list of objects")
        for key in (*_JUNCTORS, "x-kubernetes-validations")
        if isinstance(level.get(key), list) and not all(isinstance(part, dict) for part in level[key])
    )
    if isinstance(level.get("properties"), dict):
        problems.extend(
            invalid_type(f"{path}.properties[{key}]", shown(value), "must be an object")
            for key, value in level["properties"].items()
            if not isinstance(value, dict)
        )


def _keywords(level: dict[str, Any], path: str, problems: list[Cause]) -> None:
    """Check what is wrong wherever it stands."""
    problems.extend(
        forbidden(f"{path}.{key}", f"{key} is not supported")
        for key in _FORBIDDEN
        if level.get(key) not in (None, "", {}, [])
    )
    if level.get("uniqueItems") is True:
        problems.append(
            forbidden(
                f"{path}.uniqueItems",
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            )
        )
    if level.get("type") and level["type"] not in _TYPES:
        problems.append(not_supported(f"{path}.type", level["type"], _TYPES))
    if level.get("pattern"):
        try:
            compile_regex(level["pattern"])
        except RegexError as error:
            detail = f"must be a valid regular expression, but isn't: error parsing regexp: {error}"
            problems.append(invalid_value(f"{path}.pattern", level["pattern"], detail))
    problems.extend(
        invalid_value(f"{path}.{key}", level[key], "must be greater than or equal to 0")
        for key in ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
        if (level.get(key) or 0) < 0
    )
    if level.get("multipleOf") is not None and level["multipleOf"] <= 0:
        problems.append(invalid_value(f"{path}.multipleOf", level["multipleOf"], "must be greater than 0"))
    if level.get("additionalProperties") is False:
        problems.append(
            forbidden(f"{path}.additionalProperties", "additionalProperties cannot be set to false")
        )
    if level.get("properties") and level.get("additionalProperties") not in (None, False):
        problems.append(
            forbidden(
                f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive"
            )
        )
    if level.get("enum") == []:
        problems.append(required(f"{path}.enum", "must not be empty if specified"))


def _root(schema: dict[str, Any], path: str, problems: list[Cause]) -> None:
    kind = schema.get("type")
    if not kind:
        problems.append(required(f"{path}.type", "must not be empty at the root"))
    elif kind != "object":
        problems.append(invalid_value(f"{path}.type", kind, "must be object at the root"))
    if schema.get("additionalProperties") is not None:
        problems.append(forbidden(f"{path}.additionalProperties", "must not be used at the root"))
    if schema.get("x-kubernetes-embedded-resource"):
        problems.append(forbidden(f"{path}.x-kubernetes-embedded-resource", "must not be used at the root"))
    if schema.get("nullable"):
        problems.append(forbidden(f"{path}.nullable", "nullable cannot be true at the root"))
    _metadata(schema, path, problems)


def _metadata(schema: dict[str, Any], path: str, problems: list[Cause]) -> None:
    """Check that a whole object restricts of its metadata only the two names."""
    properties = schema.get("properties") or {}
    problems.extend(
        invalid_value(f"{path}.properties[{key}].type", properties[key].get("type"), "must be string")
        for key in ("apiVersion", "kind")
        if key in properties and properties[key].get("type") not in (None, "string")
    )
    metadata = properties.get("metadata")
    if not isinstance(metadata, dict):
        return
    field = f"{path}.properties[metadata]"
    if metadata.get("type") not in (None, "object"):
        problems.append(invalid_value(f"{field}.type", metadata["type"], "must be object"))
    extra = set(metadata) - {"type", "properties", "description", "title"}
    names = metadata.get("properties") or {}
    if extra or set(names) - {"name", "generateName"}:
        problems.append(
            forbidden(
                field,
                "must not specify anything other than name and generateName, "
                "but metadata is implicitly specified",
            )
        )
    problems.extend(
        invalid_value(f"{field}.properties[{key}].type", names[key]["type"], "must be string")
        for key in ("name", "generateName")
        if key in names and names[key].get("type") not in (None, "string")
    )


def _metadata_of_embedded(schema: dict[str, Any], path: str, problems: list[Cause]) -> None:
    for field, level in _levels(schema, path, 0):
        if level.get("x-kubernetes-embedded-resource") is True:
            _metadata(level, field, problems)


def _level(
    schema: dict[str, Any],
    path: str,
    problems: list[Cause],
    *,
    junctor: bool,
    inherited: dict[str, Any] | None,
) -> None:
    """Check a level and what is below; `inherited` is what a junctor's part belongs to, None outside."""
    int_or_string = schema.get("x-kubernetes-int-or-string") is True
    if junctor:
        _inside_junctor(schema, path, problems)
        _specified(schema, inherited, path, problems)
    else:
        _structure(schema, path, problems)
    for key, value in (schema.get("properties") or {}).items():
        below = None if inherited is None else (inherited.get("properties") or {}).get(key)
        field = f"{path}.properties[{key}]"
        if not junctor and _typeless(value):
            problems.append(required(f"{field}.type", "must not be empty for specified object fields"))
        if not junctor or below is not None:
            _level(value, field, problems, junctor=junctor, inherited=below)
    items = schema.get("items")
    if isinstance(items, dict):
        if not junctor and _typeless(items):
            problems.append(required(f"{path}.items.type", "must not be empty for specified array items"))
        below = None if inherited is None else inherited.get("items")
        if not junctor or below is not None:
            _level(items, f"{path}.items", problems, junctor=junctor, inherited=below)
    extra = schema.get("additionalProperties")
    if isinstance(extra, dict) and not junctor:
        if _typeless(extra):
            problems.append(
                required(f"{path}.additionalProperties.type", "must not be empty for specified object fields")
            )
        _level(extra, f"{path}.additionalProperties", problems, junctor=False, inherited=None)
    base = schema if inherited is None else inherited
    for key in _JUNCTORS:
        for at, part in enumerate(schema.get(key) or ()):
            if int_or_string and _int_or_string_part(schema, key, at, part):
                continue
            _level(part, f"{path}.{key}[{at}]", problems, junctor=True, inherited=base)
    if isinstance(schema.get("not"), dict):
        _level(schema["not"], f"{path}.not", problems, junctor=True, inherited=base)


def _typeless(schema: dict[str, Any]) -> bool:
    return not (
        schema.get("type")
        or schema.get("x-kubernetes-int-or-string") is True
        or schema.get("x-kubernetes-preserve-unknown-fields") is True
    )


def _int_or_string_part(schema: dict[str, Any], key: str, at: int, part: dict[str, Any]) -> bool:
    """Allow the one place where types stand in junctors: anyOf [integer, string], alone or first in allOf."""
    if key == "anyOf":
        return tuple(schema["anyOf"]) == _INT_OR_STRING
    return key == "allOf" and at == 0 and tuple(part.get("anyOf") or ()) == _INT_OR_STRING and len(part) == 1


def _inside_junctor(schema: dict[str, Any], path: str, problems: list[Cause]) -> None:
    problems.extend(
        forbidden(f"{path}.{key}", "must be empty to be structural")
        for key in _NOT_IN_JUNCTORS
        if schema.get(key) not in (None, "", [], {}, False) or (key == "default" and key in schema)
    )


def _specified(
    schema: dict[str, Any], inherited: dict[str, Any] | None, path: str, problems: list[Cause]
) -> None:
    """Check that what a junctor's part names is there outside of the junctor too."""
    outside = inherited or {}
    known = outside.get("properties") or {}
    problems.extend(
        (
            required(
                f"{path.rpartition('.')[0]}.properties[{key}]",
                f"because it is defined in {path}.properties[{key}]",
            )
        )
        for key in (schema.get("properties") or {})
        if (key not in known)
    )
    if isinstance(schema.get("items"), dict) and not isinstance(outside.get("items"), dict):
        problems.append(
            required(f"{path.rpartition('.')[0]}.items", f"because it is defined in {path}.items")
        )


def _structure(schema: dict[str, Any], path: str, problems: list[Cause]) -> None:
    """Check the extensions of one structural level."""
    kind = schema.get("type") or ""
    if kind == "array" and not isinstance(schema.get("items"), dict):
        problems.append(required(f"{path}.items", "must be specified"))
    if schema.get("x-kubernetes-preserve-unknown-fields") is False:
        problems.append(
            invalid_value(f"{path}.x-kubernetes-preserve-unknown-fields", False, "must be true or undefined")
        )
    if schema.get("x-kubernetes-preserve-unknown-fields") is True and kind not in ("", "object"):
        problems.append(
            invalid_value(
                f"{path}.type", kind, "must be object if x-kubernetes-preserve-unknown-fields is true"
            )
        )
    if schema.get("x-kubernetes-embedded-resource") is True:
        if kind != "object":
            problems.append(
                invalid_value(
                    f"{path}.type", kind, "must be object if x-kubernetes-embedded-resource is true"
                )
            )
        if not schema.get("properties") and not schema.get("x-kubernetes-preserve-unknown-fields"):
            problems.append(
                required(
                    f"{path}.properties",
                    "must not be empty if x-kubernetes-embedded-resource is true without "
                    "x-kubernetes-preserve-unknown-fields",
                )
            )
    if schema.get("x-kubernetes-int-or-string") is True:
        if kind:
            problems.append(
                invalid_value(f"{path}.type", kind, "must be empty if x-kubernetes-int-or-string is true")
            )
        if schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-kubernetes-embedded-resource"):
            problems.append(
                forbidden(
                    f"{path}.x-kubernetes-int-or-string",
                    "must not be combined with x-kubernetes-preserve-unknown-fields or "
                    "x-kubernetes-embedded-resource",
                )
            )
    _list_type(schema, kind, path, problems)
    map_type = schema.get("x-kubernetes-map-type")
    if map_type:
        if map_type not in ("atomic", "granular"):
            problems.append(not_supported(f"{path}.x-kubernetes-map-type", map_type, ("atomic", "granular")))
        if kind != "object":
            problems.append(
                invalid_value(f"{path}.type", kind, "must be object if x-kubernetes-map-type is specified")
            )


def _list_type(schema: dict[str, Any], kind: str, path: str, problems: list[Cause]) -> None:
    list_type = schema.get("x-kubernetes-list-type")
    keys = schema.get("x-kubernetes-list-map-keys") or []
    if list_type and list_type not in ("atomic", "map", "set"):
        problems.append(not_supported(f"{path}.x-kubernetes-list-type", list_type, ("atomic", "map", "set")))
    if list_type and kind != "array":
        problems.append(
            invalid_value(f"{path}.type", kind, "must be array if x-kubernetes-list-type is specified")
        )
    if keys and list_type != "map":
        problems.append(
            invalid_value(
                f"{path}.x-kubernetes-list-type",
                list_type or "",
                "must be map if x-kubernetes-list-map-keys is non-empty",
            )
        )
    items = schema.get("items") if isinstance(schema.get("items"), dict) else {}
    if list_type == "set" and items:
        _set_items(items, path, problems)
    if list_type == "map":
        _map_items(items or {}, list(keys), path, problems)


def _set_items(items: dict[str, Any], path: str, problems: list[Cause]) -> None:
    if items.get("nullable"):
        problems.append(
            forbidden(f"{path}.items.nullable", "cannot be nullable when x-kubernetes-list-type is set")
        )
    inner = items.get("type")
    granular = (inner == "object" and items.get("x-kubernetes-map-type") != "atomic") or (
        inner == "array" and items.get("x-kubernetes-list-type") not in (None, "atomic")
    )
    if granular:
        problems.append(
            invalid_value(
                f"{path}.items.x-kubernetes-{'map' if inner == 'object' else 'list'}-type",
                items.get(f"x-kubernetes-{'map' if inner == 'object' else 'list'}-type"),
                "must be atomic as item of a list with x-kubernetes-list-type=set",
            )
        )


def _map_items(items: dict[str, Any], keys: list[str], path: str, problems: list[Cause]) -> None:
    field = f"{path}.x-kubernetes-list-map-keys"
    if not keys:
        problems.append(required(field, "must not be empty if x-kubernetes-list-type is map"))
    if items and items.get("type") != "object":
        problems.append(
            invalid_value(
                f"{path}.items.type",
                items.get("type"),
                "must be object if parent array's x-kubernetes-list-type is map",
            )
        )
        return
    properties = items.get("properties") or {}
    demanded = items.get("required") or []
    seen: set[str] = set()
    for at, key in enumerate(keys):
        if key in seen:
            problems.append(duplicate(f"{field}[{at}]", key))
        seen.add(key)
        if key not in properties:
            problems.append(
                invalid_value(f"{field}[{at}]", key, "entries must all be names of item properties")
            )
            continue
        prop = properties[key]
        if prop.get("type") not in _SCALARS:
            problems.append(
                invalid_value(
                    f"{path}.items.properties[{key}].type",
                    prop.get("type"),
                    "must be a scalar type if parent array's x-kubernetes-list-type is map",
                )
            )
        if prop.get("nullable"):
            problems.append(
                forbidden(
                    f"{path}.items.properties[{key}].nullable",
                    "this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
                )
            )
        if key not in demanded and "default" not in prop:
            problems.append(
                required(
                    f"{path}.items.properties[{key}].default",
                    "this property is in x-kubernetes-list-map-keys, so it must have a default or be a "
                    "required property",
                )
            )


def _defaults(schema: dict[str, Any], path: str, problems: list[Cause]) -> None:
    """Check that every default fits its own schema, has no unknown fields and keeps off the metadata."""
    for field, level in _levels(schema, path, 0):
        if "default" not in level or (level["default"] is None and not level.get("nullable")):
            if "default" in level:
                problems.append(invalid_value(f"{field}.default", None, "must not be null unless nullable"))
            continue
        if ".properties[metadata]" in field.removeprefix(path)[: len(".properties[metadata]")]:
            problems.append(forbidden(f"{field}.default", "must not be set in top-level metadata"))
            continue
        here = parse({key: value for key, value in level.items() if key != "x-kubernetes-validations"})
        here.default = ABSENT
        value = copy.deepcopy(level["default"])
        removed = fill.prune(value, here, root=False)
        if removed:
            problems.append(
                invalid_value(
                    f"{field}.default",
                    level["default"],
                    "must not have unknown fields: " + ", ".join(removed),
                )
            )
            continue
        fill.default(value, here)
        problems.extend(validate(value, here, path=f"{field}.default"))
