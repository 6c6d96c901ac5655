"""Each kind of Azure trigger gets the real package's object, and each kind of output leaves as it was set."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

APP = """
import json
from typing import List
import azure.functions as func

app = func.FunctionApp()
SEEN = {}

@app.timer_trigger(arg_name="timer", schedule="%SCHEDULE%")
def tick(timer: func.TimerRequest) -> None:
    SEEN["tick"] = [timer.past_due, timer.schedule_status]

@app.queue_trigger(arg_name="msg", queue_name="orders", connection="c")
@app.retry(strategy="fixed_delay", max_retry_count="2", delay_interval="00:00:01")
def queue(msg: func.QueueMessage, context: func.Context) -> None:
    SEEN["queue"] = [msg.id, msg.get_json(), msg.dequeue_count, msg.insertion_time.year,
                     context.retry_context.retry_count, context.retry_context.max_retry_count,
                     context.trace_context.trace_parent]
    if msg.get_json() == "fail":
        raise ValueError("no")

@app.blob_trigger(arg_name="blob", path="pictures/{name}", connection="c")
@app.blob_output(arg_name="copy", path="copies/{name}", connection="c")
def blob(blob: func.InputStream, copy: func.Out[bytes]) -> None:
    SEEN["blob"] = [blob.name, blob.length, blob.read().decode()]
    copy.set(b"\\x00\\x01")

@app.kafka_trigger(arg_name="event", topic="kafka-one", broker_list="b")
def kafka_one(event: func.KafkaEvent) -> None:
    SEEN["kafka-one"] = [json.loads(event.get_body()), event.key, event.partition, event.offset, event.topic,
                         event.timestamp, event.headers, event.metadata["Topic"]]

@app.kafka_trigger(arg_name="events", topic="kafka-many", broker_list="b", cardinality="many")
def kafka_many(events: List[func.KafkaEvent]) -> None:
    SEEN["kafka-many"] = [[json.loads(e.get_body())["Value"], e.key, e.offset, e.partition] for e in events]

@app.kafka_trigger(arg_name="text", topic="kafka-text", broker_list="b")
def kafka_text(text: str) -> None:
    SEEN["kafka-text"] = json.loads(text)["Value"]

@app.event_hub_message_trigger(arg_name="event", event_hub_name="hub-one", connection="c")
async def hub_one(event: func.EventHubEvent) -> None:
    SEEN["hub-one"] = [event.get_body().decode(), event.sequence_number, event.partition_key,
                       event.enqueued_time.year]

@app.event_hub_message_trigger(arg_name="events", event_hub_name="hub-many", connection="c",
                               cardinality="many")
def hub_many(events: List[func.EventHubEvent]) -> None:
    SEEN["hub-many"] = [[e.get_body().decode(), e.sequence_number] for e in events]

@app.service_bus_queue_trigger(arg_name="msg", queue_name="bus-one", connection="c")
def bus_one(msg: func.ServiceBusMessage) -> None:
    SEEN["bus-one"] = [msg.get_body().decode(), msg.message_id, msg.delivery_count, msg.user_properties]

@app.service_bus_topic_trigger(arg_name="msgs", topic_name="bus-many", subscription_name="s", connection="c",
                               cardinality="many")
def bus_many(msgs: List[func.ServiceBusMessage]) -> None:
    SEEN["bus-many"] = [[m.get_body().decode(), m.message_id] for m in msgs]

@app.event_grid_trigger(arg_name="event")
def grid(event: func.EventGridEvent) -> None:
    SEEN["grid"] = [event.id, event.event_type, event.subject, event.get_json(), event.event_time.year]

@app.dapr_topic_trigger(arg_name="event", pub_sub_name="p", topic="dapr")
def dapr(event: str) -> None:
    SEEN["dapr"] = json.loads(event)["data"]

@app.generic_trigger(arg_name="data", type="daprBindingTrigger", bindingName="generic")
@app.queue_output(arg_name="$return", queue_name="q", connection="c")
def generic(data) -> List[str]:
    SEEN["generic"] = data
    return ["a", "b"]

@app.cosmos_db_trigger(arg_name="docs", container_name="cosmos", database_name="cosmos", connection="c")
@app.generic_output_binding(arg_name="out", type="table")
def cosmos(docs: func.DocumentList, out: func.Out[str]) -> None:
    SEEN["cosmos"] = [d["id"] for d in docs]
    out.set(json.dumps({"a": 1}))
"""

SCRIPT = """
import asyncio, json, sys
from pelton.compat import azure
from pelton.model.invocation import Delivered, Event, Invocation, LoadRequest

sent = []

async def send_async(output):
    sent.append([output.name, output.data.decode("latin-1"), output.content_type, output.metadata])
    return Delivered(ok=output.name != "refused")

function = azure.load(LoadRequest(source=sys.argv[1], target="", signature="v2", context={}, send=None,
                                  send_async=send_async, bundle=sys.argv[1].rpartition("/")[0], revision="r"))
seen = sys.modules["function_app"].SEEN

