r"""Kafka records as messages and back: headers, keys, null values, what is not text.

Pure apart from the client library's record type. A header value or key that is not UTF-8 is shown with its
bytes as `\xff`; a null value becomes an empty payload marked by the header `__tombstone`.
Source: `dapr-components` contract, section 2 (Kafka messages); CloudEvents 1.0.2, Kafka protocol binding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, cast
from urllib.parse import quote_plus

from confluent_kafka import KafkaError
from confluent_kafka import Message as Record

from pelton.model import cloudevent
from pelton.ports import Message

__all__ = [
    "OWN_HEADERS",
    "headers_of",
    "key_of",
    "message_of",
    "partition_of",
    "plain_error",
    "schema_of",
    "topic_pattern",
]

OWN_HEADERS: Final = cloudevent.BROKER_HEADERS - {"Nats-Msg-Id"}
"""Metadata that a record brings by itself; sent on, it becomes no header."""

_CONTENT: Final = ("ce_", "content-type")
"""How headers begin that say what a record is, not what it is about: they stay readable."""
_ASKS: Final = frozenset({"partitionkey", "__key", "partitionnumber"})


def message_of(record: Record, *, escape: bool = False, exclude: re.Pattern[str] | None = None) -> Message:
    """Return the message that a record is.

    Args:
        record: Without error.
        escape: Percent-encode its key and the values of its headers.
        exclude: Finds the names of headers that are left out.
    """
    headers: dict[str, str] = {}
    own = record.headers()
    if own:
        for name, raw in cast("list[tuple[str, object]]", own):
            if exclude is not None and exclude.search(name):
                continue
            text = _text(raw)
            headers[name] = quote_plus(text) if escape and not name.lower().startswith(_CONTENT) else text
    value = record.value()
    topic = record.topic() or ""
    key = record.key()
    if key is not None:
        text = key.decode("utf-8", "backslashreplace") if type(key) is bytes else _text(key)
        headers["__key"] = quote_plus(text) if escape else text
    headers["__topic"] = topic
    headers["__partition"] = str(record.partition())
    headers["__offset"] = str(record.offset())
    kind, stamp = record.timestamp()
    if kind:
        headers["__timestamp"] = str(stamp)
    if value is None:
        headers["__tombstone"] = "true"
    return Message(topic=topic, data=value if type(value) is bytes else _bytes(value), headers=headers)


def headers_of(
    message: Message, *, exclude: re.Pattern[str] | None = None
) -> list[tuple[str, str | bytes | None]]:
    """Return a record's headers: the message's own, then every metadata entry that asks for nothing else."""
    found: dict[str, str] = dict(message.headers)
    for name, value in message.metadata.items():
        if name.lower() not in _ASKS and not (exclude is not None and exclude.search(name)):
            found.setdefault(name, value)
    return [
        (name, value.encode("utf-8", "surrogateescape"))
        for name, value in found.items()
        if name not in OWN_HEADERS
    ]


def key_of(metadata: Mapping[str, str]) -> bytes | None:
    """Return the key that publish metadata asks for; None for none."""
    lower = {name.lower(): value for name, value in metadata.items()}
    key = lower.get("partitionkey") or lower.get("__key")
    return key.encode("utf-8", "surrogateescape") if key else None


def partition_of(metadata: Mapping[str, str]) -> int | None:
    """Return the partition that publish metadata asks for; None for none. Raises ValueError."""
    lower = {name.lower(): value for name, value in metadata.items()}
    text = lower.get("partitionnumber", "")
    return int(text) if text else None


def schema_of(metadata: Mapping[str, str]) -> str:
    """Return the form of values that publish metadata ask for, in small letters; "" for none."""
    return next((text for name, text in metadata.items() if name.lower() == "valueschematype"), "").lower()


def topic_pattern(topic: str) -> str:
    """Return what to subscribe to: a topic, or a regular expression for a family of topics.

    `*` stands for one word between dots and a final `>` for all the rest, as on the other buses; neither is
    legal in a topic's name.
    """
    if "*" not in topic and ">" not in topic:
        return topic
    words = [".+" if word == ">" else re.escape(word).replace(r"\*", "[^.]+") for word in topic.split(".")]
    return f"^{'[.]'.join(words)}$"


def plain_error(error: KafkaError) -> str:
    """Return what the client library says, without the times that make each repetition differ."""
    return re.sub(r" \(after .*\)$", "", error.str() or str(error))


def _text(raw: object) -> str:
    if raw is None:
        return ""
    return _bytes(raw).decode("utf-8", "backslashreplace")


def _bytes(raw: object) -> bytes:
    if isinstance(raw, bytes):
        return raw
    return raw.encode() if isinstance(raw, str) else b""
