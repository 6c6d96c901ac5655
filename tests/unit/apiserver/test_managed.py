"""Ownership of fields: server-side apply and tracked updates."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.apiserver import fields
from pelton.apiserver.managed import FieldConflictError, applied, updated
from pelton.apiserver.registry import Row

LAST = "kubectl.kubernetes.io/last-applied-configuration"
NOW = datetime(2026, 1, 2, tzinfo=UTC)
STRING = {"type": "string"}
SCHEMA = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "a": STRING,
                "b": STRING,
                "box": {"type": "object", "properties": {"x": STRING, "y": STRING}},
                "map": {"type": "object", "additionalProperties": STRING},
                "whole": {
                    "type": "object",
                    "additionalProperties": STRING,
                    "x-kubernetes-map-type": "atomic",
                },
                "list": {"type": "array", "items": STRING},
                "set": {"type": "array", "items": STRING, "x-kubernetes-list-type": "set"},
                "ports": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["port", "protocol"],
                    "items": {
                        "type": "object",
                        "properties": {
                            "port": {"type": "integer"},
                            "protocol": {"type": "string", "default": "TCP"},
                            "name": STRING,
                            "app": STRING,
                        },
                    },
                },
            },
        },
        "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
    },
}
ROW = Row(group="g", version="v1", kind="K", plural="ks", singular="k", schema=SCHEMA, status=True)
LOOSE = Row(group="g", version="v1", kind="K", plural="ks", singular="k")


def config(**spec):
    return {"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "x"}, "spec": spec}


def apply(live, wanted, manager="me", *, force=False, row=ROW, subresource="", now=NOW):
    return applied(
        row,
        live,
        wanted,
        manager=manager,
        force=force,
        subresource=subresource,
        now=now,
        where="ks.g/x",
    )


def update(live, new, manager="you", *, subresource="", now=NOW):
    return updated(ROW, live, new, manager=manager, subresource=subresource, now=now)


def owned(obj, manager):
    return [
        entry["fieldsV1"] for entry in obj["metadata"].get("managedFields", ()) if entry["manager"] == manager
    ]


def paths(obj, manager):
    found = [fields.shown(path) for tree in owned(obj, manager) for path in fields.from_v1(tree)]
    return sorted(found)


def conflicts(live, wanted, **options):
    with pytest.raises(FieldConflictError) as caught:
        apply(live, wanted, **options)
    return caught.value


def test_first_apply_owns_what_it_says_and_nothing_else():
    result = apply(None, config(a="1", box={"x": "2"}, list=["i"]))

    assert result["spec"] == {"a": "1", "box": {"x": "2"}, "list": ["i"]}
    assert result["metadata"]["managedFields"] == [
        {
            "manager": "me",
            "operation": "Apply",
            "apiVersion": "g/v1",
            "time": "2026-01-02T00:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {"f:a": {}, "f:box": {"f:x": {}}, "f:list": {}}},
        }
    ]


def test_items_of_keyed_lists_and_sets_have_identities():
    wanted = config(ports=[{"port": 80, "name": "web"}], set=["s"], map={"k": "v"}, whole={"k": "v"})

    assert owned(apply(None, wanted), "me") == [
        {
            "f:spec": {
                "f:map": {"f:k": {}},
                "f:ports": {'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:name": {}, "f:port": {}}},
                "f:set": {'v:"s"': {}},
                "f:whole": {},
            }
        }
    ]


def test_repeated_apply_changes_nothing_not_even_the_time():
    first = apply(None, config(a="1", ports=[{"port": 80}]))

    assert apply(first, config(a="1", ports=[{"port": 80}]), now=NOW + timedelta(1)) is first


def test_field_that_its_only_owner_leaves_out_goes():
    live = apply(None, config(a="1", b="2", map={"k": "v", "l": "w"}))

    result = apply(live, config(a="1", map={"l": "w"}))

    assert result["spec"] == {"a": "1", "map": {"l": "w"}}
    assert paths(result, "me") == [".spec.a", ".spec.map.l"]


def test_field_that_another_owns_too_stays():
    live = apply(apply(None, config(a="1", b="2")), config(a="1"), "you")

    result = apply(live, config(b="2"))

    assert result["spec"] == {"a": "1", "b": "2"}
    assert (paths(result, "me"), paths(result, "you")) == ([".spec.b"], [".spec.a"])


def test_appliers_of_one_keyed_list_see_only_their_items():
    live = apply(None, config(ports=[{"port": 80, "name": "web"}, {"port": 443, "name": "tls"}]))
    both = apply(live, config(ports=[{"port": 443, "app": "h2"}, {"port": 8080}]), "you")
    mine = apply(both, config(ports=[{"port": 80, "name": "web"}]))

    assert both["spec"]["ports"] == [
        {"port": 80, "name": "web"},
        {"port": 443, "name": "tls", "app": "h2"},
        {"port": 8080},
    ]
    assert mine["spec"]["ports"] == [{"port": 80, "name": "web"}, {"port": 443, "app": "h2"}, {"port": 8080}]


def test_sets_are_joined_and_left_item_by_item():
    live = apply(apply(None, config(set=["a", "b"])), config(set=["b", "c"]), "you")

    assert live["spec"]["set"] == ["a", "b", "c"]
    assert apply(live, config(set=["a"]))["spec"]["set"] == ["a", "b", "c"]
    assert apply(live, config())["spec"]["set"] == ["b", "c"]


@pytest.mark.parametrize(
    ("field", "mine", "yours", "path"),
    [
        ("a", "1", "2", ".spec.a"),
        ("box", {"x": "1"}, {"x": "2"}, ".spec.box.x"),
        ("list", ["1"], ["2"], ".spec.list"),
        ("whole", {"k": "1"}, {"l": "2"}, ".spec.whole"),
        ("map", {"k": "1"}, {"k": "2"}, ".spec.map.k"),
        (
            "ports",
            [{"port": 80, "name": "a"}],
            [{"port": 80, "name": "b"}],
            '.spec.ports[port=80,protocol="TCP"].name',
        ),
    ],
)
def test_contested_field_conflicts_and_force_takes_it(field, mine, yours, path):
    live = apply(None, config(**{field: mine}))

    error = conflicts(live, config(**{field: yours}), manager="you")
    forced = apply(live, config(**{field: yours}), "you", force=True)

    assert error.causes == (('"me"', path),)
    assert error.message == f'Apply failed with 1 conflict: conflict with "me": {path}'
    assert forced["spec"][field] == yours
    assert path not in paths(forced, "me")
    assert path in paths(forced, "you")


def test_same_value_is_shared_and_no_conflict():
    live = apply(apply(None, config(a="1")), config(a="1"), "you")

    assert (paths(live, "me"), paths(live, "you")) == ([".spec.a"], [".spec.a"])


def test_several_conflicts_are_told_by_owner():
    live = apply(apply(None, config(a="1", b="1")), config(map={"k": "1"}), "she")

    error = conflicts(live, config(a="2", b="2", map={"k": "2"}), manager="you")

    assert error.message == (
        'Apply failed with 3 conflicts: conflicts with "me":\n- .spec.a\n- .spec.b\n'
        'conflicts with "she":\n- .spec.map.k'
    )


def test_update_takes_what_it_changes_from_its_owner():
    live = apply(None, config(a="1", b="2", ports=[{"port": 80, "name": "n"}]))
    new = {**live, "spec": {"a": "9", "ports": [{"port": 80, "name": "n", "app": "h2"}]}}

    result = update(live, new)

    assert (
        paths(result, "me")
        == [
            ".spec.a",
            '.spec.ports[port=80,protocol="TCP"]',
            '.spec.ports[port=80,protocol="TCP"].name',
            '.spec.ports[port=80,protocol="TCP"].port',
        ][1:]
    )
    assert paths(result, "you") == [".spec.a", '.spec.ports[port=80,protocol="TCP"].app']


def test_apply_after_an_update_conflicts_with_the_updater():
    live = apply(None, config(a="1"))
    live = update(live, {**live, "spec": {"a": "9"}})

    error = conflicts(live, config(a="1"))

    assert error.causes == (('"you" using g/v1 at 2026-01-02T00:00:00Z', ".spec.a"),)


def test_create_owns_everything_it_sent():
    created = update(None, {**config(a="1", map={}), "metadata": {"name": "x", "labels": {"l": "v"}}})

    assert owned(created, "you") == [
        {
            "f:metadata": {"f:labels": {".": {}, "f:l": {}}},
            "f:spec": {".": {}, "f:a": {}, "f:map": {}},
        }
    ]


def test_first_apply_of_an_object_that_nobody_tracked_respects_what_is_there():
    live = {**config(a="1", b="2"), "metadata": {"name": "x", "uid": "u"}}

    error = conflicts(live, config(a="2"))
    same = apply(live, config(a="1"))

    assert error.causes[0][0].startswith('"before-first-apply"')
    assert paths(same, "before-first-apply") == [".spec.a", ".spec.b"]


def test_update_of_an_object_that_nobody_tracked_notes_nothing():
    live = config(a="1")

    assert "managedFields" not in update(live, config(a="2"))["metadata"]


@pytest.mark.parametrize("empty", [[], [{}]])
def test_emptied_managed_fields_begin_anew(empty):
    live = apply(None, config(a="1"))
    new = {**live, "metadata": {**live["metadata"], "managedFields": empty}}

    assert "managedFields" not in update(live, new)["metadata"]


def test_status_is_owned_through_its_subresource_only():
    live = apply(None, {**config(a="1"), "status": {"ready": True}})
    told = apply(live, {**config(a="9"), "status": {"ready": True}}, "ctl", subresource="status")

    assert "status" not in live or live["status"] == {}
    assert told["spec"] == {"a": "1"}
    assert told["status"] == {"ready": True}
    entry = next(e for e in told["metadata"]["managedFields"] if e["manager"] == "ctl")
    assert (entry["subresource"], entry["fieldsV1"]) == ("status", {"f:status": {"f:ready": {}}})


def test_identity_is_owned_by_nobody():
    live = apply(None, {**config(a="1"), "metadata": {"name": "x", "namespace": "n", "labels": {"l": "v"}}})

    assert paths(live, "me") == [".metadata.labels.l", ".spec.a"]


def test_without_a_schema_mappings_have_parts_and_lists_are_one_value():
    live = apply(None, config(deep={"a": 1, "b": {"c": 2}}, list=[{"name": "x"}]), row=LOOSE)
    result = apply(live, config(deep={"a": 1}), row=LOOSE)

    assert paths(live, "me") == [
        ".spec",
        ".spec.deep",
        ".spec.deep.a",
        ".spec.deep.b",
        ".spec.deep.b.c",
        ".spec.list",
    ]
    assert result["spec"] == {"deep": {"a": 1}}


def test_many_updaters_become_one_entry():
    live = apply(None, config(a="0"))
    for number in range(15):
        spec = {"map": {**live["spec"].get("map", {}), f"k{number:02}": "v"}}
        new = {**live, "spec": {**live["spec"], **spec}}
        live = update(live, new, f"m{number:02}", now=NOW + timedelta(seconds=number))

    managers = [entry["manager"] for entry in live["metadata"]["managedFields"]]
    assert managers.count("ancient-changes") == 1
    assert len([name for name in managers if name != "me"]) == 10
    assert {f".spec.map.k{n:02}" for n in range(6)} <= set(paths(live, "ancient-changes"))


def test_null_is_a_field_left_out():
    live = apply(None, config(a="1", b="2"))

    assert apply(live, config(a="1", b=None))["spec"] == {"a": "1"}


def _port(item: Any) -> Any:
    return item["port"]


def last_applied(**spec):
    """Return an object as kubectl's client-side apply leaves it."""
    note = {LAST: json.dumps(config(**spec))}
    return update(
        None, {**config(**spec), "metadata": {"name": "x", "annotations": note}}, "kubectl-client-side-apply"
    )


