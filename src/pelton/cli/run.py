"""`pelton run SOURCE`: one function in this process, without a platform.

Wires `builders/detect.py`, `builders/environment.py`, `dataplane/loader.py` and `dataplane/worker.py`.
Listens on 127.0.0.1 unless told otherwise: this is a developer's machine, not a container. With `--reload`
a parent process keeps the socket and forks a child per version of the source. Outputs go where they can
without a platform: `bindings.http` for real, topics to the terminal.
Source: the frameworks' variables PORT, FUNCTION_TARGET, FUNCTION_SOURCE, FUNCTION_SIGNATURE_TYPE,
FUNC_CONTEXT.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from pelton.builders import bundle, detect, environment
from pelton.cli.home import Home
from pelton.cli.ports_owner import claim
from pelton.cli.tables import CONVENTIONS, resolve_convention
from pelton.dataplane import loader, worker
from pelton.dataplane.load_page import LoadPage
from pelton.errors import BuildError, PeltonError, PortInUseError, SourceError, UsageError
from pelton.model.convention import SERIAL
from pelton.model.desired import Workload
from pelton.sdk.context import RuntimeContext

__all__ = ["run"]

_POLL_S: Final = 0.5
_GRACE_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What flags and environment say; "" for what they do not."""

    folder: Path
    file: str
    target: str
    signature: str
    convention: str
    host: str
    port: int
    context: Mapping[str, Any]
    install: bool
    options: Mapping[str, str]


def run(
    source: str | None = None,
    target: str | None = None,
    signature: str | None = None,
    convention: str | None = None,
    host: str | None = None,
    port: int | None = None,
    reload: bool = False,
    install: bool = True,
    options: Mapping[str, str] | None = None,
) -> int:
    """Serve one function until SIGTERM or Ctrl-C; returns the exit code, errors are printed.

    Args:
        source: Directory or Python file; FUNCTION_SOURCE when None, else the working directory.
        target: Name of the function; FUNCTION_TARGET.
        signature: Signature type; FUNCTION_SIGNATURE_TYPE.
        convention: Name in the convention table; detected when None.
        host: Address to listen on; 127.0.0.1.
        port: TCP port, 0 for a free one; PORT, else the port of FUNC_CONTEXT, else 8080.
        reload: Start again whenever a file of the source changes.
        install: Whether requirements.txt is installed into its environment.
        options: What annotations `pelton.dev/KEY` would say, without the prefix.
    """
    try:
        wanted = _wanted(source, target, signature, convention, host, port, install, options or {})
        sock = _listen(wanted.host, wanted.port)
        if reload:
            return _keep_running(wanted, sock)
        _serve(wanted, sock)
    except PeltonError as exc:
        _report(exc)
        return exc.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _wanted(
    source: str | None,
    target: str | None,
    signature: str | None,
    convention: str | None,
    host: str | None,
    port: int | None,
    install: bool,
    options: Mapping[str, str],
) -> _Wanted:
    env = os.environ
    # The command line's default is the working directory; a framework's variable is more specific than that.
    named = source if source not in {None, "", "."} else env.get("FUNCTION_SOURCE") or "."
    path = Path(str(named)).absolute()
    if not path.exists():
        raise SourceError(
            "there is no such source directory or file",
            where=str(named),
            hint="Check the path and its spelling.",
        )
    context = _context(env)
    return _Wanted(
        folder=path if path.is_dir() else path.parent,
        file="" if path.is_dir() else path.name,
        target=target or env.get("FUNCTION_TARGET", ""),
        signature=signature or env.get("FUNCTION_SIGNATURE_TYPE", ""),
        convention=convention or options.get("convention") or ("process" if "command" in options else ""),
        host=host or "127.0.0.1",
        port=port if port is not None else _port(env, context),
        context=context,
        install=install,
        options=options,
    )


def _context(env: Mapping[str, str]) -> Mapping[str, Any]:
    text = env.get("FUNC_CONTEXT", "")
    if not text:
        return {}
    try:
        context = json.loads(text)
    except ValueError as exc:
        raise UsageError(f"FUNC_CONTEXT is not JSON: {exc}") from exc
    if not isinstance(context, dict):
        raise UsageError("FUNC_CONTEXT is not a JSON object")
    return context


def _port(env: Mapping[str, str], context: Mapping[str, Any]) -> int:
    http = (context.get("triggers") or {}).get("http") or {}
    for name, value in (("PORT", env.get("PORT")), ("FUNC_CONTEXT", http.get("port") or context.get("port"))):
        if value not in {None, ""}:
            if not str(value).isdigit() or int(str(value)) > 65535:
                raise UsageError(
                    f"{name} says port {value!r}", hint="Expected 0 to 65535; --port wins over it."
                )
            return int(str(value))
    return 8080


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port} is not a port", hint="Expected 0 to 65535.")
    try:
        sock = claim(host, port, "--port")
    except PortInUseError as exc:
        raise PortInUseError(
            exc.message, hint="End that process, or choose another port: --port PORT, 0 for a free one."
        ) from None
    sock.listen(1024)
    sock.setblocking(False)
    return sock


