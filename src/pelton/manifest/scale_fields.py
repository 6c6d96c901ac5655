"""The fields of scaling that a Function and KEDA's own resources share, as tables.

Used by `manifest/openfunction_fields` (serving.scaleOptions) and `manifest/keda`. Rules about values are in
`manifest/openfunction_rules` and `manifest/keda_rules`; `limits` here says the same for the schema.
Source: contracts, OpenFunction 2.4, and autoscaling 1.1 and 1.3.
"""

from __future__ import annotations

from pelton.manifest.fields import (
    Boolean,
    Field,
    Integer,
    Items,
    Mapped,
    Quantity,
    Record,
    Text,
)
from pelton.model import function as model

__all__ = ["HPA_CONFIG", "KEDA_TRIGGER", "SCALED_JOB", "SCALED_OBJECT", "SCALE_OPTIONS", "SCALING_STRATEGY"]

_TEXT = Text()
_INTEGER = Integer()
_STRINGS = Mapped(_TEXT)
_COUNT = {"minimum": 0}

_BEHAVIOR_RULES = Record(
    model.BehaviorRules,
    (
        Field(
            "stabilizationWindowSeconds",
            "stabilization_window_s",
            _INTEGER,
            doc="Seconds over which earlier recommendations count; default 0 up, 300 down.",
            limits={"minimum": 0, "maximum": 3600},
        ),
        Field(
            "selectPolicy",
            "select_policy",
            _TEXT,
            doc="Which policy counts: the one that allows the most (Max, the default), the least (Min), or "
            "none, so that this direction is not taken (Disabled).",
            limits={"enum": ["Max", "Min", "Disabled"]},
        ),
        Field(
            "policies",
            "policies",
            Items(
                Record(
                    model.ScalePolicy,
                    (
                        Field(
                            "type",
                            "type",
                            _TEXT,
                            required=True,
                            doc="Unit of value: Pods or Percent.",
                            limits={"enum": ["Pods", "Percent"]},
                        ),
                        Field("value", "value", _INTEGER, required=True, doc="Largest change in one period."),
                        Field(
                            "periodSeconds",
                            "period_s",
                            _INTEGER,
                            required=True,
                            doc="Length of the period, seconds.",
                            limits=_COUNT,
                        ),
                    ),
                )
            ),
            doc="Limits of change per period.",
        ),
        Field(
            "tolerance",
            "tolerance",
            Quantity(),
            doc="Fraction by which the metric may be off before this direction is taken; default 0.1.",
        ),
    ),
)
HPA_CONFIG = Record(
    model.HpaConfig,
    (
        Field("name", "name", _TEXT, doc="Name of the HorizontalPodAutoscaler; default keda-hpa-<name>."),
        Field(
            "behavior",
            "behavior",
            Record(
                model.HpaBehavior,
                (
                    Field("scaleUp", "scale_up", _BEHAVIOR_RULES, doc="Rules for more instances."),
                    Field("scaleDown", "scale_down", _BEHAVIOR_RULES, doc="Rules for fewer instances."),
                ),
            ),
            doc="How fast the number may change, as in autoscaling/v2.",
        ),
    ),
)
"""Settings of the HorizontalPodAutoscaler behind a ScaledObject."""

RESTORE = Field(
    "restoreToOriginalReplicaCount",
    "restore_to_original_replica_count",
    Boolean(),
    doc="Whether deleting the object puts back the number of instances that it found.",
)
POLLING = Field(
    "pollingInterval",
    "polling_interval_s",
    _INTEGER,
    doc="Seconds between looks at the triggers; default 30.",
    limits=_COUNT,
)
COOLDOWN = Field(
    "cooldownPeriod",
    "cooldown_period_s",
    _INTEGER,
    doc="Seconds from the last activity to zero; default 300.",
    limits=_COUNT,
)
SUCCESSFUL_JOBS = Field(
    "successfulJobsHistoryLimit",
    "successful_jobs_history_limit",
    _INTEGER,
    doc="Succeeded jobs that are kept; default 100.",
    limits=_COUNT,
)
FAILED_JOBS = Field(
    "failedJobsHistoryLimit",
    "failed_jobs_history_limit",
    _INTEGER,
    doc="Failed jobs that are kept; default 100.",
    limits=_COUNT,
)

