"""Every field of Function v1beta2, as tables: name in the manifest, attribute in the model, shape.

`manifest/openfunction_core` reads and writes with FUNCTION_SPEC; the order of rows is the order in which
fields are written. Rules about values are in `manifest/openfunction_rules`. Source: contracts, OpenFunction,
section 2.
"""

from __future__ import annotations

from pelton.manifest.dapr import COMPONENT_SPEC
from pelton.manifest.fields import Boolean, Duration, Field, Integer, Items, Mapped, Only, Raw, Record, Text
from pelton.model import function as model

__all__ = [
    "BUILD",
    "CREDENTIALS",
    "FUNCTION_SPEC",
    "KEDA_TRIGGER",
    "ROUTE",
    "SCALED_JOB",
    "SCALED_OBJECT",
    "SCALE_OPTIONS",
    "SERVING",
    "SHIPWRIGHT",
    "TRACING",
]

_TEXT = Text()
_INTEGER = Integer()
_BOOLEAN = Boolean()
_DURATION = Duration()
_STRINGS = Mapped(_TEXT)
_NAMES = Items(_TEXT)
CREDENTIALS = Only("name", _TEXT, missing="")
"""A reference to a Secret; "" = the object is there, the name is not."""

# ------------------------------------------------------------------------------------------------------ build

_SOURCE = Record(
    model.Source,
    (
        Field("url", "url", _TEXT),
        Field("revision", "revision", _TEXT),
        Field("sourceSubPath", "sub_path", _TEXT),
        Field("credentials", "credentials", CREDENTIALS, keep=True),
        Field("bundleContainer", "bundle_image", Only("image", _TEXT, missing="", required=True), keep=True),
    ),
)
_VALUE_REF = Record(
    model.ValueRef,
    (
        Field("name", "name", _TEXT, required=True),
        Field("key", "key", _TEXT, required=True),
        Field("format", "format", _TEXT),
    ),
)
_PARAM_VALUE = (
    Field("value", "value", _TEXT, keep=True),
    Field("configMapValue", "config_map_value", _VALUE_REF),
    Field("secretValue", "secret_value", _VALUE_REF),
)
SHIPWRIGHT = Record(
    model.Shipwright,
    (
        Field(
            "strategy",
            "strategy",
            Record(
                model.Strategy, (Field("name", "name", _TEXT, required=True), Field("kind", "kind", _TEXT))
            ),
        ),
        Field(
            "params",
            "params",
            Items(
                Record(
                    model.BuildParam,
                    (
                        Field("name", "name", _TEXT, required=True),
                        *_PARAM_VALUE,
                        Field("values", "values", Items(Record(model.ParamValue, _PARAM_VALUE))),
                    ),
                )
            ),
        ),
        Field("timeout", "timeout_s", _DURATION),
    ),
)
BUILD = Record(
    model.Build,
    (
        Field("builder", "builder", _TEXT),
        Field("builderCredentials", "builder_credentials", CREDENTIALS, keep=True),
        Field("env", "env", _STRINGS),
        Field("srcRepo", "source", _SOURCE),  # required by a rule, so that it is reported in contract order
        Field("dockerfile", "dockerfile", _TEXT),
        Field("shipwright", "shipwright", SHIPWRIGHT),
        Field("timeout", "timeout_s", _DURATION),
        Field("successfulBuildsHistoryLimit", "successful_builds_history_limit", _INTEGER),
        Field("failedBuildsHistoryLimit", "failed_builds_history_limit", _INTEGER),
        Field("builderMaxAge", "builder_max_age_s", _DURATION),
    ),
)

# --------------------------------------------------------------------------------------------------- triggers

