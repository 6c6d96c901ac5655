"""Runs rules on log records: reads them from their topics, counts, tells the pipeline of alerts.

`cli/runtime.py` gives it the LogRules whenever one changes. A batch of records is counted
(`notify/log_counting.py`), what changed is kept with the alerts in one transaction (`notify/rule_store.py`),
the pipeline takes the alerts, and only then the records are acknowledged: a kill in between counts nothing
twice and forgets no alert.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any, Final, Self

from pelton import log
from pelton.clock import Clock
from pelton.errors import PeltonError
from pelton.model.desired import Component
from pelton.model.log_rule import LogRule, LogSource, RuleAlert
from pelton.notify.alert import Alert
from pelton.notify.log_counting import Counting, RuleGroup, ended, records_of
from pelton.notify.rule_store import RuleStore
from pelton.ports import Bus, Delivery

__all__ = ["LogRules"]

_TROUBLE_S: Final = 1.0
_TICK_S: Final = 1.0
_IN_FLIGHT: Final = 1_000
_log = log.get(__name__)


class LogRules:
    """All rules; an async context manager that reads while open.

    Args:
        bus: The platform's own, which functions' output is on.
        bus_of: Returns the bus that a component means.
        accept: The pipeline's: returns once it keeps the alerts.
        store: What is counted.
        clock: Time.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        bus_of: Callable[[Component], Awaitable[Bus]],
        accept: Callable[[Sequence[Alert]], Awaitable[object]],
        store: RuleStore,
        clock: Clock,
    ) -> None:
        self._bus = bus
        self._bus_of = bus_of
        self._accept = accept
        self.store = store
        """What is counted."""
        self.clock = clock
        """Time."""
        self._watches: dict[str, _Watch] = {}
        self._wanted: dict[str, tuple[LogRule, Component | None]] | None = None
        self._waiting: frozenset[str] = frozenset()
        self._changed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._telling = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Start; nothing is read before the first `set_rules`."""
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop reading; what was not acknowledged comes again."""
        tasks = [task for task in (self._keeper, *(each.task for each in self._watches.values())) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.store.close()

    def set_rules(
        self, rules: Iterable[tuple[LogRule, Component | None]], *, waiting: Iterable[str] = ()
    ) -> None:
        """Replace the rules and the brokers of those that name one.

        Alerts of a rule that is gone, or that counts something else now, are told to be over.

        Args:
            rules: Those that can run.
            waiting: `<namespace>/<name>` of others, which are not read at present; their alerts stay.
        """
        self._waiting = frozenset(waiting)
        self._wanted = {f"{rule.namespace}/{rule.name}": (rule, component) for rule, component in rules}
        self._changed.set()

    def stats(self) -> dict[str, Any]:
        """Return counters since the start by `<namespace>/<rule>`."""
        return {key: each.stats() for key, each in self._watches.items()}

    def states(self) -> list[tuple[str, str, str, str, int]]:
        """Return (namespace, name, reason, sentence, alerts that fire) per rule; reason "" = it works."""
        return [(*key.split("/", 1), *each.state()) for key, each in self._watches.items()]  # type: ignore[misc]

    async def _keep(self) -> None:
        """Bring what runs in line with what is wanted, whenever that changes."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self.tell()
                await self._arrange(self._wanted or {})
            except Exception as error:  # the disk or the bus refuses
                _log.warning("rules on logs are looked at again error=%s", error)
                await self.clock.sleep(_TROUBLE_S)
                self._changed.set()

    async def _arrange(self, wanted: Mapping[str, tuple[LogRule, Component | None]]) -> None:
        for key in {*self._watches, *await self.store.rules()} - wanted.keys():
            watch = self._watches.pop(key, None)
            if watch is not None:
                await watch.stop()
            if key not in self._waiting:
                await self._end(key)
                if watch is not None:
                    await watch.forget()
        for key, (rule, component) in wanted.items():
            watch = self._watches.get(key)
            if watch is not None and (watch.counting.rule, watch.component) == (rule, component):
                continue
            if watch is not None:
                await watch.stop()
                if _identity(watch.counting.rule) != _identity(rule):
                    await self._end(key)
            groups, seen = await self.store.load(key)
            wrong = [values for values in groups if len(values) != len(rule.group_by)]
            for values in wrong:  # the rule was changed while nobody ran
                del groups[values]
            self._watches[key] = _Watch(self, key, Counting(rule, groups), component, seen)

    async def _end(self, key: str) -> None:
        """Tell that a rule's alerts are over, and forget what it counted."""
        groups, _ = await self.store.load(key)
        alerts = ended(groups.values(), self.clock.now().timestamp())
        await self.store.write(key, [(values, None) for values in groups], seen=(), alerts=alerts)
        await self.tell()

    async def tell(self) -> None:
        """Have the pipeline take the alerts that were kept; those of an earlier life among them."""
        async with self._telling:
            alerts, number = await self.store.untold()
            if alerts:
                await self._accept(alerts)
                await self.store.told(number)  # others may have been kept meanwhile

    async def bus_of(self, component: Component | None) -> Bus:
        """Return the bus that records come from."""
        return self._bus if component is None else await self._bus_of(component)


class _Watch:
    """One rule that runs."""

    def __init__(
        self,
        owner: LogRules,
        key: str,
        counting: Counting,
        component: Component | None,
        seen: frozenset[str],
    ) -> None:
        self._owner = owner
        self._key = key
        self._seen = seen
        self._lock = asyncio.Lock()
        self._trouble = 0
        self._error = ""
        self.counting = counting
        self.component = component
        self.task = asyncio.create_task(self._run())

    def stats(self) -> dict[str, Any]:
        """Return its counters."""
        groups = self.counting.groups.values()
        return {
            **asdict(self.counting.counts),
            "groups": len(groups),
            "firing": sum(each.since is not None for each in groups),
            "trouble": self._trouble,
            "reading": self._error,
        }

    def state(self) -> tuple[str, str, int]:
        """Return why it does not work, in one word and as a sentence, and how many alerts fire."""
        counts = self.counting.counts
        firing = sum(each.since is not None for each in self.counting.groups.values())
        if self._error:
            return "NotReading", self._error, firing
        if counts.failed and counts.failed == counts.records:
            return "ExpressionFails", f"for all {counts.records} records, the last: {counts.error}", firing
        if counts.crowded:
            return "TooManyGroups", f"{counts.crowded} records had no room for another group", firing
        return "", "", firing

    async def forget(self) -> None:
        """Have the platform's bus forget the position: the next of that name would begin with old records."""
        source = self.counting.rule.source
        forget = getattr(await self._owner.bus_of(None), "forget", None)
        if source is not None and self.component is None and forget is not None:
            with suppress(PeltonError):  # it stays, and costs nothing but that
                await forget(_topic(source), consumer=_consumer(self.counting.rule))

    async def stop(self) -> None:
        """Read no more."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick())
            group.create_task(self._read())

    async def _read(self) -> None:
        while True:
            try:
                async for batch in self._batches():
                    self._error = ""
                    await self._take(batch)
            except Exception as error:  # a broker that is away, a topic that does not exist yet
                self._failed(error)
            await self._owner.clock.sleep(_TROUBLE_S)

    async def _batches(self) -> AsyncIterator[Sequence[Delivery]]:
        rule = self.counting.rule
        source = rule.source
        if source is None:
            return
        bus = await self._owner.bus_of(self.component)
        topic = _topic(source)
        # Of the bus only what comes from now on: old output is old news.
        options = self.component.metadata if self.component is not None else {"deliverPolicy": "new"}
        stream = bus.subscribe(topic, consumer=_consumer(rule), max_in_flight=_IN_FLIGHT, options=options)
        try:
            async for batch in stream:
                yield batch
        finally:
            if (close := getattr(stream, "aclose", None)) is not None:
                with suppress(Exception):
                    await close()

    async def _take(self, batch: Sequence[Delivery]) -> None:
        async with self._lock:
            now = self._owner.clock.now().timestamp()
            counting = self.counting
            touched: set[tuple[str, ...]] = set()
            seen: list[str] = []
            alerts: list[Alert] = []
            for delivery in batch:
                if delivery.key in self._seen:
                    continue  # counted before this process or its connection died
                counted = False
                for record, text in records_of(delivery.message.data):
                    found = counting.feed(record, text, now, topic=delivery.message.topic)
                    if found is not None:
                        counted = True
                        touched.add(found[0])
                        if found[1] is not None:
                            alerts.append(found[1])
                if counted:
                    seen.append(delivery.key)
            if touched:
                await self._insist(
                    [(values, counting.groups.get(values)) for values in touched], seen=seen, alerts=alerts
                )
                self._seen = frozenset(seen)
        await asyncio.gather(*(delivery.ack() for delivery in batch))

    async def _insist(
        self,
        groups: Sequence[tuple[tuple[str, ...], RuleGroup | None]],
        *,
        seen: Sequence[str] | None,
        alerts: Sequence[Alert],
    ) -> None:
        """Keep and tell until it works: what was counted in memory is not counted again."""
        kept = False
        while True:
            try:
                if not kept:
                    await self._owner.store.write(self._key, groups, seen=seen, alerts=alerts)
                    kept = True
                if alerts:
                    await self._owner.tell()
                return
            except (OSError, PeltonError) as error:  # the disk, or the bus that the pipeline needs
                self._failed(error)
                await self._owner.clock.sleep(_TROUBLE_S)

    async def _tick(self) -> None:
        while True:
            await self._owner.clock.sleep(_TICK_S)
            async with self._lock:
                changed = self.counting.tick(self._owner.clock.now().timestamp())
                if changed:
                    await self._insist(
                        [(values, self.counting.groups.get(values)) for values, _ in changed],
                        seen=None,
                        alerts=[alert for _, alert in changed if alert is not None],
                    )

    def _failed(self, error: Exception) -> None:
        self._trouble += 1
        text = str(error) or type(error).__name__
        if text != self._error:
            _log.warning("rule on logs waits rule=%s error=%s", self._key, text)
        self._error = text


def _topic(source: LogSource) -> str:
    if source.namespace:
        return f"logs.{source.namespace}.{source.function or '*'}"
    return source.topic


def _consumer(rule: LogRule) -> str:
    return f"logrule-{rule.namespace}-{rule.name}".replace(".", "_")


def _identity(rule: LogRule) -> tuple[Any, ...]:
    """Return what makes its alerts these alerts: when it changes, those of before are over."""
    alert = rule.alert or RuleAlert()
    return (
        rule.source,
        rule.match,
        tuple(rule.group_by.items()),
        alert.name,
        tuple(alert.labels.items()),
    )
