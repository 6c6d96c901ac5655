"""Any program: an executable that listens on $PORT or $PELTON_SOCKET, in whatever language.

The worker stays a worker (gate, deadlines, load page, logs, events) and the program is its child
(`sdk/program.py`). HTTP/1.1 goes through `sdk/forward.py`; with `pelton.dev/protocol: h2c` the worker parses
nothing and passes bytes on (`sdk/h2.py`), for gRPC servers. Nothing is spawned in `load`, which may happen in
a template that is forked later, but in `start`.
Decided here, since no contract speaks of it: annotations `command`, `protocol` (`http` or `h2c`) and
`start-timeout`; a program that ends by itself ends its worker with exit code 1; events arrive as POST / with
`ce-` headers; any answer from 200 to 299 accepts one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from pelton.errors import FunctionLoadError
from pelton.model.convention import Facts, Match, Tree
from pelton.model.invocation import Invocation, LoadedFunction, LoadRequest, Reply
from pelton.sdk.event import as_request
from pelton.sdk.forward import ForwardError, TooLongError, Tunnel, Upstream
from pelton.sdk.h2 import Splice
from pelton.sdk.program import Program, command_line, free_port, socket_path, what_happened

__all__ = ["FACTS", "IMPLIED", "NAME", "detect", "load"]

NAME: Final = "process"
IMPLIED: Final[dict[str, str]] = {}
FACTS: Final = Facts(
    title="Any program",
    looks_for="nothing in the source: named by --command or pelton.dev/command",
    triggers="HTTP; gRPC (pelton.dev/protocol: h2c); events as HTTP requests",
    input="HTTP request",
    output="HTTP response; 200 to 299 accepts an event",
    address="the program, 127.0.0.1:$PORT or the unix socket $PELTON_SOCKET",
    protocol="HTTP/1.1, or HTTP/2 without TLS",
    port="$PORT, a free one for each instance",
    code="any executable in the source directory or in PATH, without a shell",
    forms={
        "http": "HTTP request",
        "cloudevent": "HTTP request, as sent",
        "timer": "POST / with ce- headers",
        "record": "POST / with ce- headers",
    },
    failure="the program's own answers; 502 when it ends or hangs up, 504 when it is too slow",
    concurrency="many (container-concurrency)",
)
_START_TIMEOUT_S: Final = 30.0
_STOP_S: Final = 5.0
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")


def detect(tree: Tree) -> tuple[Match, ...]:
    """Return a match where the user asked for this convention; nothing in a tree says that it is one."""
    if tree.asked != NAME:
        return ()
    return (Match(target=tree.target, signature="process", rule="a program named by its command"),)


def load(request: LoadRequest) -> LoadedFunction:
    """Check the command and prepare to run it.

    Raises:
        FunctionLoadError: No command, a program that is missing or not executable, or a bad option.
    """
    _enter_venv()
    argv = command_line(request.options.get("command", ""), request.bundle)
    protocol = request.options.get("protocol", "").strip().lower() or "http"
    protocol = "h2c" if protocol == "grpc" else protocol
    if protocol not in ("http", "h2c"):
        raise FunctionLoadError(
            f"there is no protocol {protocol!r}",
            where="pelton.dev/protocol",
            hint="Write http, or h2c for a gRPC server.",
        )
    child = _Child(request, argv, _seconds(request.options.get("start-timeout", "")), h2c=protocol == "h2c")
    return LoadedFunction(
        call=child.refuse_event if child.h2c else child.call,
        sync=False,
        streams_body=not child.h2c,
        signature="process",
        target=request.target,
        start=child.start,
        stop=child.stop,
        probe=child.probe,
        upgrade=None if child.h2c else child.upgrade,
        raw=child.raw if child.h2c else None,
    )


def _seconds(text: str) -> float:
    if not text:
        return _START_TIMEOUT_S
    from pelton.quantity import parse_duration

    try:
        seconds = float(text) if text.replace(".", "", 1).isdigit() else parse_duration(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise FunctionLoadError(
            f"the start timeout {text!r} is no time", where="pelton.dev/start-timeout", hint="Write e.g. 45s."
        )
    return seconds


def _enter_venv() -> None:
    """Let the command name what requirements.txt installed: put the environment's `bin` in front of PATH."""
    for entry in reversed(sys.path):
        root = entry.rpartition("/lib/")[0]
        if entry.endswith("/site-packages") and os.path.exists(f"{root}/pyvenv.cfg"):  # noqa: PTH110 -- no pathlib here
            path = os.environ.get("PATH", os.defpath)
            if not path.startswith(f"{root}/bin:"):
                os.environ["PATH"] = f"{root}/bin:{path}"
                os.environ["VIRTUAL_ENV"] = root
            return


