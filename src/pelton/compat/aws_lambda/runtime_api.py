"""A Lambda runtime as a child of the worker: `awslambdaric` or a `bootstrap`, behind the Runtime API.

`load` finds the program; `Runtime` starts it with the instance, hands it one invocation after the other
through `api.py`, kills it when one takes too long and starts it again, and keeps the extensions
(`extensions.py`) alive beside it. Nothing is started in `load`, since templates fork after it.
Source: `faas-conventions` contract, sections 2.1 to 2.5. Decided where it is silent: an invocation that finds
no runtime waits for a new init, and its time limit covers that; after a failed init the next invocation tries
again; invocations that a dying runtime had not been handed yet go to its successor.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from pelton.compat.aws_lambda import doors
from pelton.compat.aws_lambda.api import Pending, RuntimeApi, error_result
from pelton.compat.aws_lambda.api_http import Request
from pelton.compat.aws_lambda.calls import LambdaCall, LambdaResult
from pelton.compat.aws_lambda.context import FunctionInfo, environment, info_of
from pelton.compat.aws_lambda.extensions import MAX_EXTENSIONS, Extensions, Tell
from pelton.compat.aws_lambda.logs import platform_lines
from pelton.compat.aws_lambda.output import RuntimeOutput
from pelton.errors import FunctionLoadError
from pelton.model.invocation import LoadedFunction, LoadRequest
from pelton.sdk.program import Program, command_line, what_happened

__all__ = ["Runtime", "RuntimePlan", "load"]

_BOOTSTRAPS: Final = ("/opt/bootstrap", "/var/runtime/bootstrap")
_OPT_EXTENSIONS: Final = "/opt/extensions"
_INIT_S: Final = 10.0
"""How long a start waits for the runtime's first `next`; after that, invocations wait instead."""
_LEAD_S: Final = 0.02
"""How much earlier than the worker an invocation is given up, so that the answer is the platform's own."""
_READ_S: Final = 0.1
"""How long the last words of an ended runtime are waited for, if a descendant holds its connection."""
_SHUTDOWN_S: Final = 2.0
_RUNTIME_SHARE: Final = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimePlan:
    """What to run.

    Attributes:
        argv: The runtime's program (absolute path) and arguments.
        env: Variables besides the worker's own, without AWS_LAMBDA_RUNTIME_API.
        extensions: Executables of external extensions, absolute paths.
        several: Whether it takes several invocations at once.
        caching: Whether `restore/next` is served.
        limit_s: Seconds per invocation, besides the platform's limit.
    """

    argv: Sequence[str]
    env: dict[str, str]
    extensions: Sequence[str] = ()
    limit_s: float = float("inf")
    several: bool = False
    caching: bool = False


def load(request: LoadRequest) -> LoadedFunction:
    """Find the runtime's program and wrap it; it is started with the instance.

    Raises:
        FunctionLoadError: There is none, or it cannot be run.
    """
    info = info_of(request)
    runtime = Runtime(plan_of(request, info), info)
    return doors.serve(
        request,
        info,
        runtime.invoke,
        sync=False,
        signature="runtime",
        start=runtime.start,
        stop=runtime.stop,
        probe=runtime.probe,
    )


def plan_of(request: LoadRequest, info: FunctionInfo) -> RuntimePlan:
    """Return what to run for a function."""
    python = _python()
    command = request.options.get("command", "")
    env = {"LAMBDA_RUNTIME_DIR": "/var/runtime"}
    if command:
        argv = command_line(command, info.task_root)
    elif request.options.get("lambda-runtime") == "awslambdaric":
        _check_client(request)
        argv = [python, "-m", "awslambdaric", _handler(request)]
    else:
        argv = [_bootstrap(info.task_root)]
    is_client = "awslambdaric" in argv
    env |= environment(info, runtime=_python_name() if is_client else "")
    caching = request.options.get("lambda-init-caching") == "true"
    if caching:
        env["AWS_LAMBDA_INITIALIZATION_TYPE"] = "snap-start"
    folder = python.rpartition("/")[0]
    if _site_packages():
        env["PATH"] = f"{folder}:{os.environ.get('PATH', os.defpath)}"
    concurrency = os.environ.get("AWS_LAMBDA_MAX_CONCURRENCY", "")
    return RuntimePlan(
        argv=argv,
        env=env,
        extensions=_executables(f"{info.task_root}/extensions", _OPT_EXTENSIONS),
        several=concurrency.isdecimal() and int(concurrency) > 0,
        caching=caching,
        limit_s=_time_limit_s(),
    )


