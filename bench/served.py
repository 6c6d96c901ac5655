"""Any source directory served by one worker on a unix socket, in a process of its own, for the sections.

Detection, environment, loading and the worker are the platform's; what is left out is the platform: no
zygote, no confinement. Environments are kept in the benchmarks' cache.
Run: python -m bench.served SOURCE SOCKET CONVENTION [TARGET] [--option KEY=VALUE]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.peers import cache

__all__ = ["Server", "environment_of", "process_on", "start_worker"]

_START_S = 30.0


@dataclass
class Server:
    """A process that listens on a unix socket.

    Attributes:
        process: It.
        path: Its socket.
        log: What it has printed.
    """

    process: subprocess.Popen[bytes]
    path: str
    log: Path

    def wait(self) -> None:
        """Return when connections are taken; RuntimeError with its last lines when it ended or is late."""
        deadline = time.monotonic() + _START_S
        while True:
            with socket.socket(socket.AF_UNIX) as sock:
                try:
                    sock.connect(self.path)
                    return
                except OSError:
                    if time.monotonic() > deadline or self.process.poll() is not None:
                        raise RuntimeError(f"{self.path} is not served: {self.tail()}") from None
                    time.sleep(0.02)

    def tail(self) -> str:
        """Return the end of what it has printed."""
        return self.log.read_text(errors="replace")[-800:]


@contextlib.contextmanager
def process_on(path: str, words: list[str]) -> Iterator[Server]:
    """Run `python WORDS` and yield it at once; it ends with the block. `Server.wait` says when it is up."""
    log = Path(f"{path}.out")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield Server(process, path, log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start_worker(
    source: Path,
    path: str,
    convention: str,
    target: str = "",
    options: Mapping[str, str] | None = None,
    *,
    profile: bool = False,
) -> contextlib.AbstractContextManager[Server]:
    """Serve a source directory on a unix socket; see `process_on`. A profiled one prints at its end."""
    profiler = ["-m", "cProfile", "-s", "tottime"] if profile else []
    words = [*profiler, "-m", "bench.served", str(source), path, convention, target]
    for key, value in (options or {}).items():
        words += ["--option", f"{key}={value}"]
    return process_on(path, words)


def environment_of(requirements: str) -> str:
    """Return the package directory of an environment, made if it is not there; "" where none is needed."""
    from pelton.builders import environment

    made = asyncio.run(environment.ensure(requirements, (), envs_dir=cache() / "environments"))
    return made.site_packages


def serve(source: Path, path: str, convention: str, target: str, options: Mapping[str, str]) -> None:
    """Become the worker of a source directory; returns when it is told to end."""
    from pelton.builders import detect, environment
    from pelton.cli.tables import CONVENTIONS, resolve_convention
    from pelton.dataplane import loader
    from pelton.dataplane.load_page import LoadPage
    from pelton.dataplane.streams import Streams
    from pelton.dataplane.worker import Worker, WorkerSettings, run
    from pelton.model.convention import SERIAL
    from pelton.model.desired import Workload

    found = detect.detect(
        source,
        {name: resolve_convention(name) for name in CONVENTIONS},
        detect.Wanted(convention=convention, target=target),
    )
    packages = asyncio.run(
        environment.ensure(
            environment.read_requirements(source), found.implied, envs_dir=cache() / "environments"
        )
    ).site_packages
    workload = Workload(
        namespace="default",
        name="hello",
        revision="1",
        bundle=str(source),
        environment=packages,
        convention=convention,
        source=found.source,
        target=found.target,
        signature=found.signature,
        concurrency=1 if convention in SERIAL else int(options.get("concurrency", 0)),
        options={**found.options, **options},
    )
    settings = WorkerSettings(
        instance="hello-1",
        namespace="default",
        name="hello",
        revision="1",
        bundle=str(source),
        concurrency=workload.concurrency,
        body_limit_bytes=workload.body_limit_bytes,
    )
    spool = Streams(os.open(f"{path}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    worker = Worker(settings, LoadPage(f"{path}.page", create=True), spool=spool)
    loader.enter_environment(packages, str(source))
    function = loader.load(
        workload,
        resolve_convention(convention),
        worker.send,
        worker.send_async,
        worker.defer,
        state=worker.state,
        state_async=worker.state_async,
    )
    gc.collect()
    gc.freeze()  # as the process does that workers are forked from
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(256)
    spool.install()
    run(worker, function, [sock])
    spool.uninstall()  # a profile goes where this process prints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("socket")
    parser.add_argument("convention")
    parser.add_argument("target", nargs="?", default="")
    parser.add_argument("--option", action="append", default=[])
    asked = parser.parse_args()
    options = dict(item.split("=", 1) for item in asked.option)
    serve(asked.source, asked.socket, asked.convention, asked.target, options)


if __name__ == "__main__":
    main()
