"""`pelton render`: which files are read, what is printed where, and that no secret of this machine is."""

import json

import pytest

from pelton.cli.home import Home
from pelton.cli.render import ClusterOptions, render
from pelton.errors import UsageError
from pelton.manifest import text

FUNCTION = """\
apiVersion: core.openfunction.io/v1beta2
kind: Function
metadata: {name: shop}
spec:
  image: demo/shop
  build:
    builder: demo/builder
    env: {FUNC_NAME: handle}
    srcRepo: {url: src}
  serving:
    params: {API_TOKEN: t0p, GREETING: hello}
    triggers: {dapr: [{name: orders, topic: orders}]}
    outputs: [{dapr: {name: hook, operation: post, metadata: {authToken: t0p}}}]
    pubsub:
      orders:
        type: pubsub.jetstream
        version: v1
        metadata:
          - {name: natsURL, value: "nats://bus:4222"}
          - {name: token, secretKeyRef: {name: bus, key: token}}
          - {name: seedKey, envRef: BUS_SEED}
    bindings:
      hook:
        type: bindings.http
        version: v1
        metadata: [{name: url, value: "http://x/"}, {name: securityToken, value: t0p}]
"""
REMOTE = FUNCTION.replace("url: src", 'url: "https://git.example.com/x.git"')
SOURCE = """\
import functions_framework


@functions_framework.cloud_event
def handle(event):
    pass
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").write_text(SOURCE)
    (tmp_path / "function.yaml").write_text(FUNCTION)
    monkeypatch.setenv("PELTON_HOME", str(tmp_path / "home"))
    return tmp_path


def run(*files, target="kubernetes", output="yaml", only="", namespace="default", **options):
    return render(
        [str(file) for file in files],
        target=target,
        output=output,
        only=only,
        namespace=namespace,
        options=ClusterOptions(**options),
    )


def documents(out):
    parsed = text.parse(out, "out")
    assert parsed.errors == []
    return [document.data for document in parsed.documents]


def test_local_render_is_what_the_planner_plans_and_makes_nothing(folder, capsys):
    code = run(folder / "function.yaml", target="local")

    (found,) = documents(capsys.readouterr().out)
    assert code == 0
    assert found["kind"] == "Plan"
    assert found["workload"]["convention"] == "gcf"
    assert found["workload"]["target"] == "handle"
    assert found["workload"]["revision"].startswith("shop-")
    assert found["workload"]["bundle"].startswith(str(Home().bundles))
    assert found["scaler"]["max_replicas"] == 10
    assert found["route"] is None
    assert [each["topic"] for each in found["subscriptions"]] == ["orders"]
    assert [each["name"] for each in found["outputs"]] == ["hook"]
    assert found["problems"] == []
    assert not (folder / "home").exists()


def test_local_render_prints_no_secret(folder, capsys):
    run(folder / "function.yaml", target="local")

    out = capsys.readouterr().out
    (found,) = documents(out)
    component = found["subscriptions"][0]["component"]["metadata"]
    assert "t0p" not in out
    assert component["natsURL"] == "nats://bus:4222"
    assert component["token"] == "(Secret bus, key token)"
    assert component["seedKey"] == "(environment variable BUS_SEED)"
    assert found["workload"]["env"]["API_TOKEN"] == "(hidden)"
    assert found["workload"]["env"]["GREETING"] == "hello"


def test_local_render_names_the_revision_that_a_build_gives(folder, capsys, monkeypatch):
    run(folder / "function.yaml", target="local")
    before = documents(capsys.readouterr().out)[0]["workload"]["revision"]
    run(folder / "function.yaml", target="local")
    same = documents(capsys.readouterr().out)[0]["workload"]["revision"]
    (folder / "src" / "main.py").write_text(SOURCE + "\n# changed\n")
    run(folder / "function.yaml", target="local")
    after = documents(capsys.readouterr().out)[0]["workload"]["revision"]

    assert before == same != after


def test_local_render_of_what_cannot_run_here_says_why_and_fails(folder, capsys):
    (folder / "function.yaml").write_text(REMOTE)

    code = run(folder / "function.yaml", target="local")

    captured = capsys.readouterr()
    (found,) = documents(captured.out)
    assert code == 1
    assert found["problems"][0]["reason"] == "SourceNotLocal"
    assert "spec.build.srcRepo.url" in captured.err


def test_json_is_one_list(folder, capsys):
    (folder / "function.yaml").write_text(REMOTE)
    run(folder / "function.yaml", output="json")

    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["apiVersion"]) == ("List", "v1")
    assert {item["kind"] for item in found["items"]} >= {"Component", "Deployment", "Build"}


def test_namespace_is_that_of_objects_that_name_none(folder, capsys):
    run(folder / "function.yaml", namespace="store")

    assert {obj["metadata"]["namespace"] for obj in documents(capsys.readouterr().out)} == {"store"}


@pytest.mark.parametrize(
    ("only", "kinds"),
    [("build", {"Build", "BuildRun"}), ("serving", {"Component", "Service", "Deployment"}), ("route", set())],
)
def test_only_one_part_is_printed(folder, capsys, only, kinds):
    (folder / "function.yaml").write_text(REMOTE)
    run(folder / "function.yaml", only=only)

    out = capsys.readouterr().out
    assert {obj["kind"] for obj in (documents(out) if out else [])} == kinds


def test_good_documents_are_rendered_beside_bad_ones(folder, capsys):
    (folder / "bad.yaml").write_text(FUNCTION.replace("shop", "Not_A_Name") + "---\n{{\n")

    code = run(folder)

    captured = capsys.readouterr()
    assert code == 1
    assert "bad.yaml" in captured.err
    assert "kind: Deployment" in captured.out


def test_gateway_flag_that_is_no_reference_is_a_usage_error(folder):
    with pytest.raises(UsageError, match="NAMESPACE/NAME"):
        run(folder / "function.yaml", gateway="contour")


def test_no_objects_are_a_usage_error(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")

    with pytest.raises(UsageError, match="no objects"):
        run(tmp_path / "empty.yaml")
