"""States of the manifest on a whole platform: SQLite survives restarts, and what is missing is told."""

import json

import pytest

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

CODE = """
from functions_framework.context.user_context import UserContext

def main(context: UserContext):
    request = context.get_http_request()
    db = request.args.get("db")
    try:
        count = (context.state.get("count", db) or 0) + 1
        context.state.save({"key": "count", "value": count}, db)
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"
    return str(count)
"""
COMPONENT = {
    "apiVersion": "dapr.io/v1alpha1",
    "kind": "Component",
    "metadata": {"name": "shared"},
    "spec": {
        "type": "state.sqlite",
        "version": "v1",
        "metadata": [
            {"name": "connectionString", "value": "shared.db"},
            {"name": "keyPrefix", "value": "none"},
        ],
    },
}
STATES = {
    "own": {
        "spec": {
            "type": "state.sqlite",
            "version": "v1",
            "metadata": [{"name": "connectionString", "value": "own.db"}],
        }
    },
    "shared": {},
    "memory": {"spec": {"type": "state.in-memory", "version": "v1", "metadata": []}},
    "mongo": {
        "spec": {"type": "state.mongodb", "version": "v1", "metadata": [{"name": "host", "value": "r"}]}
    },
}


def ask(platform, name, db=""):
    return platform.request(name, f"/?db={db}" if db else "/").text


def test_states_of_the_manifest_work_and_survive_a_restart(platform):
    (platform.root / "component.json").write_text(json.dumps(COMPONENT))
    platform.cli("apply", "-f", platform.root / "component.json")
    for name in ("one", "two"):
        platform.apply(name, CODE, serving={"states": STATES})

    assert [ask(platform, "one") for _ in range(3)] == ["1", "2", "3"]
    assert ask(platform, "two") == "1"
    assert [ask(platform, name, "shared") for name in ("one", "two")] == ["1", "2"]
    assert [ask(platform, "one", "memory") for _ in range(2)] == ["1", "2"]
    assert ask(platform, "one", "mongo").startswith("ComponentError: ")
    function = json.loads(platform.cli("get", "function", "one", "-o", "json").out)
    partial = next(c for c in function["status"]["conditions"] if c["type"] == "LocalTarget")
    assert "spec.serving.states.mongo" in partial["message"]
    assert "state.mongodb cannot keep state here" in partial["message"]
    assert "spec.serving.states.own" not in partial["message"]

    platform.stop()
    platform.start()

    assert ask(platform, "one") == "4"
    assert ask(platform, "two", "shared") == "3"
    assert ask(platform, "one", "memory") == "1"
    assert (platform.home / "states" / "own.db").is_file()
