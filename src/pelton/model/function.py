"""The Function resource in the platform's words: what a user asked for, complete, before anything is decided.

`manifest/openfunction_core` makes and writes these; `plan/function` reads them. Absent stays visible: "" or
None or an empty collection means "not written", and the attribute's text says what that stands for. Durations
are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pelton.model.component import ComponentSpec
from pelton.model.gateway_api import HttpRouteRule

__all__ = [
    "FUNCTION_CONTAINER",
    "BehaviorRules",
    "Build",
    "BuildParam",
    "DaprInput",
    "DaprOutput",
    "DaprTrigger",
    "Exporter",
    "Fallback",
    "Function",
    "GatewayRef",
    "Hooks",
    "HpaBehavior",
    "HpaConfig",
    "HttpRoute",
    "HttpScaledObject",
    "HttpTrigger",
    "KedaAuthenticationRef",
    "KedaOptions",
    "KedaTrigger",
    "ParamValue",
    "ScaleAdvanced",
    "ScaleOptions",
    "ScalePolicy",
    "ScaledJob",
    "ScaledObject",
    "ScalingStrategy",
    "Serving",
    "Shipwright",
    "Source",
    "Strategy",
    "Tracing",
    "TracingProvider",
    "Triggers",
    "ValueRef",
]

FUNCTION_CONTAINER = "function"
"""Name of the user's container in spec.serving.template."""

