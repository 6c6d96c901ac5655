"""A Kafka of two brokers while the leader of partitions dies, comes back, and is made leader again.

Broker 1 is the controller and lives; broker 2 leads one partition that has a replica on 1, one that has none,
and the group's coordinator.
"""

import asyncio
import json
import re
import threading
from contextlib import aclosing
from typing import Any, cast

import pytest
from confluent_kafka import ElectionType
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from pelton.drivers.kafka import KafkaBus
from pelton.drivers.kafka.offsets import ends
from pelton.errors import DeliveryError
from pelton.ports import Message
from tests.e2e.test_observability import scrape
from tests.services.kafka import QUICK

pytestmark = [pytest.mark.connected, pytest.mark.timeout(150)]

REPLICAS = {
    "__consumer_offsets": [[2, 1]],
    "orders": [[2, 1], [1, 2]],
    "lonely": [[1], [2]],
    "done": [[2, 1]],
}
# Key -> where its records go. Partition 1 of `lonely` has no replica.
PLACES = {"moves": ("orders", 0), "stays": ("orders", 1), "near": ("lonely", 0), "alone": ("lonely", 1)}
CODE = """
from functions_framework.context.user_context import UserContext

def main(context: UserContext):
    context.send("done", context.get_binding_request().text())
"""


class Traffic:
    """Publishes numbered records of every key, one after the other, and reads what comes of them.

    Args:
        metadata: Of the cluster.
    """

    def __init__(self, metadata):
        self._metadata = {**metadata, "initialOffset": "oldest"}
        self.accepted = dict.fromkeys(PLACES, 0)
        self.done: dict[str, list[int]] = {key: [] for key in PLACES}
        self.late: dict[str, list[int]] = {key: [] for key in PLACES}
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._thread.start()

    def end(self):
        """Publish no more, and read on until `close`."""
        self._loop.call_soon_threadsafe(self._stop.set)

    def close(self):
        """End reading too; safe to repeat."""
        if self._thread.is_alive():
            for task in self._tasks:
                self._loop.call_soon_threadsafe(task.cancel)
            self._thread.join()
            self._loop.close()

    def join_late(self):
        """Begin to read `lonely` as a new group that wants what comes from now on."""
        bus = KafkaBus({**self._metadata, "initialOffset": "newest"})
        asyncio.run_coroutine_threadsafe(self._begin(self._read(bus, "lonely", self.late)), self._loop)

    async def _begin(self, work):
        self._tasks.append(asyncio.create_task(work))

    async def _run(self):
        async with KafkaBus(self._metadata) as bus:
            for key in PLACES:
                await self._begin(self._publish(bus, key))
            await self._begin(self._read(KafkaBus(self._metadata), "done", self.done))
            while pending := [task for task in self._tasks if not task.done()]:
                await asyncio.wait(pending, timeout=0.2)

    async def _publish(self, bus, key):
        topic, partition = PLACES[key]
        while not self._stop.is_set():
            metadata = {"partitionKey": key, "partitionNumber": str(partition)}
            data = f"{key} {self.accepted[key] + 1}".encode()
            try:
                await bus.publish(Message(topic=topic, data=data, metadata=metadata))
            except DeliveryError:
                continue
            self.accepted[key] += 1
            await asyncio.sleep(0.02)

    async def _read(self, bus, topic, found):
        async with bus:
            batches = bus.subscribe(topic, consumer=f"reader-{id(found)}", max_in_flight=1000, options={})
            async with aclosing(cast(Any, batches)) as iterator:
                async for batch in iterator:
                    for delivery in batch:
                        key, number = delivery.message.data.decode().split()
                        found[key].append(int(number))
                        await delivery.ack()


def binding(metadata, **more):
    items = [{"name": name, "value": value} for name, value in {**metadata, **more}.items()]
    return {"type": "bindings.kafka", "version": "v1", "metadata": items}


def serving(metadata):
    return {
        "triggers": {"dapr": [{"name": "in", "type": "bindings.kafka"}]},
        "outputs": [{"dapr": {"name": "done", "type": "bindings.kafka", "operation": "create"}}],
        "bindings": {
            "in": binding(metadata, topics="orders,lonely", consumerGroup="clerk", initialOffset="oldest"),
            "done": binding(metadata, publishTopic="done", producerRequiredAcks="all"),
        },
    }


