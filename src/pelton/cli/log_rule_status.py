"""Writes into each LogRule's status whether its records are read, and how many of its alerts fire.

Run by `cli/control_plane.py`: it asks the runtime, which runs the rules (`notify/log_rules.py`), every few
seconds. A broker that is away, a Secret that is missing or an expression that fails for every record is so to
be seen by `pelton get`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from pelton.apiserver.store import ObjectStore
from pelton.cli.status_loop import keep_looking
from pelton.clock import Clock, rfc3339
from pelton.errors import ConflictError, NotFoundError
from pelton.log import get

__all__ = ["LOG_RULES", "LogRuleStatus", "RuleState", "status_of"]

LOG_RULES: Final = "logrules.pelton.dev"
"""The store's name of rules on logs."""

_EVERY_S: Final = 3.0
_log = get(__name__)

RuleState = tuple[str, str, str, str, int]
"""(namespace, name, reason, sentence, alerts that fire) of a rule; reason "" = its records are read."""


class LogRuleStatus:
    """Keeps the status of all LogRules.

    Args:
        store: Where they are.
        ask: Returns the states of all rules; raises when the runtime cannot be reached.
        clock: Time.
    """

    def __init__(
        self, store: ObjectStore, ask: Callable[[], Awaitable[Sequence[RuleState]]], clock: Clock
    ) -> None:
        self._store = store
        self._ask = ask
        self._clock = clock

    async def run(self) -> None:
        """Look until cancelled."""
        await keep_looking(self.look, self._clock, every_s=_EVERY_S, what="the status of rules on logs")

    async def look(self) -> None:
        """Write what has changed once."""
        items = (await self._store.list(LOG_RULES))[0]
        if not items:
            return
        found = {
            (namespace, name): (reason, sentence, firing)
            for namespace, name, reason, sentence, firing in await self._ask()
        }
        now = rfc3339(self._clock.now())
        for item in items:
            meta = item["metadata"]
            state = found.get((meta.get("namespace", ""), meta["name"]))
            if state is None:
                continue  # the runtime does not know it yet
            reason, sentence, firing = state
            before = item.get("status") or {}
            written = status_of(
                reason, sentence, firing, before, generation=meta.get("generation", 0), now=now
            )
            if written == before:
                continue
            try:
                await self._store.update(LOG_RULES, {**item, "status": written}, subresource="status")
            except (ConflictError, NotFoundError):
                pass  # it has changed meanwhile: the next look sees it


def status_of(
    reason: str, sentence: str, firing: int, before: Mapping[str, Any], *, generation: int, now: str
) -> dict[str, Any]:
    """Return the status of a rule.

    Args:
        reason: Why it does not work, in one word; "" = it does.
        sentence: The same for people.
        firing: Its alerts that fire.
        before: The status as it is.
        generation: The rule's.
        now: RFC 3339, for a condition that changes.
    """
    ready = {
        "type": "Ready",
        "status": "False" if reason else "True",
        "reason": reason or "Reading",
        "message": sentence,
        "observedGeneration": generation,
    }
    old: Mapping[str, Any] = next(
        (each for each in before.get("conditions") or () if each.get("type") == "Ready"), {}
    )
    same = old.get("status") == ready["status"]
    ready["lastTransitionTime"] = old.get("lastTransitionTime", now) if same else now
    return {"observedGeneration": generation, "firing": firing, "conditions": [ready]}
