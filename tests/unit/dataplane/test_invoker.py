import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pelton.dataplane import wire
from pelton.dataplane.invoker import WorkerInvoker
from pelton.errors import WakeError
from pelton.model.desired import Component, Subscription
from pelton.model.invocation import Delivered, Event, Output
from pelton.ports import EventResult

SUBSCRIPTION = Subscription(
    namespace="ns",
    function="fn",
    name="in",
    input_name="in",
    component=Component(namespace="ns", name="in", type="pubsub.jetstream"),
    topic="orders",
)


def event(data=b"x"):
    return Event(kind="topic", component="in", component_type="t", topic="orders", data=data, content_type="")


class StubWorker:
    """The far end of a control socket: keeps the events it gets, answers when told."""

    def __init__(self, path):
        self.path = path
        self.events = {}
        self.notes = []
        self.cancelled = []
        self.peers = []

    async def start(self):
        async def hello(peer, body):
            assert body == {"role": "runtime"}
            self.peers.append(peer)
            return {}

        async def events(_peer, body):
            self.notes.append(len(body))
            for invocation_id, sent, timeout_s in body:
                self.events[invocation_id] = (sent, timeout_s)

        async def cancel(_peer, body):
            self.cancelled += body

        self.server = await wire.serve(
            str(self.path), {"hello": hello, "events": events, "cancel": cancel}, on_connect=self._keep
        )
        return self

    def _keep(self, peer):
        self._peer = peer

    def answer(self, *ids, outcome="ok", reason=""):
        self.peers[-1].note("outcomes", [[invocation_id, outcome, reason] for invocation_id in ids])

    async def die(self):
        self.server.close()
        self.path.unlink(missing_ok=True)
        for peer in self.peers:
            await peer.close()


@pytest.fixture
def directory():
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # short: socket paths are limited to 107 bytes
        yield Path(name)


@pytest.fixture
async def worker(directory):
    worker = await StubWorker(directory / "a.ctl").start()
    yield worker
    await worker.die()


@pytest.fixture
async def other(directory):
    worker = await StubWorker(directory / "b.ctl").start()
    yield worker
    await worker.die()


@pytest.fixture
async def make():
    made = []

    def build(*, outputs=None, wake=None):
        async def nowhere(_namespace, _name, output, _revision):
            return Delivered(ok=True, data=output.data)

        async def nobody(_namespace, _name):
            raise WakeError("no instance could be started")

        invoker = WorkerInvoker(outputs=outputs or nowhere, wake=wake or nobody)
        made.append(invoker)
        return invoker

    yield build
    for invoker in made:
        await invoker.close()


def invoke(invoker, invocation_id="1", data=b"x", timeout_s=5.0):
    return asyncio.create_task(
        invoker.invoke(SUBSCRIPTION, event(data), invocation_id=invocation_id, timeout_s=timeout_s)
    )


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def test_event_travels_with_its_limit_and_its_outcome_comes_back(make, worker):
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(worker.path))])
    task = invoke(invoker, data=b"\x00\xff")
    await until(lambda: worker.events)
    worker.answer("1", outcome="drop", reason="no")

    assert await task == EventResult(outcome="drop", reason="no")
    sent, timeout_s = worker.events["1"]
    assert (sent[4], sent[3], timeout_s) == (b"\x00\xff", "orders", 5.0)


async def test_event_without_an_outcome_in_time_has_failed_and_a_late_one_is_ignored(
    make, worker, monkeypatch
):
    monkeypatch.setattr("pelton.dataplane.invoker._GRACE_S", 0.02)
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(worker.path))])
    result = await invoke(invoker, timeout_s=0.03)

    assert result == EventResult(outcome="error", reason="no outcome 0.02 s after the time limit")
    await until(lambda: worker.cancelled == ["1"])
    worker.answer("1", outcome="ok")
    monkeypatch.setattr("pelton.dataplane.invoker._GRACE_S", 5.0)
    task = invoke(invoker, "2")
    await until(lambda: "2" in worker.events)
    worker.answer("2", outcome="ok")
    assert await task == EventResult(outcome="ok")


async def test_events_of_one_turn_share_a_note(make, worker):
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(worker.path))])
    first = invoke(invoker, "first")
    await until(lambda: worker.events)
    tasks = [invoke(invoker, str(number)) for number in range(50)]
    await until(lambda: len(worker.events) == 51)
    worker.answer("first", *map(str, range(50)))
    await asyncio.gather(first, *tasks)

    assert worker.notes == [1, 50]


