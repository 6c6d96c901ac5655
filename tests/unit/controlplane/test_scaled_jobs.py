"""Jobs are created as ScaledJobs say; the numbers are the contract's (autoscaling, sections 1.3 and 7)."""

from itertools import count

import pytest

from pelton.controlplane.scaled_jobs import GENERATION, LABEL, SCALED_JOBS, ScaledJobs, is_pending
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore

JOBS = "jobs.batch"
TRIGGER = {"type": "redis", "metadata": {"address": "r:1", "listName": "l"}}
POD = {"containers": [{"name": "a", "image": "b"}]}


class Runtime:
    """Says what the test wants read, a round per call of `read`."""

    def __init__(self):
        self.owners = {}
        self.round = None

    async def __call__(self, kind, owners):
        assert kind == "ScaledJob"
        self.owners = {key: item or self.owners.get(key) for key, item in owners.items()}
        return dict.fromkeys(owners, self.round)

    def read(self, value, target=1.0, error=""):
        number = (self.round or {"number": 0})["number"] + 1
        metric = {"metric": "l", "value": value, "target": target, "active": value > 0}
        self.round = {
            "number": number,
            "readings": {"s0-redis": None if error else [metric]},
            "errors": {"s0-redis": error} if error else {},
        }


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        yield store


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def runtime():
    return Runtime()


@pytest.fixture
def scaled(store, runtime, clock):
    numbers = count()
    return ScaledJobs(store=store, rounds=runtime, clock=clock, suffix=lambda: f"{next(numbers):05d}")


async def create(store, annotations=None, labels=None, **spec):
    await store.create(
        SCALED_JOBS,
        {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledJob",
            "metadata": {
                "name": "work",
                "namespace": "n",
                "annotations": annotations or {},
                "labels": labels or {},
            },
            "spec": {"jobTargetRef": {"template": {"spec": POD}}, "triggers": [TRIGGER], **spec},
        },
    )


async def jobs(store):
    return (await store.list(JOBS))[0]


async def end(store, job, kind="Complete", at="2026-01-02T03:04:05Z"):
    condition = {"type": kind, "status": "True", "lastTransitionTime": at}
    status = {"conditions": [condition]}
    await store.update(JOBS, {**job, "status": status}, subresource="status")


async def condition(store, kind):
    obj = await store.get(SCALED_JOBS, "n", "work")
    return next(one for one in obj["status"]["conditions"] if one["type"] == kind)


async def test_jobs_are_what_keda_makes(store, scaled, runtime):
    await create(
        store,
        labels={"team": "a", "private": "b"},
        annotations={"scaledjob.keda.sh/job-excluded-labels": "other, private"},
    )
    runtime.read(2.0)

    await scaled.tick()

    (job, _) = await jobs(store)
    assert job["metadata"]["name"].startswith("work-0")
    assert job["metadata"]["labels"]["team"] == "a"
    assert "private" not in job["metadata"]["labels"]
    assert job["metadata"]["labels"][LABEL] == "work"
    assert job["metadata"]["labels"]["app.kubernetes.io/name"] == "work"
    assert runtime.owners["ScaledJob n/work"]["listen"] is False
    assert job["metadata"]["annotations"] == {GENERATION: "1"}
    assert job["metadata"]["ownerReferences"][0]["kind"] == "ScaledJob"
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure"


@pytest.mark.parametrize(
    ("strategy", "running", "queue", "most", "made"),
    [("default", 2, 3, 100, 1), ("accurate", 15, 20, 20, 5), ("eager", 7, 4, 10, 3)],
)
async def test_row_strategies(store, scaled, runtime, strategy, running, queue, most, made):
    """Rows of the contract, (scale, running, pending, most): (20, 15, 10, 20) -> 5, (4, 7, 0, 10) -> 3."""
    await create(store, maxReplicaCount=most, scalingStrategy={"strategy": strategy})
    runtime.read(float(running))
    await scaled.tick()
    first = await jobs(store)
    assert len(first) == running
    for job in first[: len(first) - (10 if strategy == "accurate" else 0)]:
        await store.create(
            "pods",
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{job['metadata']['name']}-pod",
                    "namespace": "n",
                    "ownerReferences": [
                        {
                            "apiVersion": "batch/v1",
                            "kind": "Job",
                            "name": job["metadata"]["name"],
                            "uid": job["metadata"]["uid"],
                        }
                    ],
                },
                "spec": POD,
                "status": {"phase": "Running"},
            },
            keep_status=True,
        )

    runtime.read(float(queue))
    await scaled.tick()

    assert len(await jobs(store)) == running + made


