"""A source directory as detection sees it, whatever is put into it."""

import os

import pytest

from pelton.builders import detect
from pelton.builders.tree import SourceTree
from pelton.cli.tables import CONVENTIONS, resolve_convention
from pelton.errors import SourceError

HANDLER = "def lambda_handler(event, context):\n    return 1\n"


def test_files_are_regular_files_and_links_to_such(tmp_path):
    (tmp_path / "main.py").write_text(HANDLER)
    os.mkfifo(tmp_path / "pipe.py")
    for name, to in (("zero.yaml", "/dev/zero"), ("loop", "loop"), ("dot", "."), ("gone.py", "nowhere")):
        (tmp_path / name).symlink_to(to)
    (tmp_path / "same.py").symlink_to("main.py")

    assert SourceTree(tmp_path).files == ("main.py", "same.py")


def test_directory_that_cannot_be_listed_is_not_called_empty(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(SourceError, match="cannot be read: Not a directory"):
        _ = SourceTree(tmp_path / "file").files


@pytest.mark.parametrize("code", ["x = " + "-" * 200_000 + "1", "x = a" + ".a" * 100_000])
def test_code_nested_too_deeply_is_reported(tmp_path, code):
    (tmp_path / "main.py").write_text(code)

    with pytest.raises(SourceError, match="nested too deeply"):
        _ = SourceTree(tmp_path).sources


@pytest.mark.parametrize("name", ["host.json", "template.yaml"])
def test_data_nested_too_deeply_is_no_document(tmp_path, name):
    (tmp_path / name).write_text("[" * 20_000)

    assert SourceTree(tmp_path).documents(name) == []


def test_long_line_with_a_syntax_error_is_cut(tmp_path):
    (tmp_path / "main.py").write_text("x = (" + "1 + " * 1_000 + "\n")

    with pytest.raises(SourceError) as caught:
        _ = SourceTree(tmp_path).sources
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("name", "manifest"),
    [
        ("a.yaml", "{apiVersion: fission.io/v1, kind: Function, metadata: [1], spec: x}"),
        ("a.yaml", "{apiVersion: fission.io/v1, kind: [x], metadata: 1}"),
        ("a.yaml", "{apiVersion: kubeless.io/v1beta1, kind: Function, metadata: 1, spec: {handler: 5}}"),
        ("a.yaml", "{apiVersion: nuclio.io/v1beta1, kind: NuclioFunction, spec: 7}"),
        ("host.json", "[1, 2]"),
        ("f/function.json", '{"bindings": [1, null, {"type": 5}]}'),
        ("template.yaml", "{Transform: AWS::Serverless-2016-10-31, Resources: {F: [1]}}"),
        ("serverless.yml", "{provider: {name: aws}, functions: [1, {f: 2}]}"),
        ("manifest.yaml", "{packages: [1], project: {packages: {p: {actions: {a: 5}}}}}"),
        ("func.yaml", "{specVersion: [1], runtime: {}, run: 7}"),
    ],
)
def test_manifest_of_odd_shape_does_not_stop_detection(tmp_path, name, manifest):
    (tmp_path / "main.py").write_text(HANDLER)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(manifest)

    report = detect.examine(tmp_path, {name: resolve_convention(name) for name in CONVENTIONS})

    assert (report.detected is None) != (report.error is None)


def test_implied_packages_are_found_below_a_hidden_directory(tmp_path):
    folder = tmp_path / ".hidden" / "function"
    folder.mkdir(parents=True)
    (folder / "main.py").write_text("import flask\n")

    assert detect.implied_packages(folder, {"flask": "Flask"}) == ("Flask",)
