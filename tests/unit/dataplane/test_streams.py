"""The spool format: lines, halves of lines, marks, and a file that takes nothing."""

from __future__ import annotations

import os
import re
import sys
import threading
from contextvars import copy_context

import pytest

from pelton.dataplane.streams import INVOCATION, LINE_LIMIT_BYTES, Streams
from pelton.model.invocation import Invocation


class Spool:
    def __init__(self, path):
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self.streams = Streams(self.fd)

    def lines(self):
        """(stream, invocation, text) of each Python line; raw lines and marks as they are."""
        found = []
        for line in self.path.read_bytes().split(b"\n")[:-1]:
            match = re.fullmatch(rb"\x1e\d{19} ([oe]) (\S+)\t(.*)", line, re.DOTALL)
            found.append(tuple(part.decode() for part in match.groups()) if match else line.decode())
        return found


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "i.log")
    yield spool
    os.close(spool.fd)


def run_as(invocation_id, call):
    def inner():
        INVOCATION.set(Invocation(invocation_id, "GET", b"/", []))
        call()

    copy_context().run(inner)


def test_print_becomes_one_line_of_its_invocation(spool):
    run_as("a1", lambda: print("hello", "wörld", file=spool.streams.stdout))
    print("nobody's", file=spool.streams.stderr)

    assert spool.lines() == [("o", "a1", "hello wörld"), ("e", "-", "nobody's")]


def test_halves_of_lines_join_per_invocation_and_stream(spool):
    out, err = spool.streams.stdout, spool.streams.stderr
    run_as("a", lambda: out.write("a1 "))
    run_as("b", lambda: out.write("b1 "))
    run_as("a", lambda: err.write("error "))
    run_as("b", lambda: out.write("b2\nb3"))
    run_as("a", lambda: out.write("a2\n"))
    spool.streams.leave("a", 0)
    spool.streams.flush_partial()

    assert spool.lines() == [("o", "b", "b1 b2"), ("o", "a", "a1 a2"), ("e", "a", "error "), ("o", "b", "b3")]


def test_each_line_of_a_text_is_a_line(spool):
    spool.streams.stdout.write("one\n\nthree\n")

    assert spool.lines() == [("o", "-", "one"), ("o", "-", ""), ("o", "-", "three")]


def test_buffer_takes_bytes(spool):
    spool.streams.stdout.buffer.write(b"\xff raw bytes\n")
    spool.streams.stdout.buffer.flush()

    assert b"\t\xff raw bytes\n" in spool.path.read_bytes()


def test_surrogates_are_written_as_escapes(spool):
    spool.streams.stdout.write("\udc80\n")

    assert spool.lines() == [("o", "-", "\\udc80")]


def test_endless_line_is_cut(spool):
    spool.streams.stdout.write("x" * (LINE_LIMIT_BYTES + 10))
    spool.streams.stdout.write("\n")

    assert [len(text) for _s, _i, text in spool.lines()] == [LINE_LIMIT_BYTES, 10, 0]


def test_threads_without_invocation_do_not_join_their_halves(spool):
    out = spool.streams.stdout
    out.write("main ")
    thread = threading.Thread(target=lambda: out.write("thread\n"))
    thread.start()
    thread.join()
    out.write("done\n")

    assert spool.lines() == [("o", "-", "thread"), ("o", "-", "main done")]


def test_stream_looks_like_a_text_file_that_is_no_terminal(spool):
    out = spool.streams.stdout
    out.close()
    out.reconfigure(line_buffering=False)
    out.writelines(["a\n", "b\n"])
    out.flush()

    assert (out.isatty(), out.fileno(), out.encoding, out.writable(), out.readable()) == (
        False,
        spool.fd,
        "utf-8",
        True,
        False,
    )
    assert not out.closed
    assert [text for _s, _i, text in spool.lines()] == ["a", "b"]
    with pytest.raises(TypeError):
        out.write(b"bytes")


def test_install_replaces_and_uninstall_restores(spool):
    before = sys.stdout, sys.stderr
    spool.streams.install()
    spool.streams.install()
    print("through sys")
    spool.streams.uninstall()

    assert (sys.stdout, sys.stderr) == before
    assert spool.lines() == [("o", "-", "through sys")]


def test_raw_output_of_a_lonely_invocation_is_marked(spool):
    streams = spool.streams
    os.write(spool.fd, b"at import\n")
    streams.enter(1_000_000)
    run_as("a", lambda: print("line", file=streams.stdout))
    os.write(spool.fd, b"raw\n")
    streams.leave("a", 2_000_000)

    mark = spool.lines()[-1]
    _sign, label, start, end = mark.split()
    data = spool.path.read_bytes()
    assert label == "a"
    assert b"raw\n" in data[int(start) : int(end)]
    assert b"at import" not in data[int(start) : int(end)]


def test_no_mark_without_raw_output(spool):
    spool.streams.enter(1_000_000)
    run_as("a", lambda: print("line", file=spool.streams.stdout))
    spool.streams.leave("a", 2_000_000)

    assert spool.lines() == [("o", "a", "line")]


def test_no_mark_when_another_invocation_ran_meanwhile(spool):
    spool.streams.enter(1_000_000)
    spool.streams.disturb()
    os.write(spool.fd, b"raw\n")
    spool.streams.leave("b", 2_000_000)
    spool.streams.leave("a", 2_000_000)

    assert spool.lines() == ["raw"]


def test_raw_output_between_two_invocations_is_nobodys(spool):
    spool.streams.enter(1_000_000)
    spool.streams.leave("a", 2_000_000)
    os.write(spool.fd, b"background\n")
    spool.streams.enter(9_000_000)
    spool.streams.leave("b", 9_100_000)

    assert spool.lines() == ["background"]


def test_full_disk_drops_and_counts():
    fd = os.open("/dev/full", os.O_WRONLY)
    streams = Streams(fd)
    print("lost", file=streams.stdout)
    streams.enter(1)
    streams.leave("a", 2)
    os.close(fd)
    print("lost, too", file=streams.stdout)

    assert streams.dropped == 2


def test_output_to_a_pipe_works_without_marks():
    read_end, write_end = os.pipe()
    streams = Streams(write_end)
    streams.enter(1)
    print("hello", file=streams.stdout)
    streams.leave("a", 2)
    os.close(write_end)

    assert os.read(read_end, 1000).endswith(b"\thello\n")
    os.close(read_end)


def test_under_load_without_raw_output_the_file_is_looked_at_once_per_gap(spool):
    """Raw output that begins in between is kept, and followed closely from the next look on."""
    streams = spool.streams
    now = 1_000_000
    for _ in range(300):
        streams.enter(now)
        streams.leave("calm", now)
    streams.enter(now + 1000)
    os.write(spool.fd, b"first\n")
    streams.leave("a", now + 2000)
    streams.enter(now + 1_000_000)
    os.write(spool.fd, b"second\n")
    streams.leave("b", now + 1_001_000)
    streams.enter(now + 1_002_000)
    os.write(spool.fd, b"third\n")
    streams.leave("c", now + 1_003_000)

    marked = {line.split()[1]: line.split()[2:] for line in spool.lines() if line.startswith("\x1eM")}
    data = spool.path.read_bytes()
    assert list(marked) == ["b", "c"]
    assert b"second" in data[int(marked["b"][0]) : int(marked["b"][1])]
    assert b"first" not in data[int(marked["b"][0]) : int(marked["b"][1])]
    assert b"third" in data[int(marked["c"][0]) : int(marked["c"][1])]
