"""Receivers on a whole platform: a wrong token and its mending, follow-ups over a kill, bad templates."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from pelton.cli.client import Client
from pelton.cli.home import Home
from pelton.notify.records import read_history
from tests.e2e.conftest import Platform

pytestmark = pytest.mark.connected

API = "notification.kubesphere.io/v2beta2"


class Chat:
    """Slack's API and a bot of WeCom: takes messages, refuses every token but the good one."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []
        chat = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.headers.get("authorization", "Bearer good") != "Bearer good":
                    answer: dict[str, Any] = {"ok": False, "error": "invalid_auth"}
                else:
                    chat.messages.append((self.path.partition("?")[0], body))
                    ts = f"17.{len(chat.messages)}"
                    answer = {"ok": True, "channel": "C1", "ts": ts, "errcode": 0}
                text = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def texts(self, path: str) -> list[str]:
        return [
            body["text"] if isinstance(body["text"], str) else body["text"]["content"]
            for at, body in self.messages
            if at == path
        ]


@pytest.fixture
def chat() -> Iterator[Chat]:
    made = Chat()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def manifests(chat: Chat, token: str) -> str:
    def obj(kind: str, name: str, version: str = API, **body: Any) -> dict[str, Any]:
        return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **body}

    token_ref = {"valueFrom": {"secretKeyRef": {"name": "slack", "key": "token"}}}
    broken = '{{ define "team.text" }}{{ range .Alerts }}{{ .Labels.alertname }}{{ .Oops }}{{ end }}{{ end }}'
    items = [
        obj("Secret", "slack", "v1", stringData={"token": token}),
        obj("ConfigMap", "words", "v1", data={"team.tmpl": broken, "bad.tmpl": '{{ define "x" }}{{ if }}'}),
        obj(
            "Config",
            "slack",
            spec={"slack": {"slackTokenSecret": token_ref, "slackApiUrl": f"{chat.url}/api"}},
        ),
        obj("Receiver", "chat", spec={"slack": {"channels": ["#a"]}}),
        obj(
            "Receiver",
            "team",
            spec={
                "wechat": {
                    "template": "team.text",
                    "tmplText": {"name": "words"},
                    "chatbot": {"webhook": f"{chat.url}/bot?key=693a91f6-secret"},
                }
            },
        ),
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def ready(platform: Platform, name: str) -> dict[str, Any]:
    with Client(Home(platform.home)) as client:  # a process per look would take most of the test's time
        obj = client.get(client.resource("receivers.notification.kubesphere.io"), "", name)
    return next(iter((obj.get("status") or {}).get("conditions") or [{}]))


def history(platform: Platform, receiver: str) -> list[str]:
    found = read_history(platform.home / "notifications.db", receiver=receiver)
    return [each.outcome for each in found]


def post(platform: Platform, status: str) -> None:
    body = {"alerts": [{"status": status, "labels": {"alertname": "404", "path": "/a"}}]}
    url = f"{platform.endpoints['notify']}/api/v2/alerts"
    assert httpx.post(url, json=body, trust_env=False).status_code == 200


def test_wrong_token_is_seen_and_mended_and_news_finds_its_message_after_a_kill(shared, chat, tmp_path):
    file = tmp_path / "receivers.json"
    file.write_text(manifests(chat, "bad"))
    applied = shared.cli("apply", "-f", str(file))
    assert "data[bad.tmpl]: line 1, column 17: if has no value" in applied.err

    post(shared, "firing")
    shared.until("the refusal is seen", lambda: ready(shared, "chat").get("reason") == "CredentialsRefused")
    shared.until("the fault is seen", lambda: ready(shared, "team").get("reason") == "TemplateFault")
    assert "AlertData has no field Oops" in ready(shared, "team")["message"]
    assert "404" in chat.texts("/bot")[0]
    shared.until("the dead letter is noted", lambda: history(shared, "chat") == ["dead"])

    file.write_text(manifests(chat, "good"))
    shared.cli("apply", "-f", str(file))
    tried = shared.cli("notify", "test", "chat")
    assert "answer: accepted" in tried.out
    assert "redriven 1 dead letter" in shared.cli("notify", "redrive", "chat").out
    shared.until("it is sent", lambda: "sent" in history(shared, "chat"))
    shared.until("it is well again", lambda: ready(shared, "chat").get("status") == "True")

    os.kill(shared.part("runtime")["pid"], signal.SIGKILL)
    assert "sent" in shared.cli("notify", "history", "--receiver", "chat").out
    shared.until("the runtime is back", lambda: httpx_ok(shared))
    post(shared, "resolved")
    shared.until("the end is told", lambda: "/api/chat.update" in [path for path, _ in chat.messages])
    shared.until(
        "the answer is below", lambda: any("thread_ts" in body for _, body in chat.messages), timeout_s=20
    )

    text = shared.log.read_text() + "".join(
        path.read_text(errors="replace") for path in (shared.home / "logs" / "platform").iterdir()
    )
    assert "693a91f6-secret" not in text + applied.text + tried.text
    assert "Bearer good" not in text


def httpx_ok(platform: Platform) -> bool:
    try:
        url = f"{platform.endpoints['notify']}/-/ready"
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
