"""Rules of several revisions side by side, on a zygote and workers that only pretend."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from pathlib import Path

import msgspec
import pytest

from pelton.dataplane import wire
from pelton.dataplane.instances import InstanceManager
from pelton.dataplane.load_page import LoadPage
from pelton.errors import WakeError
from pelton.model.desired import EVENTS_PER_JOB, Desired, Scaling, Workload
from pelton.model.limits import Limits
from pelton.model.scaling import HttpScaling, JobPolicy, JobScaling, KedaPolicy
from pelton.model.snapshot import CheckResult
from pelton.testing.clock import FakeClock

KEY = "ns/fn"


def revision(name, *others, **scaling):
    workload = Workload(namespace="ns", name="fn", revision=name, bundle="/b")
    return Desired(workload=workload, scaling=Scaling(**scaling), others=others)


class Worker:
    """The far end of an instance's control socket."""

    def __init__(self, zygote, body):
        self.zygote = zygote
        self.id = body["instance"]
        self.revision = body["revision"]
        self.ctl = body["ctl"]
        self.page = body["page"]
        self.peers = []

    async def start(self):
        LoadPage(self.page, create=True).close()

        async def hello(peer, _body):
            self.peers.append(peer)
            return {}

        async def drain(_peer, _body):
            asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(self.end()))
            return {}

        self.server = await wire.serve(self.ctl, {"hello": hello, "drain": drain})

    async def end(self):
        self.server.close()
        for peer in self.peers:
            await peer.close()
        self.zygote.workers.pop(self.id, None)


class Zygote:
    """Starts such workers."""

    def __init__(self, path):
        self.path = path
        self.workers = {}
        self.dropped = []
        self.broken = set()

    async def start(self):
        async def listing(_peer, _body):
            limits = {"default": msgspec.to_builtins(Limits())}
            return {"instances": [], "templates": [], "isolation": "none", "limits": limits}

        async def spawn(_peer, body):
            if body["revision"] in self.broken:
                raise WakeError("no memory")
            worker = self.workers[body["instance"]] = Worker(self, body)
            await worker.start()
            return {}

        async def check(_peer, _body):
            return msgspec.to_builtins(CheckResult(ok=True, template="kept"))

        async def kill(_peer, body):
            if body["signal"] == signal.SIGKILL and body["instance"] in self.workers:
                await self.workers[body["instance"]].end()
            return {}

        async def drop(_peer, body):
            self.dropped.append(body["revision"])
            return {}

        handlers = {"list": listing, "spawn": spawn, "check": check, "kill": kill, "drop-template": drop}
        self.server = await wire.serve(str(self.path), handlers)

    def revisions(self):
        return sorted(worker.revision for worker in self.workers.values())

    async def close(self):
        for worker in list(self.workers.values()):
            await worker.end()
        self.server.close()


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


class World:
    def __init__(self, root):
        self.zygote = Zygote(root / "zygote.sock")
        self.clock = FakeClock()
        self.changes = []
        self.manager = InstanceManager(
            run_dir=root,
            spool_dir=root / "spool",
            zygote_socket=root / "zygote.sock",
            clock=self.clock,
            on_change=self.changed,
        )

    async def changed(self, key):
        # What Envoy would be told: the sockets behind the function and behind each revision.
        self.changes.append((key, [one.workload.revision for one in self.manager.ready(key)]))

    def ready(self, revision=""):
        return [one.workload.revision for one in self.manager.ready(f"{KEY}:{revision}" if revision else KEY)]

    def observed(self):
        seen = self.manager.observe(KEY)
        assert seen is not None
        return {one.revision: one.instances for one in seen.revisions}

    async def until_drained(self, *left):
        """Draining waits a moment for Envoy, by the clock."""
        async with asyncio.timeout(30):
            while self.zygote.revisions() != sorted(left):
                await self.clock.advance(0.02)
                await asyncio.sleep(0.005)


@pytest.fixture
async def world():
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # short: socket paths are limited to 107 bytes
        world = World(Path(name))
        await world.zygote.start()
        async with world.manager:
            yield world
        await world.zygote.close()


