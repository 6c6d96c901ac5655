import pytest

from pelton.compat.azure.app import Binding, Function
from pelton.compat.azure.choose import choose, listens_to
from pelton.errors import DeliveryError
from pelton.sdk.trigger import Trigger


def function(name, kind, **fields):
    binding = Binding(name=f"{name}_arg", type=kind, out=False, fields=fields)
    return Function(name=name, directory="/", bindings=(binding,), trigger=binding)


HTTP = function("http", "httpTrigger")
TIMER = function("timer", "timerTrigger", schedule="0 0 3 * * *")
OTHER_TIMER = function("other_timer", "timerTrigger", schedule="0 0 4 * * *")
QUEUE = function("queue", "queueTrigger", queueName="orders")
KAFKA = function("kafka", "kafkaTrigger", topic="%TOPIC%")
GRID = function("grid", "eventGridTrigger")
BLOB = function("blob", "blobTrigger", path="pictures/{name}")
WARM = function("warm", "warmupTrigger")


def chosen(functions, kind="record", **more):
    listening = {
        item.name: listens_to(item, lambda text: text.replace("%TOPIC%", "clicks")) for item in functions
    }
    return choose(functions, listening, Trigger(kind=kind, id="1", time="", **more)).name


ALL = [HTTP, TIMER, OTHER_TIMER, QUEUE, KAFKA, GRID, BLOB, WARM]


@pytest.mark.parametrize(
    ("trigger", "name"),
    [
        ({"topic": "orders"}, "queue"),
        ({"topic": "clicks"}, "kafka"),
        ({"topic": "pictures"}, "blob"),
        ({"source": "kafka"}, "kafka"),
        ({"source": "queue_arg"}, "queue"),
        ({"source": "kafka", "topic": "orders"}, "queue"),
        ({"kind": "timer", "source": "other_timer"}, "other_timer"),
        ({"kind": "timer", "schedule": "0 0 4 * * *"}, "other_timer"),
        ({"kind": "cloudevent", "source": "bus"}, "grid"),
    ],
)
def test_name_of_what_is_listened_to_decides(trigger, name):
    assert chosen(ALL, **trigger) == name


def test_only_function_that_it_can_be_is_chosen():
    assert chosen([HTTP, TIMER, QUEUE], topic="unknown") == "queue"
    assert chosen([HTTP, TIMER, QUEUE], kind="timer", source="clock") == "timer"
    assert chosen([HTTP, TIMER], topic="unknown") == "timer"
    assert chosen([HTTP, QUEUE], kind="timer") == "queue"
    assert chosen([HTTP, WARM], kind="timer") == "http"


@pytest.mark.parametrize("kind", ["record", "timer"])
def test_several_that_could_be_meant_are_named(kind):
    with pytest.raises(DeliveryError, match=r"fits \d functions of the app: .*\(.*Trigger\)") as caught:
        chosen(ALL, kind=kind, source="clock")

    assert caught.value.retriable is False