SCALED_OBJECT = Record(
    model.ScaledObject,
    (
        POLLING,
        COOLDOWN,
        Field(
            "advanced",
            "advanced",
            Record(
                model.ScaleAdvanced,
                (
                    RESTORE,
                    Field(
                        "horizontalPodAutoscalerConfig",
                        "horizontal_pod_autoscaler_config",
                        HPA_CONFIG,
                        doc="Settings of the HorizontalPodAutoscaler behind it.",
                    ),
                ),
            ),
            doc="Rarely needed settings.",
        ),
        Field(
            "fallback",
            "fallback",
            Record(
                model.Fallback,
                (
                    Field(
                        "failureThreshold",
                        "failure_threshold",
                        _INTEGER,
                        required=True,
                        doc="Failures in a row after which it begins.",
                        limits={"minimum": 1},
                    ),
                    Field(
                        "replicas",
                        "replicas",
                        _INTEGER,
                        required=True,
                        doc="Instances to run meanwhile.",
                        limits=_COUNT,
                    ),
                ),
            ),
            doc="What runs while the triggers cannot be read.",
        ),
    ),
)
SCALING_STRATEGY = Record(
    model.ScalingStrategy,
    (
        Field(
            "strategy",
            "strategy",
            _TEXT,
            doc="How running and pending jobs are counted: default, custom or accurate.",
            limits={"enum": ["default", "custom", "accurate"]},
        ),
        Field(
            "customScalingQueueLengthDeduction",
            "queue_length_deduction",
            _INTEGER,
            doc="For custom: jobs taken off the queue length.",
            limits=_COUNT,
        ),
        Field(
            "customScalingRunningJobPercentage",
            "running_job_percentage",
            _TEXT,
            doc='For custom: share of running jobs taken off, such as "50%".',
            limits={"pattern": r"^([0-9.]+)[ ]*%$"},
        ),
        Field(
            "pendingPodConditions",
            "pending_pod_conditions",
            Items(_TEXT),
            doc="Pod conditions that a job must have so as not to count as pending.",
        ),
        Field(
            "multipleScalersCalculation",
            "multiple_scalers_calculation",
            _TEXT,
            doc="How several triggers are put together: max (the default), min, avg or sum.",
        ),
    ),
)
SCALED_JOB = Record(
    model.ScaledJob,
    (
        Field(
            "restartPolicy",
            "restart_policy",
            _TEXT,
            doc="Restart policy of the job's pods; default OnFailure.",
            limits={"enum": ["Always", "OnFailure", "Never"]},
        ),
        POLLING,
        SUCCESSFUL_JOBS,
        FAILED_JOBS,
        Field("scalingStrategy", "scaling_strategy", SCALING_STRATEGY, doc="How many jobs are started."),
    ),
)
KEDA_TRIGGER = Record(
    model.KedaTrigger,
    (
        Field("type", "type", _TEXT, required=True, doc="Scaler, such as kafka, cron or prometheus."),
        Field("metadata", "metadata", _STRINGS, required=True, keep=True, doc="Settings of the scaler."),
        Field("name", "name", _TEXT, doc="Name by which formulas know it; unique in the object."),
        Field(
            "authenticationRef",
            "authentication_ref",
            Record(
                model.KedaAuthenticationRef,
                (
                    Field("name", "name", _TEXT, required=True, doc="Name of the object."),
                    Field(
                        "kind",
                        "kind",
                        _TEXT,
                        doc="TriggerAuthentication (the default) or ClusterTriggerAuthentication.",
                    ),
                ),
            ),
            doc="Where secret settings come from.",
        ),
        Field(
            "metricType",
            "metric_type",
            _TEXT,
            doc="AverageValue (per instance, the default), Value (in all) or Utilization (cpu and memory).",
        ),
        Field(
            "useCachedMetrics",
            "use_cached_metrics",
            Boolean(),
            doc="Whether the value of the last look counts until the next one.",
        ),
    ),
)
SCALE_OPTIONS = Record(
    model.ScaleOptions,
    (
        Field(
            "minReplicas",
            "min_replicas",
            _INTEGER,
            doc="Fewest instances; default 0.",
            limits=_COUNT,
        ),
        Field(
            "maxReplicas",
            "max_replicas",
            _INTEGER,
            doc="Most instances; default 10.",
            limits=_COUNT,
        ),
        Field("knative", "knative", _STRINGS, doc="Annotations autoscaling.knative.dev/* of the revision."),
        Field(
            "keda",
            "keda",
            Record(
                model.KedaOptions,
                (
                    Field(
                        "triggers",
                        "triggers",
                        Items(KEDA_TRIGGER),
                        doc="What the number of instances follows.",
                    ),
                    Field(
                        "scaledObject",
                        "scaled_object",
                        SCALED_OBJECT,
                        doc="Scale a Deployment or StatefulSet.",
                    ),
                    Field("scaledJob", "scaled_job", SCALED_JOB, doc="Start a job per piece of work."),
                    Field(
                        "httpScaledObject",
                        "http_scaled_object",
                        Record(
                            model.HttpScaledObject,
                            (
                                Field(
                                    "targetPendingRequests",
                                    "target_pending_requests",
                                    _INTEGER,
                                    doc="Wanted requests in flight per instance; default 100.",
                                    limits=_COUNT,
                                ),
                                COOLDOWN,
                            ),
                        ),
                        doc="Scale by requests, for triggers.http.engine keda.",
                    ),
                ),
            ),
            doc="Scaling by KEDA; at most one of scaledObject, scaledJob and httpScaledObject.",
        ),
    ),
)
