"""The child of `pelton run`: detects, installs, loads and serves one version of a source in this process.

Wires `builders/detect.py`, `builders/environment.py`, `dataplane/loader.py` and `dataplane/worker.py`.
Outputs, states and event triggers go as far as they can without a platform: `cli/run_outputs.py`. Forked by
`cli/run.py`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from pelton.builders import bundle, detect, environment
from pelton.cli.home import Home
from pelton.cli.import_profile import ImportProfile
from pelton.cli.printing import tell
from pelton.cli.tables import CONVENTIONS, resolve_convention
from pelton.dataplane import loader, worker
from pelton.dataplane.load_page import LoadPage
from pelton.errors import BuildError, PeltonError, SourceError
from pelton.model.convention import DEFERRED, serial_limit
from pelton.model.desired import Workload
from pelton.model.invocation import Deferred, Delivered, Event, Invocation, LoadedFunction
from pelton.sdk.context import DaprTrigger, RuntimeContext

__all__ = ["GRACE_S", "Asked", "Loaded", "load", "report", "serve", "shared_page", "stamp"]

GRACE_S: Final = 5.0
_PROFILE_FROM_MS: Final = 100.0
_MOST_LATER: Final = 1_000
_BUSY_S: Final = 0.1
_FLUSH_S: Final = 0.02
"""Access lines wait this long for company: one write per request would halve the throughput."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
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
    access_log: bool = True


@dataclass(frozen=True, slots=True)
class Loaded:
    """A function that is ready to be called in this process."""

    detected: detect.Detected
    workload: Workload
    worker: worker.Worker
    function: LoadedFunction
    control: socket.socket | None
    profile: ImportProfile


def report(exc: PeltonError) -> None:
    """Print an error, and before it what there is of its log."""
    if isinstance(exc, BuildError):
        for line in exc.log_tail:
            print(line, file=sys.stderr)
    tell(f"error: {exc}")


def stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return name, time and size of every file that matters; compared, never interpreted."""
    try:
        return tuple((name, status.st_mtime_ns, status.st_size) for name, status in bundle.walk(folder))
    except SourceError:
        return ()  # the directory is being replaced; the next look will see


def shared_page() -> LoadPage:
    """Return a load page that a child forked later shares."""
    fd = os.memfd_create("pelton-load-page")
    try:
        return LoadPage(fd, create=True)
    finally:
        os.close(fd)


@functools.cache
def own_errors() -> TextIO:
    """Return standard error with a descriptor of its own, which outlives user code that closes the other."""
    try:
        return open(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: PTH123 -- a descriptor, kept open
    except OSError:  # there is none
        return sys.stderr


def _prepare(wanted: Asked) -> tuple[detect.Detected, str]:
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
    requirements = environment.requirements_of(wanted.folder, found.options)
    if environment.key_of(requirements, found.implied):
        made = environment.ensure(requirements, found.implied, envs_dir=Home().environments)
        return found, asyncio.run(made).site_packages
    return found, ""


def load(wanted: Asked, page: LoadPage, *, port: int) -> Loaded:
    """Make this process the function's.

    Args:
        wanted: What to load.
        page: Its load page.
        port: TCP port that it listens on, for its environment; 0 for none.

    Raises:
        PeltonError: It cannot be found, installed or loaded. What was spent on imports is printed.
    """
    found, packages = _prepare(wanted)
    convention = resolve_convention(found.convention)
    options = {**found.options, **wanted.options}
    timeout_s = options.get("request-timeout", "")
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
        concurrency=_whole(options.get("concurrency", ""), serial_limit(found.convention, os.environ)),
        request_timeout_s=_seconds(timeout_s) if timeout_s else 300.0,
        options=options,
    )
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # text streams of this process
        # As on the platform: code that closes them would silence, or fail, every later invocation.
        stream.close = stream.flush  # type: ignore[method-assign]
    if port:
        os.environ.setdefault("PORT", str(port))
    context = RuntimeContext.of(workload.context)
    context.dapr_triggers += [
        DaprTrigger(
            name=trigger.name or f"schedule-{number}",
            component_type="bindings.cron",
            input_name=trigger.name,
            metadata={"schedule": trigger.value},
        )
        for number, trigger in enumerate(found.triggers)
        if trigger.kind == "cron"
    ]
    control = None
    if context.outputs or context.states or context.dapr_triggers:
        from pelton.cli import run_outputs  # drivers are heavy and most functions need none

        control = run_outputs.start(workload.namespace, workload.name, context)
    instance = worker.Worker(_settings(workload), page, errors=own_errors())
    loader.enter_environment(packages, workload.bundle)
    profile = ImportProfile()
    try:
        with profile:
            function = loader.load(
                workload,
                convention,
                instance.send,
                instance.send_async,
                _Later(instance, found.convention).defer,
                state=instance.state,
                state_async=instance.state_async,
            )
    except PeltonError:
        print(profile.text().replace("loaded in", "failed after"), file=sys.stderr)
        raise
    return Loaded(found, workload, instance, function, control, profile)


def _settings(workload: Workload) -> worker.WorkerSettings:
    return worker.WorkerSettings(
        instance="run",
        namespace=workload.namespace,
        name=workload.name,
        revision=workload.revision,
        bundle=workload.bundle,
        grace_s=GRACE_S,
        concurrency=workload.concurrency,
        request_timeout_s=workload.request_timeout_s,
        body_limit_bytes=workload.body_limit_bytes,
    )


def _seconds(text: str) -> float:
    from pelton.quantity import parse_duration

    try:
        seconds = float(text) if text.replace(".", "", 1).isdigit() else parse_duration(text)
    except ValueError as exc:
        raise SourceError(f"request-timeout {text!r} is no duration", hint="e.g. 30s or 1m30s") from exc
    if seconds < 0:
        raise SourceError(f"request-timeout {text!r} is negative", hint="0 stands for no limit.")
    return seconds


def _whole(text: str, default: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise SourceError(f"concurrency {text!r} is no whole number", hint="0 stands for no limit.")
    return int(text)


def serve(wanted: Asked, sock: socket.socket, page: LoadPage) -> None:
    """Load and serve in this process, which is the function's from here on."""
    address, port = sock.getsockname()[:2]
    loaded = load(wanted, page, port=port)
    url = f"http://{f'[{address}]' if ':' in address else address}:{port}"

    def ready() -> None:
        lines = [
            f"ready {url} convention={loaded.detected.convention} target={loaded.function.target} "
            f"signature={loaded.function.signature}",
            f"try   curl {_curl_flags(loaded)}{url}/",
        ]
        if loaded.profile.total_ms >= _PROFILE_FROM_MS:
            lines.append(loaded.profile.text())
        tell("\n".join(lines))

    worker.run(
        loaded.worker,
        loaded.function,
        http=[sock],
        control=loaded.control,
        on_ready=ready,
        on_answer=_AccessLog() if wanted.access_log else None,
    )


