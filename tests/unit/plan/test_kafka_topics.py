import pytest

from pelton.model.kafka_topic import KafkaTopic, TopicFound, TopicWanted
from pelton.plan.aliases import Aliases
from pelton.plan.kafka_topics import Changes, bootstrap_of, changes, status_of, wanted_of


def topic(**fields):
    return KafkaTopic(
        namespace="default", name="logs", labels={"strimzi.io/cluster": "kafka-server"}, **fields
    )


@pytest.mark.parametrize(
    ("wanted", "found", "todo"),
    [
        ({}, {}, Changes()),
        ({"partitions": 3}, {"partitions": 3}, Changes()),
        ({"partitions": 5}, {"partitions": 3}, Changes(partitions=5)),
        (
            {"config": {"a": "1", "b": "2"}},
            {"config": {"b": "3", "c": "4"}},
            Changes(set={"a": "1", "b": "2"}, unset=("c",)),
        ),
        ({"config": {"a": "1"}}, {"config": {"a": "1"}}, Changes()),
    ],
)
def test_what_differs_is_changed(wanted, found, todo):
    have = {"partitions": 1, "replicas": 1, **found}

    assert changes(TopicWanted(name="t", **wanted), TopicFound(**have)) == todo


@pytest.mark.parametrize(
    ("wanted", "says"), [({"partitions": 2}, "never become fewer"), ({"replicas": 2}, "2 here")]
)
def test_what_kafka_cannot_do_is_refused(wanted, says):
    todo = changes(TopicWanted(name="t", config={"a": "1"}, **wanted), TopicFound(partitions=3, replicas=1))

    assert says in todo.refused
    assert not todo.set


def test_names_and_values_are_kafkas():
    made = wanted_of(
        topic(topic="app.logs", partitions=3, config={"retention.ms": 1000, "preallocate": True})
    )

    assert made == TopicWanted(
        name="app.logs", partitions=3, config={"retention.ms": "1000", "preallocate": "true"}
    )
    assert wanted_of(topic()) == TopicWanted(name="logs")


@pytest.mark.parametrize(
    ("alias", "address"),
    [
        ("kafka-server-kafka-bootstrap=127.0.0.1:19092", "127.0.0.1:19092"),
        ("kafka-server-kafka-brokers:9092=127.0.0.1:19092", "127.0.0.1:19092"),
        ("*.svc.cluster.local=127.0.0.1", "127.0.0.1:9092"),
        ("other-kafka-brokers=127.0.0.1:19092", ""),
    ],
)
def test_cluster_is_where_an_alias_says(alias, address):
    assert bootstrap_of(topic(), Aliases.of_options([alias])) == address


def test_status_keeps_the_time_of_its_last_transition():
    found = TopicFound(id="abc", partitions=1, replicas=1)
    first = status_of({}, generation=1, name="t", found=found, now="T1")
    again = status_of(first, generation=2, name="t", found=found, now="T2")
    broken = status_of(again, generation=2, name="t", found=None, reason="KafkaError", message="no", now="T3")

    assert first == {
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "T1"}],
        "observedGeneration": 1,
        "topicName": "t",
        "topicId": "abc",
    }
    assert again["conditions"][0]["lastTransitionTime"] == "T1"
    assert broken["conditions"] == [
        {
            "type": "Ready",
            "status": "False",
            "lastTransitionTime": "T3",
            "reason": "KafkaError",
            "message": "no",
        }
    ]
    assert broken["topicId"] == "abc"
