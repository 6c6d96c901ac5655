from datetime import UTC, datetime

import pytest

from pelton.apiserver.apply import FieldConflictError, server_side_apply

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def config(**spec):
    return {"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "x"}, "spec": spec}


def apply(old, wanted, manager="me", *, force=False):
    return server_side_apply(
        old or {"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "x"}},
        wanted,
        manager=manager,
        force=force,
        subresource="",
        now=NOW,
        where="ks.g/x",
    )


def test_first_apply_takes_ownership_of_its_leaves_only():
    result = apply(None, config(a=1, b={"c": [1], "d": {}}))

    assert result["spec"] == {"a": 1, "b": {"c": [1], "d": {}}}
    assert result["metadata"]["managedFields"] == [
        {
            "manager": "me",
            "operation": "Apply",
            "apiVersion": "g/v1",
            "time": "2026-01-02T00:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {"f:a": {}, "f:b": {"f:c": {}, "f:d": {}}}},
        }
    ]


def test_field_left_out_by_its_only_owner_goes_and_a_shared_one_stays():
    both = apply(apply(None, config(a=1, b=2)), config(b=2), "you")

    without_a = apply(both, config(c=3))

    assert without_a["spec"] == {"b": 2, "c": 3}


def test_emptied_mapping_goes_with_its_last_field():
    assert apply(apply(None, config(a={"x": {"y": 1}}, b=1)), config(b=1))["spec"] == {"b": 1}


def test_same_value_by_two_managers_is_shared():
    result = apply(apply(None, config(a=1)), config(a=1), "you")

    assert [entry["manager"] for entry in result["metadata"]["managedFields"]] == ["me", "you"]


def test_contested_field_is_refused_with_manager_and_path():
    with pytest.raises(FieldConflictError) as caught:
        apply(apply(None, config(a={"b": 1})), config(a={"b": 2}), "you")

    assert caught.value.causes == (("me", ".spec.a.b"),)


def test_force_moves_ownership_and_drops_managers_that_own_nothing():
    result = apply(apply(None, config(a=1)), config(a=2), "you", force=True)

    assert result["spec"] == {"a": 2}
    assert [entry["manager"] for entry in result["metadata"]["managedFields"]] == ["you"]


def test_leaf_replaced_by_a_mapping_keeps_the_new_mapping():
    assert apply(apply(None, config(a=1)), config(a={"b": 1}))["spec"] == {"a": {"b": 1}}
    assert apply(apply(None, config(a={"b": 1})), config(a=1))["spec"] == {"a": 1}


def test_repeated_apply_changes_nothing():
    once = apply(None, config(a=1))

    assert apply(once, config(a=1)) == once
