"""Which jobs of functions run and which have ended, as `pelton get jobs` shows them.

A job is an instance that takes its share of events and ends. Kept in memory, per function the last ones that
succeeded and failed; `dataplane/instances.py` notes ends, `cli/jobs.py` makes objects of what is listed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from pelton.clock import Clock, rfc3339
from pelton.dataplane.instance import Instance
from pelton.model.desired import EVENTS_PER_JOB

__all__ = ["JobHistory"]


class JobHistory:
    """Jobs that have ended.

    Args:
        clock: For their times.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ended: dict[tuple[str, bool], deque[dict[str, Any]]] = {}

    def note(self, instance: Instance, *, now: float, succeeded: bool, kept: tuple[int, int]) -> None:
        """Remember a job that has ended.

        Args:
            instance: The job.
            now: Seconds on the clock.
            succeeded: Whether it ended because it was done.
            kept: How many that succeeded and failed are remembered.
        """
        key = (instance.workload.key, succeeded)
        most = kept[0] if succeeded else kept[1]
        ended = self._ended.get(key)
        if ended is None or ended.maxlen != most:
            ended = self._ended[key] = deque(ended or (), maxlen=most)
        ended.append(
            self._row(instance) | {"ended": self._time(now), "state": "succeeded" if succeeded else "failed"}
        )

    def forget(self, key: str) -> None:
        """Drop what is remembered of a function that is gone."""
        for succeeded in (True, False):
            self._ended.pop((key, succeeded), None)

    def listed(self, running: Iterable[Instance]) -> list[dict[str, Any]]:
        """Return all jobs as plain data: namespace, name, id, state, started, ended, events, share."""
        rows = [
            self._row(instance)
            | {"ended": "", "state": "pending" if instance.state == "starting" else "running"}
            for instance in running
        ]
        return rows + [row for ended in self._ended.values() for row in ended]

    def _row(self, instance: Instance) -> dict[str, Any]:
        load = instance.workload
        return {
            "namespace": load.namespace,
            "name": load.name,
            "id": instance.id,
            "started": self._time(instance.started_at),
            "events": instance.page.read().total if instance.page is not None else 0,
            "share": int(load.options.get(EVENTS_PER_JOB) or 0),
        }

    def _time(self, monotonic: float) -> str:
        """Return a moment of the monotonic clock as RFC 3339 time."""
        moment = self._clock.now().timestamp() - (self._clock.monotonic() - monotonic)
        return rfc3339(self._clock.now().fromtimestamp(moment, self._clock.now().tzinfo))
