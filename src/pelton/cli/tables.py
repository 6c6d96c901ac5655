"""Literal tables: names of conventions, drivers and senders -> `module:attribute`; nothing registers itself.

Imports none of them: each process resolves the few names that it needs. Light, since the zygote imports it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

from pelton.errors import ComponentError, UnknownConventionError

__all__ = [
    "CONVENTIONS",
    "BUSES",
    "CONFIGURATIONS",
    "DRIVERS",
    "LOCKS",
    "OUTPUT_TYPES",
    "SECRET_STORES",
    "SCALERS",
    "SENDERS",
    "STATES",
    "TRIGGER_TYPES",
    "resolve_bus",
    "resolve_configuration",
    "resolve_convention",
    "resolve_driver",
    "resolve_lock",
    "resolve_secret_store",
    "resolve_scaler",
    "resolve_sender",
    "resolve_state",
    "resolve_topic_admin",
]

CONVENTIONS: Final[Mapping[str, str]] = {
    "openfunction": "pelton.compat.openfunction",
    "gcf": "pelton.compat.gcf",
    "lambda": "pelton.compat.aws_lambda",
    "azure": "pelton.compat.azure",
    "fission": "pelton.compat.fission",
    "openwhisk": "pelton.compat.openwhisk",
    "kubeless": "pelton.compat.kubeless",
    "knative-func": "pelton.compat.knative_func",
    "asgi": "pelton.compat.asgi",
    "wsgi": "pelton.compat.wsgi",
    "process": "pelton.compat.process",
}
"""Name -> module with NAME, IMPLIED, FACTS, detect and load."""

DRIVERS: Final[Mapping[str, str]] = {
    "bindings.http": "pelton.drivers.http:HttpBinding",
    "bindings.cron": "pelton.drivers.cron:CronBus",
    "bindings.kafka": "pelton.drivers.kafka:KafkaBinding",
    "pubsub.jetstream": "pelton.drivers.nats:JetStreamBus",
    "pubsub.kafka": "pelton.drivers.kafka:KafkaBus",
    "bindings.localstorage": "pelton.drivers.local_storage:LocalStorageBinding",
    "bindings.logs": "pelton.drivers.log_intake:LogsBus",
    "bindings.mqtt": "pelton.drivers.mqtt:MqttBinding",
    "bindings.mqtt3": "pelton.drivers.mqtt:MqttBinding",
    "bindings.postgres": "pelton.drivers.postgresql:PostgreSqlBinding",
    "bindings.postgresql": "pelton.drivers.postgresql:PostgreSqlBinding",
    "bindings.rabbitmq": "pelton.drivers.rabbitmq:RabbitMqBinding",
    "bindings.redis": "pelton.drivers.redis:RedisBinding",
    "bindings.smtp": "pelton.drivers.smtp:SmtpBinding",
}
"""Component type -> class that implements the port."""

BUSES: Final[Mapping[str, str]] = {
    "bindings.mqtt": "pelton.drivers.mqtt:MqttBus",
    "bindings.mqtt3": "pelton.drivers.mqtt:MqttBus",
    "bindings.rabbitmq": "pelton.drivers.rabbitmq:RabbitMqQueue",
    "pubsub.in-memory": "pelton.drivers.memory:MemoryBroker",
    "pubsub.mqtt": "pelton.drivers.mqtt:MqttBus",
    "pubsub.mqtt3": "pelton.drivers.mqtt:MqttBus",
    "pubsub.rabbitmq": "pelton.drivers.rabbitmq:RabbitMqBus",
    "pubsub.redis": "pelton.drivers.redis:RedisBus",
}
"""Component type -> class of a broker's Bus, made from component and clock; connects when it is used."""

TRIGGER_TYPES: Final = frozenset(
    {"pubsub.jetstream", "pubsub.kafka", "bindings.cron", "bindings.kafka", "bindings.logs", *BUSES}
)
"""Component types among DRIVERS and BUSES that can drive a function."""
OUTPUT_TYPES: Final = frozenset(
    {
        *("pubsub.jetstream", "pubsub.kafka", "pubsub.rabbitmq", "pubsub.redis"),
        *("pubsub.in-memory", "pubsub.mqtt", "pubsub.mqtt3", "bindings.mqtt", "bindings.mqtt3"),
        *("bindings.http", "bindings.kafka", "bindings.postgres", "bindings.postgresql", "bindings.rabbitmq"),
        *("bindings.redis",),
        *("bindings.localstorage", "bindings.smtp"),
    }
)
"""Component types among DRIVERS and BUSES that a function can send to."""

STATES: Final[Mapping[str, str]] = {
    "state.sqlite": "pelton.drivers.state_sqlite:SqliteStates",
    "state.in-memory": "pelton.drivers.state_memory:MemoryStates",
    "state.postgres": "pelton.drivers.postgresql:PostgreSqlStates",
    "state.postgresql": "pelton.drivers.postgresql:PostgreSqlStates",
    "state.redis": "pelton.drivers.redis:RedisStates",
}
"""Component type -> class that implements StateStore."""

LOCKS: Final[Mapping[str, str]] = {
    "lock.in-memory": "pelton.drivers.lock_memory:MemoryLocks",
    "lock.redis": "pelton.drivers.redis:RedisLocks",
}
"""Component type -> class that implements Lock, made from component and clock."""

CONFIGURATIONS: Final[Mapping[str, str]] = {
    "configuration.in-memory": "pelton.drivers.configuration_memory:MemoryConfiguration",
    "configuration.postgres": "pelton.drivers.postgresql:PostgreSqlConfiguration",
    "configuration.postgresql": "pelton.drivers.postgresql:PostgreSqlConfiguration",
    "configuration.redis": "pelton.drivers.redis:RedisConfiguration",
}
"""Component type -> class that implements ConfigurationStore, made from component and clock."""

