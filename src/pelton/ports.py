"""What the platform needs from outside: small Protocols. Implemented in layer 5, wired in `cli/`.

Each method states ordering, idempotence, errors and what cancelling leaves behind. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import msgspec

from pelton.model.desired import Desired, Subscription
from pelton.model.invocation import Delivered, Event
from pelton.model.scaler import ScalerReading
from pelton.model.snapshot import FunctionObserved
from pelton.model.state import StateChange, StateItem

__all__ = [
    "BatchInvoker",
    "Binding",
    "Bus",
    "ConfigurationItem",
    "ConfigurationStore",
    "Delivery",
    "EventResult",
    "Invoker",
    "Ledger",
    "Lock",
    "Message",
    "OrderedDelivery",
    "Place",
    "ReadableBus",
    "Recorded",
    "Registers",
    "SecretStore",
    "PushScaler",
    "Scaler",
    "SendResult",
    "Sender",
    "StateStore",
    "Store",
    "Stored",
    "StoredMessages",
    "Target",
    "Unlocked",
    "WatchEvent",
]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message on the bus. A struct: one is built per event.

    Attributes:
        topic: Topic (NATS subject, Kafka topic).
        data: Payload bytes.
        headers: Name -> value; names are kept as given.
        id: De-duplication id; "" for none.
        metadata: What the publisher asks of the broker, such as `partitionKey`; a broker takes what it knows.
        at: Epoch seconds at which the broker stored it, for deliveries; 0 where it does not tell.
    """

    topic: str
    data: bytes
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    id: str = ""
    metadata: Mapping[str, str] = msgspec.field(default_factory=dict)
    at: float = 0.0


class Delivery(Protocol):
    """One message held by a subscriber; one of ack, nak, term ends it, a lost connection redelivers."""

    @property
    def message(self) -> Message:
        """The message."""
        ...

    @property
    def key(self) -> str:
        """Stable identity of the message within its subscription, e.g. `stream:sequence`."""
        ...

    async def ack(self) -> None:
        """Finish it, confirmed by the broker. Safe to repeat."""
        ...

    async def nak(self, delay_s: float) -> None:
        """Give it back, to be delivered again after `delay_s` seconds (>= 0)."""
        ...

    async def term(self) -> None:
        """Finish it without success; never delivered again."""
        ...

    async def extend(self) -> None:
        """Tell the broker that work goes on, so that it does not redeliver."""
        ...


class OrderedDelivery(Delivery, Protocol):
    """A delivery of a broker that keeps an order, such as Kafka's within a partition.

    Finishing one of a lane finishes it at the broker once all before it in that lane are finished.
    """

    @property
    def lane(self) -> str:
        """Messages of one lane come in the broker's order; "" where there is no order."""
        ...

    @property
    def order_key(self) -> str:
        """What the publisher asked to keep in order, the record's key; "" for none."""
        ...

    @property
    def lost(self) -> bool:
        """Whether the broker has given the lane to somebody else, who gets this message again."""
        ...


class Bus(Protocol):
    """Durable publish/subscribe: NATS JetStream, Kafka, memory.

    One whose messages end with the process says so by a true attribute `volatile`: what failed waits in the
    ledger then, not there.
    """

    async def publish(self, message: Message) -> None:
        """Publish and wait until the broker has stored it.

        Raises:
            DeliveryError: It was not accepted; publishing again is safe when `Message.id` is set.
        """
        ...

    def subscribe(
        self, topic: str, *, consumer: str, max_in_flight: int, options: Mapping[str, str]
    ) -> AsyncIterator[Sequence[Delivery]]:
        """Iterate over batches of deliveries of one durable consumer, oldest first, never empty.

        Cancelling the iteration keeps the consumer; what was not acked is delivered again.
        """
        ...

    async def pending(self, topic: str, *, consumer: str) -> int:
        """Return messages that the consumer has not finished: not delivered yet plus not acked."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place in a topic: an offset, or else a time; without either the begin, or the end of the moment.

    Attributes:
        offset: Offset or sequence number; where a topic has partitions, in each of them. -1 for none.
        time_s: Epoch seconds; 0 for none.
    """

    offset: int = -1
    time_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A message that a topic keeps, its key as of a delivery, and when it was stored, in epoch seconds."""

    key: str
    time_s: float
    message: Message


class ReadableBus(Bus, Protocol):
    """A bus whose topics can be read again, without a consumer that anybody else would notice."""

    def read(self, topic: str, *, first: Place, last: Place) -> AsyncIterator[Sequence[Recorded]]:
        """Iterate over what is stored from `first` on up to and including `last`; it ends there.

        Order is the topic's, where there are partitions within each of them. A time as `last` is exclusive.

        Raises:
            DeliveryError: The broker did not answer, or the topic is not there.
        """
        ...

    def follow(self, topic: str) -> AsyncIterator[Message]:
        """Iterate over messages that are stored from now on; never ends by itself."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A message at rest: stream, sequence number in it, RFC 3339 time of storing, and the message."""

    stream: str
    sequence: int
    time: str
    message: Message


