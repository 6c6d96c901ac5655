"""Reads triggers for scaling: a round at every polling interval, sooner when a trigger tells of activity.

`cli/runtime.py` owns one and hands out scalers, since it owns all connections to the outside. An owner is a
Function, or an object that scales something else; whoever decides gets the last round of it. A round reads
all triggers of an owner side by side, each within a deadline; a scaler that failed is made anew and asked
once more. Source: contracts, autoscaling, sections 2 and 4.9.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from pelton.clock import Clock
from pelton.errors import PeltonError
from pelton.log import get
from pelton.model.scaler import ScalerReading, ScalerTrigger

__all__ = ["Opened", "Round", "ScalerPool", "plain"]

_ANSWER_S: Final = 15.0
_CLOSE_S: Final = 5.0
_HPA_S: Final = 15.0
"""How often an HPA asks for the value while something is active."""
_PUSH: Final = "external-push"
"""Type of triggers whose word is enough: what others tell is a reason to look."""
_LEAST_S: Final = 0.5
"""Between two rounds of one owner, however often its triggers tell of activity."""
_FIRST_RETRY_S: Final = 2.0
_LAST_RETRY_S: Final = 60.0

_log = get(__name__)


class Opened(Protocol):
    """A trigger's scaler, as `cli/scalers.py` makes it."""

    activity: Callable[[], AsyncIterator[bool]] | None

    async def read(self) -> Sequence[ScalerReading]:
        """Return the metrics; raises PeltonError."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


@dataclass(frozen=True, slots=True)
class Round:
    """What one round read.

    Attributes:
        number: Counts rounds of this owner, from 1.
        readings: Trigger name -> metrics; None where it could not be read.
        errors: Trigger name -> why, in one line.
    """

    number: int
    readings: dict[str, list[ScalerReading] | None]
    errors: dict[str, str]

    @property
    def active(self) -> bool:
        """Whether a trigger is active."""
        return any(one.active for metrics in self.readings.values() for one in metrics or ())


@dataclass(slots=True)
class _Owner:
    key: str
    triggers: tuple[ScalerTrigger, ...]
    polling_s: float
    cached: bool
    listen: bool
    scalers: dict[str, Opened] = field(default_factory=dict)
    listeners: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    told: asyncio.Event = field(default_factory=asyncio.Event)
    rested: asyncio.Event = field(default_factory=asyncio.Event)
    pushed: set[str] = field(default_factory=set)  # triggers that told that they are active
    last: Round | None = None
    failures: dict[str, int] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


class ScalerPool:
    """All triggers that are read.

    Args:
        make: Returns the scaler of a trigger, not connected; raises PeltonError.
        clock: Time.
        heard: Called with an owner and each of its rounds.
    """

    def __init__(
        self,
        *,
        make: Callable[[ScalerTrigger, Clock], Opened],
        clock: Clock,
        heard: Callable[[str, Round], None] = lambda _owner, _round: None,
    ) -> None:
        self._make = make
        self._clock = clock
        self._heard = heard
        self._owners: dict[str, _Owner] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def put(
        self,
        key: str,
        triggers: Sequence[ScalerTrigger],
        *,
        polling_s: float,
        cached: bool = False,
        listen: bool = True,
    ) -> None:
        """Read an owner's triggers from now on; the same again changes nothing, none at all ends it.

        Args:
            key: The owner.
            triggers: All of it.
            polling_s: Seconds between two rounds.
            cached: Whether the HPA makes do with these rounds, instead of asking every 15 s while active.
            listen: Whether triggers that tell of activity by themselves are listened to.
        """
        wanted = tuple(triggers)
        known = self._owners.get(key)
        asked = (wanted, polling_s, cached, listen)
        if known is not None and asked == (known.triggers, known.polling_s, known.cached, known.listen):
            return
        self.drop(key)
        if wanted:
            owner = self._owners[key] = _Owner(key, *asked)
            owner.task = asyncio.create_task(self._run(owner), name=f"scalers of {key}")

    def drop(self, key: str) -> None:
        """Read an owner's triggers no longer."""
        owner = self._owners.pop(key, None)
        if owner is not None and owner.task is not None:
            owner.task.cancel()
            self._ending.add(owner.task)
            owner.task.add_done_callback(self._ending.discard)

    def keep_only(self, keys: set[str], *, prefix: str = "") -> None:
        """Drop the owners whose key begins so and is not among these."""
        for key in [one for one in self._owners if one.startswith(prefix) and one not in keys]:
            self.drop(key)

    def last(self, key: str) -> Round | None:
        """Return the last round of an owner; None before the first one has ended."""
        owner = self._owners.get(key)
        return owner.last if owner is not None else None

    def rounds(self) -> dict[str, Round]:
        """Return the last round of every owner that has one."""
        return {key: owner.last for key, owner in self._owners.items() if owner.last is not None}

    def stats(self) -> list[dict[str, Any]]:
        """Return per owner and trigger: what was read last, whether it is active, how often that failed."""
        found = []
        for owner in self._owners.values():
            for trigger in owner.triggers:
                name, last = trigger.name, owner.last
                metrics = (last.readings.get(name) if last is not None else None) or []
                found.append(
                    {
                        "owner": owner.key,
                        "trigger": name,
                        "type": trigger.type,
                        "metrics": [
                            {"metric": one.metric, "value": one.value, "target": one.target}
                            for one in metrics
                        ],
                        "active": any(one.active for one in metrics),
                        "failures": owner.failures.get(name, 0),
                        "error": last.errors.get(name, "") if last is not None else "",
                    }
                )
        return found

    async def close(self) -> None:
        """End all reading; returns when connections are closed."""
        for key in list(self._owners):
            self.drop(key)
        await asyncio.gather(*self._ending, return_exceptions=True)

    # -- one owner -------------------------------------------------------------------------------------------

    async def _run(self, owner: _Owner) -> None:
        try:
            while True:
                owner.told.clear()
                began = self._clock.monotonic()
                await self._round(owner)
                last = owner.last
                pause_s = owner.polling_s
                if last is not None and last.active and not owner.cached:
                    pause_s = min(pause_s, _HPA_S)
                await self._wait(owner, pause_s, began)
        finally:
            for task in owner.listeners.values():
                task.cancel()
            await asyncio.gather(*owner.listeners.values(), return_exceptions=True)
            for scaler in owner.scalers.values():
                await self._close(scaler)

    async def _wait(self, owner: _Owner, pause_s: float, began: float) -> None:
        """Wait for the next round: its time, or a trigger that tells of activity, a little later."""
        least = asyncio.create_task(self._clock.sleep(_LEAST_S))
        timer = asyncio.create_task(
            self._clock.sleep(max(_LEAST_S, began + pause_s - self._clock.monotonic()))
        )
        told = asyncio.create_task(owner.told.wait())
        try:
            await least
            await asyncio.wait((timer, told), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (least, timer, told):
                task.cancel()
            await asyncio.gather(least, timer, told, return_exceptions=True)

    async def _round(self, owner: _Owner) -> None:
        pushed, owner.pushed = owner.pushed, set()
        results = await asyncio.gather(*(self._read(owner, trigger) for trigger in owner.triggers))
        before = owner.last
        readings: dict[str, list[ScalerReading] | None] = {}
        errors: dict[str, str] = {}
        for trigger, result in zip(owner.triggers, results, strict=True):
            if isinstance(result, str):
                readings[trigger.name] = None
                errors[trigger.name] = result
                owner.failures[trigger.name] = owner.failures.get(trigger.name, 0) + 1
                if before is None or trigger.name not in before.errors:
                    _log.warning("%s: %s", owner.key, result)
            else:
                told = trigger.name in pushed
                readings[trigger.name] = [replace(one, active=True) for one in result] if told else result
                if before is not None and trigger.name in before.errors:
                    _log.info("%s: trigger %s can be read again", owner.key, trigger.name)
        owner.last = Round(1 if before is None else before.number + 1, readings, errors)
        if owner.last.active:
            owner.rested.clear()
        else:
            owner.rested.set()
        self._heard(owner.key, owner.last)

    async def _read(self, owner: _Owner, trigger: ScalerTrigger) -> list[ScalerReading] | str:
        """Return what a trigger reads, or why it cannot be read."""
        failure = ""
        for _ in range(2):
            try:
                scaler = owner.scalers.get(trigger.name)
                if scaler is None:
                    scaler = owner.scalers[trigger.name] = self._make(trigger, self._clock)
                self._listen(owner, trigger, scaler)
                async with asyncio.timeout(_ANSWER_S):
                    return list(await scaler.read())
            except PeltonError as error:
                failure = f"{error.where}: {error.message}" if error.where else error.message
                failure += f"; {error.hint}" if error.hint else ""
            except TimeoutError:
                failure = f"trigger {trigger.name} ({trigger.type}): no answer within {_ANSWER_S:g} s"
            except Exception as error:
                _log.exception("%s: trigger %s", owner.key, trigger.name)
                failure = f"trigger {trigger.name} ({trigger.type}): {type(error).__name__}"
            # Made anew, so that whatever it remembers of a broken connection is gone.
            broken = owner.scalers.pop(trigger.name, None)
            if broken is not None:
                await self._close(broken)
        return failure

    async def _close(self, scaler: Opened) -> None:
        try:
            async with asyncio.timeout(_CLOSE_S):
                await scaler.close()
        except Exception as error:
            _log.debug("a scaler ended with %s", type(error).__name__)

    # -- activity --------------------------------------------------------------------------------------------

    def _listen(self, owner: _Owner, trigger: ScalerTrigger, scaler: Opened) -> None:
        """Follow what a trigger tells by itself, from its first round on."""
        task = owner.listeners.get(trigger.name)
        if owner.listen and scaler.activity is not None and (task is None or task.done()):
            owner.listeners[trigger.name] = asyncio.create_task(
                self._follow(owner, trigger), name=f"activity of {trigger.name}"
            )

    async def _follow(self, owner: _Owner, trigger: ScalerTrigger) -> None:
        """Listen with a scaler of its own, connected again after 2 s, which doubles up to 60 s."""
        retry_s = _FIRST_RETRY_S
        while True:
            scaler: Opened | None = None
            try:
                scaler = self._make(trigger, self._clock)
                if scaler.activity is None:
                    return
                async for active in scaler.activity():
                    retry_s = _FIRST_RETRY_S
                    if not active:
                        continue  # only polling takes replicas away
                    if trigger.type == _PUSH:
                        owner.pushed.add(trigger.name)
                    owner.told.set()
                    # While it is active nothing more is to be learnt from it.
                    owner.rested.clear()
                    await owner.rested.wait()
                retry_s = _FIRST_RETRY_S
            except PeltonError as error:
                _log.debug("%s: trigger %s tells no more: %s", owner.key, trigger.name, error.message)
            except Exception:
                _log.exception("%s: trigger %s tells no more", owner.key, trigger.name)
            finally:
                if scaler is not None:
                    await self._close(scaler)
            await self._clock.sleep(retry_s)
            retry_s = min(_LAST_RETRY_S, 2 * retry_s)

    def to_plain(self, key: str) -> dict[str, Any] | None:
        """Return the last round of an owner as plain data; None while there is none."""
        found = self.last(key)
        return None if found is None else plain(found)


def plain(found: Round) -> dict[str, Any]:
    """Return a round as plain data, for a message."""
    return {
        "number": found.number,
        "errors": found.errors,
        "readings": {
            name: None
            if metrics is None
            else [
                {"metric": one.metric, "value": one.value, "target": one.target, "active": one.active}
                for one in metrics
            ]
            for name, metrics in found.readings.items()
        },
    }
