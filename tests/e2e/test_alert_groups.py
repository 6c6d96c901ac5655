"""The same alerts, silences and routes for Alertmanager and for Pelton: the same groups at the same times.

Times are compared here although tests do not measure elsewhere: being as punctual as the original is the
promise. Both get the same feed at the same moments on the same machine, changes come half a second or more
from the nearest look, and the median counts, so that a busy machine shifts both.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pelton.apiserver.server import ApiServer
from pelton.clock import SystemClock
from pelton.drivers.webhook import WebhookSender
from pelton.model.notification import LabelSelector, Receiver, Requirement, WebhookReceiver
from pelton.model.notification_routing import NotificationManager
from pelton.notify.alert_table import AlertTable
from pelton.notify.alertmanager import alertmanager_routes
from pelton.notify.group_store import GroupStore
from pelton.notify.intake import create_app
from pelton.notify.pipeline import Pipeline
from pelton.notify.silences import SilenceBook
from tests.contract.nats_server import NatsServer

pytestmark = pytest.mark.connected

CONFIG = """
route:
  receiver: ops
  group_by: [alertname]
  group_wait: 1s
  group_interval: 2s
  repeat_interval: 5s
  routes:
    - matchers: ['severity="critical"']
      receiver: pager
      group_wait: 500ms
inhibit_rules:
  - source_matchers: ['keeps_back="yes"']
    target_matchers: ['kept_back="yes"']
    equal: [zone]
receivers:
  - name: ops
    webhook_configs: [{url: "URL/alertmanager/ops"}]
  - name: pager
    webhook_configs: [{url: "URL/alertmanager/pager"}]
"""
RULES = """
- source_matchers: ['keeps_back="yes"']
  target_matchers: ['kept_back="yes"']
  equal: [zone]
