"""Rules of records: what is stored comes back, and what cannot be read is none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pelton.controlplane.revisions import RESOURCE, KeptRevision, Record, Revisions
from pelton.model.build import BuildResult
from pelton.model.desired import Desired, Route, Scaling, Workload
from pelton.testing.memory_store import MemoryStore


def desired(name: str) -> Desired:
    workload = Workload(
        namespace="ns", name="f", revision=name, bundle=f"/bundles/{name}", environment="/e/p"
    )
    return Desired(workload=workload, scaling=Scaling(), route=Route(namespace="ns", name="f"))


OLD, NEW = (KeptRevision(desired=desired(name), serving=f"s-{name}", written={"spec": {}}) for name in "ab")
ALONE = Record(live=NEW.desired, latest="b", stable="b", revisions=(OLD, NEW))


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        yield store


@pytest.mark.parametrize(
    "record",
    [
        Record(),
        ALONE,
        replace(ALONE, live=replace(NEW.desired, others=(OLD.desired,))),
        replace(ALONE, live=OLD.desired),
        replace(ALONE, live=None),
        Record(content="c").with_build("d", BuildResult(bundle="/x", digest="sha256:x"), "builder-1"),
    ],
)
async def test_record_comes_back_as_it_was(store, record):
    await Revisions(store).save("ns", "f", record)

    assert await Revisions(store).load("ns", "f") == record
    assert await Revisions(store).all() == {("ns", "f"): record}


async def test_saving_the_same_again_writes_nothing(store):
    revisions = Revisions(store)
    await revisions.save("ns", "f", ALONE)
    version = store.version
    await revisions.save("ns", "f", ALONE)

    assert store.version == version


@pytest.mark.parametrize("spec", [None, {}, {"revisions": 1}, {"alone": True}, []])
async def test_what_another_version_wrote_is_no_record_or_an_empty_one(store, spec):
    await store.create(RESOURCE, {"metadata": {"namespace": "ns", "name": "f"}, "spec": spec})

    assert await Revisions(store).load("ns", "f") in (None, Record())


async def test_forgetting_is_for_good_and_may_be_repeated(store):
    revisions = Revisions(store)
    await revisions.save("ns", "f", ALONE)
    for _ in range(2):
        await revisions.forget("ns", "f")

    assert await revisions.load("ns", "f") is None


def test_paths_are_those_of_all_revisions_and_of_the_last_build():
    record = ALONE.with_build("d", BuildResult(bundle="/x", digest="sha256:x"), "builder-1")

    assert record.paths() == {"/bundles/a", "/bundles/b", "/e/p", "/x"}
