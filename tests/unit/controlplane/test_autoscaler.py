"""Rules of turning load-page readings into decisions."""

from __future__ import annotations

import pytest

from pelton.autoscale.decision import Decision
from pelton.autoscale.scalers.joined import asks
from pelton.controlplane.autoscaler import OBSERVE_EVERY_S, STEADY_S, Autoscaler
from pelton.model.desired import ScaledBy, Scaling
from pelton.model.scaler import ScalerReading
from pelton.model.scaling import (
    FallbackPolicy,
    FormulaPolicy,
    HttpScaling,
    JobPolicy,
    JobScaling,
    KedaPolicy,
    TriggerTarget,
)
from pelton.model.snapshot import LoadReading
from pelton.plan.scaling import handed_over
from pelton.testing.clock import FakeClock

KEY = "default/hello"


def reading(*, busy_s: float = 0.0, total: int = 0, in_flight: int = 0, queued: int = 0) -> LoadReading:
    return LoadReading(in_flight=in_flight, queued=queued, total=total, busy_ns=int(busy_s * 1e9), at_ns=0)


class Watched:
    """One function, observed at the loop's pace."""

    def __init__(self, scaling: Scaling) -> None:
        self.clock = FakeClock()
        self.autoscaler = Autoscaler(self.clock)
        self.scaling = scaling

    async def look(
        self,
        readings=None,
        *,
        queued=0,
        pending=0,
        ready=0,
        after_s=OBSERVE_EVERY_S,
        usage=None,
        triggers=None,
        jobs=(0, 0),
    ):
        await self.clock.advance(after_s)
        return self.autoscaler.observe(
            KEY,
            self.scaling,
            readings or {},
            queued=queued,
            pending=pending,
            ready=ready,
            usage=usage,
            triggers=triggers,
            jobs=jobs,
        )

    async def idle(self, seconds: float, *, ready: int, pending: int = 0):
        """Look for a while without any load; instances follow what is wanted."""
        decision = Decision(desired=ready)
        for _ in range(round(seconds / OBSERVE_EVERY_S)):
            decision = await self.look(ready=ready, pending=pending)
            ready = decision.desired
        return decision


async def test_first_waiting_request_at_zero_asks_for_an_instance_at_once():
    watched = Watched(Scaling())

    assert (await watched.look(queued=1)).desired == 1


async def test_burst_at_zero_asks_for_as_many_as_it_needs_at_once():
    watched = Watched(Scaling(max_replicas=0))

    assert (await watched.look(queued=700)).desired == 10


async def test_request_shorter_than_an_observation_keeps_the_instance_for_the_window():
    watched = Watched(Scaling(window_s=6.0))
    await watched.look({"a": reading()}, ready=1)
    await watched.look({"a": reading(total=1, busy_s=1e-9)}, ready=1)
    decisions = [await watched.look({"a": reading(total=1, busy_s=1e-9)}, ready=1) for _ in range(100)]

    assert decisions[50].desired == 1
    assert decisions[50].reason == "1 wanted: something ran or waited within 6 s, too short to be measured"
    assert decisions[-1].desired == 0


async def test_idle_function_reaches_zero_within_window_and_a_few_seconds():
    watched = Watched(Scaling(window_s=60.0))
    await watched.look(queued=20)
    seconds = 0.0
    decision = await watched.look({"a": reading(total=20, busy_s=0.01)}, ready=1)
    while decision.desired and seconds < 100.0:
        decision = await watched.look({"a": reading(total=20, busy_s=0.01)}, ready=1)
        seconds += OBSERVE_EVERY_S

    assert decision.desired == 0
    assert 58.0 <= seconds <= 64.0


async def test_busy_integral_becomes_average_concurrency():
    watched = Watched(Scaling())
    busy = 0.0
    decision = Decision(desired=0)
    for _ in range(50):
        busy += 35.0 * OBSERVE_EVERY_S
        decision = await watched.look({"a": reading(busy_s=busy, total=1, in_flight=35)}, ready=1)

    assert 34.9 < (decision.proposals[0].value or 0.0) < 35.1
    assert decision.desired == 1


