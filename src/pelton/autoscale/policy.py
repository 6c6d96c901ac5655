"""Reads policies as users of the originals write them: annotations and specs.

Used for policy files of `pelton simulate` (`cli/simulate.py`). Each reader returns a policy of
`model/scaling` and collects every problem with its path and the accepted range. Pure: takes parsed YAML.

Source: contracts, autoscaling sections 1.1, 1.2, 3, 4, 5.2, 6.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pelton.autoscale.fields import Fields
from pelton.autoscale.formula import Formula, FormulaError
from pelton.autoscale.keda import variables
from pelton.model.kpa_settings import (
    ANNOTATIONS,
    CONFIG,
    DOMAIN,
    KPA_CLASS,
    OWN_DOMAIN,
    OWN_SETTINGS,
    Settings,
    kpa_policy,
    read_config,
)
from pelton.model.scaling import (
    Behavior,
    DirectionRules,
    FallbackPolicy,
    FormulaPolicy,
    HpaPolicy,
    HttpScaling,
    KedaPolicy,
    KpaPolicy,
    MetricTarget,
    RateLimit,
    TriggerTarget,
)

__all__ = ["ALGORITHMS", "PolicyFile", "read_policy"]

ALGORITHMS = ("kpa", "hpa", "keda", "keda-http")
_KEDA_DOMAIN = "autoscaling.keda.sh/"
_MOST = 2**31 - 1
_FALLBACKS = (
    "static",
    "currentReplicas",
    "currentReplicasIfHigher",
    "currentReplicasIfLower",
    "scalingModifiers",
)
# Scaler type -> (metadata keys of the target in order, its default, keys of the activation value).
_SCALERS: Mapping[str, tuple[tuple[str, ...], float | None, tuple[str, ...]]] = {
    "kafka": (("lagThreshold",), 10, ("activationLagThreshold",)),
    "apache-kafka": (("lagThreshold",), 10, ("activationLagThreshold",)),
    "nats-jetstream": (("lagThreshold",), 10, ("activationLagThreshold",)),
    "stan": (("lagThreshold",), 10, ("activationLagThreshold",)),
    "redis": (("listLength",), 5, ("activationListLength",)),
    "redis-streams": (
        ("lagCount", "pendingEntriesCount", "streamLength"),
        5,
        ("activationLagCount",),
    ),
    "rabbitmq": (("value", "queueLength"), 20, ("activationValue",)),
    "cron": ((), 1, ()),
    "prometheus": (("threshold",), None, ("activationThreshold",)),
    "postgresql": (("targetQueryValue",), None, ("activationTargetQueryValue",)),
    "mysql": (("queryValue",), None, ("activationQueryValue",)),
    "metrics-api": (("targetValue",), None, ("activationTargetValue",)),
    "cpu": (("value",), None, ()),
    "memory": (("value",), None, ()),
}
_ANY_TARGET = ("targetValue", "targetSize", "threshold", "value", "target")
_ANY_ACTIVATION = ("activationTargetValue", "activationThreshold", "activationValue")


@dataclass(slots=True)
class PolicyFile:
    """What a policy file says.

    Attributes:
        algorithm: One of ALGORITHMS.
        kpa, hpa, keda, http: The one that the algorithm needs.
        spare, cooldown_s: Pelton's own options.
        problems: (path, message) of everything that is wrong.
    """

    algorithm: str = ""
    kpa: KpaPolicy = field(default_factory=KpaPolicy)
    hpa: HpaPolicy = field(default_factory=lambda: HpaPolicy(max_replicas=1))
    keda: KedaPolicy = field(default_factory=KedaPolicy)
    http: HttpScaling = field(default_factory=HttpScaling)
    spare: int = 0
    cooldown_s: float = 0.0
    problems: list[tuple[str, str]] = field(default_factory=list)

    @property
    def initial(self) -> int:
        """Replicas before the first line: initial scale, or the minimum."""
        if self.algorithm == "kpa":
            return self.kpa.initial_scale
        if self.algorithm == "hpa":
            return self.hpa.min_replicas
        return self.keda.min_replicas if self.algorithm == "keda" else self.http.keda.min_replicas


def read_policy(data: Any) -> PolicyFile:
    """Read a parsed policy file; `problems` of the result is empty when it can be used."""
    made = PolicyFile()
    top = Fields(data, "", made.problems)
    made.algorithm = top.text("algorithm", "", *ALGORITHMS)
    if not made.algorithm:
        if not top.has("algorithm"):
            top.refuse("algorithm", f"is required; one of: {', '.join(ALGORITHMS)}")
        return made
    notes = _texts(top, "annotations")
    _own(made, notes)
    if made.algorithm == "kpa":
        top.only("algorithm", "annotations", "config", "containerConcurrency")
        made.kpa = _kpa(top, notes)
        return made
    top.only("algorithm", "annotations", "spec")
    if not isinstance(top.data.get("spec"), dict):
        top.refuse("spec", "is required: the spec of the object that scales")
        return made
    spec = top.sub("spec")
    if made.algorithm == "hpa":
        made.hpa = _hpa(spec)
    elif made.algorithm == "keda":
        made.keda = _keda(spec, notes, top)
    else:
        made.http = _http(spec)
    return made


def _texts(top: Fields, name: str) -> dict[str, str]:
    """Return a mapping of texts; numbers and truth values are taken as YAML writes them."""
    texts: dict[str, str] = {}
    for key, value in top.sub(name).data.items():
        if isinstance(value, bool):
            texts[str(key)] = str(value).lower()
        elif isinstance(value, str | int | float):
            texts[str(key)] = str(value)
        else:
            top.refuse(f"{name}[{key}]", "must be a text")
    return texts


def _own(made: PolicyFile, notes: Mapping[str, str]) -> None:
    settings = Settings(("annotations", notes), table=OWN_SETTINGS, prefix=OWN_DOMAIN)
    made.spare = settings.whole("spare-instances", 0)
    made.cooldown_s = settings.number("cooldown", 0.0)
    made.problems += settings.problems
    for path, name in settings.unknown():
        made.problems.append((path, f"{name} does not concern scaling; there are: {', '.join(OWN_SETTINGS)}"))


def _kpa(top: Fields, notes: Mapping[str, str]) -> KpaPolicy:
    config = Settings(("config", _texts(top, "config")), table=CONFIG, prefix="")
    settings = Settings(("annotations", notes))
    for path, name in config.unknown():
        if name == "_example":  # the commented part of the ConfigMap that Knative ships
            continue
        top.problems.append(
            (path, f"{name} is not a key of config-autoscaler; there are: {', '.join(CONFIG)}")
        )
    for path, name in settings.unknown():
        top.problems.append(
            (path, f"{name} is not an annotation of the KPA; there are: {', '.join(ANNOTATIONS)}")
        )
    for key in notes:
        if not key.startswith((DOMAIN, OWN_DOMAIN)):
            top.problems.append((f"annotations[{key}]", f"only {DOMAIN}* and {OWN_DOMAIN}* are read here"))
    limit = top.whole("containerConcurrency", 0, 0, 1000)
    defaults = read_config(config)
    policy = kpa_policy(settings, defaults, container_concurrency=limit)
    if settings.text("class", defaults.autoscaler_class) != KPA_CLASS:
        settings.refuse("class", "use algorithm: hpa with the spec of the HPA")
    top.problems += config.problems + settings.problems
    return policy


# ------------------------------------------------------------------------------------------------------- hpa


def _hpa(spec: Fields) -> HpaPolicy:
    spec.only("scaleTargetRef", "minReplicas", "maxReplicas", "metrics", "behavior")
    if not spec.has("maxReplicas"):
        spec.refuse("maxReplicas", "is required: a whole number, 1 or more")
    low, high = spec.whole("minReplicas", 1, 0), spec.whole("maxReplicas", 1, 1)
    if low > high:
        spec.refuse("maxReplicas", f"{high} is below minReplicas {low}")
    metrics = tuple(metric for item in spec.items("metrics") if (metric := _metric(item)) is not None)
    if not spec.has("metrics"):
        metrics = (MetricTarget(name="cpu", kind="Resource", target_type="Utilization", target=80.0),)
    elif not metrics and not spec.problems:
        spec.refuse("metrics", "must not be empty")
    if low == 0 and not any(metric.kind in ("External", "Object") for metric in metrics):
        spec.refuse("minReplicas", "0 needs an External or Object metric")
    return HpaPolicy(
        min_replicas=low, max_replicas=high, metrics=metrics, behavior=_behavior(spec.sub("behavior"))
    )


def _metric(item: Fields) -> MetricTarget | None:
    kinds = {
        "External": "external",
        "Object": "object",
        "Pods": "pods",
        "Resource": "resource",
        "ContainerResource": "containerResource",
    }
    kind = item.text("type", "", *kinds)
    if not kind:
        if not item.has("type"):
            item.refuse("type", f"is required; one of: {', '.join(kinds)}")
        return None
    source = item.sub(kinds[kind])
    by_name = kind in ("Resource", "ContainerResource")
    name = source.text("name", "") if by_name else source.sub("metric").text("name", "")
    if not name:
        source.refuse("name" if by_name else "metric.name", "is required")
        return None
    target = source.sub("target")
    fields = {
        "AverageValue": "averageValue",
        "Value": "value",
        "Utilization": "averageUtilization",
    }
    allowed = {
        "External": ("AverageValue", "Value"),
        "Object": ("AverageValue", "Value"),
        "Pods": ("AverageValue",),
        "Resource": ("Utilization", "AverageValue"),
        "ContainerResource": ("Utilization", "AverageValue"),
    }[kind]
    given = target.text("type", next((t for t in allowed if target.has(fields[t])), allowed[0]), *allowed)
    value = target.quantity(fields[given])
    if value is None:
        if not target.has(fields[given]):
            target.refuse(fields[given], "is required: a quantity above 0")
        return None
    return MetricTarget(name=name, kind=kind, target_type=given, target=value)


def _behavior(fields: Fields) -> Behavior | None:
    if not fields.data:
        return None
    fields.only("scaleUp", "scaleDown")
    usual = Behavior()
    return Behavior(
        up=_direction(fields.sub("scaleUp"), usual.up), down=_direction(fields.sub("scaleDown"), usual.down)
    )


def _direction(fields: Fields, usual: DirectionRules) -> DirectionRules:
    fields.only("stabilizationWindowSeconds", "selectPolicy", "policies", "tolerance")
    limits = [
        RateLimit(
            kind=item.text("type", "Pods", "Pods", "Percent"),
            value=item.whole("value", 1, 1),
            period_s=item.whole("periodSeconds", 15, 1, 1800),
        )
        for item in fields.items("policies")
    ]
    for item in fields.items("policies"):
        for name in ("type", "value", "periodSeconds"):
            if not item.has(name):
                item.refuse(name, "is required")
    if fields.has("policies") and not limits:
        fields.refuse("policies", "must not be empty")
    return DirectionRules(
        window_s=float(fields.whole("stabilizationWindowSeconds", int(usual.window_s), 0, 3600)),
        select=fields.text("selectPolicy", usual.select, "Max", "Min", "Disabled"),
        limits=tuple(limits) or usual.limits,
        tolerance=fields.number("tolerance", usual.tolerance, 0.0),
    )


# ------------------------------------------------------------------------------------------------------ keda


def _keda(spec: Fields, notes: Mapping[str, str], top: Fields) -> KedaPolicy:
    spec.only(
        "scaleTargetRef",
        "pollingInterval",
        "cooldownPeriod",
        "initialCooldownPeriod",
        "idleReplicaCount",
        "minReplicaCount",
        "maxReplicaCount",
        "advanced",
        "triggers",
        "fallback",
    )
    low, high = spec.whole("minReplicaCount", 0, 0), spec.whole("maxReplicaCount", 100, 1)
    if low > high:
        spec.refuse("minReplicaCount", f"{low} is above maxReplicaCount {high}")
    idle = spec.whole("idleReplicaCount", 0, 0) if spec.has("idleReplicaCount") else None
    if idle is not None and idle >= low:
        spec.refuse("idleReplicaCount", f"{idle} is not below minReplicaCount {low}")
    advanced = spec.sub("advanced")
    modifiers = _modifiers(advanced.sub("scalingModifiers"))
    triggers = _triggers(spec, in_formula=modifiers is not None)
    policy = KedaPolicy(
        triggers=triggers,
        min_replicas=low,
        max_replicas=high,
        idle_replicas=idle,
        cooldown_s=float(spec.whole("cooldownPeriod", 300, 0)),
        initial_cooldown_s=float(spec.whole("initialCooldownPeriod", 0, 0)),
        polling_s=float(spec.whole("pollingInterval", 30, 1)),
        behavior=_behavior(advanced.sub("horizontalPodAutoscalerConfig").sub("behavior")),
        fallback=_fallback(spec.sub("fallback")),
        modifiers=modifiers,
    )
    _check(spec, policy)
    return _paused(policy, notes, top)


def _check(spec: Fields, policy: KedaPolicy) -> None:
    """Note what KEDA's admission refuses about the whole."""
    external = [trigger for trigger in policy.triggers if not trigger.is_resource]
    if policy.triggers and not external and policy.min_replicas < 1:
        spec.refuse("minReplicaCount", "must be 1 or more when all triggers are cpu or memory")
    if policy.fallback is not None:
        if not external and policy.modifiers is None:
            spec.refuse("fallback", "needs a trigger that is not cpu or memory")
        if policy.fallback.behavior == "scalingModifiers" and policy.modifiers is None:
            spec.refuse("fallback.behavior", "scalingModifiers needs advanced.scalingModifiers.formula")
        if policy.modifiers is not None and policy.modifiers.target != int(policy.modifiers.target):
            spec.refuse("advanced.scalingModifiers.target", "must be a whole number when there is a fallback")
    if policy.modifiers is not None:
        try:
            Formula(policy.modifiers.formula, variables(policy)).evaluate(
                dict.fromkeys(variables(policy), -1.0)
            )
        except FormulaError as error:
            spec.refuse("advanced.scalingModifiers.formula", str(error))


