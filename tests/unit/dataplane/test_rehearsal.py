"""Rehearsals: they serve a request for real, and leave nothing but settled memory behind."""

import json
import subprocess
import sys

_CHILD = """
import asyncio, json, os, sys, threading
from pelton.dataplane import rehearsal
from pelton.dataplane.worker import Worker
from pelton.sdk import own_loop

answered = []
serve = Worker.serve
async def counted(self, function, http, control, **more):
    call = function.call
    def heard(invocation):
        answered.append(invocation.target.decode())
        return call(invocation)
    function.call = heard
    await serve(self, function, http, control, **more)
Worker.serve = counted
before = len(os.listdir("/proc/self/fd"))
if sys.argv[1] == "settle":
    rehearsal.settle()
else:
    rehearsal.rehearse()
print(json.dumps({
    "answered": answered,
    "more_fds": len(os.listdir("/proc/self/fd")) - before,
    "threads": threading.active_count(),
    "fillers": len(rehearsal._fillers),
    "freed": own_loop._freed,
}))
"""


def _run(what):
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, what], capture_output=True, text=True, timeout=50, check=True
    )
    return json.loads(done.stdout)


def test_spare_answers_its_own_request():
    found = _run("rehearse")

    assert found["answered"] == ["/"]
    assert found["freed"] is False  # the loop that serves later is not the one that the rehearsal hid


def test_settled_process_can_be_forked():
    found = _run("settle")

    assert found["answered"] == ["/"] * 3
    assert (found["more_fds"], found["threads"]) == (0, 1)
    assert found["fillers"] > 0
