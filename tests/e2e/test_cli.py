"""Commands, and bad input: each says what, where and what to do, and ends with the right exit code."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

HELLO = """
def main(request):
    return "hello"
"""

GOOD = """
apiVersion: core.openfunction.io/v1beta2
kind: Function
metadata:
  name: {name}
spec:
  version: v1
  image: localhost/{name}:latest
  build:
    builder: pelton
    env: {{FUNC_NAME: main}}
    srcRepo: {{url: code}}
  serving:
    triggers:
      http: {{port: 8080}}
"""


# -- manifests -----------------------------------------------------------------------------------------------


@pytest.fixture
def many(shared, tmp_path):
    """A directory of manifests whose relative sources exist."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "main.py").write_text(HELLO)
    (tmp_path / "a.yaml").write_text(GOOD.format(name="first"))
    (tmp_path / "z.yaml").write_text(GOOD.format(name="second"))
    yield tmp_path
    shared.cli("delete", "function", "first", "second", code=None)


def test_apply_takes_the_good_documents_and_names_the_place_of_the_broken_one(shared, many):
    (many / "m.yaml").write_text(
        "apiVersion: core.openfunction.io/v1beta2\nkind: Function\nmetadata: [unclosed\n"
    )

    ended = shared.cli("apply", "-f", many, "--wait", code=1)

    assert "m.yaml:" in ended.err
    assert shared.function("first")["state"] == "Running"
    assert shared.function("second")["state"] == "Running"


def test_apply_takes_the_good_files_beside_one_that_cannot_be_read(shared, many):
    (many / "m.yaml").write_bytes(b"\xff\xfe\x00")

    ended = shared.cli("apply", "-f", many, "--wait", code=1)

    assert "m.yaml: cannot be read" in ended.err
    assert shared.function("second")["state"] == "Running"


def test_delete_takes_the_good_documents_and_fails_for_the_others(shared, many):
    shared.cli("apply", "-f", many)
    (many / "a.yaml").write_text("apiVersion: v9\nkind: Nope\nmetadata: {name: x}\n")

    ended = shared.cli("delete", "-f", many, code=1)

    assert '"Nope"' in ended.err
    assert shared.function("first") is not None
    assert shared.function("second") is None


def test_apply_takes_the_good_documents_around_a_broken_one_in_the_same_file(shared, many):
    broken = GOOD.format(name="broken").replace("builder: pelton", "builder: [1, 2")
    (many / "a.yaml").write_text(
        "---\n".join([GOOD.format(name="first"), broken, GOOD.format(name="second")])
    )
    (many / "z.yaml").unlink()

    ended = shared.cli("apply", "-f", many, "--wait", code=1)

    assert "a.yaml:" in ended.err
    assert shared.function("first")["state"] == "Running"
    assert shared.function("second")["state"] == "Running"


def test_apply_names_file_line_and_field_of_every_wrong_value(shared, tmp_path):
    (tmp_path / "f.yaml").write_text(
        GOOD.format(name="wrong")
        .replace("  image: localhost/wrong:latest\n", "")
        .replace("    triggers:", "    scaleOptions: {maxReplicas: -1}\n    triggers:")
    )

    ended = shared.cli("apply", "-f", tmp_path / "f.yaml", code=1)

    assert "f.yaml:6" in ended.err
    assert "spec.image" in ended.err
    assert "f.yaml:13: spec.serving" in ended.err
    assert "spec.serving.scaleOptions.maxReplicas" in ended.err
    assert shared.function("wrong") is None


def test_apply_warns_of_an_unknown_field_and_names_the_nearest(shared, many):
    (many / "a.yaml").write_text(
        GOOD.format(name="first").replace("builder: pelton", "bilder: pelton\n    builder: pelton")
    )

    ended = shared.cli("apply", "-f", many / "a.yaml")

    assert "bilder" in ended.err
    assert "builder" in ended.err.replace("bilder", "")


def test_apply_refuses_an_unserved_version_and_names_the_served(shared, tmp_path):
    (tmp_path / "f.yaml").write_text(GOOD.format(name="old").replace("v1beta2", "v1alpha2"))

    ended = shared.cli("apply", "-f", tmp_path / "f.yaml", code=1)

    assert "v1alpha2" in ended.err
    assert "v1beta2" in ended.err


