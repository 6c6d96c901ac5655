"""Rules of the planner: builds, workloads, routes, limits, unhonoured fields."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.model.build import BuildResult
from pelton.model.component import ComponentResource, ComponentSpec, MetadataItem, SecretKeyRef
from pelton.model.function import (
    Build,
    DaprOutput,
    DaprTrigger,
    Function,
    GatewayRef,
    Hooks,
    HttpRoute,
    HttpTrigger,
    Serving,
    Source,
    Tracing,
    TracingProvider,
    Triggers,
)
from pelton.plan.eventing import Facts, component_names, secret_names
from pelton.plan.function import plan

BUILT = BuildResult(
    bundle="/home/bundles/abc",
    digest="sha256:abc",
    environment="/home/envs/e1",
    convention="gcf",
    target="hello",
    signature="http",
    source="main.py",
)
HTTP = Triggers(
    http=HttpTrigger(
        port=8080, route=HttpRoute(gateway=GatewayRef(name="openfunction", namespace="openfunction"))
    )
)
BUS = ComponentSpec(
    type="pubsub.jetstream", version="v1", metadata=(MetadataItem(name="natsURL", value="nats://x"),)
)


def function(
    *, url: str = "file:///src/hello", annotations: dict[str, str] | None = None, **serving: Any
) -> Function:
    return Function(
        namespace="default",
        name="hello",
        image="local/hello",
        annotations=annotations or {},
        build=Build(source=Source(url=url), env={"FUNC_NAME": "hello"}),
        serving=Serving(**{"triggers": HTTP, **serving}),
    )


def desired(subject: Function, facts: Facts | None = None):
    made = plan(subject, facts or Facts(), BUILT)
    assert made.problems == ()
    assert made.desired is not None
    return made.desired


# --- build


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("file:///src/hello", "file:///src/hello"),
        ("file:/src/hello", "file:///src/hello"),
        ("file://localhost/src", "file:///src"),
        ("/src/my fn", "file:///src/my%20fn"),
    ],
)
def test_local_source_becomes_a_file_url(url, expected):
    run = plan(function(url=url), Facts()).build

    assert run is not None
    assert run.source_url == expected


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://example.org/repo.git", "not on this machine"),
        ("git@example.org:me/repo.git", "not on this machine"),
        ("../hello", "pelton apply"),
        ("", "pelton apply"),
    ],
)
def test_source_elsewhere_is_a_problem_that_says_what_to_do(url, says):
    made = plan(function(url=url), Facts())

    (problem,) = made.problems
    assert (problem.reason, problem.path, problem.phase) == (
        "SourceNotLocal",
        "spec.build.srcRepo.url",
        "build",
    )
    assert says in problem.message
    assert made.build is None


def test_bundle_container_is_a_problem():
    subject = replace(function(), build=Build(source=Source(url="file:///x", bundle_image="img")))

    assert plan(subject, Facts()).problems[0].path == "spec.build.srcRepo.bundleContainer"


def test_image_without_source_is_a_problem():
    made = plan(replace(function(), build=None), Facts())

    assert [problem.reason for problem in made.problems] == ["ImageNotRunnable"]


def test_sub_path_must_stay_inside_the_source():
    subject = replace(function(), build=Build(source=Source(url="file:///x", sub_path="../y")))

    assert plan(subject, Facts()).problems[0].reason == "InvalidSubPath"


def test_google_build_variables_stand_in_for_the_short_ones():
    subject = replace(
        function(),
        build=Build(
            source=Source(url="file:///x"),
            env={"GOOGLE_FUNCTION_TARGET": "a", "GOOGLE_FUNCTION_SOURCE": "b.py", "FUNC_NAME": "c"},
        ),
    )
    run = plan(subject, Facts()).build

    assert run is not None
    assert (run.env["FUNC_NAME"], run.env["FUNC_SRC"]) == ("c", "b.py")


def test_build_hash_follows_source_env_and_digest_but_not_the_time_limit():
    base = plan(function(), Facts()).build_hash
    slower = replace(
        function(),
        build=Build(source=Source(url="file:///src/hello"), env={"FUNC_NAME": "hello"}, timeout_s=5),
    )

    assert plan(slower, Facts()).build_hash == base
    assert plan(function(url="file:///other"), Facts()).build_hash != base
    assert plan(function(annotations={"pelton.dev/source-digest": "1"}), Facts()).build_hash != base
    assert plan(function(params={"A": "1"}), Facts()).build_hash == base


def test_function_without_serving_is_only_built():
    made = plan(replace(function(), serving=None), Facts(), BUILT)

    assert made.build is not None
    assert made.desired is None
    assert not made.serves
    assert made.problems == ()


# --- workload


def test_environment_has_context_identity_and_params():
    env = desired(function(params={"GREETING": "hi", "K_SERVICE": "mine"})).workload.env

    assert env["GREETING"] == "hi"
    assert env["POD_NAMESPACE"] == "default"
    assert env["PORT"] == "8080"
    assert env["K_SERVICE"] == "hello"
    assert env["FUNCTION_TARGET"] == "hello"
    assert env["FUNCTION_SIGNATURE_TYPE"] == "http"
    assert json.loads(env["FUNC_CONTEXT"])["name"] == "hello"
    assert "POD_NAME" not in env


def test_plain_environment_of_the_function_container_counts_and_params_win():
    template = {
        "containers": [
            {"name": "function", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}
        ]
    }

    env = desired(function(template=template, params={"B": "3"})).workload.env
    assert (env["A"], env["B"]) == ("1", "3")


def test_revision_names_the_content():
    one = desired(function()).workload

    assert one.revision.startswith("hello-")
    assert len(one.revision) == len("hello-") + 10
    assert one.env["K_REVISION"] == one.revision
    assert desired(function()).workload == one
    assert desired(function(params={"A": "1"})).workload.revision != one.revision
    other = plan(function(), Facts(), replace(BUILT, digest="sha256:def")).desired
    assert other is not None
    assert other.workload.revision != one.revision


def test_revision_does_not_follow_scaling_or_the_place_of_the_bundle():
    one = desired(function()).workload.revision
    scaled = desired(function(annotations={"autoscaling.knative.dev/window": "6s"})).workload.revision
    moved = plan(function(), Facts(), replace(BUILT, bundle="/elsewhere/abc")).desired

    assert scaled == one
    assert moved is not None
    assert moved.workload.revision == one


def test_convention_annotation_wins_over_detection():
    assert (
        desired(function(annotations={"pelton.dev/convention": "openfunction"})).workload.convention
        == "openfunction"
    )


@pytest.mark.parametrize(
    ("key", "text", "field", "expected"),
    [
        ("request-timeout", "30s", "request_timeout_s", 30.0),
        ("request-timeout", "0", "request_timeout_s", 0.0),
        ("request-timeout", "45", "request_timeout_s", 45.0),
        ("body-limit", "64Mi", "body_limit_bytes", 64 * 1024 * 1024),
    ],
)
def test_limit_annotations_are_honoured(key, text, field, expected):
    assert getattr(desired(function(annotations={f"pelton.dev/{key}": text})).workload, field) == expected


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("request-timeout", "soon"),
        ("request-timeout", "-1s"),
        ("body-limit", "big"),
        ("max-attempts", "0"),
        ("batch-size", "0"),
        ("batch-size", "1001"),
        ("batch-linger", "2m"),
        ("batch-linger", "soon"),
        ("max-attempts", "x"),
    ],
)
def test_bad_limit_annotation_is_a_problem_that_names_it(key, text):
    (problem,) = plan(function(annotations={f"pelton.dev/{key}": text}), Facts(), BUILT).problems

    assert problem.reason == "InvalidAnnotation"
    assert problem.path == f"metadata.annotations[pelton.dev/{key}]"


# --- route


def test_route_has_the_users_hosts_the_local_one_and_a_path():
    trigger = HttpTrigger(port=8080, route=HttpRoute(hostnames=("Shop.example.org",)))
    route = desired(function(triggers=Triggers(http=trigger))).route

    assert route is not None
    assert route.hosts == ("shop.example.org", "hello.default.localhost")
    assert route.path == "/default/hello"


def test_function_without_http_trigger_has_no_route():
    triggers = Triggers(dapr=(DaprTrigger(name="bus", topic="t"),))

    assert desired(function(triggers=triggers, pubsub={"bus": BUS})).route is None


# --- events


def events(**facts: Any):
    subject = function(triggers=Triggers(dapr=(DaprTrigger(name="bus", topic="t", input_name="in"),)))
    return plan(subject, Facts(**facts), BUILT)


def standalone(**changes: Any) -> ComponentResource:
    return ComponentResource(**{"name": "bus", "namespace": "default", "spec": BUS, **changes})


def test_subscription_takes_an_inline_component():
    subject = function(
        triggers=Triggers(dapr=(DaprTrigger(name="bus", topic="t"),)),
        pubsub={"bus": BUS},
        annotations={
            "pelton.dev/max-attempts": "3",
            "pelton.dev/batch-size": "16",
            "pelton.dev/batch-linger": "20ms",
        },
    )
    (subscription,) = desired(subject).subscriptions

    assert subscription.id == "default.hello.bus.t"
    assert subscription.input_name == "bus"
    assert subscription.component.metadata == {"natsURL": "nats://x"}
    assert subscription.max_attempts == 3
    assert (subscription.batch_size, subscription.linger_s) == (16, 0.02)


def test_subscription_takes_a_standalone_component():
    made = events(components={"bus": standalone()})

    assert made.desired is not None
    assert made.desired.subscriptions[0].input_name == "in"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, "ComponentNotFound"),
        ({"components": {"bus": standalone(scopes=("other",))}}, "ComponentOutOfScope"),
        (
            {"components": {"bus": standalone()}, "trigger_types": frozenset({"pubsub.kafka"})},
            "ComponentTypeUnsupported",
        ),
        (
            {
                "components": {
                    "bus": standalone(
                        spec=ComponentSpec(
                            type="pubsub.jetstream",
                            metadata=(
                                MetadataItem(name="t", secret_key_ref=SecretKeyRef(name="s", key="k")),
                            ),
                        )
                    )
                }
            },
            "SecretNotFound",
        ),
    ],
)
def test_trigger_that_cannot_be_had_is_a_problem(facts, reason):
    made = events(**facts)

    assert [problem.reason for problem in made.problems] == [reason]
    assert made.desired is None


def test_scope_of_this_function_is_enough():
    assert events(components={"bus": standalone(scopes=("hello-default",))}).problems == ()


def test_topic_component_needs_a_topic():
    subject = function(triggers=Triggers(dapr=(DaprTrigger(name="bus"),)), pubsub={"bus": BUS})

    assert [problem.reason for problem in plan(subject, Facts(), BUILT).problems] == ["TopicMissing"]


def test_metadata_is_resolved_from_secrets_variables_and_placeholders():
    spec = ComponentSpec(
        type="pubsub.jetstream",
        metadata=(
            MetadataItem(name="a", secret_key_ref=SecretKeyRef(name="s", key="k")),
            MetadataItem(name="b", env_ref="TOKEN"),
            MetadataItem(name="c", value="{namespace}-{appID}"),
            MetadataItem(name="d", value=False),
        ),
    )
    made = events(
        components={"bus": standalone(spec=spec)}, secrets={("s", "k"): "x"}, variables={"TOKEN": "y"}
    )

    assert made.desired is not None
    assert made.desired.subscriptions[0].component.metadata == {
        "a": "x",
        "b": "y",
        "c": "default-hello-default",
        "d": "false",
    }


def test_references_name_what_has_to_be_read():
    subject = function(
        triggers=Triggers(dapr=(DaprTrigger(name="bus", topic="t"),)),
        outputs=(DaprOutput(name="inline"), DaprOutput(name="outside")),
        bindings={
            "inline": ComponentSpec(
                type="bindings.http",
                metadata=(MetadataItem(name="u", secret_key_ref=SecretKeyRef(name="s1", key="k")),),
            )
        },
    )

    assert component_names(subject) == {"bus", "outside"}
    assert secret_names(subject, Facts()) == {"s1"}


def test_output_is_bound_by_its_alias():
    web = ComponentSpec(type="bindings.http", metadata=(MetadataItem(name="url", value="http://x"),))
    subject = function(
        outputs=(DaprOutput(name="web", operation="post", output_name="alert", metadata={"h": "1"}),),
        bindings={"web": web},
    )
    (output,) = desired(subject).outputs

    assert (output.name, output.operation, output.metadata) == ("alert", "post", {"h": "1"})


def test_dangling_output_is_accepted_and_listed():
    subject = function(outputs=(DaprOutput(name="target", type="bindings.kafka", operation="create"),))
    made = desired(subject)

    assert made.outputs == ()
    assert [path for path, _ in made.partial] == ["spec.serving.outputs[0].dapr.name"]
    assert made.workload.context["outputs"]["target"]["componentType"] == "bindings.kafka"


# --- context


def test_context_is_the_merged_form():
    subject = function(
        triggers=Triggers(
            http=HttpTrigger(port=9000), dapr=(DaprTrigger(name="bus", topic="t", input_name="in"),)
        ),
        pubsub={"bus": BUS},
        outputs=(DaprOutput(name="bus", topic="out", output_name="o"),),
        hooks=Hooks(pre=("a",), post=("b",)),
        tracing=Tracing(enabled=True, provider=TracingProvider(name="skywalking", oap_server="sw:1")),
    )
    context = desired(subject).workload.context

    assert context["runtime"] == "Async"
    assert context["port"] == "9000"
    assert context["triggers"] == {
        "http": {"port": 9000, "engine": "knative"},
        "dapr": [{"name": "bus", "type": "pubsub.jetstream", "topic": "t", "inputName": "in"}],
    }
    assert context["inputs"]["in"] == {
        "uri": "t",
        "topic": "t",
        "componentName": "bus",
        "componentType": "pubsub.jetstream",
        "metadata": {},
    }
    assert context["outputs"]["o"]["uri"] == "out"
    assert (context["preHooks"], context["postHooks"]) == (["a"], ["b"])
    assert (context["prePlugins"], context["postPlugins"]) == (["a", "skywalking"], ["skywalking", "b"])
    assert context["tracing"]["provider"]["oapServer"] == "sw:1"


def test_context_of_a_plain_http_function_is_small():
    assert desired(function()).workload.context == {
        "name": "hello",
        "version": "latest",
        "runtime": "Knative",
        "port": "8080",
        "triggers": {"http": {"port": 8080, "engine": "knative"}},
    }


# --- unhonoured fields


def test_every_unhonoured_field_is_listed_with_its_path():
    rule = {"matches": [{"path": {"type": "PathPrefix", "value": "/api"}}]}
    subject = replace(
        function(
            triggers=Triggers(
                http=HttpTrigger(
                    port=8080,
                    route=HttpRoute(
                        gateway=GatewayRef(name="g", namespace="n"), rules=({"matches": []}, rule)
                    ),
                )
            ),
            template={
                "volumes": [],
                "containers": [
                    {"name": "function", "imagePullPolicy": "Always", "workingDir": "/"},
                    {"name": "sidecar"},
                    "nonsense",
                ],
            },
            states={"s": None},
            workload_type="Job",
            tracing=Tracing(enabled=True, provider=TracingProvider(name="skywalking")),
        ),
        workload_runtime="WasmEdge",
        image_credentials="push",
        build=Build(source=Source(url="file:///x", revision="main"), builder="img", dockerfile="Dockerfile"),
    )

    listed = plan(subject, Facts(), replace(BUILT, convention="openfunction")).desired
    assert listed is not None
    assert [path for path, _ in listed.partial] == [
        "spec.workloadRuntime",
        "spec.imageCredentials",
        "spec.build.srcRepo.revision",
        "spec.build.builder",
        "spec.build.dockerfile",
        "spec.serving.template.volumes",
        "spec.serving.template.containers[0].workingDir",
        "spec.serving.template.containers[1]",
        "spec.serving.tracing.provider.oapServer",
        "spec.serving.workloadType",
        "spec.serving.states.s",
        "spec.serving.triggers.http.route.gatewayRef",
    ]


def test_plain_function_is_honoured_in_full():
    assert desired(function()).partial == ()


@given(
    st.dictionaries(
        st.sampled_from(["window", "target", "min-scale", "max-scale", "initial-scale", "class"]),
        st.text(max_size=8),
    ),
    st.dictionaries(st.sampled_from(["request-timeout", "body-limit", "max-attempts"]), st.text(max_size=8)),
    st.text(max_size=20),
)
def test_property_planning_never_raises_and_is_repeatable(knative, pelton, url):
    notes = {f"autoscaling.knative.dev/{key}": value for key, value in knative.items()}
    notes |= {f"pelton.dev/{key}": value for key, value in pelton.items()}
    subject = function(url=url, annotations=notes)

    assert plan(subject, Facts(), BUILT) == plan(subject, Facts(), BUILT)


def test_limits_that_the_source_states_hold_until_an_annotation_says_otherwise():
    built = replace(BUILT, options={"request-timeout": "3", "http-event": "alb"})

    stated = plan(function(), Facts(), built).desired
    assert stated is not None and stated.workload.request_timeout_s == 3.0
    assert stated.workload.options == {"request-timeout": "3", "http-event": "alb"}
    said = plan(function(annotations={"pelton.dev/request-timeout": "7s"}), Facts(), built).desired
    assert said is not None and said.workload.request_timeout_s == 7.0


@pytest.mark.parametrize("convention", ["gcf", "openfunction"])
def test_what_only_openfunction_is_handed_is_said_for_all_others(convention):
    wanted = function(triggers=HTTP, hooks=Hooks(pre=("a",)), tracing=Tracing(enabled=True))
    desired = plan(wanted, Facts(), replace(BUILT, convention=convention)).desired

    assert desired is not None
    paths = {path for path, _ in desired.partial}
    expected = {"spec.serving.hooks", "spec.serving.tracing"} if convention == "gcf" else set()
    assert paths & {"spec.serving.hooks", "spec.serving.tracing"} == expected


@pytest.mark.parametrize(
    ("convention", "params", "limit"),
    [
        ("gcf", {}, 0),
        ("lambda", {}, 1),
        ("openwhisk", {}, 1),
        ("lambda", {"AWS_LAMBDA_MAX_CONCURRENCY": "4"}, 4),
        ("openwhisk", {"AWS_LAMBDA_MAX_CONCURRENCY": "4"}, 1),
        ("lambda", {"AWS_LAMBDA_MAX_CONCURRENCY": "x"}, 1),
    ],
)
def test_conventions_with_state_per_process_take_one_invocation_at_a_time(convention, params, limit):
    made = plan(function(params=params), Facts(), replace(BUILT, convention=convention)).desired

    assert made is not None
    assert made.workload.concurrency == limit
    assert made.scaling.target == (limit or 100)
