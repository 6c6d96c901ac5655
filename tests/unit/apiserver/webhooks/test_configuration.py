"""Every rule about webhook configurations, with the path and the sentence of its fault."""

import copy
from typing import Any

import pytest

from pelton.apiserver.webhooks.configuration import MUTATING, VALIDATING

GOOD: Any = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "MutatingWebhookConfiguration",
    "metadata": {"name": "x"},
    "webhooks": [
        {
            "name": "a.example.com",
            "clientConfig": {"url": "https://127.0.0.1:9443/x"},
            "rules": [
                {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
            ],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }
    ],
}


def faults(row=MUTATING, **changes):
    obj = copy.deepcopy(GOOD)
    for key, value in changes.items():
        if value is None:
            del obj["webhooks"][0][key]
        else:
            obj["webhooks"][0][key] = value
    filled = row.checks.default(obj)
    return [f"{c.field}: {c.message}" for c in row.checks.check(filled, None, subresource="").causes]


def rule(**changes):
    return [{**GOOD["webhooks"][0]["rules"][0], **changes}]


def test_defaults_are_those_of_kubernetes():
    (hook,) = MUTATING.checks.default(copy.deepcopy(GOOD))["webhooks"]

    shown = {
        key: hook[key] for key in ("failurePolicy", "matchPolicy", "timeoutSeconds", "reinvocationPolicy")
    }
    assert shown == {
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "timeoutSeconds": 10,
        "reinvocationPolicy": "Never",
    }
    assert (hook["namespaceSelector"], hook["objectSelector"], hook["rules"][0]["scope"]) == ({}, {}, "*")
    assert faults() == []
    assert faults(VALIDATING) == []


CASES = [
    (
        {"name": "a.b"},
        'webhooks[0].name: Invalid value: "a.b": should be a domain with at least three segments '
        "separated by dots",
    ),
    (
        {"clientConfig": {}},
        "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
    ),
    (
        {"clientConfig": {"url": "https://a", "service": {"namespace": "n", "name": "s"}}},
        "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
    ),
    (
        {"clientConfig": {"url": "http://a"}},
        "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; "
        "desired format: "
        '"https://host[/path]"',
    ),
    (
        {"clientConfig": {"url": "https://u@a"}},
        'webhooks[0].clientConfig.url: Invalid value: "": user information is not permitted in the URL',
    ),
    (
        {"clientConfig": {"url": "https://a?x=1"}},
        'webhooks[0].clientConfig.url: Invalid value: "x=1": query parameters are not permitted in the URL',
    ),
    (
        {"clientConfig": {"url": "https://a#x"}},
        'webhooks[0].clientConfig.url: Invalid value: "x": fragments are not permitted in the URL',
    ),
    (
        {"clientConfig": {"service": {"namespace": "n", "name": "s", "port": 70000}}},
        "webhooks[0].clientConfig.service.port: Invalid value: 70000: port is not valid: must be between "
        "1 and 65535, inclusive",
    ),
    (
        {"clientConfig": {"service": {"namespace": "n", "name": "s", "path": "x"}}},
        "webhooks[0].clientConfig.service.path: Invalid value: \"x\": must start with a '/'",
    ),
    (
        {"clientConfig": {"service": {"namespace": "n", "name": "s", "path": "/a//b"}}},
        'webhooks[0].clientConfig.service.path: Invalid value: "/a//b": segment[1] may not be empty',
    ),
    (
        {"sideEffects": None},
        "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
    ),
    (
        {"sideEffects": "Some"},
        'webhooks[0].sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun"',
    ),
    (
        {"timeoutSeconds": 31},
        "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
    ),
    (
        {"admissionReviewVersions": None},
        "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
    ),
    (
        {"admissionReviewVersions": ["v9"]},
        'webhooks[0].admissionReviewVersions: Invalid value: ["v9"]: must include at least one of v1, '
        "v1beta1",
    ),
    (
        {"failurePolicy": "Maybe"},
        'webhooks[0].failurePolicy: Unsupported value: "Maybe": supported values: "Fail", "Ignore"',
    ),
    (
        {"matchPolicy": "Loose"},
        'webhooks[0].matchPolicy: Unsupported value: "Loose": supported values: "Equivalent", "Exact"',
    ),
    (
        {"reinvocationPolicy": "Always"},
        'webhooks[0].reinvocationPolicy: Unsupported value: "Always": supported values: "IfNeeded", "Never"',
    ),
    (
        {"rules": rule(operations=["*", "CREATE"])},
        'webhooks[0].rules[0].operations: Invalid value: ["*","CREATE"]: if \'*\' is present, must not '
        "specify other operations",
    ),
    (
        {"rules": rule(operations=["PATCH"])},
        'webhooks[0].rules[0].operations[0]: Unsupported value: "PATCH": supported values: "*", '
        '"CONNECT", "CREATE", '
        '"DELETE", "UPDATE"',
    ),
    ({"rules": rule(apiGroups=[])}, "webhooks[0].rules[0].apiGroups: Required value"),
    (
        {"rules": rule(resources=["*/*", "pods"])},
        'webhooks[0].rules[0].resources: Invalid value: ["*/*","pods"]: if \'*/*\' is present, must not '
        "specify other resources",
    ),
    (
        {"rules": rule(scope="Global")},
        'webhooks[0].rules[0].scope: Unsupported value: "Global": supported values: "*", "Cluster", '
        '"Namespaced"',
    ),
    (
        {"objectSelector": {"matchExpressions": [{"key": "a", "operator": "Like", "values": []}]}},
        'webhooks[0].objectSelector.matchExpressions[0].operator: Invalid value: "Like": not a valid '
        "selector operator",
    ),
    (
        {"matchConditions": [{"name": "a", "expression": "object."}]},
        'webhooks[0].matchConditions[0].expression: Invalid value: "object.": compilation failed: ERROR: '
        "<input>:1:8: "
        "Syntax error: mismatched input '<EOF>' expecting IDENTIFIER\n | object.\n | .......^",
    ),
    (
        {"matchConditions": [{"name": "a", "expression": "request.nosuch == 1"}]},
        'webhooks[0].matchConditions[0].expression: Invalid value: "request.nosuch == 1": compilation '
        "failed: "
        "ERROR: <input>:1:8: undefined field 'nosuch'\n | request.nosuch == 1\n | .......^",
    ),
    (
        {"matchConditions": [{"name": f"n{n}", "expression": "true"} for n in range(65)]},
        "webhooks[0].matchConditions: Too many: 65: must have at most 64 items",
    ),
]


@pytest.mark.parametrize(("changes", "fault"), CASES)
def test_rule_of_a_configuration_is_told(changes, fault):
    assert faults(**changes) == [fault]


def test_bundle_that_is_no_certificate_is_refused():
    (fault,) = faults(clientConfig={"url": "https://a", "caBundle": "aGk="})

    assert fault.startswith(
        "webhooks[0].clientConfig.caBundle: Invalid value: unable to load root certificates"
    )
