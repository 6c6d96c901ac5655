import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.errors import UsageError
from pelton.plan.aliases import NO_ALIASES, Aliases

TABLE = Aliases.of_options(
    [
        "kafka-server-kafka-brokers:9092=127.0.0.1:19092",
        "redis=127.0.0.1:16379",
        "nats.default=[::1]:14222",
        "*.svc.cluster.local=127.0.0.1",
        "rabbit=10.0.0.7",
    ]
)


@pytest.mark.parametrize(
    ("key", "value", "becomes"),
    [
        ("brokers", "kafka-server-kafka-brokers:9092", "127.0.0.1:19092"),
        ("brokers", "kafka-server-kafka-brokers:9092, other:9092", "127.0.0.1:19092, other:9092"),
        ("brokers", "other:1, kafka-server-kafka-brokers:9092", "other:1, 127.0.0.1:19092"),
        ("brokers", "kafka-server-kafka-brokers:9093", "kafka-server-kafka-brokers:9093"),
        ("brokers", "kafka-server-kafka-brokers.default:9092", "127.0.0.1:19092"),
        ("bootstrapServers", "kafka-server-kafka-brokers.a.svc.cluster.local:9092", "127.0.0.1:19092"),
        ("brokers", "mybroker.team.svc.cluster.local:9092", "127.0.0.1:9092"),
        ("redisHost", "redis:6379", "127.0.0.1:16379"),
        ("redisHost", "REDIS.team.svc:6379", "127.0.0.1:16379"),
        ("redisHost", "redis.example.com:6379", "redis.example.com:6379"),
        ("host", "redis", "127.0.0.1:16379"),
        ("natsURL", "nats://nats.default:4222", "nats://[::1]:14222"),
        ("natsURL", "nats://nats.default.svc.cluster.local:4222", "nats://[::1]:14222"),
        ("url", "tcp://user:redis@redis:1883/path?q=redis", "tcp://user:redis@127.0.0.1:16379/path?q=redis"),
        ("url", "http://f.default.svc.cluster.local/a,b", "http://127.0.0.1/a,b"),
        ("host", "amqp://guest:guest@rabbit:5672/", "amqp://guest:guest@10.0.0.7:5672/"),
        ("connectionString", "host=redis port=5432 user=redis", "host=127.0.0.1 port=16379 user=redis"),
        ("connectionString", "host=redis user=redis", "host=127.0.0.1 user=redis port=16379"),
        (
            "connectionString",
            "postgres://redis:redis@redis/redis",
            "postgres://redis:redis@127.0.0.1:16379/redis",
        ),
        ("topics", "redis", "redis"),
        ("consumerGroup", "redis", "redis"),
        ("url", "", ""),
        ("url", "not an address, redis or so", "not an address, redis or so"),
    ],
)
def test_hosts_of_addresses_are_replaced_and_nothing_else(key, value, becomes):
    assert TABLE.metadata({key: value})[0] == {key: becomes}


def test_what_was_replaced_is_told_once_without_user_and_password():
    given = {"url": "nats://me:secret@redis:4222", "host": "redis:4222", "brokers": "a:1"}

    assert TABLE.metadata(given)[1] == (("redis:4222", "127.0.0.1:16379"),)


def test_longest_match_counts():
    table = Aliases.of_options(["a.b=1.1.1.1", "a.b:80=2.2.2.2", "*.b=3.3.3.3", "a=4.4.4.4"])

    assert table.address("a.b", "80") == ("2.2.2.2", "80")
    assert table.address("a.b", "81") == ("1.1.1.1", "81")
    assert table.address("c.b", "81") == ("3.3.3.3", "81")
    assert table.address("a.c", "81") == ("4.4.4.4", "81")
    assert table.address("c.c", "81") is None


def test_objects_are_searched_in_metadata_lists_and_fields():
    spec = {
        "pubsub": {"p": {"metadata": [{"name": "brokers", "value": "redis:1"}]}},
        "kafka": {"e": {"brokers": "rabbit:9"}},
        "name": "redis",
    }

    assert TABLE.within(spec) == (("redis:1", "127.0.0.1:16379"), ("rabbit:9", "10.0.0.7:9"))
    assert NO_ALIASES.within(spec) == ()


def test_file_has_a_line_per_name_and_options_count_more():
    table = Aliases.parse("# brokers\nredis 1.1.1.1\n\nkafka:9092  2.2.2.2:9092 # ours\n", where="aliases")

    assert Aliases.of_options(["redis=3.3.3.3"]).over(table).table == {
        "redis": "3.3.3.3",
        "kafka:9092": "2.2.2.2:9092",
    }


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (lambda: Aliases.of_options(["redis"]), "--alias 'redis' is not NAME=HOST:PORT"),
        (lambda: Aliases.of_options(["a b=c"]), "'a b' is no host name"),
        (lambda: Aliases.of_options(["a=http://c"]), "'http://c' is no address"),
        (lambda: Aliases.of_options(["a="]), "'' is no address"),
        (lambda: Aliases.parse("x\n", where="aliases"), "aliases:1: 'x' is no alias"),
    ],
)
def test_what_is_no_alias_is_refused(read, says):
    with pytest.raises(UsageError, match=says.replace("(", "\\(")):
        read()


@given(st.dictionaries(st.sampled_from(["brokers", "url", "topics", "x"]), st.text(max_size=40)))
def test_any_metadata_keeps_its_keys_and_without_aliases_its_values(metadata):
    assert TABLE.metadata(metadata)[0].keys() == metadata.keys()
    assert NO_ALIASES.metadata(metadata) == (metadata, ())