async def test_instances_and_their_gates_add_up():
    watched = Watched(Scaling(target=10.0, utilization=1.0, max_replicas=0))
    busy = 0.0
    decision = Decision(desired=0)
    for _ in range(50):
        busy += 10.0 * OBSERVE_EVERY_S
        pages = {name: reading(busy_s=busy, in_flight=10, queued=10, total=1) for name in "ab"}
        decision = await watched.look(pages, ready=2)

    assert decision.desired == 4


async def test_instance_that_took_over_a_name_counts_from_its_own_start():
    watched = Watched(Scaling())
    await watched.look({"a": reading(busy_s=100.0, total=1000)}, ready=1)

    assert (await watched.look({"a": reading(busy_s=0.01, total=1)}, ready=1)).proposals[0].value < 1.0


async def test_first_look_at_a_running_instance_does_not_count_its_past():
    watched = Watched(Scaling())

    decision = await watched.look({"a": reading(busy_s=1e6, total=10**9, in_flight=3)}, ready=1)
    assert decision.proposals[0].value == 3.0


async def test_instances_found_at_the_first_look_get_a_whole_window():
    watched = Watched(Scaling(window_s=6.0))
    decisions = [await watched.look({"a": reading()}, ready=1) for _ in range(100)]

    assert decisions[50].desired == 1
    assert decisions[-1].desired == 0


async def test_pending_events_ask_for_instances_without_any_request():
    watched = Watched(Scaling(lag_threshold=10.0))

    decision = await watched.look(pending=45)
    assert decision.desired == 5
    assert "events is 45, which at 10 per replica asks for 5" in decision.reason


async def test_new_bounds_count_at_the_next_look():
    watched = Watched(Scaling(max_replicas=10))
    assert (await watched.look(queued=7000)).desired == 10
    watched.scaling = Scaling(max_replicas=3)

    assert (await watched.look(queued=7000)).desired == 3


async def test_pause_of_the_loop_does_not_stretch_the_queue_over_it():
    watched = Watched(Scaling(window_s=60.0))
    await watched.look(queued=0)
    decision = await watched.look(queued=700, after_s=30.0)

    assert decision.proposals[0].value < 100.0


async def test_initial_scale_is_no_floor_for_a_later_wake():
    watched = Watched(Scaling(initial_scale=3))
    assert (await watched.look(queued=1)).desired == 3
    await watched.look({"a": reading()}, ready=3)
    watched.autoscaler.forget(KEY)

    assert (await watched.look(queued=1)).desired == 1


async def test_forgotten_function_costs_nothing_and_starts_afresh():
    watched = Watched(Scaling())
    await watched.look(queued=500)
    assert watched.autoscaler.decision(KEY) is not None
    watched.autoscaler.forget(KEY)

    assert len(watched.autoscaler) == 0
    assert watched.autoscaler.decision(KEY) is None
    assert (await watched.look()).desired == 0


# --- waiting events at Pelton's own pace


async def test_falling_count_of_events_is_followed_after_the_steady_time():
    watched = Watched(Scaling(lag_threshold=10.0, cooldown_s=60.0))

    assert (await watched.look(pending=50)).desired == 5
    assert (await watched.idle(STEADY_S - 1.0, ready=5, pending=10)).desired == 5
    assert (await watched.idle(4.0, ready=5, pending=10)).desired == 1


async def test_cooldown_keeps_one_instance_for_events_and_then_none():
    watched = Watched(Scaling(cooldown_s=30.0, window_s=6.0))
    await watched.look(pending=25)

    assert (await watched.idle(29.0, ready=3)).desired == 1
    assert (await watched.idle(4.0, ready=1)).desired == 0


async def test_few_events_do_not_activate():
    watched = Watched(Scaling(activation_lag_threshold=5.0))

    assert (await watched.look(pending=5)).desired == 0
    assert (await watched.look(pending=6)).desired == 1


async def test_event_instances_do_not_hold_themselves_up_by_the_shrinking_limit():
    watched = Watched(Scaling(cooldown_s=6.0, window_s=60.0, max_replicas=0))
    assert (await watched.look(pending=80)).desired == 8

    assert (await watched.idle(20.0, ready=8)).desired == 0


