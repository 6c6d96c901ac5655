"""Programs as children of a worker."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from pelton.errors import FunctionLoadError
from pelton.sdk.program import Program, command_line, free_port, socket_path, what_happened

LISTENS = """
import os, socket, sys
if os.environ.get("PELTON_SOCKET"):
    sock = socket.socket(socket.AF_UNIX); sock.bind(os.environ["PELTON_SOCKET"])
else:
    host = os.environ.get("ADDRESS", "127.0.0.1")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, int(os.environ["PORT"])), family=family)
sock.listen(); print("listening in", os.getcwd(), flush=True)
while True: sock.accept()[0].close()
"""


def _python(code: str, **how: object) -> Program:
    return Program([sys.executable, "-I", "-S", "-c", code], **how)  # type: ignore[arg-type]


@pytest.fixture(params=["alone", "among threads"])
def threads(request: pytest.FixtureRequest) -> object:
    """Both ways of starting a child."""
    done = threading.Event()
    if request.param == "among threads":
        thread = threading.Thread(target=done.wait)
        thread.start()
    yield
    done.set()


@pytest.mark.usefixtures("threads")
async def test_a_program_on_its_port_is_found_and_ended_in_order(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    ended: list[int] = []
    program = _python(LISTENS, env={"PORT": str(port)}, cwd=str(tmp_path), port=port, on_exit=ended.append)

    await program.start()
    await program.ready(10)
    group = os.getpgid(program.pid)
    await program.stop(5)

    assert program.address == ("127.0.0.1", port)
    assert group == program.pid
    assert program.exited.result() == -signal.SIGTERM
    assert ended == []
    assert f"listening in {tmp_path}" in capfd.readouterr().out


async def test_a_program_on_its_socket_is_found_and_the_socket_removed() -> None:
    path = socket_path()
    assert not Path(path).exists()
    program = _python(LISTENS, env={"PELTON_SOCKET": path}, port=free_port(), socket=path)

    await program.start()
    await program.ready(10)
    await program.stop(5)

    assert program.address == path
    assert not Path(path).exists()


async def test_a_program_on_the_ipv6_loopback_is_found() -> None:
    port = free_port()
    program = _python(LISTENS, env={"PORT": str(port), "ADDRESS": "::1"}, port=port)
    await program.start()
    try:
        await program.ready(10)
    finally:
        await program.stop(5)

    assert program.address == ("::1", port)


@pytest.mark.usefixtures("threads")
async def test_a_program_that_ends_early_says_so_at_once() -> None:
    program = _python("import sys; sys.exit(3)", port=free_port())
    await program.start()

    with pytest.raises(FunctionLoadError, match=r"exited with status 3 before it listened"):
        await program.ready(60)
    await program.stop()


async def test_a_program_that_never_listens_is_given_up() -> None:
    program = _python("import signal; signal.pause()", port=free_port())
    await program.start()

    with pytest.raises(FunctionLoadError, match=r"did not listen within 0.1 s") as caught:
        await program.ready(0.1)
    await program.stop()

    assert "$PORT" in caught.value.hint


async def test_a_port_that_belongs_to_somebody_else_is_not_taken_for_the_programs_own() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        program = _python("import time, sys; time.sleep(0.1); sys.exit(98)", port=port)
        await program.start()

        with pytest.raises(FunctionLoadError, match="status 98"):
            await program.ready(10)


async def test_on_exit_is_told_the_status_of_a_program_that_ends_by_itself() -> None:
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    program = _python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", on_exit=ended.set_result)

    await program.start()

    assert await asyncio.wait_for(ended, 10) == -signal.SIGKILL
    assert await program.exited == -signal.SIGKILL


async def test_stop_kills_what_ignores_sigterm_and_its_children(tmp_path: Path) -> None:
    port = free_port()
    program = _python(
        "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = os.fork()\nif child == 0:\n"
        f"    open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "    signal.pause()\n" + LISTENS,
        env={"PORT": str(port)},
        port=port,
    )
    await program.start()
    await program.ready(10)
    async with asyncio.timeout(30):
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            await asyncio.sleep(0.005)

    await program.stop(0.05)

    assert program.exited.result() == -signal.SIGKILL
    child = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    async with asyncio.timeout(30):
        while child.exists() and ") Z" not in child.read_text():
            await asyncio.sleep(0.005)


async def test_a_program_dies_with_its_worker() -> None:
    code = (
        "import asyncio, sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from pelton.sdk.program import Program\n"
        "async def main():\n"
        "    program = Program([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        "    await program.start()\n"
        "    print(program.pid, flush=True)\n"
        "    await program.exited\n"
        "asyncio.run(main())\n"
    )
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert worker.stdout is not None
    child = Path(f"/proc/{int(await worker.stdout.readline())}/stat")

    worker.kill()
    await worker.wait()

    async with asyncio.timeout(30):
        while child.exists() and ") Z" not in child.read_text():
            await asyncio.sleep(0.005)


@pytest.mark.usefixtures("threads")
async def test_a_file_that_is_no_program_is_refused_with_the_kernels_reason(tmp_path: Path) -> None:
    script = tmp_path / "run"
    script.write_text("echo hello\n")
    script.chmod(0o755)
    program = Program([str(script)])

    with pytest.raises(FunctionLoadError, match="Exec format error") as caught:
        await program.start()

    assert "#!" in caught.value.hint


def test_a_command_is_split_without_a_shell_and_looked_up_in_the_bundle_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "bin"
    elsewhere.mkdir()
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for folder in (elsewhere, bundle):
        (folder / "serve").write_text("#!/bin/sh\n")
        (folder / "serve").chmod(0o755)
    (elsewhere / "other").symlink_to("serve")
    monkeypatch.setenv("PATH", str(elsewhere))

    assert command_line("serve 'a b' $HOME", str(bundle)) == [str(bundle / "serve"), "a b", "$HOME"]
    assert command_line("./serve", str(bundle)) == [str(bundle / "serve")]
    assert command_line("other", str(bundle)) == [str(elsewhere / "other")]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("", "no command"),
        ("'unfinished", "badly quoted"),
        ("nosuchprogram --flag", "no program 'nosuchprogram'"),
        ("./missing", "no program './missing'"),
        ("plain.txt", "not executable"),
    ],
)
def test_a_command_that_cannot_be_run_is_refused(tmp_path: Path, command: str, said: str) -> None:
    (tmp_path / "plain.txt").write_text("text")

    with pytest.raises(FunctionLoadError, match=said):
        command_line(command, str(tmp_path))


def test_free_ports_differ_and_are_outside_the_range_for_clients() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])

    ports = {free_port() for _ in range(8)}

    assert len(ports) > 4
    assert low <= 11_024 or all(10_000 <= port < low for port in ports)


def test_return_codes_are_put_into_words() -> None:
    assert what_happened(0) == "exited with status 0"
    assert what_happened(-9) == "was killed by SIGKILL"
    assert what_happened(-99) == "was killed by signal 99"


@pytest.mark.usefixtures("threads")
async def test_a_program_may_print_into_another_descriptor(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        program = _python("import os; os.write(1, b'one '); os.write(2, b'two')", output=file.fileno())
        await program.start()

    assert await program.exited == 0
    assert (tmp_path / "out").read_bytes() == b"one two"
