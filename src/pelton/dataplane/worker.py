"""The process that answers: one gate, one deadline rule and one load page for HTTP requests and events.

Takes Invocations from `dataplane/http.py` and `dataplane/control.py`, decides with `dataplane/concurrency.py`
when and where user code runs (event loop, task, thread), and turns what it returns or raises into answers and
outcomes (design decisions 4, 8, 9). Started by `dataplane/template.py` and `cli/`; knows no convention: a
LoadedFunction is all it gets. A request to a fast sync function runs from parser to answer without a task, a
closure or a record (`begin`).
Over 600 lines, since HTTP, events, deadlines and modes all act on the same runs.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TextIO, cast

import uvloop

from pelton.dataplane import forks, wire
from pelton.dataplane.concurrency import MAX_THREADS, Admission, Gate, InlineChoice
from pelton.dataplane.control import Control
from pelton.dataplane.event_batch import SLICE_NS, BatchItem, EventBatch
from pelton.dataplane.http import Connection, Limits
from pelton.dataplane.http_body import BodyError, ClientGoneError
from pelton.dataplane.http_reply import ReplyError, plain_reply
from pelton.dataplane.http_server import Server
from pelton.dataplane.load_page import LoadPage
from pelton.dataplane.streams import INVOCATION, Streams
from pelton.dataplane.threads import Threads
from pelton.dataplane.traces import NO_TRACES, Traces
from pelton.dataplane.upgraded import Upgraded
from pelton.errors import DeliveryError
from pelton.model.invocation import Deferred, Delivered, Event, Invocation, LoadedFunction, Output, Reply
from pelton.model.state import StateAnswer, StateCall
from pelton.sdk import tracebacks
from pelton.sdk.own_loop import hide as hide_loop
from pelton.sdk.own_loop import install as install_loops

__all__ = ["Worker", "WorkerSettings", "keep_loop", "run"]

_INFINITY: Final = float("inf")
_NOBODY: Final = Invocation("-", "", b"", [])
_KEEP_NS: Final = InlineChoice.KEEP_NS
_LEFT_S: Final = 10.0
"""How long a function may go on answering a client that left; Daphne's limit for ASGI applications."""
_monotonic = time.monotonic
_monotonic_ns = time.monotonic_ns
_copy_context = contextvars.copy_context
_set_running_loop = asyncio._set_running_loop


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker is told about itself.

    Attributes:
        instance, namespace, name, revision: Who it is.
        bundle: Directory of its source, for tracebacks; "" unknown.
        concurrency: Invocations that may run at once, 0 for no limit.
        request_timeout_s: Seconds an invocation may take, 0 for no limit.
        body_limit_bytes: Longest request body.
        header_limit_bytes: Longest request head.
        head_timeout_s: Seconds a request head may take to arrive over TCP.
        grace_s: Seconds that running invocations get after SIGTERM.
        events: How many events it takes at all, then no more; 0 for any number.
    """

    instance: str
    namespace: str
    name: str
    revision: str
    bundle: str = ""
    concurrency: int = 0
    request_timeout_s: float = 300.0
    body_limit_bytes: int = 32 * 1024 * 1024
    header_limit_bytes: int = 64 * 1024
    head_timeout_s: float = 10.0
    grace_s: float = 30.0
    events: int = 0


_Teller = wire.Peer | BatchItem | asyncio.Future[tuple[str, str]]
"""Who delivered an event and is told its outcome."""


class _Run:
    """An invocation that waits, has a task or a thread, or came as an event."""

    # Class attributes instead of slots: most runs never set most of them, and one is made per async request.
    answered = False  # nobody waits for the result any more
    started = False
    token = -1
    task: asyncio.Task[None] | None = None
    context: contextvars.Context | None = None
    call: Callable[[Invocation], Any] | None = None
    reply: Any = None
    error: BaseException | None = None
    elapsed_ns = 0

    def __init__(
        self, invocation: Invocation, connection: Connection | None, peer: _Teller | None, deadline: float
    ) -> None:
        self.invocation = invocation
        self.connection = connection
        self.peer = peer
        self.deadline = deadline

    def execute(self) -> None:
        """Run sync user code on a thread; see threads.Job."""
        start = time.perf_counter_ns()
        try:
            assert self.context is not None and self.call is not None  # noqa: S101 -- set by _launch
            self.reply = self.context.run(self.call, self.invocation)
        except BaseException as exc:
            self.error = exc
        self.elapsed_ns = time.perf_counter_ns() - start


class _Exchange(_Run):
    """A run whose function answers by itself; the second argument of `LoadedFunction.serve`.

    Args:
        worker: Whose run it is; the rest as for `_Run`.
    """

    gone = False
    on_gone: Callable[[], None] | None = None
    streaming = False
    kept: Reply | None = None  # what an event's function answered: its outcome, once it has ended

    def __init__(
        self,
        invocation: Invocation,
        connection: Connection | None,
        peer: _Teller | None,
        deadline: float,
        worker: Worker,
    ) -> None:
        self.invocation = invocation  # as _Run does: one is made per request
        self.connection = connection
        self.peer = peer
        self.deadline = deadline
        self._worker = worker

    def reply(self, reply: Reply) -> None:
        """See model.invocation.Answer."""
        if self.answered:
            return
        connection = self.connection
        if connection is None:
            self.kept = self.kept or reply
            return
        self._worker._note_status(self.invocation, reply.status)
        self.answered = True  # from here on nothing limits the time
        self.deadline = _INFINITY
        self._worker._page.exempt(self.token)
        try:
            connection.reply(reply)
        except ReplyError as exc:
            self._worker._answer_unsendable(connection, self.invocation, exc)
        INVOCATION.set(self.invocation)  # the connection may have begun its next one in this context

    def start(self, reply: Reply) -> None:
        """See model.invocation.Answer."""
        connection = self.connection
        if connection is None:
            self._check_client()
            self.kept = self.kept or Reply(reply.status, reply.headers)
        elif self.answered:
            raise ClientGoneError("the answer has been given: the time limit has passed")
        else:
            connection.start_stream(reply)
            self._worker._note_status(self.invocation, reply.status)
            self.answered = self.streaming = True
            self.deadline = _INFINITY
            self._worker._page.exempt(self.token)

    async def write(self, chunk: bytes) -> None:
        """See model.invocation.Answer."""
        connection = self.connection
        if connection is None or not self.streaming:
            self._check_client()
        elif connection.write_chunk(chunk):
            await connection.drained()

    def end(self) -> None:
        """See model.invocation.Answer."""
        connection = self.connection
        if connection is not None and self.streaming:
            connection.end_stream()
            self.streaming = False
            INVOCATION.set(self.invocation)

    def leave(self) -> None:
        """Take note that the client left."""
        self.gone = True
        self.connection = None
        if self.on_gone is not None:
            self.on_gone()

    def _check_client(self) -> None:
        if self.gone:
            raise ClientGoneError("the client left before the end of the answer")


class Worker:
    """One instance of a function.

    Args:
        settings: Who it is and what it may.
        page: Its load page, already created.
        spool: Its output; without one, tracebacks go to `errors`.
        errors: Where tracebacks go without a spool; sys.stderr when None. One with a descriptor of its own
            outlives user code that closes the standard ones.

    Attributes:
        clients_gone: Clients that left before they had their answer.
        birth: How this instance began, for its first trace: tag -> value.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        page: LoadPage,
        *,
        spool: Streams | None = None,
        errors: TextIO | None = None,
    ) -> None:
        self.settings = settings
        self.clients_gone = 0
        self.streams_body = False
        self._page = page
        self._spool = spool
        self._errors = errors
        self._strayed = False
        self._timeout_s = settings.request_timeout_s or _INFINITY
        self._gate: Gate[_Run] = Gate(settings.concurrency)
        self._choice = InlineChoice()
        self._inline = False
        self._runs: set[_Run] = set()
        self._batches: dict[tuple[wire.Peer, int], EventBatch] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _INFINITY
        self._draining = False
        self._left = settings.events or None  # events to take; None for any number
        self._quiet: asyncio.Event | None = None
        self._control: Control | None = None
        self._upgraded: set[Upgraded] = set()
        self.birth: dict[str, str] = {}
        self._traces = NO_TRACES

    # --- outputs ------------------------------------------------------------------------------------------

    def send(self, output: Output) -> Delivered:
        """Hand an output to the runtime from a thread and wait for its answer.

        Raises:
            RuntimeError: Called on the event loop's thread, which it would block, or while nothing is served.
        """
        if self._loop is None:
            raise RuntimeError("outputs can be sent only while the function is being called")
        if threading.get_ident() == self._loop_thread:
            raise RuntimeError("this call would block the event loop; await the asynchronous form instead")
        future = asyncio.run_coroutine_threadsafe(self._deliver(output, INVOCATION.get()), self._loop)
        return future.result()

    async def send_async(self, output: Output) -> Delivered:
        """Hand an output to the runtime and wait for its answer, up to the invocation's deadline and 30 s."""
        if self._loop is None:
            raise RuntimeError("outputs can be sent only while the function is being called")
        return await self._deliver(output, INVOCATION.get())

    async def defer(self, deferred: Deferred) -> Delivered:
        """Have the runtime store an invocation for later; ok once it survives this process."""
        if self._control is None:
            return Delivered(ok=False, error="no platform is connected that could do it later")
        invocation = INVOCATION.get()
        return await self._control.defer(deferred, invocation.deadline if invocation else _INFINITY)

    async def _deliver(self, output: Output, invocation: Invocation | None) -> Delivered:
        if self._control is None:
            return Delivered(ok=False, error=f"output {output.name!r}: no platform is connected")
        if self._traces.open and not output.traceparent:
            output.traceparent = self._traces.traceparent(invocation)
        if invocation is None:
            return await self._control.deliver(output, "-", _INFINITY)
        return await self._control.deliver(output, invocation.id, invocation.deadline)

    def state(self, call: StateCall) -> StateAnswer:
        """Use a state store from a thread and wait for its answer.

        Raises:
            RuntimeError: As `send` does.
            PeltonError: The store refused, or no platform is there to ask.
        """
        if self._loop is None:
            raise RuntimeError("state can be used only while the function is being called")
        if threading.get_ident() == self._loop_thread:
            raise RuntimeError("this call would block the event loop; await it in a coroutine function")
        future = asyncio.run_coroutine_threadsafe(self._use_state(call, INVOCATION.get()), self._loop)
        return future.result()

    async def state_async(self, call: StateCall) -> StateAnswer:
        """Use a state store and return its answer; raises PeltonError."""
        return await self._use_state(call, INVOCATION.get())

    async def _use_state(self, call: StateCall, invocation: Invocation | None) -> StateAnswer:
        if self._control is None:
            raise DeliveryError("state: no platform is connected")
        if invocation is None:
            return await self._control.state(call, "-", _INFINITY)
        return await self._control.state(call, invocation.id, invocation.deadline)

    # --- life ---------------------------------------------------------------------------------------------

    async def serve(
        self,
        function: LoadedFunction,
        http: Sequence[socket.socket],
        control: socket.socket | None,
        *,
        on_ready: Callable[[], None] | None = None,
        on_answer: Callable[[Invocation, int, float], None] | None = None,
        signals: bool = True,
    ) -> None:
        """Answer until drained by SIGTERM, SIGINT or the control socket.

        Args:
            function: What to call.
            http: Listening sockets, unix or TCP.
            control: Listening unix socket, or None when there is no platform.
            on_ready: Called when connections are accepted.
            on_answer: Told of each HTTP answer: invocation, status, seconds.
            signals: Whether to handle SIGTERM and SIGINT; False in embedding programs.

        Cancelling it ends everything without waiting for what runs.
        """
        settings = self.settings
        self._loop = loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._quiet = asyncio.Event()
        self._stop = asyncio.Event()
        self._function = function
        self._call = function.call
        self.streams_body = function.streams_body
        self._unhandled = function.unhandled_paths
        self._unhandled_starts = tuple(function.unhandled_paths)
        self._aside = function.aside
        self._sync = function.sync
        self._exchange = None if function.sync else function.serve
        self._main = self._drive if self._exchange is None else self._attend
        self._may_inline = function.sync and not function.blocking
        ceiling = MAX_THREADS if function.sync else 0
        self._gate = Gate(settings.concurrency, ceiling=ceiling)
        self._page.mode("thread" if function.sync else "async")
        if function.sync:
            install_loops()
        self._threads: Threads[_Run] = Threads(loop, min(ceiling, self._gate.limit), self._thread_done)
        limits = Limits(
            head_bytes=settings.header_limit_bytes,
            body_bytes=min(settings.body_limit_bytes, function.body_limit_bytes or settings.body_limit_bytes),
            head_timeout_s=settings.head_timeout_s,
        )
        self._server = Server(self, limits)
        self._server.shared.on_answer = on_answer
        self._schedstat = -1
        try:
            self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # not every kernel has it
            pass
        self._run_delay_ns = self._read_run_delay()
        forks.watch(self)
        if loop.get_exception_handler() is None:
            loop.set_exception_handler(self._loop_failed)
        caught = (signal.SIGTERM, signal.SIGINT) if signals else ()
        try:
            if function.start is not None:
                await function.start()
            raw = function.raw
            await self._server.start(
                http, raw=None if raw is None else lambda: cast("asyncio.Protocol", raw(self._begin_raw))
            )
            if control is not None:
                self._control = Control(
                    describe=self._describe,
                    accept=self._accept_event,
                    accept_batch=self._accept_batch,
                    extend_batch=self._extend_batch,
                    cancel=self._cancel_event,
                    cancel_batch=self._cancel_batch,
                    drain=self.drain,
                    drained=self._stop.set,
                )
                await self._control.start(control)
                self._traces = self._server.shared.traces = self._tracing(self._control)
            for number in caught:
                loop.add_signal_handler(number, self._terminate)
            if on_ready is not None:
                on_ready()
            await self._stop.wait()
        finally:
            for number in caught:
                loop.remove_signal_handler(number)
            await self._shut_down()
            forks.forget(self)

    def _tracing(self, control: Control) -> Traces:
        settings = self.settings
        return Traces(
            service=f"{settings.namespace}/{settings.name}",
            tags={"service.instance.id": settings.instance, "pelton.revision": settings.revision},
            first_tags=self.birth,
            emit=control.span,
        )

    def _note_status(self, invocation: Invocation, status: int) -> None:
        if self._traces.open:
            self._traces.answered(invocation, status)

    async def drain(self, grace_s: float) -> None:
        """Take no new events, let connections end with their next answer, and wait until nothing runs.

        Args:
            grace_s: Longest wait in seconds; what still runs then is given up by whoever ends the process.
        """
        self._draining = True
        self._server.drain()
        for upgraded in list(self._upgraded):
            upgraded.shutdown()
        try:
            async with asyncio.timeout(grace_s):
                while self._gate.running or self._server.busy:
                    self._quiet_event().clear()
                    await self._quiet_event().wait()
        except TimeoutError:
            pass

    def quiet(self) -> None:
        """See http.Application."""
        self._quiet_event().set()

    def _quiet_event(self) -> asyncio.Event:
        assert self._quiet is not None  # noqa: S101 -- made by serve, before anything can ask
        return self._quiet

    def _terminate(self) -> None:
        if self._draining:  # the second signal: now
            self._stop.set()
            return
        self._draining = True
        self._drain_task = asyncio.create_task(self._drain_and_stop())

    async def _drain_and_stop(self) -> None:
        await self.drain(self.settings.grace_s)
        self._stop.set()

    async def _shut_down(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        try:
            if self._control is not None:
                await self._control.close()
        finally:  # also when a second end, by cancelling, comes while results are being sent
            self._server.close()
        tasks = [run.task for run in self._runs if run.task is not None]
        for run in self._runs:
            run.answered = True
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        self._threads.close()
        if self._schedstat >= 0:
            os.close(self._schedstat)
        if self._function.stop is not None:
            await self._function.stop()
        if self._spool is not None:
            self._spool.flush_partial()
        await asyncio.sleep(0)  # answers leave and transports close at the end of a turn

    def _describe(self) -> dict[str, Any]:
        settings, function = self.settings, self._function
        return {
            "instance": settings.instance,
            "revision": settings.revision,
            "pid": os.getpid(),
            "signature": function.signature,
            "target": function.target,
            "mode": self._page.mode_name,
        }

    # --- what comes in ------------------------------------------------------------------------------------

    def begin(self, connection: Connection, invocation: Invocation) -> None:
        """See http.Application. The whole of an inline call happens here."""
        target = invocation.target
        if target.startswith(self._unhandled_starts) and target.partition(b"?")[0] in self._unhandled:
            connection.reply(plain_reply(404, "not found", invocation.id))
            return
        start = _monotonic_ns()  # the one look at the clock before user code
        invocation.deadline = deadline = start * 1e-9 + self._timeout_s
        if self._aside is not None:
            try:
                answer = self._aside(invocation)
            except Exception as exc:  # a convention's mistake; without an answer the client would wait
                connection.reply(self._failure(invocation, exc))
                return
            if answer is not None:
                self._begin_aside(connection, invocation, answer)
                return
        gate = self._gate
        if not self._inline or gate.running >= gate.limit:
            if self._exchange is None:
                run = _Run(invocation, connection, None, deadline)
            else:
                run = _Exchange(invocation, connection, None, deadline, self)
            connection.call = run
            if self._sync or gate.running >= gate.limit:
                self._offer(run)
            else:
                self._begin_task(run, start)
            return
        page = self._page
        token = page.begin(deadline, start)
        spool = self._spool
        if spool is not None:
            if gate.running:
                spool.disturb()
            else:
                spool.enter(start)
        gate.running += 1
        INVOCATION.set(invocation)
        hide_loop()  # `asyncio.run` in a sync function has to work, inline as on a thread
        try:
            if self._traces.open:
                reply = _copy_context().run(self._traces.call, self._call, invocation)
            else:
                reply = _copy_context().run(self._call, invocation)
        except BaseException as exc:
            reply = self._failure(invocation, exc)
        finally:
            _set_running_loop(self._loop)
        if type(reply) is not Reply or type(reply.body) is not bytes:
            reply = self._checked(invocation, reply)
            if type(reply.body) is not bytes:
                self._begin_stream(connection, invocation, token, reply)
                return
        now = page.end(token)
        if now - start > _KEEP_NS:
            self._slow_inline(now - start, now)
        else:
            self._choice.seen += 1
        if gate.waiting or self._draining:
            self._leave(invocation, now)
        else:
            gate.running -= 1
            if spool is not None:
                spool.leave(invocation.id, now)
        if self._traces.open:
            self._traces.end(invocation, status=reply.status)
        try:
            connection.reply(reply)
        except ReplyError as exc:
            self._answer_unsendable(connection, invocation, exc)

    def _begin_task(self, run: _Run, now_ns: int) -> None:
        """Do what _offer and _launch do, for an async function with room in the gate."""
        self._runs.add(run)
        if run.deadline < self._timer_at:
            self._arm(run.deadline)
        invocation = run.invocation
        run.started = True
        run.token = self._page.begin(run.deadline, now_ns)
        gate = self._gate
        spool = self._spool
        if spool is not None:
            if gate.running:
                spool.disturb()
            else:
                spool.enter(now_ns)
        gate.running += 1
        INVOCATION.set(invocation)
        # a task without a name is given a number, which costs more than the id
        run.task = asyncio.Task(self._main(run), loop=self._loop, name=invocation.id)

    def _begin_aside(self, connection: Connection, invocation: Invocation, answer: Awaitable[Reply]) -> None:
        """Let the convention answer without user code, whatever runs."""
        connection.call = run = _Run(invocation, connection, None, invocation.deadline)
        run.started = True
        self._track(run)
        run.task = asyncio.create_task(self._answer_aside(run, answer))

    async def _answer_aside(self, run: _Run, answer: Awaitable[Reply]) -> None:
        INVOCATION.set(run.invocation)
        try:
            reply = self._checked(run.invocation, await answer)
            if type(reply.body) is not bytes:
                raise TypeError("what is answered aside cannot be streamed")
        except asyncio.CancelledError:
            if not run.answered:
                raise
            return
        except Exception as exc:
            reply = self._failure(run.invocation, exc)
        finally:
            self._runs.discard(run)
        if not run.answered and run.connection is not None:
            run.answered = True
            try:
                run.connection.reply(reply)
            except ReplyError as exc:
                self._answer_unsendable(run.connection, run.invocation, exc)

    def _begin_stream(self, connection: Connection, invocation: Invocation, token: int, reply: Reply) -> None:
        """Go on as a task when an inline call returned a streamed answer."""
        run = _Run(invocation, connection, None, invocation.deadline)
        run.token = token
        run.started = True
        connection.call = run
        self._track(run)
        run.task = asyncio.create_task(self._stream(run, reply))

    def refusal(self, status: int, text: str, invocation: Invocation) -> Reply:
        """See http.Application: the convention's own answer where it has one."""
        if self._traces.open:
            self._traces.end(invocation, status=status, error=text)
        refuse = self._function.refuse
        if refuse is not None:
            try:
                reply = refuse(status, text, invocation)
            except Exception as exc:
                self._report(invocation, exc)
            else:
                if reply is not None:
                    return self._checked(invocation, reply)
        return plain_reply(status, text, invocation.id)

    def upgrade(self, connection: Connection, invocation: Invocation, rest: bytes) -> bool:
        """See http.Application; what takes over counts as one invocation without a deadline."""
        hook = self._function.upgrade
        if hook is None or connection.transport is None or self._gate.running >= self._gate.limit:
            return False
        try:
            protocol = hook(invocation, connection.transport, rest)
        except Exception as exc:
            self._report(invocation, exc)
            return False
        if protocol is None:
            return False
        upgraded = Upgraded(protocol, self._begin_raw(), self._upgraded.discard)
        self._upgraded.add(upgraded)
        connection.hand_over(upgraded)
        if self._draining:
            upgraded.shutdown()
        return True

    def _begin_raw(self) -> Callable[[], None]:
        """Count an invocation whose bytes the worker does not look at; returns what ends it."""
        self._gate.running += 1
        token = self._page.begin(_INFINITY)
        if self._spool is not None:
            self._spool.disturb()
        over = False

        def end() -> None:
            nonlocal over
            if not over:
                over = True
                self._leave(_NOBODY, self._page.end(token))

        return end

    def gone(self, connection: Connection) -> None:
        """See http.Application."""
        self.clients_gone += 1
        run, connection.call = connection.call, None
        if isinstance(run, _Exchange) and run.started:
            run.leave()
            if run.streaming:
                run.deadline = _monotonic() + _LEFT_S
                self._track(run)
        elif isinstance(run, _Run):
            self._abandon(run)

    def _accept_event(self, peer: _Teller, invocation_id: str, event: Event, timeout_s: float) -> None:
        if self._draining:
            self._outcome(peer, invocation_id, "busy", "the instance is being stopped")
            return
        if self._left is not None:
            if self._left == 0:
                self._outcome(peer, invocation_id, "busy", "the job has taken its share of events")
                return
            self._left -= 1
        deadline = _monotonic() + (timeout_s or self._timeout_s)
        invocation = Invocation(
            invocation_id, "POST", b"/", [], body=event.data, deadline=deadline, event=event
        )
        if "traceparent" in event.attributes:
            self._traces.begin_event(invocation, event)
        self._offer(self._run_of(invocation, None, peer, deadline))

    def _run_of(
        self, invocation: Invocation, connection: Connection | None, peer: _Teller | None, deadline: float
    ) -> _Run:
        if self._exchange is None:
            return _Run(invocation, connection, peer, deadline)
        return _Exchange(invocation, connection, peer, deadline, self)

    async def handle(self, event: Event, invocation_id: str) -> tuple[str, str]:
        """Handle an event of this process itself; returns (outcome, reason), see ports.EventResult."""
        ended: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        self._accept_event(ended, invocation_id, event, 0.0)
        return await ended

    def _cancel_event(self, peer: wire.Peer, invocation_id: str) -> None:
        for run in self._runs:
            if run.peer is peer and run.invocation.id == invocation_id:
                self._abandon(run)
                self._outcome(peer, invocation_id, "error" if run.started else "busy", "cancelled")
                return

    # --- batches of events --------------------------------------------------------------------------------

    def _accept_batch(
        self, peer: wire.Peer, number: int, ordered: bool, timeout_s: float, events: list[tuple[str, Event]]
    ) -> None:
        for key, old in list(self._batches.items()):
            if old.peer.closed.is_set() and old.settled == old.begun:
                del self._batches[key]  # nobody is left to end it
        batch = EventBatch(peer, number, ordered=ordered, timeout_s=timeout_s, events=events)
        self._batches[peer, number] = batch
        self._advance(batch)

    def _extend_batch(self, peer: wire.Peer, number: int, events: list[tuple[str, Event]]) -> None:
        """Add to a run; no events mean that there will be no more."""
        batch = self._batches.get((peer, number))
        if batch is None or batch.over:  # its end, which its sender is told, came first
            return
        batch.events += events
        batch.complete = batch.complete or not events
        if not batch.advancing and batch.settled == batch.begun:
            self._advance(batch)

    def _advance(self, batch: EventBatch) -> None:
        """Begin what may begin now: a slice on the loop, the next in order, or all of them."""
        batch.advancing = True
        while not self._draining and batch.left:
            if self._fits_loop(batch):
                # by a turn of the loop, so that sockets are looked at in between
                asyncio.get_running_loop().call_soon(self._run_slice, batch)
                return
            index = batch.begun
            batch.begun += 1
            invocation_id, event = batch.events.popleft()
            self._accept_event(BatchItem(batch, index), invocation_id, event, batch.timeout_s)
            if batch.ordered and not batch.over:  # else nobody took it
                batch.advancing = False
                return
        batch.advancing = False
        if self._draining or not batch.waits:
            self._end_batch(batch)

    def _fits_loop(self, batch: EventBatch) -> bool:
        """Tell whether the next event may run in a slice; traced ones are run by themselves."""
        return (
            self._inline
            and self._left is None
            and not self._traces.open
            and self._gate.running < self._gate.limit
            and not batch.traced
        )

    def _run_slice(self, batch: EventBatch) -> None:
        """Run events of a batch on the loop one after the other, for two milliseconds at most.

        What `begin` does for a request, without a task, a closure or a record per event.
        """
        gate, page, spool, call, choice = self._gate, self._page, self._spool, self._call, self._choice
        if self._draining or not batch.left or not self._fits_loop(batch):
            self._advance(batch)
            return
        events, index, ordered = batch.events, batch.begun, batch.ordered
        results = self._control.results(batch.peer, batch.number) if self._control is not None else None
        timeout_s = batch.timeout_s or self._timeout_s
        gate.running += 1
        start = _monotonic_ns()
        until = start + SLICE_NS
        deadline = start * 1e-9 + timeout_s
        token = page.begin(deadline, start)
        hide_loop()
        try:
            while True:
                invocation_id, event = events.popleft()
                invocation = Invocation(
                    invocation_id, "POST", b"/", [], body=event.data, deadline=deadline, event=event
                )
                if spool is not None:
                    if gate.running > 1:
                        spool.disturb()
                    else:
                        spool.enter(start)
                INVOCATION.set(invocation)
                try:
                    reply = _copy_context().run(call, invocation)
                except BaseException as exc:
                    reply = self._failure(invocation, exc)
                if type(reply) is not Reply or type(reply.body) is not bytes:
                    reply = self._checked(invocation, reply)
                    if type(reply.body) is not bytes:
                        batch.settled += index - batch.begun
                        batch.begun = index + 1
                        batch.advancing = False
                        self._begin_event_stream(batch, index, invocation, token, reply)
                        return
                if self._strayed:
                    self._end_stray()
                now = _monotonic_ns()
                if spool is not None:
                    spool.leave(invocation_id, now)
                if now - start > _KEEP_NS:
                    self._slow_inline(now - start, now)
                else:
                    choice.seen += 1
                if results is not None:
                    if 200 <= reply.status < 300:
                        results.done.append(index)
                    else:
                        outcome = "error" if reply.retry else "drop"
                        results.failures.append((index, outcome, reply.error or f"status {reply.status}"))
                        batch.over = ordered
                index += 1
                if now > until or not events or batch.over or not self._inline or gate.waiting:
                    break
                if "traceparent" in events[0][1].attributes:
                    break
                start = now
                deadline = start * 1e-9 + timeout_s
                page.follow(token, deadline)
        finally:
            _set_running_loop(self._loop)
        now = page.end(token)
        batch.settled += index - batch.begun
        batch.begun = index
        if gate.waiting or self._draining:
            self._leave(invocation, now)
        else:
            gate.running -= 1
        self._advance(batch)

    def _begin_event_stream(
        self, batch: EventBatch, index: int, invocation: Invocation, token: int, reply: Reply
    ) -> None:
        """Go on as a task when an event's function returned a streamed answer; the batch waits for it."""
        run = _Run(invocation, None, BatchItem(batch, index), invocation.deadline)
        run.token = token
        run.started = True
        self._track(run)
        run.task = asyncio.create_task(self._stream(run, reply))

    def _settle(self, item: BatchItem, outcome: str, reason: str) -> None:
        """Note the outcome of an event that ran by itself, and begin the next one if there is an order."""
        batch = item.batch
        batch.settled += 1
        if self._control is not None:
            results = self._control.results(batch.peer, batch.number)
            if outcome == "ok":
                results.done.append(item.index)
            else:
                results.failures.append((item.index, outcome, reason))
        if outcome != "ok" and batch.ordered:
            batch.over = True
        if not batch.advancing and (batch.ordered or batch.settled == batch.begun):
            self._advance(batch)

    def _end_batch(self, batch: EventBatch) -> None:
        """Tell the sender that no more of a batch will begin, once all that began has its outcome."""
        batch.over = True
        if batch.settled < batch.begun or self._batches.pop((batch.peer, batch.number), None) is None:
            return
        if self._control is not None:
            self._control.results(batch.peer, batch.number).over = True

    def _cancel_batch(self, peer: wire.Peer, number: int) -> None:
        batch = self._batches.get((peer, number))
        if batch is None:
            return
        batch.over = True
        for run in list(self._runs):
            if isinstance(run.peer, BatchItem) and run.peer.batch is batch and not run.answered:
                self._abandon(run)
                self._settle(run.peer, "error" if run.started else "busy", "cancelled")
        self._end_batch(batch)

    # --- running ------------------------------------------------------------------------------------------

    def _offer(self, run: _Run) -> None:
        verdict = self._gate.offer(run)
        if verdict is Admission.FULL:
            if run.connection is not None:
                text = "the function is busy and its queue is full"
                reply = self.refusal(503, text, run.invocation)
                # Not begun: the gateway has the activator queue it, for whichever instance is free first.
                reply.headers.append((b"x-pelton-overflow", b"1"))
                run.connection.reply(reply)
            elif run.peer is not None:
                self._outcome(run.peer, run.invocation.id, "busy", "the instance's queue is full")
            return
        self._track(run)
        if verdict is Admission.RUN:
            self._launch(run)
        else:
            self._page.queued(len(self._gate.waiting))

    def _launch(self, run: _Run) -> None:
        """Start one that is inside the gate."""
        invocation = run.invocation
        run.started = True
        now = _monotonic_ns()
        run.token = self._page.begin(run.deadline, now)
        spool = self._spool
        if spool is not None:
            if self._gate.running > 1:
                spool.disturb()
            else:
                spool.enter(now)
        INVOCATION.set(invocation)
        if not self._sync:
            run.task = asyncio.Task(self._main(run), loop=self._loop, name=invocation.id)
        else:
            run.context = _copy_context()
            run.call = self._call if not self._traces.open else partial(self._traces.call, self._call)
            if self._inline:
                # one per turn, so that a long queue of fast calls does not hold up the sockets
                asyncio.get_running_loop().call_soon(self._run_inline, run)
            else:
                self._threads.submit(run)

    def _run_inline(self, run: _Run) -> None:
        hide_loop()
        try:
            run.execute()
        finally:
            _set_running_loop(self._loop)
        self._thread_done(run)

    def _thread_done(self, run: _Run) -> None:
        """Take a sync call's result over on the loop."""
        if self._may_inline and self._choice.record(run.elapsed_ns, _monotonic_ns()):
            self._mode_changed()
        run.context = run.call = None
        if run.error is not None:
            reply = self._failure(run.invocation, run.error)
            run.error = None
        else:
            reply = self._checked(run.invocation, run.reply)
        run.reply = None
        if type(reply.body) is bytes or run.answered:
            self._finish(run, reply)
        else:
            INVOCATION.set(run.invocation)
            run.task = asyncio.create_task(self._stream(run, reply))

    async def _drive(self, run: _Run) -> None:
        """Run async user code."""
        invocation = run.invocation
        try:
            if self._traces.open:
                reply = await self._traces.wait(self._call, invocation)
            else:
                reply = await self._call(invocation)
        except BaseException as exc:
            if run.answered and isinstance(exc, asyncio.CancelledError):
                self._finish(run, None)
                return
            reply = self._failure(invocation, exc)
        if type(reply) is not Reply or type(reply.body) is not bytes:
            reply = self._checked(invocation, reply)
            if type(reply.body) is not bytes:
                await self._stream(run, reply)
                return
        self._finish(run, reply)

    async def _attend(self, run: Any) -> None:
        """Run async user code that answers by itself, and see to it that there is an answer."""
        reply: Reply | None = None
        try:
            exchange: Any = self._exchange  # set with _main
            if self._traces.open:
                await self._traces.attend(exchange, run.invocation, run)
            else:
                await exchange(run.invocation, run)
        except BaseException as exc:
            cancelled = isinstance(exc, asyncio.CancelledError)
            if not run.answered and not run.gone and run.kept is None:
                reply = self._failure(run.invocation, exc)
            elif not cancelled and not (run.gone and _is_of_leaving(exc)):
                self._report(run.invocation, exc)
        if run.streaming and run.connection is not None:
            run.connection.break_off()
        if run.peer is not None and not run.answered:
            reply = run.kept or reply
        self._finish(run, reply)

    async def _stream(self, run: _Run, reply: Reply) -> None:
        """Send a streamed answer; its deadline ends when the headers are sent."""
        chunks: Any = reply.body
        connection = run.connection
        answer: Reply | None = None
        try:
            if run.peer is not None:
                async for (
                    _chunk
                ) in chunks:  # an event has no use for a body, but its function may work in there
                    pass
                answer = Reply(
                    status=reply.status, headers=reply.headers, retry=reply.retry, error=reply.error
                )
            elif connection is not None and not run.answered:
                connection.start_stream(reply)
                run.deadline = _INFINITY
                run.answered = True
                self._page.exempt(run.token)
                await connection.pump(chunks)
        except BaseException as exc:
            if not run.answered:
                answer = self._failure(run.invocation, exc)
            else:
                if not isinstance(exc, asyncio.CancelledError | ClientGoneError):
                    self._report(run.invocation, exc)
                if connection is not None and connection.call is run:
                    connection.break_off()
        finally:
            await _close_iterator(chunks)
            self._finish(run, answer)

    def _finish(self, run: _Run, reply: Reply | None) -> None:
        """Note that user code has ended and hand on its reply, if anybody still waits for one."""
        self._runs.discard(run)
        now = self._page.end(run.token)
        if self._traces.open:
            self._traces.end(
                run.invocation, status=reply.status if reply else 0, error=reply.error if reply else ""
            )
        gate = self._gate
        if gate.waiting or self._draining:
            self._leave(run.invocation, now)
        else:
            gate.running -= 1
            if self._spool is not None:
                self._spool.leave(run.invocation.id, now)
        if run.answered or reply is None:
            return
        run.answered = True
        connection = run.connection
        if connection is not None:
            try:
                connection.reply(reply)
            except ReplyError as exc:
                self._answer_unsendable(connection, run.invocation, exc)
        elif run.peer is not None:
            if 200 <= reply.status < 300:
                self._outcome(run.peer, run.invocation.id, "ok", "")
            else:
                outcome = "error" if reply.retry else "drop"
                self._outcome(run.peer, run.invocation.id, outcome, reply.error or f"status {reply.status}")

    def _leave(self, invocation: Invocation, now_ns: int) -> None:
        spool = self._spool
        if spool is not None:
            spool.leave(invocation.id, now_ns)
        waiting = self._gate.leave()
        if waiting is not None:
            self._page.queued(len(self._gate.waiting))
            self._launch(waiting)
        elif self._draining:
            self.quiet()

    def _slow_inline(self, elapsed_ns: int, now_ns: int) -> None:
        """Hold a slow inline call against the function, less the time in which the machine did not run it.

        Without that a busy neighbour sends fast functions to threads, which helps nobody. The kernel counts
        this thread's waiting since it began; what came up since the last slow call is deducted once.
        """
        before = self._run_delay_ns
        self._run_delay_ns = self._read_run_delay()
        elapsed_ns = max(0, elapsed_ns - (self._run_delay_ns - before))
        if self._choice.record(elapsed_ns, now_ns):
            self._mode_changed()

    def _read_run_delay(self) -> int:
        """Return the nanoseconds that the loop's thread was ready to run and had no CPU; 0 if unknown."""
        try:
            return int(os.pread(self._schedstat, 64, 0).split()[1])
        except (OSError, IndexError, ValueError):
            return 0

    def _mode_changed(self) -> None:
        self._inline = self._may_inline and self._choice.inline
        self._page.mode("inline" if self._inline else "thread")

    # --- deadlines ----------------------------------------------------------------------------------------

    def _track(self, run: _Run) -> None:
        """Keep an eye on a run's deadline: one timer for all of them, set for the earliest."""
        self._runs.add(run)
        if run.deadline < self._timer_at:
            self._arm(run.deadline)

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        delay = max(0.0, deadline - _monotonic()) + 0.001  # loops round to milliseconds, and not always up
        self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._timer_at = _INFINITY
        now = _monotonic()
        for run in [run for run in self._runs if run.deadline <= now]:
            run.deadline = _INFINITY
            if not run.answered:
                self._time_out(run)
            elif isinstance(run, _Exchange) and run.gone:
                self._abandon(run)
        earliest = min((run.deadline for run in self._runs), default=_INFINITY)
        if earliest < _INFINITY:
            self._arm(earliest)

    def _time_out(self, run: _Run) -> None:
        connection, peer, invocation = run.connection, run.peer, run.invocation
        what = "did not finish" if run.started else "could not start"
        text = f"the function {what} within its time limit"
        self._write_error(invocation, text + "\n")
        if self._traces.open:
            self._traces.end(invocation, status=504, error=text)
        self._abandon(run)
        if connection is not None:
            connection.reply(self.refusal(504, text, invocation))
        elif peer is not None:
            self._outcome(peer, invocation.id, "error" if run.started else "busy", text)

    def _abandon(self, run: _Run) -> None:
        """Want no answer any more: leave the queue, or cancel what can be cancelled.

        What goes on nevertheless (a thread, a task that swallows the cancellation) keeps its place in the
        gate and its deadline in the load page, where the node sees that the worker overran.
        """
        run.answered = True
        if self._gate.withdraw(run):
            self._runs.discard(run)
            self._page.queued(len(self._gate.waiting))
            if self._draining:
                self.quiet()
        elif run.task is not None:
            run.task.cancel()

    # --- answers ------------------------------------------------------------------------------------------

    def _answer_unsendable(self, connection: Connection, invocation: Invocation, exc: ReplyError) -> None:
        text = f"the function's answer cannot be sent: {exc}"
        self._write_error(invocation, text + "\n")
        try:
            connection.reply(self._error_of(exc, invocation, text))
        except ReplyError as second:
            self._report(invocation, second)
            connection.reply(plain_reply(500, text, invocation.id))

    def _checked(self, invocation: Invocation, reply: Any) -> Reply:
        """Return a Reply whose body is bytes or an async iterator, or the error that it is not."""
        if self._strayed:
            self._end_stray()
        if type(reply) is Reply:
            body: Any = reply.body
            if type(body) is bytes or hasattr(body, "__anext__"):
                return reply
            if isinstance(body, bytearray | memoryview):
                reply.body = bytes(body)
                return reply
            if hasattr(body, "__aiter__"):
                reply.body = body.__aiter__()
                return reply
            text = f"the function returned a body of type {type(body).__name__}, which cannot be sent"
        else:
            text = f"the function returned {type(reply).__name__}, which cannot be sent"
        self._write_error(invocation, text + "\n")
        answer = plain_reply(500, text, invocation.id)
        answer.error = text
        return answer

    def _failure(self, invocation: Invocation, exc: BaseException) -> Reply:
        """Turn what user code raised into its answer; the traceback goes to the function's stderr."""
        if isinstance(exc, BodyError):
            return plain_reply(exc.status, str(exc), invocation.id)
        self._report(invocation, exc)
        if invocation.event is not None:
            return Reply(status=500, error=tracebacks.reason(exc))
        if isinstance(exc, ReplyError):
            return self._error_of(exc, invocation, f"the function's answer cannot be sent: {exc}")
        # Only the type: messages may hold what a client must not see.
        text = f"the function raised {type(exc).__name__}; its log has the traceback"
        return self._error_of(exc, invocation, text)

    def _error_of(self, exc: BaseException, invocation: Invocation, text: str) -> Reply:
        """Return the convention's error answer, or `text` where it has none."""
        on_error = self._function.on_error
        if on_error is not None:
            try:
                reply = on_error(exc)
            except BaseException as second:
                self._report(invocation, second)
            else:
                return self._checked(invocation, reply)
        return plain_reply(500, text, invocation.id)

    def _report(self, invocation: Invocation, exc: BaseException) -> None:
        text = "\n".join(tracebacks.lines(exc, self.settings.bundle))
        self._write_error(invocation, f"{text}\n")

    def _write_error(self, invocation: Invocation, text: str) -> None:
        if self._spool is not None:
            self._spool.emit(b"e", invocation.id, text.encode("utf-8", "backslashreplace"))
            return
        try:
            (self._errors or sys.stderr).write(text)
        except Exception:  # closed by user code, a broken pipe: whoever waits for the answer still gets it
            return

    def forked(self) -> None:
        """Take note of being a copy of the worker, made by user code: one that must not answer for it.

        Its page, sockets and loop are the original's. Whatever a call comes back through looks at the page or
        at `_strayed`; the original pays nothing for that. Only attributes are set: a child that is about to
        run another program comes by here, too.
        """
        self._strayed = True
        page: Any = self._page
        page.end = page.exempt = page.begin = self._threads.strayed = self._end_stray

    def _end_stray(self, *_: Any) -> int:
        self._write_error(
            INVOCATION.get() or _NOBODY,
            "a process that the function forked came back from the handler and was ended; let such a process "
            "end itself by os._exit\n",
        )
        os._exit(1)

    def _loop_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what nobody caught; user code's own logging must not be able to end the loop."""
        try:
            loop.default_exception_handler(context)
        except Exception:
            exc = context.get("exception")
            self._write_error(_NOBODY, f"{context.get('message')}\n")
            if isinstance(exc, BaseException):
                self._report(_NOBODY, exc)

    def _outcome(self, peer: _Teller, invocation_id: str, outcome: str, reason: str) -> None:
        if isinstance(peer, BatchItem):
            self._settle(peer, outcome, reason)
        elif isinstance(peer, asyncio.Future):
            if not peer.done():
                peer.set_result((outcome, reason))
        elif self._control is not None:
            self._control.outcome(peer, invocation_id, outcome, reason)


def _is_of_leaving(exc: BaseException | None) -> bool:
    """Tell whether an exception comes from writing to a client that left, which is no fault."""
    while exc is not None:
        if isinstance(exc, ClientGoneError):
            return True
        exc = exc.__cause__ or exc.__context__
    return False


async def _close_iterator(chunks: AsyncIterator[bytes] | Any) -> None:
    """Run an async generator's `finally` blocks now, not whenever it is collected."""
    close = getattr(chunks, "aclose", None)
    if close is not None:
        try:
            await close()
        except Exception:
            traceback.print_exc()


_ahead: list[asyncio.AbstractEventLoop] = []


def keep_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Keep a loop for a later `run` in this process; for processes that wait for what they will become."""
    _ahead.append(loop)


def run(
    worker: Worker,
    function: LoadedFunction,
    http: Sequence[socket.socket],
    control: socket.socket | None = None,
    *,
    on_ready: Callable[[], None] | None = None,
    on_answer: Callable[[Invocation, int, float], None] | None = None,
    signals: bool = True,
) -> None:
    """Start a uvloop in this process and serve until drained; arguments as in `Worker.serve`.

    Leaner than `asyncio.run`, whose ending imports and starts an executor only to shut it down.
    """
    loop = _ahead.pop() if _ahead else uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        served = worker.serve(
            function, http, control, on_ready=on_ready, on_answer=on_answer, signals=signals
        )
        loop.run_until_complete(served)
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
        asyncio.set_event_loop(None)
        loop.close()
