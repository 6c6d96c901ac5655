"""The generated definitions are up to date, structural, and say what admission does.

Admission works by tables and rules, the schemas come from the same tables. Here both judge the same objects:
what admission lets through fits the schema, and what a keyword of the schema forbids is refused by admission.
"""

import copy
import importlib.util
import re
from pathlib import Path

import pytest

from pelton.apiserver.schema import SchemaChecks, check
from pelton.errors import InvalidError, PeltonError
from pelton.manifest.fields import render_path
from pelton.manifest.kinds import KINDS, admit
from pelton.manifest.schema import definition_of, schema_of
from pelton.manifest.text import parse

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = [(kind, version) for kind in KINDS for version in kind.versions]
IDS = [f"{kind.kind}.{kind.group}-{version}" for kind, version in VERSIONS]


def load_script():
    spec = importlib.util.spec_from_file_location("crds_script", ROOT / "scripts" / "gen_crds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def golden_objects():
    """Return every object of the golden manifests that admission accepts, in its storage version."""
    for path in sorted((ROOT / "tests" / "golden" / "manifest").glob("*.txt")):
        written = re.split(r"^-{20,}\n", path.read_text(encoding="utf-8"), maxsplit=1, flags=re.MULTILINE)[0]
        for document in parse(written, path.stem).documents:
            try:
                yield path.stem, admit(document.data)
            except PeltonError:
                continue


def test_definitions_are_up_to_date():
    script = load_script()

    assert script.drift(script.wanted()) == []


def test_drift_notices_changed_missing_and_stale_files(tmp_path):
    script = load_script()
    (tmp_path / "a.yaml").write_text("old")
    (tmp_path / "c.yaml").write_text("c")

    found = script.drift({"a.yaml": "new", "b.yaml": "b"}, tmp_path)

    assert [sentence.split()[0] for sentence in found] == [
        "deploy/crds/a.yaml",
        "deploy/crds/b.yaml",
        "deploy/crds/c.yaml",
    ]


@pytest.mark.parametrize(("kind", "version"), VERSIONS, ids=IDS)
def test_schema_is_structural(kind, version):
    assert check(schema_of(kind, version), "schema") == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.kind}.{kind.group}")
def test_definition_stores_one_version_and_serves_all(kind):
    definition = definition_of(kind)

    versions = definition["spec"]["versions"]
    assert [item["name"] for item in versions if item["storage"]] == [kind.version]
    assert {item["name"] for item in versions if item["served"]} == set(kind.versions)
    assert ("conversion" in definition["spec"]) == (len(versions) > 1)
    assert definition["metadata"]["name"] == f"{kind.plural}.{kind.group}"


def test_what_admission_accepts_fits_the_schema_of_every_version():
    judged = set()
    for name, admitted in golden_objects():
        kind = admitted.kind
        for version in kind.versions:
            api_version = f"{kind.group}/{version}"
            obj = kind.verbs.convert(admitted.obj, api_version)

            checked = SchemaChecks(schema_of(kind, version), status=kind.status).check(
                obj, None, subresource=""
            )

            assert list(checked.causes) == [], (name, version)
            assert list(checked.unknown) == [], (name, version)
            judged.add((kind.kind, kind.group, version))
    missing = {(kind.kind, kind.group, version) for kind, version in VERSIONS} - judged
    assert {group for _, group, _ in missing} <= {"gateway.networking.k8s.io"}


def test_defaults_of_the_schema_are_those_of_admission():
    for name, admitted in golden_objects():
        checks = SchemaChecks(schema_of(admitted.kind), status=admitted.kind.status)

        assert checks.default(admitted.obj) == admitted.obj, name


def undescribed(schema, path):
    """Yield the fields that have no description."""
    for name, part in schema.get("properties", {}).items():
        if "description" not in part:
            yield f"{path}.{name}"
        yield from undescribed(part, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from undescribed(schema[key], f"{path}[]")


@pytest.mark.parametrize(("kind", "version"), VERSIONS, ids=IDS)
def test_every_field_has_a_description(kind, version):
    schema = schema_of(kind, version)

    assert schema["description"]
    for part in ("spec", "status"):
        assert list(undescribed(schema["properties"].get(part, {}), part)) == []


def violations(schema, path=()):
    """Yield (path, value) for everything that a keyword of the schema forbids; value None = left out."""
    for name, part in schema.get("properties", {}).items():
        yield from violations(part, (*path, name))
    for name in schema.get("required", ()):
        yield (*path, name), None
    if "items" in schema:
        yield from violations(schema["items"], (*path, 0))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from violations(schema["additionalProperties"], (*path, "key"))
    for keyword, bad in (("minimum", -1), ("exclusiveMinimum", -1), ("maximum", 1)):
        if keyword in schema:
            yield path, schema[keyword] + bad
    if "enum" in schema or "pattern" in schema:
        yield path, "no such Thing!"
    if "minLength" in schema:
        yield path, ""
    if "maxLength" in schema:
        yield path, "a" * (schema["maxLength"] + 1)
    if "minItems" in schema:
        yield path, []
    if "maxItems" in schema:
        yield path, [{}] * (schema["maxItems"] + 1)
    wrong = {"string": 1, "integer": "1", "boolean": "yes", "array": {}, "object": []}.get(schema.get("type"))
    if wrong is not None and path:
        yield path, wrong


def with_value(path, value):
    """Return an object with a value at a path, None for nothing there but what it would be in."""
    if not path:
        return value
    key, *rest = path
    if isinstance(key, int):
        return [with_value(rest, value)]
    if not rest and value is None:
        return {}
    return {key: with_value(rest, value)}


@pytest.mark.parametrize(("kind", "version"), VERSIONS, ids=IDS)
def test_what_the_schema_forbids_admission_refuses_at_that_path(kind, version):
    spec = schema_of(kind, version)["properties"]["spec"]
    head = {"apiVersion": f"{kind.group}/{version}", "kind": kind.kind, "metadata": {"name": "x"}}
    accepted = []

    for path, value in violations(spec, ("spec",)):
        obj = copy.deepcopy({**head, **with_value(path, value)})
        try:
            admit(obj)
        except InvalidError as error:
            found = {place for place, _ in error.causes}
            if version != kind.version or any(render_path(path).startswith(place) for place in found):
                continue
        accepted.append((render_path(path), value if not isinstance(value, str | list) else value[:20]))

    assert accepted == []