async def test_each_live_revision_has_instances_of_its_own(world):
    await world.manager.apply(revision("fn-1", revision("fn-2")))
    for key in (KEY, f"{KEY}:fn-1", f"{KEY}:fn-2"):
        await world.manager.wake(key)

    assert world.zygote.revisions() == ["fn-1", "fn-2"]
    assert (world.ready(), world.ready("fn-1"), world.ready("fn-2")) == (["fn-1"], ["fn-1"], ["fn-2"])
    assert world.observed() == {"fn-1": 1, "fn-2": 1}
    assert [one.workload.revision for one in world.manager.everywhere(KEY)] == ["fn-1", "fn-2"]


async def test_keys_of_scaling_are_the_functions_for_the_primary(world):
    await world.manager.apply(revision("fn-1", revision("fn-2")))
    await world.manager.wake(KEY)
    await world.manager.wake(f"{KEY}:fn-2")

    assert world.manager.active() == [KEY, f"{KEY}:fn-2"]
    assert world.manager.canonical(f"{KEY}:fn-1") == KEY
    assert world.manager.canonical(f"{KEY}:fn-2") == f"{KEY}:fn-2"
    assert world.manager.names_of(KEY) == (KEY, f"{KEY}:fn-1")
    assert world.manager.names_of(f"{KEY}:fn-2") == (f"{KEY}:fn-2",)


async def test_pending_events_count_for_the_primary(world):
    await world.manager.apply(revision("fn-1", revision("fn-2")))
    world.manager.set_pending(KEY, 3)

    assert world.manager.active() == [KEY]
    assert (world.manager.pending(KEY), world.manager.pending(f"{KEY}:fn-2")) == (3, 0)


async def test_replaced_revision_serves_until_it_is_released(world):
    await world.manager.apply(revision("fn-1"))
    await world.manager.wake(KEY)
    assert world.manager.primary(KEY) == "fn-1"
    await world.manager.apply(revision("fn-2"))
    assert (world.ready(), world.manager.primary(KEY)) == (["fn-2"], "fn-2")
    assert world.zygote.revisions() == ["fn-1", "fn-2"]
    assert world.changes[-1] == (KEY, ["fn-2"])
    await world.manager.release(KEY)
    await world.until_drained("fn-2")

    assert world.ready("fn-1") == []
    assert world.observed() == {"fn-2": 1}
    await until(lambda: world.zygote.dropped == ["fn-1"])


async def test_a_function_at_zero_stays_there_when_it_is_replaced(world):
    await world.manager.apply(revision("fn-1"))
    await world.manager.apply(revision("fn-2"))
    await world.manager.release(KEY)

    assert world.zygote.revisions() == []


async def test_revision_that_becomes_the_primary_keeps_its_instances(world):
    await world.manager.apply(revision("fn-1", revision("fn-2")))
    await world.manager.wake(KEY)
    new = await world.manager.wake(f"{KEY}:fn-2")
    await world.manager.apply(revision("fn-2", revision("fn-1")))
    await world.manager.release(KEY)

    assert world.manager.ready(KEY) == [new]
    assert world.ready("fn-1") == ["fn-1"]
    assert world.zygote.dropped == []


async def test_lower_bounds_count_for_the_primary_at_once_and_for_others_by_scaling(world):
    await world.manager.apply(revision("fn-1", revision("fn-2", min_replicas=1), min_replicas=2))

    assert world.ready() == ["fn-1", "fn-1"]
    assert f"{KEY}:fn-2" in world.manager.active()


async def test_wake_of_a_revision_that_is_not_live_says_so(world):
    await world.manager.apply(revision("fn-1"))

    with pytest.raises(WakeError, match="does not exist"):
        await world.manager.wake(f"{KEY}:fn-9")


async def test_failed_starts_are_counted_per_revision(world):
    world.zygote.broken.add("fn-2")
    await world.manager.apply(revision("fn-1", revision("fn-2")))
    await world.manager.wake(KEY)
    for _ in range(2):
        with pytest.raises(WakeError):
            await world.manager.wake(f"{KEY}:fn-2")
        await world.clock.advance(10)
    seen = world.manager.observe(KEY)

    assert seen is not None
    assert {one.revision: one.failures for one in seen.revisions} == {"fn-1": 0, "fn-2": 2}
    assert "no memory" in next(one.failure for one in seen.revisions if one.revision == "fn-2")
    assert world.ready() == ["fn-1"]


