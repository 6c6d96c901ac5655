"""Every example that serves requests: recognised, served by `pelton run`, and by `pelton apply` from zero."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = [pytest.mark.connected, pytest.mark.long, pytest.mark.timeout(300)]
PELTON = (sys.executable, "-m", "pelton.cli.main")


@dataclass
class Example:
    """An example with requests that CI makes.

    Attributes:
        folder: Its directory.
        convention: What detection has to find.
        run: Flags for `pelton run`.
        apply: Manifest for `pelton apply`.
        requests: What to send and what to see.
        events: What `pelton run --event` has to print.
        needs: Programs without which it is skipped.
        env: Further environment of `pelton run`; `@FILE` stands for a file's text.
    """

    folder: Path
    convention: str
    requests: list[dict[str, Any]]
    run: str = ""
    apply: str = "function.yaml"
    host: str = ""
    events: list[dict[str, str]] = field(default_factory=list)
    target: str = ""
    env: dict[str, str] = field(default_factory=dict)
    needs: list[str] = field(default_factory=list)

    def environment(self, home):
        """Return the environment for `pelton run`."""
        own = {
            name: (self.folder / value[1:]).read_text() if value.startswith("@") else value
            for name, value in self.env.items()
        }
        return {**os.environ, "PELTON_HOME": str(home), **own}

    @property
    def name(self):
        """The Function's name in its manifest."""
        documents = YAML(typ="safe", pure=True).load_all((self.folder / self.apply).read_text())
        return next(d["metadata"]["name"] for d in documents if d["kind"] == "Function")

    def check(self, send):
        """Make all requests by `send(method, path, **more)`."""
        for wanted in self.requests:
            headers = dict(wanted.get("headers") or {})
            if "content_type" in wanted:
                headers["content-type"] = wanted["content_type"]
            path = str(wanted["path"])
            body = wanted.get("send")
            content = (
                body.encode()
                if isinstance(body, str)
                else None
                if body is None
                else json.dumps(body).encode()
            )
            answer = send(str(wanted["method"]), path, content=content, headers=headers)
            where = f"{self.folder.name} {wanted['method']} {path}: {answer.status_code} {answer.text[:2000]}"
            assert answer.status_code == wanted["status"], where
            if "body" in wanted:
                assert answer.text == wanted["body"], where
            if "body_contains" in wanted:
                assert str(wanted["body_contains"]) in answer.text, where
            if "json" in wanted:
                assert answer.json() == wanted["json"], where
            for name, value in dict(wanted.get("answer_headers") or {}).items():
                assert answer.headers.get(name) == value, where


def examples():
    """Return all examples that serve requests."""
    found = []
    for file in sorted(EXAMPLES.glob("*/expect.yaml")):
        said = YAML(typ="safe", pure=True).load(file.read_text())
        if "requests" in said:
            example = Example(folder=file.parent, **said)
            missing = " ".join(name for name in example.needs if shutil.which(name) is None)
            marks = [pytest.mark.skipif(bool(missing), reason=f"needs {missing}")]
            found.append(pytest.param(example, marks=marks, id=file.parent.name))
    return found


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    """A running platform with every example applied; `send(name)` sends through its gateway."""
    home = tmp_path_factory.mktemp("home", numbered=True) / "h"
    environment = {**os.environ, "PELTON_HOME": str(home), "COLUMNS": "200"}
    log = (home.parent / "up.log").open("wb")
    up = subprocess.Popen(
        [*PELTON, "up", "--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0"],
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 30
        while not (home / "endpoints.json").exists():
            assert up.poll() is None and time.monotonic() < deadline, (home.parent / "up.log").read_text()
            time.sleep(0.05)
        gateway = json.loads((home / "endpoints.json").read_text())["gateway"]
        yield Gateway(gateway, environment)
    finally:
        up.send_signal(signal.SIGTERM)
        try:
            up.wait(30)
        except subprocess.TimeoutExpired:
            up.kill()
            up.wait()
        log.close()


class Gateway:
    """Applies examples and sends requests to them."""

    def __init__(self, url, environment):
        self.url = url
        self.environment = environment

    def apply(self, example):
        """Apply an example's manifest and wait until it runs."""
        done = subprocess.run(
            [*PELTON, "apply", "-f", example.folder / example.apply, "--wait"],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def sender(self, name):
        """Return what sends requests to a function by its host name."""

        def send(method, path, *, content, headers):
            host = {"host": f"{name}.default.localhost"}
            return httpx.request(
                method, self.url + path, content=content, headers={**headers, **host}, timeout=60
            )

        return send


@pytest.fixture
def home():
    """A home whose environments outlive the test run."""
    return Path(sys.prefix) / "pelton-conformance"


@pytest.mark.parametrize("example", examples())
def test_example_is_recognised(example):
    words = shlex.split(example.run)
    if "--command" in words:
        return  # said outright: there is nothing to recognise
    said = subprocess.run(
        [*PELTON, "why", "detect", example.folder, "-o", "json"], capture_output=True, text=True
    )

    found = json.loads(said.stdout)
    assert found["detected"], found["error"]
    assert found["detected"]["convention"] == example.convention


@pytest.mark.parametrize("example", examples())
def test_example_is_served_by_run(example, home):
    process = subprocess.Popen(
        [*PELTON, "run", example.folder, *shlex.split(example.run), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=example.folder,
        env=example.environment(home),
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        url = ""
        for line in process.stdout:
            lines.append(line)
            found = re.match(r"ready (http://\S+)", line)
            if found:
                url = found[1]
                break
        assert url, "".join(lines)
        rest = threading.Thread(target=lambda: lines.extend(process.stdout or ()), daemon=True)
        rest.start()

        def send(method, path, *, content, headers):
            return httpx.request(method, url + path, content=content, headers=headers, timeout=60)

        example.check(send)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, "".join(lines)
        rest.join(30)
        process.stdout.close()


@pytest.mark.parametrize(
    ("example", "event"),
    [
        pytest.param(each.values[0], event, id=f"{each.id}-{event['file']}", marks=each.marks)
        for each in examples()
        for event in each.values[0].events
    ],
)
def test_example_handles_a_saved_event(example, event, home):
    done = subprocess.run(
        [
            *PELTON,
            "run",
            example.folder,
            *shlex.split(example.run),
            "--event",
            example.folder / event["file"],
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env=example.environment(home),
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert event["shows"] in done.stdout + done.stderr


@pytest.mark.parametrize("example", examples())
def test_example_is_served_by_apply(example, platform):
    platform.apply(example)

    example.check(platform.sender(example.name))
