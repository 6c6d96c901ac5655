"""KEDA's resources in the platform's words: ScaledObject, ScaledJob, TriggerAuthentication of both scopes.

`manifest/keda` makes and writes these. Triggers and the HPA's behaviour are the same as in a Function's
scaleOptions and live in `model/function`. Counts are instances, durations seconds; None means "not written",
and the text says what that stands for. Source: contracts, autoscaling, sections 1.1, 1.3, 1.4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pelton.model.function import HpaConfig, KedaTrigger, ScalingStrategy

__all__ = [
    "EnvTarget",
    "KedaAdvanced",
    "KedaFallback",
    "KeyTarget",
    "Rollout",
    "ScaleTarget",
    "ScaledJobResource",
    "ScaledObjectResource",
    "ScalingModifiers",
    "TriggerAuthentication",
]

MAX_REPLICAS = 100
"""KEDA's maximum where none is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleTarget:
    """What is scaled; `api_version` and `kind` "" mean apps/v1 and Deployment.

    Attributes:
        name: Of the object.
        api_version, kind: Of an object with a scale subresource.
        env_container: Container whose environment triggers may read; "" = the first.
    """

    name: str
    api_version: str = ""
    kind: str = ""
    env_container: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingModifiers:
    """One metric computed from those of all triggers.

    Attributes:
        formula: Expression over trigger names; "" = none.
        target: Number as text, > 0 where there is a formula.
        activation_target: Number as text; "" means 0.
        metric_type: `AverageValue` or `Value`; "" means `AverageValue`.
    """

    formula: str = ""
    target: str = ""
    activation_target: str = ""
    metric_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KedaAdvanced:
    """Rarely set options; restore_to_original_replica_count None = no."""

    restore_to_original_replica_count: bool | None = None
    horizontal_pod_autoscaler_config: HpaConfig | None = None
    scaling_modifiers: ScalingModifiers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KedaFallback:
    """What to run while triggers cannot be read.

    Attributes:
        failure_threshold: Fallback begins after more failures in a row than this.
        replicas: Instances, used as `behavior` says.
        behavior: `static`, `currentReplicas`, `currentReplicasIfHigher`, `currentReplicasIfLower` or
            `scalingModifiers`; "" means `static`.
    """

    failure_threshold: int
    replicas: int
    behavior: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledObjectResource:
    """Scaling of a workload by triggers.

    Attributes:
        name, namespace, labels, annotations: Of the resource itself.
        target: What is scaled.
        polling_interval_s: Between looks at the triggers; None means 30.
        cooldown_period_s: From the last activity to zero or idle; None means 300.
        initial_cooldown_period_s: The same from creation, before any activity; None means 0.
        idle_replicas: Instances while nothing is active, below the minimum; None = the minimum.
        min_replicas, max_replicas: Inclusive; None means 0 and 100.
        advanced, fallback: None when absent.
        triggers: At least one.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    target: ScaleTarget
    polling_interval_s: int | None = None
    cooldown_period_s: int | None = None
    initial_cooldown_period_s: int | None = None
    idle_replicas: int | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    advanced: KedaAdvanced | None = None
    triggers: tuple[KedaTrigger, ...] = ()
    fallback: KedaFallback | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """Instances (minimum, maximum), both inclusive, with KEDA's defaults where absent."""
        high = MAX_REPLICAS if self.max_replicas is None else self.max_replicas
        return self.min_replicas or 0, high

    @property
    def hpa_name(self) -> str:
        """Name of the HPA that KEDA makes for it."""
        hpa = self.advanced.horizontal_pod_autoscaler_config if self.advanced is not None else None
        return hpa.name if hpa is not None and hpa.name else f"keda-hpa-{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """What happens to running jobs when a ScaledJob changes.

    Attributes:
        strategy: `immediate` deletes jobs of older generations, also ""; `gradual` lets them end.
        propagation_policy: `background` or `foreground`; "" means `background`.
    """

    strategy: str = ""
    propagation_policy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledJobResource:
    """One job per piece of work.

    Attributes:
        name, namespace, labels, annotations: Of the resource itself.
        job: batch/v1 JobSpec, as written.
        polling_interval_s: None means 30.
        successful_jobs_history_limit, failed_jobs_history_limit: Finished jobs kept; None means 100.
        min_replicas, max_replicas: Inclusive; None means 0 and 100.
        rollout: None when absent.
        rollout_strategy: Older spelling of `rollout.strategy`; "" when absent.
        env_container: Container whose environment triggers may read; "" = the first.
        triggers: At least one.
        scaling_strategy: None when absent.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    job: dict[str, Any] = field(default_factory=dict)
    polling_interval_s: int | None = None
    successful_jobs_history_limit: int | None = None
    failed_jobs_history_limit: int | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    rollout: Rollout | None = None
    rollout_strategy: str = ""
    env_container: str = ""
    triggers: tuple[KedaTrigger, ...] = ()
    scaling_strategy: ScalingStrategy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTarget:
    """A parameter of a trigger that comes from entry `key` of the Secret or ConfigMap `name`."""

    parameter: str
    name: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvTarget:
    """A parameter that comes from a variable of a container of the target; "" = the first container."""

    parameter: str
    name: str
    container: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerAuthentication:
    """Parameters that a trigger must not carry in clear text.

    Later sources overwrite earlier ones, in the order of the attributes; `file_path` replaces all of them.

    Attributes:
        name, namespace, labels, annotations: Of the resource itself; no namespace for the cluster's kind.
        pod_identity: Cloud identity to use, as written; None when absent.
        env, config_map_targets, secret_targets: In written order.
        vault, azure_key_vault, gcp_secret_manager, aws_secret_manager: As written; None when absent.
        service_account_tokens: As written.
        oauth2: As written; None when absent.
        file_path: JSON map of parameters, relative, cluster's kind only; "" when absent.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    pod_identity: dict[str, Any] | None = None
    env: tuple[EnvTarget, ...] = ()
    config_map_targets: tuple[KeyTarget, ...] = ()
    secret_targets: tuple[KeyTarget, ...] = ()
    vault: dict[str, Any] | None = None
    azure_key_vault: dict[str, Any] | None = None
    gcp_secret_manager: dict[str, Any] | None = None
    aws_secret_manager: dict[str, Any] | None = None
    service_account_tokens: tuple[dict[str, Any], ...] = ()
    oauth2: dict[str, Any] | None = None
    file_path: str = ""
