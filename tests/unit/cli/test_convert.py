"""`pelton convert`: what is printed, what is told, what is left alone."""

import json

import pytest

from pelton.cli.convert import convert
from pelton.errors import UsageError
from pelton.manifest.kinds import admit
from pelton.manifest.text import parse

OLD = """\
# a function of ours
apiVersion: core.openfunction.io/v1beta1
kind: Function
metadata:
  name: hello
  annotations:
    plugins: |
      pre: [audit]
spec:
  image: x  # built elsewhere
  port: 8080
  serving:
    # by HTTP
    runtime: knative
    inputs: [{name: a, component: b}]
    triggers: [{type: cron, metadata: {}, targetKind: job}]
---
# not ours
apiVersion: apps/v1
kind: Deployment
metadata: {name: other}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text(OLD)
    return path


def test_convert_prints_the_stored_version_with_comments_and_other_objects(file, capsys):
    code = convert([str(file)], to="", output="yaml")

    out, err = capsys.readouterr()
    assert code == 0
    first, second = parse(out).documents
    assert first.data["spec"]["serving"]["triggers"] == {"http": {"port": 8080}}
    assert first.data["spec"]["serving"]["hooks"] == {"pre": ["audit"], "policy": "Override"}
    assert first.data["metadata"] == {"name": "hello"}
    assert second.data["kind"] == "Deployment"
    assert [line.strip() for line in out.splitlines() if line.strip().startswith("#")] == [
        "# a function of ours",
        "# built elsewhere",
        "# by HTTP",
        "# not ours",
    ]
    assert f"warning: {file}:15: spec.serving.inputs: not used" in err
    assert f"warning: {file}:16: spec.serving.triggers[0].targetKind: not used" in err
    assert f"note: {file}:7: metadata.annotations[plugins] is now spec.serving.hooks" in err
    assert not any("older version" in line for line in admit(first.data).warnings)


def test_convert_leaves_what_is_in_that_version_as_it_is(tmp_path, capsys):
    path = tmp_path / "f.yaml"
    path.write_text(
        "apiVersion: core.openfunction.io/v1beta2\nkind: Function\nmetadata:\n  name: a\nspec:\n  image: x\n"
    )

    assert convert([str(path)], to="core.openfunction.io/v1beta2", output="yaml") == 0
    assert capsys.readouterr().out == path.read_text()


def test_convert_to_the_older_version_and_back_gives_the_same(tmp_path, capsys):
    path = tmp_path / "f.yaml"
    path.write_text(
        "apiVersion: core.openfunction.io/v1beta2\nkind: Function\nmetadata:\n  name: a\nspec:\n  image: x\n"
        "  serving:\n    triggers:\n      http:\n        port: 80\n    hooks:\n      pre:\n      - a\n"
        "      policy: Override\n"
    )
    convert([str(path)], to="core.openfunction.io/v1beta1", output="yaml")
    older = tmp_path / "older.yaml"
    older.write_text(capsys.readouterr().out)

    convert([str(older)], to="", output="yaml")

    assert "v1beta1" in older.read_text()
    assert capsys.readouterr().out == path.read_text()


def test_convert_json_of_several_objects_is_a_list(file, capsys):
    convert([str(file)], to="", output="json")

    found = json.loads(capsys.readouterr().out)
    assert [item["kind"] for item in found["items"]] == ["Function", "Deployment"]


def test_convert_a_bad_document_does_not_stop_the_others(tmp_path, capsys):
    path = tmp_path / "f.yaml"
    path.write_text(
        "apiVersion: core.openfunction.io/v1beta1\nkind: Function\nmetadata: {name: bad}\nspec:\n  port: x\n"
        "---\napiVersion: core.openfunction.io/v1alpha2\nkind: Function\nmetadata: {name: worse}\n"
        "---\napiVersion: core.openfunction.io/v1beta1\nkind: Function\nmetadata: {name: good}\n"
        "spec: {image: x, serving: {runtime: knative}}\n"
    )

    code = convert([str(path)], to="", output="yaml")

    out, err = capsys.readouterr()
    assert code == 1
    assert [document.data["metadata"]["name"] for document in parse(out).documents] == ["good"]
    assert f"{path}:5: spec.port: must be a whole number" in err
    assert f'{path}:7: no matches for kind "Function" in version "core.openfunction.io/v1alpha2"' in err


def test_convert_unknown_version_is_a_usage_error(file):
    with pytest.raises(UsageError, match=r"v1beta9.*no kind"):
        convert([str(file)], to="core.openfunction.io/v1beta9", output="yaml")
