"""Resources of dapr.io: Configuration, Subscription, HTTPEndpoint.

Read by `manifest/dapr_configuration.py`, `manifest/dapr_subscription.py` and `manifest/dapr_endpoint.py`;
obeyed by `compat/dapr/`. Components are in `component.py`, Resiliency in `resiliency.py`.
Source: contracts, Dapr components, section 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from pelton.model.component import MetadataItem, SecretKeyRef

__all__ = [
    "API_GROUPS",
    "AccessControl",
    "AccessOperation",
    "AccessPolicy",
    "ApiRule",
    "BulkSubscribe",
    "ClientTls",
    "DaprConfiguration",
    "DaprSubscription",
    "Feature",
    "HttpEndpoint",
    "SecretScope",
    "SubscriptionRule",
    "TlsValue",
]


API_GROUPS: Final = (
    "state",
    "publish",
    "bindings",
    "secrets",
    "actors",
    "metadata",
    "invoke",
    "configuration",
    "lock",
    "unlock",
    "jobs",
    "workflows",
    "crypto",
    "subtlecrypto",
    "healthz",
    "shutdown",
    "conversation",
    "subscribe",
)
"""Groups of calls that a Configuration can allow or deny."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretScope:
    """Which secrets of one store an app may read.

    Attributes:
        store_name: The store.
        default_access: `allow` (also for ""), or `deny`.
        allowed: Keys that are allowed; when there are any, no other is.
        denied: Keys that are denied.
    """

    store_name: str
    default_access: str = ""
    allowed: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()

    def allows(self, key: str) -> bool:
        """Tell whether a key may be read."""
        if self.allowed:
            return key in self.allowed
        return key not in self.denied and self.default_access.lower() != "deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRule:
    """A group of calls: its name (`state`, `publish`, ...), version (`v1.0`) and protocol (`http`, `grpc`).

    An empty version or protocol means any.
    """

    name: str
    version: str = ""
    protocol: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessOperation:
    """A method, `/` first, `*` and `**` as wildcards at its end; verbs, `*` for all; `allow` or `deny`."""

    name: str
    verbs: tuple[str, ...] = ()
    action: str = "deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessPolicy:
    """What one calling app may invoke.

    Attributes:
        app_id: The caller.
        default_action: For operations that no entry names; "" for the list's own default.
        trust_domain, namespace: The caller's; "" for `public` and `default`.
        operations: Tried in order.
    """

    app_id: str
    default_action: str = ""
    trust_domain: str = ""
    namespace: str = ""
    operations: tuple[AccessOperation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessControl:
    """Who may invoke methods of the app; without policies and action, everybody may."""

    default_action: str = ""
    trust_domain: str = ""
    policies: tuple[AccessPolicy, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """A feature flag."""

    name: str
    enabled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DaprConfiguration:
    """A Configuration, as far as the runtime obeys it.

    Attributes:
        namespace, name: Which; "" for the one that stands for none.
        labels, annotations: As written.
        secrets: Scopes of secret stores, by store.
        access_control: Who may invoke the app, or None for no rule.
        api_allowed, api_denied: Groups of calls that apps may make; no entry allows all.
        denied_components: Types of components that are not loaded, as `<type>` or `<type>/<version>`.
        features: As written, in order.
        rest: Sections that the runtime does not obey, by name, as written: tracing, metrics, mtls and more.
    """

    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    secrets: tuple[SecretScope, ...] = ()
    access_control: AccessControl | None = None
    api_allowed: tuple[ApiRule, ...] = ()
    api_denied: tuple[ApiRule, ...] = ()
    denied_components: tuple[str, ...] = ()
    features: tuple[Feature, ...] = ()
    rest: dict[str, Any] = field(default_factory=dict)

    def secret_scope(self, store: str) -> SecretScope:
        """Return the scope of a store; one that allows all where none is written."""
        return next(
            (scope for scope in self.secrets if scope.store_name == store), SecretScope(store_name=store)
        )

    def serves(self, name: str, protocol: str, version: str = "v1.0") -> bool:
        """Tell whether apps may use a group of calls over a protocol."""

        def listed(rules: tuple[ApiRule, ...]) -> bool:
            return any(
                rule.name.lower() == name
                and rule.protocol.lower() in {"", protocol}
                and rule.version in {"", version}
                for rule in rules
            )

        if listed(self.api_denied):
            return False
        return not self.api_allowed or listed(self.api_allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionRule:
    """A route for events: `match` is a CEL expression, "" for the default."""

    match: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkSubscribe:
    """Whether events come to the app in bulk, at most so many, waiting at most so long; None = default."""

    enabled: bool = False
    max_messages: int | None = None
    max_wait_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DaprSubscription:
    """A Subscription: apps that get a topic at a route.

    Attributes:
        namespace, name: Which.
        labels, annotations: As written.
        pubsub_name, topic: What is subscribed.
        rules: Routes with an expression, in order.
        default_route: Route for what no rule takes; "" for none.
        metadata: Of the subscription.
        dead_letter_topic: "" for none.
        bulk: None where the manifest has no bulkSubscribe.
        scopes: App ids; empty = all of the namespace.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    pubsub_name: str = ""
    topic: str = ""
    rules: tuple[SubscriptionRule, ...] = ()
    default_route: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    dead_letter_topic: str = ""
    bulk: BulkSubscribe | None = None
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsValue:
    """PEM text, or the Secret that holds it."""

    value: str = ""
    secret_key_ref: SecretKeyRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """How a client shows and checks certificates; each part may be None."""

    root_ca: TlsValue | None = None
    certificate: TlsValue | None = None
    private_key: TlsValue | None = None
    renegotiation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpEndpoint:
    """An HTTPEndpoint: an address outside that apps invoke by its name.

    Attributes:
        namespace, name: Which.
        labels, annotations: As written.
        base_url: `http://` or `https://`.
        headers: Sent with every request.
        tls: The client's side of TLS, or None.
        secret_store: Component that resolves references; "" for the platform's own Secrets.
        scopes: App ids that may use it; empty = all.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    base_url: str = ""
    headers: tuple[MetadataItem, ...] = ()
    tls: ClientTls | None = None
    secret_store: str = ""
    scopes: tuple[str, ...] = ()
