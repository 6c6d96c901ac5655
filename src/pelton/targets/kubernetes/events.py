"""What of the event framework OpenFunction's own controllers do not know: notes, nothing is changed.

On a cluster EventSource, EventBus, ClusterEventBus and Trigger are handed on as they are. `cli/render.py`
prints the notes. Pure. Source: contracts, OpenFunction, section 9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["GROUP", "event_notes"]

GROUP: Final = "events.openfunction.io"
_OWN_SOURCES: Final = ("nats", "rabbitmq", "http", "logs")
_OWN_BUSES: Final = ("kafka", "jetstream")
_HERE: Final = "is Pelton's own: OpenFunction's controllers do not know it"
_DEFAULT_WINDOW: Final = ("", "1m", "1m0s", "60s")


def event_notes(obj: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (field path, sentence) for what a cluster's controllers leave aside of an admitted object."""
    return list(_notes(str(obj["kind"]), obj.get("spec") or {}))


def _notes(kind: str, spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if kind == "EventSource":
        for name in _OWN_SOURCES:
            if spec.get(name):
                yield f"spec.{name}", _HERE
        for name in ("kafka", "cron", "mqtt", "redis"):
            for event, settings in (spec.get(name) or {}).items():
                for own in ("metadata", "stream"):
                    if settings.get(own):
                        yield f"spec.{name}.{event}.{own}", _HERE
    elif kind == "Trigger":
        if str(spec.get("window") or "") not in _DEFAULT_WINDOW:
            yield "spec.window", f"{_HERE}; there it is always 60s"
        conditions = [one.get("condition") for one in spec.get("subscribers") or ()]
        if len(set(conditions)) < len(conditions):
            yield "spec.subscribers", "OpenFunction keeps one subscriber of each condition, the last one"
    else:
        given = [name for name in _OWN_BUSES if spec.get(name) is not None]
        for name in given:
            yield f"spec.{name}", _HERE
        if not given and spec.get("natsStreaming") is None:
            yield "spec", "OpenFunction has no embedded bus: it needs natsStreaming"
