"""Every rule about CustomResourceDefinitions, with the path and the sentence of its fault."""

import copy

import pytest

from pelton.apiserver.crds import ROW

SCHEMA = {
    "type": "object",
    "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer"}}}},
}
GOOD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "things.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": SCHEMA}}],
    },
}


def definition(change=None):
    obj = copy.deepcopy(GOOD)
    if change:
        change(obj)
    return ROW.checks.default(obj)


def faults(change=None, old=None, subresource=""):
    found = ROW.checks.check(definition(change), old, subresource=subresource)
    return [f"{cause.field}: {cause.message}" for cause in found.causes]


def put(path, value):
    """Return a change that sets a value; numbers are positions in lists."""

    def change(obj):
        at = obj
        for key in path[:-1]:
            at = at[key] if isinstance(key, int) else at.setdefault(key, {})
        at[path[-1]] = value

    return change


def version(key, value):
    return put(["spec", "versions", 0, key], value)


def test_names_and_conversion_have_defaults():
    spec = definition()["spec"]

    assert spec["names"] == {
        "plural": "things",
        "kind": "Thing",
        "singular": "thing",
        "listKind": "ThingList",
    }
    assert spec["conversion"] == {"strategy": "None"}
    assert faults() == []


CASES = [
    (
        put(["metadata", "name"], "x"),
        'metadata.name: Invalid value: "x": must be spec.names.plural+"."+spec.group',
    ),
    (
        put(["spec", "scope"], "Global"),
        'spec.scope: Unsupported value: "Global": supported values: "Cluster", "Namespaced"',
    ),
    (
        put(["spec", "names", "singular"], "A"),
        'spec.names.singular: Invalid value: "A": must be a DNS-1035 label',
    ),
    (
        put(["spec", "names", "listKind"], "Thing"),
        'spec.names.listKind: Invalid value: "Thing": kind and listKind may not be the same',
    ),
    (
        put(["spec", "names", "shortNames"], ["T"]),
        'spec.names.shortNames[0]: Invalid value: "T": must be a DNS-1035 label',
    ),
    (
        put(["spec", "preserveUnknownFields"], True),
        "spec.preserveUnknownFields: Invalid value: true: must be false: write "
        "x-kubernetes-preserve-unknown-fields in the "
        "schema",
    ),
    (
        put(["spec", "versions"], []),
        "spec.versions: Required value: must have exactly one version marked as storage version",
    ),
    (
        version("storage", False),
        'spec.versions: Invalid value: ["v1"]: must have exactly one version marked as storage version',
    ),
    (version("name", "V1"), 'spec.versions[0].name: Invalid value: "V1": must be a DNS-1035 label'),
    (version("schema", {}), "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required"),
    (
        version("schema", {"openAPIV3Schema": {"type": "object", "properties": {"a": {}}}}),
        "spec.versions[0].schema.openAPIV3Schema.properties[a].type: Required value: must not be empty "
        "for specified object "
        "fields",
    ),
    (
        version("schema", {"openAPIV3Schema": {**SCHEMA, "x-kubernetes-validations": [{"rule": "self.zz"}]}}),
        "spec.versions[0].schema.openAPIV3Schema.x-kubernetes-validations[0].rule: Invalid value: "
        '"self.zz": compilation '
        "failed: ERROR: <input>:1:5: undefined field 'zz'\n | self.zz\n | ....^",
    ),
    (
        version("deprecationWarning", "old"),
        'spec.versions[0].deprecationWarning: Invalid value: "old": can only be set for deprecated versions',
    ),
    (
        version(
            "subresources", {"scale": {"specReplicasPath": ".status.n", "statusReplicasPath": ".status.n"}}
        ),
        'spec.versions[0].subresources.scale.specReplicasPath: Invalid value: ".status.n": should be a '
        "json path under .spec",
    ),
    (
        version("additionalPrinterColumns", [{"name": "A", "type": "text", "jsonPath": ".a"}]),
        'spec.versions[0].additionalPrinterColumns[0].type: Unsupported value: "text": supported values: '
        '"integer", '
        '"number", "string", "boolean", "date"',
    ),
    (
        version("additionalPrinterColumns", [{"name": "A", "type": "string", "jsonPath": "a b"}]),
        'spec.versions[0].additionalPrinterColumns[0].jsonPath: Invalid value: "a b": is an invalid path',
    ),
    (
        version("selectableFields", [{"jsonPath": ".spec.zz"}]),
        'spec.versions[0].selectableFields[0].jsonPath: Invalid value: ".spec.zz": must point to a field '
        "of type string, "
        "boolean or integer in the schema",
    ),
    (
        version("selectableFields", [{"jsonPath": f".spec.n{n}"} for n in range(9)]),
        "spec.versions[0].selectableFields: Too many: 9: must have at most 8 items",
    ),
    (
        put(["spec", "conversion"], {"strategy": "Magic"}),
        'spec.conversion.strategy: Unsupported value: "Magic": supported values: "None", "Webhook"',
    ),
    (
        put(["spec", "conversion"], {"strategy": "Webhook"}),
        "spec.conversion.webhook.clientConfig: Required value: required when strategy is set to Webhook",
    ),
    (
        put(
            ["spec", "conversion"], {"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://a"}}}
        ),
        "spec.conversion.webhook.conversionReviewVersions: Required value",
    ),
    (
        put(["spec", "conversion"], {"strategy": "None", "webhook": {}}),
        "spec.conversion.webhook: Forbidden: should not be set when strategy is not set to Webhook",
    ),
]


