import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.cel.regex import compile_regex
from pelton.drivers.log_intake.records import (
    PARSERS,
    Assembler,
    Multiline,
    encode,
    from_shipper,
    kubernetes_of,
    tag_of,
)

ID = "0123456789abcdef" * 4
POD = f"/var/log/containers/wordpress-v1-6f9c4-x7k2p_demo-project_wordpress-{ID}.log"
NOW_NS = 1_767_323_045_123_456_789


def read(text, *, path="/var/log/app.log", finish=True, **options):
    data = text if isinstance(text, bytes) else text.encode()
    assembler = Assembler(path, **options)
    whole = assembler.feed(data, now=0.0, time_ns=NOW_NS)
    if finish:
        whole += assembler.finish(now=0.0, time_ns=NOW_NS)
    return [each.record for each in whole]


def logs(text, **options):
    return [record["log"] for record in read(text, **options)]


def test_cri_line_becomes_the_record_of_fluent_bit():
    line = '2026-01-02T03:04:05.123456789Z stdout F 10.0.0.1 - "GET /a HTTP/1.1" 404 7\n'

    (record,) = read(line, path=POD)

    assert next(iter(record)) == "@timestamp"
    assert record == {
        "@timestamp": 1767323045.123457,
        "time": "2026-01-02T03:04:05.123456789Z",
        "log": '10.0.0.1 - "GET /a HTTP/1.1" 404 7\n',
        "stream": "stdout",
        "logtag": "F",
        "kubernetes": {
            "pod_name": "wordpress-v1-6f9c4-x7k2p",
            "namespace_name": "demo-project",
            "container_name": "wordpress",
            "docker_id": ID,
        },
    }
    assert b'"namespace_name":"demo-project"' in encode(record)


def test_docker_line_becomes_the_same_record():
    line = json.dumps({"log": "x\n", "stream": "stderr", "time": "2026-01-02T03:04:05.5Z"}) + "\n"

    (record,) = read(line, path=POD)

    assert (record["log"], record["stream"], record["time"], record["@timestamp"]) == (
        "x\n",
        "stderr",
        "2026-01-02T03:04:05.5Z",
        1767323045.5,
    )


def test_plain_line_has_the_time_of_reading_and_its_file():
    assert read("hello\r\n") == [
        {
            "@timestamp": 1767323045.123457,
            "time": "2026-01-02T03:04:05.123456789Z",
            "log": "hello\n",
            "path": "/var/log/app.log",
        }
    ]


def test_time_of_another_zone_is_told_in_utc():
    (record,) = read("2026-01-02T04:04:05.25+01:00 stdout F x\n")

    assert (record["time"], record["@timestamp"]) == ("2026-01-02T03:04:05.25Z", 1767323045.25)


@pytest.mark.parametrize(
    "lines",
    [
        "2026-01-02T03:04:05Z stdout P one \n2026-01-02T03:04:05Z stderr F other\n"
        "2026-01-02T03:04:06Z stdout P two \n2026-01-02T03:04:07Z stdout F three\n",
        '{"log":"one ","stream":"stdout","time":"2026-01-02T03:04:05Z"}\n'
        '{"log":"other\\n","stream":"stderr","time":"2026-01-02T03:04:05Z"}\n'
        '{"log":"two ","stream":"stdout","time":"2026-01-02T03:04:06Z"}\n'
        '{"log":"three\\n","stream":"stdout","time":"2026-01-02T03:04:07Z"}\n',
    ],
    ids=["cri", "docker"],
)
def test_partial_lines_are_joined_per_stream_with_the_time_of_the_first(lines):
    other, joined = read(lines)

    assert other["log"] == "other\n"
    assert (joined["log"], joined["time"]) == ("one two three\n", "2026-01-02T03:04:05Z")


def test_partial_line_without_an_end_comes_after_a_while():
    assembler = Assembler(POD, flush_s=1.0)
    line = b"2026-01-02T03:04:05Z stdout P one\n"

    assert assembler.feed(line, now=0.0, time_ns=0) == []
    assert assembler.from_here == 0
    assert assembler.ripe(now=0.9, time_ns=0) == []
    assert [each.record["log"] for each in assembler.ripe(now=1.0, time_ns=0)] == ["one\n"]
    assert assembler.from_here == len(line)


PYTHON = """before
Traceback (most recent call last):
  File "a.py", line 1, in <module>
    boom()
ValueError: no
after
"""
JAVA = """before
Exception in thread "main" java.lang.Error: no
\tat com.example.A.b(A.java:3)
Caused by: java.io.IOException
\t... 3 more
after
"""
GO = """before
panic: no

goroutine 1 [running]:
main.main()
\t/a/main.go:3 +0x1
after
"""


