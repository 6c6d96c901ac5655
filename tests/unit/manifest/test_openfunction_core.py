"""Functions: what is written, what is filled in, what is refused."""

import copy
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.errors import InvalidError, UnservedVersionError
from pelton.manifest import openfunction_core as core
from pelton.manifest.kinds import admit
from pelton.model.component import MetadataItem, SecretKeyRef

V = core.API_VERSION


def function(spec, **metadata):
    return {"apiVersion": V, "kind": "Function", "metadata": {"name": "f", **metadata}, "spec": spec}


def model(obj) -> Any:
    """Decode; Any, since a test knows which optional parts are there."""
    return core.decode(obj)[0]


def optional(**fields):
    return st.fixed_dictionaries({}, optional=fields)


def with_required(required, **fields):
    return st.fixed_dictionaries(required, optional=fields)


# Canonical forms only, as Go would print them; JSON leaves empty text, maps and lists out, so none is made.
WORD = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
COUNT = st.integers(0, 100)
TIME = st.sampled_from(["1s", "1m30s", "5m0s", "1h0m0s", "300ms", "1.5s"])
STRINGS = st.dictionaries(WORD, TEXT, min_size=1, max_size=3)
NAME = st.fixed_dictionaries({"name": WORD})
VALUE = st.one_of(TEXT, COUNT, st.booleans(), st.just(""))
COMPONENT = with_required(
    {
        "type": WORD.map(lambda word: f"bindings.{word}"),
        "version": st.just("v1"),
        "metadata": st.lists(
            with_required(
                {"name": WORD}, value=VALUE, secretKeyRef=st.fixed_dictionaries({"name": WORD, "key": WORD})
            ),
            max_size=3,
        ),
    },
    ignoreErrors=st.booleans(),
    initTimeout=TIME,
)
REF = {"name": WORD}
REF_OPTIONAL = {"type": WORD, "topic": WORD}
BEHAVIOR = optional(
    stabilizationWindowSeconds=st.integers(0, 3600),
    selectPolicy=st.sampled_from(["Max", "Min", "Disabled"]),
    policies=st.lists(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["Pods", "Percent"]), "value": COUNT, "periodSeconds": COUNT}
        ),
        min_size=1,
        max_size=2,
    ),
)
KEDA_TRIGGER = with_required(
    {"type": WORD, "metadata": st.dictionaries(WORD, TEXT, max_size=2)},
    name=WORD,
    authenticationRef=with_required({"name": WORD}, kind=WORD),
    metricType=WORD,
    useCachedMetrics=st.booleans(),
)
SCALED = st.one_of(
    st.fixed_dictionaries(
        {
            "scaledObject": optional(
                pollingInterval=COUNT,
                cooldownPeriod=COUNT,
                fallback=st.fixed_dictionaries({"failureThreshold": st.integers(1, 9), "replicas": COUNT}),
                advanced=optional(
                    restoreToOriginalReplicaCount=st.booleans(),
                    horizontalPodAutoscalerConfig=optional(
                        name=WORD, behavior=optional(scaleUp=BEHAVIOR, scaleDown=BEHAVIOR)
                    ),
                ),
            )
        }
    ),
    st.fixed_dictionaries(
        {
            "scaledJob": optional(
                restartPolicy=st.sampled_from(["Always", "OnFailure", "Never"]),
                pollingInterval=COUNT,
                successfulJobsHistoryLimit=COUNT,
                failedJobsHistoryLimit=COUNT,
                scalingStrategy=st.fixed_dictionaries(
                    {
                        "strategy": st.just("custom"),
                        "customScalingQueueLengthDeduction": COUNT,
                        "customScalingRunningJobPercentage": st.just("50%"),
                    }
                ),
            )
        }
    ),
    st.fixed_dictionaries({"httpScaledObject": optional(targetPendingRequests=COUNT, cooldownPeriod=COUNT)}),
    st.just({}),
)
KEDA = st.builds(
    lambda triggers, scaled: {**scaled, **triggers},
    optional(triggers=st.lists(KEDA_TRIGGER, min_size=1, max_size=2)),
    SCALED,
)
HTTP = optional(
    port=st.integers(1, 65535),
    engine=st.sampled_from(["knative", "keda"]),
    route=optional(
        gatewayRef=st.fixed_dictionaries({"name": WORD, "namespace": WORD}),
        hostnames=st.lists(st.sampled_from(["a.example", "*.b.example"]), min_size=1, max_size=2),
        rules=st.lists(
            optional(
                matches=st.lists(
                    optional(
                        path=optional(value=st.just("/x")), headers=st.just([{"name": "h", "value": "v"}])
                    ),
                    min_size=1,
                    max_size=3,
                ),
                filters=st.just([{"type": "RequestRedirect", "requestRedirect": {}}]),
            ),
            min_size=1,
            max_size=2,
        ),
    ),
)
SERVING = optional(
    triggers=optional(
        http=HTTP,
        dapr=st.lists(with_required(REF, **REF_OPTIONAL, inputName=WORD), min_size=1, max_size=2),
        inputs=st.lists(
            st.fixed_dictionaries({"dapr": with_required(REF, **REF_OPTIONAL)}), min_size=1, max_size=2
        ),
    ),
    outputs=st.lists(
        st.fixed_dictionaries(
            {"dapr": with_required(REF, **REF_OPTIONAL, operation=WORD, metadata=STRINGS, outputName=WORD)}
        ),
        min_size=1,
        max_size=2,
    ),
    bindings=st.dictionaries(WORD, COMPONENT, min_size=1, max_size=2),
    pubsub=st.dictionaries(WORD, COMPONENT, min_size=1, max_size=2),
    states=st.dictionaries(WORD, optional(spec=COMPONENT), min_size=1, max_size=2),
    scaleOptions=optional(
        minReplicas=st.integers(0, 5), maxReplicas=st.integers(5, 9), knative=STRINGS, keda=KEDA
    ),
    params=STRINGS,
    labels=STRINGS,
    annotations=STRINGS,
    template=st.sampled_from([{}, {"containers": [{"name": "function"}]}]),
    timeout=TIME,
    hooks=optional(
        pre=st.lists(WORD, min_size=1, max_size=2), post=st.lists(WORD, min_size=1), policy=st.just("Append")
    ),
    tracing=with_required(
        {
            "enabled": st.booleans(),
            "provider": with_required(
                {"name": WORD},
                oapServer=WORD,
                exporter=with_required({"name": WORD, "endpoint": WORD}, headers=WORD, timeout=WORD),
            ),
        },
        tags=STRINGS,
        baggage=STRINGS,
    ),
    workloadType=st.sampled_from(["Deployment", "StatefulSet", "Job"]),
)
PARAM_VALUE = {
    "value": st.text(max_size=3),
    "configMapValue": with_required({"name": WORD, "key": WORD}, format=WORD),
    "secretValue": with_required({"name": WORD, "key": WORD}, format=WORD),
}
BUILD = with_required(
    {
        "srcRepo": with_required({"url": TEXT}, revision=WORD, sourceSubPath=WORD, credentials=NAME),
        "builder": WORD,
    },
    builderCredentials=NAME,
    env=STRINGS,
    dockerfile=WORD,
    shipwright=optional(
        strategy=with_required({"name": WORD}, kind=st.just("BuildStrategy")),
        params=st.lists(
            with_required(
                {"name": WORD},
                **PARAM_VALUE,
                values=st.lists(optional(**PARAM_VALUE), min_size=1, max_size=2),
            ),
            min_size=1,
            max_size=2,
        ),
        timeout=TIME,
    ),
    timeout=TIME,
    successfulBuildsHistoryLimit=COUNT,
    failedBuildsHistoryLimit=COUNT,
    builderMaxAge=TIME,
)
FUNCTIONS = st.builds(
    function,
    with_required(
        {"image": WORD, "serving": SERVING},
        workloadRuntime=st.sampled_from(["OCIContainer", "WasmEdge"]),
        version=WORD,
        imageCredentials=NAME,
        build=BUILD,
    ),
    name=WORD.map(lambda word: word.rstrip("-")),
    namespace=WORD,
    labels=STRINGS,
    annotations=STRINGS,
)


