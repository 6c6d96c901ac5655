"""Scalers against what they read: real brokers and databases, HTTP servers that speak the APIs, gRPC."""

import asyncio
import base64
import json
import socket
import threading
import uuid
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aio_pika
import asyncpg
import grpc
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from redis.asyncio import Redis

from pelton.autoscale.scalers.table import READERS, read_settings
from pelton.cli.scalers import make_scaler
from pelton.cli.tables import SCALERS
from pelton.clock import SystemClock
from pelton.drivers.kafka import KafkaScaler
from pelton.errors import PeltonError, ScalerError
from pelton.model.scaler import ScalerTrigger
from pelton.plan.aliases import Aliases
from pelton.proto import externalscaler_pb2 as pb
from tests.contract.authority import Authority
from tests.contract.nats_server import NatsServer
from tests.services.server import free_port

connected = [pytest.mark.connected, pytest.mark.timeout(90)]
SECRET = "correct-horse"


def made(kind, metadata, params=None):
    return make_scaler(
        ScalerTrigger(
            name="s0",
            type=kind,
            metadata={key: str(value) for key, value in metadata.items()},
            params=params or {},
            scaled_object="so",
        ),
        SystemClock(),
    )


async def read(kind, metadata, params=None):
    """Return (value, target, active) of a trigger with one metric."""
    scaler = made(kind, metadata, params)
    try:
        (found,) = await scaler.read()
    finally:
        await scaler.close()
    return found.value, found.target, found.active


async def failure(kind, metadata, params=None):
    scaler = made(kind, metadata, params)
    try:
        with pytest.raises(PeltonError) as caught:
            await scaler.read()
    finally:
        await scaler.close()
    assert SECRET not in str(caught.value)
    assert "s0" in str(caught.value)
    return str(caught.value)


def test_every_scaler_is_in_the_table_of_readers():
    assert {name.partition("+")[0] for name in SCALERS} == set(READERS)


class TestKafka:
    pytestmark = connected

    @pytest.fixture
    def topic(self, kafka):
        name = f"lag-{uuid.uuid4()}"
        admin = AdminClient({"bootstrap.servers": kafka.address})
        admin.create_topics([NewTopic(name, num_partitions=4)])[name].result()
        while len(admin.list_topics(name, timeout=10).topics[name].partitions) < 4:
            continue  # the broker tells of a new topic a moment later
        return name

    def metadata(self, kafka, topic, **more):
        return {"bootstrapServers": kafka.address, "consumerGroup": f"g-{topic}", "topic": topic, **more}

    def produce(self, kafka, topic, count):
        producer = Producer({"bootstrap.servers": kafka.address})
        for number in range(count):
            producer.produce(topic, b"x", partition=number % 4)
        assert producer.flush(30) == 0

    def commit(self, kafka, topic, offset, partitions=4):
        consumer = Consumer({"bootstrap.servers": kafka.address, "group.id": f"g-{topic}"})
        offsets = [TopicPartition(topic, n, offset) for n in range(partitions)]
        consumer.commit(offsets=offsets, asynchronous=False)
        consumer.close()

    async def test_lag_of_a_group(self, kafka, topic):
        await asyncio.to_thread(self.produce, kafka, topic, 100)
        metadata = self.metadata(kafka, topic)

        assert await read("kafka", metadata) == (4.0, 10.0, True)  # no offsets yet: one per partition
        assert await read("kafka", metadata | {"offsetResetPolicy": "earliest"}) == (40.0, 10.0, True)
        await asyncio.to_thread(self.commit, kafka, topic, 20, partitions=1)
        # Without a topic all partitions of what the group knows count: 5 of one, 1 of each other.
        assert await read("kafka", {**metadata, "topic": ""}) == (8.0, 10.0, True)
        await asyncio.to_thread(self.commit, kafka, topic, 20)
        assert await read("kafka", metadata) == (20.0, 10.0, True)
        assert await read("kafka", metadata | {"partitionLimitation": "0-1"}) == (10.0, 10.0, True)
        assert await read("apache-kafka", {**metadata, "topic": ""}) == (20.0, 10.0, True)
        await asyncio.to_thread(self.commit, kafka, topic, 25)
        assert await read("kafka", metadata) == (0.0, 10.0, False)

    async def test_records_are_noticed_as_they_come(self, kafka, topic):
        scaler = made("kafka", self.metadata(kafka, topic))
        told = asyncio.create_task(anext(scaler.activity()))

        while not told.done():
            await asyncio.to_thread(self.produce, kafka, topic, 4)

        assert await told is True
        await scaler.close()

    async def test_missing_topic_is_named_and_not_made(self, kafka):
        scaler = made("kafka", self.metadata(kafka, "nowhere"))
        for _ in range(3):
            with pytest.raises(PeltonError, match="there is no topic nowhere"):
                await scaler.read()
        await scaler.close()

        listed = AdminClient({"bootstrap.servers": kafka.address}).list_topics(timeout=10)
        assert "nowhere" not in listed.topics


