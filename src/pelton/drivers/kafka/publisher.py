"""The producer behind a component: publishes from the event loop, confirmed by the broker.

One thread serves the client library's confirmations; those of one turn wake the loop once. A producer that
the library declares broken (an idempotent one whose sequence was lost) is replaced at the next publish.
Called by `bus.py` beside it.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from pelton import errors
from pelton.drivers.kafka.records import headers_of, key_of, partition_of, plain_error, schema_of
from pelton.drivers.kafka.settings import KafkaSettings
from pelton.log import get
from pelton.ports import Message

__all__ = ["Publisher"]

_QUEUE_S: Final = 30.0
_CLOSE_S: Final = 5.0
# What another attempt cannot cure.
_FINAL: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._INVALID_ARG,
    }
)

_log = get(__name__)


class _Running:
    """One producer and its thread."""

    def __init__(self, settings: KafkaSettings, loop: asyncio.AbstractEventLoop, where: str) -> None:
        self.loop = loop
        self._where = where
        self._done: list[tuple[asyncio.Future[None], KafkaError | None]] = []
        self._stop = threading.Event()
        self.trouble = ""
        self.broken = False
        self.producer = Producer(
            {
                **settings.client,
                **settings.producer,
                "queue.buffering.max.kbytes": 64 * 1024,
                "error_cb": self._on_error,
            }
        )
        self._thread = threading.Thread(target=self._serve, name="kafka-producer", daemon=True)
        self._thread.start()

    def confirm(self, future: asyncio.Future[None]) -> Any:
        """Return the callback that settles a future, from the thread."""

        def done(error: KafkaError | None, _record: Any) -> None:
            self._done.append((future, error))

        return done

    def _serve(self) -> None:
        while not self._stop.is_set():
            self.producer.poll(0.5)
            self._hand_over()
        self.producer.flush(_CLOSE_S)
        self._hand_over()

    def _hand_over(self) -> None:
        if not self._done:
            return
        done, self._done = self._done, []
        try:
            self.loop.call_soon_threadsafe(self._settle, done)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._stop.set()

    def _settle(self, done: list[tuple[asyncio.Future[None], KafkaError | None]]) -> None:
        for future, error in done:
            if error is None:
                self.trouble = ""
            elif error.fatal():
                self.broken = True
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(KafkaException(error))

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.broken = True
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self.trouble:
            return
        text = plain_error(error)
        if text != self.trouble:
            _log.warning("%s: producer: %s; trying on", self._where, text)
        self.trouble = text

    async def close(self) -> None:
        self._stop.set()
        await asyncio.to_thread(self._thread.join, _CLOSE_S + 1)


class Publisher:
    """Publishes records of one component.

    Args:
        settings: The component's.
        where: For messages.
    """

    def __init__(self, settings: KafkaSettings, *, where: str) -> None:
        self._settings = settings
        self._where = where
        self._running: _Running | None = None

    async def publish(self, message: Message) -> None:
        """Publish one record and wait for its confirmation.

        Raises:
            DeliveryError: The broker did not take it.
        """
        settings = self._settings
        if self._running is not None and self._running.broken:
            await self._running.close()
            self._running = None
        if self._running is None:
            try:
                self._running = _Running(settings, asyncio.get_running_loop(), self._where)
            except KafkaException as exc:
                raise errors.ComponentError(f"Kafka: {exc}", where=self._where) from exc
        running = self._running
        loop = running.loop  # CPython 3.11 asks the system for its process id to find the running one
        future: asyncio.Future[None] = loop.create_future()
        if schema_of(message.metadata) == "avro":
            raise self._refused("values pass as they are, so there is no Avro", retriable=False)
        try:
            partition = partition_of(message.metadata)
        except ValueError as exc:
            raise self._refused("partitionNumber is not a whole number", retriable=False) from exc
        asked: dict[str, Any] = {} if partition is None else {"partition": partition}
        deadline = loop.time() + _QUEUE_S
        try:
            while True:
                try:
                    running.producer.produce(
                        message.topic,
                        message.data,
                        key=key_of(message.metadata),
                        headers=headers_of(message, exclude=settings.exclude_headers),
                        on_delivery=running.confirm(future),
                        **asked,
                    )
                    break
                except BufferError:
                    if loop.time() > deadline:
                        raise self._refused(f"the queue is full: {running.trouble or 'slow'}") from None
                    await asyncio.sleep(0.01)
            await future
        except KafkaException as exc:
            error = exc.args[0]
            text, code = error.str(), error.code()
            if code == KafkaError.MSG_SIZE_TOO_LARGE:
                raise self._refused(
                    f"a record of {len(message.data)} bytes is larger than {settings.max_message_bytes}",
                    retriable=False,
                    hint='Raise "maxMessageBytes" of the component, and the limit of the topic if need be.',
                ) from exc
            if code == KafkaError._MSG_TIMED_OUT and running.trouble:
                text = f"{text} ({running.trouble})"
            raise self._refused(text, retriable=code not in _FINAL) from exc

    async def close(self) -> None:
        """Send what is queued and stop."""
        running, self._running = self._running, None
        if running is not None:
            await running.close()

    def _refused(self, text: str, *, retriable: bool = True, hint: str = "") -> errors.DeliveryError:
        return errors.DeliveryError(f"Kafka: {text}", retriable=retriable, where=self._where, hint=hint)