@given(FUNCTIONS)
@settings(max_examples=150, deadline=None)
def test_default_twice_is_default_once_and_the_input_is_not_touched(obj):
    before = copy.deepcopy(obj)

    once = core.default(obj)

    assert obj == before
    assert core.default(once) == once


@given(FUNCTIONS)
@settings(max_examples=150, deadline=None)
def test_encode_gives_back_what_decode_read(obj):
    filled = core.default(obj)

    decoded, warnings = core.decode(filled)

    assert warnings == []
    assert core.encode(decoded) == filled
    assert core.validate(filled) == []
    assert core.validate(decoded) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(FUNCTIONS, st.data())
@settings(max_examples=200, deadline=None)
def test_admit_any_damage_gives_an_object_or_an_invalid_error(obj, data):
    """Whatever stands in any one place, nothing but InvalidError comes out."""
    obj = copy.deepcopy(obj)  # parts of it are shared between examples
    places = []

    def walk(value):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            places.append((value, key))
            if isinstance(item, dict | list):
                walk(item)

    walk(obj["spec"])
    places.append((obj, "spec"))
    places.append((obj, "metadata"))
    holder, key = data.draw(st.sampled_from(places))
    holder[key] = data.draw(JSON)

    try:
        admitted = admit(obj)
    except InvalidError as error:
        assert error.causes
    else:
        assert admit(admitted.obj).obj == admitted.obj
        assert list(admit(admitted.obj).unknown) == []


