"""Faults: handlers that misbehave, processes that are killed, homes and users that are unusual.

After each fault the same must hold: whoever asked was answered, nothing accepted is lost, nothing is left.
"""

import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from pelton import __file__ as package_file
from pelton.dataplane.activator import FUNCTION_QUEUE
from pelton.drivers.nats import JetStreamBus
from pelton.errors import PeltonError
from pelton.ports import Message

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

HELLO = """
def main(request):
    return "hello"
"""

SLOW = """
import time
def main(request):
    print("begun", flush=True)
    time.sleep(float(request.args.get("s", "1")))
    print("done", flush=True)
    return "slept"
"""


# -- handlers that misbehave ---------------------------------------------------------------------------------

NAUGHTY = """
import os, time

def main(request):
    what = request.path.strip("/")
    if what == "raise":
        raise ValueError("on purpose")
    if what == "object":
        return object()
    if what == "exit":
        os._exit(3)
    if what == "sysexit":
        raise SystemExit(4)
    if what == "forever":
        while True:
            time.sleep(0.01)
    if what == "slow":
        time.sleep(1)
    return {"pid": os.getpid(), "what": what}
"""


@pytest.fixture(scope="module")
def naughty(shared):
    """A function whose path says how it misbehaves; one worker at a time, requests may run for 2 s."""
    shared.apply(
        "naughty", NAUGHTY, annotations={"pelton.dev/request-timeout": "2"}, scale={"maxReplicas": 1}
    )
    return "naughty"


@pytest.mark.parametrize(
    ("what", "status"), [("raise", 500), ("object", 500), ("exit", 502), ("sysexit", 500)]
)
def test_failing_handler_answers_its_status_and_the_next_request_is_served(shared, naughty, what, status):
    answer = shared.request(naughty, f"/{what}")

    assert answer.status_code == status
    assert shared.request(naughty, "/fine").json()["what"] == "fine"
    if what == "raise":
        assert "on purpose" not in answer.text  # that is for the log, not for whoever calls
        shared.until("the traceback", lambda: "ValueError: on purpose" in shared.logs(naughty))
    if what == "exit":
        shared.until("how it ended", lambda: "ended by itself" in shared.logs(naughty))


def test_first_request_that_ends_its_worker_is_no_failed_start(shared, naughty):
    """From zero the request is with the worker before the node knows that it is ready."""
    shared.until_at_zero(naughty)

    assert shared.request(naughty, "/exit").status_code == 502
    assert shared.request(naughty, "/fine").status_code == 200


