"""`state` between a worker's control socket and the runtime: answers, refusals, a runtime that goes away."""

import asyncio
import socket
import tempfile
import time

import pytest

from pelton.dataplane import control as module
from pelton.dataplane import wire
from pelton.dataplane.control import Control
from pelton.dataplane.invoker import WorkerInvoker
from pelton.errors import ComponentError, ConflictError, DeliveryError
from pelton.model.state import StateAnswer, StateCall, StateChange, StateItem

GET = StateCall(operation="get", keys=["a"])
CHECKED = StateCall(operation="write", changes=[StateChange(key="a", data=b"1", etag="e")])


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # short: socket paths are limited to 107 bytes
        yield f"{name}/ctl"


@pytest.fixture
async def control(path):
    async def nothing(_grace_s):
        return None

    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(8)
    sock.setblocking(False)
    control = Control(
        describe=dict,
        accept=lambda *_: None,
        accept_batch=lambda *_: None,
        extend_batch=lambda *_: None,
        cancel=lambda *_: None,
        cancel_batch=lambda *_: None,
        drain=nothing,
        drained=lambda: None,
    )
    await control.start(sock)
    yield control
    await control.close()


@pytest.fixture
async def connect(path):
    """Connect as the runtime, with a handler of `state`."""
    peers = []

    async def make(handler):
        peer = await wire.connect(path, {"state": handler})
        await peer.call("hello", {"role": "runtime"})
        peers.append(peer)
        return peer

    yield make
    for peer in peers:
        await peer.close()


def ask(control, call, timeout_s=5.0):
    return control.state(call, "1", time.monotonic() + timeout_s)


async def test_call_and_answer_travel_whole(control, path):
    asked = []
    item = StateItem(key="a", data=b"\x00", etag="e")

    async def perform(namespace, name, call, _revision):
        asked.append((namespace, name, call))
        return StateAnswer(items=[item], token="t")

    async def nobody(*_):
        raise AssertionError

    invoker = WorkerInvoker(outputs=nobody, wake=nobody, states=perform)
    invoker.update("shop", "f", "f-1", [("f-1-a", path)])

    answer = await ask(control, CHECKED)

    assert answer == StateAnswer(items=[item], token="t")
    assert asked == [("shop", "f", CHECKED)]
    await invoker.close()


@pytest.mark.parametrize("error", [ConflictError, ComponentError])
async def test_refusal_keeps_its_kind_message_and_hint(control, connect, error):
    async def refuse(_peer, _body):
        raise error("not so", hint="do that")

    await connect(refuse)

    with pytest.raises(error, match="not so") as raised:
        await ask(control, GET)
    assert raised.value.hint == "do that"


async def test_runtime_that_is_away_is_waited_for(control, connect):
    async def answer(_peer, _body):
        return StateAnswer(token="late")

    waiting = asyncio.create_task(ask(control, GET))
    await asyncio.sleep(0)
    await connect(answer)

    assert (await waiting).token == "late"


async def test_runtime_that_never_comes_is_told_after_the_deadline(control):
    with pytest.raises(DeliveryError, match="is not connected"):
        await ask(control, GET, timeout_s=0.02)


async def test_runtime_that_does_not_answer_is_told_after_the_deadline(control, connect, monkeypatch):
    monkeypatch.setattr(module, "OUTPUT_WAIT_S", 0.05)

    async def hang(_peer, _body):
        await asyncio.Event().wait()

    await connect(hang)

    with pytest.raises(DeliveryError, match="did not answer in time"):
        await control.state(GET, "-", float("inf"))


async def test_plain_call_is_made_again_when_the_runtime_went_away_with_it(control, connect):
    came = asyncio.Event()

    async def hang(_peer, _body):
        came.set()
        await asyncio.Event().wait()

    async def answer(_peer, _body):
        return StateAnswer(token="again")

    first = await connect(hang)
    waiting = asyncio.create_task(ask(control, GET))
    await came.wait()
    await first.close()
    await connect(answer)

    assert (await waiting).token == "again"


async def test_call_that_depends_on_what_is_stored_is_not_made_again(control, connect):
    came = asyncio.Event()

    async def hang(_peer, _body):
        came.set()
        await asyncio.Event().wait()

    first = await connect(hang)
    waiting = asyncio.create_task(ask(control, CHECKED))
    await came.wait()
    await first.close()

    with pytest.raises(DeliveryError, match="went away with the call") as raised:
        await waiting
    assert "read the value and its etag again" in raised.value.hint