def _handler(request: LoadRequest) -> str:
    """Return the handler string; a bare function name is one of the source file's."""
    target, file = request.target, request.source.removeprefix(f"{request.bundle}/")
    return f"{file.removesuffix('.py')}.{target}" if "." not in target and file.endswith(".py") else target


def _time_limit_s() -> float:
    """Return the emulator's own limit, AWS_LAMBDA_FUNCTION_TIMEOUT; inf where it is not set."""
    try:
        return float(os.environ.get("AWS_LAMBDA_FUNCTION_TIMEOUT", "")) or float("inf")
    except ValueError:
        return float("inf")


def _site_packages() -> str:
    """Return the package directory of the function's environment, "" when it has none."""
    entries = [entry for entry in sys.path if entry.endswith("/site-packages")]
    return entries[-1] if entries else ""


def _python() -> str:
    """Return the interpreter of the function's environment, else the one that Pelton's was made from."""
    packages = _site_packages()
    python = f"{packages.rpartition('/lib/')[0]}/bin/python"
    if packages and os.access(python, os.X_OK):
        return python
    return getattr(sys, "_base_executable", "") or sys.executable


def _python_name() -> str:
    return f"python{sys.version_info[0]}.{sys.version_info[1]}"


def _check_client(request: LoadRequest) -> None:
    from importlib.util import find_spec

    if find_spec("awslambdaric") is None:
        raise FunctionLoadError(
            "the runtime client awslambdaric is not installed",
            where="pelton.dev/lambda-runtime",
            hint="Add awslambdaric to requirements.txt.",
        )
    if not request.target:
        raise FunctionLoadError(
            "the runtime client needs a handler", where=request.source, hint="Name one: --target mod.func."
        )


def _bootstrap(task_root: str) -> str:
    places = (f"{task_root}/bootstrap", *_BOOTSTRAPS)
    for place in places:
        if os.path.isfile(place):  # noqa: PTH113 -- pathlib costs a worker 8 ms of imports
            if os.access(place, os.X_OK):
                return place
            raise FunctionLoadError(
                "bootstrap is not executable",
                where=place,
                hint="Run `chmod +x bootstrap` and apply it again.",
            )
    raise FunctionLoadError(
        "there is no bootstrap to run",
        where=task_root,
        hint=f"Put an executable file named bootstrap there; also looked for: {', '.join(_BOOTSTRAPS)}.",
    )


