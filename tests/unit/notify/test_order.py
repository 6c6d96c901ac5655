"""Order among notifications of one group."""

from pelton.notify.order import LONGEST_S, GroupOrder


def test_a_younger_one_waits_for_an_older_one_of_its_group_only():
    order = GroupOrder()

    assert order.enter("g", "1", 10.0, 10.0)
    assert not order.enter("g", "2", 20.0, 20.0)
    assert order.enter("h", "3", 20.0, 20.0)
    assert order.enter("", "4", 20.0, 20.0)
    assert order.enter("g", "1", 10.0, 30.0)

    order.leave("g", "1")
    assert order.enter("g", "2", 20.0, 31.0)


def test_parts_of_one_notification_go_side_by_side():
    order = GroupOrder()

    assert order.enter("g", "1/0", 10.0, 10.0)
    assert order.enter("g", "1/1", 10.0, 10.0)


def test_an_older_one_that_was_passed_does_not_hold_itself_up():
    order = GroupOrder()
    assert order.enter("g", "2", 20.0, 20.0)

    assert order.enter("g", "1", 10.0, 21.0)


def test_nothing_waits_for_ever():
    order = GroupOrder()
    order.enter("g", "lost", 10.0, 10.0)

    assert not order.enter("g", "2", 20.0, 20.0 + LONGEST_S - 1)
    assert order.enter("g", "2", 20.0, 20.0 + LONGEST_S)


def test_leaving_twice_or_without_entering_changes_nothing():
    order = GroupOrder()
    order.leave("g", "1")
    order.enter("g", "1", 10.0, 10.0)
    order.leave("g", "1")
    order.leave("g", "1")

    assert order.enter("g", "2", 20.0, 20.0)


def test_those_that_go_in_one_message_do_not_hold_each_other_up():
    order = GroupOrder()
    together = {"1", "2"}

    assert order.enter("g", "1", 10.0, 10.0, beside=together)
    assert order.enter("g", "2", 20.0, 20.0, beside=together)
    assert not order.enter("g", "3", 30.0, 30.0)
