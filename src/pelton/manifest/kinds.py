"""The table of served kinds, and the one front through which every manifest comes in: `admit`.

The API server and `pelton apply` call `admit`; discovery and tables of `get` read `KINDS`. A kind's five
verbs are in the module that its row names, imported when they are asked for: a command waits for the
modules of the kinds that it meets, not for all. Adding a kind is adding a row. Over 600 lines: one table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

from pelton.errors import InvalidError, ManifestError, UnservedVersionError
from pelton.manifest.fields import (
    Decoded,
    Field,
    Path,
    Problem,
    Record,
    copy_json,
    describe,
    either,
    merge_problems,
    nearest,
    render_path,
)
from pelton.manifest.versions import Older

__all__ = ["KINDS", "Admitted", "Column", "Form", "Kind", "Verbs", "admit", "by_resource", "lookup"]


class _Later:
    """A module of this package, imported when something of it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def module(self) -> ModuleType:
        return import_module(f"pelton.manifest.{self._name}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


component_types = _Later("component_types")
dapr = _Later("dapr")
dapr_configuration = _Later("dapr_configuration")
dapr_endpoint = _Later("dapr_endpoint")
dapr_resiliency = _Later("dapr_resiliency")
dapr_subscription = _Later("dapr_subscription")
gateway_api = _Later("gateway_api")
keda = _Later("keda")
keda_http = _Later("keda_http")
keda_rules = _Later("keda_rules")
log_rule = _Later("log_rule")
notification = _Later("notification")
notification_routing = _Later("notification_routing")
observed = _Later("observed")
openfunction_advice = _Later("openfunction_advice")
openfunction_core = _Later("openfunction_core")
openfunction_events = _Later("openfunction_events")
openfunction_networking = _Later("openfunction_networking")
openfunction_revisions = _Later("openfunction_revisions")
strimzi = _Later("strimzi")


class Verbs(Protocol):
    """What a kind's module offers; models differ per kind, hence Any."""

    def read(self, obj: dict[str, Any], /) -> Decoded[Any]:
        """Return the model with problems of type and warnings; never raises for what the object holds."""
        ...

    def decode(self, obj: dict[str, Any], /) -> tuple[Any, list[Problem]]:
        """Return the model and warnings, or raise InvalidError with all problems of type."""
        ...

    def default(self, obj: dict[str, Any], /) -> dict[str, Any]:
        """Return a copy with defaults filled in; idempotent."""
        ...

    def rules(self, model: Any, /) -> list[Problem]:
        """Return the broken rules of a model, in contract order."""
        ...

    def validate(self, obj: Any, /) -> list[Problem]:
        """Return all problems of an object or of a model."""
        ...

    def convert(self, obj: dict[str, Any], api_version: str, /) -> dict[str, Any]:
        """Return the object in another served version, or raise UnservedVersionError."""
        ...

    def encode(self, model: Any, /) -> dict[str, Any]:
        """Write a model as JSON."""
        ...


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `get`.

    Attributes:
        name: Heading.
        type: `string`, `integer`, `boolean` or `date`.
        json_path: JSONPath of Kubernetes, with a leading dot.
        priority: 0 for columns that are always shown, 1 for those of `-o wide`.
        versions: Served versions that have it; empty = all.
    """

    name: str
    type: str
    json_path: str
    priority: int = 0
    versions: tuple[str, ...] = ()


def _no_advice(model: Any) -> list[Problem]:
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How objects of a kind are read, checked, converted and described.

    Attributes:
        verbs: What reads and writes them.
        older: Further served versions; `verbs.convert` leads from and to them.
        advice: Model -> what in it has no effect or is a known mistake, with the field to use.
        spec: Table of their spec, for verbs that are no TableVerbs.
        beside: Fields beside metadata, spec and status.
        observed: Table of their status.
    """

    verbs: Verbs
    older: tuple[Older, ...] = ()
    advice: Callable[[Any], list[Problem]] = _no_advice
    spec: Record | None = None
    beside: tuple[Field, ...] = ()
    observed: tuple[Field, ...] = field(default_factory=lambda: observed.CONDITIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A served kind.

    Attributes:
        group, version, kind: Its names; `<group>/<version>` is the apiVersion in which objects are stored.
        older_versions: Further served versions.
        plural, singular, short_names: As in paths and on the command line, lower case.
        namespaced: Whether its objects live in a namespace.
        categories: Names that stand for several kinds, e.g. `all`.
        status: Whether it has a status subresource.
        columns: Columns of `get` after the name.
        form: Imports and returns how its objects are treated; see the properties of these names.
        doc: What it is, in a sentence: the description in its schema.
        spec_required: Whether the schema asks for a spec.
    """

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    form: Callable[[], Form]
    older_versions: tuple[str, ...] = ()
    short_names: tuple[str, ...] = ()
    namespaced: bool = True
    categories: tuple[str, ...] = ()
    status: bool = False
    columns: tuple[Column, ...] = ()
    doc: str = ""
    spec_required: bool = True

    @property
    def api_version(self) -> str:
        """`<group>/<version>` of the storage version."""
        return f"{self.group}/{self.version}"

    @property
    def versions(self) -> tuple[str, ...]:
        """All served versions, the storage version first."""
        return (self.version, *self.older_versions)

    @property
    def verbs(self) -> Verbs:
        """See `Form`."""
        return _loaded(self.form).verbs

    @property
    def older(self) -> tuple[Older, ...]:
        """See `Form`."""
        return _loaded(self.form).older

    @property
    def advice(self) -> Callable[[Any], list[Problem]]:
        """See `Form`."""
        return _loaded(self.form).advice

    @property
    def spec(self) -> Record | None:
        """See `Form`."""
        return _loaded(self.form).spec

    @property
    def beside(self) -> tuple[Field, ...]:
        """See `Form`."""
        return _loaded(self.form).beside

    @property
    def observed(self) -> tuple[Field, ...]:
        """See `Form`."""
        return _loaded(self.form).observed

    def columns_of(self, version: str) -> tuple[Column, ...]:
        """Return the columns of a served version."""
        return tuple(column for column in self.columns if version in (column.versions or self.versions))

    @property
    def resource(self) -> str:
        """`<plural>.<group>`, the name under which a Store keeps it."""
        return f"{self.plural}.{self.group}"

    @property
    def list_kind(self) -> str:
        """Kind of a list of it."""
        return f"{self.kind}List"


@cache
def _loaded(form: Callable[[], Form]) -> Form:
    return form()


_AGE = Column("Age", "date", ".metadata.creationTimestamp")
_AUTHENTICATION_COLUMNS = (
    Column("PodIdentity", "string", ".spec.podIdentity.provider"),
    Column("Secret", "string", ".spec.secretTargetRef[0].name"),
    Column("Env", "string", ".spec.env[0].name"),
    Column("VaultAddress", "string", ".spec.hashiCorpVault.address"),
    _AGE,
)

KINDS: tuple[Kind, ...] = (
    Kind(
        group="core.openfunction.io",
        version="v1beta2",
        older_versions=("v1beta1",),
        kind="Function",
        plural="functions",
        singular="function",
        short_names=("fn",),
        status=True,
        columns=(
            Column("BuildState", "string", ".status.build.state"),
            Column("ServingState", "string", ".status.serving.state"),
            # Whole mappings: the original prints them, nobody can read them, so only `-o wide` shows them.
            Column("Builder", "string", ".status.build.resourceRef", 1),
            Column("Serving", "string", ".status.serving.resourceRef", 1),
            Column("Address", "string", '.status.addresses[?(@.type=="Internal")].value'),
            _AGE,
        ),
        doc="A function: where its source is, what calls it, where it sends to, how it scales.",
        form=lambda: Form(
            verbs=openfunction_core.FUNCTION,
            older=openfunction_core.FUNCTION.older,
            advice=openfunction_advice.function_advice,
            observed=observed.FUNCTION,
        ),
    ),
    Kind(
        group="core.openfunction.io",
        version="v1beta2",
        older_versions=("v1beta1",),
        kind="Builder",
        plural="builders",
        singular="builder",
        short_names=("fb",),
        status=True,
        columns=(
            Column("Phase", "string", ".status.phase"),
            Column("State", "string", ".status.state"),
            Column("Reason", "string", ".status.reason"),
            Column("BuildDuration", "string", ".status.buildDuration", versions=("v1beta2",)),
            _AGE,
        ),
        doc="One build of a Function.",
        form=lambda: Form(
            verbs=openfunction_revisions.BUILDER,
            older=openfunction_revisions.BUILDER.older,
            observed=observed.BUILDER,
        ),
    ),
    Kind(
        group="core.openfunction.io",
        version="v1beta2",
        older_versions=("v1beta1",),
        kind="Serving",
        plural="servings",
        singular="serving",
        status=True,
        columns=(
            Column("Phase", "string", ".status.phase"),
            Column("State", "string", ".status.state"),
            _AGE,
        ),
        doc="One revision of a Function.",
        form=lambda: Form(
            verbs=openfunction_revisions.SERVING_KIND,
            older=openfunction_revisions.SERVING_KIND.older,
            observed=observed.SERVING,
        ),
    ),
    Kind(
        group="dapr.io",
        version="v1alpha1",
        kind="Component",
        plural="components",
        singular="component",
        columns=(_AGE,),
        doc="An outside system by type and settings, which functions refer to by name.",
        form=lambda: Form(
            verbs=dapr.module,
            advice=component_types.component_advice,
            spec=dapr.STANDALONE_SPEC,
            beside=dapr.BESIDE,
        ),
    ),
    Kind(
        group="dapr.io",
        version="v2alpha1",
        older_versions=("v1alpha1",),
        kind="Subscription",
        plural="subscriptions",
        singular="subscription",
        columns=(
            Column("Pubsub", "string", ".spec.pubsubname"),
            Column("Topic", "string", ".spec.topic"),
            _AGE,
        ),
        doc="Which apps get the events of a topic, at which of their routes.",
        form=lambda: Form(
            verbs=dapr_subscription.SUBSCRIPTION,
            older=dapr_subscription.SUBSCRIPTION.older,
            beside=dapr_subscription.SUBSCRIPTION.beside,
        ),
    ),
    Kind(
        group="dapr.io",
        version="v1alpha1",
        kind="Configuration",
        plural="configurations",
        singular="configuration",
        columns=(_AGE,),
        doc="What apps may do: secrets, calls of each other, groups of calls, types of components.",
        spec_required=False,
        form=lambda: Form(
            verbs=dapr_configuration.CONFIGURATION, advice=dapr_configuration.configuration_advice
        ),
    ),
    Kind(
        group="dapr.io",
        version="v1alpha1",
        kind="HTTPEndpoint",
        plural="httpendpoints",
        singular="httpendpoint",
        columns=(Column("BaseUrl", "string", ".spec.baseUrl"), _AGE),
        doc="An address outside that apps invoke by its name.",
        form=lambda: Form(verbs=dapr_endpoint.HTTP_ENDPOINT, beside=dapr_endpoint.HTTP_ENDPOINT.beside),
    ),
    Kind(
        group="dapr.io",
        version="v1alpha1",
        kind="Resiliency",
        plural="resiliencies",
        singular="resiliency",
        columns=(_AGE,),
        doc="How often, how long and when no longer calls between apps and to components are tried.",
        form=lambda: Form(
            verbs=dapr_resiliency.RESILIENCY,
            advice=dapr_resiliency.resiliency_advice,
            beside=dapr_resiliency.RESILIENCY.beside,
        ),
    ),
    Kind(
        group="kafka.strimzi.io",
        version="v1beta2",
        kind="KafkaTopic",
        plural="kafkatopics",
        singular="kafkatopic",
        short_names=("kt",),
        categories=("strimzi",),
        status=True,
        columns=(
            Column("Cluster", "string", r".metadata.labels.strimzi\.io/cluster"),
            Column("Partitions", "integer", ".spec.partitions"),
            Column("Replication factor", "integer", ".spec.replicas"),
            Column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
        ),
        doc="A topic that has to exist in a Kafka cluster.",
        form=lambda: Form(verbs=strimzi.KAFKA_TOPIC, observed=observed.KAFKA_TOPIC),
    ),
    Kind(
        group="events.openfunction.io",
        version="v1alpha1",
        kind="EventSource",
        plural="eventsources",
        singular="eventsource",
        short_names=("es",),
        status=True,
        columns=(
            Column("EventBus", "string", ".spec.eventBus"),
            Column("Sink", "string", ".spec.sink.uri"),
            Column("Status", "string", ".status.conditions[-1].type"),
            _AGE,
        ),
        doc="Brings outside events onto an event bus, to a sink, or both.",
        form=lambda: Form(
            verbs=openfunction_events.EVENT_SOURCE,
            advice=openfunction_events.source_advice,
            observed=observed.EVENTS,
        ),
    ),
    Kind(
        group="events.openfunction.io",
        version="v1alpha1",
        kind="EventBus",
        plural="eventbuses",
        singular="eventbus",
        short_names=("eb",),
        columns=(_AGE,),
        doc="What EventSources publish on and Triggers listen to.",
        spec_required=False,
        form=lambda: Form(verbs=openfunction_events.EVENT_BUS, advice=openfunction_events.bus_advice),
    ),
    Kind(
        group="events.openfunction.io",
        version="v1alpha1",
        kind="ClusterEventBus",
        plural="clustereventbuses",
        singular="clustereventbus",
        short_names=("ceb",),
        namespaced=False,
        columns=(_AGE,),
        doc="An EventBus for all namespaces.",
        spec_required=False,
        form=lambda: Form(verbs=openfunction_events.CLUSTER_EVENT_BUS, advice=openfunction_events.bus_advice),
    ),
    Kind(
        group="events.openfunction.io",
        version="v1alpha1",
        kind="Trigger",
        plural="triggers",
        singular="trigger",
        status=True,
        columns=(
            Column("EventBus", "string", ".spec.eventBus"),
            Column("Status", "string", ".status.conditions[-1].type"),
            _AGE,
        ),
        doc="Conditions over events of several sources, and who gets the event when one holds.",
        form=lambda: Form(
            verbs=openfunction_events.TRIGGER,
            advice=openfunction_events.trigger_advice,
            observed=observed.EVENTS,
        ),
    ),
    Kind(
        group="gateway.networking.k8s.io",
        version="v1",
        older_versions=("v1beta1",),
        kind="HTTPRoute",
        plural="httproutes",
        singular="httproute",
        categories=("gateway-api",),
        status=True,
        columns=(Column("Hostnames", "string", ".spec.hostnames"), _AGE),
        doc="Which requests go where, by host, path, headers and more.",
        form=lambda: Form(verbs=gateway_api.HTTP_ROUTE, older=gateway_api.HTTP_ROUTE.older),
    ),
    Kind(
        group="gateway.networking.k8s.io",
        version="v1",
        older_versions=("v1beta1",),
        kind="Gateway",
        plural="gateways",
        singular="gateway",
        short_names=("gtw",),
        categories=("gateway-api",),
        status=True,
        columns=(
            Column("Class", "string", ".spec.gatewayClassName"),
            Column("Address", "string", '.status.addresses[?(@.type=="IPAddress")].value'),
            Column("Programmed", "string", '.status.conditions[?(@.type=="Programmed")].status'),
            _AGE,
        ),
        doc="Where requests come in: ports, hosts, certificates.",
        form=lambda: Form(verbs=gateway_api.GATEWAY, older=gateway_api.GATEWAY.older),
    ),
    Kind(
        group="gateway.networking.k8s.io",
        version="v1",
        older_versions=("v1beta1",),
        kind="GatewayClass",
        plural="gatewayclasses",
        singular="gatewayclass",
        short_names=("gc",),
        namespaced=False,
        categories=("gateway-api",),
        status=True,
        columns=(
            Column("Controller", "string", ".spec.controllerName"),
            Column("Accepted", "string", '.status.conditions[?(@.type=="Accepted")].status'),
            _AGE,
            Column("Description", "string", ".spec.description", 1),
        ),
        doc="A class of Gateways and who serves them.",
        form=lambda: Form(verbs=gateway_api.GATEWAY_CLASS, older=gateway_api.GATEWAY_CLASS.older),
    ),
    Kind(
        group="gateway.networking.k8s.io",
        version="v1",
        older_versions=("v1beta1",),
        kind="ReferenceGrant",
        plural="referencegrants",
        singular="referencegrant",
        short_names=("refgrant",),
        categories=("gateway-api",),
        columns=(_AGE,),
        doc="Which objects of other namespaces may refer to objects of this one.",
        form=lambda: Form(verbs=gateway_api.REFERENCE_GRANT, older=gateway_api.REFERENCE_GRANT.older),
    ),
    Kind(
        group="networking.openfunction.io",
        version="v1alpha1",
        kind="Gateway",
        plural="gateways",
        singular="gateway",
        status=True,
        columns=(
            Column("Address", "string", ".status.addresses[0].value"),
            Column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
            _AGE,
        ),
        doc="Where functions are reached: domains, names of hosts and paths, listeners.",
        form=lambda: Form(verbs=openfunction_networking.GATEWAY, observed=observed.GATEWAY),
    ),
    Kind(
        group="notification.kubesphere.io",
        version="v2beta2",
        kind="Receiver",
        plural="receivers",
        singular="receiver",
        short_names=("nr",),
        namespaced=False,
        categories=("notification-manager",),
        status=True,
        columns=(
            Column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason'),
            _AGE,
        ),
        doc="Which alerts go where.",
        form=lambda: Form(verbs=notification.module, advice=notification.advice, spec=notification.SPEC),
    ),
    Kind(
        group="notification.kubesphere.io",
        version="v2beta2",
        kind="NotificationManager",
        plural="notificationmanagers",
        singular="notificationmanager",
        short_names=("nm",),
        namespaced=False,
        categories=("notification-manager",),
        status=True,
        columns=(_AGE,),
        doc="How alerts are shared out between everybody's and tenants' receivers.",
        form=lambda: Form(
            verbs=notification_routing.NOTIFICATION_MANAGER, advice=notification_routing.manager_advice
        ),
    ),
    Kind(
        group="notification.kubesphere.io",
        version="v2beta2",
        kind="Config",
        plural="configs",
        singular="config",
        short_names=("nc",),
        namespaced=False,
        categories=("notification-manager",),
        status=True,
        columns=(_AGE,),
        doc="Settings that receivers share: tokens and addresses.",
        form=lambda: Form(verbs=notification_routing.CONFIG, advice=notification_routing.config_advice),
    ),
    Kind(
        group="notification.kubesphere.io",
        version="v2beta2",
        kind="Router",
        plural="routers",
        singular="router",
        namespaced=False,
        categories=("notification-manager",),
        status=True,
        columns=(_AGE,),
        doc="Sends some alerts to receivers of its choice.",
        form=lambda: Form(verbs=notification_routing.ROUTER),
    ),
    Kind(
        group="notification.kubesphere.io",
        version="v2beta2",
        kind="Silence",
        plural="silences",
        singular="silence",
        namespaced=False,
        categories=("notification-manager",),
        status=True,
        columns=(_AGE,),
        doc="Keeps alerts back for a time.",
        form=lambda: Form(verbs=notification_routing.SILENCE),
    ),
    Kind(
        group="keda.sh",
        version="v1alpha1",
        kind="ScaledObject",
        plural="scaledobjects",
        singular="scaledobject",
        short_names=("so",),
        status=True,
        columns=(
            Column("ScaleTargetKind", "string", ".status.scaleTargetKind"),
            Column("ScaleTargetName", "string", ".spec.scaleTargetRef.name"),
            Column("Min", "integer", ".spec.minReplicaCount"),
            Column("Max", "integer", ".spec.maxReplicaCount"),
            Column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Active", "string", '.status.conditions[?(@.type=="Active")].status'),
            Column("Fallback", "string", '.status.conditions[?(@.type=="Fallback")].status'),
            Column("Paused", "string", '.status.conditions[?(@.type=="Paused")].status'),
            Column("Triggers", "string", ".status.triggersTypes"),
            Column("Authentications", "string", ".status.authenticationsTypes"),
            _AGE,
        ),
        doc="Scales a workload by triggers: queues, schedules, metrics.",
        form=lambda: Form(
            verbs=keda.SCALED_OBJECT, advice=keda_rules.scaled_object_advice, observed=observed.SCALED_OBJECT
        ),
    ),
    Kind(
        group="keda.sh",
        version="v1alpha1",
        kind="ScaledJob",
        plural="scaledjobs",
        singular="scaledjob",
        short_names=("sj",),
        status=True,
        columns=(
            Column("Min", "integer", ".spec.minReplicaCount"),
            Column("Max", "integer", ".spec.maxReplicaCount"),
            Column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Active", "string", '.status.conditions[?(@.type=="Active")].status'),
            Column("Paused", "string", '.status.conditions[?(@.type=="Paused")].status'),
            _AGE,
        ),
        doc="Starts jobs by triggers, one per piece of work.",
        form=lambda: Form(
            verbs=keda.SCALED_JOB, advice=keda_rules.scaled_job_advice, observed=observed.SCALED_JOB
        ),
    ),
    Kind(
        group="keda.sh",
        version="v1alpha1",
        kind="TriggerAuthentication",
        plural="triggerauthentications",
        singular="triggerauthentication",
        short_names=("ta",),
        status=True,
        columns=_AUTHENTICATION_COLUMNS,
        doc="Where triggers of a namespace get their secret settings.",
        form=lambda: Form(
            verbs=keda.TRIGGER_AUTHENTICATION,
            advice=keda_rules.authentication_advice,
            observed=observed.TRIGGER_AUTHENTICATION,
        ),
    ),
    Kind(
        group="keda.sh",
        version="v1alpha1",
        kind="ClusterTriggerAuthentication",
        plural="clustertriggerauthentications",
        singular="clustertriggerauthentication",
        short_names=("cta",),
        namespaced=False,
        status=True,
        columns=_AUTHENTICATION_COLUMNS,
        doc="Where triggers of all namespaces get their secret settings.",
        form=lambda: Form(
            verbs=keda.CLUSTER_TRIGGER_AUTHENTICATION,
            advice=keda_rules.authentication_advice,
            observed=observed.TRIGGER_AUTHENTICATION,
        ),
    ),
    Kind(
        group="pelton.dev",
        version="v1alpha1",
        kind="LogRule",
        plural="logrules",
        singular="logrule",
        status=True,
        columns=(
            Column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason'),
            Column("Firing", "integer", ".status.firing"),
            _AGE,
        ),
        doc="Alerts out of log records: which count, and how many in what time make an alert.",
        form=lambda: Form(verbs=log_rule.LOG_RULE, observed=observed.LOG_RULE),
    ),
    Kind(
        group="http.keda.sh",
        version="v1beta1",
        kind="InterceptorRoute",
        plural="interceptorroutes",
        singular="interceptorroute",
        status=True,
        columns=(
            Column("TargetService", "string", ".spec.target.service"),
            Column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
            _AGE,
        ),
        doc="Requests that wake a Service and decide how many instances are behind it.",
        form=lambda: Form(verbs=keda_http.INTERCEPTOR_ROUTE, advice=keda_http.interceptor_route_advice),
    ),
    Kind(
        group="http.keda.sh",
        version="v1alpha1",
        kind="HTTPScaledObject",
        plural="httpscaledobjects",
        singular="httpscaledobject",
        short_names=("httpso",),
        status=True,
        columns=(
            Column("TargetWorkload", "string", ".spec.scaleTargetRef.name"),
            Column("TargetService", "string", ".spec.scaleTargetRef.service"),
            Column("MinReplicas", "integer", ".spec.replicas.min"),
            Column("MaxReplicas", "integer", ".spec.replicas.max"),
            _AGE,
            Column("Active", "string", '.status.conditions[?(@.type=="Ready")].status'),
        ),
        doc="Scales a workload by the requests to its Service.",
        form=lambda: Form(
            verbs=keda_http.HTTP_SCALED_OBJECT,
            advice=keda_http.http_scaled_object_advice,
            observed=observed.HTTP_SCALED_OBJECT,
        ),
    ),
)

_BY_KIND = {(kind.group, kind.kind): kind for kind in KINDS}


def lookup(api_version: Any, kind: Any) -> Kind:
    """Return the row of a kind.

    Args:
        api_version: `<group>/<version>` as a manifest has it.
        kind: E.g. `Function`.

    Raises:
        UnservedVersionError: The kind is known, that version of it is not served.
        ManifestError: The kind is not known.
    """
    group, slash, version = api_version.partition("/") if isinstance(api_version, str) else ("", "", "")
    found = _BY_KIND.get((group, kind)) if isinstance(kind, str) else None
    if found is not None and version in found.versions:
        return found
    message = f"no matches for kind {_quoted(kind)} in version {_quoted(api_version)}"
    if found is not None:
        raise UnservedVersionError(
            message,
            hint=f"{kind} is served as {either([f'{group}/{each}' for each in found.versions])}: "
            f"write apiVersion: {found.api_version}, and adapt the fields to it",
        )
    if isinstance(kind, str) and kind in _GONE and group.endswith(".openfunction.io"):
        raise ManifestError(message, hint=_GONE[kind])
    served = [f"{row.kind} ({row.api_version})" for row in _nearest_kinds(group if slash else "", str(kind))]
    raise ManifestError(message, hint=f"served: {', '.join(served)}")


_GONE = {
    "Domain": "OpenFunction has replaced Domain: write a Gateway of networking.openfunction.io/v1alpha1 "
    "with spec.domain, or leave it out; there is one already"
}


def _quoted(value: Any) -> str:
    return describe(value) if isinstance(value, str | None) else f'"{describe(value)}"'


def _nearest_kinds(group: str, kind: str) -> list[Kind]:
    """Return kinds of that name in other groups, else the most similar name, else the whole table."""
    close = nearest(kind, (row.kind for row in KINDS))
    return (
        [row for row in KINDS if row.kind == close]
        or [row for row in KINDS if row.group == group]
        or list(KINDS)
    )


def by_resource(word: str) -> Kind:
    """Return the row that a user means: plural, singular, short name or kind; `.group` may follow.

    Raises:
        ManifestError: Nothing has that name.
    """
    name, _, group = word.lower().partition(".")
    for row in KINDS:
        if name in (row.plural, row.singular, *row.short_names) and group in ("", row.group):
            return row
    close = nearest(name, (item for row in KINDS for item in (row.plural, row.singular, *row.short_names)))
    raise ManifestError(
        f"no kind {describe(word)} is known here" + (f"; did you mean {close}?" if close else ""),
        hint=f"known: {', '.join(row.plural for row in KINDS)}",
    )


@dataclass(frozen=True, slots=True)
class Admitted:
    """An object that may be stored.

    Attributes:
        obj: With defaults, without unknown fields; a new object.
        warnings: Sentences for the user, each with file and line (if known) and field path.
        kind: Its row.
        unknown: Paths of the unknown fields that were dropped; each has a warning, too.
    """

    obj: dict[str, Any]
    warnings: tuple[str, ...]
    kind: Kind
    unknown: tuple[str, ...] = ()


def admit(obj: dict[str, Any], *, where: Callable[[str], str] | None = None) -> Admitted:
    """Look up, convert to the storage version, default, decode and validate an object.

    Args:
        obj: As written, in any served version; not changed.
        where: Field path -> `file:line`, e.g. `Document.where`; None when there is no file.

    Raises:
        UnservedVersionError: Another version of the kind is served.
        ManifestError: The kind is not known.
        InvalidError: With all problems: wrong types, then broken rules in contract order. `causes` has the
            bare sentences, the message and `where` have file and line too.
    """
    locate = where or _nowhere
    try:
        kind = lookup(obj.get("apiVersion"), obj.get("kind"))
    except ManifestError as error:
        error.where = error.where or locate(
            "apiVersion" if isinstance(error, UnservedVersionError) else "kind"
        )
        raise
    converted, notes, dropped = _in_storage_version(kind, obj, locate)
    filled = kind.verbs.default(converted)
    found = kind.verbs.read(filled)
    problems = merge_problems(found.problems, kind.verbs.rules(found.model))
    warnings = [*notes, *found.warnings]
    if not found.problems:
        # What an older version has in annotations has been taken over into fields by the conversion.
        taken = (
            ("metadata.annotations.plugins", "metadata.annotations[plugins.") if converted is not obj else ()
        )
        warnings += [item for item in kind.advice(found.model) if not item.path.startswith(taken)]
    if problems:
        raise _invalid(kind, obj, problems, warnings, locate, converted=converted is not obj)
    for path in found.unknown:
        _prune(filled, path)
    unknown = tuple(render_path(path) for path in (*dropped, *found.unknown))
    return Admitted(filled, tuple(_located(warnings, locate)), kind, unknown)


def _in_storage_version(
    kind: Kind, obj: dict[str, Any], locate: Callable[[str], str]
) -> tuple[dict[str, Any], list[Problem], Sequence[Path]]:
    """Return the object, converted if need be, what the user should know about that, and what was dropped."""
    older = next((each for each in kind.older if obj["apiVersion"] == f"{kind.group}/{each.version}"), None)
    if older is None:
        return obj, [], ()
    reading = older.read(obj)
    if reading.problems:
        raise _invalid(kind, obj, reading.problems, reading.warnings, locate)
    known: dict[str, Any] = copy_json(obj)
    for path in reading.unknown:
        _prune(known, path)
    notes = [*reading.warnings, *older.losses(known)]
    return older.to_storage(known, kind.version), notes, reading.unknown


def _nowhere(path: str) -> str:
    return ""


def _located(findings: Iterable[Problem], locate: Callable[[str], str]) -> list[str]:
    lines = []
    for path, message in findings:
        place = locate(path)
        lines.append(f"{place}: {path}: {message}" if place else f"{path}: {message}")
    return lines


def _invalid(
    kind: Kind,
    obj: dict[str, Any],
    problems: Sequence[Problem],
    warnings: Sequence[Problem],
    locate: Callable[[str], str],
    *,
    converted: bool = False,
) -> InvalidError:
    """Make the error; its message has the warnings too: a misspelt field is often why another is missing."""
    metadata = obj.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    fields = f" (in the fields of {kind.version})" if converted else ""
    lines = [*_located(problems, locate), *(f"note: {line}" for line in _located(warnings, locate))]
    return InvalidError(
        f"{kind.kind} {name or '(unnamed)'} has {count}{fields}:" + "".join(f"\n  {line}" for line in lines),
        causes=tuple((path, message) for path, message in problems),
        where=locate(problems[0].path),
    )


def _prune(obj: dict[str, Any], path: Path) -> None:
    """Drop an unknown field, as an API server with a schema does; positions in lists never shift by this."""
    target: Any = obj
    for part in path[:-1]:
        target = target[part]
    target.pop(path[-1], None)