async def test_scaled_object_brings_the_limits_of_the_hpa_and_its_polling():
    scaling = Scaling(max_replicas=50, cooldown_s=20.0, keda=KedaPolicy(polling_s=10.0, stabilization_s=0.0))
    watched = Watched(scaling)
    assert (await watched.look(pending=400)).desired == 4  # twice one, at least four
    assert (await watched.idle(16.0, ready=4, pending=400)).desired == 8
    decision = await watched.idle(25.0, ready=8)

    assert decision.desired in (0, 1)
    assert (await watched.idle(10.0, ready=1)).desired == 0


async def test_waiting_events_alone_decide_where_a_scaled_object_has_no_requests_beside():
    scaling = Scaling(
        algorithm="keda",
        cooldown_s=4.0,
        min_replicas=0,
        max_replicas=0,
        keda=KedaPolicy(polling_s=2.0, stabilization_s=0.0),
    )
    watched = Watched(scaling)
    held = {"a": reading(in_flight=50, queued=200)}  # events that workers hold are no requests
    assert (await watched.look(held, pending=250, ready=1)).desired == 4
    decision = await watched.idle(26.0, ready=4)

    assert (decision.desired, decision.algorithm) == (0, "keda")
    again = [await watched.look(pending=pending) for pending in (5, 0)]
    assert (again[0].desired, again[1].causes[0]) == (1, "cooldown")


# --- other algorithms for requests


async def test_requests_per_second_are_counted_by_what_began():
    watched = Watched(Scaling(metric="rps", target=10.0, utilization=1.0, max_replicas=0))
    total, decision = 0, Decision(desired=0)
    for _ in range(60):
        total += 5  # 50 a second
        decision = await watched.look({"a": reading(total=total, busy_s=total * 1e-6)}, ready=1)

    assert 42.0 < (decision.proposals[0].value or 0.0) <= 50.0  # the present second is not over
    assert decision.desired == 5


async def test_burst_that_waits_at_zero_counts_for_requests_per_second_once():
    watched = Watched(Scaling(metric="rps", target=10.0, utilization=1.0, max_replicas=0))
    first = await watched.look(queued=25)
    assert (first.desired, first.proposals[0].value) == (3, 25.0)

    await watched.look(queued=25)
    later = await watched.look({"a": reading(total=25)}, queued=0, ready=3)
    assert later.proposals[0].value == 25.0


async def test_http_add_on_looks_at_what_is_in_flight_and_keeps_its_cooldown():
    http = HttpScaling(concurrency_target=10.0, keda=KedaPolicy(cooldown_s=30.0, polling_s=1.0))
    watched = Watched(Scaling(algorithm="keda-http", http=http, max_replicas=0))
    first = await watched.look(queued=35)
    assert (first.desired, first.algorithm) == (4, "keda-http")

    assert (await watched.idle(29.0, ready=4)).desired == 4
    assert (await watched.idle(5.0, ready=4)).desired == 0


async def test_request_too_short_to_be_seen_in_flight_is_activity_for_the_add_on():
    http = HttpScaling(concurrency_target=10.0, keda=KedaPolicy(cooldown_s=5.0, polling_s=1.0))
    watched = Watched(Scaling(algorithm="keda-http", http=http))
    await watched.look(queued=1)
    decision = Decision(desired=0)
    for total in range(1, 201):
        decision = await watched.look({"a": reading(total=total, busy_s=total * 1e-9)}, ready=1)

    assert decision.desired == 1


def by_object(*, target: float = 10.0, variable: str = "", **options) -> Scaling:
    keda = KedaPolicy(**{"cooldown_s": 30.0, "polling_s": 1.0, **options})
    return Scaling(
        algorithm="keda-http",
        http=HttpScaling(concurrency_target=target, variable=variable, keda=keda),
        min_replicas=keda.min_replicas,
        max_replicas=keda.max_replicas,
        owner="ScaledObject default/web",
    )


async def test_decision_names_the_object_that_scales():
    decision = await Watched(by_object()).look(queued=35)

    assert decision.desired == 4
    assert decision.reason.endswith("as ScaledObject default/web says, not the Function's own options")


