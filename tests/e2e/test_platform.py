"""The main path, on a platform that stays whole: apply, route, wake, scale to zero, events, logs."""

import json
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

KUBECTL = Path(sys.executable).parent / "kubectl"

HELLO = """
def main(request):
    print("hello", request.path)
    return f"hello from {request.path}"
"""

MIRROR = """
def main(request):
    return {
        "path": request.path,
        "prefix": request.headers.get("x-forwarded-prefix"),
        "function": request.headers.get("x-pelton-function"),
        "host": request.headers.get("host"),
    }
"""


@pytest.fixture(scope="module")
def hello(shared):
    """A function that answers, made by `init`, shared by the tests of this module."""
    shared.cli("init", "hello")
    shared.cli("deploy", "hello")
    return "hello"


# -- ready ---------------------------------------------------------------------------------------------------


def test_up_publishes_where_everything_is(shared):
    endpoints = shared.endpoints

    assert set(endpoints) == {
        "gateway", "internal", "https", "api", "ca", "kubeconfig", "nats", "notify", "pid", "aliases",
        "external_scaler",
    }  # fmt: skip
    assert endpoints["gateway"].startswith("http://127.0.0.1:")
    assert endpoints["api"].startswith("https://127.0.0.1:")
    assert Path(endpoints["ca"]).is_file()
    assert Path(endpoints["kubeconfig"]).is_file()
    assert endpoints["pid"] == shared.process.pid
    assert "Pelton is up on" in shared.log.read_text()


def test_home_keeps_its_secrets_to_its_owner(shared):
    private = [
        "secrets.json",
        "kubeconfig",
        "store.db",
        "endpoints.json",
        "state.json",
        "pki/ca.key",
        "pki/tls.key",
    ]

    modes = {name: stat.S_IMODE((shared.home / name).stat().st_mode) for name in private}
    run_modes = {
        path.name: stat.S_IMODE(path.lstat().st_mode) & 0o077
        for path in _run_directory(shared).iterdir()
        if path.suffix in (".sock", ".conf", ".json")
    }

    assert modes == dict.fromkeys(private, 0o600)
    assert run_modes == dict.fromkeys(run_modes, 0)
    assert {"node.sock", "zygote.sock", "nats.conf", "platform.json"} <= set(run_modes)


def _run_directory(platform):
    from pelton.cli.home import Home

    return Home(platform.home).run_directory()


def test_init_deploy_invoke_answers(shared, hello):
    assert shared.cli("invoke", hello).out == "Hello, world!\n"
    assert "HTTP/1.1 200" in shared.cli("invoke", hello, "-i").out


def test_status_has_parts_and_functions(shared, hello):
    shared.request(hello)

    found = json.loads(shared.cli("status", "-o", "json").out)

    assert hello in shared.cli("status").out
    assert [part["name"] for part in found["parts"]] == ["up", "nats", "zygote", "node", "envoy", "runtime"]
    for part in found["parts"]:
        assert {"name", "pid", "state", "restarts"} <= set(part)
        assert part["state"] == "running"
        os.kill(part["pid"], 0)
    entry = next(function for function in found["functions"] if function["name"] == hello)
    keys = {"namespace", "name", "state", "revision", "instances", "template", "cold_starts", "isolation"}
    assert keys <= set(entry)
    assert entry["state"] == "Running"
    assert entry["instances"] == 1
    assert entry["cold_starts"] >= 1
    assert entry["revision"]


def test_idle_function_goes_to_zero_and_wakes_again(shared, hello):
    shared.request(hello)
    before = shared.function(hello)["cold_starts"]

    shared.until_at_zero(hello)

    assert shared.function(hello)["instances"] == 0
    assert shared.request(hello).status_code == 200
    assert shared.function(hello)["cold_starts"] == before + 1


def test_code_that_costs_its_import_gets_a_template_and_answers_from_it(shared):
    code = """
        import time
        time.sleep(0.05)
        import os, random
        def main(request):
            return {"pid": os.getpid(), "number": random.random()}
    """
    shared.apply("heavy", code)

    assert shared.function("heavy")["template"] == "kept"
    assert shared.request("heavy").status_code == 200


# -- routes --------------------------------------------------------------------------------------------------


def test_host_and_path_reach_the_function_and_the_prefix_is_told(shared):
    shared.apply("mirror", MIRROR)
    port = shared.endpoints["gateway"].rpartition(":")[2]

    by_path = shared.request("mirror", "/a/b?c=d", headers={"x-pelton-function": "default/other"}).json()
    with httpx.Client(trust_env=False) as client:
        by_host = client.get(
            f"http://127.0.0.1:{port}/a/b", headers={"host": "mirror.default.localhost"}
        ).json()
        bare = client.get(f"http://127.0.0.1:{port}/default/mirror").json()

    assert by_path["path"] == "/a/b"
    assert by_path["prefix"] == "/default/mirror"
    assert by_path["function"] is None
    assert by_host["path"] == "/a/b"
    assert by_host["prefix"] is None
    assert bare["path"] == "/"