def _triggers(spec: Fields, *, in_formula: bool) -> tuple[TriggerTarget, ...]:
    items = spec.items("triggers")
    if not items:
        spec.refuse("triggers", "at least one is required")
    kinds = [item.data.get("type") for item in items]
    names: set[str] = set()
    made = []
    for index, item in enumerate(items):
        item.only("type", "name", "metadata", "authenticationRef", "useCachedMetrics", "metricType")
        kind, given = item.text("type", ""), item.text("name", "")
        if not kind:
            if not item.has("type"):
                item.refuse("type", "is required")
            continue
        if given in names:
            item.refuse("name", f'"{given}" is the name of another trigger')
        if given:
            names.add(given)
        alone = kinds.count(kind) == 1
        name = given or (kind if alone else f"s{index}-{kind}")
        aliases = {f"s{index}", f"s{index}-{kind}", f"s{index}-{given}" if given else f"s{index}-{kind}"}
        if alone:
            aliases.add(kind)
        made.append(_trigger(item, kind, name, tuple(sorted(aliases - {name})), in_formula=in_formula))
    return tuple(made)


def _trigger(
    item: Fields, kind: str, name: str, aliases: tuple[str, ...], *, in_formula: bool
) -> TriggerTarget:
    metadata = item.sub("metadata")
    keys, default, activation_keys = _SCALERS.get(kind, (_ANY_TARGET, None, _ANY_ACTIVATION))
    resource = kind in ("cpu", "memory")
    metric_type = item.text("metricType", "Utilization" if resource else "AverageValue")
    allowed = ("Utilization", "AverageValue") if resource else ("AverageValue", "Value")
    if metric_type not in allowed:
        item.refuse("metricType", f"{metric_type!r} is not {' or '.join(allowed)} for {kind}")
        metric_type = allowed[0]
    key = next((key for key in keys if metadata.has(key)), "")
    target = metadata.quantity(key) if key else default
    if target is None:
        if not key and not in_formula:
            metadata.refuse(keys[0] if keys else "value", "is required: a number above 0")
        target = 1.0
    active = next((key for key in activation_keys if metadata.has(key)), "")
    return TriggerTarget(
        name=name,
        type=kind,
        target=float(target),
        activation=metadata.number(active, 0.0, 0.0) if active else 0.0,
        metric_type=metric_type,
        aliases=aliases,
    )


