"""Functions driven by other brokers than the embedded one, on a whole platform with real servers."""

import json

import pytest
from redis import Redis

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
