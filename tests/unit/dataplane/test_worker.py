"""What the worker promises: errors, deadlines, concurrency, events, outputs, drain, attribution of output."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import msgspec
import pytest

from pelton.dataplane import wire
from pelton.dataplane.streams import INVOCATION
from pelton.model.invocation import Delivered, Event, Invocation, Output, Reply

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
CLOSE = b"Connection: close\r\n"


async def hello(_invocation):
    return Reply(body=b"hello")


def event(data=b"{}", **fields):
    made = Event(
        kind="topic",
        component="bus",
        component_type="pubsub.jetstream",
        topic="t",
        data=data,
        content_type="application/json",
        **fields,
    )
    return msgspec.to_builtins(made, builtin_types=(bytes,))


async def runtime(worker, handlers=None):
    """A peer in the runtime's role; its outcomes end up in a dictionary."""
    outcomes = {}

    async def on_outcomes(_peer, body):
        for invocation_id, outcome, reason in body:
            outcomes[invocation_id] = (outcome, reason)

    peer = await worker.peer({"outcomes": on_outcomes, **(handlers or {})}, role="runtime")
    return peer, outcomes


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [False, True])
async def test_exception_is_500_with_its_traceback_in_the_log(start_worker, sync):
    def fail(_invocation):
        raise ValueError("secret")

    async def fail_async(invocation):
        fail(invocation)

    worker = await start_worker(fail if sync else fail_async, sync=sync)
    status, headers, body = await (await worker.connect()).get("/", "X-Request-Id: id-1")

    assert status == 500
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert body == b"the function raised ValueError; its log has the traceback (invocation id-1)\n"
    lines = worker.spooled()
    assert lines[0] == "Traceback (most recent call last):"
    assert "src/pelton" not in lines[1]
    assert lines[-1] == "ValueError: secret"


async def test_convention_decides_about_the_answer_to_an_exception(start_worker):
    async def fail(_invocation):
        raise ValueError("boom")

    def on_error(exc):
        return Reply(status=418, body=str(exc).encode())

    worker = await start_worker(fail, loaded={"on_error": on_error})

    assert await (await worker.connect()).get() == (418, {"content-length": "4"}, b"boom")


async def test_failing_error_answer_is_a_plain_500(start_worker):
    async def fail(_invocation):
        raise ValueError("first")

    def on_error(_exc):
        raise KeyError("second")

    worker = await start_worker(fail, loaded={"on_error": on_error})

    assert (await (await worker.connect()).get())[0] == 500
    assert {"ValueError: first", "KeyError: 'second'"} <= set(worker.spooled())


@pytest.mark.parametrize("sync", [False, True])
async def test_function_that_exits_the_interpreter_is_500_and_the_worker_lives(start_worker, sync):
    def leave(_invocation):
        sys.exit(3)

    async def leave_async(_invocation):
        sys.exit(3)

    worker = await start_worker(leave if sync else leave_async, sync=sync)
    client = await worker.connect()

    assert (await client.get())[0] == 500
    assert (await client.get())[0] == 500


UNSENDABLE: list[Any] = [None, "text", 3]


@pytest.mark.parametrize("result", UNSENDABLE)
@pytest.mark.parametrize("as_body", [False, True])
@pytest.mark.parametrize("sync", [False, True])
async def test_result_that_cannot_be_sent_is_500(start_worker, sync, result, as_body):
    result = Reply(body=result) if as_body else result

    async def call_async(_invocation):
        return result

    worker = await start_worker((lambda _invocation: result) if sync else call_async, sync=sync)

    status, _headers, body = await (await worker.connect()).get()

    assert status == 500
    assert b"cannot be sent" in body
    assert any("cannot be sent" in line for line in worker.spooled())


async def test_bytearray_body_is_sent(start_worker):
    async def reply(_invocation):
        body: Any = bytearray(b"abc")
        return Reply(body=body)

    worker = await start_worker(reply)

    assert (await (await worker.connect()).get())[2] == b"abc"


async def test_unhandled_path_is_404_without_a_call(start_worker):
    worker = await start_worker(hello, loaded={"unhandled_paths": frozenset({b"/favicon.ico"})})
    client = await worker.connect()

    assert (await client.get("/favicon.ico?v=1"))[0] == 404
    assert worker.page.read().total == 0
    assert (await client.get("/favicon"))[0] == 200


# --- deadlines and clients that leave ---------------------------------------------------------------------


async def test_async_function_over_its_time_is_cancelled_and_504(start_worker, poll):
    cancelled = asyncio.Event()

    async def hang(_invocation):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    worker = await start_worker(hang, request_timeout_s=0.05)
    client = await worker.connect()
    status, _headers, body = await client.get("/", "X-Request-Id: id-1")

    assert (status, body) == (504, b"the function did not finish within its time limit (invocation id-1)\n")
    await asyncio.wait_for(cancelled.wait(), 30)
    await poll(lambda: worker.page.read().in_flight == 0)


