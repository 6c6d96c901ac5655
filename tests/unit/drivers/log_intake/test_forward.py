import gzip

import msgpack as reference
import pytest

from pelton.drivers.log_intake import forward
from pelton.drivers.log_intake.forward import read_message
from pelton.drivers.log_intake.msgpack import BrokenError

ENTRIES = [[1767323045, {"log": "a\n"}], [1767323046.5, {"log": "b\n"}]]
PACKED = b"".join(reference.packb(entry) for entry in ENTRIES)
READ = ((1767323045.0, {"log": "a\n"}), (1767323046.5, {"log": "b\n"}))


@pytest.mark.parametrize(
    ("message", "entries"),
    [
        (["t", 1767323045, {"log": "a\n"}], READ[:1]),
        (["t", 1767323045, {"log": "a\n"}, {"chunk": "c"}], READ[:1]),
        (["t", ENTRIES], READ),
        (["t", ENTRIES, {"chunk": "c", "size": 2}], READ),
        (["t", [[[entry[0], {}], entry[1]] for entry in ENTRIES], {"chunk": "c"}], READ),
        (["t", PACKED, {"chunk": "c"}], READ),
        (["t", PACKED.decode("utf-8", "surrogateescape"), {"chunk": "c"}], READ),
        (["t", gzip.compress(PACKED), {"compressed": "gzip", "chunk": "c"}], READ),
        (["t", b"".join(map(gzip.compress, (PACKED, PACKED))), {"compressed": "gzip"}], READ * 2),
        (["t", [], {"chunk": "c"}], ()),
        (["t", ENTRIES, {"fluent_signal": 1, "chunk": "c"}], ()),
    ],
    ids=[
        "message",
        "message-chunk",
        "forward",
        "forward-chunk",
        "metadata",
        "packed",
        "packed-text",
        "compressed",
        "members",
        "empty",
        "metrics",
    ],
)
def test_every_mode_says_the_same(message, entries):
    sent = read_message(message, now=1.0)

    assert (sent.tag, sent.entries) == ("t", entries)
    assert sent.chunk == ("c" if "chunk" in str(message[-1]) else "")


@pytest.mark.parametrize(
    "message",
    [
        {},
        ["t"],
        [3, []],
        ["t", 3],
        ["t", 3, "x"],
        ["t", [3]],
        ["t", [[None, {}]]],
        ["t", b"\xc1"],
        ["t", b"x", {"compressed": "gzip"}],
        ["t", b"x", {"compressed": "zstd"}],
    ],
)
def test_what_is_no_message_is_refused(message):
    with pytest.raises(BrokenError):
        read_message(message, now=1.0)


def test_bomb_is_refused_before_it_is_inflated(monkeypatch):
    monkeypatch.setattr(forward, "LARGEST", 100_000)
    bomb = gzip.compress(b"\x00" * 1_000_000)

    with pytest.raises(BrokenError, match="inflates"):
        read_message(["t", bomb, {"compressed": "gzip"}], now=1.0)
