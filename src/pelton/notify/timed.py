"""Keeps groups of alerts over time and brings what they tell to the bus, durably.

`notify/pipeline.py` hands over alerts with their places before it acknowledges them, and says what keeps an
alert back at present. Order of each look: decide (`notify/groups.py`), keep decision and notification in one
transaction (`notify/group_store.py`), note it, publish, forget what the bus has confirmed. A kill in between
repeats a publication under the same id and decides nothing twice.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from pelton import log
from pelton.clock import Clock
from pelton.notify.alert import Alert
from pelton.notify.alert_table import Tracked
from pelton.notify.envelope import Notification, encode, encoded_size
from pelton.notify.group_store import Changes, GroupStore, Kept
from pelton.notify.grouping import group_of, split
from pelton.notify.groups import AlertGroup, Flush, Groups, Place, Saved
from pelton.ports import Message

__all__ = ["Counts", "TimedGroups"]

_TROUBLE_S: Final = 1.0
_LONGEST_SLEEP_S: Final = 30.0
"""A clock that is set anew is noticed within this."""
_AT_ONCE: Final = 200
"""Groups per transaction: what a crash may repeat, and how long others wait."""
_MOST_UNPUBLISHED: Final = 5_000
_CLEAN_EVERY_S: Final = 60.0
_KEPT_AFTER_END_S: Final = 60.0
_PART_ALERTS: Final = 1_000
_PART_BYTES: Final = 1024 * 1024
_PUBLISHES: Final = 64

_log = log.get(__name__)


@dataclass(slots=True)
class Counts:
    """What happened since the start.

    Attributes:
        flushes: Looks at groups that told something.
        notifications: Messages that came of it.
        overflowed: Alerts that were sent without being grouped, since there was no room.
        held_back: Looks at which something kept an alert back, counted per alert.
        trouble: Failures of the disk or the bus; what they concerned was repeated.
    """

    flushes: int = 0
    notifications: int = 0
    overflowed: int = 0
    held_back: int = 0
    trouble: int = 0


@dataclass(slots=True)
class _New:
    """What was put in and is not kept yet: alerts and groups by name; whether an alert is held somewhere."""

    alerts: dict[str, Tracked] = field(default_factory=dict)
    groups: dict[str, AlertGroup] = field(default_factory=dict)
    held: dict[tuple[str, str, str], bool] = field(default_factory=dict)


class TimedGroups:
    """The groups, their file and their loop.

    Args:
        store: The file.
        publish: Publishes on the bus; returns once it is confirmed, raises otherwise.
        topic_of: (receiver, block) -> topic of its notifications.
        muting: Returns a function that says whether something keeps an alert back from a place at present;
            asked for once per round.
        clock: Time.
        most: Memberships of alerts in groups at once.
    """

    def __init__(
        self,
        store: GroupStore,
        *,
        publish: Callable[[Message], Awaitable[None]],
        topic_of: Callable[[str, str], str],
        muting: Callable[[float], Callable[[Place, Alert], bool]],
        clock: Clock,
        most: int = 200_000,
    ) -> None:
        self._store = store
        self._publish = publish
        self._topic_of = topic_of
        self._muting = muting
        self._clock = clock
        self._wake = asyncio.Event()
        self._places: Callable[[Tracked], Iterable[Place]] | None = None
        self._unpublished: dict[str, Message] = {}
        self._confirmed: list[str] = []
        self._new = _New()
        self._sleeps_until = float("inf")
        self._cleaned = 0.0
        self._seen = 0.0
        self.groups = Groups(most=most)
        self.counts = Counts()

    async def open(self, places: Callable[[Tracked], Iterable[Place]]) -> Kept:
        """Read what was kept and put the alerts where they belong now; returns what was there.

        Args:
            places: As for `rearrange`.
        """
        kept = await self._store.load()
        now = self._now()
        self.groups.restore(kept.groups, kept.sent)
        for number, tracked in enumerate(kept.alerts):
            name = tracked.alert.fingerprint
            for place in places(tracked):
                if not place.holding or (name, place.receiver, place.block) in kept.held:
                    self.groups.put(place, tracked, now)
            if number % 1000 == 999:
                await asyncio.sleep(0)
        ended = self.groups.restored()
        self._unpublished = {message.id: message for message in kept.outbox}
        if ended:
            await self._store.write(Changes(ended=ended))
        return kept

    async def close(self) -> None:
        """Close the file."""
        await self._store.close()

    def rearrange(self, places: Callable[[Tracked], Iterable[Place]]) -> None:
        """Have all alerts put where they belong, soon: receivers or their times have changed.

        Args:
            places: Where an alert belongs; a `holding` place says that it may be held there.
        """
        self._places = places
        self._wake.set()

    def look_soon(self) -> None:
        """Look at what is held back soon: what keeps alerts back has changed."""
        now = self._now()
        for group in self.groups:
            if group.place.holding:
                self.groups.hasten(group, now)
        self._wake.set()

    def put(
        self,
        placed: Sequence[tuple[Place, Tracked]],
        *,
        released: Sequence[tuple[Place, Tracked]] = (),
        keep: Sequence[Tracked] = (),
    ) -> list[tuple[Place, Tracked]]:
        """Put alerts into their groups; they are kept once `commit` has returned.

        Repeating it changes nothing more.

        Args:
            placed: Alerts and their places, one after the other as they were received.
            released: Held alerts that are sent now or over.
            keep: Alerts to keep for themselves, since they keep others back.

        Returns:
            Those that there was no room for.
        """
        now = self._now()
        groups, new = self.groups, self._new
        overflow: list[tuple[Place, Tracked]] = []
        for each in keep:
            new.alerts[each.alert.fingerprint] = each
        for place, tracked in placed:
            group = groups.put(place, tracked, now)
            if group is None:
                overflow.append((place, tracked))
                continue
            name = tracked.alert.fingerprint
            new.alerts[name] = group.members[name]
            if not group.flushed:
                new.groups[group.key] = group
            if place.holding:
                new.held[name, place.receiver, place.block] = True
        for place, tracked in released:
            if groups.discard(place, tracked):
                new.held[tracked.alert.fingerprint, place.receiver, place.block] = False
        if overflow:
            self.counts.overflowed += len(overflow)
            _log.warning("alerts are sent ungrouped, there is no room for more alerts=%d", len(overflow))
        return overflow

    async def commit(self) -> None:
        """Keep what was put in; returns once it is.

        Raises:
            OSError: It could not be kept; it is tried again with what comes next.
        """
        new = self._new
        if not new.alerts and not new.held:
            return
        self._new = _New()
        try:
            await self._store.write(
                Changes(
                    alerts=list(new.alerts.values()),
                    held=[each for each, is_held in new.held.items() if is_held],
                    unheld=[each for each, is_held in new.held.items() if not is_held],
                    groups=[Saved(each.key, each.next_flush, each.flushed) for each in new.groups.values()],
                )
            )
        except BaseException:
            self._new = _New(
                new.alerts | self._new.alerts, new.groups | self._new.groups, new.held | self._new.held
            )
            raise
        due = self.groups.next_wake()
        if due is not None and due < self._sleeps_until:
            self._wake.set()

    async def run(self) -> None:
        """Look at groups when they are due, until cancelled."""
        while True:
            try:
                await self._round()
            except Exception as error:  # the disk or the bus refuses: what was decided is decided again
                self.counts.trouble += 1
                _log.warning("groups of alerts are looked at again error=%s", error)
                await self._clock.sleep(_TROUBLE_S)
            await self._nap()

    async def _nap(self) -> None:
        due = self.groups.next_wake()
        now = self._now()
        wait_s = _LONGEST_SLEEP_S if due is None else min(due - now, _LONGEST_SLEEP_S)
        if self._unpublished:
            wait_s = min(wait_s, _TROUBLE_S)
        if wait_s <= 0:
            await asyncio.sleep(0)
            return
        self._sleeps_until = now + wait_s
        sleep = asyncio.ensure_future(self._clock.sleep(wait_s))
        woken = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait([sleep, woken], return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
            woken.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(sleep, woken, return_exceptions=True)
        self._sleeps_until = float("-inf")
        self._wake.clear()

    async def _round(self) -> None:
        now = self._now()
        if now < self._seen - 1.0:
            self.groups.rebase(now)
        self._seen = now
        if self._places is not None:
            places, self._places = self._places, None
            ended = self.groups.rearrange(places, now)
            await self._store.write(
                Changes(
                    groups=[Saved(each.key, each.next_flush, each.flushed) for each in self.groups],
                    ended=[each.key for each in ended],
                )
            )
        await self._bring_out()
        due = self.groups.due(self._now())
        for start in range(0, len(due), _AT_ONCE):
            if len(self._unpublished) > _MOST_UNPUBLISHED:
                break  # the bus is away; what is due stays due
            await self._flush(due[start : start + _AT_ONCE])
        # While the bus is away groups are not looked at, and need what is over.
        if now - self._cleaned > _CLEAN_EVERY_S and not self._unpublished:
            self._cleaned = now
            await self._clean(now)

    async def _flush(self, due: Sequence[AlertGroup]) -> None:
        now = self._now()
        muted = self._muting(now)
        flushes = [self.groups.look(each, now, partial(muted, each.place)) for each in due]
        messages = [message for flush in flushes if flush.reason for message in await self._messages(flush)]
        confirmed, self._confirmed = self._confirmed, []
        await self._store.write(
            Changes(
                groups=[Saved(each.group.key, each.next_flush, True) for each in flushes if not each.empty],
                ended=[each.group.key for each in flushes if each.empty],
                sent=[(each.group.key, each.sent) for each in flushes if each.sent is not None],
                outbox=messages,
                published=confirmed,
            )
        )
        for flush in flushes:
            self.groups.settle(flush)
            self.counts.flushes += bool(flush.reason)
            self.counts.held_back += flush.muted
        self.counts.notifications += len(messages)
        self._unpublished.update((message.id, message) for message in messages)
        await self._bring_out()

    async def _bring_out(self) -> None:
        """Publish what was decided; what fails is tried again in the next round."""
        if not self._unpublished:
            return
        waiting = list(self._unpublished.values())
        for start in range(0, len(waiting), _PUBLISHES):
            part = waiting[start : start + _PUBLISHES]
            results = await asyncio.gather(
                *(self._publish(message) for message in part), return_exceptions=True
            )
            failed = None
            for message, result in zip(part, results, strict=True):
                if isinstance(result, BaseException):
                    failed = result
                else:
                    del self._unpublished[message.id]
                    self._confirmed.append(message.id)
            if failed is not None:
                raise failed
        confirmed, self._confirmed = self._confirmed, []
        await self._store.write(Changes(published=confirmed))

    async def _clean(self, now: float) -> None:
        interval_s = max((each.place.timing.group_interval_s for each in self.groups), default=0.0)
        await self._store.write(
            Changes(unsent=self.groups.forget(now), over_before=now - interval_s - _KEPT_AFTER_END_S)
        )

    async def _messages(self, flush: Flush) -> list[Message]:
        """Return what a group tells, in parts that the bus takes; lets others work between large ones."""
        place = flush.group.place
        digest = hashlib.sha256(flush.group.key.encode()).hexdigest()[:16]
        whole = group_of(flush.alerts, receiver=place.receiver, group_labels=flush.group.labels)
        parts = split(whole.alerts, max_alerts=_PART_ALERTS, max_bytes=_PART_BYTES, size=encoded_size)
        found = []
        for number, part in enumerate(parts):
            if number:
                await asyncio.sleep(0)
            notification = Notification(
                # The same for each try to publish it; no group is looked at twice within a microsecond.
                id=f"{place.receiver}/{place.block}/{digest}/{flush.at:.6f}/{number}",
                receiver=place.receiver,
                block=place.block,
                created_at=flush.at,
                group=replace(whole, alerts=part),
                group_key=flush.group.key,
                reason=flush.reason,
            )
            topic = self._topic_of(place.receiver, place.block)
            found.append(Message(topic=topic, data=encode(notification), id=notification.id))
        return found

    def _now(self) -> float:
        return self._clock.now().timestamp()
