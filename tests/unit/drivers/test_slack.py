"""What Slack gets, and how its answers are read; against a local server."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from pelton.clock import SystemClock
from pelton.drivers.slack import SlackSender

Answer = tuple[int, dict[str, str], bytes]
OK: Answer = (200, {}, b"ok")
PATH = "/services/T0SECRET00/B0SECRET00/tokentokentoken"
PAYLOAD = {"text": "[FIRING:1] é", "blocks": [{"type": "section"}], "other": "not for Slack"}


class Receiver:
    """Answers requests with `answers` in order (status, headers, body), the last for ever; None hangs."""

    def __init__(self, *answers: Answer | None) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self._handlers: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Receiver:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._handlers:
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")[:-2]
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests.append((first.split(" ")[1], headers, body))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if answer is None:
                    await asyncio.Event().wait()
                else:
                    status, extra, text = answer
                    extra = {"content-length": str(len(text)), **extra}
                    rest = "".join(f"{name}: {value}\r\n" for name, value in extra.items())
                    writer.write(f"HTTP/1.1 {status} x\r\n{rest}\r\n".encode() + text)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client or the test has ended it
        finally:
            self._handlers.discard(task)
            writer.close()


def sender(**options: Any) -> SlackSender:
    return SlackSender(SystemClock(), **options)


def api(body: dict[str, Any], status: int = 200, **headers: str) -> Answer:
    return status, headers, json.dumps(body).encode()


async def test_webhook_gets_text_and_blocks_as_utf8_json():
    async with Receiver(OK) as slack, sender() as made:
        result = await made.send({"webhook": slack.url + PATH}, PAYLOAD)

    assert result.ok
    ((path, headers, body),) = slack.requests
    assert path == PATH
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert json.loads(body) == {"text": "[FIRING:1] é", "blocks": [{"type": "section"}]}


@pytest.mark.parametrize(
    ("status", "body", "retriable"),
    [
        (400, b"invalid_payload", False),
        (403, b"invalid_token", False),
        (404, b"no_service", False),
        (410, b"channel_is_archived", False),
        (302, b"", False),
        (408, b"", True),
        (429, b"rate_limited", True),
        (500, b"", True),
        (503, b"", True),
    ],
)
async def test_webhook_failure_is_retriable_only_where_time_can_mend_it(status, body, retriable):
    async with Receiver((status, {}, body)) as slack, sender() as made:
        result = await made.send({"webhook": slack.url + PATH}, PAYLOAD)

    assert (result.ok, result.retriable, result.retry_after_s) == (False, retriable, None)
    assert result.detail == f"HTTP {status} {body.decode()}".strip()


async def test_webhook_retry_after_in_seconds_is_passed_on():
    async with Receiver((429, {"retry-after": "30"}, b"")) as slack, sender() as made:
        result = await made.send({"webhook": slack.url + PATH}, PAYLOAD)

    assert result.retry_after_s == 30.0


async def test_webhook_retry_after_as_date_is_passed_on():
    at = format_datetime(SystemClock().now() + timedelta(seconds=100), usegmt=True)
    async with Receiver((429, {"retry-after": at}, b"")) as slack, sender() as made:
        result = await made.send({"webhook": slack.url + PATH}, PAYLOAD)

    assert result.retry_after_s is not None
    assert 50 < result.retry_after_s <= 100


@pytest.mark.parametrize("text", ["soon", "-5", "", "٣"])
async def test_webhook_unreadable_retry_after_is_none(text):
    async with Receiver((429, {"retry-after": text}, b"")) as slack, sender() as made:
        result = await made.send({"webhook": slack.url + PATH}, PAYLOAD)

    assert (result.retriable, result.retry_after_s) == (True, None)


async def test_webhook_that_hangs_is_given_up_after_the_timeout():
    async with Receiver(None) as slack, sender(timeout_s=0.05) as made:
        result = await made.send({"webhook": slack.url + PATH}, PAYLOAD)

    assert (result.ok, result.retriable) == (False, True)
    assert result.detail.startswith("No answer: ")


async def test_webhook_accepted_counts_even_if_the_body_never_ends():
    async with Receiver((200, {"content-length": "50"}, b"o")) as slack, sender(timeout_s=0.1) as made:
        result = await made.send({"webhook": slack.url + PATH}, PAYLOAD)

    assert result.ok


async def test_webhook_nobody_listens_is_retriable():
    async with Receiver(OK) as slack:
        url = slack.url
    async with sender() as made:
        result = await made.send({"webhook": url + PATH}, PAYLOAD)

    assert (result.ok, result.retriable) == (False, True)


@pytest.mark.parametrize("url", ["no address", "ftp://host/x", "http://", "http://[::bad/"])
async def test_webhook_unusable_address_is_refused_for_good(url):
    async with sender() as made:
        result = await made.send({"webhook": url}, PAYLOAD)

    assert (result.ok, result.retriable) == (False, False)
    assert url not in result.detail


async def test_nothing_set_is_refused_for_good():
    async with sender() as made:
        result = await made.send({"channels": ["#ops"]}, PAYLOAD)

    assert (result.ok, result.retriable) == (False, False)


async def test_address_shows_up_nowhere(caplog):
    caplog.set_level(logging.DEBUG)
    page = f"no service at {PATH}, token tokentokentoken".encode()
    async with Receiver((404, {}, page)) as slack, sender() as made:
        result = await made.send({"webhook": slack.url + PATH}, PAYLOAD)
    async with sender() as made:
        closed = await made.send({"webhook": slack.url + PATH}, PAYLOAD)

    seen = caplog.text + result.detail + closed.detail
    assert "SECRET" not in seen
    assert "tokentoken" not in seen


async def test_channels_get_one_call_each_with_the_token():
    async with Receiver(api({"ok": True})) as slack, sender(api_base=slack.url + "/api") as made:
        result = await made.send({"channels": ["#a", "#b"], "token": "xoxb-1"}, PAYLOAD)

    assert result.ok
    assert [path for path, _, _ in slack.requests] == ["/api/chat.postMessage"] * 2
    assert {headers["authorization"] for _, headers, _ in slack.requests} == {"Bearer xoxb-1"}
    assert [json.loads(body)["channel"] for _, _, body in slack.requests] == ["#a", "#b"]


@pytest.mark.parametrize(
    ("answer", "retriable"),
    [
        (api({"ok": False, "error": "channel_not_found"}), False),
        (api({"ok": False, "error": "ratelimited"}), True),
        (api({"ok": False}), False),
        ((200, {}, b"<html>"), True),
        ((200, {}, b"[]"), True),
        ((204, {}, b""), True),
        (api({}, 429), True),
        (api({}, 403), False),
    ],
)
async def test_channels_success_needs_ok_true(answer, retriable):
    async with Receiver(answer) as slack, sender() as made:
        result = await made.send({"channels": ["#a"], "token": "xoxb-1", "apiBase": slack.url}, PAYLOAD)

    assert (result.ok, result.retriable) == (False, retriable)
    assert result.detail.startswith("#a: HTTP ")


async def test_channels_repeated_attempt_skips_those_that_have_it():
    good, limited = api({"ok": True}), api({}, 429, **{"retry-after": "3"})
    settings = {"channels": ["#a", "#b"], "token": "xoxb-1", "deliveryId": "d1"}
    async with Receiver(good, limited, good) as slack, sender(api_base=slack.url) as made:
        first = await made.send(settings, PAYLOAD)
        second = await made.send({**settings, "done": first.done}, PAYLOAD)

    assert (first.ok, first.retriable, first.retry_after_s) == (False, True, 3.0)
    assert (first.done, second.ok, second.done) == (("#a",), True, ("#a", "#b"))
    assert [json.loads(body)["channel"] for _, _, body in slack.requests] == ["#a", "#b", "#b"]


async def test_token_with_a_line_break_is_refused_without_being_shown():
    async with Receiver(OK) as slack, sender(api_base=slack.url) as made:
        result = await made.send({"channels": ["#a"], "token": "xoxb-1\r\nx: y"}, PAYLOAD)

    assert not result.ok
    assert "xoxb" not in result.detail
    assert slack.requests == []


async def test_sender_used_while_closed_says_so():
    with pytest.raises(RuntimeError):
        await sender().send({"webhook": "http://127.0.0.1:1/"}, PAYLOAD)


POST = {"channel": "C1", "ts": "1.1"}
FOLLOW = {"text": "resolved", "posts": {"#a": POST}, "current": {"text": "now"}, "followUp": "thread"}


async def test_new_message_of_a_channel_is_told_by_where_it_is():
    async with Receiver(api({"ok": True, **POST})) as slack, sender(api_base=slack.url) as made:
        result = await made.send({"channels": ["#a"], "token": "xoxb-1"}, PAYLOAD)

    assert (result.done, result.receipts) == (("#a",), {"#a": POST})


async def test_follow_up_changes_the_message_and_answers_below_it():
    async with Receiver(api({"ok": True, **POST})) as slack, sender(api_base=slack.url) as made:
        result = await made.send({"channels": ["#a"], "token": "xoxb-1"}, FOLLOW)

    assert (result.ok, result.receipts) == (True, {})
    assert [(path, json.loads(body)) for path, _, body in slack.requests] == [
        ("/chat.update", {"channel": "C1", "ts": "1.1", "text": "now"}),
        ("/chat.postMessage", {"channel": "C1", "thread_ts": "1.1", "text": "resolved"}),
    ]


async def test_follow_up_by_update_only_posts_nothing():
    async with Receiver(api({"ok": True})) as slack, sender(api_base=slack.url) as made:
        await made.send({"channels": ["#a"], "token": "xoxb-1"}, {**FOLLOW, "followUp": "update"})

    assert [path for path, _, _ in slack.requests] == ["/chat.update"]


async def test_follow_up_of_a_message_that_is_gone_is_posted_anew():
    gone, new = (
        api({"ok": False, "error": "message_not_found"}),
        api({"ok": True, "channel": "C1", "ts": "2.2"}),
    )
    async with Receiver(gone, new) as slack, sender(api_base=slack.url) as made:
        result = await made.send({"channels": ["#a"], "token": "xoxb-1"}, FOLLOW)

    assert result.receipts == {"#a": {"channel": "C1", "ts": "2.2"}}
    assert json.loads(slack.requests[1][2]) == {"channel": "#a", "text": "resolved"}


async def test_channels_after_one_that_asks_to_wait_are_left_for_later():
    good, limited = api({"ok": True}), api({}, 429, **{"retry-after": "3"})
    async with Receiver(good, limited, good) as slack, sender(api_base=slack.url) as made:
        result = await made.send({"channels": ["#a", "#b", "#c"], "token": "xoxb-1"}, PAYLOAD)

    assert (result.retry_after_s, result.done, len(slack.requests)) == (3.0, ("#a",), 2)


async def test_token_that_is_not_accepted_is_told_as_refused():
    async with Receiver(api({"ok": False, "error": "invalid_auth"})) as slack, sender() as made:
        result = await made.send({"channels": ["#a"], "token": "xoxb-1", "apiBase": slack.url}, PAYLOAD)

    assert (result.ok, result.retriable, result.refused) == (False, False, True)


async def test_receiver_may_give_a_call_less_or_more_time_than_usual():
    async with Receiver(None) as slack, sender(api_base=slack.url, timeout_s=30) as made:
        result = await made.send({"channels": ["#a"], "token": "x", "timeoutS": 0.05}, PAYLOAD)
    assert (result.ok, result.retriable) == (False, True)

    async with Receiver(OK) as slack, sender(timeout_s=0.000001) as made:
        result = await made.send({"webhook": slack.url + PATH, "timeoutS": 30.0}, PAYLOAD)
    assert result.ok