async def test_removing_a_function_ends_all_its_revisions(world):
    await world.manager.apply(revision("fn-1", revision("fn-2")))
    await world.manager.wake(KEY)
    await world.manager.wake(f"{KEY}:fn-2")
    removing = asyncio.create_task(world.manager.remove(KEY))
    await world.until_drained()
    await asyncio.wait_for(removing, 30)

    assert world.manager.keys() == []


async def test_a_check_alone_makes_no_function_that_is_seen(world):
    result = await world.manager.check(revision("fn-1").workload)

    assert result.ok
    assert world.manager.observe(KEY) is None
    await world.manager.apply(revision("fn-1"))
    assert world.observed() == {"fn-1": 0}


async def test_nothing_starts_at_zero_while_scaling_out_is_paused(world):
    paused = HttpScaling(keda=KedaPolicy(paused_out=True))
    await world.manager.apply(revision("fn-1", http=paused, owner="ScaledObject ns/web"))

    with pytest.raises(WakeError, match="paused by annotations of ScaledObject ns/web"):
        await world.manager.wake(KEY)

    assert world.zygote.revisions() == []
    await world.manager.apply(revision("fn-1"))
    assert await world.manager.wake(KEY)


def job_function(share=2, kept_failed=100):
    rules = JobScaling(policy=JobPolicy(), share=share, polling_s=2.0, kept_failed=kept_failed)
    workload = Workload(
        namespace="ns", name="fn", revision="fn-1", bundle="/b", options={EVENTS_PER_JOB: str(share)}
    )
    return Desired(workload=workload, scaling=Scaling(jobs=rules))


async def job(world):
    instance = await world.manager.wake(KEY)
    await until(lambda: instance.state == "ready")
    return instance


def states(world):
    return sorted(row["state"] for row in world.manager.jobs())


async def test_job_ends_once_it_has_taken_its_share_and_is_done(world):
    await world.manager.apply(job_function())
    instance = await job(world)
    tokens = [instance.page.begin(float("inf")) for _ in range(2)]
    world.manager.end_jobs(KEY, keep=0, waiting=5)
    assert states(world) == ["running"]  # it still works on them

    for token in tokens:
        instance.page.end(token)
    world.manager.end_jobs(KEY, keep=0, waiting=5)
    assert (world.manager.count(KEY), world.manager.unfinished(KEY)) == (0, 1)
    await world.until_drained()

    (ended,) = world.manager.jobs()
    assert (ended["state"], ended["id"], ended["events"], ended["share"]) == ("succeeded", instance.id, 2, 2)
    assert ended["ended"].endswith("Z")


async def test_job_without_anything_left_ends_after_a_moment_unless_it_is_kept(world):
    await world.manager.apply(job_function(share=10))
    await job(world)
    world.manager.end_jobs(KEY, keep=0, waiting=0)
    await world.clock.advance(0.9)
    world.manager.end_jobs(KEY, keep=0, waiting=0)
    await world.clock.advance(5)
    world.manager.end_jobs(KEY, keep=1, waiting=0)
    world.manager.end_jobs(KEY, keep=0, waiting=3)
    assert world.manager.count(KEY) == 1

    world.manager.end_jobs(KEY, keep=0, waiting=0)

    assert world.manager.count(KEY) == 0
    await world.until_drained()
    assert states(world) == ["succeeded"]


@pytest.mark.parametrize(("kept", "left"), [(100, ["failed"]), (0, [])])
async def test_job_that_dies_has_failed_and_is_remembered_as_long_as_asked(world, kept, left):
    await world.manager.apply(job_function(kept_failed=kept))
    instance = await job(world)

    await world.zygote.workers[instance.id].end()
    await until(lambda: instance.state == "gone")

    assert states(world) == left
    world.manager.forget_jobs(KEY)
    assert world.manager.jobs() == []
