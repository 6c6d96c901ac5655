"""Kafka under a cluster's host name: a KafkaTopic, `pelton topic`, dead letters, redrive and replay."""

import json
from uuid import uuid4

import pytest

pytestmark = [pytest.mark.connected, pytest.mark.timeout(150)]

BROKERS = "kafka-server-kafka-brokers:9092"
CODE = """
from functions_framework.context.user_context import UserContext

def main(context: UserContext):
    text = context.get_binding_request().text()
    if text.startswith("bad"):
        raise ValueError(f"cannot take {text}")
    context.send("done", text)
"""
FORGIVING = CODE.replace('text.startswith("bad")', "False")


@pytest.fixture
def platform(cold, kafka):
    cold.start(
        "--alias", f"{BROKERS}={kafka.address}", "--alias", f"kafka-server-kafka-bootstrap={kafka.address}"
    )
    yield cold
    cold.stop()


def binding(**metadata):
    items = [{"name": name, "value": value} for name, value in {"brokers": BROKERS, **metadata}.items()]
    return {"type": "bindings.kafka", "version": "v1", "metadata": items}


def serving(topic, group, answers):
    return {
        "annotations": {"pelton.dev/max-attempts": "1"},
        "triggers": {"dapr": [{"name": "in", "type": "bindings.kafka"}]},
        "outputs": [{"dapr": {"name": "done", "type": "bindings.kafka", "operation": "create"}}],
        "bindings": {
            "in": binding(topics=topic, consumerGroup=group, initialOffset="oldest"),
            "done": binding(publishTopic=answers),
        },
    }


def test_topic_of_a_cluster_is_made_read_redriven_and_replayed(platform):
    mark = uuid4().hex[:8]
    topic, done, other = f"orders-{mark}", f"done-{mark}", f"other-{mark}"

    def made():
        found = json.loads(platform.cli("get", "kafkatopic", topic, "-o", "json").out)
        return found.get("status", {}).get("conditions", [{}])[0].get("status") == "True"

    def answers(of, count):
        ended = platform.cli(
            "topic", "tail", of, "--component", "done", "--since", "1h", "--count", str(count), timeout_s=60
        )
        return sorted(line.split("  ", 1)[1] for line in ended.out.splitlines())

    manifest = {
        "apiVersion": "kafka.strimzi.io/v1beta2",
        "kind": "KafkaTopic",
        "metadata": {"name": topic, "namespace": "default", "labels": {"strimzi.io/cluster": "kafka-server"}},
        "spec": {"partitions": 2, "config": {"retention.ms": 3600000}},
    }
    platform.cli("apply", "-f", "-", stdin=json.dumps(manifest))
    platform.until("the topic", made, every_s=0.3)
    first = platform.apply("first", CODE, serving=serving(topic, f"first-{mark}", done))
    platform.apply("second", FORGIVING, serving=serving(topic, f"second-{mark}", other))
    assert f"note: {BROKERS} stands for" in first.err

    words = ["topic", "publish", topic, "--component", "in", "--raw", "-H", "x-shop: north"]
    platform.cli(*words, "-d", "one", "-d", "bad two", "-d", "three")
    assert answers(done, 2) == ["one", "three"]
    assert answers(other, 3) == ["bad two", "one", "three"]

    platform.until(
        "the dead letter", lambda: "bad two" in platform.cli("dlq", "list", "first").out, every_s=0.3
    )
    (letter,) = json.loads(platform.cli("dlq", "list", "first", "-o", "json").out)
    shown = platform.cli("dlq", "show", letter["number"]).out
    assert (letter["topic"], letter["attempts"]) == (topic, 1)
    assert "ValueError: cannot take bad two" in letter["reason"]
    assert "x-shop: north" in shown
    assert shown.rstrip().endswith("bad two")

    platform.apply("first", FORGIVING, serving=serving(topic, f"first-{mark}", done))
    platform.cli("dlq", "redrive", letter["number"])
    assert answers(done, 3) == ["bad two", "one", "three"]
    assert json.loads(platform.cli("dlq", "list", "first", "-o", "json").out) == []

    # To one function only, from all partitions; the other one's group is untouched.
    ended = platform.cli("topic", "replay", topic, "--function", "first", "--from", "10m")
    assert "replayed 3 messages" in ended.out
    assert answers(done, 6) == ["bad two", "bad two", "one", "one", "three", "three"]
    assert answers(other, 3) == ["bad two", "one", "three"]

    def caught_up():
        rows = json.loads(platform.cli("topic", "lag", "--component", "in", "-o", "json").out)
        own = [row for row in rows if row["topic"] == topic]
        return {row["consumer"] for row in own if not row["waiting"]} == {f"first-{mark}", f"second-{mark}"}

    platform.until("no lag", caught_up, every_s=0.5)
    condition = json.loads(platform.cli("get", "function", "first", "-o", "json").out)["status"]["conditions"]
    assert any(one["type"] == "HostAliases" and BROKERS in one["message"] for one in condition)

    refused = platform.cli("topic", "replay", "nothing", "--function", "first", code=None)
    assert refused.code == 1
    assert f"It takes from {topic}" in refused.err
    unknown = platform.cli("topic", "tail", topic, "--component", "nope", code=None)
    assert "no Function in default uses a component 'nope'; there are: done, in" in unknown.err


JETSTREAM = """
from functions_framework.context.user_context import UserContext

def main(context: UserContext):
    context.send("done", context.get_topic_event().Data().decode())
"""


def test_messages_of_the_bus_are_replayed_by_their_numbers(platform):
    topic = {"type": "pubsub.jetstream", "version": "v1", "metadata": []}
    serving = {
        "triggers": {"dapr": [{"name": "events", "type": "pubsub.jetstream", "topic": "parts"}]},
        "outputs": [{"dapr": {"name": "done", "type": "pubsub.jetstream", "topic": "answers"}}],
        "pubsub": {"events": topic, "done": topic},
    }
    platform.apply("parts", JETSTREAM, serving=serving)
    platform.cli("topic", "publish", "parts", "--raw", "-d", "1", "-d", "2", "-d", "3", "-d", "4")

    def answers(count):
        out = platform.cli("topic", "tail", "answers", "--since", "1h", "--count", str(count)).out
        return sorted(json.loads(line.split("  ", 1)[1])["data"] for line in out.splitlines())

    assert answers(4) == ["1", "2", "3", "4"]
    ended = platform.cli("topic", "replay", "parts", "--function", "parts", "--from", "2", "--to", "3")
    assert "replayed 2 messages" in ended.out
    assert answers(6) == ["1", "2", "2", "3", "3", "4"]