async def test_thread_over_its_time_is_504_and_stays_in_the_page_with_its_deadline(start_worker, poll):
    release = threading.Event()

    def hang(_invocation):
        release.wait(30)
        return Reply()

    worker = await start_worker(hang, sync=True, request_timeout_s=0.05)
    client = await worker.connect()

    assert (await client.get())[0] == 504
    reading = worker.page.read()
    assert reading.in_flight == 1
    assert reading.earliest_deadline < time.monotonic()
    release.set()
    await poll(lambda: worker.page.read().in_flight == 0)


async def test_task_that_swallows_its_cancellation_stays_in_the_page(start_worker, poll):
    release = asyncio.Event()

    async def stubborn(_invocation):
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                pass
        return Reply(body=b"late")

    worker = await start_worker(stubborn, request_timeout_s=0.05)
    client = await worker.connect()

    assert (await client.get())[0] == 504
    assert worker.page.read().in_flight == 1
    release.set()
    await poll(lambda: worker.page.read().in_flight == 0)
    assert (await client.get())[2] == b"late"


async def test_waiting_in_the_queue_counts_against_the_deadline(start_worker, poll):
    release = asyncio.Event()

    async def stubborn(_invocation):
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                pass
        return Reply()

    worker = await start_worker(stubborn, concurrency=1, request_timeout_s=0.05)
    first, second = await worker.connect(), await worker.connect()
    answers = await asyncio.gather(first.get(), second.get())

    assert [status for status, _headers, _body in answers] == [504, 504]
    assert b"could not start" in answers[1][2]
    assert worker.page.read().queued == 0
    assert worker.page.read().total == 1
    release.set()
    await poll(lambda: worker.page.read().in_flight == 0)


async def test_stream_is_exempt_from_the_deadline_once_headers_are_sent(start_worker):
    async def stream(_invocation):
        async def chunks():
            await asyncio.sleep(0.15)
            yield b"late"

        return Reply(body=chunks())

    worker = await start_worker(stream, request_timeout_s=0.05)
    client = await worker.connect()
    client.send(GET + b"\r\n")
    await client.until(b"\r\n\r\n")

    assert worker.page.read().earliest_deadline == float("inf")
    assert await client.until(b"0\r\n\r\n") == b"4\r\nlate\r\n0\r\n\r\n"


async def test_timeout_zero_is_no_timeout(start_worker, poll):
    seen: list[Any] = []

    async def look(invocation):
        seen.append(invocation.deadline)
        return Reply()

    worker = await start_worker(look, request_timeout_s=0)
    await (await worker.connect()).get()

    assert seen == [float("inf")]


async def test_client_that_leaves_cancels_the_async_function_and_is_counted(start_worker, poll):
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(_invocation):
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    worker = await start_worker(hang)
    client = await worker.connect()
    client.send(GET + b"\r\n")
    await asyncio.wait_for(started.wait(), 30)
    client.close()

    await asyncio.wait_for(cancelled.wait(), 30)
    await poll(lambda: worker.page.read().in_flight == 0)
    assert worker.worker.clients_gone == 1
    assert worker.spooled() == []


async def test_client_that_leaves_a_stream_closes_its_generator(start_worker, poll):
    closed = asyncio.Event()

    async def stream(_invocation):
        async def chunks():
            try:
                while True:
                    yield b"x" * 1000
                    await asyncio.sleep(0)
            finally:
                closed.set()

        return Reply(body=chunks())

    worker = await start_worker(stream)
    client = await worker.connect()
    client.send(GET + b"\r\n")
    await client.until(b"\r\n\r\n")
    client.close()

    await asyncio.wait_for(closed.wait(), 30)
    await poll(lambda: worker.page.read().in_flight == 0)
    assert worker.spooled() == []


async def test_client_that_leaves_the_queue_frees_its_place(start_worker, poll):
    release = asyncio.Event()

    async def wait(_invocation):
        await release.wait()
        return Reply()

    worker = await start_worker(wait, concurrency=1)
    running, leaving = await worker.connect(), await worker.connect()
    running.send(GET + b"\r\n")
    await poll(lambda: worker.page.read().in_flight == 1)
    leaving.send(GET + b"\r\n")
    await poll(lambda: worker.page.read().queued == 1)
    leaving.close()

    await poll(lambda: worker.page.read().queued == 0)
    release.set()
    assert (await running.response())[0] == 200
    assert worker.page.read().total == 1


# --- concurrency ------------------------------------------------------------------------------------------


