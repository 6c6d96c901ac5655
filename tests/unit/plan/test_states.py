"""States of a Function: which stores it may use, under which prefix, and what the context says about them."""

from dataclasses import replace

import pytest

from pelton.model.build import BuildResult
from pelton.model.component import ComponentResource, ComponentSpec, MetadataItem, SecretKeyRef
from pelton.model.desired import Component
from pelton.model.function import Build, Function, HttpTrigger, Serving, Source, Triggers
from pelton.plan.eventing import Facts
from pelton.plan.function import plan
from pelton.plan.states import key_prefix

SQLITE = ComponentSpec(
    type="state.sqlite", metadata=(MetadataItem(name="connectionString", value="{namespace}.db"),)
)
KNOWN = Facts(state_types=frozenset({"state.sqlite", "state.in-memory"}))


def desired(states, facts=KNOWN):
    function = Function(
        namespace="shop",
        name="f",
        build=Build(source=Source(url="file:///x")),
        serving=Serving(triggers=Triggers(http=HttpTrigger(port=8080)), states=states),
    )
    built = BuildResult(bundle="/b", digest="d", source="main.py", convention="openfunction")
    planned = plan(function, facts, built)
    assert planned.problems == ()
    assert planned.desired is not None
    return planned.desired


def resource(name="db", **more):
    return ComponentResource(namespace="shop", name=name, spec=SQLITE, **more)


def test_inline_states_come_in_written_order_with_their_settings_filled_in():
    found = desired({"b": SQLITE, "a": ComponentSpec(type="state.in-memory")})

    assert [(s.name, s.component.type, s.prefix) for s in found.states] == [
        ("b", "state.sqlite", "f-shop||"),
        ("a", "state.in-memory", "f-shop||"),
    ]
    assert found.states[0].component.metadata == {"connectionString": "shop.db"}
    assert found.partial == ()


def test_standalone_component_is_found_by_the_states_name():
    found = desired({"db": None}, replace(KNOWN, components={"db": resource()}))

    assert found.states[0].component.name == "db"
    assert found.workload.context["states"] == {
        "db": {"componentName": "db", "componentType": "state.sqlite"}
    }


@pytest.mark.parametrize(
    ("states", "components", "says"),
    [
        ({"db": None}, {}, 'no component "db"'),
        ({"db": None}, {"db": resource(scopes=("g-shop",))}, "limited to other apps"),
        (
            {"db": ComponentSpec(type="state.redis")},
            {},
            "state.redis cannot keep state here; types that can: state.in-memory, state.sqlite",
        ),
        (
            {
                "db": ComponentSpec(
                    type="state.sqlite",
                    metadata=(MetadataItem(name="connectionString", secret_key_ref=SecretKeyRef(name="s")),),
                )
            },
            {},
            'Secret "s"',
        ),
        (
            {
                "db": ComponentSpec(
                    type="state.in-memory", metadata=(MetadataItem(name="keyPrefix", value="a||b"),)
                )
            },
            {},
            "keyPrefix contains",
        ),
        (
            {
                "db": ComponentSpec(
                    type="state.in-memory", metadata=(MetadataItem(name="primaryEncryptionKey", value="00"),)
                )
            },
            {},
            "`primaryEncryptionKey` is not served",
        ),
    ],
    ids=["absent", "scope", "type", "secret", "prefix", "encryption"],
)
def test_state_that_cannot_be_used_is_listed_with_what_is_missing(states, components, says):
    found = desired(states, replace(KNOWN, components=components))

    assert found.states == ()
    assert [path for path, _ in found.partial] == ["spec.serving.states.db"]
    assert says in found.partial[0][1]


@pytest.mark.parametrize(
    ("given", "prefix"),
    [
        ({}, "f-shop||"),
        ({"keyPrefix": "appid"}, "f-shop||"),
        ({"KEYPREFIX": "name"}, "db||"),
        ({"keyPrefix": "namespace"}, "shop.f-shop||"),
        ({"keyPrefix": "none"}, ""),
        ({"keyPrefix": "mine"}, "mine||"),
    ],
    ids=str,
)
def test_key_prefix_follows_the_component(given, prefix):
    component = Component(namespace="shop", name="db", type="state.sqlite", metadata=given)

    assert key_prefix(component, "shop", "f") == prefix