_HOSTNAME = Text(
    r"(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
    "a lower-case host name, with *. in front at most",
    253,
)
ROUTE = Record(
    model.HttpRoute,
    (
        Field(
            "gatewayRef",
            "gateway",
            Record(
                model.GatewayRef,
                (
                    Field("name", "name", _TEXT, required=True),
                    Field("namespace", "namespace", _TEXT, required=True),
                ),
            ),
        ),
        Field("hostnames", "hostnames", Items(_HOSTNAME, max_items=16)),
        Field("rules", "rules", Items(Raw(), max_items=16)),
    ),
)
_COMPONENT_REF = (
    Field("name", "name", _TEXT, required=True),
    Field("type", "type", _TEXT),
    Field("topic", "topic", _TEXT),
)
_TRIGGERS = Record(
    model.Triggers,
    (
        Field(
            "http",
            "http",
            Record(
                model.HttpTrigger,
                (
                    Field("port", "port", _INTEGER),
                    Field("engine", "engine", _TEXT),
                    Field("route", "route", ROUTE),
                ),
            ),
        ),
        Field(
            "dapr",
            "dapr",
            Items(Record(model.DaprTrigger, (*_COMPONENT_REF, Field("inputName", "input_name", _TEXT)))),
        ),
        Field("inputs", "inputs", Items(Only("dapr", Record(model.DaprInput, _COMPONENT_REF)))),
    ),
)
_OUTPUT = Record(
    model.DaprOutput,
    (
        *_COMPONENT_REF,
        Field("operation", "operation", _TEXT),
        Field("metadata", "metadata", _STRINGS),
        Field("outputName", "output_name", _TEXT),
    ),
)

# ---------------------------------------------------------------------------------------------------- scaling

_BEHAVIOR_RULES = Record(
    model.BehaviorRules,
    (
        Field("stabilizationWindowSeconds", "stabilization_window_s", _INTEGER),
        Field("selectPolicy", "select_policy", _TEXT),
        Field(
            "policies",
            "policies",
            Items(
                Record(
                    model.ScalePolicy,
                    (
                        Field("type", "type", _TEXT, required=True),
                        Field("value", "value", _INTEGER, required=True),
                        Field("periodSeconds", "period_s", _INTEGER, required=True),
                    ),
                )
            ),
        ),
    ),
)
_ADVANCED = Record(
    model.ScaleAdvanced,
    (
        Field("restoreToOriginalReplicaCount", "restore_to_original_replica_count", _BOOLEAN),
        Field(
            "horizontalPodAutoscalerConfig",
            "horizontal_pod_autoscaler_config",
            Record(
                model.HpaConfig,
                (
                    Field("name", "name", _TEXT),
                    Field(
                        "behavior",
                        "behavior",
                        Record(
                            model.HpaBehavior,
                            (
                                Field("scaleUp", "scale_up", _BEHAVIOR_RULES),
                                Field("scaleDown", "scale_down", _BEHAVIOR_RULES),
                            ),
                        ),
                    ),
                ),
            ),
        ),
    ),
)
SCALED_OBJECT = Record(
    model.ScaledObject,
    (
        Field("pollingInterval", "polling_interval_s", _INTEGER),
        Field("cooldownPeriod", "cooldown_period_s", _INTEGER),
        Field("advanced", "advanced", _ADVANCED),
        Field(
            "fallback",
            "fallback",
            Record(
                model.Fallback,
                (
                    Field("failureThreshold", "failure_threshold", _INTEGER, required=True),
                    Field("replicas", "replicas", _INTEGER, required=True),
                ),
            ),
        ),
    ),
)
SCALED_JOB = Record(
    model.ScaledJob,
    (
        Field("restartPolicy", "restart_policy", _TEXT),
        Field("pollingInterval", "polling_interval_s", _INTEGER),
        Field("successfulJobsHistoryLimit", "successful_jobs_history_limit", _INTEGER),
        Field("failedJobsHistoryLimit", "failed_jobs_history_limit", _INTEGER),
        Field(
            "scalingStrategy",
            "scaling_strategy",
            Record(
                model.ScalingStrategy,
                (
                    Field("strategy", "strategy", _TEXT),
                    Field("customScalingQueueLengthDeduction", "queue_length_deduction", _INTEGER),
                    Field("customScalingRunningJobPercentage", "running_job_percentage", _TEXT),
                    Field("pendingPodConditions", "pending_pod_conditions", _NAMES),
                    Field("multipleScalersCalculation", "multiple_scalers_calculation", _TEXT),
                ),
            ),
        ),
    ),
)
KEDA_TRIGGER = Record(
    model.KedaTrigger,
    (
        Field("type", "type", _TEXT, required=True),
        Field("metadata", "metadata", _STRINGS, required=True, keep=True),
        Field("name", "name", _TEXT),
        Field(
            "authenticationRef",
            "authentication_ref",
            Record(
                model.KedaAuthenticationRef,
                (Field("name", "name", _TEXT, required=True), Field("kind", "kind", _TEXT)),
            ),
        ),
        Field("metricType", "metric_type", _TEXT),
        Field("useCachedMetrics", "use_cached_metrics", _BOOLEAN),
    ),
)
SCALE_OPTIONS = Record(
    model.ScaleOptions,
    (
        Field("minReplicas", "min_replicas", _INTEGER),
        Field("maxReplicas", "max_replicas", _INTEGER),
        Field("knative", "knative", _STRINGS),
        Field(
            "keda",
            "keda",
            Record(
                model.KedaOptions,
                (
                    Field("triggers", "triggers", Items(KEDA_TRIGGER)),
                    Field("scaledObject", "scaled_object", SCALED_OBJECT),
                    Field("scaledJob", "scaled_job", SCALED_JOB),
                    Field(
                        "httpScaledObject",
                        "http_scaled_object",
                        Record(
                            model.HttpScaledObject,
                            (
                                Field("targetPendingRequests", "target_pending_requests", _INTEGER),
                                Field("cooldownPeriod", "cooldown_period_s", _INTEGER),
                            ),
                        ),
                    ),
                ),
            ),
        ),
    ),
)

