"""Sends what functions hand over while they run: to bindings and, in Dapr's envelope, to topics.

`Delivered` is returned only after the destination accepted (2xx, or stored by the broker), so that an event
is acknowledged after its outputs. Nothing is repeated here: the function sees the failure, and the event's
own retry repeats all. Called by `invoker.py` through the runtime process, which hands in drivers and buses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pelton import errors
from pelton.clock import Clock, rfc3339
from pelton.dataplane.event_traces import NO_TRACES, EventTraces
from pelton.dataplane.output_troubles import OutputTroubles
from pelton.model import cloudevent
from pelton.model.desired import DEFERRED_NAME, Component, Desired, OutputBinding
from pelton.model.invocation import Deferred, Delivered, Output
from pelton.plan import names
from pelton.ports import Binding, Bus, Message

__all__ = ["Outputs"]

_Key = tuple[str, str, str, str, tuple[tuple[str, str], ...]]


class Outputs:
    """All functions' outputs.

    Args:
        binding_of: Makes the driver of a component; raises ComponentError. Kept per component.
        bus_of: Returns the bus of a pub/sub component, the same for the same component.
        clock: Stamps published events.
        new_id: Returns a new unique event id.
        traces: Takes outputs of invocations that are traced.
    """

    def __init__(
        self,
        *,
        binding_of: Callable[[Component], Binding],
        bus_of: Callable[[Component], Awaitable[Bus]],
        clock: Clock,
        new_id: Callable[[], str],
        traces: EventTraces = NO_TRACES,
    ) -> None:
        self._traces = traces
        self._troubles = OutputTroubles()
        self._binding_of = binding_of
        self._bus_of = bus_of
        self._clock = clock
        self._new_id = new_id
        # Function -> revision -> name -> output; "" is the primary's, which any revision not listed has.
        self._outputs: dict[tuple[str, str], dict[str, dict[str, OutputBinding]]] = {}
        self._bindings: dict[_Key, Binding] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def apply(self, desired: Desired) -> None:
        """Make a function's outputs these, for each of its revisions; close what nobody uses any more."""
        where = (desired.workload.namespace, desired.workload.name)
        self._outputs[where] = {
            revision: {output.name: output for output in one.outputs}
            for revision, one in (("", desired), *((other.revision, other) for other in desired.others))
        }
        self._close_unused()

    def remove(self, namespace: str, name: str) -> None:
        """Forget a function's outputs and close what no other function uses; idempotent."""
        self._outputs.pop((namespace, name), None)
        self._troubles.forget(namespace, name)
        self._close_unused()

    async def send(self, namespace: str, name: str, output: Output, revision: str = "") -> Delivered:
        """Send one output and return what its destination answered; never raises for what that does."""
        try:
            target = self._resolve(namespace, name, output.name, revision)
        except errors.ComponentError as exc:
            return Delivered(ok=False, error=str(exc))
        place = (namespace, name, target.name)
        # An answer of HTTP may take its time, and has a limit of its own.
        waits = target.component.type != "bindings.http"
        send = self._troubles.begin(place, self._clock.monotonic()) if waits else 0
        trouble: str | None = None  # cancelled: not known
        try:
            delivered, trouble = await self._send(namespace, name, target, output)
        finally:
            self._troubles.end(place, send, trouble, self._clock.monotonic())
        return delivered

    async def _send(
        self, namespace: str, name: str, target: OutputBinding, output: Output
    ) -> tuple[Delivered, str]:
        """Return the outcome, and what keeps the output from its destination; "" when that was reached."""
        try:
            delivered = await self._traced(namespace, name, target, output)
        except errors.DeliveryError as exc:
            # What no further attempt can cure is what was sent, not where it goes.
            return Delivered(ok=False, error=str(exc)), str(exc) if exc.retriable else ""
        except errors.ProtocolError as exc:
            return Delivered(ok=False, error=str(exc)), ""
        except (errors.PeltonError, ConnectionError, TimeoutError) as exc:
            told = str(exc) or type(exc).__name__
            return Delivered(ok=False, error=told), told
        broken = not delivered.ok and delivered.metadata.get("statusCode", "").startswith("5")
        return delivered, delivered.error if broken else ""

    def states(self) -> list[dict[str, str]]:
        """Return `namespace`, `function`, `output`, `destination` and `trouble` of every output."""
        now = self._clock.monotonic()
        return [
            {
                "namespace": namespace,
                "function": function,
                "output": one.name,
                "destination": one.topic or one.component.name,
                "trouble": self._troubles.of((namespace, function, one.name), now),
            }
            for (namespace, function), revisions in self._outputs.items()
            for one in revisions[""].values()
        ]

    async def _traced(self, namespace: str, name: str, target: OutputBinding, output: Output) -> Delivered:
        hop = self._traces.output(namespace, name, target, output)
        if hop is None:
            return await self._to(namespace, name, target, output)
        error = "cancelled"
        try:
            carried = str(hop.context) if self._traces.exported else ""
            delivered = await self._to(namespace, name, target, output, carried)
            error = "" if delivered.ok else delivered.error or "refused"
        except (errors.PeltonError, ConnectionError, TimeoutError) as exc:
            error = str(exc) or type(exc).__name__
            raise
        finally:
            hop.end(error)
        return delivered

    async def _to(
        self, namespace: str, name: str, target: OutputBinding, output: Output, traceparent: str = ""
    ) -> Delivered:
        """Send to a binding or a topic; what the function itself says about its trace goes first."""
        binding = target.component.type.startswith("bindings.")
        if traceparent:
            key = "Traceparent" if binding else "cloudevent.traceparent"
            if key.lower() not in {name.lower() for name in output.metadata}:
                output.metadata[key] = traceparent
        if binding:
            return await self._invoke(target, output)
        return await self._publish(namespace, name, target, output)

    async def defer(self, namespace: str, name: str, deferred: Deferred) -> Delivered:
        """Store what a function accepted for later, where its own subscription finds it; never raises for it.

        The same id twice is stored once.
        """
        component = Component(namespace=namespace, name=DEFERRED_NAME, type="pubsub.jetstream")
        message = Message(
            topic=names.deferred_topic(namespace, name),
            data=deferred.data,
            headers={**deferred.metadata, "Content-Type": deferred.content_type},
            id=deferred.id,
        )
        try:
            bus = await self._bus_of(component)
            await bus.publish(message)
        except (errors.PeltonError, ConnectionError, TimeoutError) as exc:
            return Delivered(ok=False, error=str(exc) or type(exc).__name__)
        return Delivered(ok=True, metadata={"id": deferred.id})

    async def close(self) -> None:
        """Close all connections."""
        self._outputs.clear()
        self._close_unused()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _resolve(self, namespace: str, name: str, wanted: str, revision: str) -> OutputBinding:
        revisions = self._outputs.get((namespace, name), {})
        outputs = revisions[revision] if revision in revisions else revisions.get("", {})
        if wanted in outputs:
            return outputs[wanted]
        if len(outputs) == 1:
            return next(iter(outputs.values()))
        known = ", ".join(sorted(outputs)) or "none"
        raise errors.ComponentError(
            f"no output is named {wanted!r}; there are: {known}",
            where=f"Function {namespace}/{name}",
            hint="Add it under spec.serving.outputs, or use one of those names.",
        )

    async def _invoke(self, target: OutputBinding, output: Output) -> Delivered:
        component = target.component
        key = _key(component)
        binding = self._bindings.get(key)
        if binding is None:
            binding = self._bindings[key] = self._binding_of(component)
        metadata = {**target.metadata, **output.metadata}
        # For plain JSON the binding has its own default, charset included.
        if output.content_type not in {"", "application/json"}:
            metadata.setdefault("Content-Type", output.content_type)
        operation = output.operation or target.operation or "create"
        return await binding.invoke(operation, output.data, metadata)

    async def _publish(self, namespace: str, name: str, target: OutputBinding, output: Output) -> Delivered:
        metadata = {**target.metadata, **output.metadata}
        lower = {key.lower(): value for key, value in metadata.items()}
        bus = await self._bus_of(target.component)
        if lower.get("rawpayload", "").lower() in {"true", "1", "yes", "on"}:
            headers = {"Content-Type": output.content_type} if output.content_type else {}
            message = Message(
                topic=target.topic, data=output.data, headers=headers, id=self._new_id(), metadata=metadata
            )
        else:
            event = cloudevent.wrap(
                output.data,
                id=self._new_id(),
                source=f"{namespace}/{name}",
                topic=target.topic,
                pubsub=target.component.name,
                time=rfc3339(self._clock.now()),
                content_type=output.content_type,
                metadata=metadata,
            )
            message = Message(
                topic=target.topic, data=cloudevent.to_json(event), id=event.id, metadata=metadata
            )
        await bus.publish(message)
        return Delivered(ok=True, metadata={"id": message.id})

    def _close_unused(self) -> None:
        if not self._bindings:
            return
        used = {
            _key(output.component)
            for revisions in self._outputs.values()
            for outputs in revisions.values()
            for output in outputs.values()
        }
        for key in [key for key in self._bindings if key not in used]:
            task = asyncio.create_task(self._bindings.pop(key).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _key(component: Component) -> _Key:
    """Tell components apart by content: two revisions may mean different ones by the same name."""
    settings = tuple(sorted(component.metadata.items()))
    return component.namespace, component.name, component.type, component.version, settings