def event(topic, data, component="bus", kind="topic", of="pubsub.kafka", attempt=1, **attributes):
    metadata = {"__key": "k", "__offset": "7", "__partition": "3", "__timestamp": "1700000000000"}
    metadata["own"] = "header"
    return Event(kind=kind, component=component, component_type=of, topic=topic, data=data,
                 content_type="application/json", attributes={"id": "e-1", **attributes}, metadata=metadata,
                 attempt=attempt)

async def call(happened):
    try:
        reply = await function.call(Invocation("i-1", "POST", b"/", [], event=happened))
        return [reply.status, reply.retry, reply.error]
    except Exception as exc:
        return repr(exc)

async def main():
    results = {}
    for topic in "kafka-one kafka-many kafka-text hub-one hub-many bus-one bus-many dapr".split():
        results[topic] = await call(event(topic, b'{"a": 1}'))
    results["queue"] = await call(event("orders", b'{"a": 1}', attempt=2, traceparent="00-1"))
    results["blob"] = await call(event("pictures", b"picture", kind="binding", of="bindings.localstorage"))
    results["tick"] = await call(event("", b"", component="clock", kind="binding", of="bindings.cron",
                                       time="2020-01-01T00:00:00Z"))
    made = {"specversion": "1.0", "type": "made", "source": "/s", "subject": "sub"}
    results["grid"] = await call(event("x", b'{"a": 1}', **made))
    results["generic"] = await call(event("", b"raw", "generic", kind="binding", of="bindings.mqtt"))
    results["cosmos"] = await call(event("", b'{"id": "d"}', component="cosmos", kind="binding"))
    results["failing"] = [await call(event("orders", b'"fail"', attempt=n)) for n in (2, 3)]
    results["ambiguous"] = await call(event("nowhere", b""))
    print(json.dumps([results, seen, sent]))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def outcome(_made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("azure")
    (folder / "function_app.py").write_text(APP)
    source = Path(__file__).parents[2] / "src"
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder / "function_app.py")],
        env={**os.environ, "PYTHONPATH": f"{source}:{_made.site_packages}", "SCHEDULE": "0 */5 * * * *"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    results, seen, sent = json.loads(run.stdout.splitlines()[-1])
    return results, seen, sent, run.stderr


def test_every_event_finds_the_function_that_listens_for_it(outcome):
    results = outcome[0]

    done = {name: result for name, result in results.items() if name not in {"failing", "ambiguous"}}
    assert done == {name: [200, True, ""] for name in done}


def test_records_become_the_objects_of_their_trigger(outcome):
    seen = outcome[1]

    envelope = {
        "Offset": 7,
        "Partition": 3,
        "Topic": "kafka-one",
        "Timestamp": "2023-11-14T22:13:20.000Z",
        "Value": '{"a": 1}',
        "Headers": [{"Key": "own", "Value": "header"}],
    }
    expected = [envelope, "k", 3, 7, "kafka-one", envelope["Timestamp"], envelope["Headers"], "kafka-one"]
    assert seen["kafka-one"] == expected
    assert seen["kafka-many"] == [['{"a": 1}', "k", 7, 3]]
    assert seen["kafka-text"] == '{"a": 1}'
    assert seen["hub-one"] == ['{"a": 1}', 7, "k", 2023]
    assert seen["hub-many"] == [['{"a": 1}', 7]]
    assert seen["bus-one"] == ['{"a": 1}', "e-1", 1, {"own": "header"}]
    assert seen["bus-many"] == [['{"a": 1}', "e-1"]]
    assert seen["dapr"] == {"a": 1}


def test_other_events_become_the_objects_of_their_trigger(outcome):
    seen = outcome[1]

    past_due, status = seen["tick"]
    assert past_due is True
    assert status["Next"].startswith("2020-01-01T00:05:00")
    assert seen["blob"] == ["pictures/e-1", 7, "picture"]
    assert seen["grid"][:4] == ["e-1", "made", "sub", {"a": 1}]
    assert seen["generic"] == "raw"
    assert seen["cosmos"] == ["d"]


def test_outputs_leave_by_the_name_of_their_binding(outcome):
    sent = {tuple(item[:3]) for item in outcome[2]}

    assert ("copy", "\x00\x01", "application/octet-stream") in sent
    assert ("$return", "a", "text/plain; charset=utf-8") in sent
    assert ("$return", "b", "text/plain; charset=utf-8") in sent
    assert ("out", '{"a": 1}', "application/json") in sent
    assert [item[3] for item in outcome[2] if item[0] == "copy"] == [{"blobName": "e-1"}]


def test_retry_policy_ends_attempts_and_is_seen_in_the_context(outcome):
    results, seen, _, errors = outcome

    assert results["failing"] == ["ValueError('no')", [500, False, "ValueError: no"]]
    assert seen["queue"][1:] == ["fail", 3, seen["queue"][3], 2, 2, ""]
    assert "ValueError: no" in errors


def test_event_that_several_functions_could_mean_is_refused_with_their_names(outcome):
    results, _, _, errors = outcome

    status, retry, reason = results["ambiguous"]
    assert (status, retry) == (500, False)
    assert "an event of nowhere fits" in reason
    assert "queue (queueTrigger)" in reason
    assert "pelton.dev/function" in errors