async def test_one_decision_per_round(store, scaled, runtime):
    await create(store, maxReplicaCount=10)
    runtime.read(2.0)
    for _ in range(5):
        await scaled.tick()
    assert len(await jobs(store)) == 2

    runtime.read(5.0)
    await scaled.tick()
    assert len(await jobs(store)) == 5


async def test_pause_stops_creation_and_is_told(store, scaled, runtime):
    await create(store, annotations={"autoscaling.keda.sh/paused": "true"})
    runtime.read(5.0)

    await scaled.tick()

    assert not await jobs(store)
    assert (await condition(store, "Paused"))["status"] == "True"


@pytest.mark.parametrize(("rollout", "left"), [({}, 0), ({"strategy": "gradual"}, 3)])
async def test_change_ends_running_jobs_unless_gradual(store, scaled, runtime, rollout, left):
    await create(store, rollout=rollout)
    runtime.read(3.0)
    await scaled.tick()
    obj = await store.get(SCALED_JOBS, "n", "work")
    spec = {**obj["spec"], "maxReplicaCount": 50}
    await store.update(SCALED_JOBS, {**obj, "spec": spec})

    await scaled.tick()

    assert len(await jobs(store)) == left


async def test_ended_jobs_beyond_the_limits_go_oldest_first(store, scaled, runtime):
    await create(store, successfulJobsHistoryLimit=1, failedJobsHistoryLimit=0)
    runtime.read(4.0)
    await scaled.tick()
    first, second, third, fourth = await jobs(store)
    await end(store, first, at="2026-01-02T03:00:00Z")
    await end(store, second, at="2026-01-02T04:00:00Z")
    await end(store, third, "Failed")

    await scaled.tick()

    kept = {job["metadata"]["name"] for job in await jobs(store)}
    assert kept == {second["metadata"]["name"], fourth["metadata"]["name"]}


async def test_status_says_what_is_read(store, scaled, runtime):
    await create(store)
    runtime.read(1.0)
    await scaled.tick()
    assert (await condition(store, "Active"))["status"] == "True"
    assert (await condition(store, "Ready"))["reason"] == "ScaledJobReady"

    runtime.read(0.0, error="redis is away")
    await scaled.tick()
    ready = await condition(store, "Ready")
    assert (ready["status"], ready["message"]) == ("False", "redis is away")
    await store.delete(SCALED_JOBS, "n", "work")
    assert await scaled.tick() is False
    assert runtime.owners == {}


@pytest.mark.parametrize(
    ("pods", "conditions", "pending"),
    [
        ([], (), True),
        ([("Pending", {})], (), True),
        ([("Running", {})], (), False),
        ([("Succeeded", {})], (), False),
        ([("Running", {"Ready": "True"})], ("Ready", "Warm"), True),
        ([("Running", {"Ready": "True"}), ("Running", {"Warm": "True"})], ("Ready", "Warm"), True),
        ([("Running", {"Ready": "True", "Warm": "True"})], ("Ready", "Warm"), False),
    ],
)
def test_pending(pods, conditions, pending):
    job = {"metadata": {"name": "j", "uid": "u"}}
    listed = [
        {
            "metadata": {"name": "p", "labels": {"job-name": "j"}},
            "status": {
                "phase": phase,
                "conditions": [{"type": kind, "status": status} for kind, status in given.items()],
            },
        }
        for phase, given in pods
    ]

    assert is_pending(job, listed, conditions) is pending
