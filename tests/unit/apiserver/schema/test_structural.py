"""Every rule about structural schemas, with the path and the sentence of its fault."""

from typing import Any

import pytest

from pelton.apiserver.schema import check, drop_unknown_keywords

TEXT = {"type": "string"}


def faults(schema):
    return [f"{cause.field}: {cause.message}" for cause in check(schema, "s")]


def spec(**schema):
    """Return a root whose only field is `spec`."""
    return {"type": "object", "properties": {"spec": schema}}


def in_list(item, **more):
    return spec(type="array", items=item, **more)


CASES = [
    ("no type at the root", {}, "s.type: Required value: must not be empty at the root"),
    (
        "other type at the root",
        {"type": "array", "items": TEXT},
        's.type: Invalid value: "array": must be object at the root',
    ),
    (
        "additionalProperties at the root",
        {"type": "object", "additionalProperties": TEXT},
        "s.additionalProperties: Forbidden: must not be used at the root",
    ),
    (
        "embedded root",
        {"type": "object", "properties": {"a": TEXT}, "x-kubernetes-embedded-resource": True},
        "s.x-kubernetes-embedded-resource: Forbidden: must not be used at the root",
    ),
    (
        "nullable root",
        {"type": "object", "nullable": True},
        "s.nullable: Forbidden: nullable cannot be true at the root",
    ),
    (
        "restricted labels",
        {
            "type": "object",
            "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}},
        },
        "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, "
        "but metadata is implicitly specified",
    ),
    (
        "field without a type",
        spec(description="x"),
        "s.properties[spec].type: Required value: must not be empty for specified object fields",
    ),
    (
        "element without a type",
        in_list({"description": "x"}),
        "s.properties[spec].items.type: Required value: must not be empty for specified array items",
    ),
    (
        "value without a type",
        spec(type="object", additionalProperties={"description": "x"}),
        "s.properties[spec].additionalProperties.type: Required value: must not be empty for specified "
        "object fields",
    ),
    (
        "array without items",
        spec(type="array"),
        "s.properties[spec].items: Required value: must be specified",
    ),
    (
        "unknown type",
        spec(type="text"),
        's.properties[spec].type: Unsupported value: "text": supported values: "array", "boolean", '
        '"integer", '
        '"number", "object", "string"',
    ),
    (
        "both kinds of properties",
        spec(type="object", properties={"a": TEXT}, additionalProperties=TEXT),
        "s.properties[spec].additionalProperties: Forbidden: additionalProperties and properties are "
        "mutual exclusive",
    ),
    (
        "additionalProperties false",
        spec(type="object", additionalProperties=False),
        "s.properties[spec].additionalProperties: Forbidden: additionalProperties cannot be set to false",
    ),
    (
        "reference",
        spec(**{"type": "string", "$ref": "#/a"}),
        "s.properties[spec].$ref: Forbidden: $ref is not supported",
    ),
    (
        "definitions",
        spec(type="object", definitions={"a": TEXT}),
        "s.properties[spec].definitions: Forbidden: definitions is not supported",
    ),
    (
        "dependencies",
        spec(type="object", dependencies={"a": ["b"]}),
        "s.properties[spec].dependencies: Forbidden: dependencies is not supported",
    ),
    ("id", spec(type="string", id="x"), "s.properties[spec].id: Forbidden: id is not supported"),
    (
        "patternProperties",
        spec(type="object", patternProperties={"a": TEXT}),
        "s.properties[spec].patternProperties: Forbidden: patternProperties is not supported",
    ),
    (
        "uniqueItems",
        in_list(TEXT, uniqueItems=True),
        "s.properties[spec].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime "
        "complexity "
        "becomes quadratic",
    ),
    (
        "lookahead",
        spec(type="string", pattern="(?=a)"),
        's.properties[spec].pattern: Invalid value: "(?=a)": must be a valid regular expression, but isn\'t: '
        "error parsing regexp: invalid perl operator: (?=",
    ),
    (
        "backreference",
        spec(type="string", pattern="(a)\\1"),
        's.properties[spec].pattern: Invalid value: "(a)\\\\1": must be a valid regular expression, but '
        "isn't: "
        "error parsing regexp: invalid escape sequence: \\1",
    ),
    (
        "negative limit",
        spec(type="string", maxLength=-1),
        "s.properties[spec].maxLength: Invalid value: -1: must be greater than or equal to 0",
    ),
    *(
        (
            f"{key} inside anyOf",
            spec(type="string", anyOf=[{key: value}]),
            f"s.properties[spec].anyOf[0].{key}: Forbidden: must be empty to be structural",
        )
        for key, value in [
            ("type", "string"),
            ("default", "x"),
            ("nullable", True),
            ("title", "x"),
            ("description", "x"),
            ("additionalProperties", TEXT),
            ("x-kubernetes-preserve-unknown-fields", True),
            ("x-kubernetes-validations", [{"rule": "true"}]),
        ]
    ),
    (
        "type deep inside not",
        spec(type="object", properties={"a": TEXT}, **{"not": {"properties": {"a": {"type": "string"}}}}),
        "s.properties[spec].not.properties[a].type: Forbidden: must be empty to be structural",
    ),
    (
        "field only in a junctor",
        spec(type="object", oneOf=[{"properties": {"a": {"minLength": 1}}}]),
        "s.properties[spec].properties[a]: Required value: because it is defined in "
        "s.properties[spec].oneOf[0].properties[a]",
    ),
    (
        "items only in a junctor",
        spec(type="object", allOf=[{"items": {"minLength": 1}}]),
        "s.properties[spec].items: Required value: because it is defined in "
        "s.properties[spec].allOf[0].items",
    ),
    (
        "preserve false",
        spec(**{"type": "object", "x-kubernetes-preserve-unknown-fields": False}),
        "s.properties[spec].x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or "
        "undefined",
    ),
    (
        "embedded without content",
        spec(**{"type": "object", "x-kubernetes-embedded-resource": True}),
        "s.properties[spec].properties: Required value: must not be empty if "
        "x-kubernetes-embedded-resource is true "
        "without x-kubernetes-preserve-unknown-fields",
    ),
    (
        "int-or-string with a type",
        spec(**{"type": "integer", "x-kubernetes-int-or-string": True}),
        's.properties[spec].type: Invalid value: "integer": must be empty if x-kubernetes-int-or-string '
        "is true",
    ),
    (
        "list type on a string",
        spec(**{"type": "string", "x-kubernetes-list-type": "set"}),
        's.properties[spec].type: Invalid value: "string": must be array if x-kubernetes-list-type is '
        "specified",
    ),
    (
        "unknown list type",
        in_list(TEXT, **{"x-kubernetes-list-type": "bag"}),
        's.properties[spec].x-kubernetes-list-type: Unsupported value: "bag": supported values: "atomic", '
        '"map", "set"',
    ),
    (
        "list of type map without keys",
        in_list({"type": "object", "properties": {}}, **{"x-kubernetes-list-type": "map"}),
        "s.properties[spec].x-kubernetes-list-map-keys: Required value: must not be empty if "
        "x-kubernetes-list-type is map",
    ),
    (
        "keys without list of type map",
        in_list(TEXT, **{"x-kubernetes-list-map-keys": ["a"]}),
        's.properties[spec].x-kubernetes-list-type: Invalid value: "": must be map if '
        "x-kubernetes-list-map-keys is "
        "non-empty",
    ),
    (
        "key that is no field",
        in_list(
            {"type": "object", "properties": {}},
            **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"]},
        ),
        's.properties[spec].x-kubernetes-list-map-keys[0]: Invalid value: "a": entries must all be names '
        "of item properties",
    ),
    (
        "optional key without default",
        in_list(
            {"type": "object", "properties": {"a": TEXT}},
            **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"]},
        ),
        "s.properties[spec].items.properties[a].default: Required value: this property is in "
        "x-kubernetes-list-map-keys, so it must have a default or be a required property",
    ),
    (
        "key that is an object",
        in_list(
            {"type": "object", "required": ["a"], "properties": {"a": {"type": "object"}}},
            **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"]},
        ),
        's.properties[spec].items.properties[a].type: Invalid value: "object": must be a scalar type if '
        "parent "
        "array's x-kubernetes-list-type is map",
    ),
    (
        "set of granular objects",
        in_list({"type": "object"}, **{"x-kubernetes-list-type": "set"}),
        "s.properties[spec].items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a "
        "list with "
        "x-kubernetes-list-type=set",
    ),
    (
        "map type on a string",
        spec(**{"type": "string", "x-kubernetes-map-type": "atomic"}),
        's.properties[spec].type: Invalid value: "string": must be object if x-kubernetes-map-type is '
        "specified",
    ),
    (
        "default of another type",
        spec(type="integer", default="x"),
        's.properties[spec].default: Invalid value: "string": s.properties[spec].default in body must be '
        'of type integer: "string"',
    ),
    (
        "default with an unknown field",
        spec(type="object", properties={"a": TEXT}, default={"b": 1}),
        's.properties[spec].default: Invalid value: {"b":1}: must not have unknown fields: b',
    ),
    (
        "default deep inside of another type",
        spec(type="object", properties={"a": {"type": "array", "items": TEXT}}, default={"a": [1]}),
        's.properties[spec].default.a[0]: Invalid value: "integer": s.properties[spec].default.a[0] in '
        'body must be of type string: "integer"',
    ),
    (
        "null default",
        spec(type="string", default=None),
        "s.properties[spec].default: Invalid value: null: must not be null unless nullable",
    ),
    (
        "default in metadata",
        {
            "type": "object",
            "properties": {
                "metadata": {"type": "object", "properties": {"name": {"type": "string", "default": "x"}}}
            },
        },
        "s.properties[metadata].properties[name].default: Forbidden: must not be set in top-level metadata",
    ),
    (
        "empty enum",
        spec(type="string", enum=[]),
        "s.properties[spec].enum: Required value: must not be empty if specified",
    ),
    (
        "properties of the wrong type",
        spec(type="object", properties=[]),
        's.properties[spec].properties: Invalid value: "[]": has the wrong type for this keyword',
    ),
]