# ------------------------------------------------------------------------------------------------------ build


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where source code comes from; `bundle_image` wins over `url`.

    Attributes:
        url: Git URL, `file:` URL, or a path relative to the manifest file.
        revision: Branch, tag or commit; "" for the default branch.
        sub_path: Directory inside it, relative; "" for the root.
        credentials: Secret with access data, or None; "" when the reference names nothing.
        bundle_image: Image that contains the source, or None.
    """

    url: str = ""
    revision: str = ""
    sub_path: str = ""
    credentials: str | None = None
    bundle_image: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueRef:
    """An entry of a ConfigMap or Secret; `format` is a template with `${...}` for the value, or ""."""

    name: str
    key: str
    format: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamValue:
    """One value of a build parameter: literal, from a ConfigMap, or from a Secret."""

    value: str | None = None
    config_map_value: ValueRef | None = None
    secret_value: ValueRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildParam:
    """A parameter of the build strategy: one value (literal or reference), or a list in `values`."""

    name: str
    value: str | None = None
    config_map_value: ValueRef | None = None
    secret_value: ValueRef | None = None
    values: tuple[ParamValue, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """A Shipwright strategy; `kind` BuildStrategy or ClusterBuildStrategy, "" leaves it to Shipwright."""

    name: str
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipwright:
    """Settings for builds by Shipwright.

    Attributes:
        strategy: None for the platform's default strategy.
        params: Parameters in written order.
        timeout_s: Seconds, None when absent. The original validates it and never uses it.
    """

    strategy: Strategy | None = None
    params: tuple[BuildParam, ...] = ()
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """How source becomes something that runs.

    Attributes:
        source: None only in an invalid Function.
        builder: Builder image, or "".
        builder_credentials: Secret for the builder image, or None.
        env: FUNC_NAME, FUNC_SRC, FUNC_TYPE and other settings of the build.
        dockerfile: Path of a Dockerfile, or "".
        shipwright: None when absent.
        timeout_s: Seconds for the whole build; None for no limit of the user's.
        successful_builds_history_limit: Builds kept; None when absent (0).
        failed_builds_history_limit: Builds kept; None when absent (1).
        builder_max_age_s: Seconds completed builds are kept; None or 0 = for ever.
    """

    source: Source | None = None
    builder: str = ""
    builder_credentials: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    dockerfile: str = ""
    shipwright: Shipwright | None = None
    timeout_s: float | None = None
    successful_builds_history_limit: int | None = None
    failed_builds_history_limit: int | None = None
    builder_max_age_s: float | None = None


# --------------------------------------------------------------------------------------------------- triggers


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayRef:
    """A Gateway resource."""

    name: str
    namespace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRoute:
    """How requests reach the function.

    Attributes:
        gateway: None only before defaulting.
        hostnames: At most 16, lower case, `*.` in front allowed; empty = from the Gateway's template.
        rules: At most 16 HTTPRoute rules as written, with the schema's defaults filled in.
        parsed: The same as models.
    """

    gateway: GatewayRef | None = None
    hostnames: tuple[str, ...] = ()
    rules: tuple[dict[str, Any], ...] = ()
    parsed: tuple[HttpRouteRule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTrigger:
    """HTTP requests drive the function.

    Attributes:
        port: Port of the user's container; None only before defaulting.
        engine: `knative` or `keda`; "" means `knative`.
        route: None only before defaulting.
    """

    port: int | None = None
    engine: str = ""
    route: HttpRoute | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DaprTrigger:
    """Events of a component drive the function.

    Attributes:
        name: Logical name of the component: in bindings, pubsub or states, else a standalone Component.
        type: Component type; "" = looked up.
        topic: Topic for pub/sub, else "".
        input_name: Name the function knows it by; "" = `name`.
    """

    name: str
    type: str = ""
    topic: str = ""
    input_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaprInput:
    """An extra data source (a state store, say), never a trigger; fields as in DaprTrigger."""

    name: str
    type: str = ""
    topic: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaprOutput:
    """Where a function may send.

    Attributes:
        name, type, topic: As in DaprTrigger.
        operation: Binding operation, e.g. `create`; "" leaves it to the binding.
        metadata: Request metadata, name -> text.
        output_name: Name the function uses; "" = `name`.
    """

    name: str
    type: str = ""
    topic: str = ""
    operation: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    output_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Triggers:
    """What drives the function; after defaulting there is `http`, or `dapr` is not empty, or both."""

    http: HttpTrigger | None = None
    dapr: tuple[DaprTrigger, ...] = ()
    inputs: tuple[DaprInput, ...] = ()


# ---------------------------------------------------------------------------------------------------- scaling


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePolicy:
    """HPA policy: at most `value` pods or percent (`type` Pods or Percent) within `period_s` seconds."""

    type: str
    value: int
    period_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BehaviorRules:
    """HPA rules of one direction.

    Attributes:
        stabilization_window_s: 0 to 3600 seconds; None for the HPA's default (up 0, down 300).
        select_policy: `Max`, `Min` or `Disabled`; "" means `Max`.
        policies: Empty for the HPA's defaults.
        tolerance: Fraction by which the metric may be off before this direction is taken; None for 0.1.
    """

    stabilization_window_s: int | None = None
    select_policy: str = ""
    policies: tuple[ScalePolicy, ...] = ()
    tolerance: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HpaBehavior:
    """HPA behaviour in both directions."""

    scale_up: BehaviorRules | None = None
    scale_down: BehaviorRules | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HpaConfig:
    """Settings of the HPA that KEDA makes; `name` "" = KEDA's own name."""

    name: str = ""
    behavior: HpaBehavior | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleAdvanced:
    """KEDA's advanced settings; restore_to_original_replica_count None = no."""

    restore_to_original_replica_count: bool | None = None
    horizontal_pod_autoscaler_config: HpaConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """Replicas to run once a scaler failed `failure_threshold` times in a row."""

    failure_threshold: int
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledObject:
    """KEDA scaling of a Deployment or StatefulSet.

    Attributes:
        polling_interval_s: Seconds between looks at the triggers; None for KEDA's 30.
        cooldown_period_s: Seconds after the last activity before zero; None for KEDA's 300.
        advanced, fallback: None when absent.
    """

    polling_interval_s: int | None = None
    cooldown_period_s: int | None = None
    advanced: ScaleAdvanced | None = None
    fallback: Fallback | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingStrategy:
    """How KEDA counts jobs.

    Attributes:
        strategy: `default`, `custom` or `accurate`; "" means `default`.
        queue_length_deduction: For `custom`, jobs; None when absent.
        running_job_percentage: For `custom`, e.g. `50%`; "" when absent.
        pending_pod_conditions: Pod conditions that still count as pending.
        multiple_scalers_calculation: `max`, `min`, `avg` or `sum`; "" means `max`.
    """

    strategy: str = ""
    queue_length_deduction: int | None = None
    running_job_percentage: str = ""
    pending_pod_conditions: tuple[str, ...] = ()
    multiple_scalers_calculation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledJob:
    """KEDA scaling by Jobs.

    Attributes:
        restart_policy: `Always`, `OnFailure` or `Never`; "" means `OnFailure`.
        polling_interval_s: Seconds; None for KEDA's 30.
        successful_jobs_history_limit, failed_jobs_history_limit: Jobs kept; None for KEDA's 100.
        scaling_strategy: None when absent.
    """

    restart_policy: str = ""
    polling_interval_s: int | None = None
    successful_jobs_history_limit: int | None = None
    failed_jobs_history_limit: int | None = None
    scaling_strategy: ScalingStrategy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpScaledObject:
    """Scaling by KEDA's HTTP add-on: absent target is 100 requests, absent cooldown 300 seconds."""

    target_pending_requests: int | None = None
    cooldown_period_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KedaAuthenticationRef:
    """A TriggerAuthentication; `kind` "" means `TriggerAuthentication`."""

    name: str
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KedaTrigger:
    """A KEDA scale trigger.

    Attributes:
        type: Scaler type, e.g. `kafka`.
        metadata: Scaler settings.
        name: Trigger name, or "".
        authentication_ref: None when absent.
        metric_type: `AverageValue`, `Value` or `Utilization`; "" for the scaler's own.
        use_cached_metrics: None when absent (no).
    """

    type: str
    metadata: dict[str, str] = field(default_factory=dict)
    name: str = ""
    authentication_ref: KedaAuthenticationRef | None = None
    metric_type: str = ""
    use_cached_metrics: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KedaOptions:
    """KEDA settings; at most one of the three objects is given."""

    triggers: tuple[KedaTrigger, ...] = ()
    scaled_object: ScaledObject | None = None
    scaled_job: ScaledJob | None = None
    http_scaled_object: HttpScaledObject | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleOptions:
    """Bounds and drivers of scaling.

    Attributes:
        min_replicas, max_replicas: As written; None when absent.
        knative: `autoscaling.knative.dev/*` annotations, name -> text.
        keda: None when absent.
    """

    min_replicas: int | None = None
    max_replicas: int | None = None
    knative: dict[str, str] = field(default_factory=dict)
    keda: KedaOptions | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """Replicas (minimum, maximum), both inclusive, with the presumed 0 and 10 where absent."""
        low = 0 if self.min_replicas is None else self.min_replicas
        high = 10 if self.max_replicas is None else self.max_replicas
        return low, high