class StoredMessages(Protocol):
    """Messages at rest, such as dead letters, which are looked at one by one and taken away."""

    def stored(self, topic: str, *, first: int = 1) -> AsyncIterator[Stored]:
        """Iterate over what a topic or pattern has, oldest first, from a sequence number on; it ends there.

        Raises:
            DeliveryError: It cannot be read.
        """
        ...

    async def publish(self, message: Message) -> None:
        """Store a message; see `Bus`."""
        ...

    async def remove(self, stored: Stored) -> None:
        """Delete one message; safe to repeat. Raises DeliveryError."""
        ...


class Binding(Protocol):
    """An outside system that a function can call or be called by."""

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> Delivered:
        """Carry out one operation.

        An answer that refuses has `ok` False, so that its body and metadata are kept.

        Raises:
            DeliveryError: The other side was not reached, or gave no usable answer.
            ComponentError: The operation is unknown, or the component cannot work.
        """
        ...

    async def close(self) -> None:
        """Release connections; safe after a failed open."""
        ...


class StateStore(Protocol):
    """Keeps values by key, with etags, concurrency modes and time-to-live (`model/state.py`)."""

    async def get(self, keys: Sequence[str]) -> list[StateItem]:
        """Return an item per key in the order of the keys; one without data where there is no value."""
        ...

    async def write(self, changes: Sequence[StateChange]) -> None:
        """Carry out all changes in order, or none; what was written survives the death of this process.

        Cancelling it leaves open whether the changes happened.

        Raises:
            ConflictError: A stored value is not the one that a change is meant for.
            ComponentError: The store cannot be used, or a change asks for what it cannot do.
        """
        ...

    async def scan(self, prefix: str, *, limit: int) -> list[StateItem]:
        """Return at most `limit` items whose key begins so, in order of their keys."""
        ...

    async def close(self) -> None:
        """Release what it holds; safe after a failed open."""
        ...


class Unlocked(StrEnum):
    """How an attempt to give back a lock ended; the values are Dapr's names."""

    SUCCESS = "SUCCESS"
    ABSENT = "LOCK_DOES_NOT_EXIST"
    OTHERS = "LOCK_BELONGS_TO_OTHERS"


class Lock(Protocol):
    """Leases on names: one owner at a time, until given back or expired. Not reentrant, not renewable."""

    async def try_lock(self, resource: str, owner: str, expiry_s: int) -> bool:
        """Take a lock for `expiry_s` seconds (at least 1) if nobody has it; False when somebody does.

        The owner that has it already counts as somebody. Cancelling leaves open whether it was taken.

        Raises:
            ComponentError: The store cannot be used.
        """
        ...

    async def unlock(self, resource: str, owner: str) -> Unlocked:
        """Give a lock back if `owner` has it. Raises ComponentError."""
        ...

    async def close(self) -> None:
        """Release connections, not locks; safe after a failed open."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationItem:
    """A value of a configuration store.

    Attributes:
        value: The value; "" for a key that was deleted.
        version: As the store counts; "" for none.
        metadata: What the store says beside; may be empty.
    """

    value: str
    version: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


class ConfigurationStore(Protocol):
    """Settings that others write, by key."""

    async def get(
        self, keys: Sequence[str], *, metadata: Mapping[str, str] | None = None
    ) -> dict[str, ConfigurationItem]:
        """Return key -> item; keys that do not exist are left out, no keys mean all.

        Raises:
            ComponentError: The store cannot be used.
        """
        ...

    def subscribe(
        self, keys: Sequence[str], *, metadata: Mapping[str, str] | None = None
    ) -> AsyncIterator[Mapping[str, ConfigurationItem]]:
        """Iterate over changes of these keys (no keys: all) from the start of the iteration, never empty.

        The latest value of a key always comes; values in between may not. A lost connection is made again
        and what changed meanwhile is told then. Never ends by itself.

        Raises:
            ComponentError: The store cannot be used, at the start only.
        """
        ...

    async def close(self) -> None:
        """Release connections; safe after a failed open. Subscriptions end by being cancelled."""
        ...


class SecretStore(Protocol):
    """Secrets by name; a secret has one or more keys with values."""

    async def get(self, name: str, *, metadata: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return key -> value of one secret; where a secret is one value, its key is its name.

        Raises:
            NotFoundError: There is no such secret.
            ComponentError: The store cannot be used.
        """
        ...

    async def get_all(self, *, metadata: Mapping[str, str] | None = None) -> dict[str, dict[str, str]]:
        """Return name -> secret. Raises ComponentError."""
        ...

    async def close(self) -> None:
        """Release connections; safe after a failed open."""
        ...


