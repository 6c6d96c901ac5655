"""No driver shows a credential, whatever goes wrong: in errors, their causes, or the log."""

import asyncio
import logging
import traceback
from contextlib import aclosing

import pytest

from pelton.cli import tables
from pelton.cli.buses import open_bus
from pelton.cli.home import Home
from pelton.clock import SystemClock
from pelton.errors import ComponentError, PeltonError
from pelton.model.desired import Component
from pelton.model.state import StateChange
from pelton.ports import Message
from tests.services.server import free_port

SECRET = "c0rrect-h0rse"
PEM = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"

# What each type is given: {port} is one that nobody listens on.
REDIS = {"redisHost": "127.0.0.1:{port}", "redisPassword": SECRET, "redisMaxRetries": "0"}
RABBIT = {"host": f"amqp://u:{SECRET}@127.0.0.1:{{port}}", "queueName": "q"}
POSTGRES = {"connectionString": f"postgresql://u:{SECRET}@127.0.0.1:{{port}}/d", "timeout": "5s"}
MQTT = {"url": f"tcp://u:{SECRET}@127.0.0.1:{{port}}", "topic": "t"}
KAFKA = {
    "brokers": "127.0.0.1:{port}",
    "authType": "password",
    "saslUsername": "u",
    "saslPassword": SECRET,
    "topics": "t",
    "publishTopic": "t",
}
METADATA = {
    "bindings.http": {
        "url": f"http://u:{SECRET}@127.0.0.1:{{port}}/{SECRET}",
        "securityToken": SECRET,
        "securityTokenHeader": "X-Token",
    },
    "bindings.kafka": KAFKA,
    "pubsub.kafka": KAFKA,
    "pubsub.jetstream": {"natsURL": f"nats://u:{SECRET}@127.0.0.1:{{port}}", "token": SECRET},
    "bindings.logs": {"forwardListen": "203.0.113.1:1", "sharedKey": SECRET, "httpPassword": SECRET},
    "bindings.postgres": POSTGRES,
    "bindings.postgresql": POSTGRES,
    "bindings.rabbitmq": RABBIT,
    "pubsub.rabbitmq": {"connectionString": RABBIT["host"]},
    "bindings.redis": REDIS,
    "pubsub.redis": REDIS,
    "bindings.smtp": {
        "host": "127.0.0.1",
        "port": "{port}",
        "user": "u",
        "password": SECRET,
        "emailFrom": "a@b.c",
        "emailTo": "a@b.c",
        "subject": "s",
    },
    "bindings.mqtt": MQTT,
    "bindings.mqtt3": MQTT,
    "pubsub.mqtt": MQTT,
    "pubsub.mqtt3": MQTT,
    "state.postgres": POSTGRES,
    "state.postgresql": POSTGRES,
    "state.redis": REDIS,
    "lock.redis": REDIS,
    "configuration.redis": REDIS,
    "configuration.postgres": {**POSTGRES, "table": "t", "notifyChannel": "c"},
    "configuration.postgresql": {**POSTGRES, "table": "t", "notifyChannel": "c"},
    "secretstores.kubernetes": {"kubeconfigPath": "{kubeconfig}"},
}
# Types that take no credential.
WITHOUT = {
    "bindings.cron",
    "bindings.localstorage",
    "pubsub.in-memory",
    "state.in-memory",
    "state.sqlite",
    "lock.in-memory",
    "configuration.in-memory",
    "secretstores.local.env",
    "secretstores.local.file",
}
TLS = {
    "bindings.http": {"MTLSClientCert": PEM, "MTLSClientKey": PEM},
    "pubsub.jetstream": {"tls_client_cert": PEM, "tls_client_key": PEM},
    "pubsub.rabbitmq": {
        "connectionString": f"amqps://u:{SECRET}@127.0.0.1:{{port}}",
        "clientCert": PEM,
        "clientKey": PEM,
    },
    "pubsub.redis": {"enableTLS": "true", "clientCert": PEM, "clientKey": PEM},
    "pubsub.mqtt3": {"url": "ssl://127.0.0.1:{port}", "clientCert": PEM, "clientKey": PEM},
    "pubsub.kafka": {"authType": "mtls", "clientCert": PEM, "clientKey": PEM},
}
CASES: list[tuple[str, dict[str, str]]] = [(kind, {}) for kind in METADATA] + list(TLS.items())


