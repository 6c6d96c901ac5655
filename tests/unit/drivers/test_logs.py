import asyncio
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.clock import SystemClock
from pelton.drivers import logs
from pelton.drivers.logs import MAX_LINE_BYTES, SpoolFollower, SpoolReader, follow_logs, read_logs
from pelton.errors import DeliveryError

NS = 1_767_323_045_123_456_789  # 2026-01-02T03:04:05.123456789Z


def printed(text, *, stream="o", invocation="-", at=NS):
    return f"\x1e{at} {stream} {invocation}\t{text}\n".encode()


def mark(invocation, start, end):
    return f"\x1eM {invocation} {start} {end}\n".encode()


def lines_of(data, *, chunk=None, now=10.0):
    """Feed bytes, then return what is ready at once and what is ready later."""
    reader = SpoolReader()
    size = chunk or len(data) or 1
    for first in range(0, len(data), size):
        reader.feed(data[first : first + size], now=0.0, time_ns=NS)
    return reader.take(now=0.0), reader.take(now=now)


def told(lines):
    return [(line.text, line.stream, line.invocation) for line in lines]


def test_python_line_is_ready_at_once_with_its_invocation():
    at_once, _ = lines_of(printed("hello", invocation="i-1") + printed("oops", stream="e"))

    assert told(at_once) == [("hello", "stdout", "i-1"), ("oops", "stderr", "")]
    assert at_once[0].time_ns == NS


def test_raw_line_waits_a_second_for_its_mark_and_what_follows_waits_with_it():
    at_once, later = lines_of(b"raw\n" + printed("next"))

    assert told(at_once) == []
    assert told(later) == [("raw", "stdout", ""), ("next", "stdout", "")]


def test_mark_gives_raw_lines_their_invocation_and_ends_the_wait():
    data = b"before\n" + b"mine\nmine too\n" + mark("i-1", 7, 21) + b"after\n"
    reader = SpoolReader()
    reader.feed(b"before\n", now=-5.0, time_ns=NS)
    reader.feed(data[7:], now=0.0, time_ns=NS)

    assert told(reader.take(now=0.0)) == [
        ("before", "stdout", ""),
        ("mine", "stdout", "i-1"),
        ("mine too", "stdout", "i-1"),
    ]


def test_raw_text_before_a_record_in_one_line_is_a_line_of_its_own():
    _, later = lines_of(b"no end" + printed("hello", invocation="i"))

    assert told(later) == [("no end", "stdout", ""), ("hello", "stdout", "i")]


def test_offsets_cover_the_spool_without_gaps():
    data = b"raw\n" + printed("a") + b"half" + printed("b") + b"\n"
    _, later = lines_of(data)

    assert [line.start for line in later] == [0, *(line.end for line in later[:-1])]
    assert later[-1].end == len(data)


def test_overlong_line_is_cut_and_the_next_one_is_whole():
    data = b"x" * (3 * MAX_LINE_BYTES) + b"\nnext\n"
    _, later = lines_of(data, chunk=256 * 1024)

    assert [line.text[-10:] for line in later] == ["[line cut]", "next"]
    assert len(later[0].text) == MAX_LINE_BYTES + len(" [line cut]")


def test_bytes_that_are_no_text_are_replaced():
    _, later = lines_of(b"\xff\xfe\n")

    assert later[0].text == "\ufffd\ufffd"


@given(
    st.lists(
        st.one_of(st.binary(max_size=30), st.text(max_size=20).map(lambda text: printed(text))), max_size=8
    ),
    st.integers(1, 40),
)
def test_chunks_do_not_change_what_is_read(pieces, chunk):
    data = b"".join(pieces) + b"\n"
    _, whole = lines_of(data)
    first, rest = lines_of(data, chunk=chunk)
    at_once, _ = lines_of(data)

    assert told(first + rest) == told(at_once + whole)


def test_record_has_the_shape_of_fluent_bit():
    (line,), _ = lines_of(printed("GET /x HTTP 404 ", invocation="i-1"))
    found = logs.record(line, namespace="demo-project", name="shop", instance="shop-0123456789-abcde")

    assert list(found) == ["@timestamp", "time", "log", "stream", "kubernetes", "invocation_id"]
    assert found["@timestamp"] == pytest.approx(1767323045.123457)
    assert found["time"] == "2026-01-02T03:04:05.123456789Z"
    assert found["log"] == "GET /x HTTP 404 \n"
    assert found["kubernetes"]["pod_name"] == "shop-0123456789-abcde"
    assert found["kubernetes"]["container_image"] == "shop:shop-0123456789"
    assert 'namespace_name":"demo-project"' in json.dumps(found, separators=(",", ":"))


class Bus:
    def __init__(self):
        self.found = {}
        self.order = []
        self.down = False

    async def publish(self, subject, data, message_id):
        await asyncio.sleep(0)
        if self.down:
            raise DeliveryError("away")
        if message_id not in self.found:
            self.order.append(json.loads(data)["log"].strip())
        self.found[message_id] = (subject, data)


@pytest.fixture
def bus():
    return Bus()


@pytest.fixture
def spool(tmp_path):
    directory = tmp_path / "spool" / "ns" / "fn"
    directory.mkdir(parents=True)
    return directory / "fn-1-abcde.log"


