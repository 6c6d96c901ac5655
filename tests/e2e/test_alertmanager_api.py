"""amtool and plain requests against Pelton's Alertmanager API, and the same against the real Alertmanager."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from pelton.apiserver.server import ApiServer
from pelton.clock import SystemClock
from pelton.notify.alert import Alert, fingerprint
from pelton.notify.alert_table import AlertTable
from pelton.notify.alertmanager import alertmanager_routes
from pelton.notify.intake import create_app
from pelton.notify.muting import KeptBack, Placed
from pelton.notify.silences import SilenceBook
from tests.services.table import required

pytestmark = pytest.mark.connected

CRITICAL = {"alertname": "DiskFull", "severity": "critical"}
ALERTS = [
    {"labels": CRITICAL, "annotations": {"summary": "sda"}},
    {"labels": {"alertname": "Slow", "severity": "info"}},
]

MATCHER = {"name": "severity", "value": "critical", "isRegex": False, "isEqual": True}


@pytest.fixture
async def pelton(tmp_path: Path) -> AsyncIterator[str]:
    clock = SystemClock()
    table, book = AlertTable(), SilenceBook(tmp_path / "silences.json")

    async def accept(alerts: Sequence[Alert]) -> None:
        taken = [replace(each, fingerprint=fingerprint(each.labels)) for each in alerts]
        table.note(taken, now=clock.now())

    def placed(alert: Alert) -> Placed:
        silences = [each.id for each in book.active(clock.now()).matching(alert.labels)]
        return Placed((("none", {}),), KeptBack(posted=tuple(silences)))

    routes = alertmanager_routes(
        table=table,
        book=book,
        receivers=lambda: ["none"],
        placing=lambda: placed,
        clock=clock,
    )
    app = create_app(accept, clock=clock, further=routes)
    app.state.stopping = asyncio.Event()
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    port = sock.getsockname()[1]
    async with ApiServer(app, sock):
        yield f"http://127.0.0.1:{port}"


async def amtool(url: str, *words: str) -> str:
    program = shutil.which("amtool") or ""
    if not program:
        pytest.fail("amtool is not here") if required() else pytest.skip("amtool is not here")
    process = await asyncio.create_subprocess_exec(
        program,
        f"--alertmanager.url={url}",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_amtool_adds_queries_silences_and_expires(pelton):
    await amtool(pelton, "alert", "add", "DiskFull", "severity=critical", "--annotation=summary=sda")
    await amtool(pelton, "alert", "add", "Slow", "severity=info")

    id = (
        await amtool(
            pelton,
            "silence",
            "add",
            "severity=~crit.*",
            "--comment=disk is new",
            "--author=me",
            "--duration=1h",
        )
    ).strip()
    listed = json.loads(await amtool(pelton, "silence", "query", "-o", "json"))
    table = await amtool(pelton, "alert", "query")
    loud = json.loads(await amtool(pelton, "alert", "query", "-o", "json"))
    quiet = json.loads(await amtool(pelton, "alert", "query", "--silenced", "-o", "json"))
    picked = json.loads(await amtool(pelton, "alert", "query", "severity=info", "-o", "json"))
    await amtool(pelton, "silence", "update", id, "--duration=2h")
    await amtool(pelton, "silence", "expire", id)
    left = json.loads(await amtool(pelton, "silence", "query", "-o", "json"))
    config = await amtool(pelton, "config", "show")

    assert [(each["id"], each["comment"], each["status"]["state"]) for each in listed] == [
        (id, "disk is new", "active")
    ]
    assert [each["labels"]["alertname"] for each in loud] == ["Slow"]
    assert [(each["labels"]["alertname"], each["status"]["silencedBy"]) for each in quiet] == [
        ("DiskFull", [id])
    ]
    assert [each["labels"]["alertname"] for each in picked] == ["Slow"]
    assert left == []
    assert "0001" not in table
    assert "none" in config


def shape(value: Any) -> Any:
    """Replace what differs between any two runs: times, ids, and what only newer versions have."""
    if isinstance(value, dict):
        return {
            key: "*" if key.endswith(("At", "id", "ID", "silencedBy")) else shape(item)
            for key, item in sorted(value.items())
            if key not in ("mutedBy", "generatorURL")
        }
    if isinstance(value, list):
        return sorted((shape(item) for item in value), key=str)
    return value


async def conversation(url: str) -> list[tuple[str, int, Any]]:
    """Make the same requests, wrong ones included; returns (what, status, shape of the body)."""
    said: list[tuple[str, int, Any]] = []
    async with httpx.AsyncClient(base_url=f"{url}/api/v2", trust_env=False) as http:

        async def ask(method: str, path: str, *, body: Any = None, body_counts: bool = True) -> Any:
            answer = await http.request(method, path, json=body)
            found = answer.json() if answer.content and answer.status_code == 200 and body_counts else None
            said.append((f"{method} {path.partition('/silence/')[0]}", answer.status_code, shape(found)))
            return found

        def silence(**change: Any) -> dict[str, Any]:
            return {
                "matchers": [MATCHER],
                "startsAt": "2026-01-02T03:04:05Z",
                "endsAt": "2126-01-02T03:04:05Z",
                "createdBy": "me",
                "comment": "why",
                **change,
            }

        await ask("POST", "/alerts", body=ALERTS, body_counts=False)
        await ask("GET", "/alerts")
        made = await ask("POST", "/silences", body=silence())
        await ask("GET", "/silences")
        await ask("GET", '/silences?filter=severity="critical"')
        for text in ('="info"', '=~"critical"', '=~"crit.*"', '!="info"', '!="critical"'):
            await ask("GET", f"/silences?filter=severity{text}")
        (known,) = await ask("GET", "/silences")
        for change in (
            {"startsAt": known["startsAt"], "endsAt": "2127-01-02T03:04:05Z"},
            {"startsAt": "2025-01-02T03:04:05Z"},
            {"startsAt": "2100-01-02T03:04:05Z"},
            {"startsAt": "2101-01-02T03:04:05Z"},
            {"startsAt": "2026-01-02T03:04:05Z"},
            {"startsAt": "2100-01-02T03:04:05Z"},
            {"startsAt": "2100-01-02T03:04:05Z", "matchers": [{**MATCHER, "value": "other"}]},
            {"startsAt": "2026-01-02T03:04:05Z"},
        ):
            again = await ask("POST", "/silences", body=silence(id=made["silenceID"], **change))
            said.append(("the id stays", 0, again["silenceID"] == made["silenceID"]))
            await ask("GET", f"/silence/{made['silenceID']}")
            made = again
        await ask("GET", f"/silence/{made['silenceID']}")
        await ask("GET", "/alerts?silenced=false")
        await ask("GET", "/alerts?active=false")
        await ask("GET", "/alerts?active=off&silenced=Yes")
        await ask("GET", "/alerts?silenced=")
        await ask("GET", '/alerts?filter=alertname=~"S.*"')
        await ask("GET", "/alerts?receiver=other")
        await ask("GET", "/alerts/groups")
        await ask("GET", "/alerts/groups?silenced=false")
        await ask("GET", "/alerts/groups?receiver=other")
        await ask("GET", "/receivers")
        await ask("POST", "/silences", body=silence(endsAt="2020-01-01T00:00:00Z"))
        await ask("POST", "/silences", body=silence(matchers=[]))
        await ask("POST", "/silences", body={"comment": "why"})
        await ask("POST", "/silences", body=silence(endsAt="9999-12-31T23:59:59-14:00"))
        await ask(
            "POST", "/silences", body=silence(startsAt="2125-01-01T00:00:00Z", endsAt="2124-01-01T00:00:00Z")
        )
        for pattern in ("(", "(?=x)x", ".*"):
            wrong = {**MATCHER, "isRegex": True, "value": pattern}
            await ask("POST", "/silences", body=silence(matchers=[wrong]))
        await ask("GET", "/alerts?filter=%3D%3D")
        await ask("DELETE", f"/silence/{made['silenceID']}")
        await ask("GET", "/silences")
        await ask("GET", "/silence/00000000-0000-4000-8000-000000000000")
        await ask("GET", "/silence/nothing")
        await ask("DELETE", "/silence/nothing")
    return said


async def test_the_same_requests_get_the_same_answers_as_from_alertmanager(pelton, alertmanager):
    assert await conversation(pelton) == await conversation(alertmanager.url)