def test_kubectl_takes_over_what_it_applied_from_the_client():
    result = apply(last_applied(a="1", b="1"), config(a="2"), "kubectl")

    assert result["spec"] == {"a": "2", "b": "1"}
    assert json.loads(result["metadata"]["annotations"][LAST])["spec"] == {"a": "2"}


def test_kubectl_does_not_take_over_what_others_changed_since():
    live = last_applied(a="1")
    live = update(live, {**live, "spec": {"a": "9"}})

    assert conflicts(live, config(a="2"), manager="kubectl").causes[0][1] == ".spec.a"
    assert conflicts(last_applied(a="1"), config(a="2"), manager="other").causes[0][1] == ".spec.a"


texts = st.sampled_from("pqr")
specs: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {},
    optional={
        "a": texts,
        "b": texts,
        "box": st.dictionaries(st.sampled_from("xy"), texts, min_size=1),
        "map": st.dictionaries(st.sampled_from("klm"), texts, min_size=1),
        "whole": st.dictionaries(st.sampled_from("kl"), texts, min_size=1),
        "list": st.lists(texts, min_size=1, max_size=3),
        "set": st.lists(texts, min_size=1, unique=True),
        "ports": st.lists(
            st.fixed_dictionaries({"port": st.integers(1, 3)}, optional={"name": texts}),
            min_size=1,
            unique_by=_port,
        ),
    },
)


@given(specs)
def test_fields_v1_keeps_every_set(spec):
    found = fields.fields_of(SCHEMA, config(**spec))

    assert fields.from_v1(fields.to_v1(found)) == found


@given(specs, specs)
def test_apply_gives_what_was_asked_and_repeats_without_effect(first, second):
    live = apply(None, config(**first), "other")
    once = apply(live, config(**second), force=True)

    assert apply(once, config(**second)) is once
    for key, value in second.items():
        if key in ("a", "b", "list", "whole"):
            assert once["spec"][key] == value


@given(specs)
def test_what_its_only_applier_gives_up_is_gone(spec):
    live = apply(None, config(**spec))

    left = apply(live, {key: value for key, value in config().items() if key != "spec"})

    assert not left.get("spec")


@given(specs, specs)
def test_comparison_is_empty_only_for_equals(old, new):
    changes = fields.compare(SCHEMA, config(**old), config(**new))

    reordered = {"set", "ports"}  # the order of their items is no difference
    plain = {k: v for k, v in old.items() if k not in reordered} != {
        k: v for k, v in new.items() if k not in reordered
    }
    assert not plain or changes.added or changes.removed or changes.modified
    if old == new:
        assert not (changes.added or changes.removed or changes.modified)
