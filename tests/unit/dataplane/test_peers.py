"""Who may use the platform's sockets: everybody but what descends from a zygote."""

import asyncio
import os
import socket
import subprocess
import sys

import pytest
import uvloop

from pelton.dataplane import wire
from pelton.dataplane.peers import descends, is_function


@pytest.fixture
def proc(tmp_path):
    """A /proc with processes written as (pid, parent, command line)."""

    def write(*processes):
        for pid, parent, words in processes:
            (tmp_path / str(pid)).mkdir()
            (tmp_path / str(pid) / "cmdline").write_bytes(b"\0".join(words) + b"\0")
            (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) name) S {parent} 1 1 0")
        return str(tmp_path)

    return write


_ZYGOTE = (b"python", b"-P", b"-m", b"pelton.cli.zygote", b"/home", b"/run")


def test_program_below_a_worker_descends_from_the_zygote(proc):
    here = proc((10, 1, (b"up",)), (11, 10, _ZYGOTE), (12, 11, _ZYGOTE), (13, 12, (b"sh", b"-c", b"true")))

    assert descends(13, here)
    assert descends(12, here)


def test_part_of_the_platform_does_not_descend_from_the_zygote(proc):
    here = proc((10, 1, (b"up",)), (11, 10, _ZYGOTE), (14, 10, (b"python", b"-m", b"pelton.cli.node")))

    assert not descends(14, here)


def test_process_that_has_ended_is_refused(proc):
    assert descends(99, proc((10, 1, (b"up",))))


def test_own_process_and_other_sockets_are_no_functions():
    left, right = socket.socketpair()
    with left, right, socket.socket(socket.AF_INET) as other:
        assert not is_function(left)
        assert not is_function(other)


_CLIENT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[-1])
    print(len(sock.recv(64)), flush=True)
"""


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(("module", "answered"), [("pelton.cli.zygote", False), ("pelton.cli.node", True)])
def test_served_socket_says_hello_to_parts_and_nothing_to_functions(tmp_path, loop, module, answered):
    path = f"{os.path.relpath(tmp_path)}/s" if len(str(tmp_path)) > 90 else f"{tmp_path}/s"

    async def ask():
        server = await wire.serve(path, {}, name="test")
        command = [sys.executable, "-c", _CLIENT, module, "/home", "/run", path]
        said = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)
        server.close()
        return said.stdout

    with asyncio.Runner(loop_factory=loop) as runner:
        said = runner.run(ask())

    assert (int(said) > 0) is answered
