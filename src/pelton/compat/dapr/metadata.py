"""What the runtime tells an app about the app and itself, as JSON; the gRPC form is filled from it. Pure.

Source: contracts, Dapr HTTP, section 3, and Dapr runtime, section 9 (metadata).
"""

from __future__ import annotations

from typing import Any, Final

from pelton.compat.dapr.apps import App, RegisteredApp
from pelton.compat.dapr.runtime import DaprRuntime
from pelton.model.component import ComponentResource
from pelton.model.settings import truthy
from pelton.proto import dapr_runtime_pb2 as runtime_pb2
from pelton.quantity import format_duration

__all__ = ["described", "to_message"]

_FEATURES: Final = ("HotReload",)
_STATE: Final = ["ETAG", "TRANSACTIONAL", "TTL", "QUERY_API", "ACTOR"]
_WILDCARDS: Final = frozenset({"pubsub.in-memory", "pubsub.mqtt", "pubsub.mqtt3", "pubsub.jetstream"})
_INPUT_ONLY: Final = frozenset({"bindings.cron", "bindings.logs"})
_BOTH: Final = frozenset({"bindings.kafka", "bindings.rabbitmq", "bindings.mqtt", "bindings.mqtt3"})


def described(runtime: DaprRuntime, registered: RegisteredApp) -> dict[str, Any]:
    """Return the answer to GET /v1.0/metadata; empty parts are left out."""
    app = registered.app
    written: dict[str, Any] = {
        "id": app.app_id,
        "runtimeVersion": runtime.version,
        "enabledFeatures": list(_FEATURES),
        "components": [
            {
                "name": each.name,
                "type": each.spec.type,
                "version": each.spec.version or "v1",
                "capabilities": _capabilities(each),
            }
            for each in runtime.components.listed(app)
        ],
        "extended": {**registered.extended, "daprRuntimeVersion": runtime.version},
        "subscriptions": [
            {
                "pubsubname": each.pubsub,
                "topic": each.topic,
                "rules": [
                    {"match": rule.match, "path": rule.path} if rule.match else {"path": rule.path}
                    for rule in each.rules
                ],
                "deadLetterTopic": each.dead_letter_topic,
                "metadata": dict(each.metadata),
                "type": each.kind,
            }
            for each in registered.subscriptions
        ],
        "httpEndpoints": [
            {"name": each.name}
            for each in runtime.endpoints.known.values()
            if each.namespace in {"", app.namespace} and (not each.scopes or app.app_id in each.scopes)
        ],
        "resiliencies": [
            {"name": each.name}
            for each in runtime.resiliencies
            if each.namespace in {"", app.namespace} and (not each.scopes or app.app_id in each.scopes)
        ],
        "actorRuntime": {
            "runtimeStatus": "DISABLED",
            "hostReady": False,
            "placement": "placement: disconnected",
        },
    }
    if app.is_called:
        written["appConnectionProperties"] = _connection(app)
    return {name: value for name, value in written.items() if value not in ([], {})}


def to_message(described_app: dict[str, Any]) -> Any:
    """Return the same as a GetMetadataResponse."""
    message = runtime_pb2.GetMetadataResponse(
        id=described_app["id"],
        runtime_version=described_app["runtimeVersion"],
        enabled_features=described_app.get("enabledFeatures", ()),
        extended_metadata=described_app.get("extended", {}),
        registered_components=[
            runtime_pb2.RegisteredComponents(**each) for each in described_app.get("components", ())
        ],
        http_endpoints=[
            runtime_pb2.MetadataHTTPEndpoint(**each) for each in described_app.get("httpEndpoints", ())
        ],
        resiliencies=[
            runtime_pb2.MetadataResiliency(**each) for each in described_app.get("resiliencies", ())
        ],
        actor_runtime=runtime_pb2.ActorRuntime(
            runtime_status="DISABLED", placement=described_app["actorRuntime"]["placement"]
        ),
    )
    for each in described_app.get("subscriptions", ()):
        added = message.subscriptions.add(
            pubsub_name=each["pubsubname"],
            topic=each["topic"],
            metadata=each["metadata"],
            dead_letter_topic=each["deadLetterTopic"],
            type=each["type"],
        )
        for rule in each["rules"]:
            added.rules.rules.add(match=rule.get("match", ""), path=rule["path"])
    connection = described_app.get("appConnectionProperties")
    if connection is not None:
        filled = message.app_connection_properties
        filled.port = connection["port"]
        filled.protocol = connection["protocol"]
        filled.channel_address = connection["channelAddress"]
        filled.max_concurrency = connection.get("maxConcurrency", 0)
        health = connection.get("health")
        if health is not None:
            filled.health.health_check_path = health.get("healthCheckPath", "")
            filled.health.health_probe_interval = health["healthProbeInterval"]
            filled.health.health_probe_timeout = health["healthProbeTimeout"]
            filled.health.health_threshold = health["healthThreshold"]
    return message


def _connection(app: App) -> dict[str, Any]:
    written: dict[str, Any] = {
        "port": app.port,
        "protocol": app.protocol,
        "channelAddress": app.socket or app.address,
    }
    if app.max_concurrency > 0:
        written["maxConcurrency"] = app.max_concurrency
    if app.health is not None:
        written["health"] = {
            **({} if app.speaks_grpc else {"healthCheckPath": app.health.path}),
            "healthProbeInterval": format_duration(app.health.interval_s),
            "healthProbeTimeout": format_duration(app.health.timeout_s),
            "healthThreshold": app.health.threshold,
        }
    return written


def _capabilities(resource: ComponentResource) -> list[str]:
    kind = resource.spec.type
    settings = {item.name.lower(): item.text for item in resource.spec.metadata}
    if resource.spec.category == "state":
        return list(_STATE)
    if resource.spec.category == "pubsub":
        found = ["SUBSCRIBE_WILDCARDS"] if kind in _WILDCARDS else []
        return [*found, "MESSAGE_TTL"] if kind == "pubsub.rabbitmq" else found
    if resource.spec.category == "bindings":
        if kind in _INPUT_ONLY:
            return ["INPUT_BINDING"]
        return ["INPUT_BINDING", "OUTPUT_BINDING"] if kind in _BOTH else ["OUTPUT_BINDING"]
    many = kind == "secretstores.kubernetes" or truthy(settings.get("multivalued", ""))
    if resource.spec.category == "secretstores" and many:
        return ["MULTIPLE_KEY_VALUES_PER_SECRET"]
    return []