def test_unknown_address_answers_404_and_lists_what_exists(shared, hello):
    answer = shared.request("nothing-here")

    assert answer.status_code == 404
    assert f"default/{hello}" in answer.text
    assert f"{hello}.default.localhost" in answer.text
    json_answer = shared.request("nothing-here", headers={"accept": "application/json"})
    assert f"default/{hello}" in json_answer.json()["hint"]


def test_invoke_of_an_unknown_function_fails_and_names_what_exists(shared, hello):
    ended = shared.cli("invoke", "nobody", code=1)

    assert f"default/{hello}" in ended.out


# -- bodies --------------------------------------------------------------------------------------------------


def test_large_body_streams_through_a_wake_from_zero(shared):
    shared.apply(
        "weigh",
        """
        import hashlib
        def main(request):
            data = request.get_data()
            return {"size": len(data), "digest": hashlib.sha256(data).hexdigest()}
        """,
    )
    size = 20 * 1024 * 1024
    assert shared.function("weigh")["instances"] == 0

    def chunks():
        for _ in range(size // 65536):
            yield b"x" * 65536

    answer = shared.request("weigh", method="POST", content=chunks(), timeout=60)

    assert answer.status_code == 200, answer.text
    assert answer.json()["size"] == size


def test_body_over_the_limit_answers_413(shared):
    shared.apply("small", HELLO, annotations={"pelton.dev/body-limit": "1Mi"})

    answer = shared.request("small", method="POST", content=b"x" * (2 * 1024 * 1024))

    assert answer.status_code == 413


# -- new code, and its end -----------------------------------------------------------------------------------


def test_changed_code_is_served_after_the_next_deploy(shared):
    place = shared.write("changing", 'def main(request):\n    return "one"\n')
    shared.cli("deploy", place)
    assert shared.request("changing").text == "one"
    first = shared.function("changing")["revision"]

    (place / "main.py").write_text('def main(request):\n    return "two"\n')
    shared.cli("deploy", place)

    assert shared.request("changing").text == "two"
    assert shared.function("changing")["revision"] != first


def test_deleted_function_is_gone_with_its_route_and_processes(shared):
    shared.apply("leaving", HELLO)
    assert shared.request("leaving").status_code == 200
    workers = [worker["pid"] for worker in shared.function("leaving")["workers"]]
    assert workers

    shared.cli("delete", "function", "leaving")

    assert shared.request("leaving").status_code == 404
    assert shared.function("leaving") is None
    shared.until("its processes", lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert "not found" in shared.cli("get", "function", "leaving", code=1).err.lower()


# -- kubectl -------------------------------------------------------------------------------------------------


def _kubectl(platform, *words):
    return subprocess.run(
        [KUBECTL, "--kubeconfig", platform.endpoints["kubeconfig"], *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={"PATH": os.environ["PATH"], "HOME": str(platform.root)},
    ).stdout


def test_kubectl_works_with_the_kubeconfig(shared, hello):
    raw = _kubectl(shared, "get", "--raw", "/apis/core.openfunction.io/v1beta2/namespaces/default/functions")
    plain = _kubectl(shared, "get", "functions")

    assert hello in [item["metadata"]["name"] for item in json.loads(raw)["items"]]
    assert hello in plain
    assert "Running" in plain


# -- events --------------------------------------------------------------------------------------------------

ON_TOPIC = """
from functions_framework.context.user_context import UserContext

def main(context: UserContext):
    data = context.get_topic_event().Data()
    text = data.decode() if isinstance(data, bytes) else str(data)
    print("got", text)
    if "poison" in text:
        raise ValueError("poison is not accepted")
"""


def _on_topic(topic):
    return {
        "triggers": {"dapr": [{"name": "events", "type": "pubsub.jetstream", "topic": topic}]},
        "pubsub": {"events": {"type": "pubsub.jetstream", "version": "v1", "metadata": []}},
    }


def test_published_message_wakes_its_function(shared):
    shared.apply("listener", ON_TOPIC, serving=_on_topic("orders"))
    assert shared.function("listener")["instances"] == 0

    shared.cli("topic", "publish", "orders", "-d", '{"order": 17}')

    line = shared.until("the message", lambda: [s for s in shared.logs("listener").splitlines() if "17" in s])
    assert len(line) == 1


def test_event_that_is_never_accepted_becomes_a_dead_letter_that_can_be_redriven(shared):
    shared.apply("picky", ON_TOPIC, serving=_on_topic("doses"), annotations={"pelton.dev/max-attempts": "2"})
    shared.cli("topic", "publish", "doses", "-d", '"poison"', "-d", '"bread"')

    def letters():
        return json.loads(shared.cli("dlq", "list", "picky", "-o", "json").out)

    (letter,) = shared.until("the dead letter", letters, timeout_s=30)
    shown = shared.cli("dlq", "show", letter["number"]).out
    assert letter["attempts"] == 2
    assert letter["topic"] == "doses"
    assert "poison is not accepted" in letter["reason"]
    assert "poison" in shown.rpartition("\n\n")[2]

    shared.cli("dlq", "redrive", letter["number"])

    again = shared.until(
        "the letter's return",
        lambda: [one for one in letters() if one["number"] != letter["number"]],
        timeout_s=30,
    )
    assert again[0]["attempts"] == 2
    shared.until("its lines", lambda: len(re.findall('got "?poison', shared.logs("picky"))) >= 4)
    assert shared.cli("dlq", "show", 987654, code=1).err.startswith("error: there is no dead letter 987654")


def test_deploy_with_a_topic_subscribes(shared):
    place = shared.root / "topical"
    place.mkdir()
    (place / "main.py").write_text(ON_TOPIC)

    out = shared.cli("deploy", place, "--trigger", "topic=parcels").out
    shared.cli("topic", "publish", "parcels", "-d", "parcel-5")

    assert "parcels" in out
    shared.until("the message", lambda: "parcel-5" in shared.logs("topical"))
    consumers = json.loads(shared.cli("topic", "lag", "-o", "json").out)
    assert any("topical" in row["consumer"] for row in consumers)


def test_deploy_with_a_schedule_runs_by_the_clock(shared):
    place = shared.root / "clockwork"
    place.mkdir()
    (place / "main.py").write_text(
        "from functions_framework.context.user_context import UserContext\n"
        "def main(context: UserContext):\n    print('tick')\n"
    )

    shared.cli("deploy", place, "--trigger", "cron=@every 1s")

    shared.until("three ticks", lambda: shared.logs("clockwork").count("tick") >= 3, every_s=0.3)
    shared.cli("delete", "function", "clockwork")


# -- logs ----------------------------------------------------------------------------------------------------


def test_logs_follow_and_since(shared):
    shared.apply("speaker", HELLO)
    follower = shared.start_cli("logs", "speaker", "-f")
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(iter(follower.stdout.readline, "")), daemon=True)
    reader.start()
    try:
        shared.request("speaker", "/first")
        shared.until("the first line", lambda: any("hello /first" in line for line in lines))
        shared.request("speaker", "/second")
        shared.until("the second line", lambda: any("hello /second" in line for line in lines))
    finally:
        follower.terminate()
        follower.wait(30)
        reader.join(30)
        follower.stdout.close()
        follower.stderr.close()
        follower.stdin.close()

    time_, instance, *_ = lines[0].split()
    assert time_.endswith("Z")
    assert instance.startswith("speaker-")
    assert "hello /second" in shared.cli("logs", "speaker", "--since", "5m").out
    assert "hello" not in shared.cli("logs", "speaker", "--since", "0s").out
    assert "is not a duration" in shared.cli("logs", "speaker", "--since", "yesterday", code=2).err


# -- isolation -----------------------------------------------------------------------------------------------

SPY = """
import os, socket

def main(request):
    seen = {}
    for path in request.get_json()["files"]:
        try:
            with open(path, "rb") as file:
                seen[path] = "read"
        except OSError as exc:
            seen[path] = type(exc).__name__
    for path in request.get_json()["sockets"]:
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
                seen[path] = "open"
        except OSError as exc:
            seen[path] = type(exc).__name__
    seen["environment"] = sorted(os.environ)
    return seen
"""


def test_function_cannot_reach_what_is_the_platforms(shared, hello):
    """Bundles are not in the list: as root they are readable by every function's uid."""
    shared.request(hello)
    shared.apply("spy", SPY)
    if shared.function("spy")["isolation"].startswith("none"):
        pytest.skip(shared.function("spy")["isolation"])
    run = _run_directory(shared)
    files = [
        str(shared.home / name)
        for name in ("secrets.json", "kubeconfig", "store.db", "pki/ca.key", "state.json")
    ]
    files += [str(run / "platform.json"), str(run / "nats.conf"), f"/proc/{shared.process.pid}/environ"]
    sockets = [str(path) for path in run.rglob("*") if path.is_socket()]
    assert len(sockets) > 5

    seen = shared.request("spy", method="POST", json={"files": files, "sockets": sockets}).json()

    environment = seen.pop("environment")
    assert {path: how for path, how in seen.items() if how in ("read", "open")} == {}
    assert not [name for name in environment if "TOKEN" in name or "SECRET" in name or "PASSWORD" in name]
