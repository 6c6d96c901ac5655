"""KafkaTopic on a real Kafka: what the runtime's half of it does to a topic."""

import asyncio
import uuid

import msgspec
import pytest

from pelton.cli.kafka_topics import ensured
from pelton.drivers.kafka.topics import TopicAdmin
from pelton.model.kafka_topic import TopicWanted

pytestmark = [pytest.mark.connected, pytest.mark.timeout(60)]


@pytest.fixture
def name():
    return f"topic-{uuid.uuid4().hex[:8]}"


async def ensure(kafka, **wanted):
    return await ensured({"brokers": kafka.address, "wanted": msgspec.to_builtins(TopicWanted(**wanted))})


async def test_topic_is_made_grows_and_is_configured(kafka, name):
    first = await ensure(kafka, name=name, partitions=2, replicas=1, config={"retention.ms": "60000"})
    again = await ensure(kafka, name=name, partitions=2, config={"retention.ms": "60000"})
    more = await ensure(kafka, name=name, partitions=5, config={"max.message.bytes": "2000000"})

    assert (first["found"]["partitions"], first["found"]["config"]) == (2, {"retention.ms": "60000"})
    assert again["found"] == first["found"]
    admin = TopicAdmin({"brokers": kafka.address, "authType": "none"})
    async with asyncio.timeout(30):
        while True:
            found = await admin.find(name)
            if found and found.partitions == 5 and found.config == {"max.message.bytes": "2000000"}:
                break
            await asyncio.sleep(0.05)
    assert more["problem"] == more["error"] == ""


async def test_fewer_partitions_are_refused_and_nothing_changes(kafka, name):
    await ensure(kafka, name=name, partitions=3)
    answer = await ensure(kafka, name=name, partitions=1, config={"retention.ms": "1"})

    assert "never become fewer" in answer["problem"]
    assert (answer["found"]["partitions"], answer["found"]["config"]) == (3, {})


async def test_what_kafka_refuses_is_said_and_not_tried_again(kafka, name):
    answer = await ensure(kafka, name=name, config={"no.such.setting": "1"})

    assert "no.such.setting" in answer["error"]
    assert not answer["retriable"]


async def test_cluster_that_is_away_may_come_back(name):
    answer = await ensured({"brokers": "127.0.0.1:9", "wanted": msgspec.to_builtins(TopicWanted(name=name))})

    assert answer["error"]
    assert answer["retriable"]
