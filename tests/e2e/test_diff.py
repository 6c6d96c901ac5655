"""`pelton diff` and older versions of kinds, against a whole platform."""

import pytest

pytestmark = pytest.mark.connected

COMPONENT = """\
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: {name}}}
spec:
  type: bindings.http
  metadata: [{{name: url, value: "{url}"}}]
"""
OLDER = """\
apiVersion: core.openfunction.io/v1beta1
kind: Function
metadata: {name: older}
spec:
  image: x
  build: {builder: b, srcRepo: {url: "https://git.test/a.git"}}
  serving: {runtime: async, inputs: [{name: i, component: bus, topic: t}]}
"""


def test_diff_says_what_apply_would_change(shared, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(COMPONENT.format(name="sink", url="http://a.test"))

    new = shared.cli("diff", "-f", file, code=1)
    assert new.out.startswith("--- live/dapr.io.v1alpha1.Component.default.sink\n+++ merged/")
    assert "+  type: bindings.http\n" in new.out

    shared.cli("apply", "-f", file)
    assert shared.cli("diff", "-f", file).out == ""

    file.write_text(COMPONENT.format(name="sink", url="http://b.test"))
    changed = shared.cli("diff", "-f", file, code=1)
    lines = changed.out.splitlines()
    assert '-    value: "http://a.test"'.replace('"', "") in [line.replace('"', "") for line in lines]
    assert '+    value: "http://b.test"'.replace('"', "") in [line.replace('"', "") for line in lines]
    assert "http://a.test" in shared.cli("get", "components", "sink", "-o", "yaml").out


def test_diff_what_cannot_be_told_is_exit_two(shared, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(COMPONENT.format(name="bad", url="x").replace("bindings.http", "http"))

    ended = shared.cli("diff", "-f", file, code=2)

    assert "spec.type" in ended.err


def test_apply_takes_an_older_version_and_diff_finds_it_unchanged(shared, tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text(OLDER)

    shared.cli("apply", "-f", file)

    assert "inputName: i" in shared.cli("get", "functions", "older", "-o", "yaml").out
    assert shared.cli("diff", "-f", file).out == ""
