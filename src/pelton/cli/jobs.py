"""Shows the jobs of Functions as Jobs of batch/v1: `pelton get jobs`, `kubectl get jobs`.

Such a job is an instance of the node's; its object says whose it is, whether it runs, and how it ended.
Objects of jobs that have not ended follow the node's list. Those of ended ones stay when the node forgets
them, which it does when it ends: as many as the Function says, the oldest go first. `cli/control_plane.py`
runs it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from pelton.clock import Clock
from pelton.errors import AlreadyExistsError, ConflictError, NotFoundError, PeltonError
from pelton.log import get
from pelton.ports import Store

__all__ = ["FUNCTION_LABEL", "JobMirror"]

FUNCTION_LABEL: Final = "pelton.dev/function"
_EVERY_S: Final = 1.0
_JOBS: Final = "jobs.batch"
_FUNCTIONS: Final = "functions.core.openfunction.io"
_log = get(__name__)

Obj = dict[str, Any]


class JobMirror:
    """Works until cancelled.

    Args:
        store: Where Jobs are.
        jobs: Returns the node's jobs; raises PeltonError while it is away.
        clock: Time.
        limits: Returns how many jobs of a function that succeeded and failed are kept, by `namespace/name`;
            None while nobody knows.
    """

    def __init__(
        self,
        store: Store,
        jobs: Callable[[], Awaitable[list[dict[str, Any]]]],
        clock: Clock,
        limits: Callable[[str], tuple[int, int] | None] = lambda _key: None,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._limits = limits
        self._clock = clock
        self._shown = True  # whether there may be objects

    async def run(self) -> None:
        """Follow the list until cancelled."""
        while True:
            try:
                await self.tick()
            except PeltonError as error:
                _log.debug("jobs are looked at again: %s", error)
            except Exception:
                _log.exception("jobs are looked at again")
            await self._clock.sleep(_EVERY_S)

    async def tick(self) -> None:
        """Make the objects what the node says once."""
        rows = {(row["namespace"], row["id"]): row for row in await self._jobs()}
        if not rows and not self._shown:
            return
        self._shown = bool(rows)
        listed, _ = await self._store.list(_JOBS)
        present = {
            (job["metadata"]["namespace"], job["metadata"]["name"]): job
            for job in listed
            if FUNCTION_LABEL in (job["metadata"].get("labels") or {})
        }
        forgotten = [job for key, job in present.items() if key not in rows]
        for job in [*(job for job in forgotten if not _ended(job)), *self._beyond(forgotten, rows.values())]:
            if not job["metadata"].get("deletionTimestamp"):
                try:
                    await self._store.delete(_JOBS, job["metadata"]["namespace"], job["metadata"]["name"])
                except NotFoundError:
                    continue
        for key, row in rows.items():
            try:
                await self._show(row, present.get(key))
            except (AlreadyExistsError, ConflictError, NotFoundError):
                continue  # the next look finds it

    def _beyond(self, forgotten: Iterable[Obj], rows: Iterable[dict[str, Any]]) -> list[Obj]:
        """Return ended jobs that nobody lists and that are too many beside those that are listed."""
        listed = Counter((row["namespace"], row["name"], row["state"]) for row in rows)
        ended: dict[tuple[str, str, str], list[Obj]] = {}
        for job in forgotten:
            if state := _ended(job):
                metadata = job["metadata"]
                place = (metadata["namespace"], metadata["labels"][FUNCTION_LABEL], state)
                ended.setdefault(place, []).append(job)
        found: list[Obj] = []
        for (namespace, name, state), jobs in ended.items():
            limits = self._limits(f"{namespace}/{name}")
            if limits is not None:
                room = max(0, limits[state == "failed"] - listed[namespace, name, state])
                jobs.sort(key=_ended_at)
                found += jobs[: max(0, len(jobs) - room)]
        return found

    async def _show(self, row: dict[str, Any], job: Obj | None) -> None:
        if job is None:
            owner = await self._store.get(_FUNCTIONS, row["namespace"], row["name"])
            job = await self._store.create(_JOBS, _object(row, owner))
        status = _status(row)
        if job.get("status") != status:
            await self._store.update(_JOBS, {**job, "status": status}, subresource="status")


def _object(row: dict[str, Any], owner: Obj) -> Obj:
    metadata = owner["metadata"]
    labels = {FUNCTION_LABEL: row["name"], "app.kubernetes.io/managed-by": "pelton"}
    container = {"name": "function", "image": (owner.get("spec") or {}).get("image") or "function"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": row["id"],
            "namespace": row["namespace"],
            "labels": labels,
            "annotations": {"pelton.dev/events-per-job": str(row["share"])},
            "ownerReferences": [
                {
                    "apiVersion": owner["apiVersion"],
                    "kind": owner["kind"],
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 0,
            "template": {
                "metadata": {"labels": labels},
                "spec": {"restartPolicy": "Never", "containers": [container]},
            },
        },
    }


def _ended(job: Obj) -> str:
    """Return `succeeded` or `failed`; "" for a job that has not ended, as far as it was shown."""
    status = job.get("status") or {}
    return next((state for state in ("succeeded", "failed") if status.get(state)), "")


def _ended_at(job: Obj) -> str:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return max((str(one.get("lastTransitionTime") or "") for one in conditions), default="")


def _status(row: dict[str, Any]) -> Obj:
    status: Obj = {"startTime": row["started"]}
    if row["state"] in ("pending", "running"):
        return status | {"active": 1, "ready": int(row["state"] == "running")}
    done = row["state"] == "succeeded"
    kind = "Complete" if done else "Failed"
    reason = "CompletionsReached" if done else "BackoffLimitExceeded"
    status["conditions"] = [
        {
            "type": kind,
            "status": "True",
            "reason": reason,
            "message": f"took {row['events']} events",
            "lastTransitionTime": row["ended"],
        }
    ]
    return status | ({"succeeded": 1, "completionTime": row["ended"]} if done else {"failed": 1})
