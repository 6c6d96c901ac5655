"""What a scaling policy is, in the words of the three systems whose rules Pelton follows.

Resolved values: defaults are filled in, ranges have been checked, percentages are fractions. `autoscale/`
decides by them; `model/kpa_settings` reads Knative's annotations into them, `autoscale/policy` the specs of
the HPA and KEDA, `plan/scaling` a Function's options. Durations are seconds. Plain data: sent between
processes as it is.

Source: contracts, autoscaling sections 1.1, 1.3, 2, 3, 5, 6.1.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Behavior",
    "DirectionRules",
    "FallbackPolicy",
    "FormulaPolicy",
    "HpaPolicy",
    "HttpScaling",
    "JobPolicy",
    "JobScaling",
    "KedaPolicy",
    "KpaPolicy",
    "MetricTarget",
    "RateLimit",
    "TriggerTarget",
]

MIN_TARGET = 0.01
"""Least target per instance that the KPA divides by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KpaPolicy:
    """Knative's pod autoscaler for one revision.

    Attributes:
        min_scale, max_scale: Inclusive bounds; maximum 0 means none.
        initial_scale: Instances that a new revision starts with.
        activation_scale: Least number that any traffic asks for; 1 for no such floor.
        metric: `concurrency` or `rps`.
        total: Value of the metric per instance before utilization.
        utilization: Fraction of `total` to fill, 0 < u <= 1.
        window_s: Stable window, whole seconds, 6 to 3600.
        panic_window_s: Panic window, whole seconds, >= 1.
        panic_threshold: Panic when the panic window asks for this multiple of the ready instances.
        max_scale_up_rate, max_scale_down_rate: Factors per decision, > 1.
        scale_down_delay_s: Seconds during which the highest number is kept.
        retention_s, grace_s: Least time that the last instance stays once nothing is wanted.
        target_burst_capacity: 0: activator never in path; -1: always; else concurrency to have in reserve.
        activator_capacity: Concurrency that one activator takes, >= 1.
        scale_to_zero: Whether zero is allowed at all.
        aggregation: `linear` or `weighted-exponential`.
        reachable: Whether a route leads to the revision; else the minimum does not count.
    """

    min_scale: int = 0
    max_scale: int = 0
    initial_scale: int = 1
    activation_scale: int = 1
    metric: str = "concurrency"
    total: float = 100.0
    utilization: float = 0.7
    window_s: int = 60
    panic_window_s: int = 6
    panic_threshold: float = 2.0
    max_scale_up_rate: float = 1000.0
    max_scale_down_rate: float = 2.0
    scale_down_delay_s: float = 0.0
    retention_s: float = 0.0
    grace_s: float = 30.0
    target_burst_capacity: float = 211.0
    activator_capacity: float = 100.0
    scale_to_zero: bool = True
    aggregation: str = "linear"
    reachable: bool = True

    @property
    def target(self) -> float:
        """Value of the metric per instance to aim at: total times utilization, at least 0.01."""
        return max(MIN_TARGET, self.total * self.utilization)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricTarget:
    """A metric of an HPA.

    Attributes:
        name: Under which readings are given.
        kind: `External`, `Object`, `Pods`, `Resource` or `ContainerResource`.
        target_type: `AverageValue`, `Value` or `Utilization` (percent of the request).
        target: > 0.
    """

    name: str
    kind: str = "External"
    target_type: str = "AverageValue"
    target: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """An HPA policy: at most `value` pods or percent (`kind` Pods or Percent) within `period_s` seconds."""

    kind: str
    value: int
    period_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionRules:
    """HPA behaviour in one direction, defaults filled in.

    Attributes:
        window_s: Stabilization window, 0 to 3600 seconds.
        select: `Max`, `Min` or `Disabled`.
        limits: One at least, unless `select` is `Disabled`.
        tolerance: Relative distance from the target that is ignored.
    """

    window_s: float
    select: str = "Max"
    limits: tuple[RateLimit, ...] = ()
    tolerance: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Behavior:
    """HPA behaviour in both directions."""

    up: DirectionRules = DirectionRules(
        window_s=0.0,
        limits=(
            RateLimit(kind="Pods", value=4, period_s=15),
            RateLimit(kind="Percent", value=100, period_s=15),
        ),
    )
    down: DirectionRules = DirectionRules(
        window_s=300.0, limits=(RateLimit(kind="Percent", value=100, period_s=15),)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HpaPolicy:
    """A HorizontalPodAutoscaler.

    Attributes:
        min_replicas, max_replicas: Inclusive bounds, maximum >= 1.
        metrics: One at least.
        behavior: None for the rules that hold without one: a 300 s window down, doubling (at least 4) up.
        stabilization_s: Downscale window without `behavior`, seconds.
    """

    max_replicas: int
    min_replicas: int = 1
    metrics: tuple[MetricTarget, ...] = ()
    behavior: Behavior | None = None
    stabilization_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerTarget:
    """A trigger of a ScaledObject.

    Attributes:
        name: Under which its value is given; the variable of a formula.
        type: Scaler type, e.g. `kafka`.
        target: Value per replica, > 0 (percent for cpu and memory with `Utilization`).
        activation: The trigger is active above this, strictly.
        metric_type: `AverageValue`, `Value` or `Utilization`.
        aliases: Other names that values may come under.
    """

    name: str
    type: str = ""
    target: float = 10.0
    activation: float = 0.0
    metric_type: str = "AverageValue"
    aliases: tuple[str, ...] = ()

    @property
    def is_resource(self) -> bool:
        """Whether it is a cpu or memory trigger, which has no activation of its own."""
        return self.type in ("cpu", "memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackPolicy:
    """Replicas to assume once a trigger failed more than `failure_threshold` times in a row."""

    failure_threshold: int
    replicas: int
    behavior: str = "static"


@dataclass(frozen=True, slots=True, kw_only=True)
class FormulaPolicy:
    """KEDA's scalingModifiers: one metric computed from all triggers; active above `activation_target`."""

    formula: str
    target: float
    activation_target: float = 0.0
    metric_type: str = "AverageValue"


@dataclass(frozen=True, slots=True, kw_only=True)
class KedaPolicy:
    """A ScaledObject.

    Attributes:
        triggers: One at least.
        min_replicas, max_replicas: Inclusive bounds.
        idle_replicas: Replicas while nothing is active; None for `min_replicas`.
        cooldown_s: From the last activity to the drop to idle or zero, seconds.
        initial_cooldown_s: The same from creation, while no trigger was ever active.
        polling_s: Seconds between two looks at the triggers.
        behavior: As in HpaPolicy.
        stabilization_s: As in HpaPolicy.
        fallback, modifiers: None when absent.
        paused: Nothing is changed.
        paused_replicas: Held at this number; None when absent.
        paused_in, paused_out: Scaling in or out is stopped.
        force_active: Treated as active whatever the triggers say.
    """

    triggers: tuple[TriggerTarget, ...] = ()
    min_replicas: int = 0
    max_replicas: int = 100
    idle_replicas: int | None = None
    cooldown_s: float = 300.0
    initial_cooldown_s: float = 0.0
    polling_s: float = 30.0
    behavior: Behavior | None = None
    stabilization_s: float = 300.0
    fallback: FallbackPolicy | None = None
    modifiers: FormulaPolicy | None = None
    paused: bool = False
    paused_replicas: int | None = None
    paused_in: bool = False
    paused_out: bool = False
    force_active: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpScaling:
    """Scaling by KEDA's HTTP add-on: one metric or both; at least one target is given.

    Attributes:
        concurrency_target: Requests in flight per replica; 0 when not asked for.
        rate_target: Requests per bucket and replica; 0 when not asked for.
        rate_window_s, granularity_s: The ring of the rate, seconds.
        whole_rate: Whether the rate is rounded up to a whole number (HTTPScaledObject does).
        variable: Under which a formula knows the metric, of two the concurrency; "" for the usual names.
        keda: Bounds, cooldown and behaviour; its triggers are made from the targets.
    """

    concurrency_target: float = 0.0
    rate_target: float = 0.0
    rate_window_s: float = 60.0
    granularity_s: float = 1.0
    whole_rate: bool = True
    variable: str = ""
    keda: KedaPolicy = KedaPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPolicy:
    """A ScaledJob's numbers.

    Attributes:
        min_replicas, max_replicas: As written; maximum None when absent.
        strategy: `default`, `custom`, `accurate` or `eager`.
        deduction: For `custom`: jobs taken off.
        running_share: For `custom`: fraction of running jobs taken off; None when unreadable.
        calculation: How several triggers join: `max`, `min`, `avg` or `sum`.
    """

    min_replicas: int = 0
    max_replicas: int | None = None
    strategy: str = "default"
    deduction: int = 0
    running_share: float | None = None
    calculation: str = "max"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobScaling:
    """How a Function runs as jobs: instances that take their share of events and end.

    Attributes:
        policy: Bounds and strategy.
        share: Events that one job takes, >= 1.
        polling_s: Seconds between two looks.
        kept_succeeded, kept_failed: Ended jobs that are remembered.
    """

    policy: JobPolicy
    share: int
    polling_s: float
    kept_succeeded: int = 100
    kept_failed: int = 100