@pytest.mark.parametrize(("schema", "fault"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_schema_that_is_not_structural_is_refused(schema, fault):
    assert faults(schema) == [fault]


def test_structural_schema_has_no_fault():
    schema = {
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": TEXT,
            "kind": TEXT,
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}}},
            "spec": {
                "type": "object",
                "default": {"any": 1},
                "properties": {
                    "port": {
                        "x-kubernetes-int-or-string": True,
                        "anyOf": [{"type": "integer"}, {"type": "string"}],
                    },
                    "limited": {
                        "x-kubernetes-int-or-string": True,
                        "allOf": [
                            {"anyOf": [{"type": "integer"}, {"type": "string"}]},
                            {"pattern": "^[0-9]+$"},
                        ],
                    },
                    "any": {"x-kubernetes-preserve-unknown-fields": True},
                    "pod": {
                        "type": "object",
                        "x-kubernetes-embedded-resource": True,
                        "x-kubernetes-preserve-unknown-fields": True,
                    },
                    "ports": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["number"],
                            "properties": {
                                "number": {"type": "integer"},
                                "protocol": {"type": "string", "default": "TCP"},
                            },
                        },
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["number", "protocol"],
                    },
                    "a": {"type": "string", "nullable": True, "default": None},
                },
                "oneOf": [{"required": ["port"]}, {"required": ["any"], "not": {"required": ["port"]}}],
            },
        },
    }

    assert faults(schema) == []


def test_every_fault_is_told_at_once():
    schema = {"properties": {"a": {}, "b": {"type": "array"}}}

    assert len(faults(schema)) == 3


def test_schema_that_is_no_object_is_refused():
    assert faults("x") == ['s: Invalid value: "": must be an object']


def test_deep_schema_is_refused_without_recursing_into_it():
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(500):
        schema = {"type": "object", "properties": {"a": schema}}

    assert faults(schema) == ["s: Forbidden: schemas are nested at most 60 levels deep"]


def test_unknown_keywords_are_dropped_and_named():
    schema = spec(type="string", colour="red")

    assert drop_unknown_keywords(schema, "s") == ["s.properties[spec].colour"]
    assert schema == spec(type="string")