# ---------------------------------------------------------------------------------------------------- serving


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Hooks around each invocation, in order; policy `Append` to the global ones (also "") or `Override`."""

    pre: tuple[str, ...] = ()
    post: tuple[str, ...] = ()
    policy: str = ""

    @property
    def overrides(self) -> bool:
        """Whether the platform's global hooks are left out."""
        return self.policy == "Override"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    """Where an OpenTelemetry provider sends; `timeout` and the rest are handed on as text."""

    name: str
    endpoint: str
    headers: str = ""
    compression: str = ""
    timeout: str = ""
    protocol: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingProvider:
    """Who receives traces; `name` is `skywalking` or `opentelemetry`."""

    name: str
    oap_server: str = ""
    exporter: Exporter | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """Tracing of invocations; provider is None only in an invalid Function."""

    enabled: bool = False
    provider: TracingProvider | None = None
    tags: dict[str, str] = field(default_factory=dict)
    baggage: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How the function runs.

    Attributes:
        triggers: What drives it; None only before defaulting.
        outputs: Where it may send, in written order.
        bindings, pubsub: Logical name -> component declared inline.
        states: Logical name -> state store declared inline; None = an existing Component of that name.
        scale_options: None when absent.
        params: Environment variables of the process.
        labels, annotations: Merged over those of workload and instances.
        template: PodSpec as written; its container `function` is the user's; None when absent.
        timeout_s: Seconds allowed until Running; None for no limit.
        hooks, tracing: None when absent.
        workload_type: `Deployment`, `StatefulSet` or `Job`; "" means `Deployment`.
    """

    triggers: Triggers | None = None
    outputs: tuple[DaprOutput, ...] = ()
    bindings: dict[str, ComponentSpec] = field(default_factory=dict)
    pubsub: dict[str, ComponentSpec] = field(default_factory=dict)
    states: dict[str, ComponentSpec | None] = field(default_factory=dict)
    scale_options: ScaleOptions | None = None
    params: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    template: dict[str, Any] | None = None
    timeout_s: float | None = None
    hooks: Hooks | None = None
    tracing: Tracing | None = None
    workload_type: str = ""

    def component(self, name: str) -> ComponentSpec | None:
        """Return the component declared inline under a logical name: bindings, then pubsub, then states."""
        return self.bindings.get(name) or self.pubsub.get(name) or self.states.get(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function as its user wrote it.

    Attributes:
        namespace, name: Which; namespace "" when the manifest does not say.
        labels, annotations: Of the resource itself.
        workload_runtime: `OCIContainer`, or `WasmEdge` in any letter case.
        version: `latest` unless the user named one.
        image: Required by the resource; unused where a bundle runs.
        image_credentials: Secret for pushing and pulling, or None; "" when the reference names nothing.
        build: None = no build.
        serving: None = only build.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    workload_runtime: str = "OCIContainer"
    version: str = "latest"
    image: str = ""
    image_credentials: str | None = None
    build: Build | None = None
    serving: Serving | None = None

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"