async def test_full_queue_is_503_with_retry_after(start_worker, poll):
    release = asyncio.Event()

    async def wait(_invocation):
        await release.wait()
        return Reply()

    worker = await start_worker(wait, concurrency=1)
    clients = [await worker.connect() for _ in range(11)]
    for client in clients:
        client.send(GET + b"\r\n")
    await poll(lambda: worker.page.read().queued == 10)
    status, headers, _body = await (await worker.connect()).get()

    assert (status, headers["retry-after"]) == (503, "1")
    release.set()
    assert [(await client.response())[0] for client in clients] == [200] * 11


@pytest.mark.parametrize("sync", [False, True])
async def test_no_more_than_concurrency_run_at_once(start_worker, sync):
    running = most = 0
    lock = threading.Lock()

    def enter(change):
        nonlocal running, most
        with lock:
            running += change
            most = max(most, running)

    def call(_invocation):
        enter(1)
        time.sleep(0.002)
        enter(-1)
        return Reply()

    async def call_async(_invocation):
        enter(1)
        await asyncio.sleep(0.002)
        enter(-1)
        return Reply()

    worker = await start_worker(call if sync else call_async, sync=sync, concurrency=3)
    clients = [await worker.connect() for _ in range(20)]
    answers = await asyncio.gather(*(client.get() for client in clients))

    assert [status for status, _headers, _body in answers] == [200] * 20
    assert most == 3
    assert worker.page.read().in_flight == 0


async def test_fast_sync_function_moves_to_the_loop_and_a_slow_call_moves_it_back(start_worker):
    threads = []

    def call(invocation):
        threads.append(threading.current_thread())
        if invocation.target == b"/slow":
            time.sleep(0.025)
        return Reply()

    worker = await start_worker(call, sync=True)
    client = await worker.connect()
    assert worker.page.mode_name == "thread"
    for _ in range(40):
        await client.get()

    assert worker.page.mode_name == "inline"
    assert threads[0] is not threading.main_thread()
    assert threads[-1] is threading.main_thread()
    for _ in range(3):  # what a busy machine held up before is deducted from the first ones
        await client.get("/slow")
    assert worker.page.mode_name == "thread"


async def test_blocking_function_never_runs_on_the_loop(start_worker):
    threads = set()

    def call(_invocation):
        threads.add(threading.current_thread())
        return Reply()

    worker = await start_worker(call, sync=True, loaded={"blocking": True})
    client = await worker.connect()
    for _ in range(40):
        await client.get()

    assert threading.main_thread() not in threads
    assert worker.page.mode_name == "thread"


async def test_async_mode_is_published(start_worker):
    assert (await start_worker(hello)).page.mode_name == "async"


@pytest.mark.parametrize("sync", [False, True])
async def test_invocation_and_own_context_are_right_on_every_path(start_worker, sync):
    own = contextvars.ContextVar("own", default=0)

    def look(invocation):
        current = INVOCATION.get()
        own.set(own.get() + 1)
        assert current is invocation
        return Reply(body=b"%s %d" % (current.id.encode(), own.get()))

    async def look_async(invocation):
        await asyncio.sleep(0)
        return look(invocation)

    worker = await start_worker(look if sync else look_async, sync=sync)
    client = await worker.connect()
    for number in range(60):
        body = (await client.get("/", f"X-Request-Id: id-{number}"))[2]
        assert body == b"id-%d 1" % number
    if sync:
        assert worker.page.mode_name == "inline"


@pytest.mark.parametrize("calls", [1, 40])
async def test_sync_function_may_answer_with_a_stream(start_worker, calls):
    def stream(_invocation):
        async def chunks():
            yield b"a"

        return Reply(body=chunks())

    worker = await start_worker(stream, sync=True)
    client = await worker.connect()
    for _ in range(calls):
        client.send(GET + b"\r\n")
        assert (await client.until(b"0\r\n\r\n")).endswith(b"1\r\na\r\n0\r\n\r\n")

    assert worker.page.read().in_flight == 0


async def test_many_connections_at_once_are_all_answered(start_worker):
    def call(invocation):
        return Reply(body=invocation.target)

    worker = await start_worker(call, sync=True)
    clients = [await worker.connect() for _ in range(40)]

    async def converse(number, client):
        return [(await client.get(f"/{number}/{turn}"))[2] for turn in range(20)]

    answers = await asyncio.gather(*(converse(number, client) for number, client in enumerate(clients)))

    assert answers == [[b"/%d/%d" % (number, turn) for turn in range(20)] for number in range(40)]
    assert worker.page.read().total == 800


