"""What /proc says of a process tree."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from pelton.dataplane.usage import read_usage

CHILD = """
import subprocess, sys
kept = bytearray(40_000_000)
code = "kept = bytearray(40_000_000); print('up', flush=True); input()"
child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
input()
"""


def test_own_processor_time_and_memory_are_read():
    before = read_usage(os.getpid())
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    after = read_usage(os.getpid())

    assert before is not None and after is not None
    assert after[0] >= before[0] + 0.02
    assert after[1] > 5_000_000


def test_descendants_count():
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "up\n"
        used = read_usage(process.pid)
        process.stdin.write("\n")

    assert used is not None
    assert used[1] > 80_000_000


def test_process_that_is_gone_has_none():
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()

    assert read_usage(process.pid) is None
