"""Keeps the subscriptions of all apps: asks what an app wants, has events brought to it, watches its health.

An app is asked once it can be reached, however long that takes; what cannot be used of its answer is logged
and left out. Resources and streams add to it. While an app is unhealthy nothing is fetched for it. How events
flow is the business of whoever implements `Feeds`, with the invoker of `delivery.py`.
Source: contracts, Dapr runtime, sections 3, 5, 8 and the paragraph on app health in 9. An app that answers
nothing for a topic's event has 300 s for it, where no policy says otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, TypeVar

import grpc

from pelton.clock import Clock
from pelton.compat.dapr.apps import App, RegisteredApp
from pelton.compat.dapr.channel import (
    RETRY,
    UNREACHED,
    Answer,
    AppChannel,
    AppUnreachableError,
    BindingAnswer,
    BindingEvent,
    TopicEvent,
)
from pelton.compat.dapr.components import Components
from pelton.compat.dapr.delivery import AppInvoker, BindingRoute, TopicRoute
from pelton.compat.dapr.faults import forbidden_topic, pubsub_missing
from pelton.compat.dapr.resiliency import BreakerOpenError, Calls, Failure
from pelton.compat.dapr.streams import Streams
from pelton.compat.dapr.subscriptions import (
    STREAMING,
    Router,
    TopicSubscription,
    merged,
)
from pelton.compat.dapr.topic_scopes import may_use
from pelton.errors import CelCompileError, PeltonError, ProtocolError
from pelton.log import get
from pelton.model.component import ComponentResource
from pelton.model.desired import Component, Subscription
from pelton.model.resiliency import RetryPolicy
from pelton.plan.resiliency import Policies, Policy, repeats, waits

__all__ = ["AppComponent", "Callbacks", "Feeds", "Learned", "Settings"]

T = TypeVar("T")
_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 1.0
_EAGER_S: Final = 60.0
"""How long an app is asked every second. Later, and where it answers what makes no sense, it is asked seldom:
asking may start an instance."""
_SELDOM_S: Final = 30.0
_PROBE_RETRY_S: Final = 2.0
_DELIVERY_S: Final = 300.0
_WITHOUT_GROUPS: Final = frozenset({"pubsub.in-memory"})
"""Types that give each event to every subscriber."""
_UNHEALTHY: Final = "the app is not in a healthy state"
_log = get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppComponent(Component):
    """A component as one app has it; `app` is `namespace/app_id`."""

    app: str


class Feeds(Protocol):
    """Fetches events for apps, at least once, and has the invoker deliver them."""

    async def apply(self, app: App, subscriptions: Sequence[Subscription]) -> None:
        """Make an app's subscriptions these; the component of each is an AppComponent. Idempotent.

        Unchanged ones go on undisturbed; those that are gone finish what they hold.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What an app has said that it wants: topics, and bindings by the component's name."""

    topics: tuple[TopicSubscription, ...] = ()
    bindings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How an app is asked.

    Attributes:
        known: What it wants, when that was learned before; None asks it.
        learned: Told what it said.
        ask: Whether it is asked for subscriptions at all.
    """

    known: Learned | None = None
    learned: Callable[[Learned], None] = lambda _learned: None
    ask: bool = True


@dataclass(slots=True, eq=False)
class _Served:
    registered: RegisteredApp
    settings: Settings
    topics: list[TopicSubscription] = field(default_factory=list)
    bindings: dict[str, bool] = field(default_factory=dict)
    routes: set[str] = field(default_factory=set)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    task: asyncio.Task[None] | None = None
    ended: bool = False


class Callbacks:
    """The runtime's side towards its apps.

    Args:
        feeds: Fetches events.
        invoker: Delivers them; gets the routes.
        components: What apps may use.
        declared: Returns the subscriptions that resources declare for an app.
        policies: Returns the resiliency policies of an app.
        calls: Carries calls out under policies.
        send: Sends what an app returned for a binding's event to an output binding: app, name, data.
        trigger_types: Types of binding components that bring events.
        clock: Waits.
    """

    def __init__(
        self,
        *,
        feeds: Feeds,
        invoker: AppInvoker,
        components: Components,
        declared: Callable[[App], Sequence[TopicSubscription]],
        policies: Callable[[App], Policies],
        calls: Calls,
        send: Callable[[RegisteredApp, str, bytes], Awaitable[None]],
        trigger_types: frozenset[str],
        clock: Clock,
    ) -> None:
        self._feeds = feeds
        self._invoker = invoker
        self._components = components
        self._declared = declared
        self._policies = policies
        self._calls = calls
        self._send = send
        self._trigger_types = trigger_types
        self._clock = clock
        self._served: dict[str, _Served] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.streams = Streams(check=self._check_stream, changed=self._stream_changed)
        components.listen(lambda _names: self.refresh())

    def serve(self, registered: RegisteredApp, settings: Settings = Settings()) -> None:
        """Begin to serve an app; one that is served already is asked anew."""
        old = self._served.pop(registered.app.key, None)
        served = _Served(registered, settings)
        self._served[registered.app.key] = served
        registered.ready = False
        served.task = self._spawn(self._run(served, old))

    async def leave(self, app_key: str) -> None:
        """Stop serving an app, in order: what it holds it may finish. Safe to repeat."""
        served = self._served.pop(app_key, None)
        if served is None:
            return
        await self._end(served)
        served.registered.ready = False
        async with served.lock:
            await self._feeds.apply(served.registered.app, ())
            for name in served.routes:
                self._invoker.forget(name)
            served.routes.clear()
        served.registered.subscriptions = ()

    def refresh(self) -> None:
        """Look again at what resources declare and which components there are."""
        for served in self._served.values():
            if served.registered.ready:
                self._spawn(self._apply(served))

    async def close(self) -> None:
        """Stop serving all apps."""
        await asyncio.gather(*(self.leave(key) for key in list(self._served)))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("serving an app failed inside Pelton", exc_info=error)

    async def _end(self, served: _Served) -> None:
        served.ended = True
        if served.task is not None:
            served.task.cancel()
            await asyncio.gather(served.task, return_exceptions=True)

    # -- one app ---------------------------------------------------------------------------------------------

    async def _run(self, served: _Served, old: _Served | None) -> None:
        """Ask an app what it wants, bring it that, and watch its health for as long as it is served."""
        registered = served.registered
        if old is not None:
            await self._end(old)
            served.routes |= old.routes
        health = registered.app.health
        if registered.channel is not None and registered.app.is_called:
            if served.settings.known is not None:
                served.topics = list(served.settings.known.topics)
                served.bindings = dict.fromkeys(served.settings.known.bindings, True)
            else:
                if health is not None:
                    registered.healthy = False
                    await self._until_healthy(registered)
                if served.settings.ask:
                    served.topics = await self._ask(registered)
        await self._apply(served)
        registered.ready = True
        taken = tuple(name for name, wanted in served.bindings.items() if wanted)
        served.settings.learned(Learned(topics=tuple(served.topics), bindings=taken))
        if health is not None and registered.channel is not None:
            await self._watch(served)

    async def _ask(self, registered: RegisteredApp) -> list[TopicSubscription]:
        pause_s, said, began = _FIRST_PAUSE_S, "", self._clock.monotonic()
        while True:
            try:
                channel: AppChannel = registered.channel
                found, faults = await channel.subscriptions()
            except (AppUnreachableError, ProtocolError) as exc:
                # Dapr gives up here. An app that comes later, or is repaired, is served all the same.
                if isinstance(exc, ProtocolError) and str(exc) != said:
                    said = str(exc)
                    _log.warning("app %s: %s; it is asked again", registered.app.app_id, exc.message)
                await self._clock.sleep(pause_s)
                eager = not said and self._clock.monotonic() - began < _EAGER_S
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S if eager else _SELDOM_S)
                continue
            for fault in faults:
                _log.warning("app %s: %s; it is left out", registered.app.app_id, fault)
            return found

    async def _until_healthy(self, registered: RegisteredApp) -> None:
        pause_s = _FIRST_PAUSE_S
        health = registered.app.health
        while health is not None:
            if await registered.channel.is_healthy(health.path, timeout_s=health.timeout_s):
                registered.healthy = True
                return
            await self._clock.sleep(pause_s)
            pause_s = min(pause_s * 2, health.interval_s)

    async def _watch(self, served: _Served) -> None:
        """Probe; after `threshold` failures in a row nothing is fetched, after one success it is again."""
        registered, failures = served.registered, 0
        health = registered.app.health
        while health is not None:
            await self._clock.sleep(health.interval_s)
            if await registered.channel.is_healthy(health.path, timeout_s=health.timeout_s):
                failures = 0
                if not registered.healthy:
                    registered.healthy = True
                    _log.info("app %s is healthy again", registered.app.app_id)
                    await self._apply(served)
                continue
            failures += 1
            if failures >= health.threshold and registered.healthy:
                registered.healthy = False
                _log.warning("app %s is unhealthy: nothing is delivered to it", registered.app.app_id)
                await self._apply(served)

    async def _check_stream(self, registered: RegisteredApp, topic: TopicSubscription) -> None:
        """Refuse a topic that an app may not have."""
        app, name = registered.app, topic.pubsub
        resource = self._components.find(app, name)
        if resource is None or resource.spec.category != "pubsub":
            raise pubsub_missing(name, self._components.of(app, "pubsub"))
        component = await self._components.component(app, name)
        if component is not None and not may_use(component.metadata, app.app_id, topic.topic, "subscription"):
            raise forbidden_topic(name, topic.topic, app.app_id)

    async def _stream_changed(self, registered: RegisteredApp) -> None:
        served = self._served.get(registered.app.key)
        if served is None:
            served = self._served[registered.app.key] = _Served(registered, Settings())
        if not served.ended:
            await self._apply(served)

    # -- what is fetched -------------------------------------------------------------------------------------

    async def _apply(self, served: _Served) -> None:
        """Have that fetched which an app wants now."""
        registered, app = served.registered, served.registered.app
        async with served.lock:
            if served.ended:
                return
            wanted: list[Subscription] = []
            topics: list[TopicSubscription] = []
            routes: dict[str, TopicRoute | BindingRoute] = {}
            own = served.topics if registered.channel is not None else []
            declared = self._declared(app) if registered.channel is not None else []
            policies = self._policies(app)
            for topic in [*merged(own, declared), *self.streams.of(app.key)]:
                made = await self._topic(served, topic, policies)
                topics.append(topic)  # metadata tell what the app asked for, brought or not
                if made is not None:
                    wanted.append(made[0])
                    routes[made[0].id] = made[1]
            if registered.channel is not None:
                for resource in self._components.of(app, "bindings").values():
                    binding = await self._binding(served, resource, policies)
                    if binding is not None:
                        wanted.append(binding[0])
                        routes[binding[0].id] = binding[1]
            registered.subscriptions = topics
            for name, route in routes.items():
                self._invoker.set_route(name, route)
            await self._feeds.apply(app, wanted if registered.healthy else ())
            for name in served.routes - routes.keys():
                self._invoker.forget(name)
            served.routes = set(routes)

    async def _topic(
        self, served: _Served, topic: TopicSubscription, policies: Policies
    ) -> tuple[Subscription, TopicRoute] | None:
        registered, app = served.registered, served.registered.app
        try:
            component = await self._component(app, topic.pubsub, "pubsub")
            router = Router(topic)
            if not may_use(component.metadata, app.app_id, topic.topic, "subscription"):
                raise ProtocolError("its scopes do not allow the topic")
        except (PeltonError, CelCompileError) as exc:
            _log.error("app %s gets nothing of %s/%s: %s", app.app_id, topic.pubsub, topic.topic, exc)
            return None
        policy = policies.component(topic.pubsub, "Pubsub", "inbound")
        where = f"pubsub/{app.key}/{topic.pubsub}"
        streaming = topic.kind == STREAMING
        every = component.type in _WITHOUT_GROUPS

        async def deliver(event: TopicEvent, timeout_s: float) -> Answer:
            if streaming:
                return await self.streams.deliver(app.key, topic.topic, event, timeout_s, every=every)
            if registered.channel is None or not registered.healthy:
                return Answer(status=UNREACHED, reason=_UNHEALTHY)
            found: Answer = await registered.channel.deliver(event, timeout_s=timeout_s)
            return found

        async def deliver_bulk(events: list[TopicEvent], timeout_s: float) -> list[Answer]:
            if registered.channel is None or not registered.healthy:
                return [Answer(status=UNREACHED, reason=_UNHEALTHY)] * len(events)
            found: list[Answer] = await registered.channel.deliver_bulk(events, timeout_s=timeout_s)
            return found

        subscription = _bounded(
            Subscription(
                namespace=app.namespace,
                function=app.app_id,
                name=f"dapr-stream.{topic.pubsub}" if streaming else f"dapr.{topic.pubsub}",
                input_name=topic.pubsub,
                component=component,
                topic=self._components.broker_topic(app, topic.pubsub, topic.topic),
                options=topic.metadata,
                ordering="none" if topic.bulk else "partition",
                consumer=app.app_id,
            ),
            policy.retry,
            once=bool(topic.dead_letter_topic),
        )
        timeout_s = policy.timeout_s or _DELIVERY_S

        async def guarded(event: TopicEvent, _timeout_s: float) -> Answer:
            return await self._guarded(
                policy,
                where,
                lambda: deliver(event, timeout_s),
                answers=lambda answer: (answer,),
                refused=lambda answer: answer,
            )

        async def guarded_bulk(events: list[TopicEvent], _timeout_s: float) -> list[Answer]:
            return await self._guarded(
                policy,
                where,
                lambda: deliver_bulk(events, timeout_s),
                answers=lambda found: found,
                refused=lambda answer: [answer] * len(events),
            )

        route = TopicRoute(
            topic=topic,
            router=router,
            prefix=self._components.broker_topic(app, topic.pubsub, ""),
            deliver=guarded,
            deliver_bulk=guarded_bulk if topic.bulk is not None else None,
            retriable=lambda code: _retriable(policy.retry, code),
        )
        return subscription, route

    async def _guarded(
        self,
        policy: Policy,
        where: str,
        attempt: Callable[[], Awaitable[T]],
        *,
        answers: Callable[[T], Sequence[Answer]],
        refused: Callable[[Answer], T],
    ) -> T:
        """Deliver behind the circuit breaker, if there is one; retries are the dispatcher's.

        Args:
            policy: What holds for the component.
            where: Names the breaker.
            attempt: Delivers once.
            answers: Returns what the app said to each event.
            refused: Returns what was said where the breaker lets nothing pass.
        """
        if policy.breaker is None:
            return await attempt()
        try:
            return await self._calls.run(
                replace(policy, retry=None, timeout_s=None),
                attempt,
                target=where,
                judge=lambda found: (
                    Failure() if any(each.status == RETRY for each in answers(found)) else None
                ),
            )
        except BreakerOpenError as exc:
            return refused(Answer(status=UNREACHED, reason=exc.message))

    async def _binding(
        self, served: _Served, resource: ComponentResource, policies: Policies
    ) -> tuple[Subscription, BindingRoute] | None:
        registered, app, name = served.registered, served.registered.app, resource.name
        if resource.spec.type not in self._trigger_types:
            return None
        try:
            component = await self._component(app, name, "bindings")
        except PeltonError as exc:
            _log.error("app %s gets nothing of binding %s: %s", app.app_id, name, exc)
            return None
        settings = {key.lower(): value for key, value in component.metadata.items()}
        route = settings.get("route") or name
        directions = {word.strip() for word in settings.get("direction", "").lower().split(",")} - {""}
        if directions and "input" not in directions:
            return None
        if not directions and not await self._is_wanted(served, name, route):
            return None
        policy = policies.component(name, "Binding", "inbound")
        timeout_s = policy.timeout_s or _DELIVERY_S

        async def call(event: BindingEvent) -> BindingAnswer:
            if registered.channel is None or not registered.healthy:
                return BindingAnswer(answer=Answer(status=UNREACHED, reason=_UNHEALTHY))
            found: BindingAnswer = await registered.channel.trigger(event, timeout_s=timeout_s)
            return found

        async def trigger(event: BindingEvent, _timeout_s: float) -> BindingAnswer:
            return await self._guarded(
                policy,
                f"binding/{app.key}/{name}",
                lambda: call(event),
                answers=lambda found: (found.answer,),
                refused=lambda answer: BindingAnswer(answer=answer),
            )

        async def send(output: str, data: bytes) -> None:
            await self._send(registered, output, data)

        subscription = _bounded(
            Subscription(
                namespace=app.namespace,
                function=app.app_id,
                name=f"dapr.{name}",
                input_name=name,
                component=component,
                consumer=app.app_id,
            ),
            policy.retry,
            once=False,
        )
        return subscription, BindingRoute(name=name, route=route, trigger=trigger, send=send)

    async def _is_wanted(self, served: _Served, name: str, route: str) -> bool:
        """Ask an app about a binding, once; an app that cannot be reached is asked again later."""
        known = served.bindings.get(name)
        if known is not None:
            return known
        if served.settings.known is not None or not served.registered.app.is_called:
            return False
        try:
            taken: bool = await served.registered.channel.takes_binding(name, route)
        except AppUnreachableError:
            self._spawn(self._apply_later(served))
            return False
        served.bindings[name] = taken
        return taken

    async def _apply_later(self, served: _Served) -> None:
        await self._clock.sleep(_PROBE_RETRY_S)
        await self._apply(served)

    async def _component(self, app: App, name: str, category: str) -> AppComponent:
        found = await self._components.component(app, name)
        if found is None or not found.type.startswith(f"{category}."):
            known = ", ".join(self._components.of(app, category)) or "none"
            raise ProtocolError(f"there is no {category} component {name!r}; there are: {known}")
        return AppComponent(
            namespace=found.namespace,
            name=found.name,
            type=found.type,
            version=found.version,
            metadata=found.metadata,
            app=app.key,
        )


def _bounded(subscription: Subscription, retry: RetryPolicy | None, *, once: bool) -> Subscription:
    """Return a subscription with the attempts and waits of its policy.

    Without a policy an event is tried once where a dead letter topic takes it, else as often as by functions.
    """
    if retry is None:
        return replace(subscription, max_attempts=1) if once else subscription
    bounds = waits(retry)
    return replace(
        subscription,
        max_attempts=bounds.attempts,
        backoff_s=bounds.first_s,
        max_backoff_s=bounds.longest_s,
        backoff_growth=bounds.growth,
        backoff_spread=bounds.spread,
    )


_GRPC_NUMBERS: Final[Mapping[str, int]] = {code.name: code.value[0] for code in grpc.StatusCode}


def _retriable(retry: RetryPolicy | None, code: str) -> bool:
    if retry is None or not code:
        return True
    if code.isdecimal():
        return repeats(retry, http=int(code))
    return repeats(retry, grpc=_GRPC_NUMBERS.get(code))
