from typing import Any

from confluent_kafka import KafkaError

from pelton.drivers.kafka.consumer import Noted, _Lane, _no_leader, _wrong_with


def filled(*offsets):
    lane: Any = _Lane("t", 0)
    lane.position = offsets[0]
    for offset in offsets:
        lane.order.append(offset)
        lane.open[offset] = None
    return lane


def test_position_moves_over_what_is_finished_without_a_gap():
    lane = filled(5, 6, 8, 9)

    assert not lane.finish(6, "60")
    assert not lane.finish(9, "90")
    assert (lane.position, lane.early, lane.finished_early) == (5, {6: "60", 9: "90"}, 2)
    assert lane.finish(5, "50")
    assert (lane.position, lane.stamp, lane.early) == (7, "60", {9: "90"})
    assert lane.finish(8, "80")
    assert (lane.position, lane.stamp, lane.early, list(lane.order)) == (10, "90", {}, [])


def test_position_stays_before_a_record_that_was_let_go():
    lane = filled(0, 1, 2)
    lane.limit = 1
    lane.finish(0, "1")
    lane.finish(2, "1")

    assert lane.position == 1


def test_noted_records_are_those_before_the_position_and_some_behind():
    noted = Noted()
    noted.position, noted.stamp = 10, 500
    noted.early = {12: "510", 14: "520"}

    assert noted.has(9, "500")
    assert not noted.has(10, "505")
    assert noted.has(12, "510")
    assert not noted.has(12, "510")  # once: whoever comes a third time is another one
    assert not noted.has(14, "999")


def test_records_of_a_topic_that_was_made_anew_are_not_taken_for_old_ones():
    noted = Noted()
    noted.position, noted.stamp = 10, 500

    assert not noted.has(3, "501")
    assert not noted.has(3, "")


def test_noted_records_before_a_committed_offset_are_dropped():
    noted = Noted()
    noted.early = {1: "a", 5: "b"}
    noted.forget_before(5)

    assert noted.early == {5: "b"}


def test_partitions_without_a_leader_are_named_up_to_a_bound():
    assert _no_leader({("t", 1)}) == "t:1 has no leader"
    assert _no_leader({("t", 2), ("t", 1), ("s", 0)}) == "s:0, t:1, t:2 have no leader"
    many = {("t", number) for number in range(100)}
    assert _no_leader(many) == "t:0, t:1, t:2, t:3, t:4 and 95 more have no leader"


def test_topic_that_is_refused_is_not_taken_for_one_that_is_missing():
    gone = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
    refused = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)

    assert _wrong_with("t", None) == _wrong_with("t", gone) == "the topic t does not exist"
    assert _wrong_with("t", refused) == "the topic t cannot be read: Broker: Topic authorization failed"
