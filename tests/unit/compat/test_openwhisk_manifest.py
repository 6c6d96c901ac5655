"""wskdeploy manifests and the other signs of OpenWhisk in a source tree."""

import io
import json
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.builders.tree import SourceTree
from pelton.compat.openwhisk import detect
from pelton.compat.openwhisk.detection import PACKAGE
from pelton.compat.openwhisk.manifest import decode, encode, key_of, read, truthy

MANIFEST = """
project:
  name: shop
  packages:
    orders:
      inputs:
        currency: EUR
        api: {type: string, value: $API_URL}
        limit: {type: integer}
      actions:
        price:
          function: src/price.py
          runtime: python:3
          inputs: {currency: USD, name: string}
          limits: {timeout: 5000}
          web: raw
          annotations: {require-whisk-auth: "s3cret"}
        ship: {function: ship, main: handle, conductor: true}
        old: {function: old.js, runtime: "nodejs@10"}
      sequences:
        all: {actions: "price, /_/orders/ship", web: true}
      triggers:
        nightly:
          feed: /whisk.system/alarms/alarm
          inputs: {cron: "0 3 * * *", trigger_payload: '{"dry": true}'}
        often: {feed: /whisk.system/alarms/interval, inputs: {minutes: 5}}
        news: {feed: /_/messages/kafkaFeed, inputs: {topic: news, isJSONData: true}}
        lonely: {feed: /whisk.system/alarms/alarm, inputs: {cron: "* * * * *"}}
      rules:
        r1: {trigger: nightly, action: all}
        r2: {trigger: often, action: price}
        r3: {trigger: news, action: orders/ship}
        r4: {trigger: nightly, action: ship}
        off: {trigger: lonely, action: price, status: inactive}
"""


@pytest.fixture
def tree(tmp_path):
    """A tree of files, name -> text or bytes."""

    def make(files, **said):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return SourceTree(tmp_path, **said)

    return make


def zipped(files):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return made.getvalue()


@pytest.fixture
def manifest(tree):
    return decode(detect(tree({"manifest.yaml": MANIFEST}))[0].options[PACKAGE])


def test_parameters_are_merged_package_first_with_the_defaults_of_their_types(manifest):
    price = manifest.actions["orders/price"]

    assert price.params == {"currency": "USD", "api": "$API_URL", "limit": 0, "name": ""}
    assert (price.file, price.main, price.timeout_ms, price.python) == ("src/price.py", "main", 5000, True)


def test_web_raw_means_exported_raw_and_final(manifest):
    annotations = manifest.actions["orders/price"].annotations

    assert annotations["web-export"] is True
    assert annotations["raw-http"] is True
    assert annotations["final"] is True
    assert annotations["require-whisk-auth"] == "s3cret"


def test_action_without_web_is_not_exported(manifest):
    ship = manifest.actions["orders/ship"]

    assert (ship.main, ship.annotations) == ("handle", {"conductor": True})
    assert ship.python
    assert not manifest.actions["orders/old"].python


def test_components_of_a_sequence_are_named_in_full(manifest):
    assert manifest.actions["orders/all"].sequence == ("orders/price", "orders/ship")
    assert manifest.actions["orders/all"].kind == "sequence"


def test_triggers_have_schedule_payload_and_the_actions_of_their_rules(manifest):
    found = {item.name: item for item in manifest.triggers}

    assert set(found) == {"nightly", "often", "news"}
    assert found["nightly"].value == "0 3 * * *"
    assert found["nightly"].payload == {"dry": True}
    assert found["nightly"].actions == ("orders/all", "orders/ship")
    assert found["often"].value == "@every 5m"
    assert (found["news"].kind, found["news"].value, found["news"].json_data) == ("topic", "news", True)


def test_package_is_one_match_with_all_its_triggers(tree):
    (match,) = detect(tree({"manifest.yml": MANIFEST}))

    assert (match.target, match.source, match.stage, match.row) == ("", "", "marker", "10")
    assert match.rule == "manifest.yml with 4 actions"
    assert match.options["request-timeout"] == "5000ms"
    assert [(item.kind, item.name) for item in match.triggers] == [
        ("cron", "nightly"),
        ("cron", "often"),
        ("topic", "news"),
    ]


