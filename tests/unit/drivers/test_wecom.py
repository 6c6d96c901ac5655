"""What WeCom gets, and how its answers are read; against a local server."""

from __future__ import annotations

import pytest

from pelton.clock import SystemClock
from pelton.drivers.wecom import WeComSender

BOT, SEND, TOKEN = "/cgi-bin/webhook/send", "/cgi-bin/message/send", "/cgi-bin/gettoken"
OK = {"errcode": 0, "errmsg": "ok"}
KEY = {**OK, "access_token": "t1", "expires_in": 7200}
TEXT = {"text": "[FIRING:1] 404", "format": "text"}
MARKDOWN = TEXT | {"format": "markdown"}


def bot(server, **more):
    return {"chatbot": {"webhook": f"{server.url}{BOT}?key=693a91f6-7xxx", **more}}


def app(server, **more):
    base = f"{server.url}/cgi-bin/"
    return {"corpId": "corp", "agentId": "1000002", "appSecret": "secret-of-app", "apiBase": base, **more}


async def test_bot_gets_text_with_lists_and_markdown_with_names(provider):
    server = await provider({BOT: [OK]})
    async with WeComSender(SystemClock()) as made:
        await made.send(bot(server, atUsers=["u1"], atMobiles=["138"]), TEXT)
        await made.send(bot(server, atUsers=["u1", "u2"]), MARKDOWN)

    first, second = server.bodies(BOT)
    content = {"content": TEXT["text"], "mentioned_list": ["u1"], "mentioned_mobile_list": ["138"]}
    assert first == {"msgtype": "text", "text": content}
    assert second == {"msgtype": "markdown", "markdown": {"content": "[FIRING:1] 404\n<@u1><@u2>"}}


async def test_application_joins_ids_and_caches_its_token(provider):
    server = await provider({TOKEN: [KEY], SEND: [OK]})
    settings = app(server, users=["u1", "u2"], parties=["p1"], tags=["t1"])
    async with WeComSender(SystemClock()) as made:
        assert (await made.send(settings, MARKDOWN)).ok
        assert (await made.send(settings, TEXT)).ok

    assert [asked.path for asked in server.asked] == [TOKEN, SEND, SEND]
    assert server.asked[0].query == {"corpid": "corp", "corpsecret": "secret-of-app"}
    assert server.asked[1].query == {"access_token": "t1"}
    assert server.bodies(SEND)[0] == {
        "touser": "u1|u2",
        "toparty": "p1",
        "totag": "t1",
        "agentid": "1000002",
        "safe": "0",
        "msgtype": "markdown",
        "markdown": {"content": "[FIRING:1] 404"},
    }


async def test_ids_go_out_in_the_batches_of_the_api(provider):
    server = await provider({TOKEN: [KEY], SEND: [OK]})
    users = [f"u{number}" for number in range(1001)]
    parties = [f"p{number}" for number in range(150)]
    async with WeComSender(SystemClock()) as made:
        await made.send(app(server, users=users, parties=parties), TEXT)

    sizes = [
        tuple(len(body[key].split("|")) if body[key] else 0 for key in ("touser", "toparty", "totag"))
        for body in server.bodies(SEND)
    ]
    assert sizes == [(1000, 100, 0), (1, 50, 0)]


async def test_expired_token_is_replaced_and_the_message_sent_again(provider):
    server = await provider(
        {TOKEN: [KEY, KEY | {"access_token": "t2"}], SEND: [OK, {"errcode": 42001, "errmsg": "expired"}, OK]}
    )
    async with WeComSender(SystemClock()) as made:
        results = [await made.send(app(server, users=["u"]), TEXT) for _ in range(2)]

    assert [result.ok for result in results] == [True, True]
    assert [asked.query["access_token"] for asked in server.asked if asked.path == SEND] == ["t1", "t1", "t2"]


async def test_changed_secret_has_a_token_of_its_own(provider):
    server = await provider({TOKEN: [KEY], SEND: [OK]})
    async with WeComSender(SystemClock()) as made:
        await made.send(app(server, users=["u"]), TEXT)
        await made.send(app(server, users=["u"], appSecret="another"), TEXT)

    assert [asked.query["corpsecret"] for asked in server.asked if asked.path == TOKEN] == [
        "secret-of-app",
        "another",
    ]


@pytest.mark.parametrize(
    ("answer", "retriable", "retry_after_s", "refused"),
    [
        ({"errcode": 45009, "errmsg": "freq"}, True, 60.0, False),
        ({"errcode": 93000, "errmsg": "invalid webhook url"}, False, None, True),
        ({"errcode": -1, "errmsg": "busy"}, True, None, False),
        ({"errcode": 40058, "errmsg": "content exceeds"}, False, None, False),
        ((503, {"retry-after": "7"}, b""), True, 7.0, False),
    ],
)
async def test_bot_failure_says_whether_time_or_somebody_mends_it(
    provider, answer, retriable, retry_after_s, refused
):
    server = await provider({BOT: [answer]})
    async with WeComSender(SystemClock()) as made:
        result = await made.send(bot(server), TEXT)

    assert (result.ok, result.retriable, result.retry_after_s, result.refused) == (
        False,
        retriable,
        retry_after_s,
        refused,
    )
    assert "693a91f6" not in result.detail


@pytest.mark.parametrize("key", ["invaliduser", "invalidparty", "invalidtag"])
async def test_unknown_ids_are_named_and_not_repeated(provider, key):
    server = await provider({TOKEN: [KEY], SEND: [{**OK, key: "nobody"}]})
    async with WeComSender(SystemClock()) as made:
        result = await made.send(app(server, users=["nobody"]), TEXT)

    assert (result.ok, result.retriable) == (False, False)
    assert result.detail == f"ids 0: Unknown to WeCom: {key}: nobody"
