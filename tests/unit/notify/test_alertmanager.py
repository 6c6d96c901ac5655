"""What the routes of Alertmanager's API answer to wrong and odd requests; amtool is in tests/e2e."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from pelton.notify.alert import identified, parse
from pelton.notify.alert_table import AlertTable
from pelton.notify.alertmanager import alertmanager_routes
from pelton.notify.muting import Placed
from pelton.notify.silences import SilenceBook
from pelton.testing.clock import FakeClock

MATCHER = {"name": "a", "value": "b", "isRegex": False, "isEqual": True}


def silence(**change: Any) -> dict[str, Any]:
    return {
        "matchers": [MATCHER],
        "startsAt": "2026-01-02T03:04:05Z",
        "endsAt": "2027-01-02T03:04:05Z",
        "createdBy": "me",
        "comment": "why",
        **change,
    }


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def table():
    return AlertTable()


@pytest.fixture
def app(tmp_path, clock, table):
    return Starlette(
        routes=alertmanager_routes(
            table=table,
            book=SilenceBook(tmp_path / "silences.json"),
            receivers=lambda: ["ops"],
            placing=lambda: lambda alert: Placed((("ops", {}),)),
            clock=clock,
        )
    )


@pytest.fixture
async def http(app):
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://notify/api/v2", trust_env=False
    ) as client:
        yield client


def hear(table: AlertTable, clock: FakeClock, body: bytes) -> None:
    table.note([identified(alert, "") for alert in parse(body, now=clock.now())], now=clock.now())


async def test_an_end_that_is_no_time_in_utc_does_not_keep_the_list_from_being_shown(http, clock, table):
    hear(table, clock, b'[{"labels":{"a":"b"},"endsAt":"9999-12-31T23:59:59-14:00"}]')

    alerts, groups = (await http.get("/alerts")).json(), (await http.get("/alerts/groups")).json()

    assert [each["endsAt"] for each in alerts] == ["9999-12-31T23:59:59.000000Z"]
    assert len(groups) == 1


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", 1),
        ("?active=", 1),
        ("?active=true", 1),
        ("?active=Yes", 1),
        ("?active=off", 0),
        ("?active=nonsense", 0),
        ('?filter="app.kubernetes.io/name"="web"', 1),
        ("?filter=app.kubernetes.io/name=web", 1),
        ('?filter={app.kubernetes.io/name!="web"}', 0),
        (r'?filter=app.kubernetes.io/name=~"w\w%2B"', 1),
    ],
)
async def test_alerts_are_picked_as_alertmanager_does(http, clock, table, query, found):
    hear(table, clock, b'[{"labels":{"app.kubernetes.io/name":"web"}}]')

    assert len((await http.get(f"/alerts{query}")).json()) == found


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"comment": "\xff"}', 400),
        (b"{", 400),
        (b'{"more": ' + b"[" * 100_000, 400),
        (b" " * 300_000, 413),
        (silence(endsAt="9999-12-31T23:59:59-14:00"), 400),
        (silence(startsAt="0001-01-01T00:00:00+14:00"), 400),
        (silence(endsAt="2027-01-02T03:04:05"), 400),
        (silence(matchers=[{**MATCHER, "isRegex": True, "value": "(?=b)"}]), 400),
        (silence(matchers=[]), 422),
        (silence(id="00000000-0000-4000-8000-000000000000"), 404),
        (silence(matchers=[{**MATCHER, "isEqual": None}]), 200),
    ],
)
async def test_a_silence_is_made_or_refused_with_a_status(http, body, status):
    answer = await (
        http.post("/silences", content=body) if isinstance(body, bytes) else http.post("/silences", json=body)
    )

    assert answer.status_code == status


async def test_what_is_no_id_is_told_from_an_id_that_nobody_has(http):
    paths = ("/silence/nothing", "/silence/00000000-0000-4000-8000-000000000000")

    assert [(await http.get(path)).status_code for path in paths] == [422, 404]
    assert [(await http.delete(path)).status_code for path in paths] == [422, 404]


@pytest.mark.parametrize(
    ("text", "found"),
    [('a="b"', 1), ("a=b", 1), ('a=~"b"', 0), ('a=~".*"', 0), ('a!="c"', 0), ('z!="b"', 0), ('z=""', 0)],
)
async def test_a_filter_of_silences_names_a_matcher(http, text, found):
    await http.post("/silences", json=silence())

    assert len((await http.get("/silences", params={"filter": text})).json()) == found


@pytest.mark.parametrize("path", ["/alerts", "/alerts/groups"])
async def test_a_long_list_is_made_while_others_go_on(http, clock, table, path):
    hear(table, clock, json.dumps([{"labels": {"a": str(number)}} for number in range(2_000)]).encode())
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    answer = await http.get(path)
    task.cancel()

    assert answer.text.count('"fingerprint"') == 2_000
    assert turns >= 20


async def test_silences_are_listed_by_what_comes_next(http, clock):
    spans = {"b": (0, 20), "a": (0, 10), "d": (40, 50), "c": (30, 60), "f": (0, 1), "e": (0, 2)}
    at = clock.now()
    for name, (start, end) in spans.items():
        times = [(at + timedelta(seconds=seconds)).isoformat() for seconds in (start, end)]
        await http.post("/silences", json=silence(startsAt=times[0], endsAt=times[1], comment=name))
    await clock.advance(5)

    assert [each["comment"] for each in (await http.get("/silences")).json()] == list("abcdef")


async def test_a_client_that_goes_away_is_no_failure_of_the_server(app):
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/api/v2/silences", "headers": [], "query_string": b""}
    await app(scope, receive, send)

    assert sent[0]["status"] == 400
