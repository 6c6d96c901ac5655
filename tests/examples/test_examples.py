"""Every example that a command runs is run as its readers run it, and must show what its `expect.yaml` says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.connected, pytest.mark.long, pytest.mark.timeout(300)]


def _expectations():
    """Return those that a command runs; tests/examples/test_conventions.py has the others."""
    return [file for file in sorted(EXAMPLES.glob("*/expect.yaml")) if "\ncommand:" in file.read_text()]


def _printing(word):
    """Return those of a command that only prints."""
    return [file for file in sorted(EXAMPLES.glob("*/expect.yaml")) if f"\n{word}:" in file.read_text()]


def test_there_are_examples():
    assert _expectations()
    assert _printing("render")
    assert _printing("simulate")


@pytest.mark.parametrize("word", ["render", "simulate"])
def test_example_prints_what_its_file_says(word):
    for file in _printing(word):
        _check_printed(file, word)


def _check_printed(file, word):
    expected = YAML(typ="safe", pure=True).load(file.read_text())

    ended = subprocess.run(
        [sys.executable, "-m", "pelton.cli.main", word, *expected[word].split()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=file.parent,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == (file.parent / expected["prints"]).read_text()


@pytest.mark.parametrize("file", _expectations(), ids=lambda file: file.parent.name)
def test_example_shows_what_it_promises(file, tmp_path):
    expected = YAML(typ="safe", pure=True).load(file.read_text())
    report = tmp_path / "report.json"

    ended = subprocess.run(
        [sys.executable, "-m", "pelton.cli.main", *expected["command"].split()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PELTON_DEMO_REPORT": str(report)},
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    observed = json.loads(report.read_text())
    assert {key: observed[key] for key in expected["observe"]} == expected["observe"]
