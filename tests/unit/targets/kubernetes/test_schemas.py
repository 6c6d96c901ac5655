"""What renders write fits the schemas of its kinds: those that Pelton serves, and those of deploy/testing."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from pelton.apiserver.builtin import table
from pelton.apiserver.schema import SchemaChecks, check, check_rules, parse, unknown_keywords
from pelton.errors import PeltonError
from pelton.manifest import kinds, text
from pelton.plan.eventing import Facts
from pelton.targets.kubernetes.render import render_function
from tests.unit.targets.kubernetes.test_render import CLUSTERS, functions

ROOT = Path(__file__).parents[4]
GOLDEN = sorted((ROOT / "tests" / "golden" / "render").glob("*.txt"))
BUILT_IN = {(row.api_version, row.kind): row.checks for row in table.ROWS}
FOREIGN = {("gateway.networking.k8s.io/v1alpha2", "TLSRoute")}


def definitions() -> list[dict[str, Any]]:
    files = sorted((ROOT / "deploy" / "testing").glob("*.yaml"))
    parsed = [text.parse(file.read_text(), file.name) for file in files]
    assert [error for each in parsed for error in each.errors] == []
    return [document.data for each in parsed for document in each.documents]


def schemas() -> dict[tuple[str, str], SchemaChecks]:
    return {
        (f"{each['spec']['group']}/{version['name']}", each["spec"]["names"]["kind"]): SchemaChecks(
            version["schema"]["openAPIV3Schema"], status=True
        )
        for each in definitions()
        for version in each["spec"]["versions"]
    }


SCHEMAS = schemas()


def problems(obj: dict[str, Any]) -> list[str]:
    """Return why an API server would refuse an object, or drop a part of it."""
    kind = obj["apiVersion"], obj["kind"]
    checks = SCHEMAS.get(kind) or BUILT_IN.get(kind)
    if checks is not None:
        checked = checks.check(checks.default(obj), None, subresource="")
        return [f"{cause.field}: {cause.message}" for cause in checked.causes] + [
            f"{field}: unknown" for field in checked.unknown
        ]
    if kind in FOREIGN:
        return []
    try:
        warnings = kinds.admit(obj).warnings
    except PeltonError as error:
        return [str(error)]
    # Others are about settings that have no effect beside each other, which is the manifest's business.
    return [line for line in warnings if "unknown field" in line]


def written(file: Path) -> list[dict[str, Any]]:
    """Return the objects of a golden case's output, behind its warnings and errors."""
    output = re.split(r"^-{20,}\n", file.read_text(), maxsplit=1, flags=re.MULTILINE)[1]
    yaml = re.sub(r"\A(?:(?:warning|error|  hint|  case\.yaml):? ?.*\n)*", "", output)
    parsed = text.parse(yaml, file.name)
    assert parsed.errors == []
    return [document.data for document in parsed.documents]


@pytest.mark.parametrize("definition", definitions(), ids=lambda each: each["metadata"]["name"])
def test_schemas_are_structural_and_their_rules_can_be_afforded(definition):
    for version in definition["spec"]["versions"]:
        schema = version["schema"]["openAPIV3Schema"]

        assert unknown_keywords(schema, "schema") == []
        assert check(schema, "schema") == []
        assert check_rules(parse(schema), "schema") == []


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_golden_output_fits_the_schemas_of_its_kinds(file):
    found = {
        f"{obj['kind']} {obj['metadata']['name']}": wrong for obj in written(file) if (wrong := problems(obj))
    }

    assert found == {}


def test_golden_cases_show_every_kind():
    shown = {(obj["apiVersion"], obj["kind"]) for file in GOLDEN for obj in written(file)}

    assert shown >= set(SCHEMAS) | {
        ("v1", "Service"),
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("batch/v1", "Job"),
        ("dapr.io/v1alpha1", "Component"),
        ("keda.sh/v1alpha1", "ScaledObject"),
        ("keda.sh/v1alpha1", "ScaledJob"),
        ("http.keda.sh/v1alpha1", "HTTPScaledObject"),
        ("http.keda.sh/v1beta1", "InterceptorRoute"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ("gateway.networking.k8s.io/v1", "Gateway"),
        ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant"),
    }


@settings(max_examples=40)
@given(functions(), CLUSTERS)
def test_any_render_fits_the_schemas_of_its_kinds(function, cluster):
    objects = render_function(function, Facts(), cluster).objects

    assert {obj["kind"]: wrong for obj in objects if (wrong := problems(obj))} == {}


def example(kind: str) -> dict[str, Any]:
    return copy.deepcopy(
        next(
            obj
            for file in GOLDEN
            for obj in written(file)
            if obj["kind"] == kind and "template" in obj["spec"]
        )
    )


def _reserved(obj):
    obj["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "PORT", "value": "1"})


def _two_ports(obj):
    obj["spec"]["template"]["spec"]["containers"][0]["ports"].append({"containerPort": 1})


def _other_labels(obj):
    obj["spec"]["selector"]["matchLabels"]["openfunction.io/serving"] = "another"


def _twice(obj):
    env = obj["spec"]["template"]["spec"]["containers"][0]["env"]
    env.append({**env[0]})


def _always(obj):
    obj["spec"]["template"]["spec"]["restartPolicy"] = "Always"


def _misspelt(obj):
    obj["spec"]["replica"] = 1


def _long_name(obj):
    obj["metadata"]["name"] = "s" * 53


@pytest.mark.parametrize(
    ("kind", "spoil", "field"),
    [
        ("Service", _reserved, "spec.template.spec.containers[0].env["),
        ("Service", _two_ports, "spec.template.spec.containers[0].ports"),
        ("Deployment", _other_labels, "spec.template.metadata.labels"),
        ("Deployment", _twice, "spec.template.spec.containers[0].env"),
        ("Deployment", _misspelt, "spec.replica"),
        ("StatefulSet", _long_name, "metadata.name"),
        ("Job", _always, "spec.template.spec.restartPolicy"),
    ],
)
def test_schemas_refuse_what_the_originals_refuse(kind, spoil, field):
    obj = example(kind)
    assert problems(obj) == []

    spoil(obj)

    assert any(line.startswith(field) for line in problems(obj)), problems(obj)
