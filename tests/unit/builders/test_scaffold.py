import pytest
from ruamel.yaml import YAML

from pelton.builders.detect import detect
from pelton.builders.scaffold import scaffold
from pelton.cli.tables import CONVENTIONS, resolve_convention
from pelton.errors import UsageError

CASES = [
    ("http", "openfunction"),
    ("http", "gcf"),
    ("cloudevent", "gcf"),
    ("topic", "openfunction"),
    ("topic", "gcf"),
]


@pytest.mark.parametrize(("trigger", "convention"), CASES)
def test_every_scaffold_is_what_its_manifest_says(tmp_path, trigger, convention):
    files = scaffold("hello", trigger, convention)
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    found = detect(tmp_path, {name: resolve_convention(name) for name in CONVENTIONS})

    spec = YAML(typ="safe").load(files["function.yaml"])["spec"]
    assert spec["build"]["env"] == {
        "FUNC_NAME": found.target,
        "FUNC_SRC": found.source,
        "FUNC_TYPE": found.signature,
    }
    assert found.convention == convention
    assert spec["build"]["srcRepo"]["url"] == "."
    assert spec["serving"]["scaleOptions"]["knative"] == {"autoscaling.knative.dev/window": "6s"}
    assert ("dapr" in spec["serving"]["triggers"]) == (trigger == "topic")


def test_topic_manifest_leaves_the_bus_to_the_platform():
    spec = YAML(typ="safe").load(scaffold("orders", "topic")["function.yaml"])["spec"]

    assert spec["serving"]["pubsub"]["events"] == {
        "type": "pubsub.jetstream",
        "version": "v1",
        "metadata": [],
    }
    assert spec["serving"]["triggers"]["dapr"][0]["topic"] == "orders"


@pytest.mark.parametrize(
    ("name", "trigger", "convention", "message"),
    [
        ("Hello", "http", "", "not a function name"),
        ("-x", "http", "", "not a function name"),
        ("hello", "kafka", "", "no trigger 'kafka'"),
        ("hello", "cloudevent", "openfunction", "has no trigger"),
    ],
)
def test_what_cannot_be_is_refused(name, trigger, convention, message):
    with pytest.raises(UsageError, match=message):
        scaffold(name, trigger, convention)