def _executables(*folders: str) -> list[str]:
    """Return the executables of the first folder that has a say about each name, sorted by name."""
    found: dict[str, str] = {}
    for folder in folders:
        try:
            names = os.listdir(folder)  # noqa: PTH208 -- as above
        except OSError:
            continue
        for name in sorted(names):
            path = f"{folder}/{name}"
            if os.path.isfile(path) and os.access(path, os.X_OK):  # noqa: PTH113 -- as above
                found.setdefault(name, path)
    return list(found.values())[:MAX_EXTENSIONS]


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why a runtime must end.

    Attributes:
        reason: The platform's word for it: `timeout` or `failure`.
        result: What its invocations end with; None says that it was killed.
        in_init: Whether its init failed, which its successor would do, too.
        exits: Whether the runtime is about to exit by itself.
    """

    reason: str
    result: LambdaResult | None = None
    in_init: bool = False
    exits: bool = False


class Runtime:
    """One runtime and its extensions.

    Args:
        plan: What to run.
        info: Who the function is.
    """

    def __init__(self, plan: RuntimePlan, info: FunctionInfo) -> None:
        self._plan = plan
        self._info = info
        self._arn = info.arn
        self._api = RuntimeApi(self, several=plan.several, caching=plan.caching)
        self._address = ""
        self._program: Program | None = None
        self._companions: list[Program] = []
        self._extensions = Extensions(info, (), Tell(moved=self._moved, failed=self._extension_failed))
        self._output = RuntimeOutput()
        self._report = info.options.get("platform-logs", "").lower() == "true"
        self._init_s = 0.0  # how long init took, until an invocation has reported it
        self._begun = 0.0
        self._keeper: asyncio.Task[None] | None = None
        self._alive = False
        self._failed_init: LambdaResult | None = None
        self._fault: asyncio.Future[_Fault]  # of the runtime that lives now; as the rest, made by `start`
        self._settled: asyncio.Event  # its init is over
        self._registered: asyncio.Event  # all its extensions are there, or one failed
        self._wanted: asyncio.Event  # another one is to be started

    @property
    def pid(self) -> int:
        """Process id of the runtime, 0 while there is none."""
        return self._program.pid if self._program is not None else 0

    # --- life ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the runtime and wait until it asks for an invocation, 10 s at most; its failure is no error.

        A runtime that does not come up answers each invocation with the reason, as in Lambda.
        """
        self._settled = asyncio.Event()
        self._registered = asyncio.Event()
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._fault = asyncio.get_running_loop().create_future()
        self._output.open()
        self._address = await self._api.open()
        self._keeper = asyncio.create_task(self._keep())
        await _within(self._settled.wait(), _INIT_S)

    async def probe(self) -> None:
        """Start the runtime and end it, to see whether its init succeeds; raises FunctionLoadError."""
        await self.start()
        failure = self._failed_init
        await self.stop()
        if failure is not None:
            raise FunctionLoadError(
                f"the runtime's init failed: {failure.error_type}: {failure.error_message}"
            )

    async def stop(self) -> None:
        """End the runtime and its extensions, in order if there are any of these."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})
        await self._end("spindown")
        for pending in [*self._api.reset(), *self._api.take_queue()]:
            pending.resolve(error_result("Runtime.ExitError", "the instance is being stopped"))
        self._api.close()
        self._output.close()

    async def _keep(self) -> None:
        """Have a runtime whenever one is wanted."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            self._alive = True
            self._fault = asyncio.get_running_loop().create_future()
            try:
                await self._live()
            except FunctionLoadError as exc:
                await self._end("failure")
                self._api.reset()
                self._init_over(error_result("Runtime.InvalidEntrypoint", exc.message))
            self._alive = False
            if self._api.queued:
                self._wanted.set()

    async def _live(self) -> None:
        """Start a runtime, wait for its end, and clear up after it."""
        self._settled.clear()
        self._registered.clear()
        self._begun = time.monotonic()
        env = {**self._plan.env, "AWS_LAMBDA_RUNTIME_API": self._address}
        await self._start_extensions(env)
        if not self._fault.done():
            program = Program(
                self._plan.argv, env=env, cwd=self._info.task_root, output=self._output.write_fd
            )
            await program.start()
            self._program = program
            ends: set[asyncio.Future[Any]] = {program.exited, self._fault}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not self._fault.done():
                await self._bury(_exit_text(program.exited.result()))
                return
        fault = self._fault.result()
        if fault.exits and self._program is not None:  # let it print what it has to say
            await asyncio.wait({self._program.exited}, timeout=_SHUTDOWN_S)
        why = _exit_text(-signal.SIGKILL)
        for pending in self._api.handed:
            result = _of_request(pending, fault.result) if fault.result is not None else None
            pending.resolve(result or _exit_result(pending, why))
        in_init = fault.in_init or not self._api.states.polled
        await self._end(fault.reason)
        self._api.reset()
        if in_init:
            text = "Error: Task timed out before the runtime asked for an invocation"
            self._init_over(fault.result or error_result("Sandbox.Timedout", text), waiting=fault.in_init)
        if not fault.in_init:
            self._wanted.set()

    async def _bury(self, why: str) -> None:
        """Clear up after a runtime that ended by itself."""
        await self._api.drained(_READ_S)  # its last answer may still be on the way
        polled = self._api.states.polled
        await self._end("failure")
        for pending in self._api.reset():
            pending.resolve(_exit_result(pending, why))
        if not polled:
            fault = self._fault.result() if self._fault.done() else None
            known = fault.result if fault is not None else None
            self._init_over(known or error_result("Runtime.ExitError", f"Error: {why}"))

    async def _start_extensions(self, env: Mapping[str, str]) -> None:
        """Start external extensions and wait until all have registered or one failed."""
        paths = self._plan.extensions
        tell = Tell(moved=self._moved, failed=self._extension_failed)
        self._extensions = Extensions(self._info, [path.rpartition("/")[2] for path in paths], tell)
        public = {name: value for name, value in env.items() if not name.startswith("_")}
        for path in paths:
            exited = partial(self._companion_exited, path.rpartition("/")[2])
            companion = Program([path], env=public, cwd="/", on_exit=exited)
            await companion.start()
            self._companions.append(companion)
        if paths:
            await _within(self._registered.wait(), _INIT_S)

    async def _end(self, reason: str) -> None:
        """End all processes; extensions are told and given 2 s in all."""
        program, self._program = self._program, None
        companions, self._companions = self._companions, []
        deadline = time.monotonic() + _SHUTDOWN_S
        if not companions and not self._extensions.any:
            if program is not None:
                await program.stop(0)
            return
        if program is not None:
            await program.stop(_SHUTDOWN_S * _RUNTIME_SHARE if reason == "spindown" else 0)
        told = self._extensions.shut_down(reason, int((time.time() + _SHUTDOWN_S) * 1000))
        if told and companions:
            left_s = max(0.0, deadline - time.monotonic())
            await asyncio.wait({companion.exited for companion in companions}, timeout=left_s)
        for companion in companions:
            await companion.stop(0)

    # --- invocations --------------------------------------------------------------------------------------

    async def invoke(self, call: LambdaCall) -> LambdaResult:
        """Have the runtime carry out an invocation; see calls.Invoke.

        Cancelling it leaves the runtime at work: its answer is dropped, its time limit counts.
        """
        if call.wants_tail or self._report:
            return await self._reported(call)
        return await self._run(call)

    async def _run(self, call: LambdaCall) -> LambdaResult:
        loop = asyncio.get_running_loop()
        pending = Pending(call, loop.create_future())
        now = time.monotonic()
        call.deadline = min(call.deadline, now + self._plan.limit_s)
        call.arn = call.arn or self._arn
        if call.deadline != float("inf"):
            left_s = call.deadline - now
            pending.timer = loop.call_later(max(0.0, left_s - _LEAD_S), self._expired, pending, left_s)
        if not self._alive:
            self._wanted.set()
        self._api.submit(pending)
        try:
            return await pending.future
        except asyncio.CancelledError:
            if self._api.withdraw(pending):
                pending.resolve(LambdaResult())
            raise

    async def _reported(self, call: LambdaCall) -> LambdaResult:
        """Run with START, END and REPORT, and keep the end of the log where that was asked for."""
        info, output = self._info, self._output
        start, _ = platform_lines(call.request_id, info.version, info.memory_mb, elapsed_s=0)
        output.begin()
        self._print(start)
        begun = time.monotonic()
        init_s, self._init_s = self._init_s, 0.0
        result = await self._run(call)
        output.drain()
        status = "timeout" if result.error_type == "Sandbox.Timedout" else ""
        _, end = platform_lines(
            call.request_id,
            info.version,
            info.memory_mb,
            elapsed_s=time.monotonic() - begun,
            init_s=init_s,
            status=status or ("error" if result.error else ""),
            used_mb=_peak_mb(self.pid),
        )
        self._print(end)
        if call.wants_tail:
            result.log_tail = output.tail()
        return result

    def _print(self, text: str) -> None:
        data = text.encode()
        self._output.add(data)
        if self._report:
            self._output.say(data)

    def _expired(self, pending: Pending, limit_s: float) -> None:
        """End an invocation whose time is up, and the runtime that has it or keeps it waiting."""
        pending.timer = None
        text = f"RequestId: {pending.call.request_id} Error: Task timed out after {limit_s:.2f} seconds"
        blocked = self._api.withdraw(pending) and not self._api.handed
        pending.resolve(error_result("Sandbox.Timedout", text))
        if pending.handed or blocked:
            self._break(_Fault("timeout"))

    def _break(self, fault: _Fault) -> None:
        if self._alive and not self._fault.done():
            self._fault.set_result(fault)

    def _init_over(self, failure: LambdaResult | None, *, waiting: bool = True) -> None:
        """Note that init has ended; with a failure, everything that waits is answered with it."""
        self._failed_init = failure
        if failure is not None:
            sys.stderr.write(f"the runtime's init failed: {failure.error_type}: {failure.error_message}\n")
            for pending in self._api.take_queue() if waiting else ():
                pending.resolve(_of_request(pending, failure))
        self._settled.set()

    # --- what the runtime does ----------------------------------------------------------------------------

    def polled(self) -> None:
        """See api.Watcher."""
        self._extensions.closed = True
        self._init_s = time.monotonic() - self._begun
        self._init_over(None)

    def init_failed(self, result: LambdaResult) -> None:
        """See api.Watcher; the runtime is expected to exit, and is ended if it does not."""
        self._break(_Fault("failure", result, in_init=True, exits=True))

    def may_invoke(self) -> bool:
        """See api.Watcher."""
        return self._extensions.ready and not self._fault.done()

    def invoked(self, pending: Pending, deadline_ms: int) -> None:
        """See api.Watcher."""
        if self._extensions.any:
            self._extensions.invoke(pending, deadline_ms)

    def other(self, request: Request) -> bool:
        """See api.Watcher."""
        return self._extensions.accept(request)

    # --- what extensions do -------------------------------------------------------------------------------

    def _moved(self) -> None:
        if self._extensions.registered:
            self._registered.set()
        self._api.pump()

    def _extension_failed(self, kind: str, text: str) -> None:
        in_init = not self._api.states.polled
        if not in_init:
            sys.stderr.write(f"{kind}: {text}\n")
        self._break(_Fault("failure", error_result(kind, f"Error: {text}"), in_init=in_init))
        self._registered.set()

    def _companion_exited(self, name: str, status: int) -> None:
        self._extension_failed("Extension.Crash", f"the extension {name} {what_happened(status)}")


