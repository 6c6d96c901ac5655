"""`pelton up --detach`: what it prints when the platform is ready, or ended before."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from pelton.cli.announcement import announcement
from pelton.cli.detach import detached
from pelton.cli.home import Endpoints, Home

ENDPOINTS = Endpoints(
    gateway="http://g",
    api="https://a",
    ca="/ca",
    kubeconfig="/kube",
    nats="nats://n",
    notify="http://n",
    pid=0,
)


def program(path: Path, body: str) -> str:
    """Write what stands in for the interpreter that runs the platform."""
    path.write_text(f"#!{sys.executable}\nimport fcntl, json, os, pathlib, sys, time\n{body}")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PELTON_HOME", str(tmp_path / "home"))
    return Home()


def test_announcement_is_printed_though_it_comes_after_the_file(home, tmp_path, monkeypatch, capsys):
    seen, printed = tmp_path / "seen", tmp_path / "printed"
    said = announcement(home, ENDPOINTS)
    starts = program(
        tmp_path / "python",
        f"""
lock = open({str(home.path / "up.lock")!r}, "w")
fcntl.flock(lock, fcntl.LOCK_EX)
lock.write(str(os.getpid()))
lock.flush()
found = {{**json.loads({json.dumps(json.dumps(asdict(ENDPOINTS)))}), "pid": os.getpid()}}
new = pathlib.Path({str(home.endpoints_file)!r} + ".new")
new.write_text(json.dumps(found))
new.rename({str(home.endpoints_file)!r})
while not pathlib.Path({str(seen)!r}).exists():
    time.sleep(0.001)
sys.stdout.write({said!r})
sys.stdout.flush()
while not pathlib.Path({str(printed)!r}).exists():
    time.sleep(0.001)
""",
    )

    started = []

    def start(*words, popen=subprocess.Popen, **options):
        started.append(popen(*words, **options))
        return started[-1]

    def slept(seconds):
        if home.endpoints_file.exists():
            seen.touch()

    monkeypatch.setattr(sys, "executable", starts)
    monkeypatch.setattr(time, "sleep", slept)
    monkeypatch.setattr(subprocess, "Popen", start)

    try:
        assert detached(home, ["up", "--detach"]) == 0
    finally:
        printed.touch()
        started[0].wait()
    assert capsys.readouterr().out == said


def test_one_that_ends_before_it_is_ready_says_why(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", program(tmp_path / "python", "sys.exit('no room: 3')"))

    assert detached(home, ["up", "--detach"]) == 1
    assert capsys.readouterr().err == "no room: 3\n"
