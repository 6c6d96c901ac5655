"""When the cycle collector runs in long-running processes."""

from __future__ import annotations

import gc

import pytest

from pelton.cli import cyclic_gc


@pytest.fixture(autouse=True)
def _as_before():
    threshold = gc.get_threshold()
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)
    gc.enable()


@pytest.mark.parametrize("failing", [False, True])
def test_nothing_is_collected_while_a_process_starts(failing):
    try:
        with cyclic_gc.starting():
            assert not gc.isenabled()
            if failing:
                raise OSError
    except OSError:
        pass

    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold()[0] > 700


def test_process_that_has_started_goes_on_collecting_when_it_begins_anew():
    with cyclic_gc.starting():
        pass
    kept = gc.get_freeze_count()
    with cyclic_gc.starting():
        assert gc.isenabled()
        made: list[list[int]] = [[] for _ in range(100)]

    assert len(made) == 100
    assert gc.get_freeze_count() <= kept
