"""Functions served by `pelton run` as users run it, with the real client packages in their environment.

All functions share one environment (`clients.txt`), kept in the checkout's virtual environment between runs.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import httpx
import pytest

from pelton.builders import environment
from pelton.cli.home import Home

HERE = Path(__file__).parent
CLIENTS = HERE / "clients.txt"
READY_S = 120


@pytest.fixture(scope="session")
def clients_home():
    """A home whose environments outlive the test run."""
    return Path(sys.prefix) / "pelton-conformance"


@pytest.fixture(scope="session")
def _made(clients_home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    (folder / "requirements.txt").write_text(CLIENTS.read_text())
    wanted = environment.ensure(
        environment.read_requirements(folder), (), envs_dir=Home(clients_home).environments
    )
    return asyncio.run(wanted)


class Served:
    """A function behind `pelton run`.

    Attributes:
        url: Where it listens.
        process: The command's process.
    """

    def __init__(self, words, *, home, env=None):
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pelton.cli.main", "run", *words, "--port", "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PELTON_HOME": str(home), "COLUMNS": "200", **(env or {})},
        )
        assert self.process.stdout is not None
        self._output = self.process.stdout
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._output:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def output(self):
        """Everything printed so far."""
        with self._changed:
            return "\n".join(self.lines)

    def wait_for(self, pattern, timeout_s=20.0):
        """Return the first match of a pattern in the output, waiting for it."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                found = re.search(pattern, "\n".join(self.lines), re.MULTILINE)
                if found:
                    return found
                left = deadline - time.monotonic()
                ended = self.process.poll() is not None and not self._reader.is_alive()
                assert left > 0 and not ended, f"{pattern!r} not in:\n" + "\n".join(self.lines)
                self._changed.wait(min(left, 0.2))

    @property
    def url(self):
        return self.wait_for(r"ready (http://\S+)", READY_S)[1]

    def request(self, method, path="/", **more):
        """Send one request."""
        return httpx.request(method, self.url + path, timeout=30, **more)

    def get(self, path="/", **more):
        """GET a path."""
        return self.request("GET", path, **more)

    def post(self, path="/", **more):
        """POST to a path."""
        return self.request("POST", path, **more)

    def stop(self):
        """End it and everything it started."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(30)
        self._output.close()
        return self.process.returncode


@pytest.fixture
def serve(tmp_path, clients_home):
    """Serve a directory, or files given as name -> text, by `pelton run`; stops with the test.

    `clients=True` gives the function the real client packages.
    """
    running: list[Served] = []

    def run(source, *flags, clients=False, env=None):
        if isinstance(source, dict):
            folder = tmp_path / f"function-{len(running)}"
            for name, text in source.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(text, bytes):
                    path.write_bytes(text)
                else:
                    path.write_text(
                        textwrap.dedent(text) if isinstance(text, str) else json.dumps(text, indent=2)
                    )
            if clients:
                (folder / "requirements.txt").write_text(CLIENTS.read_text())
            source = folder
        served = Served([str(source), *flags], home=clients_home, env=env)
        running.append(served)
        return served

    yield run
    for served in running:
        served.stop()


@pytest.fixture
def clients_python(_made):
    """A Python that has the real client packages: `awslambdaric`, `boto3` and the like."""
    return str(Path(_made.site_packages).parents[2] / "bin" / "python")


def pytest_collection_modifyitems(items):
    """Give these tests three minutes: a home of a test's own begins with an installation from the index."""
    for item in items:
        if HERE in Path(item.path).parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(180))