# --- output -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [False, True])
async def test_print_is_attributed_to_its_invocation_and_raw_output_marked(start_worker, sync):
    worker: Any = None

    def call(_invocation):
        print("printed", file=worker.spool.stdout)
        os.write(worker.spool_fd, b"raw\n")
        return Reply()

    async def call_async(invocation):
        return call(invocation)

    worker = await start_worker(call if sync else call_async, sync=sync)
    client = await worker.connect()
    for number in range(30):
        await client.get("/", f"X-Request-Id: id-{number}")

    with open(f"{worker.folder}/log", "rb") as file:
        data = file.read()
    marks = [line.split() for line in data.split(b"\n") if line.startswith(b"\x1eM")]
    assert [label.decode() for _sign, label, _start, _end in marks] == [f"id-{n}" for n in range(30)]
    for number, (_sign, _label, start, end) in enumerate(marks):
        assert b" o id-%d\tprinted\nraw\n" % number in data[int(start) : int(end)]


# --- lifespan, drain, signals -----------------------------------------------------------------------------


async def test_lifespan_runs_around_the_calls(start_worker):
    steps = []

    async def start():
        steps.append("start")

    async def stop():
        steps.append("stop")

    async def call(_invocation):
        steps.append("call")
        return Reply()

    worker = await start_worker(call, control=True, loaded={"start": start, "stop": stop})
    await (await worker.connect()).get()
    await (await worker.peer()).call("drain", {"grace_s": 1})
    await asyncio.wait_for(worker.task, 30)

    assert steps == ["start", "call", "stop"]


async def test_hello_tells_who_it_is(start_worker):
    worker = await start_worker(hello, control=True, loaded={"signature": "http", "target": "hello"})

    assert await (await worker.peer()).call("hello", {"role": "node"}) == {
        "instance": "f-1-abcde",
        "revision": "f-1",
        "pid": os.getpid(),
        "signature": "http",
        "target": "hello",
        "mode": "async",
    }


async def test_drain_finishes_what_runs_and_closes_what_is_idle(start_worker, poll):
    release = asyncio.Event()

    async def wait(_invocation):
        await release.wait()
        return Reply(body=b"done")

    worker = await start_worker(wait, control=True)
    idle, busy = await worker.connect(), await worker.connect()
    busy.send(GET + b"\r\n")
    await poll(lambda: worker.page.read().in_flight == 1)
    peer, outcomes = await runtime(worker)
    drain = asyncio.create_task(peer.call("drain", {"grace_s": 5}))

    assert await idle.all() == b""
    peer.note("events", [["late", event(), 5]])
    await poll(lambda: outcomes)
    assert outcomes["late"][0] == "busy"
    newcomer = await worker.connect()
    newcomer.send(GET + b"\r\n")
    await poll(lambda: worker.page.read().in_flight == 2)
    assert not drain.done()
    release.set()
    for client in (busy, newcomer):
        data = await client.all()
        assert b"connection: close" in data
        assert data.endswith(b"done")
    assert await drain == {}
    await asyncio.wait_for(worker.task, 30)


async def test_drain_ends_after_its_grace_whatever_runs(start_worker, poll):
    async def hang(_invocation):
        await asyncio.Event().wait()

    worker = await start_worker(hang, control=True)
    client = await worker.connect()
    client.send(GET + b"\r\n")
    await poll(lambda: worker.page.read().in_flight == 1)

    assert await (await worker.peer()).call("drain", {"grace_s": 0.05}) == {}
    await asyncio.wait_for(worker.task, 30)
    assert await client.all() == b""


SCRIPT = """
import os, socket, sys
from pelton.dataplane.load_page import LoadPage
from pelton.dataplane.worker import Worker, WorkerSettings, run
from pelton.model.invocation import LoadedFunction, Reply
import asyncio

async def call(invocation):
    if invocation.target == b"/slow":
        sys.stdout.write("started\\n")
        sys.stdout.flush()
        await asyncio.sleep(0.2)
    return Reply(body=b"done")

sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1] + "/http")
sock.listen()
settings = WorkerSettings(instance="i", namespace="n", name="f", revision="r")
worker = Worker(settings, LoadPage(sys.argv[1] + "/page", create=True))
run(worker, LoadedFunction(call=call, sync=False), [sock], on_ready=lambda: print("ready", flush=True))
bad = {"grpc", "sqlite3", "yaml", "ruamel", "pydantic", "pelton.manifest", "pelton.plan"} & set(sys.modules)
assert not bad, bad
print("ended", flush=True)
"""


def test_sigterm_lets_running_requests_finish_and_ends_with_code_0(tmp_path):
    import socket

    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(f"{tmp_path}/http")
            client.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
            assert process.stdout.readline() == "started\n"
            process.send_signal(signal.SIGTERM)
            data = b""
            while chunk := client.recv(65536):
                data += chunk
        assert data.endswith(b"done")
        assert process.stdout.readline() == "ended\n"
        assert process.wait(30) == 0


