"""Functions driven by other brokers than the embedded one, on a whole platform with real servers."""

import asyncio
import json

import pytest
from redis import Redis

from pelton.clock import SystemClock
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