def _fallback(fields: Fields) -> FallbackPolicy | None:
    if not fields.data:
        return None
    fields.only("failureThreshold", "replicas", "behavior")
    for name in ("failureThreshold", "replicas"):
        if not fields.has(name):
            fields.refuse(name, "is required: a whole number, 0 or more")
    return FallbackPolicy(
        failure_threshold=fields.whole("failureThreshold", 0, 0),
        replicas=fields.whole("replicas", 0, 0),
        behavior=fields.text("behavior", "static", *_FALLBACKS),
    )


def _modifiers(fields: Fields) -> FormulaPolicy | None:
    if not fields.data:
        return None
    fields.only("formula", "target", "activationTarget", "metricType")
    formula, target = fields.text("formula", ""), fields.quantity("target")
    if not formula:
        fields.refuse("formula", "is required")
        return None
    if target is None:
        if not fields.has("target"):
            fields.refuse("target", "is required: a number above 0")
        target = 1.0
    return FormulaPolicy(
        formula=formula,
        target=target,
        activation_target=fields.number("activationTarget", 0.0, 0.0),
        metric_type=fields.text("metricType", "AverageValue", "AverageValue", "Value"),
    )


def _paused(policy: KedaPolicy, notes: Mapping[str, str], top: Fields) -> KedaPolicy:
    """Apply KEDA's annotations: presence counts, and a text that is no truth value means true."""

    def flag(name: str) -> bool:
        return notes.get(_KEDA_DOMAIN + name, "false").lower() not in ("false", "0", "f")

    replicas: int | None = None
    text = notes.get(f"{_KEDA_DOMAIN}paused-replicas")
    if text is not None:
        if text.isascii() and text.isdigit() and int(text) <= _MOST:
            replicas = int(text)
        else:
            top.refuse(
                f"annotations[{_KEDA_DOMAIN}paused-replicas]", f'"{text}" is not a whole number, 0 or more'
            )
    return replace(
        policy,
        paused=flag("paused"),
        paused_replicas=replicas,
        paused_in=flag("paused-scale-in"),
        paused_out=flag("paused-scale-out"),
        force_active=flag("force-activation"),
    )


