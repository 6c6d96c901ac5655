"""Hands events to workers over their control sockets and matches the outcomes that come back.

One connection per worker; events of one loop turn travel in one note, and batches in one each. The worker
with the fewest events in flight gets the next ones. A connection that ends while it holds events means that
their worker died: an attempt, of a batch in order only for the first event that has no outcome. With no
worker, the node is asked to wake one, once at a time per function. Called by `dispatcher.py`; the runtime
process feeds it the endpoints that the node reports. Over 600 lines: windows and outcomes
are one bookkeeping.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from pelton import errors
from pelton.dataplane import wire
from pelton.dataplane.control import BatchResults
from pelton.log import get
from pelton.model.desired import Subscription
from pelton.model.invocation import Deferred, Delivered, Event, Output
from pelton.model.state import StateAnswer, StateCall
from pelton.ports import EventResult

__all__ = ["WorkerInvoker"]

_WINDOW: Final = 256
_WINDOW_BYTES: Final = 32 * 1024 * 1024
_RUN: Final = 1024
"""Events in order that a worker holds at most, of one run; who gives them may give fewer."""
_RUN_BYTES: Final = 4 * 1024 * 1024
"""Payload bytes of one run at a worker above which it gets no further event."""
_RECONNECTS: Final = 3
_RECONNECT_S: Final = 0.1
_CONNECT_S: Final = 5.0
_ENDPOINT_S: Final = 10.0
# A worker ends what overruns; this is for one that does not: the wait in its queue, and the clock's grain.
_GRACE_S: Final = 30.0

_DIED: Final = EventResult(outcome="error", reason="the worker died while it held the event", died=True)
_OK: Final = EventResult(outcome="ok")

_log = get(__name__)
_results = msgspec.msgpack.Decoder(BatchResults)

Settled = Callable[[Sequence[tuple[int, EventResult]]], None]
"""See `ports.BatchInvoker.invoke_many`."""

Outputs = Callable[[str, str, Output, str], Awaitable[Delivered]]
"""(namespace, function, output, revision) -> what the destination answered."""

States = Callable[[str, str, StateCall, str], Awaitable[StateAnswer]]
"""(namespace, function, call, revision) -> the store's answer; raises PeltonError."""

Defer = Callable[[str, str, Deferred], Awaitable[Delivered]]
"""(namespace, function, what to do later) -> ok once it is stored."""

Wake = Callable[[str, str], Awaitable[None]]
"""(namespace, function): returns when an instance is ready; raises PeltonError or OSError."""


class _Batch:
    """Events that a worker holds and that do not depend on each other.

    Args:
        events: (invocation id, event) each.
        first: Index of the first of them in what `settled` is told.
        settled: Told of outcomes.

    Attributes:
        done: Resolves when nothing of it runs any more, with why some have not begun, "" for no reason.
        progress: Counts outcomes.
        bytes: Of all payloads.
    """

    def __init__(self, events: Sequence[tuple[str, Event]], *, first: int, settled: Settled) -> None:
        self.done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.progress = 0
        self.bytes = sum(len(event.data) for _, event in events)
        self._first = first
        self._settled = settled
        self._open = dict.fromkeys(range(len(events)))
        self._busy = ""

    @property
    def left(self) -> int:
        """Events without an outcome."""
        return len(self._open)

    @property
    def weight(self) -> int:
        """How many may run at once: what counts in a worker's window."""
        return len(self._open)

    def take(self, results: BatchResults, _worker: _Worker) -> bool:
        """Pass outcomes on; returns whether the worker was too busy for some."""
        told: list[tuple[int, EventResult]] = []
        busy = False
        for index in results.done:
            if index in self._open:
                del self._open[index]
                told.append((self._first + index, _OK))
        for index, outcome, reason in results.failures:
            if outcome == "busy":
                busy, self._busy = True, reason
                self._open.pop(index, None)
            elif index in self._open:
                del self._open[index]
                told.append((self._first + index, EventResult(outcome=outcome, reason=reason)))
        self.progress += len(told)
        if told:
            self._settled(told)
        if (results.over or not self._open) and not self.done.done():
            self.done.set_result(self._busy)
        return busy

    def fail(self, result: EventResult) -> None:
        """End it: all that may have run has failed."""
        if self.done.done():
            return
        failed = list(self._open)
        self._open.clear()
        self.done.set_result(self._busy)
        if failed:
            self._settled([(self._first + index, result) for index in failed])