async def test_worker_death_while_holding_is_an_error(make, worker):
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(worker.path))])
    task = invoke(invoker)
    await until(lambda: worker.events)
    await worker.die()

    result = await task
    assert result.outcome == "error"
    assert "worker died" in result.reason


async def test_outcome_sent_right_before_the_end_counts(make, worker):
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(worker.path))])
    task = invoke(invoker)
    await until(lambda: worker.events)
    worker.answer("1")
    await worker.die()

    assert (await task).outcome == "ok"


async def test_least_loaded_worker_is_chosen(make, worker, directory):
    other = await StubWorker(directory / "b.ctl").start()
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(worker.path)), ("b", str(other.path))])
    tasks = [invoke(invoker, "warm")]
    await until(lambda: worker.peers and other.peers)
    tasks += [invoke(invoker, str(number)) for number in range(20)]
    await until(lambda: len(worker.events) + len(other.events) == 21)

    assert abs(len(worker.events) - len(other.events)) <= 1
    worker.answer(*worker.events)
    other.answer(*other.events)
    await asyncio.gather(*tasks)
    await other.die()


async def test_no_worker_wakes_the_function_once_for_all_events(make, worker):
    calls = []

    async def wake(namespace, name):
        calls.append((namespace, name))
        await asyncio.sleep(0)
        invoker.update("ns", "fn", "r", [("a", str(worker.path))])

    invoker = make(wake=wake)
    tasks = [invoke(invoker, str(number)) for number in range(10)]
    await until(lambda: len(worker.events) == 10)
    worker.answer(*worker.events)
    results = await asyncio.gather(*tasks)

    assert calls == [("ns", "fn")]
    assert {result.outcome for result in results} == {"ok"}


async def test_failed_wake_is_busy(make):
    result = await invoke(make())

    assert result.outcome == "busy"
    assert "no instance could be started" in result.reason


async def test_removed_worker_gets_no_new_events_but_may_answer(make, worker, other):
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(worker.path))])
    old = invoke(invoker, "old")
    await until(lambda: worker.events)
    invoker.update("ns", "fn", "r", [("b", str(other.path))])
    new = invoke(invoker, "new")
    await until(lambda: other.events)
    worker.answer("old")
    other.answer("new")

    assert [(await task).outcome for task in (old, new)] == ["ok", "ok"]
    assert list(worker.events) == ["old"]


async def test_busy_shrinks_the_window_so_that_the_next_event_waits(make, worker):
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(worker.path))])
    tasks = [invoke(invoker, str(number)) for number in range(3)]
    await until(lambda: len(worker.events) == 3)
    worker.answer("2", outcome="busy")
    assert (await tasks[2]).outcome == "busy"
    waiting = invoke(invoker, "next")
    await asyncio.wait({waiting}, timeout=0.05)
    assert "next" not in worker.events
    worker.answer("0", "1")
    await until(lambda: "next" in worker.events)
    worker.answer("next")

    assert (await waiting).outcome == "ok"


async def test_cancelled_invocation_is_cancelled_at_the_worker(make, worker):
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(worker.path))])
    task = invoke(invoker)
    await until(lambda: worker.events)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: worker.cancelled == ["1"])


async def test_output_of_a_worker_is_served_for_its_function(make, worker):
    seen = []

    async def outputs(namespace, name, output, revision):
        seen.append((namespace, name, output, revision))
        return Delivered(ok=True, data=b"answer", metadata={"statusCode": "200"})

    invoker = make(outputs=outputs)
    invoker.update("ns", "fn", "r", [("a", str(worker.path))])
    await until(lambda: worker.peers)
    answer = await worker.peers[0].call(
        "output", {"invocation_id": "1", "output": Output(name="out", data=b"\xff")}
    )

    assert seen == [("ns", "fn", Output(name="out", data=b"\xff"), "r")]
    assert (answer["ok"], answer["data"]) == (True, b"answer")


async def test_another_revision_gets_no_events_until_it_is_the_one_that_does(make, worker, other):
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(worker.path))], others=[("b", str(other.path), "r2")])
    first = [invoke(invoker, f"{number}") for number in range(4)]
    await until(lambda: len(worker.events) == 4)
    assert list(other.events) == []
    invoker.update("ns", "fn", "r2", [("b", str(other.path))], others=[("a", str(worker.path), "r")])
    last = invoke(invoker, "last")
    await until(lambda: list(other.events) == ["last"])
    other.answer("last")
    worker.answer("0", "1", "2", "3")

    assert [(await task).outcome for task in [*first, last]] == ["ok"] * 5