class Cluster:
    """Broker 1, which is the controller too, and broker 2, with topics.

    Args:
        first: Broker 1, running.
        second: Broker 2, running.
    """

    def __init__(self, first, second):
        self.second = second
        self.metadata = {"brokers": f"{first.address},{second.address}", "authType": "none"}
        self.admin = AdminClient({"bootstrap.servers": first.address, "log_level": 2})
        topics = [NewTopic(name, len(of), replica_assignment=of) for name, of in REPLICAS.items()]
        for future in self.admin.create_topics(topics).values():
            future.result()

    def leaders(self, topic):
        """Return the leader of each partition, -1 for none."""
        found = self.admin.list_topics(topic, timeout=10).topics[topic].partitions
        return [found[number].leader for number in sorted(found)]

    def in_sync(self):
        """Tell whether every partition of `orders` has both of its replicas."""
        found = self.admin.list_topics("orders", timeout=10).topics["orders"].partitions.values()
        return all(len(partition.isrs) == 2 for partition in found)


@pytest.fixture
def cluster(own_server):
    first = own_server("kafka", settings={**QUICK, "offsets.topic.replication.factor": "2"})
    return Cluster(first, own_server("kafka", settings=QUICK, joins=first))


def condition(platform):
    """Return the condition InputsReady's status, "" without one."""
    found = json.loads(platform.cli("get", "function", "clerk", "-o", "json").out)["status"]["conditions"]
    return next((one["status"] for one in found if one["type"] == "InputsReady"), "")


def metric(platform):
    """Return the values of `pelton_events_source_trouble`."""
    found = re.findall(r"^pelton_events_source_trouble\{.*\} (\S+)$", scrape(platform)[1], re.MULTILINE)
    return {float(value) for value in found}


def runtime_log(platform):
    return "".join(path.read_text() for path in (platform.home / "logs" / "platform").glob("runtime*"))


def test_leader_that_dies_costs_nothing_and_holds_nobody_else_up(platform, cluster):
    platform.apply("clerk", CODE, serving=serving(cluster.metadata))
    traffic = Traffic(cluster.metadata)
    try:
        platform.until("answers", lambda: all(traffic.done.values()))
        assert cluster.leaders("orders") == [2, 1]

        cluster.second.kill()
        platform.until("the condition", lambda: condition(platform) == "False")
        platform.until("the other leader", lambda: cluster.leaders("orders") == [1, 1])
        platform.until("the line", lambda: "lonely:1 has no leader; trying on" in runtime_log(platform))
        traffic.join_late()
        platform.until("the metric", lambda: metric(platform) == {1.0}, every_s=0.2)
        held = dict(traffic.accepted)
        others = [key for key in PLACES if key != "alone"]
        platform.until(
            "the others", lambda: all(max(traffic.done[key]) > held[key] + 20 for key in others), timeout_s=30
        )
        platform.until("the late one", lambda: len(traffic.late["near"]) > 20)
        assert condition(platform) == "False"
        assert cluster.leaders("lonely") == [1, -1]
        # Whoever wants to know how much waits is told of the others, at once.
        assert ends(cluster.admin, [("lonely", 0), ("lonely", 1)], answer_s=10).keys() == {("lonely", 0)}
        assert traffic.accepted["alone"] == held["alone"]

        cluster.second.start()
        platform.until("the one", lambda: max(traffic.done["alone"]) > held["alone"] + 20, timeout_s=30)
        platform.until("no trouble", lambda: metric(platform) == {0.0}, every_s=0.2)
        platform.until("the condition", lambda: condition(platform) == "True")

        platform.until("its replica", cluster.in_sync, timeout_s=30)
        cluster.admin.elect_leaders(ElectionType.PREFERRED, None).result()
        platform.until("the first leader", lambda: cluster.leaders("orders") == [2, 1])
        mark = dict(traffic.accepted)
        platform.until("all", lambda: all(max(traffic.done[key]) > mark[key] + 20 for key in PLACES))
        traffic.end()
        platform.until(
            "the rest",
            lambda: (
                all(max(traffic.done[key]) >= traffic.accepted[key] for key in PLACES)
                and max(traffic.late["alone"]) >= traffic.accepted["alone"]
            ),
        )
    finally:
        traffic.close()

    for key, count in traffic.accepted.items():
        # What is handled again comes after what came before it, and nothing overtakes.
        assert list(dict.fromkeys(traffic.done[key])) == list(range(1, count + 1)), key
    # The record on its way when the leader died was sent before the late group came.
    late = list(dict.fromkeys(traffic.late["alone"]))
    assert late == list(range(late[0], traffic.accepted["alone"] + 1))
    assert late[0] <= held["alone"] + 2
    assert platform.part("runtime")["restarts"] == 0