# ------------------------------------------------------------------------------------------------------ http


def _http(spec: Fields) -> HttpScaling:
    spec.only(
        "hosts",
        "pathPrefixes",
        "headers",
        "scaleTargetRef",
        "coldStartTimeoutFailoverRef",
        "replicas",
        "targetPendingRequests",
        "scaledownPeriod",
        "initialCooldownPeriod",
        "scalingMetric",
        "timeouts",
    )
    replicas = spec.sub("replicas")
    low, high = replicas.whole("min", 0, 0), replicas.whole("max", 100, 1)
    if low > high:
        replicas.refuse("min", f"{low} is above max {high}")
    metric = spec.sub("scalingMetric")
    metric.only("concurrency", "requestRate")
    concurrency, rate = metric.sub("concurrency"), metric.sub("requestRate")
    if "concurrency" in metric.data and "requestRate" in metric.data:
        metric.refuse("requestRate", "is given together with concurrency; only one of them may be")
    pending = spec.whole("targetPendingRequests", 100, 1)
    window_s, granularity_s = rate.seconds("window", 60.0), rate.seconds("granularity", 1.0)
    if granularity_s > window_s:
        rate.refuse("granularity", "is longer than the window")
    if window_s / granularity_s > 100_000:
        rate.refuse("granularity", "gives more than 100000 buckets")
        granularity_s = window_s
    by_rate = "requestRate" in metric.data
    return HttpScaling(
        concurrency_target=0.0
        if by_rate
        else float(concurrency.whole("targetValue", 100 if concurrency.data else pending, 1)),
        rate_target=float(rate.whole("targetValue", 100, 1)) if by_rate else 0.0,
        rate_window_s=window_s,
        granularity_s=granularity_s,
        keda=KedaPolicy(
            min_replicas=low,
            max_replicas=high,
            cooldown_s=float(spec.whole("scaledownPeriod", 300, 0)),
            initial_cooldown_s=float(spec.whole("initialCooldownPeriod", 0, 0)),
            polling_s=15.0,
        ),
    )