# ---------------------------------------------------------------------------------------------------- serving

TRACING = Record(
    model.Tracing,
    (
        Field("enabled", "enabled", _BOOLEAN, required=True, keep=True),
        Field(
            "provider",
            "provider",
            Record(
                model.TracingProvider,
                (
                    Field("name", "name", _TEXT, required=True),
                    Field("oapServer", "oap_server", _TEXT),
                    Field(
                        "exporter",
                        "exporter",
                        Record(
                            model.Exporter,
                            (
                                Field("name", "name", _TEXT, required=True),
                                Field("endpoint", "endpoint", _TEXT, required=True),
                                Field("headers", "headers", _TEXT),
                                Field("compression", "compression", _TEXT),
                                Field("timeout", "timeout", _TEXT),
                                Field("protocol", "protocol", _TEXT),
                            ),
                        ),
                    ),
                ),
            ),
            required=True,
        ),
        Field("tags", "tags", _STRINGS),
        Field("baggage", "baggage", _STRINGS),
    ),
)
_HOOKS = Record(
    model.Hooks,
    (Field("pre", "pre", _NAMES), Field("post", "post", _NAMES), Field("policy", "policy", _TEXT)),
)
SERVING = Record(
    model.Serving,
    (
        Field("triggers", "triggers", _TRIGGERS),
        Field("outputs", "outputs", Items(Only("dapr", _OUTPUT))),
        Field("bindings", "bindings", Mapped(COMPONENT_SPEC)),
        Field("pubsub", "pubsub", Mapped(COMPONENT_SPEC)),
        Field("states", "states", Mapped(Only("spec", COMPONENT_SPEC), nullable=True)),
        Field("scaleOptions", "scale_options", SCALE_OPTIONS),
        Field("params", "params", _STRINGS),
        Field("labels", "labels", _STRINGS),
        Field("annotations", "annotations", _STRINGS),
        Field("template", "template", Raw(), keep=True),
        Field("timeout", "timeout_s", _DURATION),
        Field("hooks", "hooks", _HOOKS),
        Field("tracing", "tracing", TRACING),
        Field("workloadType", "workload_type", _TEXT),
    ),
)
FUNCTION_SPEC = Record(
    model.Function,
    (
        Field("workloadRuntime", "workload_runtime", _TEXT),
        Field("version", "version", _TEXT),
        Field("image", "image", _TEXT),  # required by a rule, as in the original
        Field("imageCredentials", "image_credentials", CREDENTIALS, keep=True),
        Field("build", "build", BUILD),
        Field("serving", "serving", SERVING),
    ),
)
"""The spec's fields sit directly in `model.Function`, beside those of its metadata."""