@pytest.mark.parametrize(("change", "fault"), CASES)
def test_rule_of_a_definition_is_told(change, fault):
    assert faults(change) == [fault]


def test_every_fault_is_told_at_once():
    def change(obj):
        obj["metadata"]["name"] = "x"
        obj["spec"]["group"] = "nodots"
        obj["spec"]["versions"].append(copy.deepcopy(obj["spec"]["versions"][0]))

    assert faults(change) == [
        'spec.group: Invalid value: "nodots": should be a domain with at least one dot',
        'metadata.name: Invalid value: "x": must be spec.names.plural+"."+spec.group',
        'spec.versions: Invalid value: ["v1","v1"]: must have exactly one version marked as storage version',
        'spec.versions[1].name: Duplicate value: "v1"',
    ]


def test_groups_of_kubernetes_need_an_approval():
    def change(obj):
        obj["spec"]["group"] = "things.k8s.io"
        obj["metadata"]["name"] = "things.things.k8s.io"

    assert faults(change)[0].startswith("metadata.annotations[api-approved.kubernetes.io]: Required value")


def test_established_names_and_stored_versions_stay():
    old = definition()
    old["status"] = {
        "conditions": [{"type": "Established", "status": "True"}],
        "storedVersions": ["v1", "v0"],
    }

    def change(obj):
        obj["spec"]["names"]["kind"] = "Other"

    assert faults(change, old) == [
        'spec.names.kind: Invalid value: "Other": field is immutable',
        'status.storedVersions[1]: Invalid value: "v0": missing from spec.versions; v0 was previously a '
        "storage version, and "
        "must remain in spec.versions until a storage migration ensures no data remains persisted in v0 "
        "and removes v0 from "
        "status.storedVersions",
    ]


def test_unknown_keywords_of_a_schema_are_dropped_and_named():
    found = ROW.checks.check(
        definition(version("schema", {"openAPIV3Schema": {**SCHEMA, "colour": "red"}})), None, subresource=""
    )

    assert list(found.unknown) == ["spec.versions[0].schema.openAPIV3Schema.colour"]
    assert found.obj["spec"]["versions"][0]["schema"]["openAPIV3Schema"] == SCHEMA
