"""The benchmarks' pure parts: the table, its budgets, the generated trace and what an oracle would need."""

import pytest

from bench.elasticity import ideal, simulate, trace
from bench.table import Row, as_dict, met, render, spread
from pelton.model.desired import Scaling


def test_ratio_is_ours_divided_by_the_peers():
    assert Row("a", 3.0, 2.0, "1/s").ratio == 1.5


@pytest.mark.parametrize(("ours", "peer"), [(None, 2.0), (3.0, None), (3.0, 0.0)])
def test_without_two_figures_there_is_no_ratio(ours, peer):
    assert Row("a", ours, peer, "1/s").ratio is None


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (Row("a", 6.0, 10.0, "1/s", ">= 0.6"), True),
        (Row("a", 5.9, 10.0, "1/s", ">= 0.6"), False),
        (Row("a", 1.4, 1.0, "ms", "<= 1.5"), True),
        (Row("a", 9.0, 1.0, "ms", "ours <= 10"), True),
        (Row("a", 11.0, 100.0, "ms", "ours <= 10"), False),
        (Row("a", 19.0, None, "s", "ours <= 20"), True),
        (Row("a", 19.0, None, "s"), None),
        (Row("a", None, None, "s", "<= 20"), None),
    ],
)
def test_budget_is_held_against_the_ratio_or_against_our_figure(row, verdict):
    assert met(row) is verdict


def test_a_budget_that_is_not_understood_is_an_error():
    with pytest.raises(ValueError, match="about 3"):
        met(Row("a", 1.0, 1.0, "s", "about 3"))


def test_a_missing_peer_leaves_the_budget_open_instead_of_met():
    assert met(Row("a", 100.0, None, "1/s", ">= 10", note="no peer: not installed")) is None
    assert met(Row("a", None, 5.0, "1/s", ">= 10")) is None


def test_columns_are_aligned_and_notes_come_last():
    text = render(
        [Row("short", 1.0, 2.0, "s", ">= 0.6", note="why"), Row("a longer name", 123.4, None, "ms")]
    )
    head, first, second = text.splitlines()
    assert head.index("unit") == first.index(" s ") + 1 == second.index("ms")
    assert first.endswith("NO   why")
    assert "123" in second
    assert second.split()[-1] == "-"


def test_json_says_what_follows_from_a_row():
    found = as_dict(Row("a", 3.0, 2.0, "s", "<= 1"))
    assert (found["ratio"], found["met"]) == (1.5, False)


def test_spread_is_of_neighbouring_turns():
    assert spread([1.0, 4.0], [2.0, 2.0]) == "0.500..2.00"


def test_the_trace_is_the_same_each_time_and_differs_by_seed():
    assert trace(600, seed=1) == trace(600, seed=1)
    assert trace(600, seed=1) != trace(600, seed=2)


def test_the_trace_has_ten_steps_a_second_and_most_of_a_night_is_silent():
    steps = trace(6 * 3600, seed=3)
    assert len(steps) == 6 * 3600 * 10
    assert steps.count(0) > 0.5 * len(steps)
    assert sum(steps) > 0


def test_the_ideal_rounds_each_second_up_and_needs_nothing_in_silence():
    # 35 requests of 0.2 s in one second are 7 at once on average: one instance of 7, or four of 2.
    second = [5, 5, 5, 5, 5, 5, 5, 0, 0, 0]
    assert ideal([*second, *[0] * 10], 7.0) == [1, 0]
    assert ideal(second, 2.0) == [4]


def test_the_last_instance_is_paid_for_through_the_whole_window():
    scaling = Scaling(max_replicas=0, target=10, utilization=0.7, window_s=6)
    outcome = simulate([1, *[0] * 200], scaling)
    assert outcome.requests == outcome.most == 1
    assert 5.0 <= outcome.instance_s <= 9.0


def test_requests_that_find_no_slot_wait_and_are_all_served():
    scaling = Scaling(max_replicas=1, target=10, utilization=0.7, window_s=6)
    outcome = simulate([30, *[0] * 100], scaling)
    assert outcome.waited >= 20
    assert outcome.wait_p999_s > 0