async def test_formula_of_an_object_counts_for_a_function():
    formula = FormulaPolicy(formula="web * 2", target=10.0)
    watched = Watched(by_object(variable="web", modifiers=formula))

    assert (await watched.look(queued=15)).desired == 3


@pytest.mark.parametrize(
    ("keda", "ready", "wanted"),
    [
        ({"paused": True}, 2, 2),
        ({"paused_replicas": 3}, 1, 3),
        ({"paused_replicas": 0}, 1, 0),
        ({"paused_out": True}, 2, 2),
    ],
)
async def test_pause_holds_against_requests_and_events(keda, ready, wanted):
    watched = Watched(by_object(**keda))

    pending = 0 if "paused_out" in keda else 500
    assert (await watched.look(queued=90, pending=pending, ready=ready)).desired == wanted


async def test_idle_number_is_what_stays():
    watched = Watched(by_object(min_replicas=3, idle_replicas=1, cooldown_s=5.0))
    await watched.look(queued=1, ready=1)

    assert (await watched.idle(2.0, ready=3)).desired == 3
    assert (await watched.idle(6.0, ready=3)).desired == 1


async def test_changed_rules_keep_the_last_activity():
    watched = Watched(by_object(cooldown_s=30.0))
    await watched.look(queued=5, ready=1)
    watched.scaling = by_object(cooldown_s=30.0, max_replicas=7)

    assert (await watched.idle(20.0, ready=1)).desired == 1
    assert (await watched.idle(15.0, ready=1)).desired == 0


async def test_hpa_on_cpu_measures_between_boundaries_and_never_goes_to_zero():
    watched = Watched(
        Scaling(algorithm="hpa", metric="cpu", target=50.0, utilization=1.0, window_s=6.0, max_replicas=8)
    )
    used, ready, decision = 0.0, 1, Decision(desired=0)
    for _ in range(600):
        used += 0.1 * OBSERVE_EVERY_S * 10 * 0.95  # 95 % of a core
        decision = await watched.look({"a": reading()}, ready=ready, usage={"a": (used, 1e6)})
        ready = 1

    assert decision.desired == 2
    assert decision.proposals[0].value == pytest.approx(95.0, abs=2.0)
    assert (await watched.idle(60.0, ready=2)).desired >= 1


async def test_hpa_on_memory_and_on_concurrency():
    memory = Watched(Scaling(algorithm="hpa", metric="memory", target=10e6, utilization=1.0, window_s=6.0))
    assert (await memory.look({"a": reading()}, ready=1, usage={"a": (0.0, 25e6)})).raw == 3
    load = Watched(Scaling(algorithm="hpa", metric="concurrency", target=5.0, utilization=1.0, window_s=6.0))
    assert (await load.look({"a": reading(in_flight=20)}, ready=1)).raw == 4


# --- options on top


async def test_retention_keeps_the_last_instance_after_the_window():
    watched = Watched(Scaling(window_s=6.0, retention_s=20.0))
    await watched.look({"a": reading(in_flight=1)}, ready=1)

    kept = await watched.idle(25.0, ready=1)
    assert (kept.desired, kept.causes[-1]) == (1, "retention")
    assert (await watched.idle(6.0, ready=1)).desired == 0


async def test_spare_instances_and_one_cooldown_for_every_step_down():
    watched = Watched(Scaling(window_s=6.0, spare_instances=2, hold_s=30.0, max_replicas=0))
    assert (await watched.look({"a": reading(in_flight=100)}, ready=1)).desired == 4

    assert (await watched.idle(29.0, ready=4)).desired == 4
    assert (await watched.idle(45.0, ready=4)).desired == 0


async def test_instances_found_at_the_first_look_get_a_whole_cooldown():
    watched = Watched(Scaling(window_s=6.0, hold_s=30.0))

    assert (await watched.idle(29.0, ready=4)).desired == 4
    assert (await watched.idle(20.0, ready=4)).desired == 0