def test_apply_names_a_missing_source_directory(shared, tmp_path):
    (tmp_path / "f.yaml").write_text(GOOD.format(name="homeless"))

    ended = shared.cli("apply", "-f", tmp_path / "f.yaml", code=1)

    assert f"{tmp_path}/code" in ended.err
    assert "srcRepo.url" in ended.err
    assert "f.yaml:" in ended.err


def test_source_directory_that_is_gone_on_the_server_fails_the_build(shared, tmp_path):
    (tmp_path / "f.yaml").write_text(
        GOOD.format(name="vanished").replace("url: code", "url: 'file:///nowhere/at/all'")
    )

    ended = shared.cli("apply", "-f", tmp_path / "f.yaml", "--wait", code=1)

    assert "/nowhere/at/all" in ended.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("apply", "-f", "no-such-file.yaml"), 2, "no-such-file.yaml"),
        (("apply", "-f", "."), 2, "no objects"),
        (("deploy", "no-such-dir"), 2, "no-such-dir is not a directory"),
        (("deploy", "."), 2, ""),
        (("get", "functoins"), 2, "functoins"),
        (("get", "functions", "nobody"), 1, "nobody"),
        (("describe", "function", "nobody"), 1, "nobody"),
        (("delete", "function", "nobody"), 1, "nobody"),
        (("logs", "nobody"), 1, "nobody"),
        (("get", "functions", "-o", "xml"), 2, "table, yaml, json"),
        (("get", "functions,components", "nobody"), 2, "several kinds"),
        (("dlq", "redrive"), 2, "which dead letters"),
        (("invoke", "x", "-H", "nonsense"), 2, "Name: value"),
        (("invoke", "x", "-d", "@nowhere.json"), 2, "nowhere.json"),
        (("init", "Bad_Name!"), 2, "Bad_Name!"),
        (("deploy", ".", "--trigger", "smoke=1"), 2, "smoke=1"),
        (("topic", "publish", "a b c", "-d", "x"), None, "a b c"),
    ],
    ids=lambda value: "-".join(value[:3]) if isinstance(value, tuple) else None,
)
def test_wrong_usage_says_what_is_wrong(shared, tmp_path, words, code, said):
    ended = shared.cli(*words, cwd=tmp_path, code=code)

    assert ended.code != 0
    assert said in ended.err
    assert "Traceback" not in ended.text


# -- code that does not load ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def main(request)\n    return 1\n", "main.py:1: syntax error"),
        (
            "print('before the import')\nimport no_such_module_at_all\ndef main(request):\n    return 1\n",
            "no_such_module_at_all",
        ),
        ("import sys\nprint('leaving')\nsys.exit(3)\ndef main(request):\n    return 1\n", "SystemExit"),
        (
            "import os\nos.write(1, b'dying words')\nos._exit(4)\ndef main(request):\n    return 1\n",
            "ended while it loaded",
        ),
        ("def other(request):\n    return 1\n", "main"),
    ],
    ids=["syntax", "import", "sys-exit", "os-exit", "no-target"],
)
def test_code_that_does_not_load_fails_with_its_reason_and_the_old_revision_serves(shared, code, said):
    shared.apply("steady", HELLO)
    assert shared.request("steady").text == "hello"

    ended = shared.apply("steady", code, expect=1)

    assert said in ended.err
    assert shared.request("steady").text == "hello"
    told = shared.cli("describe", "function", "steady").out
    assert "Failed" in told
    assert said in told
    for printed in ("before the import", "leaving", "dying words"):
        if printed in code:
            assert printed in told


def test_same_broken_code_again_fails_again_at_once(shared):
    broken = "def other(request):\n    return 1\n"
    shared.apply("stubborn", broken, expect=1)

    ended = shared.apply("stubborn", broken, expect=1)

    assert "unchanged" in ended.out
    assert "no function 'main'" in ended.err