def _curl_flags(loaded: Loaded) -> str:
    """Return what makes `curl` post something that the function takes."""
    if loaded.function.signature in {"cloudevent", "event"}:
        headers = {"specversion": "1.0", "id": "1", "source": "curl", "type": "test"}
        flags = "".join(f"-H 'ce-{name}: {value}' " for name, value in headers.items())
        return f"{flags}-H 'content-type: application/json' -d '{{\"hello\": \"world\"}}' "
    return '-d \'{"name": "world"}\' ' if loaded.function.signature == "typed" else ""


class _Later:
    """Carries out what the function accepts for later: with the platform's pauses, in this process only."""

    def __init__(self, instance: worker.Worker, convention: str) -> None:
        self._worker = instance
        self._attempts, self._pause_s, self._longest_s = DEFERRED.get(convention, (1, 1.0, 1.0))
        self._known: dict[str, asyncio.Task[None]] = {}

    async def defer(self, deferred: Deferred) -> Delivered:
        """Accept it; refused when too much waits already."""
        if len(self._known) >= _MOST_LATER:
            return Delivered(ok=False, error=f"{_MOST_LATER} invocations wait already")
        if deferred.id not in self._known:
            task = asyncio.create_task(self._carry_out(deferred))
            self._known[deferred.id] = task
            task.add_done_callback(lambda _task: self._known.pop(deferred.id, None))
        return Delivered(ok=True, metadata={"id": deferred.id})

    async def _carry_out(self, deferred: Deferred) -> None:
        pause_s, outcome, reason = self._pause_s, "", ""
        for attempt in range(1, self._attempts + 1):
            event = Event(
                kind="deferred",
                component="later",
                component_type="memory",
                topic="",
                data=deferred.data,
                content_type=deferred.content_type,
                attributes={"id": deferred.id},
                metadata=dict(deferred.metadata),
                attempt=attempt,
            )
            outcome = "busy"
            while outcome == "busy":  # its queue is full, or it is being stopped: no attempt
                outcome, reason = await self._worker.handle(event, deferred.id)
                if outcome == "busy":
                    await asyncio.sleep(_BUSY_S)
            if outcome in {"ok", "drop"} or attempt == self._attempts:
                break
            tell(f"later {deferred.id} failed: {reason}; again in {pause_s:g} s")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, self._longest_s)
        if outcome == "ok":
            tell(f"later {deferred.id} ok attempt={attempt}")
        else:
            tell(f"later {deferred.id} given up: {reason}")


class _AccessLog:
    """A line per HTTP answer on standard error: `GET /path 200 0.4 ms warm`, written some at a time."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._first = True
        self._write: Callable[[str], Any] = own_errors().write

    def __call__(self, invocation: Invocation, status: int, seconds: float) -> None:
        heat = "warm"
        if self._first:
            self._first = False
            heat = "cold"
        if not self._lines:
            asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)
        target = invocation.target.decode("latin-1")
        self._lines.append(f"{invocation.method} {target} {status} {seconds * 1e3:.1f} ms {heat}\n")

    def flush(self) -> None:
        """Write what is there."""
        lines, self._lines = self._lines, []
        try:
            self._write("".join(lines))
        except OSError:  # a full disk, a pipe that nobody reads
            return
