import msgpack as reference
import pytest

from pelton.drivers.log_intake.http import read_body

A, B = {"log": "a"}, {"log": "b"}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'[{"date":1.5,"log":"a"},{"date":2,"log":"b"}]', "application/json"),
        (b'{"date":1.5,"log":"a"}{"date":2,"log":"b"}', "application/json; charset=utf-8"),
        (b'{"date":1.5,"log":"a"}\n{"date":2,"log":"b"}\n', "application/x-ndjson"),
        (reference.packb([[1.5, A], [2, B]]), "application/msgpack"),
        (reference.packb([[[1.5, {}], A], [[2, {}], B]]), "application/msgpack"),
        (reference.packb([1.5, A]) + reference.packb([2, B]), "application/msgpack"),
    ],
    ids=["array", "stream", "lines", "msgpack", "metadata", "entries"],
)
def test_every_layout_says_the_same(body, kind):
    assert read_body(body, kind, date_key="date") == [(1.5, A), (2.0, B)]


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("1767323045.25", 1767323045.25),
        ("1767323045", 1767323045.0),
        ("1767323045250", 1767323045.25),
        ('"2026-01-02T03:04:05.250000Z"', 1767323045.25),
        ('"2026-01-02 03:04:05.250000"', 1767323045.25),
    ],
    ids=["double", "epoch", "epoch_ms", "iso8601", "java_sql_timestamp"],
)
def test_every_form_of_date_is_read(date, seconds):
    body = f'[{{"when":{date},"log":"a"}}]'.encode()

    assert read_body(body, "application/json", date_key="when") == [(seconds, A)]


@pytest.mark.parametrize(
    ("body", "record"),
    [
        (b'[{"date":"yesterday"}]', {"date": "yesterday"}),
        (b'[{"@timestamp":3,"date":4}]', {"@timestamp": 3, "date": 4}),
        (b'["text"]', {"log": "text"}),
        (b"[7]", {"log": "7"}),
        (b'[{"log":"\xff"}]', {"log": "�"}),
    ],
    ids=["no-date", "has-time", "text", "number", "utf8"],
)
def test_record_that_says_no_date_is_kept_as_it_is(body, record):
    assert read_body(body, "application/json", date_key="date") == [(None, record)]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'[{"a":1}', "application/json"),
        (b"text", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"\xc1", "application/msgpack"),
        (reference.packb(["text", 3]), "application/msgpack"),
    ],
    ids=["torn", "text", "deep", "msgpack", "no-entry"],
)
def test_what_is_no_body_is_refused(body, kind):
    with pytest.raises(ValueError):
        read_body(body, kind, date_key="date")


def test_date_with_more_digits_than_any_time_is_no_date():
    number = int("1" * 500)

    found = read_body(b'{"date":%d,"log":"a"}' % number, "application/json", date_key="date")

    assert found == [(None, {"date": number, **A})]
