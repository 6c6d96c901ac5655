import re

import pytest
from confluent_kafka import KafkaError

from pelton.drivers.kafka.records import (
    headers_of,
    key_of,
    message_of,
    partition_of,
    plain_error,
    topic_pattern,
)
from pelton.ports import Message


def test_headers_are_the_messages_own_then_metadata_that_asks_for_nothing():
    message = Message(
        topic="t",
        data=b"",
        headers={"a": "1", "__offset": "7"},
        metadata={"partitionKey": "k", "team": "shop", "a": "2", "secret": "x"},
    )

    assert headers_of(message, exclude=re.compile("^secret$")) == [("a", b"1"), ("team", b"shop")]


class _Record:
    """What the client library gives, as far as it is asked."""

    def __init__(self, *, key=None, headers=()):
        self._key, self._headers = key, list(headers)

    def key(self):
        return self._key

    def headers(self):
        return self._headers

    def value(self):
        return b"x"

    def topic(self):
        return "t"

    def partition(self):
        return 0

    def offset(self):
        return 7

    def timestamp(self):
        return (1, 5)


def record_with(**parts):
    return _Record(**parts)


def test_what_is_read_is_escaped_but_for_what_says_the_content():
    record = record_with(
        key="ä b".encode(), headers=[("a", "ä\n".encode()), ("Content-Type", b"a/b"), ("ce_source", b"a/b")]
    )

    headers = message_of(record, escape=True).headers

    assert headers["__key"] == "%C3%A4+b"
    assert headers["a"] == "%C3%A4%0A"
    assert (headers["Content-Type"], headers["ce_source"]) == ("a/b", "a/b")
    assert message_of(record).headers["a"] == "ä\n"


def test_headers_that_are_excluded_are_not_read():
    record = record_with(headers=[("internal-1", b"x"), ("a", b"y")])

    headers = message_of(record, exclude=re.compile("^internal-")).headers

    assert headers["a"] == "y"
    assert "internal-1" not in headers


def test_key_and_partition_are_found_in_any_case():
    assert key_of({"PartitionKey": "ä"}) == "ä".encode()
    assert key_of({"__key": "k"}) == b"k"
    assert key_of({}) is None
    assert partition_of({"partitionnumber": "3"}) == 3
    assert partition_of({}) is None
    with pytest.raises(ValueError, match="invalid"):
        partition_of({"partitionNumber": "x"})


@pytest.mark.parametrize(
    ("topic", "yes", "no"),
    [
        ("logs.*", ["logs.a"], ["logs", "logs.a.b", "xlogs.a"]),
        ("logs.>", ["logs.a", "logs.a.b"], ["logs"]),
        ("a.*.c", ["a.b.c"], ["a.b.x", "aab.c"]),
    ],
)
def test_family_of_topics_is_a_regular_expression(topic, yes, no):
    pattern = topic_pattern(topic)

    assert all(re.search(pattern, name) for name in yes)
    assert not any(re.search(pattern, name) for name in no)
    assert topic_pattern("plain.topic-1") == "plain.topic-1"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("b:1/2: Connect failed (after 0ms in state CONNECT)", "b:1/2: Connect failed"),
        ("b:1/2: down (after 1ms in state UP, 3 identical error(s) suppressed)", "b:1/2: down"),
        ("1/1 brokers are down", "1/1 brokers are down"),
    ],
)
def test_repetitions_of_an_error_read_alike(said, told):
    assert plain_error(KafkaError(KafkaError._TRANSPORT, said)) == told