def killed(pid):
    """`kill -9` a worker, unless it has ended since it was seen; tells which."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def test_handler_that_never_returns_times_out_alone_and_its_worker_is_replaced(shared, naughty):
    before = shared.request(naughty, "/fine").json()["pid"]
    shared.until("one worker", lambda: len(shared.function(naughty)["workers"]) == 1)

    with ThreadPoolExecutor(4) as pool:
        stuck = pool.submit(shared.request, naughty, "/forever")
        time.sleep(1.3)  # the neighbours begin while the stuck one runs and end after it
        neighbours = [pool.submit(shared.request, naughty, "/slow") for _ in range(2)]

        assert stuck.result().status_code == 504
        assert [neighbour.result().status_code for neighbour in neighbours] == [200, 200]

    def replaced():
        answer = shared.request(naughty, "/fine")
        return answer.status_code == 200 and answer.json()["pid"] != before

    shared.until("another worker", replaced)
    shared.until("only that", lambda: len(shared.function(naughty)["workers"]) == 1)


def test_burst_on_a_function_of_one_at_a_time_is_served_in_turn(shared):
    shared.apply(
        "narrow",
        SLOW,
        annotations={"autoscaling.knative.dev/container-concurrency": "1"},
        scale={"maxReplicas": 1},
    )
    assert shared.request("narrow", "/?s=0").status_code == 200

    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(lambda _: shared.request("narrow", "/?s=0.05"), range(30)))

    assert Counter(answer.status_code for answer in answers) == {200: 30}


async def test_requests_beyond_the_queue_are_answered_503_with_retry_after(shared):
    shared.apply(
        "packed",
        SLOW,
        annotations={"autoscaling.knative.dev/container-concurrency": "1"},
        scale={"maxReplicas": 1},
    )
    port = int(shared.endpoints["gateway"].rpartition(":")[2])
    request = b"GET /default/packed?s=3 HTTP/1.1\r\nhost: x\r\n\r\n"
    refused = []

    async def ask():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 503 " in head.splitlines()[0]:
                refused.append(head.lower())
        finally:
            writer.close()

    waiting = [asyncio.create_task(ask()) for _ in range(FUNCTION_QUEUE + 60)]
    async with asyncio.timeout(30):
        while len(refused) < 40:
            await asyncio.sleep(0.02)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)

    assert all(b"\r\nretry-after: " in head for head in refused)
    assert shared.request("packed", "/?s=0").status_code == 200


def test_client_that_leaves_holds_nothing_up(shared):
    shared.apply("patient", SLOW)
    port = int(shared.endpoints["gateway"].rpartition(":")[2])
    for path in (
        "/default/patient?s=0.5",
        "/default/patient?s=0.5",
    ):  # one that wakes it, one to a warm worker
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            shared.until("the handler", lambda: "begun" in shared.logs("patient"))

    def idle():
        workers = shared.function("patient")["workers"]
        return not any(worker["in_flight"] for worker in workers)

    shared.until("nothing in flight", idle)
    assert shared.request("patient", "/?s=0").text == "slept"
    shared.until_at_zero("patient")


def test_body_that_stops_halfway_holds_nothing_up(shared):
    shared.apply("reader", "def main(request):\n    return str(len(request.get_data()))\n")
    port = int(shared.endpoints["gateway"].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(
            b"POST /default/reader HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 70_000
        )
        shared.until("its worker", lambda: shared.function("reader")["instances"] == 1)

    assert shared.request("reader", method="POST", content=b"abc").text == "3"
    shared.until_at_zero("reader")


# -- kill -9 of each part ------------------------------------------------------------------------------------

SINK = """
from functions_framework.context.user_context import UserContext

def main(context: UserContext):
    data = context.get_topic_event().Data()
    context.send("out", data if isinstance(data, str) else data.decode())
