import pytest

from pelton.errors import DeliveryError
from pelton.holding import Holding
from pelton.ports import Message


class Broker:
    def __init__(self):
        self.finished, self.renewed, self.away = [], [], False

    async def finish(self, handle, success):
        if self.away:
            raise DeliveryError("away")
        self.finished.append((handle, success))

    async def extend(self, handle):
        self.renewed.append(handle)


@pytest.fixture
def broker():
    return Broker()


@pytest.fixture
def holding(broker):
    return Holding(2, finish=broker.finish, extend=broker.extend)


def offer(holding, *keys):
    for key in keys:
        holding.offer(key, Message(topic="t", data=key.encode()), key)


def keys(deliveries):
    return [delivery.key for delivery in deliveries]


async def test_no_more_are_taken_than_may_be_held_and_ends_make_room(holding, broker):
    offer(holding, "a", "b", "c")
    first = holding.take()
    assert (keys(first), holding.take(), len(holding)) == (["a", "b"], [], 3)

    await first[0].ack()
    await first[1].term()
    assert broker.finished == [("a", True), ("b", False)]
    assert keys(holding.take()) == ["c"]


async def test_what_is_here_already_is_not_offered_again(holding):
    offer(holding, "a", "a")
    (held,) = holding.take()
    offer(holding, "a")
    await held.nak(60)
    offer(holding, "a")
    assert holding.take() == []
    assert "a" in holding
    holding.forget()
    assert len(holding) == 0


async def test_given_back_comes_before_what_waits(holding):
    offer(holding, "a", "b", "c")
    first, _ = holding.take()
    await first.nak(0)
    assert keys(holding.take()) == ["a"]


async def test_delay_frees_the_place_and_the_message_comes_after_it(holding):
    offer(holding, "a")
    (held,) = holding.take()
    await held.nak(0.02)
    assert holding.room == 2
    holding.changed.clear()
    await holding.changed.wait()
    assert keys(holding.take()) == ["a"]


async def test_ended_deliveries_do_nothing(holding, broker):
    offer(holding, "a")
    (held,) = holding.take()
    await held.ack()
    for late in (held.ack(), held.nak(0), held.term(), held.extend()):
        await late
    assert broker.finished == [("a", True)]
    assert broker.renewed == []
    assert holding.take() == []


async def test_unconfirmed_end_lets_the_message_come_again(holding, broker):
    offer(holding, "a")
    (held,) = holding.take()
    await held.extend()
    broker.away = True
    with pytest.raises(DeliveryError):
        await held.ack()
    offer(holding, "a")
    assert keys(holding.take()) == ["a"]
    assert broker.renewed == ["a"]