def test_decode_reports_all_wrong_types_at_once():
    with pytest.raises(InvalidError) as caught:
        core.decode(function({"image": 1, "version": 2, "serving": {"params": {"A": 3}}}))

    assert [path for path, _ in caught.value.causes] == [
        "spec.image",
        "spec.version",
        "spec.serving.params.A",
    ]


def test_decode_null_counts_as_absent():
    decoded = model(function({"image": "x", "build": None, "serving": {"hooks": None, "params": None}}))

    assert (decoded.build, decoded.serving.hooks, decoded.serving.params) == (None, None, {})


def test_decode_empty_references_and_timeouts_are_absent():
    item = {"name": "n", "value": "v", "secretKeyRef": {"name": "", "key": ""}}
    spec = {"type": "bindings.x", "version": "v1", "metadata": [item], "initTimeout": ""}

    decoded = model(function({"image": "x", "serving": {"bindings": {"b": spec}}}))

    component = decoded.serving.bindings["b"]
    assert component.metadata == (MetadataItem(name="n", value="v"),)
    assert component.init_timeout_s is None


@pytest.mark.parametrize(
    ("value", "text"), [("a", "a"), (1, "1"), (False, "false"), (1.5, "1.5"), ({"a": [1]}, '{"a":[1]}')]
)
def test_decode_metadata_values_keep_their_type_and_have_a_text(value, text):
    item = {"name": "n", "value": value}
    spec = {"type": "bindings.x", "version": "v1", "metadata": [item]}

    decoded = model(function({"image": "x", "serving": {"bindings": {"b": spec}}}))

    assert decoded.serving.bindings["b"].metadata[0].value == value
    assert decoded.serving.bindings["b"].metadata[0].text == text


def test_decode_secret_reference():
    item = {"name": "n", "secretKeyRef": {"name": "s", "key": "k"}}
    spec = {"type": "bindings.x", "version": "v1", "metadata": [item]}

    decoded = model(
        function({"image": "x", "serving": {"states": {"b": {"spec": spec}, "c": {}, "d": None}}})
    )

    assert decoded.serving.states["b"].metadata[0].secret_key_ref == SecretKeyRef(name="s", key="k")
    assert decoded.serving.states["c"] is None
    assert decoded.serving.states["d"] is None


def test_decode_durations_are_seconds():
    decoded = model(function({"image": "x", "serving": {"timeout": "1m30s"}, "build": {"timeout": "2h"}}))

    assert (decoded.serving.timeout_s, decoded.build.timeout_s) == (90.0, 7200.0)


@pytest.mark.parametrize(
    ("triggers", "filled"),
    [
        (None, {"http": {"port": 8080}}),
        ({}, {"http": {"port": 8080}}),
        ({"http": {"port": 0}}, {"http": {"port": 8080}}),
        ({"http": {"port": 99}}, {"http": {"port": 99}}),
        ({"dapr": [{"name": "a"}]}, {"dapr": [{"name": "a"}]}),
        ({"dapr": []}, {"dapr": [], "http": {"port": 8080}}),
        ({"dapr": [{"name": "a"}], "http": {}}, {"dapr": [{"name": "a"}], "http": {"port": 8080}}),
        ({"dapr": [{"name": "a"}], "http": {"port": 0}}, {"dapr": [{"name": "a"}], "http": {"port": 0}}),
    ],
)
def test_default_triggers(triggers, filled):
    spec = core.default(function({"image": "x", "serving": {"triggers": triggers}}))["spec"]

    found = spec["serving"]["triggers"]
    route = found.get("http", {}).pop("route", None)
    assert found == filled
    assert (route is not None) == ("http" in filled)