async def test_kafka_that_is_away_is_named():
    address = f"127.0.0.1:{free_port()}"
    metadata = {"bootstrapServers": address, "consumerGroup": "g", "topic": "t"}
    settings = read_settings(ScalerTrigger(name="s0", type="kafka", metadata=metadata))
    scaler = KafkaScaler(settings, clock=SystemClock(), where="trigger s0", answer_s=0.5)

    with pytest.raises(ScalerError, match=address) as caught:
        await scaler.read()

    assert "check bootstrapServers" in caught.value.hint


class TestRedis:
    pytestmark = connected

    async def test_lists_and_their_kin(self, redis):
        host, port = redis.address.split(":")
        client = Redis(host=host, port=int(port))
        tag = str(uuid.uuid4())
        await client.rpush(f"{tag}-list", *range(7))
        await client.sadd(f"{tag}-set", 1, 2, 3)
        await client.zadd(f"{tag}-zset", {"a": 1})
        await client.hset(f"{tag}-hash", mapping={"a": 1, "b": 2})
        await client.set(f"{tag}-text", "x")
        await client.aclose()

        for name, count in (("list", 7), ("set", 3), ("zset", 1), ("hash", 2), ("none", 0)):
            metadata = {"address": redis.address, "listName": f"{tag}-{name}", "activationListLength": 2}
            assert await read("redis", metadata) == (count, 5.0, count > 2)
        text = {"address": redis.address, "listName": f"{tag}-text"}
        assert "as a string" in await failure("redis", text)

    async def test_streams_and_their_groups(self, redis):
        host, port = redis.address.split(":")
        client = Redis(host=host, port=int(port))
        stream = f"{uuid.uuid4()}-stream"
        ids: list[Any] = [await client.xadd(stream, {"n": number}) for number in range(9)]
        await client.xgroup_create(stream, "g", id="0")
        await client.xreadgroup("g", "c", {stream: ">"}, count=4)
        # Begun in the middle, so that the server does not know how many there are before.
        await client.xgroup_create(stream, "m", id=ids[2])
        await client.aclose()

        where = {"address": redis.address, "stream": stream}
        assert await read("redis-streams", where) == (9.0, 5.0, True)
        group = {**where, "consumerGroup": "g"}
        assert await read("redis-streams", group | {"pendingEntriesCount": 2}) == (4.0, 2.0, True)
        assert await read("redis-streams", group | {"lagCount": 3, "activationLagCount": 5}) == (
            5.0,
            3.0,
            False,
        )
        assert await read("redis-streams", {**where, "consumerGroup": "x", "lagCount": 3}) == (9.0, 3.0, True)
        assert await read("redis-streams", {**where, "consumerGroup": "m", "lagCount": 3}) == (9.0, 3.0, True)
        assert "group x" in await failure("redis-streams", {**where, "consumerGroup": "x"})

    async def test_credentials_that_are_wrong(self, own_server):
        server = own_server("redis", password="right")
        metadata = {"address": server.address, "listName": "l"}

        assert "rejected the credentials" in await failure("redis", metadata, {"password": SECRET})
        assert await read("redis", metadata, {"password": "right"}) == (0.0, 5.0, False)


