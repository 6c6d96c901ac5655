import asyncio

import pytest

from pelton.controlplane.kafka_topics import TOPICS, KafkaTopics
from pelton.errors import DeliveryError
from pelton.model.kafka_topic import TopicFound
from pelton.plan.aliases import NO_ALIASES, Aliases
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore

ALIASES = Aliases.of_options(["kafka-server-kafka-bootstrap=127.0.0.1:19092"])


class Cluster:
    """A Kafka cluster: what it was asked for; `answers` come first, then what is asked for is there."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def ensure(self, brokers, wanted):
        self.asked.append((brokers, wanted))
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return TopicFound(id="id", partitions=max(wanted.partitions, 1), replicas=1), ""


def obj(name="logs", labels=None, **spec):
    return {
        "apiVersion": "kafka.strimzi.io/v1beta2",
        "kind": "KafkaTopic",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"strimzi.io/cluster": "kafka-server"} if labels is None else labels,
        },
        "spec": spec,
    }


@pytest.fixture
async def store():
    async with MemoryStore() as store:
        yield store


def keeper(store, cluster, aliases=ALIASES):
    return KafkaTopics(store, cluster.ensure, aliases=aliases, clock=FakeClock())


async def ready(store, name="logs"):
    status = (await store.get(TOPICS, "default", name)).get("status") or {}
    return next(iter(status.get("conditions", ())), {})


async def test_topic_is_asked_for_where_its_cluster_is(store):
    cluster = Cluster()
    await store.create(TOPICS, obj(partitions=3, config={"retention.ms": 1}))

    assert await keeper(store, cluster).look("default", "logs")
    ((brokers, wanted),) = cluster.asked
    assert (brokers, wanted.name, wanted.partitions, wanted.config) == (
        "127.0.0.1:19092",
        "logs",
        3,
        {"retention.ms": "1"},
    )
    assert (await ready(store))["status"] == "True"


@pytest.mark.parametrize(
    ("labels", "aliases", "reason"),
    [({}, ALIASES, "ClusterNotNamed"), (None, NO_ALIASES, "ClusterUnknown")],
)
def test_cluster_that_nobody_knows_is_a_condition(labels, aliases, reason):
    async def check():
        async with MemoryStore() as store:
            cluster = Cluster()
            await store.create(TOPICS, obj(labels=labels))
            assert await keeper(store, cluster, aliases).look("default", "logs")
            assert (await ready(store))["reason"] == reason
            assert not cluster.asked

    asyncio.run(check())


async def test_refusal_and_failure_are_conditions_and_only_some_are_tried_again(store):
    there = TopicFound(partitions=5, replicas=1)
    cluster = Cluster(
        (there, "partitions never become fewer"),
        DeliveryError("down"),
        DeliveryError("bad setting", retriable=False),
    )
    await store.create(TOPICS, obj())
    topics = keeper(store, cluster)

    assert await topics.look("default", "logs")
    assert (await ready(store))["reason"] == "NotSupported"
    assert not await topics.look("default", "logs")
    assert (await ready(store))["message"] == "down"
    assert await topics.look("default", "logs")
    assert (await ready(store))["message"] == "bad setting"


async def test_objects_are_looked_at_when_they_appear_change_and_come_back(store):
    cluster = Cluster(DeliveryError("down"))
    clock = FakeClock()
    topics = KafkaTopics(store, cluster.ensure, aliases=ALIASES, clock=clock)
    running = asyncio.create_task(topics.run())

    async def until(condition):
        async with asyncio.timeout(30):
            while not await condition():
                await asyncio.sleep(0.01)

    async def is_ready():
        return (await ready(store)).get("status") == "True"

    async def is_not():
        return (await ready(store)).get("status") == "False"

    made = await store.create(TOPICS, obj())
    await until(is_not)
    await clock.advance(2)
    await until(is_ready)
    count = len(cluster.asked)
    made = await store.get(TOPICS, "default", "logs")
    await store.update(TOPICS, {**made, "spec": {"partitions": 7}})

    async def asked_again():
        return len(cluster.asked) > count and cluster.asked[-1][1].partitions == 7

    await until(asked_again)
    await store.delete(TOPICS, "default", "logs")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_topic_that_vanished_is_made_again_and_that_is_told(store, caplog):
    cluster = Cluster((TopicFound(id="first", partitions=1, replicas=1), ""))  # later ones are "id"
    clock = FakeClock()
    await store.create(TOPICS, obj())
    topics = KafkaTopics(store, cluster.ensure, aliases=ALIASES, clock=clock)
    running = asyncio.create_task(topics.run())

    async def until_id(wanted, *, advance_s=0):
        async with asyncio.timeout(30):
            while ((await store.get(TOPICS, "default", "logs")).get("status") or {}).get("topicId") != wanted:
                await clock.advance(advance_s)
                await asyncio.sleep(0.001)

    await until_id("first")
    await until_id("id", advance_s=121)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert caplog.text.count("the topic logs had gone and is there again") == 1
