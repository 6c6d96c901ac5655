"""Rules that hold for every render: what Kubernetes asks, names that stand for content, known components."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.manifest import openfunction_core
from pelton.model.component import ComponentSpec
from pelton.model.function import (
    Build,
    DaprInput,
    DaprOutput,
    DaprTrigger,
    Function,
    HttpRoute,
    HttpScaledObject,
    HttpTrigger,
    KedaOptions,
    KedaTrigger,
    ScaledJob,
    ScaledObject,
    ScaleOptions,
    Serving,
    Source,
    Triggers,
)
from pelton.plan.eventing import Facts
from pelton.sdk.context import RuntimeContext
from pelton.targets.kubernetes.cluster import Cluster
from pelton.targets.kubernetes.identity import suffix
from pelton.targets.kubernetes.render import PARTS, render_function
from tests.unit.targets.kubernetes import basics

TEXT = st.text("abcXYZ019-_. é", min_size=1, max_size=40)
NAME = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
LABELS = st.dictionaries(
    st.sampled_from(["team", "openfunction.io/serving", "app.kubernetes.io/version"]), st.just("x1")
)
REPLICAS = st.none() | st.integers(0, 5)
COMPONENT = st.builds(
    ComponentSpec,
    type=st.sampled_from(["bindings.kafka", "pubsub.redis", "state.redis"]),
    version=st.just("v1"),
)
DECLARED = st.dictionaries(TEXT, COMPONENT, max_size=3)
KEDA = st.builds(
    KedaOptions,
    triggers=st.lists(
        st.builds(KedaTrigger, type=st.just("kafka"), metadata=st.just({"topic": "t"})), max_size=2
    ).map(tuple),
    scaled_object=st.none() | st.builds(ScaledObject),
)
JOBS = st.builds(
    KedaOptions,
    triggers=st.just((KedaTrigger(type="kafka"),)),
    scaled_job=st.builds(ScaledJob, restart_policy=st.sampled_from(["", "Never", "Always"])),
)
HTTP_SCALED = st.builds(
    KedaOptions,
    http_scaled_object=st.builds(HttpScaledObject, target_pending_requests=st.none() | st.integers(0, 9)),
)
SCALE = st.none() | st.builds(
    ScaleOptions,
    min_replicas=REPLICAS,
    max_replicas=st.none() | st.integers(5, 9) | st.just(0),
    keda=st.none() | KEDA | JOBS | HTTP_SCALED,
)
TEMPLATE = st.sampled_from(
    [
        None,
        {},
        {"containers": [{"name": "side", "image": "x", "ports": [{"containerPort": 1}]}]},
        {"containers": [{"name": "function", "env": [{"name": "A", "value": "1"}, {"name": "POD_NAME"}]}]},
        {"containers": [{"name": "function", "ports": [{"containerPort": 8080}, {"containerPort": 9}]}]},
    ]
)


@st.composite
def functions(draw):
    bindings, pubsub, states = draw(DECLARED), draw(DECLARED), draw(DECLARED)
    known = sorted({*bindings, *pubsub, *states, "elsewhere"})
    component = st.sampled_from(known)
    http = st.builds(
        HttpTrigger,
        port=st.sampled_from([80, 8080, 9000]),
        engine=st.sampled_from(["", "knative", "keda"]),
        route=st.just(HttpRoute()) | st.just(HttpRoute(hostnames=("a.example.com", "*.example.org"))),
    )
    wired = draw(
        st.lists(st.builds(DaprTrigger, name=component, topic=st.sampled_from(["", "t"])), max_size=2)
    )
    asked = draw(http) if not wired else draw(st.none() | http)
    serving = Serving(
        triggers=Triggers(
            http=asked,
            dapr=tuple(wired),
            inputs=tuple(draw(st.lists(st.builds(DaprInput, name=component), max_size=1))),
        ),
        outputs=tuple(draw(st.lists(st.builds(DaprOutput, name=component), max_size=2))),
        bindings=bindings,
        pubsub=pubsub,
        states={**states, **draw(st.sampled_from([{}, {"elsewhere": None}]))},
        scale_options=draw(SCALE),
        params=draw(st.dictionaries(st.sampled_from(["A", "PORT", "FUNC_CONTEXT", "POD_NAME"]), TEXT)),
        labels=draw(LABELS),
        annotations=draw(st.sampled_from([{}, {"dapr.io/app-protocol": "http", "dapr.io/enabled": "true"}])),
        template=draw(TEMPLATE),
        workload_type=draw(st.sampled_from(["", "Deployment", "StatefulSet", "Job"])),
        timeout_s=draw(st.sampled_from([None, 30.0])),
    )
    built = Build(source=Source(url="https://git.example.com/x"), builder="b", env={"FUNC_NAME": draw(TEXT)})
    return Function(
        namespace=draw(st.sampled_from(["default", "keda"])),
        name=draw(NAME),
        annotations=draw(
            st.sampled_from(
                [
                    {},
                    {"openfunction.io/dapr-service-mode": "sidecar"},
                    {"openfunction.io/enable-dapr": "false"},
                ]
            )
        ),
        version=draw(
            st.sampled_from(["latest", "v1.0.0", "2024-05_A+build.with.a.very.long.name.of.its.own"])
        ),
        image="demo/x:1",
        build=draw(st.none() | st.just(built)),
        serving=serving,
    )


CLUSTERS = st.sampled_from([Cluster(), Cluster(http_add_on="v1beta1")])


def serving_names(objects):
    labels = [obj["metadata"].get("labels", {}) for obj in objects]
    return {each["openfunction.io/serving"] for each in labels if "openfunction.io/serving" in each}


@settings(max_examples=40)
@given(functions(), CLUSTERS)
def test_render_of_any_function_is_what_kubernetes_asks_for(function, cluster):
    objects = render_function(function, Facts(), cluster).objects

    basics.check(objects)


@settings(max_examples=40)
@given(functions(), CLUSTERS)
def test_render_twice_gives_the_same_text(function, cluster):
    once = render_function(function, Facts(), cluster)
    again = render_function(replace(function), Facts(), cluster)

    assert json.dumps(once.objects) == json.dumps(again.objects)
    assert once.notes == again.notes


@settings(max_examples=40)
@given(functions())
def test_render_changes_no_function(function):
    before = repr(function)

    render_function(function, Facts(), Cluster())

    assert repr(function) == before


@settings(max_examples=40)
@given(functions())
def test_contexts_name_components_that_are_rendered_or_stand_alone(function):
    objects = render_function(function, Facts(), Cluster()).objects
    made = {obj["metadata"]["name"] for obj in objects if obj["kind"] == "Component"}
    ours = [each for each in basics.containers(objects) if each["name"] in ("function", "dapr-proxy")]
    # A user's own FUNC_CONTEXT stays the user's.
    named = (
        set().union(*map(basics.component_names, ours))
        if "FUNC_CONTEXT" not in function.serving.params
        else set()
    )

    assert named <= made | {"elsewhere"}


@settings(max_examples=40)
@given(functions())
def test_parts_together_are_the_whole(function):
    whole = render_function(function, Facts(), Cluster())

    parts = [
        obj for part in PARTS for obj in render_function(function, Facts(), Cluster(), parts=(part,)).objects
    ]

    assert sorted(map(json.dumps, whole.objects)) == sorted(map(json.dumps, parts))


@settings(max_examples=40)
@given(functions(), st.sampled_from(["image", "params", "version", "scale", "annotations"]))
def test_changed_content_gets_new_names(function, changed):
    serving = function.serving
    other = {
        "image": lambda: replace(function, image="demo/x:2"),
        "params": lambda: replace(function, serving=replace(serving, params={"NEW": "1"})),
        "version": lambda: replace(function, version="v9"),
        "scale": lambda: replace(
            function, serving=replace(serving, scale_options=ScaleOptions(max_replicas=3))
        ),
        "annotations": lambda: replace(function, annotations={"plugins": "order: [a]"}),
    }[changed]()

    before = serving_names(render_function(function, Facts(), Cluster()).objects)
    after = serving_names(render_function(other, Facts(), Cluster()).objects)

    assert len(before) == len(after) == 1
    assert before != after


@settings(max_examples=40)
@given(functions())
def test_frameworks_read_the_names_of_the_cluster_out_of_the_context(function):
    objects = render_function(function, Facts(), Cluster()).objects
    container = next(each for each in basics.containers(objects) if each["name"] == "function")
    variable = next(each for each in container["env"] if each["name"] == "FUNC_CONTEXT")
    if "FUNC_CONTEXT" in function.serving.params:
        assert variable["value"] == function.serving.params["FUNC_CONTEXT"]
        return

    context = RuntimeContext.of(json.loads(variable["value"]))

    assert set(context.outputs) == {each.output_name or each.name for each in function.serving.outputs}
    assert set(context.states) == set(function.serving.states)
    assert len(context.dapr_triggers) == len(function.serving.triggers.dapr)
    assert context.has_http_trigger() == (function.serving.triggers.http is not None)


def test_suffix_is_five_characters_of_generated_names_and_depends_on_content():
    found = {suffix(number) for number in range(2000)}

    assert len(found) > 1990
    assert all(len(each) == 5 and set(each) <= set("bcdfghjklmnpqrstvwxz2456789") for each in found)


def test_order_of_keys_makes_no_other_names():
    written = {
        "apiVersion": "core.openfunction.io/v1beta2",
        "kind": "Function",
        "metadata": {"name": "a", "namespace": "b"},
        "spec": {"image": "demo/x", "serving": {"labels": {"x": "1", "y": "2"}}},
    }
    turned = {**written, "spec": {"serving": {"labels": {"y": "2", "x": "1"}}, "image": "demo/x"}}

    names = [
        [obj["metadata"]["name"] for obj in render_function(function, Facts(), Cluster()).objects]
        for function in (
            openfunction_core.decode(openfunction_core.default(each))[0] for each in (written, turned)
        )
    ]

    assert names[0] == names[1]
