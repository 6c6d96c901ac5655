from pelton.dataplane.output_troubles import OutputTroubles

PLACE = ("ns", "fn", "orders")


def test_failure_counts_for_a_minute_while_nothing_else_is_sent(caplog):
    troubles = OutputTroubles()
    assert troubles.of(PLACE, 0.0) == ""
    for now in (0.0, 1.0):
        troubles.end(PLACE, troubles.begin(PLACE, now), "away", now)

    assert [troubles.of(PLACE, now) for now in (2.0, 60.9, 61.0)] == ["away", "away", ""]
    assert caplog.text.count("output orders of ns/fn: away") == 1


def test_failure_among_sends_that_arrive_counts_for_some_seconds():
    troubles = OutputTroubles()
    troubles.end(PLACE, troubles.begin(PLACE, 0.0), "away", 0.0)
    troubles.end(PLACE, troubles.begin(PLACE, 1.0), "", 1.0)
    assert [troubles.of(PLACE, now) for now in (9.9, 10.0)] == ["away", ""]

    troubles.end(PLACE, troubles.begin(PLACE, 20.0), "away", 20.0)
    assert troubles.of(PLACE, 40.0) == "away"


def test_send_that_is_not_confirmed_in_time_counts_until_it_ends():
    troubles = OutputTroubles()
    first = troubles.begin(PLACE, 0.0)
    troubles.end(PLACE, troubles.begin(PLACE, 1.0), "", 1.0)

    assert [troubles.of(PLACE, now) for now in (9.9, 10.0)] == ["", "not confirmed within 10 s"]
    troubles.end(PLACE, first, None, 11.0)
    assert troubles.of(PLACE, 11.0) == ""


def test_forgotten_function_has_no_troubles():
    troubles = OutputTroubles()
    troubles.end(PLACE, 0, "away", 0.0)
    assert troubles.of(PLACE, 0.0) == "away"
    troubles.forget("ns", "fn")

    assert troubles.of(PLACE, 0.0) == ""
