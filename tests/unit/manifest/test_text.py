"""Text becomes documents that know their lines; a broken document hides no other."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.manifest import text as module
from pelton.manifest.text import parse, write

HEAD = "apiVersion: v1\nkind: Thing\nmetadata:\n  name: x\n"


def value_of(yaml_value):
    parsed = parse(f"{HEAD}value: {yaml_value}\n")
    assert parsed.errors == []
    return parsed.documents[0].data["value"]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("", 2),
        ("apiVersion", 2),
        ("metadata.name", 5),
        ("spec", 6),
        ("spec.outputs[0]", 8),
        ("spec.outputs[0].dapr.name", 9),
        ("spec.outputs[1].dapr.name", 10),
        ("spec.outputs[1].dapr.operation", 10),
        ("spec.outputs[7]", 7),
        ("spec.missing.deeper", 6),
        ("spec.labels[a.b/c]", 12),
        ("nothing", 2),
    ],
)
def test_where_names_the_line_of_the_field_or_of_its_nearest_ancestor(path, line):
    text = """# comment
apiVersion: v1
kind: Thing
metadata:
  name: x
spec:
  outputs:
    - dapr:
        name: a
    - dapr: {name: b}
  labels:
    a.b/c: d
"""

    assert parse(text, "f.yaml").documents[0].where(path) == f"f.yaml:{line}"


def test_where_counts_lines_over_documents_and_comments():
    text = f"# one\n---\n{HEAD}---\n\n# more\n{HEAD}"

    assert [doc.where("metadata.name") for doc in parse(text, "f").documents] == ["f:6", "f:13"]


def test_where_in_json_names_the_line_too():
    obj = {
        "apiVersion": "v1",
        "kind": "Thing",
        "metadata": {"name": "x"},
        "spec": {"a": [1, {"b": "\U0001f600"}]},
    }
    text = "\n" + json.dumps(obj, indent="\t") + "\n" + json.dumps(obj)

    first, second = parse(text, "f.json").documents

    assert first.data == obj
    assert first.where("spec.a[1].b") == "f.json:12"
    assert second.where("spec.a[1].b") == "f.json:17"


def test_where_inside_a_list_kind_names_the_line_of_the_item():
    item = "- apiVersion: v1\n  kind: A\n  metadata: {name: x}\n  spec:\n    a: 1\n"
    text = f"apiVersion: v1\nkind: List\nitems:\n{item}"

    (document,) = parse(text, "f").documents

    assert (document.where(""), document.where("spec.a")) == ("f:4", "f:8")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("", None),
        ("0600", 384),
        ("089", 89.0),
        ("0x10", 16),
        ("0b101", 5),
        ("-12", -12),
        ("+1", 1),
        ("1_000", 1000),
        ("1.5", 1.5),
        (".5", 0.5),
        ("6s", "6s"),
        ("1.2.3", "1.2.3"),
        ("2026-01-02", "2026-01-02"),
        ("12:30:45", "12:30:45"),
        (".inf", ".inf"),
        ("'-'", "-"),
        ("'yes'", "yes"),
        ('"1"', "1"),
        ("!!str 1", "1"),
        ("!!int '1'", 1),
        ("{1: a, true: b}", {"1": "a", "true": "b"}),
        ("[a, {b: c}]", ["a", {"b": "c"}]),
    ],
)
def test_scalars_mean_what_they_mean_to_kubernetes(text, value):
    assert value_of(text) == value


def test_aliases_are_copies_and_merges_yield_to_own_keys():
    parsed = parse(f"{HEAD}a: &a {{x: 1, y: 2}}\nb: *a\nc:\n  <<: *a\n  y: 3\nd:\n  <<: [{{x: 0}}, *a]\n")
    data = parsed.documents[0].data

    assert (data["b"], data["c"], data["d"]) == ({"x": 1, "y": 2}, {"x": 1, "y": 3}, {"x": 0, "y": 2})
    assert data["b"] is not data["a"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: [1\nb: 2\n", 2, "not valid YAML"),
        ("a: b: c\n", 1, "not valid YAML"),
        ("a:\n\tb: 1\n", 2, "a tab indents this line"),
        ("a: 1\nb: 2\na: 3\n", 3, 'key "a" is given twice'),
        ("a: {b: 1, b: 2}\n", 1, 'key "b" is given twice'),
        ("a: *nowhere\n", 1, "nowhere"),
        ("a: !custom 1\n", 1, "!custom"),
        ("? [a]\n: b\n", 1, "a key must be text"),
        ("a:\n  b: 1\n c: 2\n", 3, "indentation"),
        ("a: 'open\n", 2, "not valid YAML"),
        ("a: \x07\n", 1, "control character"),
        ("- 1\n", 1, "must be an object"),
        ("a: " + "[" * 150 + "]" * 150 + "\n", 1, "nested"),
        ('{"a": 1, "a": 2}\n', 1, "twice"),
        ('{"a": 1\n', 2, "not valid YAML"),
        ("<<: 3\na: b\n", 1, "merges objects"),
        ("a: 1e999\n", 1, "too large"),
    ],
)
def test_a_broken_document_is_reported_and_the_others_are_kept(text, line, words):
    parsed = parse(f"{HEAD}---\n{text}---\n{HEAD}", "f")

    assert [document.line for document in parsed.documents] == [1, 7 + text.count("\n")]
    assert words in parsed.errors[0].message
    assert parsed.errors[0].where == f"f:{line + 5}"


def test_aliases_that_multiply_are_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8)]

    parsed = parse(HEAD + "\n".join(lines) + "\n")

    assert parsed.documents == []
    assert "too many values" in parsed.errors[0].message


def test_missing_parts_are_each_reported():
    parsed = parse("spec: {}\n", "f")

    assert [error.message for error in parsed.errors] == [
        "apiVersion is missing",
        "kind is missing",
        "metadata.name is missing",
    ]


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# only a comment\n", "---\n---\n", "---\n# x\n...\n", "%YAML 1.2\n---\n"]
)
def test_texts_without_documents_give_nothing(text):
    assert parse(text) == ([], [])


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeff{HEAD}",
        HEAD.replace("\n", "\r\n"),
        f"%YAML 1.1\n---\n{HEAD}...\n",
        f"--- # here\n{HEAD}",
        "--- {apiVersion: v1, kind: Thing, metadata: {name: x}}\n",
        f"---\n{json.dumps({'apiVersion': 'v1', 'kind': 'Thing', 'metadata': {'name': 'x'}})}\n",
        HEAD.rstrip("\n"),
    ],
)
def test_one_document_is_found_however_it_is_framed(text):
    parsed = parse(text)

    assert parsed.errors == []
    assert [document.data for document in parsed.documents] == [
        {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "x"}}
    ]


def test_markers_inside_indented_text_do_not_split():
    assert value_of("|\n  ---\n  a\n  ...\n") == "---\na\n...\n"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_what_write_writes_parse_reads(value):
    obj = {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "x"}, "value": value}

    parsed = parse(write([obj, obj]))

    assert parsed.errors == []
    assert [document.data for document in parsed.documents] == [obj, obj]


@pytest.mark.parametrize(
    "word", ["yes", "no", "on", "y", "null", "~", "1", "0x1", "1e3", "a: b", "- a", "", " a", "#"]
)
def test_write_quotes_text_that_would_read_as_something_else(word):
    assert write([{"a": word}]) == f"a: {json.dumps(word)}\n"


def test_write_keeps_lines_of_text_readable():
    assert write([{"a": "x\n  y\n", "b": "x\ny"}]) == "a: |\n  x\n    y\nb: |-\n  x\n  y\n"


def test_the_parser_in_c_is_only_a_faster_way_to_the_same(monkeypatch):
    monkeypatch.setattr(module, "_fast_parser", lambda: None)

    assert value_of("[a, 1, yes]") == ["a", 1, True]
