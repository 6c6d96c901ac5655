"""What DingTalk gets, and how its answers are read; against a local server."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from pelton.clock import SystemClock
from pelton.drivers.dingtalk import DingTalkSender, signature

BOT, CHAT, TOKEN = "/robot/send", "/chat/send", "/gettoken"
OK = {"errcode": 0, "errmsg": "ok"}
TEXT = {"text": "[FIRING:1] 404", "title": "404", "format": "text"}
MARKDOWN = TEXT | {"format": "markdown"}
SECRET = "SEC000111222333"


def bot(server, **more):
    return {"chatbot": {"webhook": f"{server.url}{BOT}?access_token=abcdef012345", **more}}


def app(server, *chats):
    return {"chats": list(chats), "appKey": "key1", "appSecret": "secret-of-app", "apiBase": server.url}


async def test_bot_gets_text_with_mentions_in_the_fields_of_the_api(provider):
    server = await provider({BOT: [OK]})
    async with DingTalkSender(SystemClock()) as made:
        result = await made.send(bot(server, atMobiles=["138"], atUsers=["u1"], atAll=True), TEXT)

    assert result.ok
    (asked,) = server.asked
    assert asked.query == {"access_token": "abcdef012345"}
    assert asked.body == {
        "msgtype": "text",
        "text": {"content": "[FIRING:1] 404"},
        "at": {"atMobiles": ["138"], "atUserIds": ["u1"], "isAtAll": True},
    }


async def test_bot_markdown_names_those_whom_it_mentions(provider):
    server = await provider({BOT: [OK]})
    async with DingTalkSender(SystemClock()) as made:
        await made.send(bot(server, atMobiles=["138"]), MARKDOWN)

    assert server.asked[0].body["markdown"] == {"title": "404", "text": "[FIRING:1] 404\n\n@138"}


async def test_bot_with_a_secret_signs_time_and_secret(provider):
    server = await provider({BOT: [OK]})
    async with DingTalkSender(SystemClock()) as made:
        await made.send(bot(server, secret=SECRET), TEXT)

    query = server.asked[0].query
    digest = hmac.new(SECRET.encode(), f"{query['timestamp']}\n{SECRET}".encode(), hashlib.sha256).digest()
    assert query["sign"] == base64.b64encode(digest).decode()
    assert len(query["timestamp"]) == 13


def test_signature_is_that_of_the_worked_example():
    """Worked out with openssl: openssl dgst -sha256 -hmac secret, of `1577262236757\\nsecret`."""
    assert signature("secret", 1577262236757) == "TIz5XcFHyeEuCoyc+5d9DoNiRC3txFfOzZU76lmRbYc="


@pytest.mark.parametrize(("text", "added"), [("alarm: x", ""), ("x", "\n\n[alarm, page]")])
async def test_bot_keywords_are_added_where_the_text_has_none(provider, text, added):
    server = await provider({BOT: [OK]})
    async with DingTalkSender(SystemClock()) as made:
        await made.send(bot(server, keywords=["alarm", "page"]), {"text": text, "format": "text"})

    assert server.asked[0].body["text"]["content"] == text + added


@pytest.mark.parametrize(
    ("answer", "retriable", "retry_after_s", "refused"),
    [
        ({"errcode": 310000, "errmsg": "sign not match"}, False, None, True),
        ({"errcode": 130101, "errmsg": "send too fast"}, True, 60.0, False),
        ({"errcode": -1, "errmsg": "busy"}, True, None, False),
        ({"errcode": 400, "errmsg": "bad"}, False, None, False),
        ({"errcode": 0, "status": 7}, True, None, False),
        ((429, {"retry-after": "5"}, b""), True, 5.0, False),
        ((500, {}, b"down"), True, None, False),
        ((200, {}, b"<html>"), True, None, False),
    ],
)
async def test_bot_failure_says_whether_time_or_somebody_mends_it(
    provider, answer, retriable, retry_after_s, refused
):
    server = await provider({BOT: [answer]})
    async with DingTalkSender(SystemClock()) as made:
        result = await made.send(bot(server), TEXT)

    assert (result.ok, result.retriable, result.retry_after_s, result.refused) == (
        False,
        retriable,
        retry_after_s,
        refused,
    )


async def test_bot_that_hangs_is_given_up_after_the_timeout(provider):
    server = await provider({BOT: [None]})
    async with DingTalkSender(SystemClock(), timeout_s=0.05) as made:
        result = await made.send(bot(server), TEXT)

    assert (result.ok, result.retriable) == (False, True)


async def test_chats_share_one_token(provider):
    server = await provider({TOKEN: [{**OK, "access_token": "t1", "expires_in": 7200}], CHAT: [OK]})
    async with DingTalkSender(SystemClock()) as made:
        result = await made.send(app(server, "c1", "c2"), MARKDOWN)

    assert result.ok
    assert [asked.path for asked in server.asked] == [TOKEN, CHAT, CHAT]
    assert server.asked[0].query == {"appkey": "key1", "appsecret": "secret-of-app"}
    assert (server.asked[0].method, server.asked[1].query) == ("GET", {"access_token": "t1"})
    message = {"msgtype": "markdown", "markdown": {"title": "404", "text": "[FIRING:1] 404"}}
    assert server.bodies(CHAT) == [{"chatid": chat, "msg": message} for chat in ("c1", "c2")]


async def test_chat_with_a_stale_token_gets_a_new_one_once(provider):
    tokens = [{**OK, "access_token": token, "expires_in": 7200} for token in ("t1", "t2")]
    server = await provider({TOKEN: tokens, CHAT: [OK, {"errcode": 40014, "errmsg": "invalid"}, OK]})
    async with DingTalkSender(SystemClock()) as made:
        first = await made.send(app(server, "c1"), TEXT)
        second = await made.send(app(server, "c1"), TEXT)

    assert first.ok
    assert second.ok
    assert [asked.query["access_token"] for asked in server.asked if asked.path == CHAT] == ["t1", "t1", "t2"]


async def test_chat_whose_application_is_refused_fails_without_a_loop(provider):
    server = await provider({TOKEN: [{"errcode": 40089, "errmsg": "secret-of-app is wrong"}], CHAT: [OK]})
    async with DingTalkSender(SystemClock()) as made:
        result = await made.send(app(server, "c1"), TEXT)

    assert (result.ok, result.retriable, result.refused) == (False, False, True)
    assert "secret-of-app" not in result.detail
    assert [asked.path for asked in server.asked] == [TOKEN]


async def test_bot_goes_on_while_the_application_is_missing(provider):
    server = await provider({BOT: [OK]})
    settings = bot(server) | {"chats": ["c1"], "appMissing": "No Config suits."}
    async with DingTalkSender(SystemClock()) as made:
        first = await made.send(settings, TEXT)
        second = await made.send(settings | {"done": first.done}, TEXT)

    assert (first.ok, first.retriable, first.done) == (False, True, ("chatbot",))
    assert first.detail == "chat c1: No Config suits."
    assert not second.ok
    assert len(server.asked) == 1


async def test_secrets_are_in_no_detail(provider):
    def echo(server):
        return (400, {}, f"bad: {server.url}{BOT}?access_token=abcdef012345 {SECRET}".encode())

    server = await provider({BOT: [OK]})
    server.answers[BOT] = [echo(server)]
    async with DingTalkSender(SystemClock()) as made:
        result = await made.send(bot(server, secret=SECRET), TEXT)

    assert "abcdef012345" not in result.detail
    assert SECRET not in result.detail
