"""What every `Bus` keeps to, whatever is under it; subclasses bring the fixture `bus`."""

import asyncio
from contextlib import aclosing

from pelton.ports import Message

OPTIONS: dict[str, str] = {}


async def take(bus, topic, count, *, consumer="ns.fn.in", max_in_flight=100, finish=True):
    """Return the next deliveries, acked unless told otherwise; ends the subscription."""
    found = []
    async with asyncio.timeout(30):
        batches = bus.subscribe(topic, consumer=consumer, max_in_flight=max_in_flight, options=OPTIONS)
        async with aclosing(batches) as iterator:
            async for batch in iterator:
                assert batch
                found += batch
                if finish:
                    await asyncio.gather(*(delivery.ack() for delivery in batch))
                if len(found) >= count:
                    break
    return found


async def settled(bus, topic, expected, *, consumer="ns.fn.in"):
    """Wait until so many messages are pending."""
    async with asyncio.timeout(30):
        while await bus.pending(topic, consumer=consumer) != expected:
            await asyncio.sleep(0.01)


def texts(deliveries):
    return [delivery.message.data.decode() for delivery in deliveries]


async def fill(bus, topic, count):
    for number in range(count):
        await bus.publish(Message(topic=topic, data=str(number).encode()))


class BusContract:
    async def test_subscribe_delivers_what_was_published_before_in_order(self, bus):
        await fill(bus, "orders.new", 20)

        assert texts(await take(bus, "orders.new", 20)) == [str(number) for number in range(20)]

    async def test_message_keeps_topic_data_and_headers(self, bus):
        await bus.publish(
            Message(topic="orders", data=b"\x00\xff", headers={"Content-Type": "x/y", "a": "ä"})
        )

        (delivery,) = await take(bus, "orders", 1)
        assert delivery.message.topic == "orders"
        assert delivery.message.data == b"\x00\xff"
        assert delivery.message.headers["Content-Type"] == "x/y"
        assert delivery.message.headers["a"] == "ä"

    async def test_publish_with_a_known_id_is_stored_once(self, bus):
        for _ in range(3):
            await bus.publish(Message(topic="orders", data=b"x", id="one"))
        await bus.publish(Message(topic="orders", data=b"y", id="two"))

        assert texts(await take(bus, "orders", 2)) == ["x", "y"]
        await settled(bus, "orders", 0)

    async def test_acked_message_does_not_come_again(self, bus):
        await fill(bus, "orders", 3)
        await take(bus, "orders", 3)
        await bus.publish(Message(topic="orders", data=b"last"))

        assert texts(await take(bus, "orders", 1)) == ["last"]

    async def test_unacked_message_comes_again_at_once_to_the_next_subscriber(self, bus):
        await fill(bus, "orders", 3)
        first = await take(bus, "orders", 3, finish=False)

        again = await take(bus, "orders", 3)
        assert texts(again) == ["0", "1", "2"]
        assert [delivery.key for delivery in again] == [delivery.key for delivery in first]

    async def test_each_consumer_gets_every_message(self, bus):
        await fill(bus, "orders", 2)

        assert texts(await take(bus, "orders", 2, consumer="one")) == ["0", "1"]
        assert texts(await take(bus, "orders", 2, consumer="two")) == ["0", "1"]

    async def test_nak_brings_the_message_back_after_its_delay_and_others_meanwhile(self, bus):
        await fill(bus, "orders", 3)
        loop = asyncio.get_running_loop()
        order = []
        given_back = 0.0
        async with asyncio.timeout(30), aclosing(self._subscribe(bus)) as iterator:
            async for batch in iterator:
                for delivery in batch:
                    text = delivery.message.data.decode()
                    if text == "0" and not given_back:
                        await delivery.nak(0.3)
                        given_back = loop.time()
                    else:
                        order.append((text, loop.time() - given_back))
                        await delivery.ack()
                if len(order) == 3:
                    break

        assert [text for text, _ in order] == ["1", "2", "0"]
        assert order[-1][1] >= 0.25

    async def test_term_ends_a_message_for_good(self, bus):
        await fill(bus, "orders", 2)
        async with asyncio.timeout(30), aclosing(self._subscribe(bus)) as iterator:
            ended = 0
            async for batch in iterator:
                for delivery in batch:
                    await delivery.term()
                    ended += 1
                if ended == 2:
                    break

        await settled(bus, "orders", 0)

    async def test_no_more_than_max_in_flight_are_held(self, bus):
        await fill(bus, "orders", 10)
        held = []
        async with asyncio.timeout(30), aclosing(self._subscribe(bus, max_in_flight=3)) as iterator:
            async for batch in iterator:
                held += batch
                if len(held) == 3:
                    break
            nothing = asyncio.ensure_future(anext(iterator))
            done, _ = await asyncio.wait({nothing}, timeout=0.3)
            assert not done
            await held[0].ack()
            more = await nothing

        assert texts(more) == ["3"]

    async def test_pending_counts_waiting_and_held(self, bus):
        await fill(bus, "orders", 5)
        held = []
        async with asyncio.timeout(30), aclosing(self._subscribe(bus)) as iterator:
            async for batch in iterator:
                held += batch
                if len(held) == 5:
                    break
            assert await bus.pending("orders", consumer="ns.fn.in") == 5
            await held[0].ack()
            await settled(bus, "orders", 4)

    async def test_pending_of_an_unknown_consumer_is_zero(self, bus):
        assert await bus.pending("orders", consumer="nobody") == 0

    async def test_ack_twice_is_harmless(self, bus):
        await fill(bus, "orders", 1)
        (delivery,) = await take(bus, "orders", 1)
        await delivery.ack()
        await settled(bus, "orders", 0)

    async def test_wildcard_subscription_covers_a_family_of_topics(self, bus):
        await bus.publish(Message(topic="logs.shop.cart", data=b"1"))
        await bus.publish(Message(topic="logs.bank.pay", data=b"2"))
        await bus.publish(Message(topic="logs.shop.pay", data=b"3"))

        found = await take(bus, "logs.shop.*", 2)
        assert [delivery.message.topic for delivery in found] == ["logs.shop.cart", "logs.shop.pay"]

    @staticmethod
    def _subscribe(bus, *, max_in_flight=100):
        return bus.subscribe("orders", consumer="ns.fn.in", max_in_flight=max_in_flight, options=OPTIONS)