def _peak_mb(pid: int) -> int:
    """Return the most memory that a process ever had resident, in MB; 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:  # noqa: PTH123 -- no pathlib here
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) // 1024
    except (OSError, ValueError):
        pass
    return 0


async def _within(awaitable: Awaitable[object], timeout_s: float) -> None:
    """Wait for something, but not forever."""
    try:
        await asyncio.wait_for(awaitable, timeout_s)
    except TimeoutError:
        pass


def _exit_text(status: int) -> str:
    """Return a return code in the platform's words."""
    if status == 0:
        return "Runtime exited without providing a reason"
    if status > 0:
        return f"Runtime exited with error: exit status {status}"
    try:
        word = (signal.strsignal(-status) or "").lower()
    except ValueError:
        word = ""
    return f"Runtime exited with error: signal: {word or -status}"


def _exit_result(pending: Pending, why: str) -> LambdaResult:
    return error_result("Runtime.ExitError", f"RequestId: {pending.call.request_id} Error: {why}")


def _of_request(pending: Pending, failure: LambdaResult) -> LambdaResult:
    """Return a failure of the runtime as the result of an invocation that met it."""
    if failure.error_message.startswith("Error: "):
        text = f"RequestId: {pending.call.request_id} {failure.error_message}"
        return error_result(failure.error_type, text)
    return failure
