"""Topics on streams: an app that opens SubscribeTopicEventsAlpha1 gets events without listening anywhere.

Implements `TopicStreams` of `ports.py`. All streams of an app for one topic share one subscription and take
turns, as consumers of one group do; from a broker without groups each gets every event. What a stream has not
answered when it ends goes to another one, or waits. `callbacks.py` starts and ends the subscription,
`delivery.py` brings the events.
Source: contracts, Dapr runtime, section 3 (streaming protocol).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from pelton.compat.dapr.apps import RegisteredApp
from pelton.compat.dapr.channel import DROP, RETRY, SUCCESS, UNREACHED, Answer, TopicEvent
from pelton.compat.dapr.channel_grpc import topic_request
from pelton.compat.dapr.faults import Fault, malformed
from pelton.compat.dapr.subscriptions import STREAMING, Rule, TopicSubscription
from pelton.proto import dapr_runtime_pb2 as runtime

__all__ = ["Streams"]

_Key = tuple[str, str, str]
_STATUS: Final = {0: SUCCESS, 1: RETRY, 2: DROP}
_GONE: Final = Answer(status=UNREACHED, reason="the stream has ended")
_WORST: Final = (RETRY, DROP, SUCCESS, UNREACHED)
"""What counts of several answers to one event, in this order; who is gone has no say beside others."""
_REMEMBERED: Final = 1000
"""Events per stream that it accepted while another one has to get them again."""


class _Stream:
    """One open stream: events that wait for being sent, and those that wait for an answer, by their id."""

    def __init__(self) -> None:
        self.outgoing: asyncio.Queue[Any] = asyncio.Queue()
        self.open: dict[str, deque[asyncio.Future[Answer]]] = {}
        self.accepted: dict[str, None] = {}
        self.trouble: Fault | None = None

    async def deliver(self, event: TopicEvent, timeout_s: float) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        request = topic_request(event)
        waiting = self.open.setdefault(request.id, deque())
        waiting.append(future)
        self.outgoing.put_nowait(runtime.SubscribeTopicEventsResponseAlpha1(event_message=request))
        try:
            async with asyncio.timeout(timeout_s or None):
                return await future
        except TimeoutError:
            return Answer(status=RETRY, reason=f"the stream did not answer within {timeout_s:g} s")
        finally:
            if future in waiting:
                waiting.remove(future)
            if not waiting and self.open.get(request.id) is waiting:
                del self.open[request.id]

    def answered(self, event_id: str, status: int) -> None:
        """Take the app's answer; one that nobody waits for comes too late and is left alone."""
        judged = _STATUS.get(status, RETRY)
        reason = "" if judged == SUCCESS else f"the stream answered {judged.upper()}"
        for future in self.open.get(event_id, ()):
            if not future.done():
                future.set_result(Answer(status=judged, reason=reason))
                return

    def end(self) -> None:
        """Give back what has no answer."""
        for waiting in self.open.values():
            for future in waiting:
                if not future.done():
                    future.set_result(_GONE)


