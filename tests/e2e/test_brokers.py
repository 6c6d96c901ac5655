"""Functions driven by other brokers than the embedded one, on a whole platform with real servers."""

import asyncio
import json
from uuid import uuid4

import pytest
from redis import Redis

from pelton.clock import SystemClock
from pelton.drivers.kafka import KafkaBus
from pelton.drivers.rabbitmq import RabbitMqBus, RabbitMqQueue
from pelton.model.desired import Component
from pelton.ports import Message
from tests.contract.bus import take, texts

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

CODE = """
from functions_framework.context.user_context import UserContext

def main(context: UserContext):
    data = context.get_topic_event().Data()
    context.send("done", data if isinstance(data, str) else data.decode())
"""


def serving(kind, metadata):
    items = [{"name": name, "value": value} for name, value in metadata.items()]
    broker = {"type": kind, "version": "v1", "metadata": items}
    return {
        "triggers": {"dapr": [{"name": "events", "type": kind, "topic": "jobs"}]},
        "outputs": [{"dapr": {"name": "done", "type": kind, "topic": "done"}}],
        "pubsub": {"events": broker, "done": broker},
    }


def test_function_takes_from_redis_and_sends_to_it(platform, redis):
    with Redis(port=redis.port, db=3, protocol=2) as client:
        client.flushdb()
        client.xadd("jobs", {"data": "before"})
        metadata = {"redisHost": redis.address, "redisDB": "3"}
        platform.apply("worker", CODE, serving=serving("pubsub.redis", metadata))
        client.xadd("jobs", {"data": "after"})

        entries = platform.until("answers", lambda: client.xrange("done")[1:] and client.xrange("done"))
        assert [json.loads(fields[b"data"])["data"] for _, fields in entries] == ["before", "after"]
        platform.until("finished", lambda: not client.xinfo_groups("jobs")[0]["pending"])


def test_function_takes_from_rabbitmq_and_sends_on_within_memory(platform, rabbitmq):
    durable = {"durable": "true", "consumerID": "e2e", "deletedWhenUnused": "false"}
    first = serving("pubsub.rabbitmq", {"connectionString": rabbitmq.url, **durable})
    memory = {"type": "pubsub.in-memory", "version": "v1", "metadata": []}
    first["outputs"] = [{"dapr": {"name": "done", "type": "pubsub.in-memory", "topic": "done"}}]
    first["pubsub"]["done"] = memory
    target = {"host": rabbitmq.url, "queueName": "e2e-done"}
    items = [{"name": name, "value": value} for name, value in target.items()]
    second = {
        "triggers": {"dapr": [{"name": "done", "type": "pubsub.in-memory", "topic": "done"}]},
        "outputs": [{"dapr": {"name": "out", "type": "bindings.rabbitmq", "operation": "create"}}],
        "pubsub": {"done": memory},
        "bindings": {"out": {"type": "bindings.rabbitmq", "version": "v1", "metadata": items}},
    }

    async def ask():
        source = Component(
            namespace="e2e", name="a", type="", metadata={"connectionString": rabbitmq.url, **durable}
        )
        bus = RabbitMqBus(source, clock=SystemClock())
        queue = RabbitMqQueue(
            Component(namespace="e2e", name="b", type="", metadata=target), clock=SystemClock()
        )
        await bus.prepare("jobs", consumer="", options={})
        await bus.publish(Message(topic="jobs", data=b"hello"))
        answers = await take(queue, "", 1)
        await bus.close()
        await queue.close()
        return texts(answers)

    platform.apply("second", CODE.replace('"done"', '"out"'), serving=second)
    platform.apply("first", CODE, serving=first)
    # The topic between them carries a CloudEvent, whose data is a JSON string.
    assert asyncio.run(ask()) == ['"hello"']


LOGS = """
import json
from functions_framework.context.user_context import UserContext

def main(context: UserContext):
    request = context.get_binding_request()
    record = json.loads(request.text())
    way = "kafka" if "__topic" in request.metadata else "file"
    print("seen by", way)
    context.send("out", f"{way} {record['kubernetes']['namespace_name']} {record['log'].strip()}")
"""


def test_container_logs_reach_functions_through_kafka_and_directly(platform, kafka, tmp_path):
    topic, logs, answers = f"logs-{uuid4()}", tmp_path / "containers", tmp_path / "answers"
    logs.mkdir()

    def binding(kind, **metadata):
        items = [{"name": name, "value": str(value)} for name, value in metadata.items()]
        return {"type": kind, "version": "v1", "metadata": items}

    brokers = {"brokers": kafka.address, "authType": "none"}
    asyncio.run(_create_topic(brokers, topic))
    platform.apply(
        "watcher",
        LOGS,
        serving={
            "triggers": {
                "dapr": [
                    {"name": "by-kafka", "type": "bindings.kafka"},
                    {"name": "by-file", "type": "bindings.logs"},
                ]
            },
            "outputs": [{"dapr": {"name": "out", "type": "bindings.localstorage", "operation": "create"}}],
            "bindings": {
                "by-kafka": binding("bindings.kafka", topics=topic, initialOffset="oldest", **brokers),
                "by-file": binding("bindings.logs", path=f"{logs}/*.log"),
                "out": binding("bindings.localstorage", rootPath=answers),
            },
        },
    )
    words = ["--path", f"{logs}/*.log", "--brokers", kafka.address, "--topic", topic]
    shipper = platform.start_cli("ship-logs", "--set", "readFromHead=true", *words)
    try:
        name = f"wordpress-v1-6f9c4-x7k2p_demo-project_wordpress-{'0123456789abcdef' * 4}.log"
        (logs / name).write_text("2026-01-02T03:04:05Z stdout F GET /a 404 7\n")
        wanted = {"kafka demo-project GET /a 404 7", "file demo-project GET /a 404 7"}
        platform.until("records", lambda: {file.read_text() for file in answers.glob("*")} == wanted)
    finally:
        shipper.terminate()
        shipper.communicate(timeout=20)

    # What functions print goes the same way, here to a topic of the platform's own bus.
    shipper = platform.start_cli("ship-logs", "--functions", "default", "--topic", "copied")
    try:
        tail = ("topic", "tail", "copied", "--since", "1h", "--count", "2")
        copied = [json.loads(line.split(None, 1)[1])["log"] for line in platform.cli(*tail).out.splitlines()]
        assert sorted(copied) == ["seen by file\n", "seen by kafka\n"]
    finally:
        shipper.terminate()
        shipper.communicate(timeout=20)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "nothing to ship"),
        (["--path", "/var/log/a.log", "--functions", "default"], "nothing else as a source"),
        (["--path", "/var/log/a.log", "--to", "/nowhere.yaml"], "cannot be read"),
        (["--path", "/var/log/a.log", "--to", "a.yaml", "--brokers", "b:1"], "exclude each other"),
        (["--set", "path"], "is not KEY=VALUE"),
    ],
)
def test_shipper_says_what_it_cannot_do(cold, words, reason):
    ended = cold.cli("ship-logs", "--topic", "t", *words, code=2)

    assert reason in ended.err


async def _create_topic(brokers, topic):
    async with KafkaBus(brokers, where="test") as bus:
        await bus.create_topic(topic, partitions=1, replicas=1, config={})
