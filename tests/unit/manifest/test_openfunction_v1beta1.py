"""v1beta1: what becomes of each field, and that nothing is lost on the way there and back."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.errors import InvalidError
from pelton.manifest.kinds import KINDS, admit
from pelton.manifest.openfunction_core import FUNCTION
from pelton.manifest.text import load

OLD = "core.openfunction.io/v1beta1"
NEW = "core.openfunction.io/v1beta2"

WORD = st.from_regex(r"[a-z][a-z0-9-]{0,6}[a-z0-9]", fullmatch=True)
COUNT = st.integers(0, 9)
STRINGS = st.dictionaries(WORD, WORD, min_size=1, max_size=2)


def optional(required=None, **fields):
    return st.fixed_dictionaries(required or {}, optional=fields)


COMPONENT = st.fixed_dictionaries(
    {
        "type": WORD.map(lambda word: f"bindings.{word}"),
        "version": st.just("v1"),
        "metadata": st.lists(st.fixed_dictionaries({"name": WORD, "value": WORD | COUNT | st.booleans()})),
    }
)
IO = optional({"name": WORD, "component": WORD}, topic=WORD, params=STRINGS, operation=WORD)
TRACING_TEXT = "enabled: true\nprovider: {name: skywalking}\n"
SERVING = optional(
    {"runtime": st.sampled_from(["knative", "async"])},
    inputs=st.lists(IO, max_size=2),
    outputs=st.lists(IO, max_size=2),
    bindings=st.dictionaries(WORD, COMPONENT, max_size=2),
    pubsub=st.dictionaries(WORD, COMPONENT, max_size=2),
    states=st.dictionaries(WORD, COMPONENT, max_size=2),
    scaleOptions=optional(
        minReplicas=COUNT,
        maxReplicas=COUNT,
        knative=STRINGS,
        keda=optional(
            scaledObject=optional(
                workloadType=st.sampled_from(["Deployment", "StatefulSet"]),
                minReplicaCount=COUNT,
                maxReplicaCount=COUNT,
                pollingInterval=COUNT,
                cooldownPeriod=COUNT,
            ),
            scaledJob=optional(maxReplicaCount=COUNT, restartPolicy=st.just("Never")),
        ),
    ),
    triggers=st.lists(
        optional({"type": WORD, "metadata": STRINGS}, targetKind=st.sampled_from(["object", "job"])),
        max_size=2,
    ),
    params=STRINGS,
    labels=STRINGS,
    annotations=STRINGS,
    template=st.just({"containers": []}),
    timeout=st.just("30s"),
)
OLD_FUNCTIONS = st.builds(
    lambda annotations, spec: {
        "apiVersion": OLD,
        "kind": "Function",
        "metadata": {"name": "f", **({"annotations": annotations} if annotations else {})},
        "spec": spec,
    },
    optional(
        {},
        **{
            "plugins": st.sampled_from(["order: [a, b]\n", "pre: [x]\n", "pre: []\npost: [y]\norder: [z]\n"]),
            "plugins.tracing": st.just(TRACING_TEXT),
            "own": WORD,
        },
    ),
    optional(
        {"image": WORD},
        version=WORD,
        port=st.integers(1, 65535),
        route=st.just({"hostnames": ["a.test"]}),
        build=optional(
            {"builder": WORD, "srcRepo": st.just({"url": "u"})},
            params=STRINGS,
            shipwright=optional(strategy=st.fixed_dictionaries({"name": WORD}), timeout=st.just("1m")),
            timeout=st.just("5m"),
        ),
        serving=SERVING,
    ),
)


def old(serving=None, *, annotations=None, **spec) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "f"}
    if annotations:
        metadata["annotations"] = annotations
    spec = {"image": "x", **spec, **({"serving": serving} if serving else {})}
    return {"apiVersion": OLD, "kind": "Function", "metadata": metadata, "spec": spec}


def up(obj: dict[str, Any]) -> dict[str, Any]:
    return FUNCTION.convert(obj, NEW)


def down(obj: dict[str, Any]) -> dict[str, Any]:
    return FUNCTION.convert(obj, OLD)


@given(OLD_FUNCTIONS)
@settings(max_examples=150, deadline=None)
def test_convert_up_and_down_loses_nothing(obj):
    before = copy.deepcopy(obj)

    stored = up(obj)

    assert obj == before
    assert FUNCTION.read(stored).problems == ()
    assert FUNCTION.read(stored).warnings == ()
    assert down(stored) == obj


@given(OLD_FUNCTIONS)
@settings(max_examples=100, deadline=None)
def test_convert_up_and_down_loses_nothing_after_defaults(obj):
    stored = FUNCTION.default(up(obj))

    returned = down(stored)

    assert FUNCTION.default(up(returned))["spec"] == stored["spec"]
    kept = returned["spec"].get("serving", {})
    assert kept == obj["spec"].get("serving", {})


def test_convert_an_edit_of_the_older_form_wins_over_what_was_kept():
    stored = up(old({"runtime": "async", "inputs": [{"name": "a", "component": "b"}]}))
    stored["spec"]["serving"]["triggers"]["dapr"][0]["type"] = "bindings.x"
    stored["spec"]["serving"]["hooks"] = {"pre": ["p"], "policy": "Append"}
    shown = down(stored)

    shown["spec"]["serving"]["inputs"][0]["component"] = "c"
    shown["metadata"]["annotations"]["plugins"] = "pre: [q]\n"
    edited = up(shown)

    assert edited["spec"]["serving"]["triggers"]["dapr"][0]["name"] == "c"
    assert edited["spec"]["serving"]["hooks"] == {"pre": ["q"], "policy": "Append"}


def test_convert_an_edit_of_the_stored_form_wins_over_what_was_kept():
    stored = up(
        old({"runtime": "async", "triggers": [{"type": "cron", "metadata": {}, "targetKind": "job"}]}, port=9)
    )
    assert json.loads(stored["metadata"]["annotations"]["pelton.dev/fields-of-v1beta1"])

    stored["spec"]["serving"]["triggers"] = {"http": {"port": 7}}
    stored["spec"]["serving"]["scaleOptions"]["keda"]["triggers"][0]["type"] = "kafka"
    shown = down(stored)

    assert shown["spec"]["port"] == 7
    assert shown["spec"]["serving"]["triggers"] == [{"type": "kafka", "metadata": {}, "targetKind": "job"}]


def test_convert_a_tampered_annotation_counts_as_none():
    for text in ("{", "3", '[3, {"path": []}, {"path": ["spec", "image", "x"], "is": 1}]'):
        obj = {**old({"runtime": "knative"})}
        obj["metadata"]["annotations"] = {"pelton.dev/fields-of-v1beta2": text}

        assert up(obj)["spec"]["serving"] == {"triggers": {"http": {}}}


@pytest.mark.parametrize(
    ("text", "hooks"),
    [
        ("order: [a, b]", {"pre": ["a", "b"], "post": ["b", "a"], "policy": "Override"}),
        ("pre: [a]", {"pre": ["a"], "policy": "Override"}),
        ("order: [a, b]\npost: [c]", {"pre": ["a", "b"], "post": ["c"], "policy": "Override"}),
        ("order: [a]\npre: [p]\npost: [q]", {"pre": ["p"], "post": ["q"], "policy": "Override"}),
    ],
)
def test_convert_plugins_become_hooks(text, hooks):
    assert up(old({"runtime": "knative"}, annotations={"plugins": text}))["spec"]["serving"]["hooks"] == hooks


def test_convert_hooks_and_tracing_become_annotations():
    tracing = {"enabled": True, "provider": {"name": "skywalking"}}
    serving = {"triggers": {"http": {}}, "hooks": {"pre": ["a"], "post": ["b"]}, "tracing": tracing}
    stored = {"apiVersion": NEW, "kind": "Function", "metadata": {"name": "f"}, "spec": {"serving": serving}}

    annotations = down(stored)["metadata"]["annotations"]

    assert load(annotations["plugins"]) == {"pre": ["a"], "post": ["b"]}
    assert load(annotations["plugins.tracing"]) == tracing


def test_convert_a_stored_function_with_unreadable_plugins_is_still_shown():
    stored = up(old({"runtime": "knative"}))
    stored["metadata"]["annotations"] = {"plugins": "["}

    assert down(stored)["metadata"]["annotations"]["plugins"] == "["


def test_convert_type_of_a_component_is_looked_up_in_bindings_then_pubsub():
    serving = {
        "runtime": "async",
        "inputs": [{"name": "i", "component": "both"}, {"name": "j", "component": "bus"}],
        "outputs": [{"name": "o", "component": "nowhere"}],
        "bindings": {"both": {"type": "bindings.x", "version": "v1", "metadata": []}},
        "pubsub": {
            "both": {"type": "pubsub.y", "version": "v1", "metadata": []},
            "bus": {"type": "pubsub.z", "version": "v1", "metadata": []},
        },
    }

    found = up(old(serving))["spec"]["serving"]

    assert [item["type"] for item in found["triggers"]["dapr"]] == ["bindings.x", "pubsub.z"]
    assert found["outputs"] == [{"dapr": {"name": "nowhere", "outputName": "o"}}]


@pytest.mark.parametrize(
    ("keda", "options", "workload_type"),
    [
        (
            {"scaledObject": {"minReplicaCount": 1}},
            {"minReplicas": 1, "keda": {"scaledObject": {}}},
            "Deployment",
        ),
        ({"scaledJob": {"maxReplicaCount": 4}}, {"maxReplicas": 4, "keda": {"scaledJob": {}}}, "Job"),
        ({}, {"keda": {}}, None),
    ],
)
def test_convert_keda_bounds_move_to_scale_options(keda, options, workload_type):
    serving = up(old({"runtime": "async", "scaleOptions": {"keda": keda}}))["spec"]["serving"]

    assert serving["scaleOptions"] == options
    assert serving.get("workloadType") == workload_type


def test_convert_wrong_types_are_all_reported():
    with pytest.raises(InvalidError) as caught:
        up(old({"runtime": "nothing", "inputs": [{}]}, port="x"))

    assert [path for path, _ in caught.value.causes] == [
        "spec.port",
        "spec.serving.runtime",
        "spec.serving.inputs[0].name",
        "spec.serving.inputs[0].component",
    ]


@pytest.mark.parametrize("kind", [row for row in KINDS if row.older], ids=lambda row: row.kind)
@pytest.mark.parametrize("rest", [{}, {"metadata": None}, {"metadata": {"name": "x"}, "spec": []}])
def test_admit_hollow_objects_of_an_older_version_are_invalid_not_a_crash(kind, rest):
    for older in kind.older:
        with pytest.raises(InvalidError):
            admit({"apiVersion": f"{kind.group}/{older.version}", "kind": kind.kind, **rest})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(OLD_FUNCTIONS, st.data())
@settings(max_examples=100, deadline=None)
def test_admit_any_damage_gives_an_object_or_an_invalid_error(obj, data):
    obj = copy.deepcopy(obj)
    places = [(obj, "spec"), (obj, "metadata")]

    def walk(value):
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            places.append((value, key))
            if isinstance(item, dict | list):
                walk(item)

    walk(obj["spec"])
    holder, key = data.draw(st.sampled_from(places))
    holder[key] = data.draw(JSON)

    try:
        admitted = admit(obj)
    except InvalidError as error:
        assert error.causes
    else:
        assert admit(admitted.obj).obj == admitted.obj