class Scaler(Protocol):
    """Reads the value that one trigger of KEDA scales by. Made without I/O; connects at the first reading."""

    async def read(self) -> Sequence[ScalerReading]:
        """Return the trigger's metrics, one at least; one call at a time.

        A connection that broke is made again by the next call.

        Raises:
            PeltonError: The value could not be read; says why and what to do.
        """
        ...

    async def close(self) -> None:
        """Release connections; safe after a failed reading."""
        ...


class PushScaler(Scaler, Protocol):
    """A scaler that tells of activity by itself."""

    def activity(self) -> AsyncIterator[bool]:
        """Iterate over what it tells: whether there is anything to do. Ends when the other side ends it.

        Raises:
            PeltonError: The other side is not reached, or broke off; iterating anew connects again.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EventResult:
    """A function's outcome for one event.

    Attributes:
        outcome: `ok`, `error` (an attempt), `drop` (dead letter at once), or `busy` (no attempt: nobody took
            it).
        reason: One line for logs and dead letters.
        died: The worker died while it held the event, and maybe others of the same batch.
    """

    outcome: str
    reason: str = ""
    died: bool = False


class Invoker(Protocol):
    """Delivers events to workers of a function, waking it if needed."""

    async def invoke(
        self, subscription: Subscription, event: Event, *, invocation_id: str, timeout_s: float
    ) -> EventResult:
        """Deliver one event and wait for its outcome; never raises for what the function does.

        A worker's death while it holds the event is an `error`; a full queue or a failed wake is `busy`.
        `timeout_s` is the function's limit, 0 for none; exceeding it is an `error`.
        """
        ...


@runtime_checkable
class BatchInvoker(Invoker, Protocol):
    """An invoker that also takes several events at once."""

    async def invoke_run(
        self,
        subscription: Subscription,
        *,
        more: Callable[[int], Sequence[tuple[str, Event]]],
        done: Callable[[int], None],
        timeout_s: float,
    ) -> EventResult | None:
        """Have one worker handle events in order, up to the first that does not end well.

        Cancelling it tells the worker.

        Args:
            subscription: Whose events they are.
            more: Asked for the next events, (invocation id, event) each, whenever there is room for some;
                takes how many, at most. The run is over when all that it gave have ended.
            done: Told how many further events have ended well; may ask for more at once.
            timeout_s: The function's limit for each, 0 for none.

        Returns:
            The outcome of the first event that did not end well, `busy` when it has not begun; None when
            there is none. What is behind it has not begun.
        """
        ...

    async def invoke_many(
        self,
        subscription: Subscription,
        events: Sequence[tuple[str, Event]],
        *,
        settled: Callable[[Sequence[tuple[int, EventResult]]], None],
        timeout_s: float,
    ) -> str:
        """Deliver events of which each runs as if it were alone; returns when no worker has any of them.

        Cancelling it tells the workers.

        Args:
            subscription: Whose events they are.
            events: (invocation id, event) each.
            settled: Told of outcomes as they come, by index into `events`; never of `busy`.
            timeout_s: The function's limit for each, 0 for none.

        Returns:
            Why some were not taken, "" when there is nothing to say. What `settled` was not told of has not
            begun, and is no attempt.
        """
        ...


class Ledger(Bus, Protocol):
    """The bus that keeps retries and dead letters, with a durable record of attempts per subscription."""

    async def load_attempts(self, owner: str) -> dict[str, int]:
        """Return delivery key -> attempts recorded for a subscription id and not deleted since."""
        ...

    async def put_attempts(self, owner: str, key: str, attempts: int) -> None:
        """Record attempts of one delivery; returns when stored. Raises DeliveryError."""
        ...

    async def delete_attempts(self, owner: str, key: str) -> None:
        """Forget them; safe to repeat. Raises DeliveryError."""
        ...

    async def discard(self, topic: str, *, consumer: str) -> int:
        """Drop what waits on a topic that has one consumer, and the consumer; returns how much it was.

        Safe to repeat. Raises DeliveryError.
        """
        ...


class Registers(Protocol):
    """One small value per name, replaced by comparing revisions: state that is shared and survives."""

    async def read_register(self, name: str) -> tuple[bytes, int]:
        """Return the value and its revision; b"" and 0 where there is none. Raises DeliveryError."""
        ...

    async def write_register(self, name: str, data: bytes, *, revision: int) -> int:
        """Replace the value of that revision (0: there is none) and return the new one, once it is stored.

        Cancelling it leaves open whether it was replaced.

        Raises:
            ConflictError: The value is of another revision.
            DeliveryError: It was not stored, or is not known to be.
        """
        ...

    async def delete_register(self, name: str) -> None:
        """Forget a value; safe to repeat. Raises DeliveryError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SendResult:
    """What a notification's destination answered.

    Attributes:
        ok: Accepted (2xx).
        retriable: Whether another attempt can help (transport errors, 429, 5xx).
        retry_after_s: Seconds asked for by Retry-After, or None.
        detail: Status and a short body excerpt, without secrets.
        refused: Whether it is our credentials that were not accepted.
        done: Parts of the destination, such as channels, that have the notification, earlier ones included.
        receipts: Part -> by what its message can be found again, for parts that got one now.
    """

    ok: bool
    retriable: bool = True
    retry_after_s: float | None = None
    detail: str = ""
    refused: bool = False
    done: tuple[str, ...] = ()
    receipts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class Sender(Protocol):
    """Brings one rendered notification to one destination.

    Settings have what the receiver says, and `deliveryId`, the same for each attempt. `done` lists parts of
    the destination that an earlier attempt reached: they are left out.
    """

    async def send(self, settings: Mapping[str, Any], payload: Mapping[str, Any]) -> SendResult:
        """Send once; never raises for what the destination does."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEvent:
    """A change in the store: type ADDED, MODIFIED, DELETED or BOOKMARK, the object, its resourceVersion."""

    type: str
    object: dict[str, Any]
    resource_version: int


class Store(Protocol):
    """Kubernetes-shaped objects with optimistic concurrency. Objects are JSON dictionaries."""

    async def get(self, resource: str, namespace: str, name: str) -> dict[str, Any]:
        """Return one object. `resource` is `<plural>.<group>`. Raises NotFoundError."""
        ...

    async def list(self, resource: str, namespace: str | None = None) -> tuple[list[dict[str, Any]], int]:
        """Return objects sorted by namespace and name, and the resourceVersion of the listing."""
        ...

    async def create(
        self, resource: str, obj: dict[str, Any], *, keep_status: bool = False
    ) -> dict[str, Any]:
        """Store a new object; fills uid, resourceVersion, generation 1, creationTimestamp.

        Its status is dropped unless `keep_status`.
        """
        ...

    async def update(self, resource: str, obj: dict[str, Any], *, subresource: str = "") -> dict[str, Any]:
        """Replace an object or its status.

        A stale resourceVersion raises ConflictError. The generation grows only when something outside
        metadata and status changed. Removing the last finalizer of an object that is being deleted removes
        it.
        """
        ...

    async def delete(self, resource: str, namespace: str, name: str) -> dict[str, Any]:
        """Delete, or mark with deletionTimestamp while finalizers remain. Raises NotFoundError."""
        ...

    def watch(
        self, resource: str, namespace: str | None = None, *, since: int | None = None
    ) -> AsyncIterator[WatchEvent]:
        """Iterate over changes after `since`; None starts with ADDED for all that exists."""
        ...


class Target(Protocol):
    """Where desired state becomes real: this machine, or a Kubernetes cluster."""

    async def observe(self, namespace: str, name: str) -> tuple[Desired | None, FunctionObserved | None]:
        """Return what was applied last (None: nothing) and how it fares."""
        ...

    async def apply(self, desired: Desired) -> None:
        """Make it so and wait until traffic is routed; idempotent. Raises PeltonError."""
        ...

    async def remove(self, namespace: str, name: str) -> None:
        """Take all of a Function's parts away; idempotent, returns when its instances are gone."""
        ...
