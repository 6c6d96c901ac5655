"""How many replicas triggers ask for: KEDA's loop for 0 to 1, and the HPA that it feeds for 1 to N.

One call is one look at the triggers (KEDA's polling) followed by one HPA decision, unless KEDA itself changed
the number. `poll` and `boundary` say which of the two may take replicas away; going up is allowed at any time
(design decision 12). `controlplane/autoscaler.py`, `autoscale/http.py` and `autoscale/simulate.py` call it.
Pure: `now` is an argument.

Source: KEDA, pkg/scaling/executor/scale_scaledobjects.go, pkg/fallback, pkg/scaling/modifiers (contracts,
autoscaling section 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from pelton.autoscale.decision import Decision, Proposal, Step
from pelton.autoscale.formula import Formula, FormulaError
from pelton.autoscale.hpa import Hpa, Reading
from pelton.model.scaling import (
    Behavior,
    FallbackPolicy,
    HpaPolicy,
    KedaPolicy,
    MetricTarget,
    TriggerTarget,
)

__all__ = ["COMPOSITE", "Keda", "Seen", "fallback_replicas", "fallback_value", "hpa_policy", "stored"]

COMPOSITE = "composite-metric"
_MOST = 2**31 - 1


def stored(value: float) -> float:
    """Return a value as KEDA keeps it: three decimals; not a number, infinite and negative become 0."""
    return round(value, 3) if isfinite(value) and value > 0 else 0.0


def hpa_policy(policy: KedaPolicy) -> HpaPolicy:
    """Return the HPA that KEDA makes of a ScaledObject."""
    behavior = policy.behavior
    if policy.paused_in or policy.paused_out:
        behavior = behavior or Behavior()
        if policy.paused_in:
            behavior = replace(behavior, down=replace(behavior.down, select="Disabled"))
        if policy.paused_out:
            behavior = replace(behavior, up=replace(behavior.up, select="Disabled"))
    triggers: list[MetricTarget] = []
    for trigger in policy.triggers:
        if policy.modifiers is None or trigger.is_resource:
            kind = "Resource" if trigger.is_resource else "External"
            triggers.append(
                MetricTarget(
                    name=trigger.name, kind=kind, target_type=trigger.metric_type, target=trigger.target
                )
            )
    if policy.modifiers is not None:
        triggers.append(
            MetricTarget(
                name=COMPOSITE, target_type=policy.modifiers.metric_type, target=policy.modifiers.target
            )
        )
    return HpaPolicy(
        min_replicas=max(1, policy.min_replicas),
        max_replicas=policy.max_replicas,
        metrics=tuple(triggers),
        behavior=behavior,
        stabilization_s=policy.stabilization_s,
    )


def fallback_replicas(fallback: FallbackPolicy, current: int) -> int:
    """Return the replicas that a fallback assumes."""
    if fallback.behavior == "currentReplicas":
        return current
    if fallback.behavior == "currentReplicasIfHigher":
        return max(current, fallback.replicas)
    if fallback.behavior == "currentReplicasIfLower":
        return min(current, fallback.replicas)
    return fallback.replicas


def fallback_value(replicas: int, *, target: float, metric_type: str, ready: int) -> float | None:
    """Return the value that makes the HPA want so many replicas; None when it cannot be said.

    Args:
        replicas: What to want.
        target: The trigger's.
        metric_type: `AverageValue` or `Value`.
        ready: Ready replicas, which `Value` is divided by.
    """
    if metric_type == "Value":
        return replicas / ready * target if ready else None
    return replicas * target


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look at the triggers found: whether one is active, one failed, a fallback answers."""

    active: bool = False
    failed: bool = False
    fallback: bool = False


@dataclass(slots=True)
class _Look:
    """What one look at the triggers gave."""

    readings: dict[str, Reading | None]
    active: bool
    failed: bool
    fallback: bool
    by: str = ""  # the active trigger
    shown: tuple[Proposal, ...] = ()
    steps: tuple[Step, ...] = ()