@pytest.mark.parametrize("target", ["price", "orders/price", "/_/orders/price"])
def test_target_narrows_a_package_to_one_action(tree, target):
    (match,) = detect(tree({"manifest.yml": MANIFEST}, target=target))

    assert (match.target, match.source) == (target, "src/price.py")
    assert [item.name for item in match.triggers] == ["often"]


def test_target_that_is_no_action_matches_nothing(tree):
    assert detect(tree({"manifest.yml": MANIFEST}, target="none")) == ()


def test_only_action_is_the_target(tree):
    text = "packages: {default: {actions: {hi: {function: hi.py}}}}"

    (match,) = detect(tree({"manifest.yml": text, "hi.py": "def main(p): return p"}))

    assert (match.target, match.source, match.signature) == ("hi", "hi.py", "action")


@pytest.mark.parametrize(
    "text", ["a: [", "packages: {}", "packages: {a: {actions: {}}}", "[1]", "packages: 3", ""]
)
def test_manifest_without_actions_is_none(tree, text):
    assert detect(tree({"manifest.yml": text, "x.txt": ""})) == ()


def test_entry_of_one_parameter_is_an_action(tree):
    (match,) = detect(tree({"__main__.py": "import os\ndef main(args):\n    return {}\n"}))

    assert (match.target, match.source, match.line, match.row) == ("main", "__main__.py", 2, "10")


@pytest.mark.parametrize("source", ["def main():\n    pass\n", "def main(a, b):\n    pass\n", "x = 1\n"])
def test_entry_without_an_action_is_a_program(tree, source):
    assert detect(tree({"__main__.py": source})) == ()


def test_entry_of_a_package_further_down_counts_only_when_asked(tree, tmp_path):
    files = {"app/__main__.py": "def main(argv):\n    return {}\n"}

    assert detect(tree(files)) == ()
    assert detect(tree(files, asked="openwhisk"))[0].source == "app/__main__.py"


def test_entry_in_the_only_zip_is_an_action(tree):
    data = zipped({"__main__.py": "async def main(p):\n    return {}\n"})

    assert detect(tree({"action.zip": data}))[0].source == "action.zip"


@pytest.mark.parametrize("data", [b"no zip", zipped({"x.py": ""}), zipped({"__main__.py": "def main("})])
def test_zip_without_an_action_is_none(tree, data):
    assert detect(tree({"action.zip": data})) == ()


def test_two_zips_are_none(tree):
    data = zipped({"__main__.py": "def main(p):\n    return {}\n"})

    assert detect(tree({"a.zip": data, "b.zip": data})) == ()


def test_plain_function_counts_when_asked(tree):
    files = {
        "main.py": "def main(params):\n    pass\ndef other(p, q=1):\n    pass\ndef no(a, b):\n    pass\n"
    }

    found = {match.target: match.rank for match in detect(tree(files, asked="openwhisk"))}

    assert found == {"main": 0, "other": 1}
    assert detect(tree(files)) == ()


def test_tree_without_action_is_a_blank_runtime_when_asked(tree):
    (match,) = detect(tree({"README.md": "x"}, asked="openwhisk"))

    assert (match.target, match.rank) == ("", 9)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a", "pkg/a"),
        ("p/a", "p/a"),
        ("/_/a", "default/a"),
        ("/ns/p/a", "p/a"),
        (" a ", "pkg/a"),
        ("/a", "pkg/a"),
    ],
)
def test_names_of_all_forms_become_keys(name, key):
    assert key_of(name, "pkg") == key


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), ("yes", True), ("raw", True), ("No", False), ("", False), (0, False), (None, False)],
)
def test_flags_are_read_as_written(value, expected):
    assert truthy(value) is expected


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"actions": 3, "triggers": []}', '{"actions": [{}], "triggers": []}']
)
def test_damaged_option_is_a_value_error(text):
    with pytest.raises(ValueError):
        decode(text)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(_VALUES)
def test_no_document_breaks_the_reader(document):
    read({"packages": document})
    read({"packages": {"p": {"actions": {"a": document}, "sequences": document, "rules": document}}})


@given(st.dictionaries(st.text(min_size=1, max_size=8), _VALUES, max_size=4))
def test_manifest_survives_its_way_to_the_worker(inputs):
    found = read({"packages": {"p": {"inputs": inputs, "actions": {"a": {"function": "a.py"}}}}})

    assert found is not None
    assert json.dumps(decode(encode(found)).actions["p/a"].params) == json.dumps(found.actions["p/a"].params)