def test_every_type_of_component_is_looked_at():
    known = [tables.DRIVERS, tables.BUSES, tables.STATES, tables.LOCKS]
    known += [tables.CONFIGURATIONS, tables.SECRET_STORES]

    assert {kind for table in known for kind in table} == set(METADATA) | WITHOUT


async def first(batches):
    async with aclosing(batches) as iterator:
        await anext(iterator)


async def use(component, home):
    """Make a component's driver and use it once, in each of its parts."""
    kind, clock = component.type, SystemClock()
    category = kind.partition(".")[0]
    if category == "pubsub" or kind in {"bindings.logs", *tables.BUSES}:
        bus = await open_bus(component, clock=clock, home=home)
        try:
            await bus.publish(Message(topic="t", data=b"x"))
        except PeltonError:
            pass
        await first(bus.subscribe("t", consumer="c", max_in_flight=1, options=component.metadata))
    elif category == "bindings":
        binding = tables.resolve_driver(kind)(component)
        operation, request = "create", {"key": "k", "sql": "SELECT 1"}
        await binding.invoke("query" if "postgres" in kind else operation, b"x", request)
    elif category == "state":
        store = tables.resolve_state(kind)(component, clock=clock, folder=home.path)
        await store.write([StateChange(key="a", data=b"1")])
    elif category == "lock":
        await tables.resolve_lock(kind)(component, clock=clock).try_lock("a", "b", 1)
    elif category == "configuration":
        await first(tables.resolve_configuration(kind)(component, clock=clock).subscribe(["a"]))
    else:
        await tables.resolve_secret_store(kind)(component, clock=clock).get("a")


@pytest.mark.parametrize(("kind", "more"), CASES, ids=[f"{k}{'-tls' if m else ''}" for k, m in CASES])
async def test_no_credential_is_shown_by_what_fails(kind, more, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    port = str(free_port())
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        f"current-context: a\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n"
        f"clusters: [{{name: a, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n"
        f"users: [{{name: a, user: {{token: {SECRET}}}}}]\n"
    )
    metadata = {
        key: value.replace("{port}", port).replace("{kubeconfig}", str(kubeconfig))
        for key, value in {**METADATA[kind], **more}.items()
    }
    component = Component(namespace="shop", name="c", type=kind, metadata=metadata)
    shown: list[str] = []
    try:
        async with asyncio.timeout(1):
            await use(component, Home(tmp_path))
    except (PeltonError, TimeoutError) as exc:
        shown.append("".join(traceback.format_exception(exc)))
        shown.append(f"{exc} {getattr(exc, 'hint', '')}")
    else:
        pytest.fail("nothing failed")

    captured = capfd.readouterr()
    told = "\n".join([*shown, caplog.text, captured.out, captured.err])
    assert SECRET not in told


URLS = {
    "bindings.http": ("url", "http"),
    "bindings.postgresql": ("connectionString", "postgresql"),
    "state.postgresql": ("connectionString", "postgresql"),
    "configuration.postgresql": ("connectionString", "postgresql"),
    "bindings.rabbitmq": ("host", "amqp"),
    "pubsub.rabbitmq": ("connectionString", "amqp"),
    "bindings.mqtt3": ("url", "tcp"),
    "pubsub.mqtt3": ("url", "tcp"),
    "pubsub.jetstream": ("natsURL", "nats"),
    "pubsub.redis": ("redisHost", "redis"),
}
MALFORMED = (
    f"{{}}://u:{SECRET}/x@127.0.0.1:1",
    f"{{}}://u:{SECRET}#x@127.0.0.1:1",
    f"{{}}://u:{SECRET}?x@127.0.0.1:1",
    f"{{}}://u:{SECRET}@127.0.0.1:99999",
    f"{{}}://u:{SECRET}@[::1",
    f"wrong://u:{SECRET}@127.0.0.1:1",
)


@pytest.mark.parametrize("url", MALFORMED)
@pytest.mark.parametrize("kind", URLS)
async def test_a_malformed_url_is_refused_at_once_and_not_shown(kind, url, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    key, scheme = URLS[kind]
    metadata = {**METADATA[kind], key: url.replace("{}", scheme)}

    with pytest.raises(ComponentError) as caught:
        await use(Component(namespace="shop", name="c", type=kind, metadata=metadata), Home(tmp_path))

    told = "".join(traceback.format_exception(caught.value)) + caught.value.hint + caplog.text
    assert SECRET not in told
