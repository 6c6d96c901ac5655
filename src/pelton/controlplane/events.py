"""What happened to a Function, as Kubernetes Events: what `kubectl describe` shows below the status.

The same thing that happens again raises the count of its Event. Called by the reconciler's parts; writing an
Event never stops what it is about. Events end by their own: the API server removes old ones.

Source: contracts, OpenFunction, section 6 (reasons, reporting controller).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from pelton import log
from pelton.clock import Clock, rfc3339
from pelton.errors import ConflictError, NotFoundError, PeltonError
from pelton.ports import Store

__all__ = ["EVENTS", "Recorder"]

EVENTS = "events"
_REPORTER = "openfunction"
_REMEMBERED = 2000
_MESSAGE_LIMIT = 1024
_WARNINGS = ("Failed", "Timeout", "Canceled", "Aborted")
_log = log.get(__name__)


class Recorder:
    """Writes Events.

    Args:
        store: Where they go.
        clock: For their times.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._recent: OrderedDict[tuple[str, str, str], str] = OrderedDict()  # what -> the Event's name
        self.dropped = 0

    async def record(self, obj: dict[str, Any], reason: str, message: str = "") -> None:
        """Write that something happened to an object; a Warning when the reason ends like one.

        Args:
            obj: Whatever it happened to, as stored.
            reason: CamelCase, e.g. `BuildFailed`.
            message: For people, one line.
        """
        metadata = obj["metadata"]
        text = (message.partition("\n")[0] or reason).encode()[:_MESSAGE_LIMIT].decode(errors="ignore")
        same = (str(metadata.get("uid", "")), reason, text)
        try:
            known = self._recent.pop(same, None)
            namespace = metadata["namespace"]
            self._recent[same] = await self._again(namespace, known) or await self._new(obj, reason, text)
        except PeltonError as error:
            self.dropped += 1
            _log.warning("event %s of %s is lost: %s", reason, metadata["name"], error)
        while len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)

    async def _again(self, namespace: str, name: str | None) -> str:
        """Count an Event that is there; returns its name, "" when it has been removed meanwhile."""
        if name is None:
            return ""
        try:
            event = await self._store.get(EVENTS, namespace, name)
            event["count"] = int(event.get("count", 1)) + 1
            event["lastTimestamp"] = rfc3339(self._clock.now())
            await self._store.update(EVENTS, event)
        except (NotFoundError, ConflictError):
            return ""
        return name

    async def _new(self, obj: dict[str, Any], reason: str, message: str) -> str:
        metadata = obj["metadata"]
        now = rfc3339(self._clock.now())
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": metadata["namespace"], "generateName": f"{metadata['name'][:57]}."},
            "involvedObject": {
                "apiVersion": obj.get("apiVersion", ""),
                "kind": obj.get("kind", ""),
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata.get("uid", ""),
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
            "type": "Warning" if reason.endswith(_WARNINGS) else "Normal",
            "reason": reason,
            "message": message,
            "source": {"component": _REPORTER},
            "reportingComponent": _REPORTER,
            "reportingInstance": "",
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        return str((await self._store.create(EVENTS, event))["metadata"]["name"])