class _Run:
    """Events that a worker handles in order; grows while it goes on.

    Args:
        number: By which the worker knows it.
        more: See `ports.BatchInvoker.invoke_run`.
        done: As `more`.

    Attributes:
        done: Resolves when it is over, with the outcome of the first event that did not end well.
        progress: Counts outcomes.
        bytes: Of the payloads without an outcome.
    """

    weight = 1  # one event runs at a time
    """What counts in a worker's window."""

    def __init__(
        self, number: int, more: Callable[[int], Sequence[tuple[str, Event]]], done: Callable[[int], None]
    ) -> None:
        self.done: asyncio.Future[EventResult | None] = asyncio.get_running_loop().create_future()
        self.progress = 0
        self.bytes = 0
        self._number = number
        self._more = more
        self._tell = done
        self._sizes: deque[int] = deque()  # of the payloads without an outcome

    @property
    def left(self) -> int:
        """Events without an outcome."""
        return len(self._sizes)

    def next(self) -> Sequence[tuple[str, Event]]:
        """Return what is to be sent now, maybe nothing."""
        room = _RUN - self.left
        if room <= 0 or self.bytes >= _RUN_BYTES:
            return ()
        events = self._more(room)
        sizes = [len(event.data) for _, event in events]
        self._sizes += sizes
        self.bytes += sum(sizes)
        return events

    def take(self, results: BatchResults, worker: _Worker) -> bool:
        """Pass outcomes on and send further events; returns whether the worker was too busy."""
        if self.done.done():
            return False
        if results.done:
            self.progress += len(results.done)
            ended = self._sizes.popleft
            self.bytes -= sum([ended() for _ in results.done])
            self._tell(len(results.done))
        if results.failures:
            _, outcome, reason = results.failures[0]
            self.done.set_result(EventResult(outcome=outcome, reason=reason))
            return outcome == "busy"
        if results.over:
            self.done.set_result(None)
        else:
            if worker.keeps_runs:
                self.extend(worker)
            if not self.left:
                self.done.set_result(None)
                worker.tell("more", [self._number, ()])
        return False

    def extend(self, worker: _Worker) -> None:
        """Send further events, in messages that the worker can begin with while the next one is made."""
        while events := self.next():
            worker.tell("more", [self._number, events])

    def fail(self, result: EventResult) -> None:
        """End it: the first event without an outcome has failed, those behind it count as not begun."""
        if not self.done.done():
            self.done.set_result(result if self.left else None)