"""


@pytest.fixture(scope="module")
def receiver():
    """A local HTTP receiver that counts what it was sent."""
    seen: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"] or 0))
            seen[json.loads(body)["id"]] += 1
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", seen
    server.shutdown()
    server.server_close()
    thread.join(30)


def _sink(url):
    return {
        "triggers": {"dapr": [{"name": "events", "type": "pubsub.jetstream", "topic": "stream"}]},
        "outputs": [{"dapr": {"name": "out", "type": "bindings.http", "operation": "post"}}],
        "pubsub": {"events": {"type": "pubsub.jetstream", "version": "v1", "metadata": []}},
        "bindings": {
            "out": {"type": "bindings.http", "version": "v1", "metadata": [{"name": "url", "value": url}]}
        },
    }


@pytest.fixture(scope="module")
def flow(shared, receiver):
    """A function that answers requests and one that passes events on."""
    shared.apply("answers", HELLO)
    shared.apply("sink", SINK, serving=_sink(receiver[0]))
    return shared, receiver[1]


class Load:
    """Requests and events at a steady pace in a thread of its own, until `end`."""

    def __init__(self, platform, tag):
        self.gateway = platform.endpoints["gateway"]
        self.nats = platform.endpoints["nats"]
        self.tag = tag
        self.answers: list[int | str] = []
        self.slowest = 0.0
        self.accepted: list[str] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._both()))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error):
        self._ending.set()
        self._thread.join(30)

    async def _both(self):
        async with asyncio.TaskGroup() as group:
            group.create_task(self._events())
            for _ in range(2):
                group.create_task(self._requests())

    async def _requests(self):
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            while not self._ending.is_set():
                began = time.monotonic()
                try:
                    self.answers.append((await client.get(f"{self.gateway}/default/answers")).status_code)
                except httpx.TransportError as exc:
                    self.answers.append(type(exc).__name__)
                self.slowest = max(self.slowest, time.monotonic() - began)
                await asyncio.sleep(0.01)

    async def _events(self):
        number = 0
        async with JetStreamBus(self.nats) as bus:
            while not self._ending.is_set():
                number += 1
                key = f"{self.tag}-{number}"
                try:
                    await bus.publish(
                        Message(topic="stream", data=json.dumps({"id": key}).encode(), id=key), deadline_s=5
                    )
                except PeltonError:
                    continue  # not accepted, so not promised
                self.accepted.append(key)
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("part", ["worker", "runtime", "node", "zygote", "envoy", "nats"])
def test_killed_part_is_back_and_nothing_accepted_is_lost(flow, part):
    platform, seen = flow
    tag = f"{part}-{time.monotonic_ns()}"
    with Load(platform, tag) as load:
        platform.until("load", lambda: len(load.answers) > 20 and len(load.accepted) > 20)
        if part == "worker":
            victims = [
                worker["pid"] for name in ("answers", "sink") for worker in platform.function(name)["workers"]
            ]
            assert [pid for pid in victims if killed(pid)]
        else:
            before = platform.until(f"{part} running", lambda: (now := platform.part(part))["pid"] and now)
            os.kill(before["pid"], signal.SIGKILL)

            def back():
                now = platform.part(part)
                return now["state"] == "running" and now["restarts"] > before["restarts"] and now["pid"]

            platform.until(f"{part} again", back)
            assert platform.part(part)["restarts"] == before["restarts"] + 1
        asked, published = len(load.answers), len(load.accepted)
        platform.until(
            "requests and events after the kill",
            lambda: load.answers[asked:].count(200) > 50 and len(load.accepted) > published + 50,
        )

    transport = (
        {"ConnectError", "ReadError", "RemoteProtocolError", "WriteError"} if part == "envoy" else set()
    )
    assert set(load.answers) <= {200, 502, 503, *transport}, Counter(load.answers)
    assert load.answers[-1] == 200
    assert load.slowest < 10
    platform.until("every accepted event", lambda: all(seen[key] for key in load.accepted), timeout_s=30)


def test_requests_for_a_function_at_zero_wait_for_a_restarted_node(flow):
    platform, _seen = flow
    platform.until_at_zero("answers")
    before = platform.part("node")
    os.kill(before["pid"], signal.SIGKILL)

    texts = []

    def answered():
        answer = platform.request("answers")
        texts.append(answer.text)
        return answer.status_code == 200

    platform.until("an answer", answered)
    assert not [text for text in texts if "does not exist" in text]


# -- the end of `up` -----------------------------------------------------------------------------------------

PARENT = """
import subprocess
def main(request):
    plain = subprocess.Popen(["sleep", "1000"])
    apart = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    return {"pids": [plain.pid, apart.pid]}
