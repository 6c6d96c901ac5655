"""Writes into a Function's status what only the runtime knows: InputsReady, OutputsReady and DaprAppReady.

InputsReady says whether the brokers of its inputs can be read (`dataplane/dispatcher.py` knows), OutputsReady
whether what it sends gets there (`dataplane/outputs.py`), DaprAppReady whether a Function that is an app of
Dapr is served as one (`cli/dapr_platform.py`). Run by
`cli/control_plane.py`, which asks the runtime every few seconds, so that `pelton get` and `kubectl describe`
show what else is only in the log. A condition appears with the first trouble; the others are the
reconciler's, which leaves these alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from pelton.apiserver.store import ObjectStore
from pelton.cli.status_loop import keep_looking
from pelton.clock import Clock, rfc3339
from pelton.controlplane.work import FUNCTIONS
from pelton.errors import ConflictError, NotFoundError
from pelton.log import get

__all__ = ["InputStatus", "conditions"]

_EVERY_S: Final = 3.0
_INPUTS: Final = "InputsReady"
_OUTPUTS: Final = "OutputsReady"
_APP: Final = "DaprAppReady"
_REASONS: Final = {
    _INPUTS: ("SourceUnavailable", "Reading"),
    _OUTPUTS: ("DestinationUnavailable", "Sending"),
    _APP: ("AppNotServed", "Served"),
}
"""Condition -> its reason while there is trouble, and afterwards."""
_REWORD_S: Final = 60.0
"""Seconds before other words for the same state are written: a client tells one outage in several ways."""
_log = get(__name__)


class InputStatus:
    """Keeps the conditions InputsReady, OutputsReady and DaprAppReady of all Functions.

    Args:
        store: Where they are.
        ask: Returns the runtime's counters: `subscriptions`, those of Functions with `namespace`, `function`,
            `topic` and `trouble`, `outputs` with `destination` instead of `topic`, and `apps`, with
            `namespace`, `function` and `trouble`; raises when the runtime cannot be reached.
        clock: Time.
    """

    def __init__(
        self, store: ObjectStore, ask: Callable[[], Awaitable[Mapping[str, Any]]], clock: Clock
    ) -> None:
        self._store = store
        self._ask = ask
        self._clock = clock
        self._told: dict[tuple[str, str], float] = {}  # when something was written, by the monotonic clock
        self._troubled: set[tuple[str, str]] | None = None  # None: what is stored is not known yet

    async def run(self) -> None:
        """Look until cancelled."""
        await keep_looking(
            self.look, self._clock, every_s=_EVERY_S, what="what the runtime knows of Functions"
        )

    async def look(self) -> None:
        """Write what has changed once."""
        counters = await self._ask()
        troubles: dict[tuple[str, str], dict[str, list[str]]] = {}
        for kind, listed in ((_INPUTS, "subscriptions"), (_OUTPUTS, "outputs"), (_APP, "apps")):
            for each in counters.get(listed, ()):
                if each.get("function") and each.get("trouble"):
                    place = each.get("topic") or each.get("destination")
                    sentence = f"{place}: {each['trouble']}" if place else each["trouble"]
                    own = troubles.setdefault((each["namespace"], each["function"]), {})
                    own.setdefault(kind, []).append(sentence)
        if self._troubled is not None and not troubles and not self._troubled:
            return
        now = rfc3339(self._clock.now())
        troubled = set(troubles)
        for item in (await self._store.list(FUNCTIONS))[0]:
            metadata = item["metadata"]
            key = (metadata["namespace"], metadata["name"])
            status = item.get("status") or {}
            before = status.get("conditions") or []
            written = before
            for kind in _REASONS:
                sentences = troubles.get(key, {}).get(kind, ())
                generation = metadata.get("generation", 0)
                written = conditions(sentences, written, kind=kind, generation=generation, now=now)
            if written == before:
                continue
            if _states(written) == _states(before) and self._recently(key):
                continue
            try:
                await self._store.update(
                    FUNCTIONS, {**item, "status": {**status, "conditions": written}}, subresource="status"
                )
                self._told[key] = self._clock.monotonic()
            except (ConflictError, NotFoundError):
                troubled.add(key)  # it has changed meanwhile: the next look sees it
        self._troubled = troubled
        self._told = {key: at for key, at in self._told.items() if key in troubled}

    def _recently(self, key: tuple[str, str]) -> bool:
        told = self._told.get(key)
        return told is not None and self._clock.monotonic() - told < _REWORD_S


def _states(conditions: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {each["type"]: each["status"] for each in conditions if each.get("type") in _REASONS}


def conditions(
    troubles: Sequence[str],
    before: Sequence[Mapping[str, Any]],
    *,
    kind: str = _INPUTS,
    generation: int,
    now: str,
) -> list[dict[str, Any]]:
    """Return the conditions of a Function with one of ours among them, where there is or was trouble.

    Args:
        troubles: What is in the way, a sentence each.
        before: Conditions as they are.
        kind: `InputsReady`, `OutputsReady` or `DaprAppReady`.
        generation: The Function's.
        now: RFC 3339, for a status that changes.
    """
    old = next((each for each in before if each.get("type") == kind), None)
    if not troubles and (old is None or old.get("status") == "True"):
        return [dict(each) for each in before]
    ready = {
        "type": kind,
        "status": "False" if troubles else "True",
        "reason": _REASONS[kind][0 if troubles else 1],
        "message": "; ".join(sorted(troubles)),
        "observedGeneration": generation,
    }
    same = old is not None and old.get("status") == ready["status"]
    ready["lastTransitionTime"] = old.get("lastTransitionTime", now) if old is not None and same else now
    return [*(dict(each) for each in before if each.get("type") != kind), ready]
