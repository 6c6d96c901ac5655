"""The state of one Trigger: kept in a register, changed by comparing revisions, so that replicas share it.

Events that come while a write is under way share the next one. What a caller gets back is stored: whoever
restarts finds it. What the marks mean is `plan/trigger_window`'s. Called by `triggers.py` beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from pelton.errors import ConflictError
from pelton.model.event_framework import PlannedTrigger
from pelton.plan import trigger_window
from pelton.plan.trigger_window import Stretch
from pelton.ports import Registers

__all__ = ["TriggerState", "register_of"]

_TRIES: Final = 20


def register_of(namespace: str, name: str) -> str:
    """Return the name of the register of a Trigger."""
    return f"trigger.{namespace}.{name}"


class TriggerState:
    """Marks of one Trigger.

    Args:
        trigger: Whose.
        registers: Where they are kept.
    """

    def __init__(self, trigger: PlannedTrigger, registers: Registers) -> None:
        self._trigger = trigger
        self._registers = registers
        self._register = register_of(trigger.namespace, trigger.name)
        self._known: dict[str, Stretch] = {}
        self._revision = -1  # not read yet
        self._waiting: list[tuple[Sequence[str], float, asyncio.Future[dict[str, Stretch]]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def mark(self, names: Sequence[str], at: float) -> dict[str, Stretch]:
        """Note an event of some inputs and return all marks, once they are stored.

        Args:
            names: Inputs.
            at: Time of the event, epoch seconds.

        Raises:
            DeliveryError: They could not be stored.
            ConflictError: Others changed them all the time.
        """
        future: asyncio.Future[dict[str, Stretch]] = asyncio.get_running_loop().create_future()
        self._waiting.append((names, at, future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name=f"state-{self._register}")
        return await future

    async def read(self) -> dict[str, Stretch]:
        """Return the marks as they are stored now."""
        data, _ = await self._registers.read_register(self._register)
        return trigger_window.decode(data, self._trigger.uid)

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                marks = await self._store(batch)
            except Exception as exc:
                self._revision = -1
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(exc)
                        future.exception()  # whoever waited may be gone
                continue
            for _, _, future in batch:
                if not future.done():
                    future.set_result(marks)

    async def _store(self, batch: Sequence[tuple[Sequence[str], float, object]]) -> dict[str, Stretch]:
        for attempt in range(_TRIES):
            if self._revision < 0:
                data, self._revision = await self._registers.read_register(self._register)
                self._known = trigger_window.decode(data, self._trigger.uid)
            marks = self._known
            for names, at, _ in batch:
                marks = trigger_window.marked(marks, names, at, self._trigger.window_s)
            try:
                # Written even when nothing changed: only a write tells whether others changed it meanwhile.
                self._revision = await self._registers.write_register(
                    self._register,
                    trigger_window.encode(self._trigger.uid, marks),
                    revision=self._revision,
                )
            except ConflictError:
                self._revision = -1
                if attempt + 1 == _TRIES:
                    raise
                continue
            self._known = marks
            return marks
        raise AssertionError("unreachable")
