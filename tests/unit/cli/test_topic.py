from pelton.cli.topic import divided
from pelton.dataplane import retry
from pelton.notify.dead_letters import DEAD_ALERTS
from pelton.ports import Message, Stored


def letter(sequence, subscription):
    event = Message(topic="orders", data=b"x")
    buried = retry.bury(event, subscription, key=str(sequence), attempts=1, reason="r", failed_at=0.0)
    return Stored(stream="DEAD", sequence=sequence, time="", message=buried)


def test_letters_of_a_subscription_that_is_gone_are_left():
    letters = [letter(1, "default.f.in"), letter(2, "default.Trigger/t.sink/1"), letter(3, "default.f.in")]
    alert = Stored(stream="DEAD", sequence=4, time="", message=Message(topic=f"{DEAD_ALERTS}a", data=b""))

    wanted, left = divided([*letters, alert], {"default.f.in"})

    assert [one.sequence for one in wanted] == [1, 3, 4]
    assert left == {"default.Trigger/t.sink/1": 1}


def test_no_letter_is_left_while_nobody_knows_the_subscriptions():
    letters = [letter(1, "default.f.in")]

    assert divided(letters, None) == (letters, {})
