"""`pelton deploy --dry-run`: the manifest that a directory of another platform becomes."""

import json

import pytest

from pelton.cli.deploy import deploy
from pelton.cli.home import Home
from pelton.errors import UnknownConventionError

TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Resources:
  Queue: {Type: AWS::SQS::Queue, Properties: {QueueName: orders}}
  Take:
    Type: AWS::Serverless::Function
    Properties:
      Handler: app.take
      Runtime: python3.12
      Timeout: 7
      Events:
        Often: {Type: Schedule, Properties: {Schedule: rate(5 minutes)}}
        Daily: {Type: Schedule, Properties: {Schedule: cron(0 2 * * ? *)}}
"""


@pytest.fixture
def dry_run(tmp_path, capsys):
    def run(files, **said):
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        flags = {
            "name": "taker",
            "namespace": "default",
            "trigger": None,
            "convention": None,
            "target": None,
            "annotations": {},
            **said,
        }
        assert (
            deploy(Home(tmp_path / "home"), str(tmp_path), dry_run=True, output="json", timeout_s=1, **flags)
            == 0
        )
        return json.loads(capsys.readouterr().out)

    return run


def test_schedules_of_the_source_become_triggers_beside_http(dry_run):
    manifest = dry_run({"template.yaml": TEMPLATE, "app.py": "def take(event, context): ...\n"})

    assert manifest["metadata"]["annotations"]["pelton.dev/convention"] == "lambda"
    assert manifest["spec"]["build"]["env"]["FUNC_NAME"] == "app.take"
    serving = manifest["spec"]["serving"]
    assert serving["triggers"]["http"] == {"port": 8080}
    crons = [item for item in serving["triggers"]["dapr"] if item["type"] == "bindings.cron"]
    assert len(crons) == 2 and len({item["name"] for item in crons}) == 2
    schedules = {serving["bindings"][item["name"]]["metadata"][0]["value"] for item in crons}
    assert schedules == {"@every 5m", "0 2 * * *"}


def test_trigger_said_outright_replaces_those_of_the_source(dry_run):
    files = {"template.yaml": TEMPLATE, "app.py": "def take(event, context): ...\n"}

    serving = dry_run(files, trigger="topic=parcels")["spec"]["serving"]

    assert [item["topic"] for item in serving["triggers"]["dapr"]] == ["parcels"]
    assert "http" not in serving["triggers"]


def test_command_and_annotations_are_written_down(dry_run):
    manifest = dry_run(
        {"server.js": "// listens\n"}, annotations={"command": "node server.js", "protocol": "h2c"}
    )

    assert manifest["metadata"]["annotations"] == {
        "pelton.dev/convention": "process",
        "pelton.dev/command": "node server.js",
        "pelton.dev/protocol": "h2c",
    }


def test_function_of_another_platform_is_no_manifest_of_ours(dry_run):
    fission = (
        "apiVersion: fission.io/v1\nkind: Function\nmetadata: {name: f}\n"
        "spec: {package: {functionName: app.run}}\n"
    )

    manifest = dry_run({"function.yaml": fission, "app.py": "def run(): ...\n"})

    assert manifest["apiVersion"] == "core.openfunction.io/v1beta2"
    assert manifest["metadata"]["name"] == "taker"


def test_tie_is_the_users_to_settle(dry_run):
    files = {"main.py": "def handler(event, context): ...\n"}

    with pytest.raises(UnknownConventionError, match="conventions fit"):
        dry_run(files)
    assert dry_run(files, convention="lambda")["metadata"]["annotations"] == {
        "pelton.dev/convention": "lambda"
    }