def _report(exc: PeltonError) -> None:
    if isinstance(exc, BuildError):
        for line in exc.log_tail:
            print(line, file=sys.stderr)
    print(f"error: {exc}", file=sys.stderr, flush=True)


# --- one version of the source ---


def _prepare(wanted: _Wanted) -> tuple[detect.Detected, str]:
    """Detect and install; returns what was found and the environment's package directory ("" for none)."""
    found = detect.detect(
        wanted.folder,
        {name: resolve_convention(name) for name in CONVENTIONS},
        detect.Wanted(
            source=wanted.file,
            target=wanted.target,
            signature=wanted.signature,
            convention=wanted.convention,
        ),
    )
    environment.check_python(wanted.folder)
    if not wanted.install:
        return found, ""
    requirements = environment.read_requirements(wanted.folder)
    if environment.key_of(requirements, found.implied):
        made = environment.ensure(requirements, found.implied, envs_dir=Home().environments)
        return found, asyncio.run(made).site_packages
    return found, ""


def _serve(wanted: _Wanted, sock: socket.socket) -> None:
    """Load and serve in this process, which is the function's from here on."""
    found, packages = _prepare(wanted)
    convention = resolve_convention(found.convention)
    workload = Workload(
        namespace="default",
        name=str(wanted.context.get("name") or wanted.folder.name),
        revision="run",
        bundle=str(wanted.folder),
        environment=packages,
        convention=found.convention,
        source=found.source,
        target=found.target,
        signature=found.signature,
        context=dict(wanted.context),
        concurrency=1 if found.convention in SERIAL else 0,
        options={**found.options, **wanted.options},
    )
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # text streams of this process
    address, port = sock.getsockname()[:2]
    os.environ.setdefault("PORT", str(port))
    outputs = RuntimeContext.of(workload.context).outputs
    control = None
    if outputs:
        from pelton.cli import run_outputs  # drivers are heavy and most functions need none

        control = run_outputs.start(workload.namespace, workload.name, outputs)
    instance = worker.Worker(_settings(workload), _page())
    loader.enter_environment(packages, workload.bundle)
    function = loader.load(workload, convention, instance.send, instance.send_async, instance.defer)

    def ready() -> None:
        shown = f"[{address}]" if ":" in address else address
        print(
            f"ready http://{shown}:{port} convention={found.convention} target={function.target} "
            f"signature={function.signature}",
            file=sys.stderr,
            flush=True,
        )

    worker.run(instance, function, http=[sock], control=control, on_ready=ready)


def _settings(workload: Workload) -> worker.WorkerSettings:
    return worker.WorkerSettings(
        instance="run",
        namespace=workload.namespace,
        name=workload.name,
        revision=workload.revision,
        grace_s=_GRACE_S,
        concurrency=workload.concurrency,
        request_timeout_s=workload.request_timeout_s,
        body_limit_bytes=workload.body_limit_bytes,
    )


def _page() -> LoadPage:
    """Return a load page that nobody reads."""
    fd = os.memfd_create("pelton-load-page")
    try:
        return LoadPage(fd, create=True)
    finally:
        os.close(fd)


# --- --reload ---


def _keep_running(wanted: _Wanted, sock: socket.socket) -> int:
    """Fork a child per version of the source until SIGTERM or Ctrl-C."""
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: stopping.append(number))
    while not stopping:
        stamp = _stamp(wanted.folder)
        child = _fork(wanted, sock)
        pidfd = os.pidfd_open(child)
        ended = False
        try:
            while not stopping and _stamp(wanted.folder) == stamp:
                if ended:
                    time.sleep(_POLL_S)
                else:
                    ended = bool(_wait(pidfd, _POLL_S))
                    if ended:
                        print("waiting for a change of the source", file=sys.stderr, flush=True)
            if not ended:
                _end(child, pidfd)
        finally:
            os.close(pidfd)
            os.waitpid(child, 0)
        if not stopping:
            print("the source changed: starting again", file=sys.stderr, flush=True)
    return 0


def _wait(pidfd: int, seconds: float) -> list[int]:
    try:
        return select.select([pidfd], [], [], seconds)[0]
    except InterruptedError:
        return []


def _end(child: int, pidfd: int) -> None:
    """Let the child finish what runs, then kill it."""
    os.kill(child, signal.SIGTERM)
    if not _wait(pidfd, _GRACE_S + 1):
        os.kill(child, signal.SIGKILL)


def _fork(wanted: _Wanted, sock: socket.socket) -> int:
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _be_child(wanted, sock, parent)
    return child


def _be_child(wanted: _Wanted, sock: socket.socket, parent: int) -> NoReturn:
    from pelton.dataplane.isolation import die_with_parent

    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        die_with_parent(parent)
        _serve(wanted, sock)
        code = 0
    except PeltonError as exc:
        _report(exc)
        code = exc.exit_code
    except KeyboardInterrupt:
        code = 130
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return name, time and size of every file that matters; compared, never interpreted."""
    try:
        return tuple((name, status.st_mtime_ns, status.st_size) for name, status in bundle.walk(folder))
    except SourceError:
        return ()  # the directory is being replaced; the next look will see
