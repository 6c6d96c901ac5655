"""Objects against a schema: defaults, pruning, faults, and rules between old and new."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.apiserver.schema import SchemaChecks, check, check_rules, parse

NAMED = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["name"],
    "maxItems": 10,
    "items": {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string", "maxLength": 20}, "value": {"type": "integer"}},
    },
}


def root(status=None, **fields):
    properties = {"spec": {"type": "object", "properties": fields}}
    return {"type": "object", "properties": properties | ({"status": status} if status else {})}


def checks_of(schema, *, status=False):
    assert check(schema, "s") == []
    assert check_rules(parse(schema), "s") == []
    return SchemaChecks(schema, status=status)


def obj(spec, **more):
    return {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": spec, **more}


def faults(schema, spec, old=None):
    found = checks_of(schema).check(obj(spec), None if old is None else obj(old), subresource="")
    return [f"{cause.field}: {cause.message}" for cause in found.causes]


VALUES = [
    (
        {"type": "integer"},
        "x",
        'spec.a: Invalid value: "string": spec.a in body must be of type integer: "string"',
    ),
    (
        {"type": "integer"},
        True,
        'spec.a: Invalid value: "boolean": spec.a in body must be of type integer: "boolean"',
    ),
    (
        {"type": "integer"},
        1.5,
        'spec.a: Invalid value: "number": spec.a in body must be of type integer: "number"',
    ),
    (
        {"type": "integer"},
        2**63,
        "spec.a: Invalid value: 9223372036854775808: spec.a in body must be of type int64: "
        "9223372036854775808",
    ),
    (
        {"type": "integer", "format": "int32"},
        2**31,
        "spec.a: Invalid value: 2147483648: spec.a in body must be of type int32: 2147483648",
    ),
    (
        {"type": "integer", "minimum": 1},
        0,
        "spec.a: Invalid value: 0: spec.a in body should be greater than or equal to 1",
    ),
    (
        {"type": "number", "maximum": 1.5, "exclusiveMaximum": True},
        1.5,
        "spec.a: Invalid value: 1.5: spec.a in body should be less than 1.5",
    ),
    (
        {"type": "number", "multipleOf": 0.1},
        0.25,
        "spec.a: Invalid value: 0.25: spec.a in body should be a multiple of 0.1",
    ),
    ({"type": "string", "maxLength": 2}, "abc", "spec.a: Too long: may not be more than 2 bytes"),
    (
        {"type": "string", "minLength": 2},
        "é",
        'spec.a: Invalid value: "é": spec.a in body should be at least 2 chars long',
    ),
    (
        {"type": "string", "pattern": "^[a-z]+$"},
        "A",
        "spec.a: Invalid value: \"A\": spec.a in body should match '^[a-z]+$'",
    ),
    (
        {"type": "string", "enum": ["a", "b"]},
        "c",
        'spec.a: Unsupported value: "c": supported values: "a", "b"',
    ),
    (
        {"type": "string", "format": "ipv4"},
        "1.2.3",
        'spec.a: Invalid value: "1.2.3": spec.a in body must be of type ipv4: "1.2.3"',
    ),
    (
        {"type": "array", "items": {"type": "string"}, "maxItems": 1},
        ["a", "b"],
        "spec.a: Too many: 2: must have at most 1 items",
    ),
    (
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        [],
        "spec.a: Invalid value: []: spec.a in body should have at least 1 items",
    ),
    (
        {"type": "array", "items": {"type": "string"}},
        ["a", 1],
        'spec.a[1]: Invalid value: "integer": spec.a[1] in body must be of type string: "integer"',
    ),
    (
        {"type": "array", "items": {"type": "integer"}, "x-kubernetes-list-type": "set"},
        [1, 2, 1],
        "spec.a[2]: Duplicate value: 1",
    ),
    (NAMED, [{"name": "x"}, {"name": "y"}, {"name": "x"}], 'spec.a[2]: Duplicate value: {"name":"x"}'),
    (
        {"type": "object", "required": ["b"], "properties": {"b": {"type": "string"}}},
        {},
        "spec.a.b: Required value",
    ),
    (
        {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 1},
        {"x": 1, "y": 2},
        "spec.a: Too many: 2: must have at most 1 properties",
    ),
    (
        {"x-kubernetes-int-or-string": True},
        1.5,
        'spec.a: Invalid value: "number": spec.a in body must be of type integer,string: "number"',
    ),
    (
        {
            "type": "object",
            "properties": {"x": {"type": "string"}, "y": {"type": "string"}},
            "oneOf": [{"required": ["x"]}, {"required": ["y"]}],
        },
        {"x": "1", "y": "1"},
        'spec.a: Invalid value: "": "spec.a" must validate one and only one schema (oneOf). Found 2 valid '
        "alternatives",
    ),
    (
        {"type": "string", "not": {"enum": ["x"]}},
        "x",
        'spec.a: Invalid value: "": "spec.a" must not validate the schema (not)',
    ),
    (
        {"type": "string", "anyOf": [{"minLength": 2}, {"pattern": "^a"}]},
        "b",
        'spec.a: Invalid value: "": "spec.a" must validate at least one schema (anyOf)',
    ),
    (
        {
            "type": "object",
            "x-kubernetes-embedded-resource": True,
            "x-kubernetes-preserve-unknown-fields": True,
        },
        {"kind": "Pod"},
        "spec.a.apiVersion: Required value: must not be empty",
    ),
]


@pytest.mark.parametrize(("schema", "value", "fault"), VALUES)
def test_value_that_does_not_fit_is_told_with_its_path(schema, value, fault):
    assert faults(root(a=schema), {"a": value})[0] == fault


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        ("date-time", "2024-01-01T00:00:00Z", "2024-01-01"),
        ("date", "2024-02-29", "2023-02-29"),
        ("duration", "1h30m", "1 hour"),
        ("byte", "aGk=", "a"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
        ("cidr", "10.0.0.0/8", "10.0.0.0"),
        ("ipv6", "::1", "1.2.3.4"),
        ("email", "a@b.example", "a"),
        ("hostname", "a.example", "a..b"),
        ("uri", "https://a.example/x", "a b"),
        ("mac", "00:11:22:33:44:55", "00:11"),
        ("nosuchformat", "anything", None),
    ],
)
def test_format_is_checked_where_it_is_known(form, good, bad):
    schema = root(a={"type": "string", "format": form})

    assert faults(schema, {"a": good}) == []
    if bad is not None:
        assert faults(schema, {"a": bad}) != []


def test_unknown_fields_are_pruned_and_named():
    schema = root(
        known={"type": "object", "properties": {"x": {"type": "string"}}},
        free={
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
            "properties": {"k": {"type": "object"}},
        },
        texts={"type": "object", "additionalProperties": {"type": "object"}},
        items={"type": "array", "items": {"type": "object"}},
        pod={
            "type": "object",
            "x-kubernetes-embedded-resource": True,
            "properties": {"spec": {"type": "object"}},
        },
    )
    given = {
        "known": {"x": "1", "y": 1},
        "free": {"z": {"deep": 1}, "k": {"gone": 1}},
        "texts": {"any": {"gone": 1}},
        "items": [{}, {"gone": 1}],
        "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "gone": 1, "spec": {}},
        "other": 1,
    }

    found = checks_of(schema).check(obj(given), None, subresource="")

    assert found.obj["spec"] == {
        "known": {"x": "1"},
        "free": {"z": {"deep": 1}, "k": {}},
        "texts": {"any": {}},
        "items": [{}, {}],
        "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {}},
    }
    assert sorted(found.unknown) == [
        "spec.free.k.gone",
        "spec.items[1].gone",
        "spec.known.y",
        "spec.other",
        "spec.pod.gone",
        "spec.texts.any.gone",
    ]


def test_defaults_fill_what_is_absent_and_nulls_that_may_not_be():
    schema = root(
        a={"type": "integer", "default": 1},
        b={"type": "string", "nullable": True, "default": "x"},
        c={"type": "string"},
        d={
            "type": "object",
            "default": {"e": "x"},
            "properties": {"e": {"type": "string"}, "f": {"type": "integer", "default": 2}},
        },
        g={"type": "object", "properties": {"h": {"type": "integer", "default": 3}}},
        items={
            "type": "array",
            "items": {"type": "object", "properties": {"i": {"type": "integer", "default": 4}}},
        },
        values={"type": "object", "additionalProperties": {"type": "string", "default": "y"}},
    )

    filled = checks_of(schema).default(
        obj({"a": None, "b": None, "c": None, "items": [{}], "values": {"k": None}})
    )

    assert filled["spec"] == {
        "a": 1,
        "b": None,
        "d": {"e": "x", "f": 2},
        "items": [{"i": 4}],
        "values": {"k": "y"},
    }


def test_default_does_not_change_what_it_is_given():
    given = obj({"a": None})

    checks_of(root(a={"type": "integer", "default": 1})).default(given)

    assert given == obj({"a": None})


def test_unchanged_faults_are_tolerated_on_update():
    schema = root(a={"type": "string", "maxLength": 2}, b={"type": "integer", "minimum": 5}, list=NAMED)
    old = {"a": "long", "b": 1, "list": [{"name": "x", "value": "bad"}, {"name": "y"}]}
    new = {"a": "long", "b": 2, "list": [{"name": "y"}, {"name": "x", "value": "bad"}]}

    assert faults(schema, new, old) == [
        "spec.b: Invalid value: 2: spec.b in body should be greater than or equal to 5"
    ]


def test_changed_element_of_an_atomic_list_is_judged_again():
    schema = root(a={"type": "array", "items": {"type": "string", "maxLength": 1}})

    assert faults(schema, {"a": ["long", "x"]}, {"a": ["long"]}) == [
        "spec.a[0]: Too long: may not be more than 1 bytes"
    ]


def test_each_part_is_judged_where_it_is_written():
    status = {"type": "object", "properties": {"n": {"type": "integer"}}}
    checks = checks_of(root(status, a={"type": "integer"}), status=True)
    wrong = obj({"a": "x"}, status={"n": "x"})

    main = checks.check(wrong, None, subresource="")
    sub = checks.check(wrong, None, subresource="status")

    assert [cause.field for cause in main.causes] == ["spec.a"]
    assert [cause.field for cause in sub.causes] == ["status.n"]


def ruled(*rules, **fields):
    schema: Any = root(**fields)
    schema["properties"]["spec"]["x-kubernetes-validations"] = list(rules)
    return schema


NUMBER = {"type": "integer"}


def test_rule_is_evaluated_with_its_message():
    schema = ruled({"rule": "self.min <= self.max", "message": "min above max"}, min=NUMBER, max=NUMBER)

    assert faults(schema, {"min": 2, "max": 1}) == ['spec: Invalid value: "object": min above max']
    assert faults(schema, {"min": 1, "max": 1}) == []


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ({"rule": "self.a > 1"}, 'spec: Invalid value: "object": failed rule: self.a > 1'),
        ({"rule": "self.a > 1", "reason": "FieldValueForbidden", "message": "m"}, "spec: Forbidden: m"),
        ({"rule": "self.a > 1", "reason": "FieldValueRequired", "message": "m"}, "spec: Required value: m"),
        (
            {"rule": "self.a > 1", "reason": "FieldValueDuplicate", "message": "m"},
            'spec: Duplicate value: "object": m',
        ),
        ({"rule": "self.a > 1", "fieldPath": ".a", "message": "m"}, 'spec.a: Invalid value: "object": m'),
        (
            {"rule": "self.a > 1", "messageExpression": "'a is %d'.format([self.a])"},
            'spec: Invalid value: "object": a is 1',
        ),
        (
            {"rule": "self.a > 1", "messageExpression": "'x'.substring(9)", "message": "m"},
            'spec: Invalid value: "object": m',
        ),
        (
            {"rule": "self.b > 1"},
            'spec: Invalid value: "object": no such key: b evaluating rule: failed rule: self.b > 1',
        ),
    ],
)
def test_broken_rule_is_told_with_reason_and_path(rule, fault):
    assert faults(ruled(rule, a=NUMBER, b=NUMBER), {"a": 1}) == [fault]


def test_transition_rule_needs_an_old_value():
    schema = ruled({"rule": "self.a >= oldSelf.a"}, a=NUMBER)

    assert faults(schema, {"a": 1}) == []
    assert faults(schema, {"a": 1}, {"a": 2}) == [
        'spec: Invalid value: "object": failed rule: self.a >= oldSelf.a'
    ]


def test_optional_old_self_sees_creates_too():
    schema = ruled(
        {"rule": "oldSelf.hasValue() || self.a == 0", "optionalOldSelf": True, "message": "begin at 0"},
        a=NUMBER,
    )

    assert faults(schema, {"a": 1}) == ['spec: Invalid value: "object": begin at 0']
    assert faults(schema, {"a": 1}, {"a": 0}) == []


def test_elements_of_a_keyed_list_are_compared_with_their_old_ones():
    named: Any = copy.deepcopy(NAMED)
    named["items"]["x-kubernetes-validations"] = [{"rule": "self.value >= oldSelf.value"}]
    old = {"a": [{"name": "x", "value": 5}, {"name": "y", "value": 1}]}

    assert faults(root(a=named), {"a": [{"name": "y", "value": 2}, {"name": "x", "value": 4}]}, old) == [
        'spec.a[1]: Invalid value: "object": failed rule: self.value >= oldSelf.value'
    ]


def test_unchanged_value_keeps_breaking_a_new_rule():
    schema = ruled({"rule": "self.a > 1"}, a=NUMBER)

    assert faults(schema, {"a": 1}, {"a": 1}) == []


def test_rules_wait_for_the_types_to_be_right():
    schema = ruled({"rule": "self.a > 1"}, a=NUMBER)

    assert faults(schema, {"a": "x"}) == [
        'spec.a: Invalid value: "string": spec.a in body must be of type integer: "string"',
        "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; "
        "correct the existing errors to complete validation",
    ]


def test_rules_see_formats_escapes_and_the_name():
    fields = {
        "when": {"type": "string", "format": "date-time"},
        "x-y": NUMBER,
        "namespace": {"type": "string"},
        "ratio": {"type": "number"},
        "port": {"x-kubernetes-int-or-string": True},
    }
    schema = ruled(
        {"rule": "self.when.getFullYear() == 2024"},
        {"rule": "self.x__dash__y == 1"},
        {"rule": "self.__namespace__ == 'n'"},
        {"rule": "self.ratio / 2.0 == 0.5"},
        {"rule": "type(self.port) == string ? self.port == '80' : self.port == 80"},
        **fields,
    )
    schema["x-kubernetes-validations"] = [{"rule": "self.metadata.name == 'a' && self.kind == 'Thing'"}]

    good = {"when": "2024-01-01T00:00:00Z", "x-y": 1, "namespace": "n", "ratio": 1, "port": 80}
    assert faults(schema, good) == []


def test_cost_at_run_time_is_bounded():
    schema = root(a={"type": "array", "maxItems": 800, "items": NUMBER})
    schema["properties"]["spec"]["properties"]["a"]["x-kubernetes-validations"] = [
        {"rule": "self.all(x, self.exists_one(y, x == y))"}
    ]

    (fault,) = faults(schema, {"a": list(range(700))})

    assert fault.startswith('spec.a: Invalid value: "array": call cost exceeds limit for rule')


RULE_FAULTS = [
    ({"rule": ""}, "rule: Required value: rule is not specified"),
    (
        {"rule": "self.zz == 1"},
        "rule: Invalid value: \"self.zz == 1\": compilation failed: ERROR: <input>:1:5: undefined field 'zz'",
    ),
    ({"rule": "self.a"}, 'rule: Invalid value: "self.a": compilation failed: must evaluate to bool'),
    (
        {"rule": "true", "message": "a\nb"},
        'message: Invalid value: "a\\nb": message must not contain line breaks',
    ),
    (
        {"rule": "true &&\ntrue"},
        "message: Required value: message must be specified if rule contains line breaks",
    ),
    ({"rule": "true", "reason": "Bad"}, 'reason: Unsupported value: "Bad"'),
    (
        {"rule": "true", "fieldPath": ".zz"},
        'fieldPath: Invalid value: ".zz": does not refer to a valid field: zz',
    ),
    ({"rule": "true", "fieldPath": "a"}, 'fieldPath: Invalid value: "a": fieldPath must be a valid path'),
    (
        {"rule": "true", "messageExpression": "1"},
        'messageExpression: Invalid value: "1": messageExpression compilation failed: must evaluate to '
        "string",
    ),
    (
        {"rule": "true", "optionalOldSelf": True},
        "optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
    ),
    (
        {"rule": "self.texts.all(t, self.texts.all(u, t == u))"},
        "rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x",
    ),
]


@pytest.mark.parametrize(("rule", "fault"), RULE_FAULTS)
def test_rule_with_a_fault_is_refused_with_the_definition(rule, fault):
    schema = ruled(rule, a=NUMBER, texts={"type": "array", "items": {"type": "string"}})

    found = [f"{cause.field}: {cause.message}" for cause in check_rules(parse(schema), "s")]

    assert found[0].startswith(f"s.properties[spec].x-kubernetes-validations[0].{fault}")


def test_transition_rule_is_refused_where_elements_cannot_be_matched():
    rule = {"rule": "self >= oldSelf"}
    schema = root(
        a={"type": "array", "maxItems": 3, "items": {"type": "integer", "x-kubernetes-validations": [rule]}}
    )

    (cause,) = check_rules(parse(schema), "s")

    assert "oldSelf cannot be used on the uncorrelatable portion of the schema" in cause.message


def test_limits_bring_a_rule_into_its_budget():
    texts = {"type": "array", "maxItems": 50, "items": {"type": "string", "maxLength": 20}}
    schema = ruled({"rule": "self.texts.all(t, self.texts.all(u, t == u))"}, texts=texts)

    assert check_rules(parse(schema), "s") == []


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcx"), inner, max_size=3),
    max_leaves=10,
)
LOOSE = root(
    a={"type": "integer", "default": 1},
    b={
        "type": "object",
        "properties": {"c": {"type": "string", "default": "x"}, "a": {"type": "string", "nullable": True}},
    },
    c={"type": "array", "items": {"type": "object", "properties": {"a": {"type": "integer"}}}},
)


@given(anything)
def test_filling_and_pruning_twice_changes_nothing_more(value):
    checks = checks_of(LOOSE)

    once = checks.check(checks.default(obj(value)), None, subresource="").obj
    twice = checks.check(checks.default(once), None, subresource="")

    assert twice.obj == once
    assert list(twice.unknown) == []


@given(anything)
def test_what_did_not_change_is_accepted(value):
    checks = checks_of(LOOSE)
    filled = checks.check(checks.default(obj(value)), None, subresource="").obj

    assert list(checks.check(filled, filled, subresource="").causes) == []
