"""Functions that take without end: each is stopped alone, says why, and the others answer meanwhile.

Once as root, by control groups where there are any, and once as an ordinary user, by rlimits and watchdog.
"""

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Platform
from tests.e2e.isolation.user_platform import UserPlatform

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

UID = 54_322

GREEDY = """
import os, subprocess, sys, threading, time

def memory(_):
    held = []
    while True:
        held.append(bytearray(b"x") * 8_000_000)

def forks(_):
    began = []
    try:
        while True:
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            began.append(pid)
    except OSError as exc:
        return {"began": len(began), "error": exc.strerror}

def threads(_):
    begun, wait = 0, threading.Event()
    try:
        while True:
            threading.Thread(target=wait.wait, daemon=True).start()
            begun += 1
    except (RuntimeError, OSError) as exc:
        wait.set()
        return {"began": begun, "error": str(exc)}

def disk(_):
    written = 0
    place = os.environ.get("TMPDIR", "/tmp")
    try:
        with open(f"{place}/big", "wb", buffering=0) as file:
            while True:
                written += file.write(b"x" * 1_000_000)
    except OSError as exc:
        os.unlink(f"{place}/big")
        return {"written": written, "error": exc.strerror}

def files(_):
    held = []
    try:
        while True:
            held.append(open("/dev/null"))
    except OSError as exc:
        return {"opened": len(held), "error": exc.strerror}

def spin(_):
    until = time.monotonic() + 3
    def burn():
        while time.monotonic() < until:
            pass
    children = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            burn()
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    return {"spun": len(children)}

def main(request):
    return globals()[request.path.strip("/") or "files"](request)
"""

HELLO = """
def main(request):
    return "hello"
"""

LIMITS = {"pelton.dev/limit-memory": "256Mi", "pelton.dev/limit-pids": "40", "pelton.dev/limit-disk": "16Mi"}


@pytest.fixture(scope="module", params=["root", "user"])
def crowd(request):
    """A platform with a greedy function and a neighbour, warm."""
    if request.param == "root" and os.geteuid():
        pytest.skip("takes root")
    base = "/srv" if os.access("/srv", os.W_OK) else str(Path.home())
    root = Path(tempfile.mkdtemp(prefix="pl-", dir=base))
    root.chmod(0o755)
    (root / "x").mkdir()
    platform = (
        Platform(root) if request.param == "root" else UserPlatform(root, 0 if os.geteuid() else UID, "")
    )
    try:
        platform.start()
        platform.apply("neighbour", HELLO, scale={"minReplicas": 1})
        platform.apply("greedy", GREEDY, annotations=LIMITS, scale={"maxReplicas": 1})
        yield platform
        platform.stop()
    finally:
        platform.discard()
        shutil.rmtree(root, ignore_errors=True)


class _Asking:
    """Asks the neighbour all the while."""

    def __init__(self, platform):
        self._platform = platform
        self._over = threading.Event()
        self.slowest_s, self.statuses = 0.0, set()

    def __enter__(self):
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_exc):
        self._over.set()
        self._thread.join(30)

    def _run(self):
        while not self._over.wait(0.02):
            began = time.monotonic()
            self.statuses.add(self._platform.request("neighbour").status_code)
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)


def test_memory_without_end_is_an_oom_kill_of_that_instance_alone(crowd):
    assert crowd.request("greedy", "/files").status_code == 200
    before = crowd.function("greedy")["last_terminated"]

    with _Asking(crowd) as neighbour:
        answer = crowd.request("greedy", "/memory", timeout=60)

    # By rlimits an allocation may be refused first, which is an error of the function.
    killed = answer.status_code == 502
    assert killed or answer.status_code == 500, answer.text
    assert neighbour.statuses == {200}
    if killed:
        ended = crowd.until(
            "its end in the status",
            lambda: (now := crowd.function("greedy")["last_terminated"]) != before and now,
        )
        assert ended["reason"] == "OOMKilled"
        assert "memory" in ended["message"]
        assert "OOMKilled (" in crowd.cli("status").out
        crowd.until("its end in the log", lambda: "OOMKilled" in crowd.logs("greedy"))
    assert crowd.request("greedy", "/files").status_code == 200


@pytest.mark.parametrize("what", ["forks", "threads"])
def test_processes_without_end_are_refused_and_the_neighbour_answers(crowd, what):
    with _Asking(crowd) as neighbour:
        answer = crowd.request("greedy", f"/{what}", timeout=60)

    assert answer.status_code in (200, 502), answer.text
    if answer.status_code == 200:
        assert answer.json()["began"] < 40
    else:
        crowd.until("why", lambda: crowd.function("greedy")["last_terminated"]["reason"] == "PidsLimit")
    assert neighbour.statuses == {200}
    crowd.until_at_zero("greedy")
    assert crowd.request("greedy", "/files").status_code == 200


def test_temporary_files_without_end_fill_only_their_own_disk(crowd):
    answer = crowd.request("greedy", "/disk", timeout=60)

    assert answer.status_code == 200, answer.text
    assert answer.json()["error"] == "No space left on device"
    assert 15_000_000 < answer.json()["written"] <= 16 * 1024 * 1024


def test_open_files_without_end_are_the_function_s_own(crowd):
    answer = crowd.request("greedy", "/files", timeout=60)

    assert answer.json()["error"] == "Too many open files"
    assert answer.json()["opened"] <= 16_384
    assert crowd.request("neighbour").status_code == 200


def test_processors_without_end_leave_the_neighbour_its_turn(crowd):
    with _Asking(crowd) as neighbour:
        assert crowd.request("greedy", "/spin", timeout=60).json() == {"spun": 8}

    assert neighbour.statuses == {200}
    assert neighbour.slowest_s < 3, neighbour.slowest_s


def test_limits_and_their_means_are_in_the_status(crowd):
    limits = crowd.function("greedy")["limits"]

    assert (limits["memory_bytes"], limits["pids"], limits["disk_bytes"]) == (256 << 20, 40, 16 << 20)
    assert "256Mi" in crowd.cli("status").out


def test_cpu_limit_slows_down_where_a_control_group_holds_it(crowd):
    means = crowd.status()["limits"]["means"]
    if "cpu" not in means:
        pytest.skip(f"no control group for processors: {means}")
    code = """
import time
def main(request):
    began, cpu = time.monotonic(), time.process_time()
    while time.process_time() - cpu < 0.3:
        pass
    return {"took": time.monotonic() - began}
"""
    template = {"containers": [{"name": "function", "resources": {"limits": {"cpu": "100m"}}}]}
    crowd.apply("slowed", code, serving={"template": template})

    took = crowd.request("slowed", timeout=60).json()["took"]

    assert took > 1.5  # 0.3 s of a processor at a tenth of one are 3 s, less what it had saved up