def test_code_that_never_loads_is_mended_by_good_code(shared):
    ended = shared.apply(
        "mended", "raise RuntimeError('not today')\ndef main(request):\n    return 1\n", expect=1
    )
    assert "not today" in ended.err
    assert shared.function("mended")["state"] == "Failed"
    assert shared.request("mended").status_code in (404, 503)

    shared.apply("mended", HELLO)

    assert shared.request("mended").text == "hello"


# -- looking -------------------------------------------------------------------------------------------------


def test_get_describe_and_watch_show_the_function(shared):
    shared.apply("seen", HELLO)

    table = shared.cli("get", "functions").out
    single = json.loads(shared.cli("get", "fn", "seen", "-o", "json").out)
    text = shared.cli("get", "functions", "seen", "-o", "yaml").out
    everywhere = shared.cli("get", "functions", "-A").out
    slashed = json.loads(shared.cli("get", "fn/seen", "-o", "json").out)
    several = shared.cli("get", "functions,namespaces,components").out
    listed = json.loads(shared.cli("get", "fn,namespaces", "-o", "json").out)
    told = shared.cli("describe", "function", "seen").out

    assert "NAME" in table.splitlines()[0]
    assert any(line.startswith("seen ") for line in table.splitlines())
    assert single["kind"] == "Function"
    assert single["status"]["serving"]["state"] == "Running"
    assert slashed["metadata"]["uid"] == single["metadata"]["uid"]
    assert "function/seen " in several
    assert "namespace/default " in several
    assert {item["kind"] for item in listed["items"]} == {"Function", "Namespace"}
    assert "name: seen" in text
    assert "NAMESPACE" in everywhere
    assert "Running" in told
    assert "seen.default.localhost" in told


def test_get_watch_goes_on_with_changes(shared):
    shared.apply("watched", HELLO)
    watcher = shared.start_cli("get", "functions", "watched", "-w")
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(iter(watcher.stdout.readline, "")), daemon=True)
    reader.start()
    try:
        shared.until("the first row", lambda: len(lines) >= 2)
        shared.cli("delete", "function", "watched")
        shared.until("the deletion", lambda: any("deleted" in line for line in lines))
    finally:
        watcher.send_signal(signal.SIGINT)
        try:
            code = watcher.wait(20)
        finally:
            watcher.kill()  # so that no later test meets what is left of a failure
            reader.join(30)
        assert code == 130
        for stream in (watcher.stdin, watcher.stdout, watcher.stderr):
            stream.close()


def test_dry_run_of_deploy_prints_what_apply_accepts(shared):
    place = shared.root / "dry"
    place.mkdir()
    (place / "main.py").write_text("def main(request):\n    return 'dry'\n")

    manifest = shared.cli("deploy", place, "--dry-run", "-o", "yaml").out
    assert shared.function("dry") is None
    shared.cli("apply", "-f", "-", "--wait", stdin=manifest)

    assert shared.request("dry").text == "dry"
    assert json.loads(shared.cli("deploy", place, "--dry-run", "-o", "json").out)["kind"] == "Function"