@pytest.fixture
def follower(tmp_path, bus):
    def build(**options):
        options.setdefault("is_gone", lambda _path: False)
        return SpoolFollower(tmp_path / "spool", tmp_path / "logs", bus.publish, SystemClock(), **options)

    return build


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_lines_reach_the_bus_and_the_file(tmp_path, spool, bus, follower):
    first = printed("one", invocation="i-1")
    spool.write_bytes(first + printed("two"))
    async with follower():
        await until(lambda: len(bus.found) == 2)
        with spool.open("ab") as handle:
            handle.write(printed("three"))
        await until(lambda: len(bus.found) == 3)

    assert bus.order == ["one", "two", "three"]
    assert {subject for subject, _ in bus.found.values()} == {"logs.ns.fn"}
    assert list(bus.found)[:2] == ["fn-1-abcde:0", f"fn-1-abcde:{len(first)}"]
    assert [found["log"] for found in read_logs(tmp_path / "logs", "ns", "fn")] == [
        "one\n",
        "two\n",
        "three\n",
    ]
    assert (tmp_path / "logs" / "ns" / "fn" / "current.jsonl").read_bytes().splitlines()[0] == next(
        data for _, data in bus.found.values()
    )


async def test_new_follower_goes_on_where_the_last_one_was_confirmed(spool, bus, follower):
    spool.write_bytes(printed("one"))
    async with follower():
        await until(lambda: spool.with_suffix(".offset").exists())
    bus.down = True
    with spool.open("ab") as handle:
        handle.write(printed("two"))
    async with follower():
        await asyncio.sleep(0.05)
    bus.down = False
    async with follower():
        await until(lambda: len(bus.found) == 2)

    assert bus.order == ["one", "two"]


async def test_bus_that_is_away_stops_the_reading_and_loses_nothing(spool, bus, follower, monkeypatch):
    monkeypatch.setattr(logs, "_AGAIN_S", 0.01)
    bus.down = True
    spool.write_bytes(b"".join(printed(str(number)) for number in range(1000)))
    async with follower():
        await asyncio.sleep(0.05)
        bus.down = False
        await until(lambda: len(bus.found) == 1000)

    assert bus.order == [str(number) for number in range(1000)]


async def test_spool_of_a_gone_instance_is_removed_when_read(spool, bus, follower, monkeypatch):
    monkeypatch.setattr(logs, "_GONE_S", 0.05)
    spool.write_bytes(printed("one") + b"no line end")
    async with follower(is_gone=lambda _path: True):
        await until(lambda: not spool.exists())

    assert bus.order == ["one", "no line end"]
    assert not spool.with_suffix(".offset").exists()


async def test_spool_that_is_open_for_writing_is_not_gone(spool, bus, follower, monkeypatch):
    monkeypatch.setattr(logs, "_GONE_S", 0.0)
    with spool.open("ab") as handle:
        handle.write(printed("one"))
        handle.flush()
        assert not logs._unwritten(spool)
        async with follower(is_gone=logs._unwritten):
            await until(lambda: len(bus.found) == 1)
            handle.write(printed("two"))
            handle.flush()
            await until(lambda: len(bus.found) == 2)
    assert bus.order == ["one", "two"]


def test_hole_is_punched_behind_the_position(tmp_path):
    path = tmp_path / "spool.log"
    path.write_bytes(os.urandom(4 * 1024 * 1024))
    before = path.stat()
    logs._punch(path, 3 * 1024 * 1024)
    after = path.stat()

    assert after.st_size == before.st_size
    if after.st_blocks == before.st_blocks:
        pytest.skip("this file system has no holes")
    assert path.read_bytes()[: 1024 * 1024] == bytes(1024 * 1024)


def test_files_rotate_and_are_read_oldest_first(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "_FILE_BYTES", 40)
    directory = tmp_path / "ns" / "fn"
    for number in range(30):
        logs._append(directory, [json.dumps({"@timestamp": number, "log": str(number)}).encode()])

    names = sorted(path.name for path in directory.iterdir())
    assert names == ["1.jsonl", "2.jsonl", "3.jsonl", "4.jsonl", "current.jsonl"]
    found = [record["@timestamp"] for record in read_logs(tmp_path, "ns", "fn")]
    assert found == list(range(found[0], 30))
    assert [record["@timestamp"] for record in read_logs(tmp_path, "ns", "fn", since=28)] == [28, 29]


def test_torn_line_of_a_killed_writer_hides_only_itself(tmp_path):
    directory = tmp_path / "ns" / "fn"
    logs._append(directory, [b'{"log":"1"}'])
    with (directory / "current.jsonl").open("ab") as handle:
        handle.write(b'{"log":"to')
    logs._append(directory, [b'{"log":"2"}'])

    assert [record["log"] for record in read_logs(tmp_path, "ns", "fn")] == ["1", "2"]


async def test_follow_goes_on_through_a_rotation(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "_FILE_BYTES", 40)
    directory = tmp_path / "ns" / "fn"
    logs._append(directory, [b'{"n":0}'])
    found = []

    async def follow():
        async for record in follow_logs(tmp_path, "ns", "fn", SystemClock()):
            found.append(record["n"])

    task = asyncio.create_task(follow())
    for number in range(1, 20):
        await until(lambda wanted=number: len(found) == wanted)
        logs._append(directory, [json.dumps({"n": number}).encode()])
    await until(lambda: len(found) == 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert found == list(range(20))


async def test_follow_that_begins_before_the_first_record_yields_it(tmp_path):
    found = []

    async def follow():
        async for record in follow_logs(tmp_path, "ns", "fn", SystemClock()):
            found.append(record["n"])

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    logs._append(tmp_path / "ns" / "fn", [b'{"n":0}', b'{"n":1}'])
    await until(lambda: len(found) == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert found == [0, 1]


async def test_read_of_a_function_without_logs_is_empty(tmp_path):
    assert list(read_logs(tmp_path, "ns", "nobody")) == []
