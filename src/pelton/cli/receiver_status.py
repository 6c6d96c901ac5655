"""Writes into each Receiver's status whether notifications get through, and what is in their way.

Run by `cli/control_plane.py`: it asks the runtime (`notify/pipeline.py` knows) every few seconds. A refused
token or a broken template is so to be seen by `pelton get` and `kubectl wait`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from pelton.apiserver.store import ObjectStore
from pelton.cli.receivers import RECEIVERS
from pelton.cli.status_loop import keep_looking
from pelton.clock import Clock, rfc3339
from pelton.errors import ConflictError, NotFoundError
from pelton.log import get

__all__ = ["ReceiverStatus", "conditions"]

_EVERY_S: Final = 3.0
_SEVERITY: Final = ("CredentialsRefused", "NotConfigured", "NotAccepted", "TemplateFault")
_log = get(__name__)

Problems = Sequence[tuple[str, str, str, str]]
"""(receiver, block, reason, sentence); reason "" = none."""


class ReceiverStatus:
    """Keeps the status of all Receivers.

    Args:
        store: Where they are.
        ask: Returns the problems of all destinations; raises when the runtime cannot be reached.
        clock: Time.
    """

    def __init__(self, store: ObjectStore, ask: Callable[[], Awaitable[Problems]], clock: Clock) -> None:
        self._store = store
        self._ask = ask
        self._clock = clock

    async def run(self) -> None:
        """Look until cancelled."""
        await keep_looking(self.look, self._clock, every_s=_EVERY_S, what="the status of receivers")

    async def look(self) -> None:
        """Write what has changed once."""
        items = (await self._store.list(RECEIVERS))[0]
        if not items:
            return
        found: dict[str, list[tuple[str, str, str]]] = {}
        for receiver, block, reason, sentence in await self._ask():
            found.setdefault(receiver, []).append((block, reason, sentence))
        now = rfc3339(self._clock.now())
        for item in items:
            name = item["metadata"]["name"]
            if name not in found:
                continue  # nothing is sent by it, or the runtime does not know it yet
            status = item.get("status") or {}
            written = conditions(
                found[name],
                status.get("conditions") or (),
                generation=item["metadata"].get("generation", 0),
                now=now,
            )
            if written == status.get("conditions"):
                continue
            try:
                await self._store.update(
                    RECEIVERS, {**item, "status": {**status, "conditions": written}}, subresource="status"
                )
            except (ConflictError, NotFoundError):
                pass  # it has changed meanwhile: the next look sees it


def conditions(
    blocks: Sequence[tuple[str, str, str]],
    before: Sequence[Mapping[str, Any]],
    *,
    generation: int,
    now: str,
) -> list[dict[str, Any]]:
    """Return the condition Ready of a receiver.

    Args:
        blocks: (block, reason, sentence) of each of its destinations.
        before: Conditions as they are.
        generation: The receiver's.
        now: RFC 3339, for a status that changes.
    """
    troubled = [each for each in blocks if each[1]]
    worst = min((_SEVERITY.index(reason) for _, reason, _ in troubled), default=-1)
    ready = {
        "type": "Ready",
        "status": "False" if troubled else "True",
        "reason": _SEVERITY[worst] if troubled else "Delivering",
        "message": "; ".join(f"{block}: {sentence}" for block, _, sentence in troubled),
        "observedGeneration": generation,
    }
    old = next((each for each in before if each.get("type") == "Ready"), {})
    same = old.get("status") == ready["status"]
    ready["lastTransitionTime"] = old.get("lastTransitionTime", now) if same else now
    return [*(dict(each) for each in before if each.get("type") != "Ready"), ready]