class TestRabbitMq:
    pytestmark = connected

    @pytest.fixture
    async def queue(self, rabbitmq):
        connection = await aio_pika.connect(rabbitmq.url)
        channel = await connection.channel()
        name = f"work-{uuid.uuid4()}"
        await channel.declare_queue(name, durable=True)
        for _ in range(6):
            await channel.default_exchange.publish(aio_pika.Message(b"x"), name)
        yield name
        await channel.queue_delete(name)
        await connection.close()

    async def test_length_over_amqp(self, rabbitmq, queue):
        metadata = {"host": rabbitmq.url, "queueName": queue, "mode": "QueueLength", "value": 4}

        assert await read("rabbitmq", metadata) == (6.0, 4.0, True)
        assert "no queue nowhere" in await failure("rabbitmq", metadata | {"queueName": "nowhere"})

    async def test_length_over_the_management_api(self, rabbitmq, queue):
        metadata = {"host": rabbitmq.management, "queueName": queue, "excludeUnacknowledged": "true"}
        scaler = made("rabbitmq", metadata)

        while (found := await scaler.read())[0].value != 6.0:  # the API counts once a second
            await asyncio.sleep(0.2)

        await scaler.close()
        assert found[0].target == 20.0
        pattern = metadata | {"queueName": f"^{queue[:-4]}.*$", "useRegex": "true"}
        assert await read("rabbitmq", pattern) == (6.0, 20.0, True)
        assert "there is no queue nowhere" in await failure("rabbitmq", metadata | {"queueName": "nowhere"})
        wrong = metadata | {"host": rabbitmq.management.replace("guest:guest@", f"guest:{SECRET}@")}
        assert "401" in await failure("rabbitmq", wrong)


class TestPostgreSql:
    pytestmark = connected

    async def test_first_number_of_the_first_row(self, postgresql):
        connection = await asyncpg.connect(postgresql.url)
        table = f"t{uuid.uuid4().hex}"
        await connection.execute(f"create table {table} as select generate_series(1, 12) as n")

        metadata = {"query": f"select count(*) from {table}", "targetQueryValue": 5}
        try:
            params = {"connection": postgresql.url}
            assert await read("postgresql", metadata, params) == (12.0, 5.0, True)
            none = metadata | {"query": f"select n from {table} where n > 99"}
            assert "no row" in await failure("postgresql", none, params)
            assert "nowhere" in await failure("postgresql", metadata | {"query": "select nowhere"}, params)
        finally:
            await connection.execute(f"drop table {table}")
            await connection.close()

    async def test_server_that_is_away(self):
        params = {"connection": f"postgresql://u:{SECRET}@127.0.0.1:{free_port()}/d"}

        said = await failure("postgresql", {"query": "select 1", "targetQueryValue": 5}, params)

        assert "not reached" in said


class TestJetStream:
    pytestmark = pytest.mark.timeout(60)

    async def test_consumer_of_a_real_server(self, tmp_path):
        import nats

        port = free_port()
        server = NatsServer(tmp_path)
        await server.start(monitoring_port=port)
        try:
            client = await nats.connect(
                f"nats://127.0.0.1:{server.port}", user="pelton", password='se"cret', connect_timeout=5
            )
            stream = client.jetstream()
            await stream.add_stream(name="S", subjects=["s.>"])
            subscription = await stream.pull_subscribe("s.>", durable="C")
            for _ in range(12):
                await stream.publish("s.a", b"x")
            await subscription.fetch(5, timeout=5)
            where = {
                "natsServerMonitoringEndpoint": f"127.0.0.1:{port}",
                "account": "$G",
                "stream": "S",
                "consumer": "C",
                "activationLagThreshold": 11,
            }

            assert await read("nats-jetstream", where) == (12.0, 10.0, True)
            assert "no consumer X" in await failure("nats-jetstream", where | {"consumer": "X"})
            await client.close()
        finally:
            server.kill()