"""


def test_killed_up_leaves_nothing_running_and_the_next_continues(platform, receiver):
    url, seen = receiver
    platform.apply("answers", HELLO)
    platform.apply("sink", SINK, serving=_sink(url))
    platform.apply("parent", PARENT)
    assert platform.request("answers").text == "hello"
    assert platform.request("parent").status_code == 200
    revision = platform.function("answers")["revision"]
    sleepers = [line for line in platform.processes().values() if line.startswith("sleep 1000")]
    assert len(sleepers) == 2
    tag = f"up-{time.monotonic_ns()}"
    with Load(platform, tag) as load:
        platform.until("load", lambda: len(load.answers) > 20 and len(load.accepted) > 20)
        platform.kill()
        load._ending.set()

    platform.until("nothing left", lambda: not platform.processes())
    platform.start()

    assert platform.request("answers").text == "hello"
    assert platform.function("answers")["revision"] == revision
    assert {f["name"]: f["state"] for f in platform.status()["functions"]} == {
        "answers": "Running",
        "sink": "Running",
        "parent": "Running",
    }
    platform.until("every accepted event", lambda: all(seen[key] for key in load.accepted), timeout_s=30)


def test_sigterm_lets_requests_in_flight_finish_and_ends_those_that_will_not(platform):
    platform.apply("patient", SLOW)
    platform.request("patient", "/?s=0")
    with ThreadPoolExecutor(2) as pool:
        short = pool.submit(platform.request, "patient", "/?s=1")
        endless = pool.submit(platform.request, "patient", "/?s=60")
        platform.until("both begun", lambda: platform.logs("patient").count("begun") == 3)
        watcher = platform.start_cli("get", "functions", "-w")
        assert watcher.stdout.readline()

        platform.stop()

        assert short.result().text == "slept"
        try:
            assert endless.result().status_code >= 500
        except httpx.TransportError:
            pass
        watcher.communicate(timeout=10)
    assert not (platform.home / "endpoints.json").exists()


def test_up_that_is_told_to_end_while_it_starts_ends(cold):
    cold.running = cold.spawn("--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0")
    cold.until("its first part", lambda: len(cold.processes()) >= 1)

    cold.stop()


# -- unusual homes and users ---------------------------------------------------------------------------------


def test_home_path_of_200_characters_works(cold):
    cold.home = cold.root / ("h" * (200 - len(str(cold.root)) - 1))
    assert len(str(cold.home)) == 200
    cold.start()
    name = "n" * 40

    cold.apply(name, "import time; time.sleep(0.05)\n" + textwrap.dedent(HELLO))

    assert cold.request(name).text == "hello"
    cold.request(name)
    cold.cli("topic", "publish", "x", "-d", "1")
    cold.stop()


ORDINARY = 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests already run as an ordinary user")
def test_ordinary_user_can_do_the_same(cold):
    """The whole of it as uid 65534 in a mount namespace in which that user can reach the interpreter."""
    if shutil.which("setpriv") is None or shutil.which("unshare") is None:
        pytest.skip("needs setpriv and unshare")
    cold.root.chmod(0o755)
    cold.home = cold.root / "own" / "home"
    cold.home.parent.mkdir()
    os.chown(cold.home.parent, ORDINARY, ORDINARY)
    cold.write("spy", SPY)
    shutil.copytree(cold.root / "spy", cold.home.parent / "spy")
    pelton = f"{sys.executable} -m pelton.cli.main"
    asked = json.dumps({"files": [f"{cold.home}/secrets.json", f"{cold.home}/kubeconfig"]})
    script = f"""
        set -e
        cd {cold.home.parent}
        {pelton} up --gateway 127.0.0.1:0 --api 127.0.0.1:0 --detach
        trap '{pelton} down' EXIT
        {pelton} init hello
        {pelton} deploy hello
        {pelton} invoke hello
        {pelton} deploy spy
        echo spied: $({pelton} invoke spy -d '{asked}')
        {pelton} status
    """
    package = Path(package_file).parent
    ways = _ways([sys.base_prefix, sys.prefix, package], cold.root / "interpreter")
    words = ["setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups", "sh", "-c", script]
    ended = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{ways}\nexec "$@"', "sh", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**cold.environment, "HOME": str(cold.home.parent)},
    )

    if "unshare failed" in ended.stderr or "permission denied" in ended.stderr:
        pytest.skip(f"no mount namespace here: {ended.stderr}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Hello, world!" in ended.stdout
    assert "Pelton is down" in ended.stdout
    cold.until("nothing left", lambda: not cold.processes())
    if "userns" in ended.stdout:
        spied = json.loads(ended.stdout.partition("spied: ")[2].splitlines()[0])
        assert "read" not in spied.values()
    else:
        assert "none (" in ended.stdout  # what could not be had is said


SPY = """
def main(request):
    seen = {}
    for path in request.get_json()["files"]:
        try:
            with open(path, "rb") as file:
                seen[path] = "read"
        except OSError as exc:
            seen[path] = type(exc).__name__
    return seen
"""


def _ways(paths, place):
    """Return shell commands that make directories reachable for everybody, in this mount namespace only."""
    covers: dict[Path, list[str]] = {}
    for path in sorted({str(path) for path in paths}):
        blocked = next((p for p in reversed(Path(path).parents) if not p.stat().st_mode & 0o001), None)
        if blocked is not None:
            covers.setdefault(blocked, []).append(path)
    if not covers:
        return ":"
    lines = ["set -e", "mount --make-rprivate /"]
    for path in (path for group in covers.values() for path in group):
        aside = f"{place}/{hashlib.sha256(path.encode()).hexdigest()[:8]}"
        lines.append(f"mkdir -p {aside}; mount --rbind {path} {aside}")
    for blocked, group in covers.items():
        lines.append(f"mount -t tmpfs -o mode=755 none {blocked}")
        for path in group:
            aside = f"{place}/{hashlib.sha256(path.encode()).hexdigest()[:8]}"
            lines.append(f"mkdir -p {path}; mount --rbind {aside} {path}")
    return "\n".join(lines)
