"""Metadata, values and activity of scalers other than Kafka (contract: autoscaling, sections 4.2 to 4.10)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pelton.autoscale.scalers import (
    cron,
    metrics_api,
    nats_jetstream,
    postgresql,
    prometheus,
    rabbitmq,
    redis,
)
from pelton.autoscale.scalers.external import chosen
from pelton.autoscale.scalers.table import READERS, read_settings
from pelton.errors import ScalerError
from pelton.model.scaler import ScalerTrigger


def read(kind, metadata, params=None, environment=None, **more):
    return read_settings(
        ScalerTrigger(
            name="s0",
            type=kind,
            metadata=metadata,
            params=params or {},
            environment=environment or {},
            **more,
        )
    )


def problem(kind, metadata, **more):
    with pytest.raises(ScalerError) as caught:
        read(kind, metadata, **more)
    return caught.value.message


def test_unknown_type_lists_the_known_ones():
    with pytest.raises(ScalerError) as caught:
        read("kafak", {})
    assert "kafka" in caught.value.hint


@pytest.mark.parametrize("kind", READERS)
def test_empty_metadata_is_a_problem_not_a_crash(kind):
    assert problem(kind, {})


def test_utilization_is_for_resources_alone():
    assert "Utilization" in problem("redis", {"address": "r:1", "listName": "l"}, metric_type="Utilization")


def test_value_comes_from_metadata_then_authentication_then_environment():
    where = {"address": "r:1", "listName": "l"}

    assert read("redis", where | {"username": "m"}, {"username": "a"}).username == "m"
    assert read("redis", where | {"username": "  "}, {"username": "a"}).username == "a"
    assert read("redis", where | {"usernameFromEnv": "U"}, environment={"U": "e"}).username == "e"


def test_missing_variable_is_named():
    assert "variable DB of the target is not set" in problem(
        "postgresql", {"connectionFromEnv": "DB", "hostFromEnv": "DB", "query": "q"}
    )


# ------------------------------------------------------------------------------------------------------- nats

JSZ = {
    "account_details": [
        {
            "name": "$G",
            "id": "$G",
            "stream_detail": [
                {
                    "name": "S",
                    "consumer_detail": [
                        {"name": "C", "num_pending": 7, "num_ack_pending": 3, "cluster": {"leader": "n2"}}
                    ],
                }
            ],
        }
    ],
    "meta_cluster": {"cluster_size": 3},
}
NATS = {"natsServerMonitoringEndpoint": "n:8222", "account": "$G", "stream": "S", "consumer": "C"}


def test_jetstream_counts_pending_and_unacknowledged():
    made = read("nats-jetstream", NATS | {"activationLagThreshold": "10"})
    found = nats_jetstream.find_consumer(made, JSZ)

    reading = nats_jetstream.measure(made, found.waiting)

    assert (reading.metric, reading.value, reading.target) == ("nats-jetstream-S", 10.0, 10.0)
    assert not reading.active
    assert (found.leader, nats_jetstream.cluster_size(JSZ)) == ("n2", 3)
    assert made.url == "http://n:8222"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("account", "X", "no account X"), ("stream", "X", "no stream X"), ("consumer", "X", "no consumer X")],
)
def test_jetstream_says_what_is_missing(key, value, said):
    with pytest.raises(ScalerError, match=said):
        nats_jetstream.find_consumer(read("nats-jetstream", NATS | {key: value}), JSZ)


def test_jetstream_neighbours_keep_the_port():
    made = read("nats-jetstream", NATS)

    assert nats_jetstream.neighbours(made, {"connect_urls": ["10.0.0.1:4222", "10.0.0.2:4222"]}) == (
        "http://10.0.0.1:8222",
        "http://10.0.0.2:8222",
    )


# ------------------------------------------------------------------------------------------------------ redis


@pytest.mark.parametrize(
    ("kind", "metadata", "mode", "target"),
    [
        ("redis", {"listName": "l"}, "list", 5),
        ("redis", {"listName": "l", "listLength": "9"}, "list", 9),
        ("redis-streams", {"stream": "s"}, "length", 5),
        ("redis-streams", {"stream": "s", "consumerGroup": "g", "pendingEntriesCount": "7"}, "pending", 7),
        ("redis-streams", {"stream": "s", "consumerGroup": "g", "lagCount": "3"}, "lag", 3),
    ],
)
def test_redis_mode_and_target(kind, metadata, mode, target):
    made = read(kind, metadata | {"address": "r:6379"})

    assert (made.mode, made.target, made.addresses) == (mode, target, (("r", 6379),))


def test_redis_hosts_and_ports_have_to_pair():
    assert "2 hosts and 1 ports" in problem("redis-cluster", {"listName": "l", "hosts": "a,b", "ports": "1"})
    made = read("redis-sentinel", {"listName": "l", "hosts": "a,b", "ports": "1,2", "sentinelMaster": "m"})
    assert (made.addresses, made.kind) == ((("a", 1), ("b", 2)), "sentinel")


def test_redis_takes_either_spelling_of_its_addresses():
    one = read("redis", {"listName": "l", "hosts": "a", "ports": "1"})
    several = read("redis-cluster", {"listName": "l", "address": "a:1,b:2"})

    assert (one.addresses, several.addresses) == ((("a", 1),), (("a", 1), ("b", 2)))


def test_redis_activity_is_strict():
    made = read("redis", {"address": "r:1", "listName": "a/b", "activationListLength": "4"})

    assert made.metric == "redis-a-b"
    assert [redis.measure(made, count).active for count in (4, 5)] == [False, True]


def test_redis_says_tls_only_once():
    assert "cannot both" in problem(
        "redis", {"address": "r:1", "listName": "l", "enableTLS": "true"}, params={"tls": "enable"}
    )


# --------------------------------------------------------------------------------------------------- rabbitmq

QUEUE = {"queueName": "q", "host": "http://u:p@r:15672/v"}


@pytest.mark.parametrize(
    ("mode", "stats", "value", "active"),
    [
        ("QueueLength", (5, 0, 0), 5, True),
        ("QueueLength", (2, 0, 0), 2, False),
        ("MessageRate", (0, 3, 0), 3, True),
        ("MessageRate", (3, 1, 0), 1, True),
        ("DeliverGetRate", (9, 9, 2), 2, False),
        ("PublishedToDeliveredRatio", (0, 6, 2), 3, True),
        ("PublishedToDeliveredRatio", (0, 6, 0), 2, True),
        ("PublishedToDeliveredRatio", (0, 0, 0), 0, False),
        ("ExpectedQueueConsumptionTime", (0, 5, 1), 0, False),
        ("ExpectedQueueConsumptionTime", (4, 5, 0), 2, True),
        ("ExpectedQueueConsumptionTime", (8, 6, 2), 6, True),
    ],
)
def test_rabbitmq_modes(mode, stats, value, active):
    made = read("rabbitmq", QUEUE | {"mode": mode, "value": "4", "activationValue": "2"})

    reading = rabbitmq.measure(
        made, rabbitmq.QueueStats(messages=stats[0], publish_rate=stats[1], deliver_rate=stats[2])
    )

    assert (reading.value, reading.active, reading.target) == (value, active, 4)


def test_rabbitmq_default_is_a_length_of_20():
    made = read(
        "rabbitmq", {"queueName": "q", "host": "amqp://r:5672/v%2Fw"}, {"username": "a", "password": "b@"}
    )

    assert (made.mode, made.target, made.http, made.vhost) == ("QueueLength", 20, False, "v/w")
    assert made.url == "amqp://a:b%40@r:5672/v%2Fw"


def test_rabbitmq_paths_of_the_management_api():
    root = read("rabbitmq", {"queueName": "a b", "host": "http://r:15672"})
    pattern = read("rabbitmq", QUEUE | {"queueName": "^q.*$", "useRegex": "true", "pageSize": "7"})

    assert root.path == "/api/queues/%2F/a%20b"
    assert pattern.path == (
        "/api/queues/v?page=1&use_regex=true&pagination=false&name=%5Eq.%2A%24&page_size=7"
    )
    assert pattern.url == "http://u:p@r:15672"


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"mode": "QueueLength"}, "together"),
        ({"value": "3"}, "together"),
        ({"queueLength": "3", "value": "3"}, "beside"),
        ({"host": "amqp://r", "useRegex": "true"}, "useRegex needs the management API"),
        ({"host": "amqp://r", "mode": "MessageRate", "value": "1"}, "needs the management API"),
        ({"host": "amqp://r", "oauthTokenURI": "t", "clientID": "c", "clientSecret": "s"}, "oauthTokenURI"),
        ({"host": "ftp://r"}, "must be a URL"),
        ({"protocol": "amqp"}, "protocol is amqp"),
    ],
)
def test_rabbitmq_refusals(metadata, said):
    assert said in problem("rabbitmq", QUEUE | metadata)


@pytest.mark.parametrize(("operation", "messages"), [("sum", 9), ("max", 6), ("avg", 4)])
def test_rabbitmq_joins_queues(operation, messages):
    made = read("rabbitmq", QUEUE | {"useRegex": "true", "operation": operation})
    queues = [
        rabbitmq.read_queue(made, {"messages_ready": 5, "messages_unacknowledged": 1}),
        rabbitmq.read_queue(made, {"messages_ready": 3, "message_stats": {}}),
    ]

    assert rabbitmq.combine(made, queues).messages == messages


def test_rabbitmq_can_leave_out_what_consumers_hold():
    made = read("rabbitmq", QUEUE | {"excludeUnacknowledged": "true"})

    assert rabbitmq.read_queue(made, {"messages_ready": 5, "messages_unacknowledged": 9}).messages == 5


# ------------------------------------------------------------------------------------------------------- cron

CRON = {"timezone": "Europe/Berlin", "start": "0 8 * * *", "end": "0 18 * * *", "desiredReplicas": "3"}


@pytest.mark.parametrize(("hour_utc", "value"), [(5, 0), (6, 3), (15, 3), (16, 0), (23, 0)])
def test_cron_counts_in_its_time_zone(hour_utc, value):
    """In July Berlin is two hours ahead."""
    made = read("cron", CRON)

    reading = cron.measure(made, datetime(2026, 7, 1, hour_utc, 30, tzinfo=UTC))

    assert (reading.value, reading.target, reading.active) == (value, 1.0, value > 0)


def test_cron_name():
    made = read(
        "cron", {"timezone": "UTC", "start": "*/5 1,2 * * ?", "end": "0 3 * * *", "desiredReplicas": "1"}
    )

    assert made.metric == "cron-UTC-xSl51Cm2xxQm-03xxx"
    assert read("cron", CRON).metric == "cron-Europe-Berlin-08xxx-018xxx"


@pytest.mark.parametrize(
    ("moment", "value"),
    [
        ("2026-03-29T00:45:00+00:00", 0),  # 01:45; the next minute but fourteen is 03:00
        ("2026-03-29T01:15:00+00:00", 3),  # 03:15: half past two did not come, and has passed
        ("2026-03-29T03:30:00+00:00", 0),  # 05:30
        ("2026-10-25T00:15:00+00:00", 0),  # 02:15, the first time
        ("2026-10-25T01:45:00+00:00", 3),  # 02:45, the second time
        ("2026-10-25T04:30:00+00:00", 0),
    ],
)
def test_cron_window_that_begins_where_clocks_change(moment, value):
    made = read("cron", CRON | {"start": "30 2 * * *", "end": "0 5 * * *"})

    assert cron.measure(made, datetime.fromisoformat(moment)).value == value


@pytest.mark.parametrize(("day", "value"), [("2026-11-05", 0), ("2026-11-09", 3), ("2026-11-16", 0)])
def test_cron_day_has_to_fit_both_fields_when_one_begins_with_a_star(day, value):
    """The 9th is a Monday and odd; the 5th is no Monday, the 16th even."""
    made = read("cron", CRON | {"timezone": "UTC", "start": "0 8 */2 * mon", "end": "0 18 */2 * mon"})

    assert cron.measure(made, datetime.fromisoformat(f"{day}T12:00:00+00:00")).value == value


def test_cron_window_begins_and_ends_with_its_first_instant():
    made = read("cron", CRON | {"timezone": "UTC"})

    found = [cron.measure(made, datetime(2026, 7, 1, hour, tzinfo=UTC)).value for hour in (8, 18)]
    assert found == [3.0, 0.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"timezone": "Mars/Base"}, "time zone"),
        ({"end": "0 8 * * *"}, "differ"),
        ({"start": "0 0 8 * * *"}, "five fields"),
        ({"start": "R R * * *"}, "five fields"),
        ({"start": "0 8 L * *"}, "five fields"),
        ({"start": "0 8 * * 5#3"}, "five fields"),
        ({"desiredReplicas": "0"}, "desiredReplicas"),
        ({"desiredReplicas": ""}, "required"),
    ],
)
def test_cron_refusals(change, said):
    assert said in problem("cron", CRON | change)


# ------------------------------------------------------------------------------------------------- prometheus

PROMETHEUS = {"serverAddress": "http://p:9090/", "query": "q", "threshold": "10.5"}


def vector(*values):
    return {"data": {"resultType": "vector", "result": [{"value": [1, value]} for value in values]}}


def test_prometheus_value():
    made = read("prometheus", PROMETHEUS | {"activationThreshold": "3", "namespace": "n"})

    reading = prometheus.measure(made, vector("3.5"))

    assert (reading.metric, reading.value, reading.target, reading.active) == ("prometheus", 3.5, 10.5, True)
    assert made.url == "http://p:9090"
    assert made.parameters == {"query": "q", "namespace": "n"}


@pytest.mark.parametrize("answer", [vector(), vector("NaN"), vector("+Inf")])
def test_prometheus_null_is_zero_unless_asked(answer):
    assert prometheus.measure(read("prometheus", PROMETHEUS), answer).value == 0.0
    with pytest.raises(ScalerError, match="no value"):
        prometheus.measure(read("prometheus", PROMETHEUS | {"ignoreNullValues": "false"}), answer)


@pytest.mark.parametrize("answer", [vector("1", "2"), vector("x"), {}, None, {"data": {}}])
def test_prometheus_answers_that_are_errors(answer):
    with pytest.raises(ScalerError):
        prometheus.measure(read("prometheus", PROMETHEUS), answer)


def test_prometheus_logins():
    basic = read(
        "prometheus", PROMETHEUS | {"authModes": "basic,tls"}, {"username": "u", "cert": "c", "key": "k"}
    )
    custom = read(
        "prometheus",
        PROMETHEUS | {"authModes": "custom", "customHeaders": "A=b,C=d"},
        {"customAuthHeader": "X", "customAuthValue": "v"},
    )

    assert (basic.login.basic, basic.login.certificate) == (("u", ""), "c")
    assert custom.login.headers == {"A": "b", "C": "d", "X": "v"}
    assert "one of basic, bearer" in problem(
        "prometheus",
        PROMETHEUS | {"authModes": "basic,bearer"},
        params={"username": "u", "bearerToken": "t"},
    )


def test_formula_takes_the_place_of_a_target():
    metadata = {"serverAddress": "http://p", "query": "q"}

    assert "threshold is required" in problem("prometheus", metadata)
    assert read("prometheus", metadata, in_formula=True).threshold == 1.0


# ------------------------------------------------------------------------------------------------- postgresql

SQL = {"query": "select 1", "targetQueryValue": "5"}


def test_postgresql_connection_in_parts():
    made = read(
        "postgresql",
        SQL | {"host": "h", "port": "5432", "userName": "u", "dbName": "d", "sslmode": "disable"},
        {"password": "it's"},
    )

    assert made.connection == {
        "connectionString": r"host='h' port='5432' user='u' dbname='d' password='it\'s' sslmode=disable"
    }


@pytest.mark.parametrize(("rows", "value"), [([[6]], 6.0), ([["7.5", "x"], [1]], 7.5)])
def test_postgresql_value(rows, value):
    made = read("postgresql", SQL, {"connection": "postgresql://h/d"})

    assert postgresql.measure(made, rows).value == value


@pytest.mark.parametrize("rows", [[], [[]], [[None]], [["x"]]])
def test_postgresql_rows_that_are_errors(rows):
    with pytest.raises(ScalerError):
        postgresql.measure(read("postgresql", SQL, {"connection": "postgresql://h/d"}), rows)


# ------------------------------------------------------------------------------------------------ metrics-api


def api(location, form="json", **more):
    return read(
        "metrics-api",
        {"url": "http://a", "valueLocation": location, "targetValue": "5", "format": form, **more},
    )


@pytest.mark.parametrize(
    ("form", "location", "text", "value"),
    [
        ("json", "a.b", '{"a": {"b": 3}}', 3),
        ("json", "a.1", '{"a": [1, "250m"]}', 0.25),
        ("json", "a.#", '{"a": [1, 2, 3]}', 3),
        ("json", 'a.#(name=="x").n', '{"a": [{"name": "y", "n": 1}, {"name": "x", "n": 2}]}', 2),
        ("json", "a.#(n>1)#.#", '{"a": [{"n": 1}, {"n": 2}, {"n": 3}]}', 2),
        ("json", r"a\.b", '{"a.b": 4}', 4),
        ("json", "q*.n", '{"queue": {"n": 8}}', 8),
        ("yaml", "a.b", "a:\n  b: 12\n", 12),
        ("xml", "root.queue.1.length", "<root><queue/><queue><length> 9 </length></queue></root>", 9),
        ("xml", "root.-size", '<root size="6"/>', 6),
        (
            "prometheus",
            'waiting{queue="a",zone=~"e.*"}',
            '# HELP waiting x\nwaiting{queue="b",zone="eu"} 1\nwaiting{queue="a",zone="eu"} 4 170000\n',
            4,
        ),
        ("prometheus", "up", "up 1\n", 1),
    ],
)
def test_metrics_api_finds_the_number(form, location, text, value):
    assert metrics_api.extract(api(location, form), text) == value


@pytest.mark.parametrize(
    ("form", "location", "text"),
    [
        ("json", "a", "{"),
        ("json", "a", '{"a": true}'),
        ("json", "a.b", '{"a": 1}'),
        ("json", "@reverse", "{}"),
        ("json", "a..b", "{}"),
        ("yaml", "a", "a: [\n"),
        ("xml", "a", "<a>"),
        ("xml", "a", '<!DOCTYPE a [<!ENTITY b "1">]><a>&b;</a>'),
        ("prometheus", "up", 'up{a="1"} 1\nup{a="2"} 1\n'),
        ("prometheus", "up", ""),
        ("prometheus", "up", "up NaN"),
        ("prometheus", 'up{a="1"', "up 1"),
    ],
)
def test_metrics_api_says_why_there_is_no_number(form, location, text):
    with pytest.raises(ScalerError):
        metrics_api.extract(api(location, form), text)


@pytest.mark.parametrize(("how", "value"), [("average", 3), ("sum", 6), ("max", 5), ("min", 1)])
def test_metrics_api_aggregates(how, value):
    assert (
        metrics_api.aggregate(api("a", aggregationType=how), [1.0, 5.0] if how != "average" else [1, 5])
        == value
    )


def test_metrics_api_key_in_header_or_query():
    where = {"url": "http://a", "valueLocation": "v", "targetValue": "1", "authMode": "apiKey"}

    assert read("metrics-api", where, {"apiKey": "k"}).login.headers == {"X-API-KEY": "k"}
    assert read("metrics-api", where | {"method": "query"}, {"apiKey": "k"}).login.query == {"api_key": "k"}


# ------------------------------------------------------------------------------------- resources and external


def test_resource_target_is_a_quantity():
    assert read("memory", {"value": "1Gi"}, metric_type="AverageValue").target == 2**30
    assert "metricType" in problem("cpu", {"value": "50"}, metric_type="AverageValu")


def test_external_forwards_what_is_not_its_own():
    made = read(
        "external-push",
        {"scalerAddress": "s:1", "unsafeSsl": "false", "queue": "q", "tokenFromEnv": "T"},
        environment={"T": "secret"},
        namespace="n",
        scaled_object="so",
    )

    assert made.metadata == {"queue": "q", "tokenFromEnv": "secret"}
    assert (made.push, made.name, made.namespace, made.tls) == (True, "so", "n", False)


@pytest.mark.parametrize(("whole", "exact", "value"), [(3, 0.0, 3.0), (3, 0.5, 0.5), (3, -1.0, 3.0)])
def test_external_float_wins_only_above_zero(whole, exact, value):
    assert chosen(whole, exact) == value
