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

__all__ = ["OUTPUT_WAIT_S", "Control"]

OUTPUT_WAIT_S: Final = 30.0
"""Longest wait for an output's answer, the runtime's absence included."""

_log = get(__name__)


class Control:
    """Serves the control socket.

    Args:
        describe: Returns the answer to `hello`.
        accept: Takes (peer, invocation id, event, timeout in seconds or 0 for the default).
        cancel: Takes (peer, invocation id).
        drain: Takes a grace in seconds; returns when nothing runs any more or the grace has passed.
        drained: Called right after a drain was answered.
    """

    def __init__(
        self,
        *,
        describe: Callable[[], dict[str, Any]],
        accept: Callable[[wire.Peer, str, Event, float], None],
        cancel: Callable[[wire.Peer, str], None],
        drain: Callable[[float], Awaitable[None]],
        drained: Callable[[], None],
    ) -> None:
        self._describe = describe
        self._accept = accept
        self._cancel = cancel
        self._drain = drain
        self._drained = drained
        self._peers: set[wire.Peer] = set()
        self._node: wire.Peer | None = None
        self._spans: list[SpanRecord] = []
        self._runtime: wire.Peer | None = None
        self._runtime_came = asyncio.Event()
        self._outcomes: dict[wire.Peer, list[tuple[str, str, str]]] = {}
        self._server: asyncio.AbstractServer | None = None

    async def start(self, sock: Any) -> None:
        """Serve on a listening unix socket."""
        handlers = {
            "hello": self._on_hello,
            "drain": self._on_drain,
            "events": self._on_events,
            "cancel": self._on_cancel,
        }
        self._server = await wire.serve(sock, handlers, name="ctl", on_connect=self._peers.add)

    async def close(self) -> None:
        """End all connections after what is already written."""
        if self._server is not None:
            self._server.close()
        self._flush()
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

    async def _on_cancel(self, peer: wire.Peer, body: Any) -> None:
        for invocation_id in body:
            self._cancel(peer, invocation_id)
