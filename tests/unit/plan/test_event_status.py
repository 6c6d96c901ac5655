"""Conditions of EventSources and Triggers are a history in upstream's words."""

from pelton.plan.event_status import HISTORY, event_status
from pelton.plan.event_world import Fault

NOW = "2026-01-02T03:04:05Z"


def step(before, *, generation=1, fault=None, ready=False, trouble="", kind="Trigger"):
    return event_status(
        before, kind=kind, generation=generation, fault=fault, ready=ready, trouble=trouble, now=NOW
    )


def told(status):
    return [(one["type"], one["status"], one["reason"]) for one in status["conditions"]]


PENDING = ("Pending", "Unknown", "PendingCreation")
CREATED = ("Created", "True", "TriggerFunctionCreated")
READY = ("Ready", "True", "TriggerIsReady")


def test_sequence_is_pending_created_ready():
    first = step({})
    second = step(first, ready=True)

    assert told(first) == [PENDING, CREATED]
    assert told(second) == [PENDING, CREATED, READY]
    assert step(second, ready=True) == second
    assert second["conditions"][-1] == {
        "timestamp": NOW,
        "type": "Ready",
        "status": "True",
        "reason": "TriggerIsReady",
        "message": "Trigger is ready",
    }


def test_aliases_are_told():
    status = event_status(
        {},
        kind="Trigger",
        generation=1,
        fault=None,
        ready=False,
        trouble="",
        renamed=[("kafka:9092", "127.0.0.1:1")],
        now=NOW,
    )

    assert status["conditions"][1]["message"].endswith("; kafka:9092 stands for 127.0.0.1:1")


def test_names_are_those_of_the_kind():
    assert [reason for _, _, reason in told(step({}, ready=True, kind="EventSource"))] == [
        "PendingCreation",
        "EventSourceFunctionCreated",
        "EventSourceIsReady",
    ]


def test_fault_shows_its_reason_until_it_is_gone():
    fault = Fault(reason="ErrorToFindExistEventBus", message="there is no EventBus a/b")
    broken = step({}, fault=fault)

    assert told(broken) == [PENDING, ("Error", "False", "ErrorToFindExistEventBus")]
    assert step(broken, fault=fault) == broken
    assert told(step(broken, ready=True))[2:] == [CREATED, READY]


def test_trouble_with_a_broker_comes_and_goes():
    ready = step({}, ready=True)
    down = step(ready, trouble="no connection")

    assert down["conditions"][-1]["message"] == "no connection"
    assert told(down)[-1] == ("Error", "False", "ErrorCreatingTrigger")
    assert step(down, trouble="no connection") == down
    assert told(step(down, ready=True))[-1] == READY


def test_runtime_that_is_being_restarted_changes_nothing():
    ready = step({}, ready=True)

    assert step(ready) == ready


def test_changed_spec_begins_anew():
    ready = step({}, ready=True)

    assert told(step(ready, generation=2, ready=True)) == [PENDING, CREATED, READY, PENDING, CREATED, READY]
    assert step(ready, generation=2)["observedGeneration"] == 2


def test_history_is_bounded():
    status = step({})
    for round_ in range(HISTORY):
        status = step(status, trouble=f"down {round_}")
        status = step(status, ready=True)

    assert len(status["conditions"]) == HISTORY
    assert told(status)[-1] == READY
