"""Rules of turning load-page readings into decisions."""

from __future__ import annotations

from pelton.autoscale.kpa import Decision
from pelton.controlplane.autoscaler import OBSERVE_EVERY_S, Autoscaler
from pelton.model.desired import Scaling
from pelton.model.snapshot import LoadReading
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

    async def look(self, readings=None, *, queued=0, pending=0, ready=0, after_s=OBSERVE_EVERY_S):
        await self.clock.advance(after_s)
        return self.autoscaler.observe(
            KEY, self.scaling, readings or {}, queued=queued, pending=pending, ready=ready
        )


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

    assert 34.9 < decision.stable < 35.1
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

    assert (await watched.look({"a": reading(busy_s=0.01, total=1)}, ready=1)).stable < 1.0


async def test_first_look_at_a_running_instance_does_not_count_its_past():
    watched = Watched(Scaling())

    decision = await watched.look({"a": reading(busy_s=1e6, total=10**9, in_flight=3)}, ready=1)
    assert decision.stable == 3.0


async def test_instances_found_at_the_first_look_get_a_whole_window():
    watched = Watched(Scaling(window_s=6.0))
    decisions = [await watched.look({"a": reading()}, ready=1) for _ in range(100)]

    assert decisions[50].desired == 1
    assert decisions[-1].desired == 0


async def test_pending_events_ask_for_instances_without_any_request():
    watched = Watched(Scaling(lag_threshold=10.0))

    decision = await watched.look(pending=45)
    assert (decision.desired, decision.reason) == (5, "5 wanted: 45 events are pending")


async def test_new_bounds_count_at_the_next_look():
    watched = Watched(Scaling(max_replicas=10))
    assert (await watched.look(queued=7000)).desired == 10
    watched.scaling = Scaling(max_replicas=3)

    assert (await watched.look(queued=7000)).desired == 3


async def test_pause_of_the_loop_does_not_stretch_the_queue_over_it():
    watched = Watched(Scaling(window_s=60.0))
    await watched.look(queued=0)
    decision = await watched.look(queued=700, after_s=30.0)

    assert decision.stable < 100.0


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
