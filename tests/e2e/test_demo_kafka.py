"""The Kafka demo as `make demo-kafka` runs it: real Kafka, kills in the middle, nothing lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.connected, pytest.mark.long, pytest.mark.timeout(300)]


def test_records_become_alerts_while_parts_are_killed(kafka, tmp_path):
    del kafka  # its presence is what is asked for; the demo kills one of its own
    report = tmp_path / "report.json"
    ended = subprocess.run(
        [sys.executable, "-m", "tests.demo.kafka"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PELTON_DEMO_REPORT": str(report)},
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    seen = json.loads(report.read_text())
    assert seen["failed"] == []
    assert seen["errors_found"] == 500
    assert seen["kills"] == ["worker", "runtime", "Kafka"]
    assert seen["most_instances"] > 1
    assert seen["back_at_zero"]
