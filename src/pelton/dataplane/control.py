"""The worker's control socket: hello, drain, events in, outcomes and outputs out.

Clients are node and runtime, over `dataplane/wire.py`; they may come, go and return at any time. What to do
with an event is `dataplane/worker.py`, which makes this and passes its callbacks in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from pelton import errors
from pelton.dataplane import wire
from pelton.log import get
from pelton.model.invocation import Deferred, Delivered, Event, Output
from pelton.model.span import SpanRecord
from pelton.model.state import StateAnswer, StateCall

__all__ = ["OUTPUT_WAIT_S", "BatchResults", "Control"]

OUTPUT_WAIT_S: Final = 30.0
"""Longest wait for an output's answer, the runtime's absence included."""

_log = get(__name__)
_batch = msgspec.msgpack.Decoder(tuple[int, bool, float, list[tuple[str, Event]]])
_more = msgspec.msgpack.Decoder(tuple[int, list[tuple[str, Event]]])


class BatchResults(msgspec.Struct, array_like=True):
    """What a worker tells of a batch of events, maybe in several pieces.

    Attributes:
        number: The batch's, unique on its connection.
        done: Indices of events that ended well, in the order in which they did.
        failures: (index, outcome, reason) of others; `busy` has not begun.
        over: Whether nothing more of the batch runs or will run.
    """

    number: int
    done: list[int] = msgspec.field(default_factory=list)
    failures: list[tuple[int, str, str]] = msgspec.field(default_factory=list)
    over: bool = False


class Control:
    """Serves the control socket.

    Args:
        describe: Returns the answer to `hello`.
        accept: Takes (peer, invocation id, event, timeout in seconds or 0 for the default).
        accept_batch: Takes (peer, number, whether in order, timeout as above, [(invocation id, event)]).
        extend_batch: Takes (peer, number, events as above) for a batch in order that may have ended;
            without events: there will be no more.
        cancel: Takes (peer, invocation id).
        cancel_batch: Takes (peer, number).
        drain: Takes a grace in seconds; returns when nothing runs any more or the grace has passed.
        drained: Called right after a drain was answered.
    """

    def __init__(
        self,
        *,
        describe: Callable[[], dict[str, Any]],
        accept: Callable[[wire.Peer, str, Event, float], None],
        accept_batch: Callable[[wire.Peer, int, bool, float, list[tuple[str, Event]]], None],
        extend_batch: Callable[[wire.Peer, int, list[tuple[str, Event]]], None],
        cancel: Callable[[wire.Peer, str], None],
        cancel_batch: Callable[[wire.Peer, int], None],
        drain: Callable[[float], Awaitable[None]],
        drained: Callable[[], None],
    ) -> None:
        self._describe = describe
        self._accept = accept
        self._accept_batch = accept_batch
        self._extend_batch = extend_batch
        self._cancel = cancel
        self._cancel_batch = cancel_batch
        self._drain = drain
        self._drained = drained
        self._peers: set[wire.Peer] = set()
        self._node: wire.Peer | None = None
        self._spans: list[SpanRecord] = []
        self._runtime: wire.Peer | None = None
        self._runtime_came = asyncio.Event()
        self._outcomes: dict[wire.Peer, list[tuple[str, str, str]]] = {}
        self._results: dict[tuple[wire.Peer, int], BatchResults] = {}
        self._server: asyncio.AbstractServer | None = None

    async def start(self, sock: Any) -> None:
        """Serve on a listening unix socket."""
        handlers: wire.Handlers = {
            "hello": self._on_hello,
            "drain": self._on_drain,
            "events": self._on_events,
            "batch": wire.Direct(self._on_batch),
            "more": wire.Direct(self._on_more),
            "cancel": self._on_cancel,
            "cancel-batch": self._on_cancel_batch,
        }
        self._server = await wire.serve(sock, handlers, name="ctl", on_connect=self._peers.add)

    async def close(self) -> None:
        """End all connections after what is already written."""
        if self._server is not None:
            self._server.close()
        self._flush()
        self._flush_results()
        self._flush_spans()
        for peer in list(self._peers):
            try:
                await asyncio.wait_for(peer.drain(), 1.0)
            except (OSError, TimeoutError):
                pass
            await peer.close()
        await asyncio.sleep(0)  # the transports write and close at the end of a turn

    def outcome(self, peer: wire.Peer, invocation_id: str, outcome: str, reason: str = "") -> None:
        """Tell a peer how an event ended; those of one loop turn travel together.

        Args:
            peer: Whoever delivered the event.
            invocation_id: Its invocation.
            outcome: `ok`, `error`, `drop` or `busy`, as in ports.EventResult.
            reason: One line.
        """
        if not self._outcomes:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outcomes.setdefault(peer, []).append((invocation_id, outcome, reason))

    def results(self, peer: wire.Peer, number: int) -> BatchResults:
        """Return what a peer is told of a batch at the end of this loop turn, to be added to."""
        found = self._results.get((peer, number))
        if found is None:
            if not self._results:
                asyncio.get_running_loop().call_soon(self._flush_results)
            found = self._results[peer, number] = BatchResults(number)
        return found

    def _flush_results(self) -> None:
        results, self._results = self._results, {}
        for peer in {peer for peer, _ in results}:
            peer.notes("results", [item for (whose, _), item in results.items() if whose is peer])

    def span(self, span: SpanRecord) -> None:
        """Hand a finished span to the node; those of one loop turn travel together, some may get lost."""
        if not self._spans:
            asyncio.get_running_loop().call_soon(self._flush_spans)
        self._spans.append(span)

    def _flush_spans(self) -> None:
        spans, self._spans = self._spans, []
        if spans and self._node is not None:
            self._node.note("spans", spans)

    async def deliver(self, output: Output, invocation_id: str, deadline: float) -> Delivered:
        """Hand an output to the runtime and return what its destination answered.

        A runtime that is away is waited for, and one that went away with the output gets it again when it is
        back: outputs arrive at least once. Never raises for what the destination does.

        Args:
            output: What to send.
            invocation_id: Who sends it; "-" outside an invocation.
            deadline: CLOCK_MONOTONIC seconds; OUTPUT_WAIT_S from now at most.
        """
        body = {"invocation_id": invocation_id, "output": output}
        return await self._handed_over("output", body, deadline, f"output {output.name!r}")

    async def defer(self, deferred: Deferred, deadline: float) -> Delivered:
        """Have the runtime store an invocation for later; as `deliver`."""
        return await self._handed_over("defer", {"deferred": deferred}, deadline, "what is to be done later")

    async def _handed_over(self, op: str, body: dict[str, Any], deadline: float, what: str) -> Delivered:
        deadline = min(deadline, time.monotonic() + OUTPUT_WAIT_S)
        try:
            while True:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    peer = await self._runtime_peer()
                try:
                    answer = await peer.call(op, body, timeout=max(0.0, deadline - time.monotonic()))
                    return msgspec.convert(answer, Delivered)
                except ConnectionError:
                    continue
        except TimeoutError:
            known = self._runtime is not None and not self._runtime.closed.is_set()
            why = "did not answer in time" if known else "is not connected"
            return Delivered(ok=False, error=f"{what}: the platform's runtime {why}")
        except (errors.PeltonError, msgspec.ValidationError) as exc:
            message = exc.message if isinstance(exc, errors.PeltonError) else str(exc)
            return Delivered(ok=False, error=message)

    async def state(self, call: StateCall, invocation_id: str, deadline: float) -> StateAnswer:
        """Have the runtime use a state store and return the answer.

        A runtime that is away is waited for. One that went away with the call gets it again when that changes
        nothing; a call that depends on what is stored may have been carried out, which only a new read tells.

        Args:
            call: What to do.
            invocation_id: Who asks; "-" outside an invocation.
            deadline: CLOCK_MONOTONIC seconds; OUTPUT_WAIT_S from now at most.

        Raises:
            PeltonError: The store refused, or the runtime did not answer.
        """
        deadline = min(deadline, time.monotonic() + OUTPUT_WAIT_S)
        body = {"invocation_id": invocation_id, "call": call}
        try:
            while True:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    peer = await self._runtime_peer()
                try:
                    answer = await peer.call("state", body, timeout=max(0.0, deadline - time.monotonic()))
                    return msgspec.convert(answer, StateAnswer)
                except ConnectionError:
                    if not call.repeatable:
                        raise errors.DeliveryError(
                            "state: the platform's runtime went away with the call",
                            hint="It may have been carried out: read the value and its etag again.",
                        ) from None
        except TimeoutError:
            known = self._runtime is not None and not self._runtime.closed.is_set()
            why = "did not answer in time" if known else "is not connected"
            raise errors.DeliveryError(f"state: the platform's runtime {why}") from None

    async def _runtime_peer(self) -> wire.Peer:
        while self._runtime is None or self._runtime.closed.is_set():
            self._runtime_came.clear()
            await self._runtime_came.wait()
        return self._runtime

    def _flush(self) -> None:
        outcomes, self._outcomes = self._outcomes, {}
        for peer, items in outcomes.items():
            peer.note("outcomes", items)

    async def _on_hello(self, peer: wire.Peer, body: Any) -> dict[str, Any]:
        self._peers = {known for known in self._peers if not known.closed.is_set()}
        if isinstance(body, dict) and body.get("role") == "runtime":
            self._runtime = peer
            self._runtime_came.set()
        elif isinstance(body, dict) and body.get("role") == "node":
            self._node = peer
        return self._describe()

    async def _on_drain(self, _peer: wire.Peer, body: Any) -> dict[str, Any]:
        await self._drain(float(body["grace_s"]))
        # This handler's answer is written in the same turn, before the loop gets to the callback.
        asyncio.get_running_loop().call_soon(self._drained)
        return {}

    async def _on_events(self, peer: wire.Peer, body: Any) -> None:
        for invocation_id, raw, timeout_s in body:
            try:
                event = msgspec.convert(raw, Event)
            except msgspec.ValidationError as exc:
                _log.error("an event cannot be read id=%s: %s", invocation_id, exc)
                self.outcome(peer, invocation_id, "drop", f"the event cannot be read: {exc}")
                continue
            self._accept(peer, invocation_id, event, float(timeout_s or 0.0))

    def _on_batch(self, peer: wire.Peer, raw: msgspec.Raw) -> None:
        try:
            number, ordered, timeout_s, events = _batch.decode(raw)
        except msgspec.ValidationError as exc:
            # A driver's mistake in one of them; which one, the reader of all at once does not know.
            self._read_singly(peer, raw, str(exc))
            return
        self._accept_batch(peer, number, ordered, timeout_s, events)

    def _on_more(self, peer: wire.Peer, raw: msgspec.Raw) -> None:
        try:
            number, events = _more.decode(raw)
        except msgspec.ValidationError as exc:
            _log.error("events of a batch cannot be read: %s", exc)
            number = msgspec.msgpack.decode(raw)[0]
            self._cancel_batch(peer, number)  # comes again in a batch that begins with the one meant
            return
        self._extend_batch(peer, number, events)

    def _read_singly(self, peer: wire.Peer, raw: msgspec.Raw, why: str) -> None:
        """Run what can be read before the first event of a batch that cannot, which is dropped."""
        number, ordered, timeout_s, items = msgspec.msgpack.decode(raw)
        events: list[tuple[str, Event]] = []
        for index, item in enumerate(items):
            try:
                events.append(msgspec.convert(item, tuple[str, Event]))
            except msgspec.ValidationError:
                _log.error("event %d of a batch cannot be read: %s", index, why)
                break
        if events:  # what is behind them has not begun and comes again
            self._accept_batch(peer, number, ordered, timeout_s, events)
            self._extend_batch(peer, number, [])
            return
        results = self.results(peer, number)
        results.failures.append((0, "drop", f"the event cannot be read: {why}"))
        results.over = True

    async def _on_cancel_batch(self, peer: wire.Peer, body: Any) -> None:
        for number in body:
            self._cancel_batch(peer, number)

    async def _on_cancel(self, peer: wire.Peer, body: Any) -> None:
        for invocation_id in body:
            self._cancel(peer, invocation_id)