# --- events -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [False, True])
async def test_event_outcomes_follow_the_reply(start_worker, poll, sync):
    def call(invocation):
        assert (invocation.method, invocation.event.topic) == ("POST", "t")
        kind = invocation.body
        if kind == b"raise":
            raise ValueError("bad\nthing")
        if kind == b"drop":
            return Reply(status=400, retry=False, error="never")
        return Reply(status=503 if kind == b"fail" else 204, body=b"ignored")

    async def call_async(invocation):
        await asyncio.sleep(0)
        return call(invocation)

    worker = await start_worker(call if sync else call_async, sync=sync, control=True)
    peer, outcomes = await runtime(worker)
    kinds = ["fine", "raise", "drop", "fail"]
    peer.note("events", [[kind, event(kind.encode()), 5] for kind in kinds])
    await poll(lambda: len(outcomes) == 4)

    assert outcomes == {
        "fine": ("ok", ""),
        "raise": ("error", "ValueError: bad thing"),
        "drop": ("drop", "never"),
        "fail": ("error", "status 503"),
    }
    assert "ValueError: bad" in worker.spooled()
    assert worker.page.read().total == 4


async def test_event_result_that_is_no_reply_is_an_error(start_worker, poll):
    async def call(_invocation):
        return 3

    worker = await start_worker(call, control=True)
    peer, outcomes = await runtime(worker)
    peer.note("events", [["e", event(), 5]])
    await poll(lambda: outcomes)

    assert outcomes["e"] == ("error", "the function returned int, which cannot be sent")


async def test_event_over_its_own_time_is_an_error(start_worker, poll):
    async def hang(_invocation):
        await asyncio.Event().wait()

    worker = await start_worker(hang, control=True)
    peer, outcomes = await runtime(worker)
    peer.note("events", [["e", event(), 0.05]])
    await poll(lambda: outcomes)

    assert outcomes["e"] == ("error", "the function did not finish within its time limit")
    await poll(lambda: worker.page.read().in_flight == 0)


async def test_events_share_the_gate_with_http_and_overflow_is_busy(start_worker, poll):
    release = asyncio.Event()

    async def wait(_invocation):
        await release.wait()
        return Reply()

    worker = await start_worker(wait, concurrency=1, control=True)
    client = await worker.connect()
    client.send(GET + b"\r\n")
    await poll(lambda: worker.page.read().in_flight == 1)
    peer, outcomes = await runtime(worker)
    peer.note("events", [[str(number), event(), 5] for number in range(11)])
    await poll(lambda: outcomes)

    assert list(outcomes) == ["10"]
    assert outcomes["10"][0] == "busy"
    release.set()
    await poll(lambda: len(outcomes) == 11)
    assert {outcome for number, (outcome, _reason) in outcomes.items() if number != "10"} == {"ok"}


async def test_cancelled_events_leave_the_queue_or_stop(start_worker, poll):
    async def hang(_invocation):
        await asyncio.Event().wait()

    worker = await start_worker(hang, concurrency=1, control=True)
    peer, outcomes = await runtime(worker)
    peer.note("events", [["running", event(), 5], ["waiting", event(), 5]])
    await poll(lambda: worker.page.read().queued == 1)
    peer.note("cancel", ["waiting", "running", "unknown"])
    await poll(lambda: len(outcomes) == 2)

    assert outcomes == {"waiting": ("busy", "cancelled"), "running": ("error", "cancelled")}
    await poll(lambda: worker.page.read().in_flight == 0)


async def test_event_that_cannot_be_read_is_dropped(start_worker, poll):
    worker = await start_worker(hello, control=True)
    peer, outcomes = await runtime(worker)
    peer.note("events", [["bad", {"kind": 3}, 5], ["good", event(), 5]])
    await poll(lambda: len(outcomes) == 2)

    assert outcomes["bad"][0] == "drop"
    assert outcomes["good"] == ("ok", "")


async def test_a_peer_that_leaves_does_not_stop_its_events(start_worker, poll):
    release = asyncio.Event()
    finished = asyncio.Event()

    async def wait(_invocation):
        await release.wait()
        finished.set()
        return Reply()

    worker = await start_worker(wait, control=True)
    peer, _outcomes = await runtime(worker)
    peer.note("events", [["e", event(), 5]])
    await poll(lambda: worker.page.read().in_flight == 1)
    await peer.close()
    release.set()

    await asyncio.wait_for(finished.wait(), 30)
    await poll(lambda: worker.page.read().in_flight == 0)


# --- outputs ----------------------------------------------------------------------------------------------


def accepting(seen):
    async def on_output(_peer, body):
        seen.append((body["invocation_id"], body["output"]["name"], body["output"]["data"]))
        return Delivered(ok=True, data=b"thanks")

    return {"output": on_output}