class _Child:
    """The program of one worker."""

    def __init__(self, request: LoadRequest, argv: list[str], timeout_s: float, *, h2c: bool) -> None:
        self.h2c = h2c
        self._request = request
        self._argv = argv
        self._timeout_s = timeout_s
        self._program: Program | None = None
        self._upstream: Upstream
        self._ended_by_itself = False

    async def start(self) -> None:
        request = self._request
        port, path = free_port(), socket_path()
        # K_*: by these a program knows what it is, on Knative as here
        named = {"K_SERVICE": request.name, "K_REVISION": request.revision}
        env = {name: value for name, value in named.items() if value and name not in os.environ}
        env.update({"PORT": str(port), "PELTON_SOCKET": path})
        if "DAPR_GRPC_PORT" in os.environ:
            env["APP_PORT"] = str(port)  # what Dapr's SDKs and examples listen at
        self._program = program = Program(
            self._argv, env=env, cwd=request.bundle, port=port, socket=path, on_exit=self._ended
        )
        try:
            await program.start()
            await program.ready(self._timeout_s)
        except BaseException:
            await program.stop(_STOP_S)
            raise
        self._upstream = Upstream(program.address, body_limit_bytes=request.body_limit_bytes)

    async def probe(self) -> None:
        """Start the program and end it, to see whether it listens."""
        await self.start()
        await self.stop()

    def _ended(self, status: int) -> None:
        """End this worker, too, in order: what runs gets its answer, and whoever asks next a new instance."""
        assert self._program is not None  # noqa: S101 -- it has just ended
        if not self._program.address:
            return  # `start` says it
        self._ended_by_itself = True
        text = f"{self._program.name} {what_happened(status)}; this instance ends with it"
        print(text, file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    async def stop(self) -> None:
        if self._program is None:
            return
        if self._program.address:
            self._upstream.close()
        await self._program.stop(_STOP_S)
        if self._ended_by_itself:
            await asyncio.sleep(0)  # the last answers leave at the end of a turn
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    async def call(self, invocation: Invocation) -> Reply:
        if invocation.event is not None:
            invocation = as_request(invocation)
        try:
            return await self._upstream.forward(invocation)
        except TooLongError:
            return Reply(413, [_TEXT], f"the body exceeds {self._request.body_limit_bytes} bytes\n".encode())
        except ForwardError as exc:
            text = str(exc)
            print(text, file=sys.stderr)
            return Reply(502, [_TEXT], f"{text} (invocation {invocation.id})\n".encode(), error=text)

    async def refuse_event(self, invocation: Invocation) -> Reply:
        del invocation  # only events come here: HTTP goes through `raw`
        text = "a program with pelton.dev/protocol: h2c takes no events"
        return Reply(501, [_TEXT], text.encode(), retry=False, error=text)

    def upgrade(self, invocation: Invocation, transport: Any, rest: bytes) -> asyncio.Protocol:
        assert self._program is not None  # noqa: S101 -- it is serving
        tunnel = Tunnel(self._program.address, invocation, rest)
        tunnel.connection_made(transport)
        return tunnel

    def raw(self, begin: Callable[[], Callable[[], None]]) -> asyncio.Protocol:
        return Splice(self._connect, begin)

    async def _connect(self, factory: Callable[[], asyncio.Protocol]) -> Any:
        assert self._program is not None  # noqa: S101 -- it is serving
        loop, address = asyncio.get_running_loop(), self._program.address
        if isinstance(address, str):
            transport, _ = await loop.create_unix_connection(factory, address)
            return transport
        tcp, _ = await loop.create_connection(factory, *address)
        return tcp
