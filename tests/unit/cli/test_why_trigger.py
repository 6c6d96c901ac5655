import pytest

from pelton.cli.why_trigger import unheard

TRIGGER = {
    "metadata": {"name": "t", "namespace": "shop"},
    "spec": {"eventBus": "default", "inputs": {"a": {"eventSource": "src", "event": "paid"}}},
}
EVENTS = {"http": {"paid": {}}, "cron": {"tick": {"schedule": "@hourly"}}}
KAFKA = {"spec": {"kafka": {"brokers": "k:9092"}}}
BROKEN = {"conditions": [{"type": "Error", "message": "no broker"}]}


@pytest.mark.parametrize(
    ("spec", "status", "buses", "why"),
    [
        ({"eventBus": "default", **EVENTS}, {}, {}, None),
        ({"eventBus": "default", "cron": EVENTS["cron"]}, {}, {}, "has no event paid; it has tick"),
        (EVENTS, {}, {}, "publishes on no bus"),
        ({"eventBus": "own", **EVENTS}, {}, {("shop", "own"): {"spec": {}}}, None),
        ({"eventBus": "own", **EVENTS}, {}, {("shop", "own"): KAFKA}, "on the bus own, which is another one"),
        ({"eventBus": "own", **EVENTS}, {}, {("shop", "own"): KAFKA, ("", "default"): KAFKA}, None),
        ({"eventBus": "default", **EVENTS}, BROKEN, {}, "does not work: no broker"),
    ],
)
def test_input_of_which_no_event_can_come_is_told(spec, status, buses, why):
    source = {"metadata": {"name": "src", "namespace": "shop"}, "spec": spec, "status": status}

    found = unheard(TRIGGER, {("shop", "src"): source}, buses)

    assert found.keys() == ({"a"} if why else set())
    assert (why or "") in found.get("a", "")


def test_input_without_an_eventsource_is_told():
    assert unheard(TRIGGER, {}, {}) == {"a": "there is no EventSource shop/src"}