SECRET_STORES: Final[Mapping[str, str]] = {
    "secretstores.kubernetes": "pelton.drivers.secrets_kubernetes:KubernetesSecrets",
    "secretstores.local.env": "pelton.drivers.secrets_local:EnvironmentSecrets",
    "secretstores.local.file": "pelton.drivers.secrets_local:FileSecrets",
}
"""Component type -> class that implements SecretStore, made from component and clock."""

SENDERS: Final[Mapping[str, str]] = {
    "slack": "pelton.drivers.slack:SlackSender",
    "webhook": "pelton.drivers.webhook:WebhookSender",
    "email": "pelton.drivers.email:EmailSender",
    "dingtalk": "pelton.drivers.dingtalk:DingTalkSender",
    "feishu": "pelton.drivers.feishu:FeishuSender",
    "wechat": "pelton.drivers.wecom:WeComSender",
    "console": "pelton.drivers.console:ConsoleSender",
}
"""Receiver type -> class that implements Sender."""


SCALERS: Final[Mapping[str, str]] = {
    "apache-kafka": "pelton.drivers.kafka:KafkaScaler",
    "cpu": "pelton.drivers.scalers.resource:ResourceScaler",
    "cron": "pelton.drivers.scalers.cron:CronScaler",
    "external": "pelton.drivers.scalers.external:ExternalScaler",
    "external-push": "pelton.drivers.scalers.external:ExternalScaler",
    "kafka": "pelton.drivers.kafka:KafkaScaler",
    "memory": "pelton.drivers.scalers.resource:ResourceScaler",
    "metrics-api": "pelton.drivers.scalers.metrics_api:MetricsApiScaler",
    "nats-jetstream": "pelton.drivers.scalers.nats_jetstream:NatsJetStreamScaler",
    "postgresql": "pelton.drivers.postgresql:PostgreSqlScaler",
    "prometheus": "pelton.drivers.scalers.prometheus:PrometheusScaler",
    "rabbitmq": "pelton.drivers.rabbitmq:RabbitMqQueueScaler",
    "rabbitmq+http": "pelton.drivers.scalers.rabbitmq:RabbitMqManagementScaler",
    "redis": "pelton.drivers.redis:RedisScaler",
    "redis-cluster": "pelton.drivers.redis:RedisScaler",
    "redis-cluster-streams": "pelton.drivers.redis:RedisScaler",
    "redis-sentinel": "pelton.drivers.redis:RedisScaler",
    "redis-sentinel-streams": "pelton.drivers.redis:RedisScaler",
    "redis-streams": "pelton.drivers.redis:RedisScaler",
}
"""Scaler type (`rabbitmq+http`: over the management API) -> class that implements Scaler."""


def resolve_convention(name: str) -> ModuleType:
    """Import a convention's module; raises UnknownConventionError that lists the known names."""
    module = CONVENTIONS.get(name)
    if module is None:
        raise UnknownConventionError(
            f"there is no convention {name!r}", hint=f"Known conventions: {', '.join(CONVENTIONS)}."
        )
    return importlib.import_module(module)


def resolve_driver(component_type: str) -> Any:
    """Import the class for a component type; raises ComponentError that lists the known types."""
    return _attribute(DRIVERS, component_type, "component type")


def resolve_bus(component_type: str) -> Any:
    """Import the class of a broker's Bus; raises ComponentError that lists the known types."""
    return _attribute(BUSES, component_type, "broker's type")


def resolve_state(component_type: str) -> Any:
    """Import the class for a state store's type; raises ComponentError that lists the known types."""
    return _attribute(STATES, component_type, "type of state store")


def resolve_lock(component_type: str) -> Any:
    """Import the class for a lock's type; raises ComponentError that lists the known types."""
    return _attribute(LOCKS, component_type, "type of lock")


def resolve_configuration(component_type: str) -> Any:
    """Import the class for a configuration store's type; raises ComponentError that lists the known types."""
    return _attribute(CONFIGURATIONS, component_type, "type of configuration store")


def resolve_secret_store(component_type: str) -> Any:
    """Import the class for a secret store's type; raises ComponentError that lists the known types."""
    return _attribute(SECRET_STORES, component_type, "type of secret store")


def resolve_scaler(scaler_type: str) -> Any:
    """Import the class for a scaler's type; raises ComponentError that lists the known types."""
    return _attribute(SCALERS, scaler_type, "scaler")


def resolve_topic_admin() -> Any:
    """Import the class that manages Kafka's topics; raises ComponentError when its library is missing."""
    return _attribute({"KafkaTopic": "pelton.drivers.kafka.topics:TopicAdmin"}, "KafkaTopic", "kind of topic")


def resolve_sender(receiver_type: str) -> Any:
    """Import the class for a receiver type; raises ComponentError that lists the known types."""
    return _attribute(SENDERS, receiver_type, "receiver type")


def _attribute(table: Mapping[str, str], name: str, what: str) -> Any:
    entry = table.get(name)
    if entry is None:
        raise ComponentError(f"there is no {what} {name!r}", hint=f"Known: {', '.join(table)}.")
    module, _, attribute = entry.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.split(".")[0] == "pelton":
            raise
        extra = module.split(".")[2].partition("_")[0]
        raise ComponentError(
            f"{name} needs the library {exc.name}, which is not installed",
            hint=f"Install it with Pelton: pip install 'pelton[{extra}]'.",
        ) from exc