async def test_async_function_sends_through_the_runtime(start_worker):
    worker: Any = None

    async def call(_invocation):
        answer = await worker.worker.send_async(Output(name="out", data=b"payload"))
        return Reply(body=answer.data)

    worker = await start_worker(call, control=True)
    seen: list[Any] = []
    await runtime(worker, accepting(seen))
    client = await worker.connect()

    assert (await client.get("/", "X-Request-Id: id-1"))[2] == b"thanks"
    assert seen == [("id-1", "out", b"payload")]


async def test_thread_sends_through_the_runtime(start_worker):
    worker: Any = None

    def call(_invocation):
        return Reply(body=worker.worker.send(Output(name="out", data=b"x")).data)

    worker = await start_worker(call, sync=True, control=True, loaded={"blocking": True})
    seen: list[Any] = []
    await runtime(worker, accepting(seen))
    client = await worker.connect()

    assert (await client.get("/", "X-Request-Id: id-1"))[2] == b"thanks"
    assert seen[0][0] == "id-1"


async def test_blocking_send_on_the_loop_is_refused(start_worker):
    worker = await start_worker(hello, control=True)

    with pytest.raises(RuntimeError, match="block the event loop"):
        worker.worker.send(Output(name="out", data=b"x"))


async def test_output_waits_for_the_runtime_to_come(start_worker, poll):
    worker: Any = None

    async def call(_invocation):
        return Reply(body=(await worker.worker.send_async(Output(name="out", data=b"x"))).data)

    worker = await start_worker(call, control=True)
    await worker.peer(role="node")
    client = await worker.connect()
    client.send(GET + b"\r\n")
    await poll(lambda: worker.page.read().in_flight == 1)
    await runtime(worker, accepting([]))

    assert (await client.response())[2] == b"thanks"


async def test_output_is_repeated_when_the_runtime_died_with_it(start_worker, poll):
    worker: Any = None
    taken = asyncio.Event()

    async def never(_peer, _body):
        taken.set()
        await asyncio.Event().wait()

    async def call(_invocation):
        return Reply(body=(await worker.worker.send_async(Output(name="out", data=b"x"))).data)

    worker = await start_worker(call, control=True)
    first, _outcomes = await runtime(worker, {"output": never})
    client = await worker.connect()
    client.send(GET + b"\r\n")
    await asyncio.wait_for(taken.wait(), 30)
    await first.close()
    await runtime(worker, accepting([]))

    assert (await client.response())[2] == b"thanks"


async def test_output_without_a_runtime_fails_at_the_deadline(start_worker):
    worker = await start_worker(hello, control=True)
    INVOCATION.set(Invocation("id-1", "POST", b"/", [], deadline=time.monotonic() + 0.05))

    answer = await worker.worker.send_async(Output(name="out", data=b"x"))

    assert (answer.ok, answer.error) == (False, "output 'out': the platform's runtime is not connected")


async def test_output_without_a_platform_says_so(start_worker):
    worker: Any = None

    async def call(_invocation):
        return Reply(body=(await worker.worker.send_async(Output(name="out", data=b"x"))).error.encode())

    worker = await start_worker(call)

    assert (await (await worker.connect()).get())[2] == b"output 'out': no platform is connected"


async def test_refused_output_comes_back_as_an_answer(start_worker):
    from pelton import errors

    worker: Any = None

    async def refuse(_peer, _body):
        raise errors.ComponentError("no such output")

    async def call(_invocation):
        return Reply(body=(await worker.worker.send_async(Output(name="out", data=b"x"))).error.encode())

    worker = await start_worker(call, control=True)
    await runtime(worker, {"output": refuse})

    assert (await (await worker.connect()).get())[2] == b"no such output"


# --- batches of events ------------------------------------------------------------------------------------


def batch(*texts, **fields):
    return [[text, event(text.encode(), **fields)] for text in texts]


async def sender(worker):
    """A peer in the runtime's role; what it is told of batch n ends up in `told[n]`: done, failures, over."""
    told: dict[int, tuple[list[int], list[list[Any]], list[bool]]] = {}

    def on_results(_peer, raw):
        number, done, failures, over = msgspec.msgpack.decode(raw)
        known = told.setdefault(number, ([], [], []))
        known[0].extend(done)
        known[1].extend(failures)
        if over:
            known[2].append(True)

    peer = await worker.peer({"results": wire.Direct(on_results)}, role="runtime")
    return peer, told


