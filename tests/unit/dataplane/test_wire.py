"""Frames arrive whole, in order and once, however their bytes were cut; memory of large ones goes back."""

import asyncio
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.dataplane import wire

NOTE = 4


class Transport(asyncio.Transport):
    """Remembers what was written."""

    def __init__(self):
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def writelines(self, data):
        self.written += b"".join(data)

    def write(self, data):
        self.written += data

    def close(self):
        self.closed = True


def connected(handlers):
    peer = wire.Peer(handlers, name="test")
    transport = Transport()
    peer.connection_made(transport)
    return peer, transport


def feed(peer, data, sizes):
    """Let a peer receive bytes in pieces of these sizes, over and over."""
    turn = 0
    while data:
        buffer = peer.get_buffer(-1)
        count = min(len(data), len(buffer), sizes[turn % len(sizes)])
        assert count, "nowhere to put what comes"
        buffer[:count] = data[:count]
        peer.buffer_updated(count)
        data = data[count:]
        turn += 1


def note(body):
    return wire.encode([NOTE, 0, "take", body])


@given(
    bodies=st.lists(st.integers(0, 90_000), max_size=12),
    sizes=st.lists(st.integers(1, 300_000), min_size=1, max_size=5),
)
def test_frames_arrive_whole_however_they_are_cut(bodies, sizes):
    async def run():
        got = []
        peer, _ = connected({"take": wire.Direct(lambda _peer, raw: got.append(msgspec.msgpack.decode(raw)))})
        sent = [bytes([index % 256]) * size for index, size in enumerate(bodies)]
        data = b"".join(map(note, sent))
        feed(peer, data, sizes if len(data) < 2_000 else [max(size, 500) for size in sizes])
        assert got == sent

    asyncio.run(run())


async def test_memory_of_a_large_frame_is_given_back():
    got = []
    peer, _ = connected({"take": wire.Direct(lambda _peer, raw: got.append(len(raw)))})
    feed(peer, note(b"x" * 5_000_000), [64 * 1024])
    assert got == [5_000_005]
    assert len(peer.get_buffer(-1)) <= 256 * 1024


async def test_handler_sees_no_frame_behind_the_one_that_closed_the_connection():
    got = []

    def take(peer, raw):
        got.append(msgspec.msgpack.decode(raw))
        peer.connection_lost(None)

    peer, transport = connected({"take": wire.Direct(take)})
    feed(peer, note("first") + note("second"), [1000])
    assert got == ["first"]
    assert transport.closed


@pytest.mark.parametrize("data", [struct.pack(">I", wire.MAX_FRAME_BYTES + 1), b"\0\0\0\1\xc1"])
async def test_what_is_no_frame_ends_the_connection(data, caplog):
    peer, transport = connected({})
    feed(peer, data, [1])
    assert peer.closed.is_set()
    assert transport.closed
    assert "broke its protocol" in caplog.text


async def test_drain_waits_for_room_and_for_nothing_once_the_connection_has_ended():
    peer, _ = connected({})
    await asyncio.wait_for(peer.drain(), 1)
    peer.pause_writing()
    waiting = asyncio.create_task(peer.drain())
    await asyncio.sleep(0)
    assert not waiting.done()
    peer.resume_writing()
    await asyncio.wait_for(waiting, 1)

    peer.pause_writing()
    peer.connection_lost(None)
    await asyncio.wait_for(peer.drain(), 1)


async def test_call_of_a_connection_that_ends_fails():
    peer, _ = connected({})
    call = asyncio.create_task(peer.call("anything"))
    await asyncio.sleep(0)
    peer.connection_lost(None)
    with pytest.raises(ConnectionError, match="test is gone"):
        await call


async def test_notes_of_one_kind_arrive_one_by_one():
    got = []
    sender, transport = connected({})
    receiver, _ = connected({"take": wire.Direct(lambda _peer, raw: got.append(msgspec.msgpack.decode(raw)))})
    sender.note("take", 1)
    sender.notes("take", [2, 3])
    feed(receiver, bytes(transport.written), [7])
    assert got == [1, 2, 3]

    before = bytes(transport.written)
    sender.connection_lost(None)
    sender.notes("take", [4])
    assert transport.written == before
