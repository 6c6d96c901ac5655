"""Sync user code may run event loops of its own, on the thread of the worker's and on others."""

import subprocess
import sys

SCRIPT = """
import asyncio, threading
import uvloop
from pelton.sdk import own_loop

async def answer():
    await asyncio.sleep(0)
    return 42

def user_code():
    before = asyncio.get_event_loop().run_until_complete(answer())
    with asyncio.Runner() as runner:
        return before, asyncio.run(answer()), runner.run(answer())

def called():
    loop = asyncio._get_running_loop()
    if loop is not None:
        own_loop.hide()
    try:
        return user_code()
    finally:
        asyncio._set_running_loop(loop)

async def worker(found):
    loop = asyncio.get_running_loop()
    for _ in range(2):
        found.append(called())
        assert asyncio.get_running_loop() is loop
        asyncio.set_event_loop(None)
    await asyncio.sleep(0)
    thread = threading.Thread(target=lambda: found.append(called()))
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0.001)

own_loop.install()
own_loop.install()
loop = uvloop.new_event_loop()
asyncio.set_event_loop(loop)
found = []
loop.run_until_complete(worker(found))
assert found == [(42, 42, 42)] * 3, found
assert isinstance(loop, uvloop.Loop) and not loop.is_closed()
"""


def test_functions_may_run_loops_wherever_they_are_called():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=20)

    assert (done.returncode, done.stderr) == (0, "")
