"""`pelton scaler check` over manifests alone, without a platform."""

import json

import pytest

from pelton.cli.home import Home
from pelton.cli.scaler import check
from pelton.errors import UsageError

ALWAYS = """
  - type: cron
    metadata: {timezone: UTC, start: "0 0 1 1 *", end: "* * * * *", desiredReplicas: "7"}
"""
SCALED_OBJECT = """
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: work}
spec:
  scaleTargetRef: {name: worker}
  maxReplicaCount: 20
  triggers:
"""


def run(tmp_path, capsys, text, *, output="json"):
    file = tmp_path / "m.yaml"
    file.write_text(text)
    code = check(
        Home(tmp_path / "home"), [str(file)], namespace="shop", auth_root=str(tmp_path), output=output
    )
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if output == "json" else captured.out, captured.err


def test_value_target_activity_and_replicas_are_told(tmp_path, capsys):
    code, (found,), _ = run(tmp_path, capsys, SCALED_OBJECT + ALWAYS)

    assert code == 0
    assert (found["object"], found["replicas"]) == ("ScaledObject shop/work", 7)
    row = found["triggers"][0]
    assert (row["trigger"], row["value"], row["target"], row["active"]) == ("s0-cron", 7.0, 1.0, True)


def test_failed_trigger_is_told_beside_the_others(tmp_path, capsys):
    broken = '  - {type: redis, metadata: {address: "127.0.0.1:1", listName: l}}\n'

    code, shown, errors = run(tmp_path, capsys, SCALED_OBJECT + ALWAYS + broken, output="table")

    assert code == 1
    assert "could not be read" in shown
    assert "127.0.0.1:1 was not reached" in errors
    assert "hint: check address" in errors


def test_secrets_environment_and_files_are_found_in_the_same_manifests(tmp_path, capsys):
    """All three answer with a connection that cannot be made: what is named proves where it came from."""
    (tmp_path / "login.json").write_text('{"address": "127.0.0.1:3"}')
    text = (
        SCALED_OBJECT
        + """
  - {type: redis, metadata: {listName: l}, authenticationRef: {name: a}}
  - {type: redis, metadata: {listName: l, addressFromEnv: WHERE}}
  - {type: redis, metadata: {listName: l}, authenticationRef: {name: c, kind: ClusterTriggerAuthentication}}
---
apiVersion: keda.sh/v1alpha1
kind: TriggerAuthentication
metadata: {name: a, namespace: shop}
spec: {secretTargetRef: [{parameter: address, name: s, key: k}]}
---
apiVersion: keda.sh/v1alpha1
kind: ClusterTriggerAuthentication
metadata: {name: c}
spec: {filePath: login.json}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {k: "127.0.0.1:1"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: worker}
spec: {template: {spec: {containers: [{name: a, env: [{name: WHERE, value: "127.0.0.1:2"}]}]}}}
"""
    )

    code, (found,), _ = run(tmp_path, capsys, text)

    assert code == 1
    assert found["replicas"] is None
    assert [f"127.0.0.1:{n} was not reached" in found["errors"][n - 1] for n in (1, 2, 3)] == [True] * 3


def test_jobs_are_counted_by_their_strategy(tmp_path, capsys):
    text = """
apiVersion: keda.sh/v1alpha1
kind: ScaledJob
metadata: {name: work}
spec:
  jobTargetRef: {template: {spec: {containers: [{name: a, image: b}]}}}
  maxReplicaCount: 5
  triggers:
"""

    _, (found,), _ = run(tmp_path, capsys, text + ALWAYS)

    assert found["replicas"] == 5


def test_missing_authentication_is_named(tmp_path, capsys):
    text = SCALED_OBJECT + "  - {type: redis, metadata: {listName: l}, authenticationRef: {name: none}}\n"

    code, (found,), _ = run(tmp_path, capsys, text)

    assert code == 1
    assert "there is no TriggerAuthentication none" in found["errors"][0]


def test_manifests_without_triggers_are_refused(tmp_path, capsys):
    with pytest.raises(UsageError, match="no triggers"):
        run(tmp_path, capsys, "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n")


def test_function_gives_its_environment_and_aliases_of_the_home_count(tmp_path, capsys):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "aliases").write_text("redis.team 127.0.0.1:2\n")
    trigger = "{type: redis, metadata: {listName: l, addressFromEnv: WHERE}}"
    other = '{type: redis, metadata: {listName: l, address: "redis.team:6379"}}'
    text = f"""
apiVersion: core.openfunction.io/v1beta2
kind: Function
metadata: {{name: f}}
spec:
  image: i
  serving:
    params: {{WHERE: "127.0.0.1:1"}}
    triggers: {{http: {{port: 8080}}}}
    scaleOptions: {{keda: {{triggers: [{trigger}, {other}]}}}}
"""

    _, (found,), _ = run(tmp_path, capsys, text)

    assert found["object"] == "Function shop/f"
    assert "127.0.0.1:1 was not reached" in found["errors"][0]
    assert "127.0.0.1:2 was not reached" in found["errors"][1]


def test_scaled_object_of_a_function_knows_its_environment(tmp_path, capsys):
    text = """
apiVersion: core.openfunction.io/v1beta2
kind: Function
metadata: {name: f}
spec:
  image: i
  serving:
    params: {WHERE: "127.0.0.1:1"}
    triggers: {http: {port: 8080}}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: s}
spec:
  scaleTargetRef: {apiVersion: core.openfunction.io/v1beta2, kind: Function, name: f}
  triggers: [{type: redis, metadata: {listName: l, addressFromEnv: WHERE}}]
"""

    _, (found,), _ = run(tmp_path, capsys, text)

    assert "127.0.0.1:1 was not reached" in found["errors"][0]
