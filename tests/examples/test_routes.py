"""Examples with routes: what their hosts answer, and what `pelton why route` says."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from ruamel.yaml import YAML

from pelton.cli.home import Home

EXAMPLES = Path(__file__).parents[2] / "examples"
PELTON = (sys.executable, "-m", "pelton.cli.main")

pytestmark = [pytest.mark.connected, pytest.mark.long, pytest.mark.timeout(300)]


def _examples():
    return [file for file in sorted(EXAMPLES.glob("*/expect.yaml")) if "\nrouted:" in file.read_text()]


def test_there_are_examples():
    assert _examples()


@pytest.mark.parametrize("file", _examples(), ids=lambda file: file.parent.name)
def test_example_is_routed_as_it_says(file, tmp_path):
    expected = YAML(typ="safe", pure=True).load(file.read_text())
    home = Home(tmp_path / "h")
    environment = {**os.environ, "PELTON_HOME": str(home.path), "COLUMNS": "200"}

    def pelton(*words):
        return subprocess.run(
            [*PELTON, *words], capture_output=True, text=True, env=environment, timeout=120, check=False
        )

    up = subprocess.Popen(
        [*PELTON, "up", "--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not home.endpoints_file.exists():
            assert up.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        applied = pelton("apply", "-f", str(file.parent / "function.yaml"), "--wait")
        assert applied.returncode == 0, applied.stdout + applied.stderr
        url = home.endpoints().gateway

        def ask(path):
            return httpx.get(url + path, headers={"host": expected["host"]}, timeout=60)

        while ask(expected["routed"][0]["path"]).status_code == 404 and time.monotonic() < deadline:
            time.sleep(0.05)
        for wanted in expected["routed"]:
            answer = ask(wanted["path"])
            assert answer.status_code == wanted["status"], wanted
            if "body" in wanted:
                assert answer.text == wanted["body"]
            if "location" in wanted:
                assert answer.headers["location"] == wanted["location"]
        why = pelton("why", "route", f"http://{expected['host']}{expected['why']['path']}")
        assert expected["why"]["prints"] in why.stdout
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(30)
