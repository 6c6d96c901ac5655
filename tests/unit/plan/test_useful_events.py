import pytest

from pelton.model.desired import Component, Subscription
from pelton.plan.eventing import useful_events


@pytest.mark.parametrize(
    ("due", "ordering", "lanes", "useful"),
    [
        (100, "partition", 4, 40),
        (30, "partition", 4, 30),
        (100, "partition", 0, 100),  # a broker that keeps no order
        (100, "key", 4, 100),  # many keys of one partition run side by side
        (100, "none", 4, 100),
        (0, "partition", 4, 0),
    ],
)
def test_events_in_order_count_as_far_as_their_partitions_can_be_shared(due, ordering, lanes, useful):
    subscription = Subscription(
        namespace="default",
        function="f",
        name="in",
        input_name="in",
        component=Component(namespace="default", name="in", type="pubsub.kafka"),
        ordering=ordering,
    )

    assert useful_events(due, subscription, lanes=lanes, lag_threshold=10.0) == useful