def numbers(first, last):
    return [str(number) for number in range(first, last)]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_events_of_a_run_follow_one_another(start_worker, poll, kind):
    seen, running = [], []

    def call(invocation):
        seen.append(invocation.body.decode())
        return Reply()

    async def call_async(invocation):
        running.append(invocation.id)
        assert len(running) == 1
        await asyncio.sleep(0)
        running.clear()
        return call(invocation)

    sync = kind == "sync"
    worker = await start_worker(call if sync else call_async, sync=sync, control=True)
    peer, told = await sender(worker)
    peer.note("batch", [7, True, 5.0, batch(*numbers(0, 100))])
    await poll(lambda: len(told.get(7, ([], [], []))[0]) == 100)
    assert not told[7][2]  # what else there is may be on its way
    peer.note("more", [7, batch(*numbers(100, 500))])
    peer.note("more", [7, []])
    await poll(lambda: told.get(7, ([], [], []))[2])

    assert seen == numbers(0, 500)
    assert told[7] == (list(range(500)), [], [True])
    assert worker.page.read().total == 500
    assert worker.page.read().in_flight == 0


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("warm", [0, 100])  # sync code runs on a thread at first, on the loop later
async def test_run_ends_at_the_first_event_that_does_not_end_well(start_worker, poll, sync, warm):
    seen = []

    def call(invocation):
        seen.append(invocation.body)
        if invocation.body == b"bad":
            raise ValueError("no")
        return Reply()

    async def call_async(invocation):
        return call(invocation)

    worker = await start_worker(call if sync else call_async, sync=sync, control=True)
    peer, told = await sender(worker)
    if warm:
        peer.note("batch", [1, True, 5.0, batch(*numbers(0, warm))])
        peer.note("more", [1, []])
        await poll(lambda: told.get(1, ([], [], []))[2])
    seen.clear()
    peer.note("batch", [2, True, 5.0, batch("a", "bad", "b", "c")])
    peer.note("more", [2, batch("d")])
    await poll(lambda: told.get(2, ([], [], []))[2])

    assert told[2] == ([0], [[1, "error", "ValueError: no"]], [True])
    assert seen == [b"a", b"bad"]


@pytest.mark.parametrize("sync", [False, True])
async def test_events_without_order_do_not_depend_on_each_other(start_worker, poll, sync):
    def call(invocation):
        return Reply(status=500 if invocation.body == b"bad" else 200, error="no")

    async def call_async(invocation):
        return call(invocation)

    worker = await start_worker(call if sync else call_async, sync=sync, control=True)
    peer, told = await sender(worker)
    for number in range(5):
        peer.note("batch", [number, False, 5.0, batch("a", "bad", *numbers(0, 30))])
    await poll(lambda: len(told) == 5 and all(item[2] for item in told.values()))

    for done, failures, _ in told.values():
        assert sorted(done) == [0, *range(2, 32)]
        assert failures == [[1, "error", "no"]]


async def test_fast_sync_events_run_on_the_loop(start_worker, poll):
    worker = await start_worker(lambda _invocation: Reply(), sync=True, control=True)
    peer, told = await sender(worker)
    peer.note("batch", [1, True, 5.0, batch(*numbers(0, 500))])
    peer.note("more", [1, []])
    await poll(lambda: told.get(1, ([], [], []))[2])

    assert worker.page.mode_name == "inline"
    assert told[1][0] == list(range(500))


async def test_event_of_a_run_over_its_time_ends_the_run(start_worker, poll):
    async def hang(invocation):
        if invocation.body == b"slow":
            await asyncio.Event().wait()
        return Reply()

    worker = await start_worker(hang, control=True)
    peer, told = await sender(worker)
    peer.note("batch", [1, True, 0.05, batch("a", "slow", "b")])
    await poll(lambda: told.get(1, ([], [], []))[2])

    assert told[1] == ([0], [[1, "error", "the function did not finish within its time limit"]], [True])
    await poll(lambda: worker.page.read().in_flight == 0)


async def test_cancelled_run_begins_nothing_more(start_worker, poll):
    seen = []

    async def hang(invocation):
        seen.append(invocation.body)
        await asyncio.Event().wait()

    worker = await start_worker(hang, control=True)
    peer, told = await sender(worker)
    peer.note("batch", [1, True, 5.0, batch("a", "b")])
    await poll(lambda: seen)
    peer.note("cancel-batch", [1, 2])
    await poll(lambda: told.get(1, ([], [], []))[2])

    assert told[1] == ([], [[0, "error", "cancelled"]], [True])
    assert seen == [b"a"]
    await poll(lambda: worker.page.read().in_flight == 0)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("ordered", [True, False])
async def test_job_takes_its_share_of_events_and_no_more(start_worker, poll, kind, ordered):
    seen = []

    def call(invocation):
        seen.append(invocation.body)
        return Reply()

    async def call_async(invocation):
        return call(invocation)

    sync = kind == "sync"
    worker = await start_worker(call if sync else call_async, sync=sync, control=True, events=3)
    peer, told = await sender(worker)
    peer.note("batch", [1, ordered, 5.0, batch("a", "b")])
    peer.note("more", [1, []])
    await poll(lambda: told.get(1, ([], [], []))[2])
    peer.note("batch", [2, ordered, 5.0, batch("c", "d", "e")])
    await poll(lambda: told.get(2, ([], [], []))[2])

    assert seen == [b"a", b"b", b"c"]
    assert told[2][0] == [0]
    assert [failure[1] for failure in told[2][1]] == (["busy"] if ordered else ["busy", "busy"])
    assert "its share" in told[2][1][0][2]


