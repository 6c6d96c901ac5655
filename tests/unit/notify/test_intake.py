"""The HTTP side of the intake, called as an ASGI app."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from pelton.errors import DeliveryError, PayloadTooLargeError
from pelton.notify.alert import Alert
from pelton.notify.intake import create_app

ACCEPTED = {"Status": 200, "Message": "Notification request accepted"}


class Queue:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.alerts: list[Alert] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def accept(self, alerts: list[Alert]) -> None:
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.alerts += alerts


def client(queue: Queue, **options) -> httpx.AsyncClient:
    app = create_app(queue.accept, **options)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://notify")


@pytest.mark.parametrize(
    "body", [{"alerts": [{"labels": {"a": "b"}}], "commonLabels": {}}, [{"labels": {"a": "b"}}]]
)
async def test_post_both_shapes_answers_200_with_the_contracts_text(body):
    queue = Queue()
    async with client(queue) as http:
        answer = await http.post("/api/v2/alerts", json=body)

    assert (answer.status_code, answer.json()) == (200, ACCEPTED)
    assert [alert.labels for alert in queue.alerts] == [{"a": "b"}]


async def test_post_answers_only_once_the_alerts_are_stored():
    queue = Queue()
    queue.gate.clear()
    async with client(queue) as http:
        waiting = asyncio.create_task(http.post("/api/v2/alerts", json=[{}]))
        done, _ = await asyncio.wait({waiting}, timeout=0.05)
        assert not done

        queue.gate.set()
        assert (await waiting).status_code == 200


async def test_post_no_alerts_is_accepted_without_the_queue():
    async with client(Queue(DeliveryError("down"))) as http:
        answer = await http.post("/api/v2/alerts", json={"alerts": []})

    assert answer.status_code == 200


@pytest.mark.parametrize(("body", "word"), [(b"{", "JSON"), (b"{}", "alerts"), (b"[3]", "[0]")])
async def test_post_wrong_body_answers_400_with_a_sentence(body, word):
    queue = Queue()
    async with client(queue) as http:
        answer = await http.post("/api/v2/alerts", content=body)

    assert answer.status_code == 400
    assert answer.json()["Status"] == 400
    assert word in answer.json()["Message"]
    assert queue.alerts == []


async def test_post_declared_too_large_answers_413():
    async with client(Queue(), body_limit_bytes=10) as http:
        answer = await http.post("/api/v2/alerts", content=b"[" + b" " * 10 + b"]")

    assert answer.status_code == 413


async def test_post_body_at_the_limit_is_accepted():
    async with client(Queue(), body_limit_bytes=10) as http:
        answer = await http.post("/api/v2/alerts", content=b"[" + b" " * 8 + b"]")

    assert answer.status_code == 200


async def test_post_undeclared_too_large_answers_413_without_reading_on():
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b" " * 100

    async def receive():
        return {"type": "http.request", "body": await anext(chunks), "more_body": True}

    sent = []

    async def send(message):
        sent.append(message)

    chunks = endless()
    scope = {"type": "http", "method": "POST", "path": "/api/v2/alerts", "headers": [], "query_string": b""}
    await create_app(Queue().accept, body_limit_bytes=1000)(scope, receive, send)

    assert sent[0]["status"] == 413
    assert read <= 12


async def test_post_alert_too_large_for_the_queue_answers_413():
    async with client(Queue(PayloadTooLargeError("too big"))) as http:
        answer = await http.post("/api/v2/alerts", json=[{}])

    assert (answer.status_code, answer.json()["Message"]) == (413, "too big")


@pytest.mark.parametrize("error", [DeliveryError("secret host"), ConnectionResetError("x"), TimeoutError()])
async def test_post_queue_not_available_answers_503_to_repeat(error):
    async with client(Queue(error)) as http:
        answer = await http.post("/api/v2/alerts", json=[{}])

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "secret" not in answer.text


async def test_post_queue_that_hangs_answers_503():
    queue = Queue()
    queue.gate.clear()
    async with client(queue, accept_timeout_s=0.01) as http:
        answer = await http.post("/api/v2/alerts", json=[{}])

    assert answer.status_code == 503


async def test_post_body_that_never_ends_answers_408():
    async def receive():
        await asyncio.Event().wait()

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/api/v2/alerts", "headers": [], "query_string": b""}
    await create_app(Queue().accept, read_timeout_s=0.01)(scope, receive, send)

    assert sent[0]["status"] == 408


async def test_post_above_the_number_of_requests_answers_503_and_recovers():
    queue = Queue()
    queue.gate.clear()
    async with client(queue, max_requests=2) as http:
        waiting = [asyncio.create_task(http.post("/api/v2/alerts", json=[{}])) for _ in range(2)]
        refused = None
        while refused is None or refused.status_code != 503:
            extra = asyncio.create_task(http.post("/api/v2/alerts", content=b"{"))
            refused = await extra
        queue.gate.set()

        assert [(await task).status_code for task in waiting] == [200, 200]
        assert (await http.post("/api/v2/alerts", json=[])).status_code == 200


async def test_get_pages_answer_200():
    async with client(Queue(), status=lambda: {"accepted_alerts": 3}) as http:
        answers = [await http.get(path) for path in ("/-/ready", "/-/live", "/status")]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert json.loads(answers[2].text) == {"accepted_alerts": 3}


async def test_get_ready_answers_503_until_ready():
    async with client(Queue(), ready=lambda: False) as http:
        assert (await http.get("/-/ready")).status_code == 503


async def test_get_alerts_is_not_allowed():
    async with client(Queue()) as http:
        assert (await http.get("/api/v2/alerts")).status_code == 405
