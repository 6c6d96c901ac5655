"""Where events are posted: CloudEvents in every mode, other bodies as they are, stored before the answer."""

import json

import httpx
import pytest
from starlette.applications import Starlette

from pelton.dataplane.event_intake import event_routes
from pelton.errors import DeliveryError
from pelton.model.desired import QUEUE_TYPE, Component, Subscription
from pelton.model.event_framework import Relay, Webhook

PATH = "/events/default/shop/orders"
EVENT = {"id": "1", "source": "/s", "type": "t", "specversion": "1.0", "data": {"a": 1}}


class Intake:
    def __init__(self):
        self.stored = []
        self.error = None
        self.token = ""

    def relay_at(self, path):
        if path != PATH:
            return None
        subscription = Subscription(
            namespace="default",
            function="EventSource/shop",
            name="http/orders",
            input_name="",
            component=Component(namespace="default", name=QUEUE_TYPE, type=QUEUE_TYPE),
        )
        return Relay(
            namespace="default",
            source="shop",
            kind="http",
            event="orders",
            subscription=subscription,
            destinations=(),
            webhook=Webhook(path=PATH, token=self.token),
        )

    async def accept(self, relay, events):
        if self.error is not None:
            raise self.error
        self.stored += events


@pytest.fixture
def intake():
    return Intake()


@pytest.fixture
async def client(intake):
    ids = iter(f"new-{number}" for number in range(100))
    app = Starlette(routes=event_routes(intake.relay_at, intake.accept, lambda: next(ids)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://events") as client:
        yield client


async def test_any_body_is_stored_as_it_is(client, intake):
    answer = await client.post(PATH, content=b"\x00x", headers={"content-type": "image/x", "x-other": "y"})

    assert (answer.status_code, answer.json()) == (202, {"message": "1 stored"})
    assert intake.stored == [({"content-type": "image/x"}, b"\x00x", "new-0")]


async def test_binary_event_keeps_its_attributes(client, intake):
    headers = {"ce-id": "1", "ce-source": "/s", "ce-type": "t", "ce-specversion": "1.0", "ce-team": "x"}
    for _ in range(2):
        await client.post(PATH, content=b"x", headers={**headers, "content-type": "text/plain"})

    (first, second) = intake.stored
    assert first == ({**headers, "content-type": "text/plain"}, b"x", first[2])
    assert first[2] == second[2]


async def test_structured_event_and_batch_are_told_apart(client, intake):
    one = await client.post(
        PATH, content=json.dumps(EVENT), headers={"content-type": "application/cloudevents+json"}
    )
    other = {**EVENT, "id": "2"}
    both = await client.post(
        PATH,
        content=json.dumps([EVENT, other]),
        headers={"content-type": "application/cloudevents-batch+json; charset=utf-8"},
    )

    assert (one.json(), both.json()) == ({"message": "1 stored"}, {"message": "2 stored"})
    assert [json.loads(data) for _, data, _ in intake.stored] == [EVENT, EVENT, other]
    assert [id for _, _, id in intake.stored[:2]] == [intake.stored[0][2]] * 2
    assert intake.stored[2][2] != intake.stored[0][2]
    assert {headers["content-type"] for headers, _, _ in intake.stored} == {"application/cloudevents+json"}


@pytest.mark.parametrize(
    ("content", "content_type", "words"),
    [
        (b"{", "application/cloudevents+json", "JSON object"),
        (b"{}", "application/cloudevents+json", "lacks id"),
        (b"{}", "application/cloudevents-batch+json", "JSON array"),
        (b"[1]", "application/cloudevents-batch+json", "JSON object"),
        (b'[{"id": "1"}]', "application/cloudevents-batch+json", "lacks"),
    ],
)
async def test_what_says_it_is_an_event_and_is_none_is_refused(client, intake, content, content_type, words):
    answer = await client.post(PATH, content=content, headers={"content-type": content_type})

    assert answer.status_code == 400
    assert words in answer.json()["message"]
    assert intake.stored == []


@pytest.mark.parametrize(
    "event", [{}, {"ce-id": "1", "ce-source": "s", "ce-type": "t", "ce-specversion": "1.0"}]
)
async def test_trace_of_a_request_goes_on(client, intake, event):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await client.post(PATH, content=b"x", headers={**event, "traceparent": trace, "x-other": "o"})

    ((headers, _, _),) = intake.stored
    assert headers == {**event, "traceparent": trace}


async def test_unknown_event_is_not_found(client):
    assert (await client.post("/events/default/shop/other", content=b"x")).status_code == 404
    assert (await client.get(PATH)).status_code == 405


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Basic s3cret", "s3cret"])
async def test_token_is_asked_for(client, intake, given):
    intake.token = "s3cret"
    headers = {"authorization": given} if given else {}

    refused = await client.post(PATH, content=b"x", headers=headers)
    taken = await client.post(PATH, content=b"x", headers={"authorization": "bearer s3cret"})

    assert (refused.status_code, taken.status_code) == (401, 202)
    assert len(intake.stored) == 1


async def test_sender_is_told_to_repeat_what_could_not_be_stored(client, intake):
    intake.error = DeliveryError("the bus is down")

    answer = await client.post(PATH, content=b"x")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "bus" not in answer.text


async def test_body_above_the_limit_is_refused(client, intake):
    answer = await client.post(PATH, content=b"x" * (5 * 1024 * 1024 + 1))

    assert answer.status_code == 413
    assert intake.stored == []
