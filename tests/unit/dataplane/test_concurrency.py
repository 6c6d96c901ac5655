"""The gate's and the inline choice's rules, by example and by property."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from pelton.dataplane.concurrency import MAX_THREADS, UNLIMITED_QUEUE, Admission, Gate, InlineChoice

MS = 1_000_000


def feed(choice: InlineChoice, elapsed_ns: int, count: int, now_ns: int = 0) -> int:
    """Record `count` equal samples one microsecond apart; returns the time after them."""
    for _ in range(count):
        now_ns += 1000
        choice.record(elapsed_ns, now_ns)
    return now_ns


def relapse(choice: InlineChoice, now_ns: int) -> tuple[int, float]:
    """Leave the loop, wait until it is tried again; returns that time and the wait in seconds."""
    fell = feed(choice, 21 * MS, 1, now_ns)
    now = fell
    while not choice.inline:
        now += MS
        choice.record(MS // 10, now)
    return now, round((now - fell) / 1e9, 1)


def test_gate_queue_is_ten_times_the_concurrency():
    gate: Gate[int] = Gate(2)

    verdicts = [gate.offer(item) for item in range(23)]

    assert verdicts == [Admission.RUN] * 2 + [Admission.WAIT] * 20 + [Admission.FULL]


def test_gate_without_concurrency_still_has_a_bounded_queue():
    gate: Gate[int] = Gate(0, ceiling=MAX_THREADS)

    verdicts = [gate.offer(item) for item in range(MAX_THREADS + UNLIMITED_QUEUE + 1)]

    assert verdicts.count(Admission.RUN) == MAX_THREADS
    assert verdicts[-1] is Admission.FULL


def test_gate_hands_the_place_to_the_oldest_waiter():
    gate: Gate[str] = Gate(1)
    for item in ("a", "b", "c"):
        gate.offer(item)

    assert (gate.leave(), gate.leave(), gate.leave()) == ("b", "c", None)
    assert gate.running == 0


def test_gate_forgets_who_withdraws():
    gate: Gate[str] = Gate(1)
    for item in ("a", "b", "c"):
        gate.offer(item)

    assert gate.withdraw("b")
    assert not gate.withdraw("b")
    assert not gate.withdraw("a")
    assert gate.leave() == "c"


@given(st.integers(0, 4), st.integers(0, 3), st.lists(st.sampled_from(["offer", "leave", "withdraw"])))
def test_gate_never_exceeds_its_limits_and_never_idles_while_something_waits(concurrency, ceiling, steps):
    gate: Gate[int] = Gate(concurrency, ceiling=ceiling)
    inside: set[int] = set()
    queue: deque[int] = deque()
    for item, step in enumerate(steps):
        if step == "offer":
            verdict = gate.offer(item)
            if verdict is Admission.RUN:
                inside.add(item)
            elif verdict is Admission.WAIT:
                queue.append(item)
            else:
                assert len(queue) == gate.queue_limit
        elif step == "leave" and inside:
            inside.pop()
            follower = gate.leave()
            assert follower == (queue.popleft() if queue else None)
            if follower is not None:
                inside.add(follower)
        elif step == "withdraw" and queue:
            assert gate.withdraw(queue.pop())
        assert gate.running == len(inside) <= gate.limit
        assert list(gate.waiting) == list(queue)
        assert not queue or gate.running == gate.limit


def test_choice_starts_on_a_thread_and_goes_inline_after_sixteen_fast_calls():
    choice = InlineChoice()

    feed(choice, MS // 10, 15)
    assert not choice.inline
    feed(choice, MS // 10, 1)
    assert choice.inline


def test_choice_tolerates_one_slow_call_of_sixteen_but_not_two():
    one, two = InlineChoice(), InlineChoice()

    feed(one, 5 * MS, 1)
    feed(one, MS // 10, 15)
    feed(two, 5 * MS, 2)
    feed(two, MS // 10, 14)

    assert one.inline
    assert not two.inline


def test_choice_leaves_inline_when_the_90th_percentile_of_64_exceeds_a_millisecond():
    choice = InlineChoice()
    now = feed(choice, MS // 10, 16)
    now = feed(choice, 2 * MS, 6, now)
    assert choice.inline

    feed(choice, 2 * MS, 1, now)

    assert not choice.inline


def test_choice_forgets_slow_calls_that_are_64_calls_old():
    choice = InlineChoice()
    now = feed(choice, MS // 10, 16)
    for _ in range(20):
        now = feed(choice, 2 * MS, 6, now)
        now = feed(choice, MS // 10, 64, now)

    assert choice.inline


def test_choice_leaves_inline_at_one_call_over_20_ms():
    choice = InlineChoice()
    now = feed(choice, MS // 10, 16)

    feed(choice, 21 * MS, 1, now)

    assert not choice.inline


def test_choice_waits_longer_after_each_relapse_and_forgives_a_long_good_stay():
    choice = InlineChoice()
    now = feed(choice, MS // 10, 16)
    waits_s = []
    for _ in range(12):
        now, waited_s = relapse(choice, now)
        waits_s.append(waited_s)
    _now, after_good_stay_s = relapse(choice, now + 601_000 * MS)

    assert waits_s == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60, 60]
    assert after_good_stay_s == 0.1


@given(st.lists(st.integers(0, 30 * MS), max_size=300))
def test_choice_never_stays_inline_after_a_call_over_20_ms(samples):
    choice = InlineChoice()
    now = 0
    for elapsed in samples:
        now += elapsed
        before = choice.inline
        changed = choice.record(elapsed, now)

        assert changed == (before != choice.inline)
        assert not (elapsed > InlineChoice.OUTLIER_NS and choice.inline and before)
