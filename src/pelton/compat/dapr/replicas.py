"""An app of which there may be several instances, or none: the channel that is used for it.

Calls go round the instances. Where none is known, one is started, if somebody can do that: all calls that
wait share the one start. The limit of calls at once is that of each instance, as a sidecar has it. Made by
whoever registers the app; implements `AppChannel` of `channel.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from pelton.compat.dapr.channel import (
    UNREACHED,
    Answer,
    AppChannel,
    AppUnreachableError,
    BindingAnswer,
    BindingEvent,
    TopicEvent,
)
from pelton.compat.dapr.subscriptions import TopicSubscription
from pelton.errors import PeltonError
from pelton.model.invocation import Invocation, Reply

__all__ = ["Replicas"]

_NOBODY: Final = "no instance of the app is there"
_LINGER_S: Final = 5.0
_KNOWN_S: Final = 5.0


class _Instance:
    """One instance: its channel and how many more calls it takes."""

    def __init__(self, channel: AppChannel, limit: int) -> None:
        self.channel = channel
        self.places = asyncio.Semaphore(limit) if limit > 0 else None


class Replicas:
    """All instances of one app.

    Args:
        max_concurrency: Most calls that one instance gets at once; -1 or 0 for no limit. More wait.
        wake: Starts an instance and returns when it is ready, which `sync` tells of a moment later; raises
            PeltonError. None where nobody starts any.
    """

    def __init__(
        self, *, max_concurrency: int = -1, wake: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._limit = max_concurrency
        self._wake = wake
        self._waking: asyncio.Task[None] | None = None
        self._known = asyncio.Event()
        self._instances: dict[str, _Instance] = {}
        self._order: list[str] = []
        self._next = 0
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return how many instances are known."""
        return len(self._instances)

    def sync(self, channels: Mapping[str, AppChannel]) -> None:
        """Make these the instances, by a name each; those that are gone are closed after their calls."""
        for name in [name for name in self._instances if name not in channels]:
            self._retire(self._instances.pop(name))
        for name, channel in channels.items():
            known = self._instances.get(name)
            if known is None or known.channel is not channel:
                if known is not None:
                    self._retire(known)
                self._instances[name] = _Instance(channel, self._limit)
        self._order = list(self._instances)
        if self._order:
            self._known.set()
        else:
            self._known.clear()

    def names(self) -> list[str]:
        """Return the names of the instances."""
        return list(self._order)

    async def subscriptions(self) -> tuple[list[TopicSubscription], list[str]]:
        """Ask one instance."""
        async with self.leased() as channel:
            return await channel.subscriptions()

    async def deliver(self, event: TopicEvent, *, timeout_s: float) -> Answer:
        """Hand an event to one instance."""
        try:
            async with self.leased() as channel:
                return await channel.deliver(event, timeout_s=timeout_s)
        except AppUnreachableError as exc:
            return Answer(status=UNREACHED, reason=str(exc))

    async def deliver_bulk(self, events: Sequence[TopicEvent], *, timeout_s: float) -> list[Answer]:
        """Hand a bulk to one instance."""
        try:
            async with self.leased() as channel:
                return await channel.deliver_bulk(events, timeout_s=timeout_s)
        except AppUnreachableError as exc:
            return [Answer(status=UNREACHED, reason=str(exc))] * len(events)

    async def takes_binding(self, name: str, route: str) -> bool:
        """Ask one instance."""
        async with self.leased() as channel:
            return await channel.takes_binding(name, route)

    async def trigger(self, event: BindingEvent, *, timeout_s: float) -> BindingAnswer:
        """Hand a binding's event to one instance."""
        try:
            async with self.leased() as channel:
                return await channel.trigger(event, timeout_s=timeout_s)
        except AppUnreachableError as exc:
            return BindingAnswer(answer=Answer(status=UNREACHED, reason=str(exc)))

    async def invoke(self, invocation: Invocation) -> Reply:
        """Call a method of one instance; the place is free again when the answer's head is there."""
        async with self.leased() as channel:
            return await channel.invoke(invocation)

    async def is_healthy(self, path: str, *, timeout_s: float) -> bool:
        """Probe all; one that is healthy is enough. An app that is only started for calls is not probed."""
        if not self._instances:
            return self._wake is not None
        probes = [each.channel.is_healthy(path, timeout_s=timeout_s) for each in self._instances.values()]
        return any(await asyncio.gather(*probes))

    async def close(self) -> None:
        """Close all channels."""
        left = list(self._instances.values())
        if self._waking is not None:
            self._waking.cancel()
        self._instances.clear()
        self._order = []
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*(each.channel.close() for each in left), *self._closing, return_exceptions=True)

    def _pick(self) -> _Instance:
        if self._order:
            self._next = (self._next + 1) % len(self._order)
            return self._instances[self._order[self._next]]
        raise AppUnreachableError(_NOBODY, untouched=True)

    async def _started(self) -> None:
        """Have an instance started, and wait until it is known."""
        if self._wake is None:
            return
        if self._waking is None:
            self._waking = asyncio.ensure_future(self._start(self._wake))
            self._waking.add_done_callback(self._woken)
        try:
            await asyncio.shield(self._waking)
        except (PeltonError, OSError, TimeoutError) as exc:
            raise AppUnreachableError(f"no instance could be started: {exc}", untouched=True) from exc

    async def _start(self, wake: Callable[[], Awaitable[None]]) -> None:
        await wake()
        async with asyncio.timeout(_KNOWN_S):
            await self._known.wait()

    def _woken(self, task: asyncio.Task[None]) -> None:
        self._waking = None
        if not task.cancelled():
            task.exception()  # told to those who wait, if anybody still does

    @asynccontextmanager
    async def leased(self) -> AsyncIterator[AppChannel]:
        """Take a place at one instance and give its channel.

        Raises:
            AppUnreachableError: There is no instance, and none could be started.
        """
        if not self._order:
            await self._started()
        instance = self._pick()
        if instance.places is None:
            yield instance.channel
            return
        async with instance.places:
            yield instance.channel

    def _retire(self, instance: _Instance) -> None:
        async def end() -> None:
            try:
                await asyncio.sleep(_LINGER_S)
            finally:
                await instance.channel.close()

        task = asyncio.get_running_loop().create_task(end())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