def test_default_without_serving_adds_none():
    assert core.default(function({"image": "x"}))["spec"] == {
        "image": "x",
        "version": "latest",
        "workloadRuntime": "OCIContainer",
    }


def test_default_wasm_runtime_class_only_where_a_template_is_given():
    spec = {"image": "x", "workloadRuntime": "WASMEDGE", "serving": {}}

    filled = core.default(function(spec))

    assert filled["metadata"]["annotations"] == {"module.wasm.image/variant": "compat-smart"}
    assert filled["spec"]["serving"]["annotations"] == {"module.wasm.image/variant": "compat-smart"}
    assert "template" not in filled["spec"]["serving"]


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"serving": {}}, "spec.image"),
        ({"image": "", "serving": {}}, "spec.image"),
        ({"image": "x"}, "spec.serving"),
        ({"image": "x", "build": {"srcRepo": {"url": "u"}}}, "spec.build.builder"),
        ({"image": "x", "build": {"builder": "b"}}, "spec.build.srcRepo"),
        ({"image": "x", "build": {"builder": "b", "srcRepo": {}}}, "spec.build.srcRepo"),
        (
            {"image": "x", "imageCredentials": {}, "build": {"builder": "b", "srcRepo": {"url": "u"}}},
            "spec.imageCredentials.name",
        ),
        (
            {"image": "x", "serving": {"scaleOptions": {"minReplicas": 11}}},
            "spec.serving.scaleOptions.minReplicas",
        ),
        (
            {"image": "x", "serving": {"scaleOptions": {"keda": {"scaledJob": {}, "scaledObject": {}}}}},
            "spec.serving.scaleOptions.keda",
        ),
    ],
)
def test_validate_one_broken_rule_gives_one_problem_at_its_path(spec, path):
    assert [problem.path for problem in core.validate(core.default(function(spec)))] == [path]


@pytest.mark.parametrize(
    "spec",
    [
        {"image": "x", "imageCredentials": {}, "serving": {}},  # the name is needed for builds only
        {"image": "x", "build": {"dockerfile": "d", "srcRepo": {"bundleContainer": {"image": "i"}}}},
        {"image": "x", "serving": {"scaleOptions": {"minReplicas": 11, "maxReplicas": 11}}},
        {"image": "x", "serving": {"scaleOptions": {"keda": {}}}},
        {"image": "x", "serving": {"triggers": {"http": {"engine": "keda"}}}},
    ],
)
def test_validate_what_the_contract_allows_passes(spec):
    assert core.validate(core.default(function(spec))) == []


def test_convert_hub_to_itself_is_identity_and_anything_else_is_refused():
    obj = function({"image": "x"})

    assert core.convert(obj, V) == obj
    with pytest.raises(UnservedVersionError, match=r"v1beta2 and .*v1beta1, not as .*v1alpha2"):
        core.convert(obj, "core.openfunction.io/v1alpha2")


@given(FUNCTIONS)
@settings(max_examples=200, deadline=None)
def test_convert_to_the_older_version_and_back_loses_nothing(obj):
    filled = core.default(obj)

    older = core.convert(filled, "core.openfunction.io/v1beta1")

    assert core.FUNCTION.older[0].read(older).problems == []
    assert core.FUNCTION.older[0].read(older).warnings == []
    assert core.convert(older, V) == filled


def test_a_thousand_functions_pass_without_visible_delay():
    """Stated for 1 s; 5 s here, since a shared machine decides nothing. Measured: 0.06 ms for one."""
    obj = function(
        {
            "image": "x",
            "build": {"builder": "b", "srcRepo": {"url": "u"}, "env": {"FUNC_NAME": "f"}},
            "serving": {"triggers": {"dapr": [{"name": "a", "type": "bindings.x", "topic": "t"}]}},
        }
    )
    begun = time.perf_counter()

    for _ in range(1000):
        admit(obj)

    assert time.perf_counter() - begun < 5
