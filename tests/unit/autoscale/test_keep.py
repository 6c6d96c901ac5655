"""Rules of spare instances and of the one cooldown."""

from __future__ import annotations

import json

from pelton.autoscale.decision import Decision
from pelton.autoscale.keep import Keeper


def asked(at: float, desired: int, maximum: int = 0) -> Decision:
    return Decision(desired=desired, raw=desired, at=at, maximum=maximum, steps=(("idle",),))


def test_without_options_a_decision_passes_untouched():
    decision = asked(0.0, 3)

    assert Keeper().apply(decision) is decision


def test_spare_instances_come_on_top_of_some_and_never_of_none():
    keeper = Keeper(spare=2)

    assert keeper.apply(asked(0.0, 3)).desired == 5
    assert keeper.apply(asked(1.0, 0)).desired == 0
    assert keeper.apply(asked(2.0, 9, maximum=10)).desired == 10
    assert keeper.apply(asked(3.0, 3)).causes == ("idle", "spare")


def test_one_cooldown_covers_many_to_one_to_none():
    keeper = Keeper(cooldown_s=60.0)
    numbers = {}
    for at, desired in (
        (0.0, 5),
        (30.0, 2),
        (59.0, 1),
        (60.0, 1),
        (89.0, 0),
        (90.0, 0),
        (119.0, 0),
        (120.0, 0),
    ):
        numbers[at] = keeper.apply(asked(at, desired)).desired

    assert numbers == {0.0: 5, 30.0: 5, 59.0: 5, 60.0: 2, 89.0: 2, 90.0: 1, 119.0: 1, 120.0: 0}


def test_what_is_unknown_stays_unknown():
    assert Keeper(spare=2).apply(asked(0.0, -1)).desired == -1


def test_restored_state_keeps_the_same():
    keeper, copy = Keeper(cooldown_s=10.0), Keeper(cooldown_s=10.0)
    keeper.apply(asked(0.0, 4))
    copy.restore(json.loads(json.dumps(keeper.to_dict())))

    assert copy.apply(asked(9.0, 1)) == keeper.apply(asked(9.0, 1))