async def test_burst_capacity_says_when_the_activator_stays_in_path():
    always = Watched(Scaling(target_burst_capacity=-1))
    assert (await always.look(queued=1)).ebc == -1
    some = Watched(Scaling(target_burst_capacity=150))
    assert (await some.look({"a": reading(in_flight=10)}, ready=1)).ebc == -60
    assert (await some.look({"a": reading(in_flight=10)}, ready=2)).ebc >= 0
    assert (await Watched(Scaling()).look(queued=1)).ebc == 0


async def test_history_follows_a_revision_to_another_key():
    watched = Watched(Scaling())
    await watched.look(queued=500)
    watched.autoscaler.move({KEY: f"{KEY}:v1"})

    assert watched.autoscaler.decision(KEY) is None
    assert watched.autoscaler.decision(f"{KEY}:v1") is not None


# ------------------------------------------------------------------------------- triggers that scalers read


def by_triggers(**more) -> Scaling:
    policy = {"triggers": (TriggerTarget(name="jobs", type="redis"),), "cooldown_s": 30.0, **more}
    return Scaling(algorithm="keda", triggered=KedaPolicy(**policy), own_pace=True)


def read(value, *, active=None, target=10.0):
    active = value > 0 if active is None else active
    return {"jobs": [ScalerReading(metric="m", value=value, target=target, active=active)]}


async def test_triggers_scale_from_zero_at_once_and_back_after_the_cooldown():
    watched = Watched(by_triggers())
    busy, rest = read(45.0), read(0.0)

    assert (await watched.look(triggers=busy)).desired == 5
    ready = [5]
    for _ in range(600):
        ready.append((await watched.look(triggers=rest, ready=ready[-1])).desired)

    assert sorted(ready, reverse=True) == ready
    assert ready[100] == 5
    assert ready[-1] == 0


async def test_most_of_requests_events_and_triggers_counts():
    watched = Watched(Scaling(lag_threshold=10.0, triggered=by_triggers().triggered, own_pace=True))

    decision = await watched.look(triggers=read(20.0), pending=70, queued=1)
    assert decision.desired == 7
    assert {"events", "jobs"} <= {proposal.source for proposal in decision.proposals}
    assert (await watched.look(triggers=read(95.0), pending=70, ready=7)).desired == 10


async def test_failures_of_triggers_count_by_rounds():
    scaling = by_triggers(fallback=FallbackPolicy(failure_threshold=1, replicas=3))
    watched = Watched(scaling)
    first = {"jobs": None}
    for _ in range(20):
        assert (await watched.look(triggers=first)).desired == 0

    assert asks(scaling, first)
    assert (await watched.look(triggers={"jobs": None})).desired == 3


async def test_triggers_that_were_not_read_yet_have_not_failed():
    scaling = by_triggers(fallback=FallbackPolicy(failure_threshold=1, replicas=3))
    watched = Watched(scaling)

    assert (await watched.look(triggers=None, ready=2)).desired == 2
    assert (await watched.look(triggers={"jobs": None}, ready=2)).desired == 2
    assert (await watched.look(triggers={"jobs": None}, ready=2)).desired == 3


async def test_trigger_that_cannot_be_built_counts_as_one_that_cannot_be_read():
    policy = KedaPolicy(
        triggers=(TriggerTarget(name="jobs"), TriggerTarget(name="lost")),
        fallback=FallbackPolicy(failure_threshold=0, replicas=3),
    )
    scaling = Scaling(algorithm="keda", triggered=policy, own_pace=True)

    assert asks(scaling, read(0.0))
    assert (await Watched(scaling).look(triggers=read(0.0))).desired == 3


async def test_instances_found_at_the_first_look_get_a_cooldown_of_the_triggers():
    watched = Watched(by_triggers(polling_s=1.0))
    rest, ready = read(0.0), [2]
    for _ in range(350):
        ready.append((await watched.look(triggers=rest, ready=ready[-1])).desired)

    assert 0 not in ready[:300]
    assert ready[-1] == 0


