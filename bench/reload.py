"""`pelton run --reload`: from saving a file to the first answer of the new code.

A client asks again and again on new connections, as a developer's browser would; time runs from before the
write to the end of an answer of the new version.
Run: python -m bench.reload [--saves 10]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.peers import write_function
from bench.table import Row, render

SAVES = 10
_CODE = 'def hello(request):\n    return "version %d\\n"\n'
"""Each save has another size: compiled modules are told apart by whole seconds and size only."""
_REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
_LIMIT_S = 20.0
_POLL_S = 0.001
_PAUSE_S = 0.3
"""Between saves, so that a watcher has seen the last one and is at rest."""


def rows(saves: int = SAVES) -> list[Row]:
    """Measure and return the lines for a table; about 7 s."""
    with tempfile.TemporaryDirectory(prefix="pb-") as folder:
        source = write_function(Path(folder) / "function", _CODE % 0)
        with _pelton(source, f"{folder}/home") as address:
            took = [seconds * 1e3 for seconds in measure(source, address, saves)]
    note = f"{saves} saves, least {min(took):.0f}, most {max(took):.0f} ms"
    return [
        Row(
            "pelton run --reload: save to served, p50",
            statistics.median(took),
            None,
            "ms",
            "ours <= 100",
            note=note,
        )
    ]


def measure(source: Path, address: tuple[str, int], saves: int) -> list[float]:
    """Save new versions one after the other; returns seconds until each is served."""
    until_version(address, 0)
    took = []
    for version in range(1, saves + 1):
        time.sleep(_PAUSE_S)
        began = time.perf_counter()
        write_function(source, _CODE % version + "#" * version)
        until_version(address, version)
        took.append(time.perf_counter() - began)
    return took


def until_version(address: tuple[str, int], version: int) -> None:
    """Return when a version answers."""
    wanted = b"version %d\n" % version
    deadline = time.monotonic() + _LIMIT_S
    answer = b""
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=_LIMIT_S) as sock:
            sock.sendall(_REQUEST)
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
            if answer.endswith(wanted):
                return
        time.sleep(_POLL_S)
    raise RuntimeError(f"version {version} is not served; the last answer was {answer[-200:]!r}")


@contextlib.contextmanager
def _pelton(source: Path, home: str) -> Iterator[tuple[str, int]]:
    words = [sys.executable, "-m", "pelton.cli.main", "run", str(source), "--port", "0", "--reload"]
    log = source.parent / "run.log"
    with _process(words, log, {**os.environ, "PELTON_HOME": home}, source) as process:
        deadline = time.monotonic() + _LIMIT_S
        while True:
            found = re.search(r"^ready http://([^:\s]+):(\d+)", log.read_text(), re.MULTILINE)
            if found:
                yield found[1], int(found[2])
                return
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"`pelton run` does not come up: {log.read_text()[-800:]}")
            time.sleep(0.02)


@contextlib.contextmanager
def _process(
    words: list[str], log: Path, environment: dict[str, str], folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a group of its own, so that it ends with whatever it has started."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
        )
    try:
        yield process
    finally:
        for number in (15, 9):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saves", type=int, default=SAVES)
    print(render(rows(parser.parse_args().saves)))


if __name__ == "__main__":
    main()
