"""A whole platform per module or per test: `pelton up` as its own process on free ports, in a scratch home.

Commands run as users run them, in processes of their own. Whatever a platform started must be gone after it
has ended; the fixtures check that.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from pelton.cli.home import MARKER, Home
from pelton.cli.status import collect
from pelton.drivers.logs import read_logs

READY_S = 40
STOP_S = 15
STEP_S = 30


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def text(self):
        return self.out + self.err


class Platform:
    """One home and, between `start` and `stop`, the platform on it.

    Args:
        root: Scratch directory; the home is in it unless one is given.
    """

    def __init__(self, root, home=None):
        self.root = root
        self.home = home or root / "home"
        self.running: subprocess.Popen[bytes] | None = None
        self.endpoints = {}
        self.log = root / "up.log"

    # -- life ------------------------------------------------------------------------------------------------

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """`pelton up`, running or ended."""
        assert self.running is not None, "not started"
        return self.running

    @property
    def run_directory(self):
        """Where its sockets are."""
        return Home(self.home).run_directory()

    @property
    def environment(self):
        return {**os.environ, "PELTON_HOME": str(self.home), "COLUMNS": "200"}

    def spawn(self, *words):
        """Start `pelton up` without waiting for it."""
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "pelton.cli.main", "up", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.root,
                env=self.environment,
                start_new_session=True,
            )

    def start(self, *words):
        """Start the platform and wait until commands find it."""
        self.running = self.spawn("--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0", *words)
        self.until("endpoints.json", self._published, timeout_s=READY_S)
        return self

    def _published(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            found = json.loads((self.home / "endpoints.json").read_text())
        except (OSError, ValueError):
            return False
        self.endpoints = found
        return found["pid"] == self.process.pid

    def stop(self):
        """End it as an init system would; nothing may be left, and nothing may have to be killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"`pelton up` did not end within {STOP_S} s:\n{self.log.read_text()[-4000:]}")
        assert code == 0, self.log.read_text()[-4000:]
        assert self.processes() == {}

    def kill(self):
        """`kill -9` of `pelton up`."""
        self.process.kill()
        self.process.wait(STOP_S)

    def discard(self):
        """Leave nothing behind, whatever state the test left things in."""
        if self.running is not None and self.running.poll() is None:
            self.kill()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):  # they are about to end by themselves
                os.kill(pid, signal.SIGKILL)

    def processes(self):
        """Return every living process that the platform started: pid -> command line."""
        marker = f"{MARKER}={Home(self.home).tag}".encode()
        found = {}
        for process in Path("/proc").iterdir():
            try:
                if process.name.isdigit() and marker in (process / "environ").read_bytes().split(b"\0"):
                    words = (process / "cmdline").read_bytes().split(b"\0")
                    found[int(process.name)] = b" ".join(words).decode("utf-8", "replace")
            except OSError:
                continue
        return found

    # -- what users do ---------------------------------------------------------------------------------------

    def start_cli(self, *words, cwd=None):
        """Start a command and leave it running."""
        return subprocess.Popen(
            [sys.executable, "-m", "pelton.cli.main", *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd or self.root,
            env=self.environment,
        )

    def cli(self, *words, stdin="", cwd=None, code=0, timeout_s=45):
        """Run a command to its end; `code` None takes any exit code."""
        process = self.start_cli(*words, cwd=cwd)
        try:
            out, err = process.communicate(stdin, timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"pelton {' '.join(map(str, words))} did not end:\n{out}{err}")
        assert code is None or process.returncode == code, f"pelton {words}: {process.returncode}\n{out}{err}"
        return Ended(process.returncode, out, err)

    def status(self):
        """Return what `pelton status -o json` prints; asked without a process, for it is polled."""
        return collect(Home(self.home))

    def function(self, name):
        """Return a function's entry in the status, None without one."""
        return next((f for f in self.status()["functions"] if f["name"] == name), None)

    def part(self, name):
        """Return a part's entry in the status."""
        return next(part for part in self.status()["parts"] if part["name"] == name)

    def request(self, name, path="/", method="GET", **more):
        """Send a request through the gateway, by path."""
        more.setdefault("timeout", 30)
        url = f"{self.endpoints['gateway']}/default/{name}{path}"
        with httpx.Client(trust_env=False) as client:
            return client.request(method, url, **more)

    def logs(self, name):
        """Return what a function printed so far, shipped lines only; without a process, for it is polled."""
        return "".join(r.get("log", "") for r in read_logs(self.home / "logs", "default", name))

    # -- functions -------------------------------------------------------------------------------------------

    def write(self, name, code, *, annotations=None, serving=None, scale=None, env=None):
        """Write a function's source and manifest; returns its directory."""
        place = self.root / name
        place.mkdir(exist_ok=True)
        (place / "main.py").write_text(textwrap.dedent(code))
        manifest = {
            "apiVersion": "core.openfunction.io/v1beta2",
            "kind": "Function",
            "metadata": {"name": name, "annotations": annotations or {}},
            "spec": {
                "version": "v1",
                "image": f"localhost/{name}:latest",
                "build": {
                    "builder": "pelton",
                    "env": {"FUNC_NAME": "main", **(env or {})},
                    "srcRepo": {"url": "."},
                },
                "serving": {
                    "triggers": {"http": {"port": 8080}},
                    "scaleOptions": {
                        "maxReplicas": 3,
                        "knative": {"autoscaling.knative.dev/window": "6s"},
                        **(scale or {}),
                    },
                    **(serving or {}),
                },
            },
        }
        (place / "function.yaml").write_text(json.dumps(manifest, indent=1))
        return place

    def apply(self, name, code, *, expect=0, **more):
        """Write a function and apply it, waiting for the outcome."""
        place = self.write(name, code, **more)
        return self.cli("apply", "-f", place, "--wait", code=expect)

    # -- waiting ---------------------------------------------------------------------------------------------

    def until(self, what, condition, *, timeout_s=STEP_S, every_s=0.05):
        """Poll until a condition holds; returns its value."""
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
            time.sleep(every_s)
        return value

    def until_at_zero(self, name):
        """Wait until a function has no process."""
        return self.until(f"{name} at zero", lambda: not self.function(name)["workers"], every_s=0.3)


@pytest.fixture(scope="session")
def scratch():
    """Make short directories; sockets are not in them, but names in messages stay readable."""
    made = []

    def make():
        made.append(Path(tempfile.mkdtemp(prefix="pelton-e2e-")))
        return made[-1]

    yield make
    for directory in made:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def shared(scratch):
    """One platform for all tests of a module that leave it whole."""
    platform = Platform(scratch())
    try:
        platform.start()
        yield platform
        platform.stop()
    finally:
        platform.discard()


@pytest.fixture(scope="module")
def with_tls(scratch):
    """As `shared`, with a port for TLS and every request in the access log."""
    platform = Platform(scratch())
    try:
        platform.start("--tls", "127.0.0.1:0", "--access-log", "all")
        yield platform
        platform.stop()
    finally:
        platform.discard()


@pytest.fixture
def platform(scratch):
    """A platform of the test's own, started; the test may break or end it."""
    platform = Platform(scratch())
    try:
        platform.start()
        yield platform
        if platform.process.poll() is None:
            platform.stop()
    finally:
        platform.discard()


@pytest.fixture
def cold(scratch):
    """A home of the test's own with nothing started on it."""
    platform = Platform(scratch())
    yield platform
    platform.discard()
