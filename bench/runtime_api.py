"""`awslambdaric` against Pelton's Runtime API and against a minimal server of the standard library.

The client is the real one in an environment of its own, the handler gives back its event, and invocations
follow each other without a pause. Ours is the whole path from `Runtime.invoke` to its result, with the
runtime's process, its time limit and the state machine; the peers are `http.server` as it comes (HTTP/1.0, a
thread and a connection for each request) and tuned (keep-alive, one write for each answer, no Nagle
algorithm), both handing out the same event without looking at anything. Only one of server and client works
at a time, so both have the first CPU: a switch there is cheaper, and steadier, than waking the other CPU.
Turns of half a second.
Run: python -m bench.runtime_api [--seconds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.machine import cpu_s, cpus, pin
from bench.peers import cache
from bench.table import Row, render, spread

CLIENT = "awslambdaric==4.2.2"
ROUNDS = 10
EVENT = json.dumps({"version": "2.0", "rawPath": "/hello", "headers": {"accept": "*/*"}, "body": "x" * 200})
HANDLER = "def handler(event, context):\n    return event\n"
SIDES = ("ours", "plain", "tuned")
PEERS = {"plain": "http.server as it comes", "tuned": "http.server, keep-alive and tuned"}
_READY_S = 30


class Side:
    """A server process and the client that it started or that was started for it."""

    def __init__(self, kind: str, python: str, folder: str) -> None:
        command = [sys.executable, "-m", "bench.runtime_api", "--serve", kind, "--client", python]
        self.process = subprocess.Popen(
            [*command, "--folder", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        self.client = int(self._answer()["client"])
        servers, _rest = cpus()
        pin([self.process.pid], servers)
        pin([self.client], servers)

    def turn(self, seconds: float) -> tuple[float, float, float]:
        """Return invocations per second, CPU microseconds of the server and of the client for each."""
        pids = (self.process.pid, self.client)
        before = [cpu_s(pid) for pid in pids]
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        answer = self._answer()
        used = [(cpu_s(pid) - start) / answer["count"] * 1e6 for pid, start in zip(pids, before, strict=True)]
        return answer["count"] / answer["seconds"], used[0], used[1]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def close(self) -> None:
        """End both."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


@contextlib.contextmanager
def sides() -> Iterator[dict[str, Side]]:
    """Start both."""
    python = client_python()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        (Path(folder) / "main.py").write_text(HANDLER)
        running = {}
        for kind in SIDES:
            running[kind] = side = Side(kind, python, folder)
            stack.callback(side.close)
        yield running


def client_python() -> str:
    """Return the interpreter of an environment with the client, made if it is not there."""
    from pelton.builders import environment

    made = asyncio.run(environment.ensure(CLIENT, (), envs_dir=cache() / "environments"))
    return f"{made.path}/bin/python"


def rows(seconds: float = 5.0) -> list[Row]:
    """Measure and return the lines for a table; about twice `seconds` long."""
    found: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in SIDES}
    with sides() as running:
        for side in running.values():
            side.turn(0.3)
        for _ in range(ROUNDS):
            for kind, side in running.items():
                found[kind].append(side.turn(seconds / ROUNDS))
    table = []
    units = {"invocations": "1/s", "CPU of the server": "us/invocation", "CPU of the client": "us/invocation"}
    for kind, peer_name in PEERS.items():
        for column, (name, unit) in enumerate(units.items()):
            ours, peer = ([turn[column] for turn in found[side]] for side in ("ours", kind))
            table.append(
                Row(
                    f"Runtime API, awslambdaric: {name}",
                    statistics.median(ours),
                    statistics.median(peer),
                    unit,
                    ">= 2" if (column, kind) == (0, "plain") else "",
                    spread(ours, peer),
                    f"peer: {peer_name}",
                )
            )
    return table


# --- the servers ------------------------------------------------------------------------------------------


def _say(**what: object) -> None:
    print(json.dumps(what), flush=True)


async def serve_ours(python: str, folder: str) -> None:
    """Invoke through the runtime as a worker does, one after the other, as told on stdin."""
    from pelton.compat.aws_lambda.calls import LambdaCall
    from pelton.compat.aws_lambda.context import FunctionInfo
    from pelton.compat.aws_lambda.runtime_api import Runtime, RuntimePlan

    info = FunctionInfo(
        name="hello",
        version="$LATEST",
        handler="main.handler",
        memory_mb="128",
        region="us-east-1",
        account="012345678912",
        log_group="",
        log_stream="",
        task_root=folder,
        timeout_s=30.0,
        options={},
    )
    runtime = Runtime(RuntimePlan(argv=[python, "-m", "awslambdaric", "main.handler"], env={}), info)
    await runtime.start()
    _say(client=runtime.pid)
    body = EVENT.encode()
    numbers = iter(range(10**9))
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        begun = time.monotonic()
        end = begun + float(line)
        count = 0
        while (now := time.monotonic()) < end:
            call = LambdaCall(request_id=f"id-{next(numbers)}", body=body, deadline=now + 30)
            result = await runtime.invoke(call)
            assert not result.error
            count += 1
        _say(count=count, seconds=time.monotonic() - begun)
    await runtime.stop()


def serve_peer(python: str, folder: str, *, tuned: bool) -> None:
    """Hand out one event after the other by `http.server`, as told on stdin."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    body = EVENT.encode()
    going = threading.Event()
    polled = threading.Event()
    done = threading.Event()
    state = {"count": 0, "end": 0.0}

    class Handler(BaseHTTPRequestHandler):
        if tuned:
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

        def do_GET(self) -> None:
            polled.set()
            going.wait()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Lambda-Runtime-Aws-Request-Id", "id-1")
            self.send_header("Lambda-Runtime-Deadline-Ms", str(int(time.time() * 1000) + 30_000))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()
            state["count"] += 1
            if time.monotonic() >= state["end"]:
                going.clear()
                done.set()

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {**os.environ, "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}"}
    client = subprocess.Popen(
        [python, "-m", "awslambdaric", "main.handler"], cwd=folder, env=env, stdout=sys.stderr
    )
    try:
        if not polled.wait(_READY_S):
            raise SystemExit("the client did not come up")
        _say(client=client.pid)
        for line in sys.stdin:
            done.clear()
            begun = time.monotonic()
            state.update(count=0, end=begun + float(line))
            going.set()
            done.wait()
            _say(count=state["count"], seconds=time.monotonic() - begun)
    finally:
        client.kill()
        client.wait()
        os._exit(0)  # handlers wait for clients that are no more


def main() -> None:
    """Print the rows, or be one of the servers."""
    parser = argparse.ArgumentParser(prog="python -m bench.runtime_api")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve == "ours":
        import uvloop

        uvloop.run(serve_ours(options.client, options.folder))
    elif options.serve:
        serve_peer(options.client, options.folder, tuned=options.serve == "tuned")
    else:
        print(render(rows(options.seconds)))


if __name__ == "__main__":
    main()