async def test_output_of_another_revision_names_that_revision(make, worker):
    seen = []

    async def outputs(_namespace, _name, _output, revision):
        seen.append(revision)
        return Delivered(ok=True)

    invoker = make(outputs=outputs)
    invoker.update("ns", "fn", "r", [], others=[("b", str(worker.path), "r2")])
    await until(lambda: worker.peers)
    await worker.peers[0].call("output", {"invocation_id": "1", "output": Output(name="o", data=b"")})

    assert seen == ["r2"]


async def test_listed_worker_that_listens_late_is_still_found(make, directory):
    path = directory / "late.ctl"
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(path))])
    task = invoke(invoker)
    await asyncio.sleep(0)
    worker = await StubWorker(path).start()
    await until(lambda: worker.events)
    worker.answer("1")

    assert (await task).outcome == "ok"
    await worker.die()


# --- several events at once -------------------------------------------------------------------------------


class BatchWorker(StubWorker):
    """A worker that keeps batches: number -> [ordered, invocation ids]."""

    async def start(self):
        self.batches: dict[int, list[Any]] = {}
        self.dropped: list[int] = []
        self.complete: list[int] = []

        async def hello(peer, _body):
            self.peers.append(peer)
            return {}

        async def on_batch(_peer, body):
            number, ordered, _timeout_s, events = body
            self.batches[number] = [ordered, [invocation_id for invocation_id, _ in events]]

        async def on_more(_peer, body):
            number, events = body
            if not events:
                self.complete.append(number)
            self.batches[number][1] += [invocation_id for invocation_id, _ in events]

        async def on_cancel(_peer, body):
            self.dropped += body

        handlers = {"hello": hello, "batch": on_batch, "more": on_more, "cancel-batch": on_cancel}
        self.server = await wire.serve(str(self.path), handlers, on_connect=self._keep)
        return self

    def tell(self, number, done=(), failures=(), over=False):
        self.peers[-1].note("results", [number, list(done), list(failures), over])


@pytest.fixture
async def first(directory):
    worker = await BatchWorker(directory / "c.ctl").start()
    yield worker
    await worker.die()


@pytest.fixture
async def second(directory):
    worker = await BatchWorker(directory / "d.ctl").start()
    yield worker
    await worker.die()


class Feed:
    """Gives events of a lane, `each` at a time while fewer than `most` are out."""

    def __init__(self, count, *, each=10, most=20, data=b"{}"):
        self.left = [(str(number), event(data)) for number in range(count)]
        self.each, self.most = each, most
        self.out = self.ended = 0

    def more(self, room):
        room = min(room, self.each, self.most - self.out)
        given, self.left = self.left[:room], self.left[room:]
        self.out += len(given)
        return given

    def done(self, count):
        self.out -= count
        self.ended += count


def run(invoker, feed, timeout_s=5.0):
    return asyncio.create_task(
        invoker.invoke_run(SUBSCRIPTION, more=feed.more, done=feed.done, timeout_s=timeout_s)
    )


def many(invoker, count, told, timeout_s=5.0):
    events = [(str(number), event()) for number in range(count)]
    return asyncio.create_task(
        invoker.invoke_many(SUBSCRIPTION, events, settled=told.extend, timeout_s=timeout_s)
    )


async def test_run_grows_while_its_events_end(make, first):
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(first.path))])
    feed = Feed(25)
    task = run(invoker, feed)
    await until(lambda: first.batches)
    first.tell(1, done=range(10))
    await until(lambda: len(first.batches[1][1]) == 20)
    first.tell(1, done=range(10, 20))
    await until(lambda: len(first.batches[1][1]) == 25)
    first.tell(1, done=range(20, 25))

    assert await task is None
    await until(lambda: first.complete)
    assert first.complete == [1]
    assert first.batches == {1: [True, [str(number) for number in range(25)]]}
    assert feed.ended == 25
    assert invoker.stats() == {"ns/fn": {"a": 0}}


async def test_worker_that_has_handled_much_of_a_run_has_room_for_others(make, first):
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(first.path))])
    feed = Feed(40, data=bytes(1024 * 1024))
    task = run(invoker, feed)
    for number in range(36):
        await until(lambda number=number: first.batches and len(first.batches[1][1]) > number)
        first.tell(1, done=[number])
    await until(lambda: feed.ended == 36)
    other = run(invoker, Feed(1))
    await until(lambda: 2 in first.batches)

    first.tell(2, done=[0], over=True)
    assert await other is None
    first.tell(1, done=range(36, 40), over=True)
    assert await task is None