class Streams:
    """All streams of a runtime.

    Args:
        check: Raises Fault for a topic that an app may not have.
        changed: Told of an app whose subscriptions on streams are different now; returns when events of new
            topics flow.
    """

    def __init__(
        self,
        *,
        check: Callable[[RegisteredApp, TopicSubscription], Awaitable[None]],
        changed: Callable[[RegisteredApp], Awaitable[None]],
    ) -> None:
        self._check = check
        self._changed = changed
        self._streams: dict[_Key, list[_Stream]] = {}
        self._wanted: dict[_Key, TopicSubscription] = {}
        self._turn: dict[_Key, int] = {}

    def of(self, app_key: str) -> list[TopicSubscription]:
        """Return what an app's streams ask for now."""
        return [wanted for (key, _, _), wanted in self._wanted.items() if key == app_key]

    async def deliver(
        self, app_key: str, topic: str, event: TopicEvent, timeout_s: float, *, every: bool = False
    ) -> Answer:
        """Hand an event to one of the streams of an app for a topic, or to every one.

        Args:
            app_key: Whose.
            topic: Theirs; may be a pattern.
            event: What.
            timeout_s: Time for an answer, seconds; 0 for no limit.
            every: Whether each stream gets it; one that took it is not given it again for another's sake.
        """
        key = (app_key, event.pubsub, topic)
        streams = self._streams.get(key)
        if not streams:
            return _GONE
        if every and len(streams) > 1:
            return await _deliver_to_all(streams, event, timeout_s)
        turn = self._turn[key] = (self._turn.get(key, -1) + 1) % len(streams)
        return await streams[turn].deliver(event, timeout_s)

    async def subscribe(self, caller: RegisteredApp, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Answer SubscribeTopicEventsAlpha1; see `ports.TopicStreams`."""
        requests = _readable(requests)
        wanted = await _initial(requests)
        await self._check(caller, wanted)
        key = (caller.app.key, wanted.pubsub, wanted.topic)
        stream = _Stream()
        first = key not in self._streams
        self._streams.setdefault(key, []).append(stream)
        self._wanted[key] = wanted
        reading: asyncio.Task[None] | None = None
        try:
            if first:
                await self._changed(caller)
            reading = asyncio.create_task(_read(requests, stream))
            yield runtime.SubscribeTopicEventsResponseAlpha1(
                initial_response=runtime.SubscribeTopicEventsResponseInitialAlpha1()
            )
            while (response := await stream.outgoing.get()) is not None:
                yield response
            if stream.trouble is not None:
                raise stream.trouble
        finally:
            if reading is not None:
                reading.cancel()
            streams = self._streams[key]
            streams.remove(stream)
            stream.end()
            if not streams:
                del self._streams[key], self._wanted[key]
                self._turn.pop(key, None)
                await self._changed(caller)


async def _deliver_to_all(streams: list[_Stream], event: TopicEvent, timeout_s: float) -> Answer:
    event_id = str(event.attributes.get("id", ""))
    left = [stream for stream in streams if event_id not in stream.accepted]
    answers = await asyncio.gather(*(stream.deliver(event, timeout_s) for stream in left))
    answer = min(answers, key=lambda each: _WORST.index(each.status), default=Answer(status=SUCCESS))
    for stream, own in zip(left, answers, strict=True):
        if answer.status == RETRY and own.status in (SUCCESS, DROP):
            stream.accepted[event_id] = None
            if len(stream.accepted) > _REMEMBERED:
                del stream.accepted[next(iter(stream.accepted))]
    if answer.status != RETRY:
        for stream in streams:
            stream.accepted.pop(event_id, None)
    return answer


async def _readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield what an app says; what is no such message is refused like one that makes no sense."""
    try:
        async for request in requests:
            yield request
    except DecodeError as exc:
        raise malformed(f"a message on the stream cannot be read: {exc}") from exc


async def _initial(requests: AsyncIterator[Any]) -> TopicSubscription:
    """Read the first request."""
    first = await anext(requests, None)
    if first is None or not first.HasField("initial_request"):
        raise malformed("initial_request is missing: a stream begins with it")
    asked = first.initial_request
    for name, value in (("pubsubName", asked.pubsub_name), ("topic", asked.topic)):
        if not value:
            raise malformed(f"{name} is required")
    return TopicSubscription(
        pubsub=asked.pubsub_name,
        topic=asked.topic,
        rules=(Rule(path="/"),),
        metadata=dict(asked.metadata),
        dead_letter_topic=asked.dead_letter_topic,
        kind=STREAMING,
    )


async def _read(requests: AsyncIterator[Any], stream: _Stream) -> None:
    """Take answers until the app is done or says what makes no sense."""
    try:
        async for request in requests:
            if request.HasField("event_processed"):
                stream.answered(request.event_processed.id, request.event_processed.status.status)
                continue
            stream.trouble = malformed("duplicate initial request received")
            return
    except Fault as fault:
        stream.trouble = fault
    finally:
        stream.outgoing.put_nowait(None)