class _Worker:
    """One connected worker and the events it holds."""

    def __init__(self, function: _Function, instance: str, path: str, revision: str) -> None:
        self.function = function
        self.instance = instance
        self.path = path
        self.revision = revision
        self.peer: wire.Peer | None = None
        self.in_flight: dict[str, tuple[asyncio.Future[EventResult], int]] = {}
        self.batches: dict[int, _Batch | _Run] = {}
        self.weight = 0  # of all batches
        self._single_bytes = 0  # of what is in flight by itself
        self.window = _WINDOW  # events; shrinks when the worker says "busy", since its queue is shorter
        self.removed = False
        self._outbox: list[Any] = []
        self._numbers = 0

    @property
    def holds(self) -> int:
        """Events that run or wait for their turn; of those in order only one."""
        return len(self.in_flight) + self.weight

    @property
    def events(self) -> int:
        """Events in flight."""
        return len(self.in_flight) + sum(batch.left for batch in self.batches.values())

    @property
    def bytes(self) -> int:
        """Payload bytes that it holds."""
        return self._single_bytes + sum(batch.bytes for batch in self.batches.values())

    @property
    def usable(self) -> bool:
        """Connected, wanted and with room in its window."""
        if self.peer is None or self.removed or self.revision != self.function.revision:
            return False
        return not self.holds or (self.holds < self.window and self.bytes < _WINDOW_BYTES)

    def send(self, invocation_id: str, event: Event, timeout_s: float) -> asyncio.Future[EventResult]:
        """Queue an event for this loop turn's note; the future has its outcome."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[EventResult] = loop.create_future()
        self.in_flight[invocation_id] = (future, len(event.data))
        self._single_bytes += len(event.data)
        if not self._outbox:
            loop.call_soon(self._flush)
        self._outbox.append([invocation_id, event, timeout_s])
        return future

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if self.peer is not None:
            self.peer.note("events", outbox)

    def settle(self, invocation_id: str, result: EventResult) -> None:
        """Record an outcome; unknown ids are late answers."""
        future = self.drop(invocation_id)
        if future is not None and not future.done():
            future.set_result(result)
        if result.outcome == "busy":
            self.window = max(1, self.holds)
        elif self.window < _WINDOW:
            self.window += 1

    def drop(self, invocation_id: str) -> asyncio.Future[EventResult] | None:
        """Stop waiting for an outcome; returns its future, None when nobody waits for it."""
        found = self.in_flight.pop(invocation_id, None)
        if found is None:
            return None
        self._single_bytes -= found[1]
        self.function.notify()
        return found[0]

    def tell(self, op: str, body: Any) -> None:
        """Send a note; nothing happens when the worker is gone."""
        if self.peer is not None:
            self.peer.note(op, body)

    @property
    def keeps_runs(self) -> bool:
        """Whether what goes on in order may stay here: wanted, and not much busier than another worker."""
        if self.peer is None or self.removed or self.revision != self.function.revision:
            return False
        best = self.function.pick()
        return best is None or self.holds - best.holds < 2

    def new_number(self) -> int:
        """Return a number for a batch."""
        self._numbers += 1
        return self._numbers

    def send_batch(
        self, number: int, batch: _Batch | _Run, events: Sequence[tuple[str, Event]], timeout_s: float
    ) -> None:
        """Send a batch, or the begin of a run."""
        self.batches[number] = batch
        self.weight += batch.weight
        self.tell("batch", [number, isinstance(batch, _Run), timeout_s, events])

    def take_results(self, results: BatchResults) -> None:
        """Record outcomes of a batch; an unknown number means that nobody waits any more."""
        batch = self.batches.get(results.number)
        if batch is None:
            return
        before, weight = batch.progress, batch.weight
        was_full = self.bytes >= _WINDOW_BYTES
        busy = batch.take(results, self)
        self.weight -= weight - batch.weight
        if batch.done.done():
            self.drop_batch(results.number)
        elif weight != batch.weight or (was_full and self.bytes < _WINDOW_BYTES):
            self.function.notify()
        if busy:
            self.window = max(1, self.holds)
        elif self.window < _WINDOW:
            self.window = min(_WINDOW, self.window + batch.progress - before)

    def drop_batch(self, number: int) -> _Batch | _Run | None:
        """Stop waiting for a batch; None when nobody waits for it."""
        batch = self.batches.pop(number, None)
        if batch is not None:
            self.weight -= batch.weight
            self.function.notify()
        return batch

    def fail_all(self, result: EventResult) -> None:
        """Settle everything that this worker holds."""
        for invocation_id in list(self.in_flight):
            self.settle(invocation_id, result)
        for number in list(self.batches):
            batch = self.drop_batch(number)
            if batch is not None:
                batch.fail(result)


class _Function:
    """The workers of one function, and who waits for one."""

    def __init__(self, namespace: str, name: str) -> None:
        self.namespace = namespace
        self.name = name
        self.revision = ""
        self.workers: dict[str, _Worker] = {}
        self.links: set[asyncio.Task[None]] = set()
        self.waking: asyncio.Task[str] | None = None
        self._waiters: deque[asyncio.Future[None]] = deque()

    def pick(self) -> _Worker | None:
        """Return the worker with the fewest events in flight that has room; None for none."""
        best = None
        for worker in self.workers.values():
            if worker.usable and (best is None or worker.holds < best.holds):
                best = worker
        return best

    @property
    def sharers(self) -> int:
        """How many workers could take events now, at least 1."""
        return max(1, sum(worker.usable for worker in self.workers.values()))

    @property
    def populated(self) -> bool:
        """Whether a worker that takes events exists, connected or about to be."""
        return any(
            not worker.removed and worker.revision == self.revision for worker in self.workers.values()
        )

    def notify(self) -> None:
        """Let one waiter look again."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def notify_all(self) -> None:
        """Let all waiters look again."""
        while self._waiters:
            self.notify()

    async def changed(self, timeout_s: float) -> bool:
        """Wait until something may have changed; False after `timeout_s` seconds without."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            return False
        return True


class WorkerInvoker:
    """Implements `ports.Invoker` over the control sockets of workers.

    Args:
        outputs: Serves the outputs that functions send.
        wake: Asks the node for an instance.
        states: Serves the state stores that functions use; None refuses them all.
        defer: Stores what functions accept for later; None refuses it.
    """

    def __init__(
        self, *, outputs: Outputs, wake: Wake, states: States | None = None, defer: Defer | None = None
    ) -> None:
        self._outputs = outputs
        self._states = states
        self._defer = defer
        self._wake = wake
        self._functions: dict[tuple[str, str], _Function] = {}

    def update(
        self,
        namespace: str,
        name: str,
        revision: str,
        instances: Iterable[tuple[str, str]],
        *,
        others: Iterable[tuple[str, str, str]] = (),
    ) -> None:
        """Take over the full list of a function's instances.

        Instances that are missing from it get no more events; what they hold may still be answered.

        Args:
            namespace: The function's.
            name: The function's.
            revision: The revision that events go to.
            instances: Its instances: (instance id, control socket path) each.
            others: Those of other live revisions, with their revision: they get no events, but may send.
        """
        function = self._functions.setdefault((namespace, name), _Function(namespace, name))
        function.revision = revision
        listed = {instance: (path, revision) for instance, path in instances}
        listed |= {instance: (path, other) for instance, path, other in others}
        for instance, worker in function.workers.items():
            worker.removed = instance not in listed
        for instance, (path, of) in listed.items():
            if instance not in function.workers:
                worker = function.workers[instance] = _Worker(function, instance, path, of)
                task = asyncio.create_task(self._link(worker), name=f"invoker-{instance}")
                function.links.add(task)
                task.add_done_callback(function.links.discard)
            function.workers[instance].revision = of
        function.notify_all()

    def forget(self, namespace: str, name: str) -> None:
        """Drop a function that was removed; its workers' connections end by themselves."""
        function = self._functions.pop((namespace, name), None)
        if function is not None:
            for worker in function.workers.values():
                worker.removed = True
            function.notify_all()

    async def invoke(
        self, subscription: Subscription, event: Event, *, invocation_id: str, timeout_s: float
    ) -> EventResult:
        """Deliver one event; see `ports.Invoker`. Cancelling tells the worker, which may have finished it."""
        worker = await self._worker_for(self._function_of(subscription))
        if isinstance(worker, str):
            return EventResult(outcome="busy", reason=worker)
        future = worker.send(invocation_id, event, timeout_s)
        try:
            if not timeout_s:
                return await future
            async with asyncio.timeout(timeout_s + _GRACE_S):
                return await future
        except (TimeoutError, asyncio.CancelledError) as exc:
            if worker.drop(invocation_id) is not None and worker.peer is not None:
                worker.peer.note("cancel", [invocation_id])
            if isinstance(exc, asyncio.CancelledError):
                raise
            return EventResult(outcome="error", reason=f"no outcome {_GRACE_S:g} s after the time limit")

    async def invoke_run(
        self,
        subscription: Subscription,
        *,
        more: Callable[[int], Sequence[tuple[str, Event]]],
        done: Callable[[int], None],
        timeout_s: float,
    ) -> EventResult | None:
        """Have one worker handle events in order; see `ports.BatchInvoker`."""
        worker = await self._worker_for(self._function_of(subscription))
        if isinstance(worker, str):
            return EventResult(outcome="busy", reason=worker)
        number = worker.new_number()
        run = _Run(number, more, done)
        events = run.next()
        if not events:
            return None
        worker.send_batch(number, run, events, timeout_s)
        run.extend(worker)
        try:
            await self._over(worker, number, run, timeout_s)
        except asyncio.CancelledError:
            self._cancel(worker, number)
            raise
        return run.done.result()

    async def invoke_many(
        self,
        subscription: Subscription,
        events: Sequence[tuple[str, Event]],
        *,
        settled: Settled,
        timeout_s: float,
    ) -> str:
        """Deliver several events, shared by the workers that have room; see `ports.BatchInvoker`."""
        function = self._function_of(subscription)
        sent: list[tuple[_Worker, int, _Batch]] = []
        why, first, share = "", 0, 0
        try:
            while first < len(events):
                worker = await self._worker_for(function)
                if isinstance(worker, str):
                    why = worker
                    break
                share = share or -(-len(events) // function.sharers)
                part = events[first : first + max(1, min(worker.window - worker.holds, share))]
                batch = _Batch(part, first=first, settled=settled)
                number = worker.new_number()
                worker.send_batch(number, batch, part, timeout_s)
                sent.append((worker, number, batch))
                first += len(part)
            for worker, number, batch in sent:
                await self._over(worker, number, batch, timeout_s)
                why = batch.done.result() or why
        except asyncio.CancelledError:
            for worker, number, _ in sent:
                self._cancel(worker, number)
            raise
        return why

    def _cancel(self, worker: _Worker, number: int) -> None:
        if worker.drop_batch(number) is not None:
            worker.tell("cancel-batch", [number])

    async def _over(self, worker: _Worker, number: int, batch: _Batch | _Run, timeout_s: float) -> None:
        """Wait for a batch's end; one without any outcome for longer than an event may take has failed."""
        done: asyncio.Future[Any] = batch.done
        if not timeout_s:
            await done
        while not done.done():
            before = batch.progress
            await asyncio.wait({done}, timeout=timeout_s + _GRACE_S)
            if not done.done() and batch.progress == before:
                self._cancel(worker, number)
                reason = f"no outcome {_GRACE_S:g} s after the time limit"
                batch.fail(EventResult(outcome="error", reason=reason))

    def _function_of(self, subscription: Subscription) -> _Function:
        where = (subscription.namespace, subscription.function)
        return self._functions.setdefault(where, _Function(*where))

    async def _worker_for(self, function: _Function) -> _Worker | str:
        """Return a worker that has room, waking or waiting for one; what went wrong when there is none."""
        worker = function.pick()
        while worker is None:
            if not function.populated:
                trouble = await self._woken(function)
                if trouble:
                    return trouble
            worker = function.pick()
            if worker is None:
                if not await function.changed(_ENDPOINT_S):
                    return "no instance took the event in time"
                worker = function.pick()
        return worker

    async def close(self) -> None:
        """End all connections."""
        tasks: list[asyncio.Task[Any]] = [
            task for function in self._functions.values() for task in function.links
        ]
        tasks += [function.waking for function in self._functions.values() if function.waking is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stats(self) -> dict[str, dict[str, int]]:
        """Return `namespace/function` -> {instance id -> events in flight}."""
        return {
            f"{namespace}/{name}": {instance: worker.events for instance, worker in function.workers.items()}
            for (namespace, name), function in self._functions.items()
        }

    async def _woken(self, function: _Function) -> str:
        """Have one instance woken; all events that wait share the one request. Returns what went wrong."""
        if function.waking is None:
            function.waking = asyncio.create_task(self._ask_to_wake(function))
            function.waking.add_done_callback(lambda _task: setattr(function, "waking", None))
        return await asyncio.shield(function.waking)

    async def _ask_to_wake(self, function: _Function) -> str:
        try:
            await self._wake(function.namespace, function.name)
        except (errors.PeltonError, OSError, TimeoutError) as exc:
            return str(exc) or type(exc).__name__
        # The node reports the endpoint by another message, which may come a moment after its answer.
        if not function.populated:
            await function.changed(1.0)
        return "" if function.populated else "an instance was woken but not reported"

    async def _link(self, worker: _Worker) -> None:
        """Hold the connection to one worker while it is listed; what a lost connection held has failed."""
        function = worker.function
        failures = 0
        try:
            while not worker.removed and failures < _RECONNECTS:
                peer = await self._connect(worker)
                if peer is None:
                    failures += 1
                    await asyncio.sleep(_RECONNECT_S)
                    continue
                failures = 0
                worker.peer = peer
                function.notify_all()
                try:
                    await peer.closed.wait()
                finally:
                    worker.peer = None
                    worker.fail_all(_DIED)
                    await peer.close()
        finally:
            if function.workers.get(worker.instance) is worker:
                del function.workers[worker.instance]
            function.notify_all()

    async def _connect(self, worker: _Worker) -> wire.Peer | None:
        function = worker.function

        async def outcomes(_peer: wire.Peer, body: Any) -> None:
            for invocation_id, outcome, reason in body:
                worker.settle(invocation_id, EventResult(outcome=outcome, reason=reason))

        def results(_peer: wire.Peer, raw: msgspec.Raw) -> None:
            worker.take_results(_results.decode(raw))

        async def output(_peer: wire.Peer, body: Any) -> Any:
            sent = msgspec.convert(body["output"], Output)
            return await self._outputs(function.namespace, function.name, sent, worker.revision)

        async def state(_peer: wire.Peer, body: Any) -> Any:
            if self._states is None:
                raise errors.ComponentError("no state stores are served here")
            call = msgspec.convert(body["call"], StateCall)
            return await self._states(function.namespace, function.name, call, worker.revision)

        async def defer(_peer: wire.Peer, body: Any) -> Any:
            if self._defer is None:
                return Delivered(ok=False, error="nothing can be deferred here")
            return await self._defer(
                function.namespace, function.name, msgspec.convert(body["deferred"], Deferred)
            )

        handlers: wire.Handlers = {
            "outcomes": outcomes,
            "results": wire.Direct(results),
            "output": output,
            "state": state,
            "defer": defer,
        }
        try:
            async with asyncio.timeout(_CONNECT_S):
                peer = await wire.connect(worker.path, handlers, name=f"worker {worker.instance}")
            await peer.call("hello", {"role": "runtime"}, timeout=_CONNECT_S)
            return peer
        except (errors.PeltonError, OSError, TimeoutError) as exc:
            _log.debug("worker %s cannot be reached: %s", worker.instance, exc)
            return None