@pytest.mark.parametrize("idle", [0, 1])
@pytest.mark.parametrize("algorithm", ["keda", "kpa"])
async def test_idle_number_of_a_scaled_object_is_below_the_minimum(idle, algorithm):
    policy = by_triggers(min_replicas=3, idle_replicas=idle, cooldown_s=5.0, polling_s=1.0).triggered
    given = Scaling(algorithm=algorithm, lag_threshold=10.0, cooldown_s=5.0, window_s=6.0)
    watched = Watched(handed_over(given, ScaledBy(owner="ScaledObject n/s", triggered=policy)))
    rest, busy = read(0.0), read(1.0)

    async def rests(ready):
        for _ in range(80):
            ready = (await watched.look(triggers=rest, ready=ready, after_s=0.5)).desired
        return ready

    assert await rests(0) == idle
    assert (await watched.look(triggers=busy, ready=idle)).desired == 3
    assert await rests(3) == idle
    assert (await watched.look(triggers=rest, pending=1, ready=idle)).desired == 3
    assert await rests(3) == idle
    if algorithm == "kpa":
        assert (await watched.look(triggers=rest, queued=1, ready=idle)).desired == 3
        assert await rests(3) == idle


async def test_memory_that_nobody_knows_does_not_keep_instances():
    triggers = (TriggerTarget(name="jobs"), TriggerTarget(name="memory", type="memory", target=50.0))
    policy = KedaPolicy(triggers=triggers, cooldown_s=5.0)
    watched = Watched(Scaling(algorithm="keda", triggered=policy, own_pace=True))
    rest, ready = read(0.0), [(await watched.look(triggers=read(5.0))).desired]
    for _ in range(600):
        ready.append((await watched.look(triggers=rest, ready=ready[-1])).desired)

    assert (ready[0], ready[-1]) == (1, 0)


@pytest.mark.parametrize(
    ("pause", "expected"), [({"paused": True}, 2), ({"paused_replicas": 4}, 4), ({"paused_out": True}, 2)]
)
async def test_pause_of_a_scaled_object_holds_requests_and_events_too(pause, expected):
    policy = KedaPolicy(triggers=(TriggerTarget(name="jobs"),), min_replicas=2, **pause)
    scaling = Scaling(algorithm="keda", triggered=policy, owner="ScaledObject n/s", min_replicas=2)
    watched = Watched(scaling)

    decision = await watched.look(triggers=read(90.0), ready=2)

    assert decision.desired == expected
    assert decision.steps[-1] == ("owner", "ScaledObject n/s")


async def test_cpu_trigger_goes_by_what_instances_use():
    trigger = TriggerTarget(name="cpu", type="cpu", target=50.0, metric_type="Utilization")
    policy = KedaPolicy(triggers=(trigger,), min_replicas=1)
    watched = Watched(Scaling(algorithm="keda", triggered=policy, min_replicas=1, own_pace=True))
    await watched.look({"a": reading()}, ready=1, usage={"a": (0.0, 0.0)})

    decision = await watched.look({"a": reading()}, ready=1, usage={"a": (20.0, 0.0)}, after_s=20.0)

    assert decision.desired == 2


def test_what_is_read_asks_for_an_instance_only_where_something_is_active():
    plain = by_triggers()

    assert [asks(plain, one) for one in (None, read(0.0), {"jobs": None}, read(1.0))] == [
        False,
        False,
        False,
        True,
    ]
    assert asks(by_triggers(modifiers=FormulaPolicy(formula="jobs", target=1.0)), read(0.0))
    assert not asks(Scaling(), read(1.0))


async def test_jobs_are_added_to_those_that_run_and_never_taken_away():
    rules = JobScaling(policy=JobPolicy(max_replicas=4), share=10, polling_s=2.0)
    watched = Watched(Scaling(algorithm="keda", jobs=rules, lag_threshold=10.0))

    first = await watched.look(pending=25)
    assert (first.desired, first.algorithm) == (3, "keda-jobs")
    assert "by the strategy default" in first.reason
    assert (await watched.look(pending=25, ready=3, jobs=(3, 3))).desired == 3
    # One is on its way out: it counts as running, and takes no events.
    assert (await watched.look(pending=60, ready=2, jobs=(3, 2), after_s=3.0)).desired == 3
    assert (await watched.look(pending=0, ready=2, jobs=(2, 2), after_s=3.0)).desired == 2