"""
TIMES = {
    "pelton.dev/group-by": "alertname",
    "pelton.dev/group-wait": "1s",
    "pelton.dev/group-interval": "2s",
    "pelton.dev/repeat-interval": "5s",
}
GLOBAL = {"type": "global"}
CRITICAL = LabelSelector(match_labels={"severity": "critical"})
OTHERS = LabelSelector(
    match_expressions=(Requirement(key="severity", operator="NotIn", values=("critical",)),)
)

Told = tuple[float, frozenset[tuple[str, str]]]


class Heard:
    """What came in at `/<sender>/<receiver>`: (receiver, alertname) -> times and alerts, in order."""

    def __init__(self) -> None:
        self.told: dict[str, dict[tuple[str, str], list[Told]]] = defaultdict(lambda: defaultdict(list))

    def app(self) -> Starlette:
        async def take(request: Request) -> Response:
            at = asyncio.get_running_loop().time()
            body = await request.json()
            alerts = frozenset((each["labels"]["pod"], each["status"]) for each in body["alerts"])
            sender, receiver = request.path_params["sender"], request.path_params["receiver"]
            self.told[sender][receiver, body["groupLabels"]["alertname"]].append((at, alerts))
            return Response(b"")

        app = Starlette(routes=[Route("/{sender}/{receiver}", take, methods=["POST"])])
        app.state.stopping = asyncio.Event()
        return app


@asynccontextmanager
async def served(app: Starlette) -> AsyncIterator[str]:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    address = f"http://127.0.0.1:{sock.getsockname()[1]}"
    async with ApiServer(app, sock):
        yield address


@asynccontextmanager
async def pelton(hooks: str, tmp_path: Path) -> AsyncIterator[str]:
    """Alerts in over HTTP, by a real bus and a real file, out over HTTP."""
    clock = SystemClock()
    nats = NatsServer(tmp_path)
    await nats.start()
    try:
        table, book = AlertTable(), SilenceBook(tmp_path / "silences.json")
        async with AsyncExitStack() as stack:
            bus = await stack.enter_async_context(nats.bus())
            webhook = await stack.enter_async_context(WebhookSender(clock))
            pipeline = await stack.enter_async_context(
                Pipeline(
                    bus,
                    {"webhook": webhook},
                    clock,
                    book=book,
                    store=GroupStore(tmp_path / "groups.db"),
                    table=table,
                )
            )
            pipeline.set_receivers(
                [
                    receiver("ops", hooks, OTHERS),
                    receiver("pager", hooks, CRITICAL, {"pelton.dev/group-wait": "500ms"}),
                ],
                manager=NotificationManager(
                    name="m", annotations=TIMES | {"pelton.dev/inhibit-rules": RULES}, global_selector=GLOBAL
                ),
            )
            routes = alertmanager_routes(
                table=table,
                book=book,
                receivers=pipeline.receivers,
                placing=pipeline.placing,
                silences_changed=pipeline.silences_changed,
                clock=clock,
            )
            app = create_app(pipeline.accept, clock=clock, further=routes)
            app.state.stopping = asyncio.Event()
            yield await stack.enter_async_context(served(app))
    finally:
        nats.kill()


def receiver(
    name: str, hooks: str, selector: LabelSelector, annotations: dict[str, str] | None = None
) -> Receiver:
    hook = WebhookReceiver(url=f"{hooks}/pelton/{name}", alert_selector=selector)
    return Receiver(name=name, labels=GLOBAL, annotations=annotations or {}, webhook=hook)


def alert(
    name: str, pod: str, *, critical: bool = False, over: bool = False, **labels: str
) -> dict[str, Any]:
    now = datetime.now(UTC)
    severity = "critical" if critical else "warning"
    return {
        "labels": {"alertname": name, "pod": pod, "severity": severity, **labels},
        "startsAt": now.isoformat(),
        "endsAt": (now if over else now + timedelta(minutes=5)).isoformat(),
    }


def beginning() -> list[dict[str, Any]]:
    """Return what fires at the start."""
    return [
        *(alert(f"Slow{number}", pod) for number in range(14) for pod in "ab"),
        *(alert(f"Down{number}", "a", critical=True) for number in range(8)),
        alert("Cause", "a", keeps_back="yes", zone="1"),
        alert("Effect", "a", kept_back="yes", zone="1"),
        alert("Other", "a", kept_back="yes", zone="2"),
        alert("Quiet", "a"),
    ]


# Seconds from the start -> name, pod and whether it is over.
CHANGES: dict[float, list[tuple[str, str, bool]]] = {
    2.0: [
        *((f"Slow{number}", "c", False) for number in range(4)),  # new alerts
        *((f"Slow{number}", "a", True) for number in range(4, 7)),  # some are over
    ],
    4.0: [
        *((f"Slow{number}", pod, True) for number in range(7, 9) for pod in "ab"),  # all are over
        *((f"Down{number}", "a", True) for number in range(2)),
    ],
}


async def play(urls: list[str]) -> None:
    """Give the same feed to all at the same moments."""
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        loop = asyncio.get_running_loop()

        async def post(path: str, body: Any) -> None:
            answers = await asyncio.gather(*(http.post(f"{url}/api/v2/{path}", json=body) for url in urls))
            assert {answer.status_code for answer in answers} == {200}

        now = datetime.now(UTC)
        silence = {
            "matchers": [{"name": "alertname", "value": "Quiet", "isRegex": False, "isEqual": True}],
            "startsAt": now.isoformat(),
            "endsAt": (now + timedelta(seconds=4)).isoformat(),
            "createdBy": "me",
            "comment": "-",
        }
        await post("silences", silence)
        start = loop.time()
        await post("alerts", beginning())
        for at, changes in CHANGES.items():
            await asyncio.sleep(start + at - loop.time())
            body = [
                alert(name, pod, critical=name.startswith("Down"), over=over) for name, pod, over in changes
            ]
            if at == 4.0:
                body.append(alert("Cause", "a", over=True, keeps_back="yes", zone="1"))
            await post("alerts", body)
        await asyncio.sleep(start + 8.2 - loop.time())


async def compared(own_server, tmp_path) -> tuple[float, dict[tuple[str, str], list[Told]]]:
    """Feed both once; returns the median skew of equal news, in seconds, and what was told."""
    heard = Heard()
    tmp_path.mkdir()
    async with served(heard.app()) as hooks, pelton(hooks, tmp_path) as ours:
        theirs = own_server("alertmanager", config=CONFIG.replace("URL", hooks))
        await play([ours, theirs.url])

    original, told = heard.told["alertmanager"], heard.told["pelton"]
    assert {key: [alerts for _, alerts in each] for key, each in told.items()} == {
        key: [alerts for _, alerts in each] for key, each in original.items()
    }
    late_s = [
        ours_at - theirs_at
        for key, each in original.items()
        for (theirs_at, _), (ours_at, _) in zip(each, told[key], strict=True)
    ]
    median_s = statistics.median(abs(each) for each in late_s)
    print(f"{len(original)} groups, {len(late_s)} notifications, median skew {median_s * 1000:.1f} ms")
    return median_s, original


async def test_the_same_groups_are_told_at_the_same_times(own_server, tmp_path):
    # A machine that has ten times its work delays the two by what it likes: the feed is given again then.
    median_s, original = await compared(own_server, tmp_path / "0")
    for attempt in range(1, 4):
        if median_s > 0.15:
            median_s, original = await compared(own_server, tmp_path / str(attempt))
    assert median_s <= 0.15
    assert len(original) >= 20
    # The kinds of news that the feed was made for did come up.
    assert len(original["ops", "Effect"]) == len(original["ops", "Quiet"]) == 1
    assert [len(original["ops", f"Slow{number}"]) for number in (0, 4, 7, 9)] == [2, 2, 2, 2]