class _Api(BaseHTTPRequestHandler):
    """Answers what `server.answers` says for a path, and remembers requests."""

    server: Any

    def do_GET(self):
        parts = urlsplit(self.path)
        self.server.seen.append((parts.path, parse_qs(parts.query), dict(self.headers)))
        status, body = self.server.answers.get(parts.path, (404, "nothing here"))
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        self.server.tokens += 1
        self.server.form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        data = json.dumps({"access_token": f"t{self.server.tokens}", "expires_in": 3600}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_arguments):
        pass


class _ApiServer(ThreadingHTTPServer):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.answers: dict[str, Any] = {}
        self.seen: list[Any] = []
        self.tokens = 0
        self.form: dict[str, list[str]] = {}
        self.url = ""


@pytest.fixture
def api():
    """An HTTP server; `answers` maps paths to (status, body), `seen` lists (path, query, headers)."""
    server = _ApiServer(("127.0.0.1", 0), _Api)
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class TestPrometheus:
    async def test_query(self, api):
        result = [{"metric": {}, "value": [1, "7.5"]}]
        api.answers["/api/v1/query"] = (
            200,
            {"status": "success", "data": {"resultType": "vector", "result": result}},
        )
        metadata = {
            "serverAddress": api.url,
            "query": 'sum(rate(x{a="b"}[1m]))',
            "threshold": 2,
            "customHeaders": "X-Scope-OrgID=team",
            "authModes": "basic",
        }

        found = await read("prometheus", metadata, {"username": "u", "password": SECRET})

        assert found == (7.5, 2.0, True)
        _, query, headers = api.seen[0]
        assert query["query"] == ['sum(rate(x{a="b"}[1m]))']
        assert query["time"][0].endswith("Z")
        assert headers["X-Scope-OrgID"] == "team"
        assert headers["Authorization"] == "Basic " + base64.b64encode(f"u:{SECRET}".encode()).decode()

    async def test_token_is_asked_for_once(self, api):
        api.answers["/api/v1/query"] = (200, {"data": {"resultType": "scalar", "result": [1, "3"]}})
        scaler = made(
            "prometheus",
            {"serverAddress": api.url, "query": "q", "threshold": 2, "authModes": "oauth"},
            {
                "oauthTokenURI": f"{api.url}/token",
                "clientID": "i",
                "clientSecret": SECRET,
                "scopes": "a,b",
                "endpointParams": "audience=https%3A%2F%2Fq",
            },
        )

        for _ in range(2):
            await scaler.read()

        await scaler.close()
        assert api.form == {
            "grant_type": ["client_credentials"],
            "scope": ["a b"],
            "audience": ["https://q"],
        }
        assert [headers["Authorization"] for _, _, headers in api.seen] == ["Bearer t1", "Bearer t1"]

    async def test_statuses_and_silence_are_errors(self, api):
        metadata = {"serverAddress": api.url, "query": "q", "threshold": 2}
        api.answers["/api/v1/query"] = (503, "try later")

        assert "answered 503: try later" in await failure("prometheus", metadata)
        api.answers["/api/v1/query"] = (200, "<html>")
        assert "no JSON" in await failure("prometheus", metadata)
        gone = metadata | {"serverAddress": f"http://u:{SECRET}@127.0.0.1:{free_port()}"}
        assert "not reached" in await failure("prometheus", gone)

    async def test_a_server_that_says_nothing_is_given_up(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            metadata = {
                "serverAddress": f"http://127.0.0.1:{silent.getsockname()[1]}",
                "query": "q",
                "threshold": 2,
                "timeout": "100",
            }

            assert "did not answer within 0.1 s" in await failure("prometheus", metadata)


async def test_management_api_takes_a_token(api):
    api.answers["/api/queues/%2F/q"] = (200, {"messages_ready": 3})
    params = {"oauthTokenURI": f"{api.url}/token", "clientID": "i", "clientSecret": SECRET}

    assert await read("rabbitmq", {"host": api.url, "queueName": "q"}, params) == (3.0, 20.0, True)
    assert api.seen[0][2]["Authorization"] == "Bearer t1"


class TestMetricsApi:
    async def test_number_with_key(self, api):
        api.answers["/m"] = (200, {"queues": [{"name": "a", "waiting": 9}]})
        metadata = {
            "url": f"{api.url}/m?x=1",
            "valueLocation": 'queues.#(name=="a").waiting',
            "targetValue": 4,
            "authMode": "apiKey",
            "method": "query",
        }

        assert await read("metrics-api", metadata, {"apiKey": SECRET}) == (9.0, 4.0, True)
        assert api.seen[0][1] == {"x": ["1"], "api_key": [SECRET]}

    async def test_all_addresses_of_a_name_are_asked(self, api):
        api.answers["/m"] = (200, "7")
        url = api.url.replace("127.0.0.1", "localhost")
        metadata = {
            "url": f"{url}/m",
            "valueLocation": "@this",
            "targetValue": 4,
            "format": "prometheus",
            "aggregateFromKubeServiceEndpoints": "true",
            "aggregationType": "sum",
        }
        api.answers["/m"] = (200, "waiting 7\n")

        assert await read("metrics-api", metadata | {"valueLocation": "waiting"}) == (7.0, 4.0, True)
        assert api.seen[0][2]["Host"] == urlsplit(url).netloc

    async def test_only_200_will_do(self, api):
        api.answers["/m"] = (204, "")
        metadata = {"url": f"{api.url}/m", "valueLocation": "a", "targetValue": 4}

        assert "answered 204" in await failure("metrics-api", metadata)


class _Servicer(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """A user's external scaler: values and activity are what the test sets."""

    def __init__(self):
        self.specs = [pb.MetricSpec(metricName="queue", targetSize=4)]
        self.values = {"queue": pb.MetricValue(metricName="other", metricValue=9)}
        self.active = True
        self.seen = []
        self.told = threading.Event()

    def service(self, details):
        name = details.method.rpartition("/")[2]
        if name == "StreamIsActive":
            return grpc.unary_stream_rpc_method_handler(
                self.stream,
                request_deserializer=pb.ScaledObjectRef.FromString,
                response_serializer=pb.IsActiveResponse.SerializeToString,
            )
        handlers: dict[str, Any] = {
            "IsActive": (pb.ScaledObjectRef, lambda _r, _c: pb.IsActiveResponse(result=self.active)),
            "GetMetricSpec": (pb.ScaledObjectRef, self.spec),
            "GetMetrics": (pb.GetMetricsRequest, self.metrics),
        }
        if name not in handlers:
            return None
        request, handler = handlers[name]
        return grpc.unary_unary_rpc_method_handler(
            handler,
            request_deserializer=request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def spec(self, request, _context):
        self.seen.append((request.name, request.namespace, dict(request.scalerMetadata)))
        return pb.GetMetricSpecResponse(metricSpecs=self.specs)

    def metrics(self, request, _context):
        return pb.GetMetricsResponse(metricValues=[self.values[request.metricName]])

    def stream(self, _request, _context):
        yield pb.IsActiveResponse(result=False)
        self.told.wait(30)
        yield pb.IsActiveResponse(result=True)


@contextmanager
def serving(servicer, credentials=None):
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((servicer,))
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


class TestExternal:
    async def test_values_targets_and_activity(self):
        servicer = _Servicer()
        with serving(servicer) as address:
            metadata = {"scalerAddress": address, "queue": "a"}

            assert await read("external", metadata) == (9.0, 4.0, True)
            assert servicer.seen == [("so", "default", {"queue": "a"})]
            servicer.active = False
            servicer.specs[0].targetSizeFloat = 1.5
            servicer.values["queue"].metricValueFloat = 0.5
            assert await read("external", metadata) == (0.5, 1.5, False)

    async def test_several_metrics(self):
        servicer = _Servicer()
        servicer.specs.append(pb.MetricSpec(metricName="rate", targetSizeFloat=2.5))
        servicer.values["rate"] = pb.MetricValue(metricValue=5)
        with serving(servicer) as address:
            scaler = made("external", {"scalerAddress": address})
            found = await scaler.read()
            await scaler.close()

        assert [(one.metric, one.value, one.target) for one in found] == [("queue", 9, 4), ("rate", 5, 2.5)]

    async def test_push_tells_of_activity(self):
        servicer = _Servicer()
        with serving(servicer) as address:
            scaler = made("external-push", {"scalerAddress": address})
            stream = scaler.activity()
            first = await anext(stream)
            servicer.told.set()
            rest = [one async for one in stream]
            await scaler.close()

        assert (first, rest) == (False, [True])

    @pytest.mark.parametrize("name", ["scaler.team", "*.team", "10.1.2.3"])
    async def test_certificate_for_another_name(self, name):
        authority = Authority()
        certificate, key = authority.issue(name)
        own = authority.issue("keda")
        secret = grpc.ssl_server_credentials(
            [(key.encode(), certificate.encode())], authority.pem.encode(), require_client_auth=True
        )
        login = {"tlsClientCert": own[0], "tlsClientKey": own[1], "caCert": authority.pem}
        with serving(_Servicer(), secret) as address:
            metadata = {"scalerAddress": address, "enableTLS": "true"}

            assert "UNAVAILABLE" in await failure("external", metadata, login)
            assert await read("external", metadata | {"unsafeSsl": "true"}, login) == (9.0, 4.0, True)
        assert "shows no certificate" in await failure("external", metadata | {"unsafeSsl": "true"}, login)

    async def test_errors_name_the_call(self):
        servicer = _Servicer()
        servicer.specs = []
        with serving(servicer) as address:
            assert "names no metric" in await failure("external", {"scalerAddress": address})
            servicer.specs = [pb.MetricSpec(metricName="queue")]
            assert "target 0" in await failure("external", {"scalerAddress": address})
            servicer.specs = [pb.MetricSpec(metricName="unknown", targetSize=1)]
            assert "GetMetrics" in await failure("external", {"scalerAddress": address})
        gone = {"scalerAddress": f"127.0.0.1:{free_port()}"}
        assert "UNAVAILABLE" in await failure("external", gone)


async def test_alias_stands_for_a_host_of_a_cluster(api):
    api.answers["/m"] = (200, {"n": 5})
    metadata = {"url": "http://metrics.team:80/m", "valueLocation": "n", "targetValue": "4"}
    aliases = Aliases({"metrics.team": api.url.removeprefix("http://")})

    scaler = make_scaler(
        ScalerTrigger(name="s0", type="metrics-api", metadata=metadata), SystemClock(), aliases
    )

    (found,) = await scaler.read()
    await scaler.close()
    assert found.value == 5.0


async def test_cron_reads_the_clock():
    always = {"timezone": "UTC", "start": "* * * * *", "end": "0 0 1 1 *", "desiredReplicas": 3}

    value, target, _ = await read("cron", always)

    assert (value, target) in {(0.0, 1.0), (3.0, 1.0)}


async def test_resources_say_that_nobody_measures_here():
    scaler = make_scaler(
        ScalerTrigger(name="s0", type="cpu", metadata={"value": "50"}, metric_type="Utilization"),
        SystemClock(),
    )

    with pytest.raises(PeltonError, match="nothing measures"):
        await scaler.read()