class Keda:
    """The decider of one ScaledObject.

    Args:
        policy: May be replaced with `adopt`.
        now: Seconds on the caller's clock; counts as the creation.
    """

    __slots__ = ("_active_at", "_created", "_failures", "_formula", "_hpa", "policy", "seen")

    def __init__(self, policy: KedaPolicy, *, now: float) -> None:
        self.seen = Seen()
        self._created = now
        self._active_at: float | None = None
        self._failures: dict[str, int] = {}
        self._hpa = Hpa(hpa_policy(policy))
        self.adopt(policy)

    def resume(self, *, created: float, active_at: float | None) -> None:
        """Take over from a decider that another process had.

        Args:
            created: When the object was made, seconds on the caller's clock.
            active_at: When a trigger was active last; None for never.
        """
        self._created, self._active_at = created, active_at

    @property
    def active_at(self) -> float | None:
        """When a trigger was active last, as the cooldown counts it; None for never."""
        return self._active_at

    def adopt(self, policy: KedaPolicy) -> None:
        """Take new parameters; what was seen so far stays.

        Raises:
            FormulaError: The formula cannot be read.
        """
        self.policy = policy
        self._hpa.policy = hpa_policy(policy)
        modifiers = policy.modifiers
        self._formula = Formula(modifiers.formula, variables(policy)) if modifiers else None

    def decide(
        self,
        *,
        now: float,
        values: Mapping[str, float | Reading | None],
        current: int,
        ready: int | None = None,
        poll: bool = True,
        boundary: bool = True,
        chain: bool = False,
    ) -> Decision:
        """Look at the triggers and decide.

        Args:
            now: Seconds on the caller's clock; never goes back.
            values: Trigger name -> value; None or absent when it could not be read.
            current: Present replicas.
            ready: Ready replicas; None for all of them.
            poll: Whether KEDA may take the last replicas away.
            boundary: Whether the HPA may take replicas away.
            chain: Whether an activation goes on to the HPA at once instead of at the next call.
        """
        policy = self.policy
        if policy.paused_replicas is not None:
            step: Step = ("paused-replicas", policy.paused_replicas)
            return self._made(now, policy.paused_replicas, policy.paused_replicas, current, (step,))
        if policy.paused:
            return self._made(now, current, current, current, (("paused",),))
        look = self._look(values, current, current if ready is None else ready)
        self.seen = Seen(active=look.active, failed=look.failed, fallback=look.fallback)
        own = self._own(now, look, current, poll)
        if own is not None:
            desired, step = own
            steps = look.steps if step in look.steps else (*look.steps, step)
            if not (chain and look.active and desired >= 1 and desired > current):
                if desired != current:
                    self._hpa.changed(now=now, before=current, after=desired)
                return self._made(now, desired, _most(look.shown, desired), current, steps, look.shown)
            current = desired
        elif current == 0 or (current == policy.idle_replicas and not (look.active or look.failed)):
            # The HPA is not asked at zero; at another idle number it would go to the minimum and back.
            step = ("no-load",)
            return self._made(now, current, _most(look.shown, 0), current, (*look.steps, step), look.shown)
        decision = self._hpa.decide(
            now=now, readings=look.readings, current=current, ready=ready, boundary=boundary
        )
        decision.algorithm = "keda"
        decision.minimum = policy.min_replicas
        decision.steps = (*look.steps, *self._cooling(now, look, decision.desired), *decision.steps)
        return decision

    def hold(self, *, now: float, current: int) -> Decision:
        """Return the decision to keep what there is, where nothing was looked at yet."""
        return self._made(now, current, current, current, (("no-data",),))

    @property
    def failures(self) -> dict[str, int]:
        """Trigger name -> how many times in a row it could not be read."""
        return dict(self._failures)

    def cooling(self, now: float) -> bool:
        """Return whether nothing is active and the cooldown has not ended."""
        return not self.seen.active and self._left(now)[1] > 0

    def _cooling(self, now: float, look: _Look, desired: int) -> tuple[Step, ...]:
        """Say when the last replicas go, if nothing is active."""
        policy = self.policy
        low = policy.idle_replicas if policy.idle_replicas is not None else policy.min_replicas
        if look.active or desired <= low or look.failed:
            return ()
        period_s, left_s = self._left(now)
        return (("cooldown", period_s, max(0.0, round(left_s, 3))),)

    def _left(self, now: float) -> tuple[float, float]:
        """Return (the cooldown that counts, seconds left of it)."""
        if self._active_at is None:
            return self.policy.initial_cooldown_s, self._created + self.policy.initial_cooldown_s - now
        return self.policy.cooldown_s, self._active_at + self.policy.cooldown_s - now

    def _own(self, now: float, look: _Look, current: int, poll: bool) -> tuple[int, Step] | None:
        """Return KEDA's own step, (replicas, why); None when the HPA is to decide."""
        policy = self.policy
        idle, low = policy.idle_replicas, policy.min_replicas
        step: Step
        if look.active:
            activates = current == 0 or (idle is not None and current < low)
            if activates and policy.paused_out:
                return current, ("paused-out",)
            if activates or not look.failed:
                self._active_at = now
            if activates:
                step = ("force-activation",) if policy.force_active else ("activate", look.by)
                return (low if low > 0 else 1), step
            return None
        if look.failed:  # KEDA holds; the HPA goes on with what could be read
            configured = policy.fallback is not None and policy.fallback.replicas != 0
            step = ("fallback-hold",) if configured else ("trigger-error",)
            look.steps += (step,)
            return (0, step) if current == 0 else None
        if (idle is not None and current > idle) or (current > 0 and low == 0):
            period_s, left_s = self._left(now)
            if left_s >= 0 or not poll:
                return None
            if policy.paused_in:
                return current, ("paused-in",)
            return (low if idle is None else idle), ("cooled", period_s)
        if idle is None and current < low:
            return low, ("to-minimum",)
        return None

    # -- the triggers ----------------------------------------------------------------------------------------

    def _look(self, values: Mapping[str, float | Reading | None], current: int, ready: int) -> _Look:
        policy = self.policy
        look = _Look(readings={}, active=False, failed=False, fallback=False)
        external = [trigger for trigger in policy.triggers if not trigger.is_resource]
        inputs: dict[str, float | None] = {}
        failing: list[TriggerTarget] = []
        for trigger in policy.triggers:
            value = values.get(trigger.name)
            if value is None:
                look.readings[trigger.name] = None
                if not trigger.is_resource:  # cpu and memory are the HPA's: KEDA does not read them
                    look.failed = True
                    self._failures[trigger.name] = self._failures.get(trigger.name, 0) + 1
                    inputs[trigger.name] = None
                    failing.append(trigger)
                continue
            if trigger.is_resource:
                look.readings[trigger.name] = value if isinstance(value, Reading) else Reading(value=value)
                continue
            number = stored(value.value if isinstance(value, Reading) else value)
            self._failures[trigger.name] = 0
            inputs[trigger.name] = number
            look.readings[trigger.name] = Reading(value=number)
            said = value.active if isinstance(value, Reading) else None
            if (number > trigger.activation if said is None else said) and not look.active:
                look.active, look.by = True, trigger.name
        look.shown = tuple(
            Proposal(source=t.name, value=inputs[t.name], target=t.target, wanted=None) for t in external
        )
        if not external:
            look.active, look.by = True, "a cpu or memory trigger"
        if self._formula is not None:
            self._compose(look, inputs, failing, current, ready)
        elif failing:
            self._fall_back(look, failing, current, ready)
        if policy.force_active and not look.active:
            look.active = True
        return look

    def _spent(self, failing: list[TriggerTarget]) -> list[TriggerTarget]:
        """Return triggers that failed more often than the fallback allows."""
        fallback = self.policy.fallback
        if fallback is None:
            return []
        return [t for t in failing if self._failures[t.name] > fallback.failure_threshold]

    def _fall_back(self, look: _Look, failing: list[TriggerTarget], current: int, ready: int) -> None:
        fallback = self.policy.fallback
        for trigger in self._spent(failing):
            if fallback is None:
                break
            replicas = fallback_replicas(fallback, current)
            value = fallback_value(
                replicas, target=trigger.target, metric_type=trigger.metric_type, ready=ready
            )
            if value is None:  # divided by no replica: the trigger goes on failing
                continue
            look.readings[trigger.name] = Reading(value=value)
            look.fallback = look.active = True
            look.by = look.by or "the fallback"
            look.steps += (("fallback", trigger.name, self._failures[trigger.name], replicas),)

    def _compose(
        self,
        look: _Look,
        inputs: dict[str, float | None],
        failing: list[TriggerTarget],
        current: int,
        ready: int,
    ) -> None:
        """Replace the triggers' values by the formula's."""
        policy, modifiers, formula = self.policy, self.policy.modifiers, self._formula
        if modifiers is None or formula is None:
            return
        spent = self._spent(failing)
        fallback = policy.fallback
        value: float | None = None
        assumed: int | None = None
        if failing and fallback is not None and len(spent) == len(failing):
            look.fallback = True
            if fallback.behavior != "scalingModifiers":
                assumed = fallback_replicas(fallback, current)
        if not failing or (look.fallback and assumed is None):
            try:
                value = formula.evaluate(inputs)
            except FormulaError:
                look.failed = True
            if value is None and look.fallback and fallback is not None:
                assumed = fallback.replicas
        if assumed is not None:
            look.fallback = modifiers.metric_type != "Value" or ready > 0
            value = fallback_value(
                assumed, target=modifiers.target, metric_type=modifiers.metric_type, ready=ready
            )
            if look.fallback:
                look.steps += (("fallback", COMPOSITE, self._failures[failing[0].name], assumed),)
        look.active, look.by = False, ""
        if value is None:
            look.readings[COMPOSITE] = None
            return
        value = stored(value)
        look.readings[COMPOSITE] = Reading(value=value)
        look.steps += (("formula", value),)
        look.shown += (Proposal(source=COMPOSITE, value=value, target=modifiers.target, wanted=None),)
        if look.fallback or (not look.failed and value > modifiers.activation_target):
            look.active, look.by = True, "the formula" if not look.fallback else "the fallback"

    def _made(
        self,
        now: float,
        desired: int,
        raw: int,
        current: int,
        steps: tuple[Step, ...],
        proposals: tuple[Proposal, ...] = (),
    ) -> Decision:
        return Decision(
            desired=desired,
            raw=raw,
            algorithm="keda",
            at=now,
            ready=current,
            minimum=self.policy.min_replicas,
            maximum=self.policy.max_replicas,
            proposals=proposals,
            steps=steps,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain data for JSON."""
        return {
            "created": self._created,
            "activeAt": self._active_at,
            "failures": dict(self._failures),
            "hpa": self._hpa.to_dict(),
        }

    @classmethod
    def from_dict(cls, policy: KedaPolicy, state: dict[str, Any]) -> Keda:
        """Return the decider that `to_dict` described."""
        made = cls(policy, now=state["created"])
        made._active_at = state["activeAt"]
        made._failures = dict(state["failures"])
        made._hpa = Hpa.from_dict(made._hpa.policy, state["hpa"])
        return made


def variables(policy: KedaPolicy) -> frozenset[str]:
    """Return the names that a formula may use: those of triggers that are not cpu or memory."""
    return frozenset(trigger.name for trigger in policy.triggers if not trigger.is_resource)


def _most(proposals: tuple[Proposal, ...], otherwise: int) -> int:
    """Return what the values ask for by their targets alone, without rounding to bounds."""
    asked = [-int(-(p.value / p.target) // 1) for p in proposals if p.value is not None and p.target > 0]
    return min(max(asked, default=otherwise), _MOST)