@pytest.mark.parametrize(("name", "text", "lines"), [("python", PYTHON, 4), ("java", JAVA, 4), ("go", GO, 5)])
def test_traces_of_languages_are_one_record(name, text, lines):
    found = logs(text, rules=(PARSERS[name],))

    assert [found[0], found[-1]] == ["before\n", "after\n"]
    assert len(found) == 3
    assert found[1].count("\n") == lines


def test_records_begin_where_the_users_expression_matches():
    rule = Multiline(start=compile_regex(r"^\d{4}-"))

    assert logs("2026-a\n  b\nc\n2026-d\n", rules=(rule,)) == ["2026-a\n  b\nc\n", "2026-d\n"]


def test_group_is_bounded():
    rule = Multiline(start=compile_regex(r"^start"))
    text = "start\n" + "x\n" * 3000

    assert max(log.count("\n") for log in logs(text, rules=(rule,))) <= 1001


def test_group_of_several_lines_waits_for_more_and_is_read_again_until_then():
    assembler = Assembler("/a.log", rules=(PARSERS["python"],), flush_s=1.0)
    whole = assembler.feed(PYTHON.encode()[:60], now=0.0, time_ns=0)

    assert [each.record["log"] for each in whole] == ["before\n"]
    assert assembler.from_here == len("before\n")


@pytest.mark.parametrize(
    ("line", "log"),
    [
        (b"\xff\xfe\n", "��\n"),
        (b"\n", "\n"),
        (b"2026-01-02T03:04:05Z stdout\n", "2026-01-02T03:04:05Z stdout\n"),
        (b'{"log": 3, "time": ""}\n', '{"log": 3, "time": ""}\n'),
        (b'{"log": "x\n', '{"log": "x\n'),
        (b"2026-99-99T99:99:99Z stdout F x\n", "x\n"),
    ],
    ids=["utf8", "empty", "half-cri", "other-json", "torn-json", "no-date"],
)
def test_line_that_is_not_in_the_format_is_a_record_all_the_same(line, log):
    assert logs(line) == [log]


def test_overlong_line_is_cut_and_the_next_one_is_whole():
    assembler = Assembler("/a.log", longest=100)
    whole = []
    for _ in range(50):
        whole += assembler.feed(b"x" * 1000, now=0.0, time_ns=0)
    whole += assembler.feed(b"\nnext\n", now=0.0, time_ns=0)

    assert [each.record["log"] for each in whole] == ["x" * 100 + " [line cut]\n", "next\n"]
    assert assembler.cut == 1


@given(
    st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=20)),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_pieces_of_any_size_give_the_same_records(lines, sizes):
    data = "".join(line + "\n" for line in lines).encode()
    assembler, whole, at, turn = Assembler("/a.log", form="text"), [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        whole += assembler.feed(data[at : at + size], now=0.0, time_ns=0)
        at, turn = at + size, turn + 1

    assert [each.record["log"] for each in whole] == [line + "\n" for line in lines]
    assert assembler.from_here == assembler.position == len(data)
    for each, line in zip(whole, lines, strict=True):
        assert data[each.start :].startswith(line.encode() + b"\n")


def test_names_of_files_say_what_runs():
    assert kubernetes_of(f"a.b-0_ns_my-app-{ID}.log")["container_name"] == "my-app"
    assert kubernetes_of("app.log") == {}
    assert tag_of("/var/log/containers/a.log") == "kube.var.log.containers.a.log"


def test_shippers_record_keeps_its_keys_and_learns_from_its_tag():
    tag = f"kube.var.log.containers.p_ns_c-{ID}.log"

    record = from_shipper({"log": b"x\n", 3: "y"}, seconds=1.5, tag=tag)

    assert list(record) == ["@timestamp", "log", "3", "kubernetes"]
    assert (record["log"], record["kubernetes"]["pod_name"]) == ("x\n", "p")


def test_bytes_inside_of_a_shippers_record_are_text_too():
    record = from_shipper({b"log": "x", "kubernetes": {b"labels": [b"a", 1], 2: b"p"}}, seconds=None)

    assert record == {"log": "x", "kubernetes": {"labels": ["a", 1], "2": "p"}}


def test_text_that_is_no_utf8_is_made_readable():
    text = b"a\xff".decode(errors="surrogateescape")

    assert encode({"log": text, "deep": [{"x": text}]}) == '{"log":"a�","deep":[{"x":"a�"}]}'.encode()