def test_invoke_sends_data_files_headers_and_events(shared):
    shared.apply(
        "echo",
        """
        def main(request):
            return {
                "method": request.method,
                "body": request.get_data(as_text=True),
                "type": request.headers.get("content-type"),
                "mine": request.headers.get("x-mine"),
            }
        """,
    )
    event = shared.root / "event.json"
    event.write_text(json.dumps({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": 5}))

    plain = json.loads(shared.cli("invoke", "echo").out)
    posted = json.loads(shared.cli("invoke", "echo", "-d", '{"a": 1}', "-H", "X-Mine: yes").out)
    piped = json.loads(shared.cli("invoke", "echo", "-d", "@-", stdin="piped").out)
    sent = json.loads(shared.cli("invoke", "echo", "--event", event).out)

    assert plain["method"] == "GET"
    assert posted == {"method": "POST", "body": '{"a": 1}', "type": "application/json", "mine": "yes"}
    assert piped["body"] == "piped"
    assert sent["type"] == "application/cloudevents+json"
    event.write_text("{}")
    assert "lacks specversion" in shared.cli("invoke", "echo", "--event", event, code=2).err


@pytest.mark.parametrize("convention", ["openfunction", "gcf"])
@pytest.mark.parametrize("trigger", ["http", "cloudevent", "topic"])
def test_init_writes_what_deploy_accepts_as_it_is(shared, trigger, convention):
    name = f"new-{convention}-{trigger}"
    ended = shared.cli("init", name, "--trigger", trigger, "--convention", convention, code=None)
    if ended.code:
        assert "error:" in ended.err  # the convention has no such signature, and says so
        return

    shared.cli("deploy", name)

    assert shared.function(name)["state"] == "Running"
    shared.cli("apply", "-f", name, "--wait")
    again = shared.cli("init", name, "--trigger", trigger, code=2)
    assert "exists and is not empty" in again.err
    shared.cli("delete", "-f", name)
    assert shared.function(name) is None


# -- without a platform --------------------------------------------------------------------------------------


def test_commands_without_a_platform_say_how_to_start_one(cold):
    cold.write("f", HELLO)

    for words in (
        ("status",),
        ("get", "functions"),
        ("invoke", "f"),
        ("apply", "-f", "f"),
        ("down",),
        ("deploy", "f"),
    ):
        ended = cold.cli(*words, code=1)
        assert f"no platform runs on {cold.home}" in ended.err
        assert "pelton up" in ended.err


def test_endpoints_of_a_killed_platform_are_not_taken_for_a_running_one(cold):
    """The pid in the file may be anybody's by now: `down` must not end that process."""
    cold.home.mkdir()
    (cold.home / "up.lock").write_text(str(os.getpid()))
    keys = ("gateway", "api", "ca", "kubeconfig", "nats", "notify")
    (cold.home / "endpoints.json").write_text(json.dumps({**dict.fromkeys(keys, "x"), "pid": os.getpid()}))

    assert "no platform runs on" in cold.cli("down", code=1).err


@pytest.mark.parametrize("flag", ["--gateway", "--api"])
def test_taken_port_names_its_owner_and_the_flag(cold, flag):
    other = {"--gateway": "--api", "--api": "--gateway"}[flag]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        ended = cold.cli("up", flag, f"127.0.0.1:{port}", other, "127.0.0.1:0", code=1)

    assert f"port {port}" in ended.err
    assert f"pid {os.getpid()}" in ended.err
    assert flag in ended.err
    assert cold.processes() == {}


def test_address_that_is_none_is_refused(cold):
    assert "--gateway" in cold.cli("up", "--gateway", "127.0.0.1:http", code=2).err
    assert "--api" in cold.cli("up", "--gateway", "127.0.0.1:0", "--api", "192.0.2.1:0", code=2).err
    assert "process, power" in cold.cli("up", "--durability", "luck", code=2).err


@pytest.mark.parametrize("place", ["/proc/pelton", "/dev/null/pelton"])
def test_home_that_cannot_be_written_is_named(cold, place):
    cold.home = type(cold.root)(place)

    ended = cold.cli("up", "--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0", code=1)

    assert place in ended.err
    assert "PELTON_HOME" in ended.err


def test_second_up_on_the_same_home_names_the_first(shared):
    ended = shared.cli("up", "--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0", code=1)

    assert str(shared.home) in ended.err
    assert f"pid {shared.process.pid}" in ended.err
    assert shared.part("node")["restarts"] == 0


def test_detached_platform_runs_on_and_down_ends_it(cold):
    out = cold.cli("up", "--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0", "--detach").out

    assert "Pelton is up" in out
    assert cold.cli("status").code == 0
    assert "Pelton is down" in cold.cli("down").out
    cold.until("all processes gone", lambda: not cold.processes())
    assert not (cold.home / "endpoints.json").exists()


def test_help_names_every_command():
    out = subprocess.run(
        [sys.executable, "-m", "pelton.cli.main", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    ).stdout

    listed = {line.split()[0] for line in out.splitlines() if line.startswith("  ") and line.strip()}
    assert listed >= {
        "up",
        "down",
        "status",
        "deploy",
        "apply",
        "get",
        "describe",
        "delete",
        "invoke",
        "logs",
    }
    assert listed >= {"topic", "dlq", "run", "init", "demo"}