async def test_run_of_large_events_is_with_its_worker_by_a_few(make, first):
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(first.path))])
    feed = Feed(100, each=1, most=100, data=bytes(1024 * 1024))
    task = run(invoker, feed)
    await until(lambda: first.batches)
    first.tell(1, done=[0])
    await until(lambda: len(first.batches[1][1]) == 5)
    assert feed.out == 4
    task.cancel()


async def test_run_ends_with_the_first_failure(make, first):
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(first.path))])
    feed = Feed(10)
    task = run(invoker, feed)
    await until(lambda: first.batches)
    first.tell(1, done=[0, 1], failures=[[2, "error", "boom"]], over=True)

    assert await task == EventResult(outcome="error", reason="boom")
    assert feed.ended == 2


async def test_worker_death_is_an_attempt_of_the_first_event_of_a_run_without_outcome(make, first):
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(first.path))])
    feed = Feed(10)
    task = run(invoker, feed)
    await until(lambda: first.batches)
    first.tell(1, done=[0, 1])
    await until(lambda: feed.ended == 2)
    await first.die()

    result = await task
    assert (result.outcome, result.died) == ("error", True)


async def test_run_moves_when_another_worker_has_much_less_to_do(make, first, second):
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(first.path))])
    feeds = [Feed(1000, most=10) for _ in range(2)]
    tasks = [run(invoker, feed) for feed in feeds]
    await until(lambda: len(first.batches) == 2)
    invoker.update("ns", "fn", "r", [("a", str(first.path)), ("b", str(second.path))])
    await until(lambda: second.peers)
    first.tell(1, done=range(10))
    await until(lambda: feeds[0].ended == 10)
    first.tell(2, done=range(10))
    await until(lambda: feeds[1].ended == 10)

    assert await tasks[0] is None  # it did not go on where both were, the other one did
    await until(lambda: [len(ids) for _, ids in first.batches.values()] == [10, 20])
    again = run(invoker, feeds[0])
    await until(lambda: second.batches)
    for task in (again, tasks[1]):
        task.cancel()
    await asyncio.gather(again, tasks[1], return_exceptions=True)
    await until(lambda: second.dropped == [1] and first.dropped == [2])


async def test_run_without_events_asks_nobody(make, first):
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(first.path))])

    assert await run(invoker, Feed(0)) is None
    assert first.batches == {}


async def test_batch_is_shared_by_the_workers_that_have_room(make, first, second):
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(first.path)), ("b", str(second.path))])
    await until(lambda: first.peers and second.peers)
    await asyncio.sleep(0.01)
    told: list[Any] = []
    task = many(invoker, 10, told)
    await until(lambda: first.batches and second.batches)
    assert sorted(len(ids) for worker in (first, second) for _, ids in worker.batches.values()) == [5, 5]
    first.tell(1, done=[4, 0], failures=[[2, "drop", "no"]])
    second.tell(1, done=range(5), over=True)
    await until(lambda: len(told) == 8)
    first.tell(1, done=[1], failures=[[3, "busy", "full"]], over=True)

    assert await task == "full"
    outcomes = {index: result.outcome for index, result in told}
    assert len(outcomes) == 9
    assert sorted(outcomes.values()) == ["drop", *["ok"] * 8]


async def test_worker_death_is_an_attempt_of_all_events_without_order(make, first):
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(first.path))])
    told: list[Any] = []
    task = many(invoker, 3, told)
    await until(lambda: first.batches)
    first.tell(1, done=[1])
    await until(lambda: told)
    await first.die()
    await task

    assert {index: result.outcome for index, result in told} == {0: "error", 1: "ok", 2: "error"}


async def test_failed_wake_leaves_a_batch_untouched(make):
    told: list[Any] = []

    assert "no instance could be started" in await many(make(), 3, told)
    assert told == []
    assert (await run(make(), Feed(3))).outcome == "busy"


async def test_batch_without_any_outcome_in_time_has_failed(make, first, monkeypatch):
    monkeypatch.setattr("pelton.dataplane.invoker._GRACE_S", 0.02)
    invoker = make()
    invoker.update("ns", "fn", "r", [("a", str(first.path))])
    result = await run(invoker, Feed(3), timeout_s=0.03)

    assert result == EventResult(outcome="error", reason="no outcome 0.02 s after the time limit")
    await until(lambda: first.dropped == [1])
