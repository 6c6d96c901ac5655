"""The table of kinds, and the front door."""

import copy
import re
import subprocess
import sys

import pytest

from pelton.errors import InvalidError, ManifestError, UnservedVersionError
from pelton.manifest import kinds
from pelton.manifest.kinds import KINDS, admit, by_resource, lookup
from pelton.manifest.text import parse


def test_lookup_served_kind_gives_its_row():
    row = lookup("core.openfunction.io/v1beta2", "Function")

    assert (row.resource, row.api_version, row.list_kind) == (
        "functions.core.openfunction.io",
        "core.openfunction.io/v1beta2",
        "FunctionList",
    )


@pytest.mark.parametrize("version", ["v1beta2", "v1beta1"])
def test_lookup_takes_every_served_version(version):
    assert lookup(f"core.openfunction.io/{version}", "Function").versions == ("v1beta2", "v1beta1")


@pytest.mark.parametrize("version", ["v1alpha1", "v1alpha2", "v2"])
def test_lookup_unserved_version_says_no_matches_and_names_the_served_ones(version):
    wanted = f'no matches for kind "Function" in version "core.openfunction.io/{version}"'

    with pytest.raises(UnservedVersionError, match=wanted) as caught:
        lookup(f"core.openfunction.io/{version}", "Function")

    assert "v1beta2 or core.openfunction.io/v1beta1" in caught.value.hint


@pytest.mark.parametrize("group", ["core.openfunction.io", "networking.openfunction.io"])
def test_lookup_of_a_kind_that_is_gone_names_its_successor(group):
    with pytest.raises(ManifestError, match='no matches for kind "Domain"') as caught:
        lookup(f"{group}/v1alpha1", "Domain")

    assert "write a Gateway of networking.openfunction.io/v1alpha1" in caught.value.hint


@pytest.mark.parametrize(
    ("api_version", "kind", "named"),
    [
        ("core.openfunction.io/v1beta2", "function", "Function"),
        ("dapr.io/v1alpha1", "Componet", "Component"),
        ("example.org/v1", "Reciever", "Receiver"),
        ("v1", "Pod", "Function"),
        (None, None, "Function"),
        (5, ["x"], "Function"),
    ],
)
def test_lookup_unknown_kind_names_the_nearest_known_ones(api_version, kind, named):
    with pytest.raises(ManifestError) as caught:
        lookup(api_version, kind)

    assert not isinstance(caught.value, UnservedVersionError)
    assert named in caught.value.hint


@pytest.mark.parametrize(
    "word", ["fn", "function", "functions", "Function", "functions.core.openfunction.io"]
)
def test_by_resource_takes_every_name_of_a_kind(word):
    assert by_resource(word).kind == "Function"


def test_by_resource_group_tells_kinds_of_one_name_apart():
    assert by_resource("gateways.networking.openfunction.io").group == "networking.openfunction.io"
    assert by_resource("gateway.gateway.networking.k8s.io").group == "gateway.networking.k8s.io"


def test_by_resource_unknown_name_suggests_one():
    with pytest.raises(ManifestError, match="did you mean functions"):
        by_resource("fuctions")


def test_kinds_names_are_unique_and_each_module_has_all_verbs():
    names = [(name, row.group) for row in KINDS for name in (row.plural, row.singular, *row.short_names)]

    assert len(names) == len(set(names))
    for row in KINDS:
        for verb in ("read", "decode", "default", "rules", "validate", "convert", "encode"):
            assert callable(getattr(row.verbs, verb))


def test_kinds_json_paths_start_with_a_dot():
    assert all(
        re.match(r"\.(status|metadata|spec)\.", column.json_path) for row in KINDS for column in row.columns
    )


def test_admit_returns_a_new_object_without_unknown_fields():
    obj = {
        "apiVersion": "core.openfunction.io/v1beta2",
        "kind": "Function",
        "metadata": {"name": "f"},
        "spec": {"image": "x", "serving": {"outputs": [{"dapr": {"name": "a", "nmae": "b"}}]}},
        "status": {"anything": 1},
    }
    before = copy.deepcopy(obj)

    admitted = admit(obj)

    assert obj == before
    assert admitted.obj["spec"]["serving"]["outputs"] == [{"dapr": {"name": "a"}}]
    assert admitted.obj["status"] == {"anything": 1}
    assert admitted.warnings == (
        "spec.serving.outputs[0].dapr.nmae: unknown field, ignored; did you mean name?",
    )


def test_admit_error_has_every_cause_and_the_first_place():
    text = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: X}\nspec:\n  type: 1\n"
    (document,) = parse(text, "c.yaml").documents

    with pytest.raises(InvalidError) as caught:
        admit(document.data, where=document.where)

    assert caught.value.where == "c.yaml:3"
    assert [path for path, _ in caught.value.causes] == ["metadata.name", "spec.type"]
    assert "c.yaml:5: spec.type" in caught.value.message


def test_admit_unserved_version_points_at_the_line():
    text = "kind: Function\napiVersion: core.openfunction.io/v1alpha1\nmetadata: {name: x}\n"
    (document,) = parse(text, "f.yaml").documents

    with pytest.raises(UnservedVersionError) as caught:
        admit(document.data, where=document.where)

    assert caught.value.where == "f.yaml:2"


@pytest.mark.parametrize("row", KINDS, ids=lambda row: row.kind)
@pytest.mark.parametrize(
    "rest", [{}, {"metadata": None}, {"metadata": 3, "spec": []}, {"metadata": {}, "spec": {}}]
)
def test_admit_hollow_objects_of_any_kind_are_invalid_not_a_crash(row, rest):
    with pytest.raises(InvalidError):
        admit({"apiVersion": row.api_version, "kind": row.kind, **rest})


def test_admit_generate_name_stands_in_for_a_name():
    obj = {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Component",
        "metadata": {"generateName": "c-"},
        "spec": {"type": "bindings.cron"},
    }

    assert admit(obj).warnings == ()


def test_kinds_module_exports_what_it_says():
    assert all(hasattr(kinds, name) for name in kinds.__all__)


@pytest.mark.parametrize("row", KINDS, ids=lambda row: row.resource)
def test_row_names_the_versions_that_its_module_serves(row):
    assert row.older_versions == tuple(older.version for older in row.older)


def test_table_imports_the_module_of_a_kind_when_it_is_asked_for():
    code = (
        "import sys\n"
        "from pelton.manifest.kinds import by_resource\n"
        "by_resource('functions')\n"
        "print([name for name in sys.modules if name.startswith(('pelton.model', 'pelton.cel'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