class LedgerContract(BusContract):
    async def test_discarding_drops_what_waits_and_the_consumer(self, bus):
        await bus.publish(Message(topic="pelton.retry.one", data=b"1"))
        await bus.publish(Message(topic="pelton.retry.two", data=b"2"))
        await take(bus, "pelton.retry.one", 1, consumer="one", finish=False)
        for _ in range(2):
            await bus.publish(Message(topic="pelton.retry.one", data=b"3"))

        assert await bus.discard("pelton.retry.one", consumer="one") == 3
        assert await bus.discard("pelton.retry.one", consumer="one") == 0
        assert await bus.pending("pelton.retry.one", consumer="one") == 0
        assert texts(await take(bus, "pelton.retry.two", 1, consumer="two")) == ["2"]

    async def test_attempts_are_kept_per_owner_until_deleted(self, bus):
        await bus.put_attempts("a.b.c", "s:1", 1)
        await bus.put_attempts("a.b.c", "s:1", 2)
        await bus.put_attempts("a.b.c", "s:2", 1)
        await bus.put_attempts("other", "s:1", 7)
        await bus.delete_attempts("a.b.c", "s:2")
        await bus.delete_attempts("a.b.c", "s:2")

        assert await bus.load_attempts("a.b.c") == {"s:1": 2}
        assert await bus.load_attempts("nobody") == {}