async def test_run_whose_sender_left_begins_nothing_more(start_worker, poll):
    seen = []
    release = asyncio.Event()

    async def wait(invocation):
        seen.append(invocation.body)
        await release.wait()
        return Reply()

    worker = await start_worker(wait, control=True)
    peer, _told = await sender(worker)
    peer.note("batch", [1, True, 5.0, batch("a", "b")])
    await poll(lambda: seen)
    await peer.close()
    await asyncio.sleep(0.05)
    release.set()
    await poll(lambda: worker.page.read().in_flight == 0)

    assert seen == [b"a"]


async def test_draining_worker_ends_runs_after_the_event_that_runs(start_worker, poll):
    seen = []
    release = asyncio.Event()

    async def wait(invocation):
        seen.append(invocation.body)
        await release.wait()
        return Reply()

    worker = await start_worker(wait, control=True)
    peer, told = await sender(worker)
    peer.note("batch", [1, True, 5.0, batch("a", "b")])
    await poll(lambda: seen)
    draining = asyncio.create_task(peer.call("drain", {"grace_s": 5.0}))
    await asyncio.sleep(0.02)
    release.set()
    await draining
    await poll(lambda: told.get(1, ([], [], []))[2])

    assert told[1] == ([0], [], [True])
    assert seen == [b"a"]


async def test_run_shares_the_gate_and_a_full_queue_is_busy(start_worker, poll):
    release = asyncio.Event()

    async def wait(_invocation):
        await release.wait()
        return Reply()

    worker = await start_worker(wait, concurrency=1, control=True)
    peer, told = await sender(worker)
    peer.note("batch", [1, False, 5.0, batch(*numbers(0, 11))])  # one runs, ten wait
    await poll(lambda: worker.page.read().queued == 10)
    peer.note("batch", [2, True, 5.0, batch("a", "b")])
    await poll(lambda: told.get(2, ([], [], []))[2])

    assert told[2] == ([], [[0, "busy", "the instance's queue is full"]], [True])
    release.set()
    await poll(lambda: told.get(1, ([], [], []))[2])
    assert sorted(told[1][0]) == list(range(11))


async def test_batch_with_an_event_that_cannot_be_read_runs_up_to_it(start_worker, poll):
    worker = await start_worker(hello, control=True)
    peer, told = await sender(worker)
    good, bad = event(b"a"), {"kind": 3}
    peer.note("batch", [1, True, 5.0, [["a", good], ["bad", bad]]])
    peer.note("batch", [2, True, 5.0, [["bad", bad], ["a", good]]])
    await poll(lambda: len(told) == 2 and all(item[2] for item in told.values()))

    assert told[1] == ([0], [], [True])
    assert told[2][0] == []
    assert told[2][1][0][:2] == [0, "drop"]


async def test_streamed_answer_of_an_event_is_read_before_the_next_begins(start_worker, poll):
    order = []

    async def stream(invocation):
        async def chunks():
            order.append(f"begin {invocation.id}")
            yield b"x"
            await asyncio.sleep(0)
            order.append(f"end {invocation.id}")

        return Reply(body=chunks())

    worker = await start_worker(stream, control=True)
    peer, told = await sender(worker)
    peer.note("batch", [1, True, 5.0, batch("a", "b")])
    peer.note("more", [1, []])
    await poll(lambda: told.get(1, ([], [], []))[2])

    assert order == ["begin a", "end a", "begin b", "end b"]
    assert told[1][0] == [0, 1]


async def test_http_requests_get_their_turn_between_slices_of_a_run(start_worker, poll):
    answered_at = []
    count: list[int] = []

    def call(invocation):
        if invocation.event is None:
            answered_at.append(len(count))
        else:
            count.append(1)
            deadline = time.perf_counter() + 0.0004
            while time.perf_counter() < deadline:
                pass
        return Reply(body=b"hi")

    worker = await start_worker(call, sync=True, control=True)
    peer, told = await sender(worker)
    client = await worker.connect()
    peer.note("batch", [1, True, 5.0, batch(*numbers(0, 600))])
    peer.note("more", [1, []])
    await poll(lambda: len(count) > 50)
    assert (await client.get())[0] == 200
    await poll(lambda: told.get(1, ([], [], []))[2])

    assert answered_at[0] < 600
    assert told[1][0] == list(range(600))
