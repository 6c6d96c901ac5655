"""Rules, selectors and conditions as tables."""

import pytest

from pelton.apiserver.registry import Row
from pelton.apiserver.webhooks.matching import compile_condition, conditions_hold, rule_matches, selects
from pelton.errors import CelCostError, CelEvaluateError

PODS = Row(group="", version="v1", kind="Pod", plural="pods", singular="pod")
NODES = Row(group="", version="v1", kind="Node", plural="nodes", singular="node", namespaced=False)
DEPLOYMENTS = Row(group="apps", version="v1", kind="Deployment", plural="deployments", singular="deployment")
ALL = {"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}


@pytest.mark.parametrize(
    ("change", "row", "operation", "subresource", "expected"),
    [
        ({}, PODS, "CREATE", "", True),
        ({}, PODS, "CREATE", "status", True),
        ({"resources": ["*"]}, PODS, "CREATE", "", True),
        ({"resources": ["*"]}, PODS, "UPDATE", "status", False),
        ({"resources": ["pods"]}, PODS, "UPDATE", "status", False),
        ({"resources": ["pods/status"]}, PODS, "UPDATE", "status", True),
        ({"resources": ["pods/status"]}, PODS, "UPDATE", "", False),
        ({"resources": ["pods/*"]}, PODS, "UPDATE", "status", True),
        ({"resources": ["pods/*"]}, PODS, "UPDATE", "", True),
        ({"resources": ["*/scale"]}, DEPLOYMENTS, "UPDATE", "scale", True),
        ({"resources": ["*/scale"]}, DEPLOYMENTS, "UPDATE", "status", False),
        ({"resources": ["services"]}, PODS, "CREATE", "", False),
        ({"operations": ["CREATE", "UPDATE"]}, PODS, "DELETE", "", False),
        ({"operations": ["CREATE", "UPDATE"]}, PODS, "UPDATE", "", True),
        ({"apiGroups": [""]}, DEPLOYMENTS, "CREATE", "", False),
        ({"apiGroups": ["apps"]}, DEPLOYMENTS, "CREATE", "", True),
        ({"apiVersions": ["v1beta1"]}, PODS, "CREATE", "", False),
        ({"scope": "Namespaced"}, PODS, "CREATE", "", True),
        ({"scope": "Namespaced"}, NODES, "CREATE", "", False),
        ({"scope": "Cluster"}, NODES, "CREATE", "", True),
        ({"scope": "Cluster"}, PODS, "CREATE", "", False),
    ],
)
def test_rule_names_a_request_or_not(change, row, operation, subresource, expected):
    assert rule_matches({**ALL, **change}, row, operation, subresource) is expected


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ({}, {}, True),
        (None, {"a": "1"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "2"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, {"a": "2"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {"a": "1"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": ""}, False),
        (
            {"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]},
            {"a": "1"},
            False,
        ),
    ],
)
def test_selector_selects_labels_or_not(selector, labels, expected):
    assert selects(selector, labels) is expected


def conditions(*expressions):
    return [compile_condition(f"c{number}", text) for number, text in enumerate(expressions)]


@pytest.mark.parametrize(
    ("expressions", "expected"),
    [
        ([], True),
        (["true", "object.a == 1"], True),
        (["true", "object.a == 2"], False),
        (["object.nosuch == 1", "false"], False),
        (["false", "object.nosuch == 1"], False),
    ],
)
def test_conditions_all_have_to_hold_and_one_false_decides(expressions, expected):
    assert conditions_hold(conditions(*expressions), {"object": {"a": 1}}) is expected


def test_condition_without_a_value_is_told_by_name():
    with pytest.raises(CelEvaluateError, match="expression 'c1': no such key: nosuch"):
        conditions_hold(conditions("true", "object.nosuch == 1"), {"object": {}})


def test_conditions_share_one_budget():
    dear, data = "object.contains(object)", {"object": "x" * 12_700}  # costs 1270 * 1270

    assert conditions_hold(conditions(dear), data) is True
    with pytest.raises(CelCostError, match="out of cost budget at 'c1'"):
        conditions_hold(conditions(dear, dear), data)
