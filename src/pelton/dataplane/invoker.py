"""Hands events to workers over their control sockets and matches the outcomes that come back.

One connection per worker; events of one loop turn travel in one note. The worker with the fewest events in
flight gets the next one. A connection that ends while it holds events means that their worker died: an
attempt. With no worker, the node is asked to wake one, once at a time per function. Called by
`dispatcher.py`; the runtime process feeds it the endpoints that the node reports.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec

from pelton import errors
from pelton.dataplane import wire
from pelton.log import get
from pelton.model.desired import Subscription
from pelton.model.invocation import Deferred, Delivered, Event, Output
from pelton.model.state import StateAnswer, StateCall
from pelton.ports import EventResult

__all__ = ["WorkerInvoker"]

_WINDOW: Final = 256
_WINDOW_BYTES: Final = 32 * 1024 * 1024
_RECONNECTS: Final = 3
_RECONNECT_S: Final = 0.1
_CONNECT_S: Final = 5.0
_ENDPOINT_S: Final = 10.0
# A worker ends what overruns; this is for one that does not: the wait in its queue, and the clock's grain.
_GRACE_S: Final = 30.0

_DIED: Final = EventResult(outcome="error", reason="the worker died while it held the event")

_log = get(__name__)

Outputs = Callable[[str, str, Output, str], Awaitable[Delivered]]
"""(namespace, function, output, revision) -> what the destination answered."""

States = Callable[[str, str, StateCall, str], Awaitable[StateAnswer]]
"""(namespace, function, call, revision) -> the store's answer; raises PeltonError."""

Defer = Callable[[str, str, Deferred], Awaitable[Delivered]]
"""(namespace, function, what to do later) -> ok once it is stored."""

Wake = Callable[[str, str], Awaitable[None]]
"""(namespace, function): returns when an instance is ready; raises PeltonError or OSError."""


class _Worker:
    """One connected worker and the events it holds."""

    def __init__(self, function: _Function, instance: str, path: str, revision: str) -> None:
        self.function = function
        self.instance = instance
        self.path = path
        self.revision = revision
        self.peer: wire.Peer | None = None
        self.in_flight: dict[str, tuple[asyncio.Future[EventResult], int]] = {}
        self.bytes = 0
        self.window = _WINDOW  # events; shrinks when the worker says "busy", since its queue is shorter
        self.removed = False
        self._outbox: list[Any] = []

    @property
    def usable(self) -> bool:
        """Connected, wanted and with room in its window."""
        if self.peer is None or self.removed or self.revision != self.function.revision:
            return False
        return not self.in_flight or (len(self.in_flight) < self.window and self.bytes < _WINDOW_BYTES)

    def send(self, invocation_id: str, event: Event, timeout_s: float) -> asyncio.Future[EventResult]:
        """Queue an event for this loop turn's note; the future has its outcome."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[EventResult] = loop.create_future()
        self.in_flight[invocation_id] = (future, len(event.data))
        self.bytes += len(event.data)
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
            self.window = max(1, len(self.in_flight))
        elif self.window < _WINDOW:
            self.window += 1

    def drop(self, invocation_id: str) -> asyncio.Future[EventResult] | None:
        """Stop waiting for an outcome; returns its future, None when nobody waits for it."""
        found = self.in_flight.pop(invocation_id, None)
        if found is None:
            return None
        self.bytes -= found[1]
        self.function.notify()
        return found[0]

    def fail_all(self, result: EventResult) -> None:
        """Settle everything that this worker holds."""
        for invocation_id in list(self.in_flight):
            self.settle(invocation_id, result)


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
            if worker.usable and (best is None or len(worker.in_flight) < len(best.in_flight)):
                best = worker
        return best

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
        where = (subscription.namespace, subscription.function)
        function = self._functions.setdefault(where, _Function(*where))
        worker = function.pick()
        while worker is None:
            if not function.populated:
                trouble = await self._woken(function)
                if trouble:
                    return EventResult(outcome="busy", reason=trouble)
            worker = function.pick()
            if worker is None:
                if not await function.changed(_ENDPOINT_S):
                    return EventResult(outcome="busy", reason="no instance took the event in time")
                worker = function.pick()
        future = worker.send(invocation_id, event, timeout_s)
        try:
            if not timeout_s:
                return await future
            async with asyncio.timeout(timeout_s + _GRACE_S):
                return await future
        except TimeoutError:
            worker.drop(invocation_id)
            return EventResult(outcome="error", reason=f"no outcome {_GRACE_S:g} s after the time limit")
        except asyncio.CancelledError:
            if worker.drop(invocation_id) is not None and worker.peer is not None:
                worker.peer.note("cancel", [invocation_id])
            raise

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
            f"{namespace}/{name}": {
                instance: len(worker.in_flight) for instance, worker in function.workers.items()
            }
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

        handlers = {"outcomes": outcomes, "output": output, "state": state, "defer": defer}
        try:
            async with asyncio.timeout(_CONNECT_S):
                peer = await wire.connect(worker.path, handlers, name=f"worker {worker.instance}")
            await peer.call("hello", {"role": "runtime"}, timeout=_CONNECT_S)
            return peer
        except (errors.PeltonError, OSError, TimeoutError) as exc:
            _log.debug("worker %s cannot be reached: %s", worker.instance, exc)
            return None
