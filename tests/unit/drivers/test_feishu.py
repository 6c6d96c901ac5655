"""What Feishu gets, and how its answers are read; against a local server."""

from __future__ import annotations

import base64
import hmac

import pytest

from pelton.clock import SystemClock
from pelton.drivers.feishu import FeishuSender, signature

BOT = "/open-apis/bot/v2/hook/0123456789abcdef"
TOKEN = "/open-apis/auth/v3/tenant_access_token/internal"
BATCH = "/open-apis/message/v4/batch_send/"
OK = {"code": 0, "msg": "success"}
TEXT = {"text": "[FIRING:1] 404"}
POST = {"post": {"zh_cn": {"title": "404", "content": [[{"tag": "text", "text": "x"}]]}}}


def bot(server, **more):
    return {"chatbot": {"webhook": server.url + BOT, **more}}


def app(server, **more):
    return {"appId": "cli_1", "appSecret": "secret-of-app", "apiBase": server.url, **more}


async def test_bot_gets_text_and_post_in_the_fields_of_the_api(provider):
    server = await provider({BOT: [OK]})
    async with FeishuSender(SystemClock()) as made:
        assert (await made.send(bot(server), TEXT)).ok
        assert (await made.send(bot(server), POST)).ok

    assert server.bodies(BOT) == [
        {"msg_type": "text", "content": {"text": "[FIRING:1] 404"}},
        {"msg_type": "post", "content": {"post": POST["post"]}},
    ]


async def test_bot_with_a_secret_signs_nothing_with_time_and_secret(provider):
    server = await provider({BOT: [OK]})
    async with FeishuSender(SystemClock()) as made:
        await made.send(bot(server, secret="s3cret"), TEXT)

    body = server.bodies(BOT)[0]
    key = f"{body['timestamp']}\ns3cret".encode()
    assert body["sign"] == base64.b64encode(hmac.digest(key, b"", "sha256")).decode()
    assert len(body["timestamp"]) == 10


def test_signature_is_that_of_the_worked_example():
    """Worked out with openssl dgst -sha256 -hmac, of nothing, with `1599360473\\ndemo` as key."""
    assert signature("demo", 1599360473) == "l1N0gAcBjdwBvGm1xMjOF0XSyaLRpR7tuO5dHfhAYc8="


async def test_bot_keywords_are_added_to_text_and_post_where_none_is_there(provider):
    server = await provider({BOT: [OK]})
    async with FeishuSender(SystemClock()) as made:
        await made.send(bot(server, keywords=["alarm"]), TEXT)
        await made.send(bot(server, keywords=["alarm"]), POST)
        await made.send(bot(server, keywords=["404"]), POST)

    first, second, third = server.bodies(BOT)
    assert first["content"]["text"] == "[FIRING:1] 404\n\n[alarm]"
    assert second["content"]["post"]["zh_cn"]["content"][-1] == [{"tag": "text", "text": "[alarm]"}]
    assert third["content"]["post"] == POST["post"]


@pytest.mark.parametrize(
    ("answer", "retriable", "retry_after_s", "refused"),
    [
        ({"code": 9499, "msg": "too many requests"}, True, 1.0, False),
        ({"code": 19021, "msg": "sign match fail"}, False, None, True),
        ({"code": 19001, "msg": "param invalid"}, False, None, True),
        ({"code": 9999, "msg": "?"}, False, None, False),
        ({"StatusCode": 19024, "StatusMessage": "no keyword"}, False, None, True),
        ((502, {}, b""), True, None, False),
        ((200, {}, b"{}"), True, None, False),
    ],
)
async def test_bot_failure_says_whether_time_or_somebody_mends_it(
    provider, answer, retriable, retry_after_s, refused
):
    server = await provider({BOT: [answer]})
    async with FeishuSender(SystemClock()) as made:
        result = await made.send(bot(server), TEXT)

    assert (result.ok, result.retriable, result.retry_after_s, result.refused) == (
        False,
        retriable,
        retry_after_s,
        refused,
    )
    assert "0123456789abcdef" not in result.detail


async def test_older_bot_says_success_in_another_field(provider):
    server = await provider({BOT: [{"StatusCode": 0, "StatusMessage": "success"}]})
    async with FeishuSender(SystemClock()) as made:
        assert (await made.send(bot(server), TEXT)).ok


async def test_ids_go_out_two_hundred_at_a_time_with_one_token(provider):
    server = await provider({TOKEN: [{**OK, "tenant_access_token": "t-1", "expire": 7200}], BATCH: [OK]})
    users = [f"u{number}" for number in range(250)]
    async with FeishuSender(SystemClock()) as made:
        result = await made.send(app(server, users=users, departments=["d1"]), TEXT)

    assert result.ok
    assert server.bodies(TOKEN) == [{"app_id": "cli_1", "app_secret": "secret-of-app"}]
    first, second = server.bodies(BATCH)
    assert (first["user_ids"], first["department_ids"]) == (users[:200], ["d1"])
    assert (second["user_ids"], second["department_ids"]) == (users[200:], [])
    assert {asked.headers.get("authorization") for asked in server.asked[1:]} == {"Bearer t-1"}


async def test_unknown_ids_are_named_and_not_repeated(provider):
    answer = {**OK, "data": {"message_id": "m", "invalid_user_ids": ["u2"]}}
    server = await provider({TOKEN: [{**OK, "tenant_access_token": "t-1"}], BATCH: [answer]})
    async with FeishuSender(SystemClock()) as made:
        result = await made.send(app(server, users=["u1", "u2"]), TEXT)

    assert (result.ok, result.retriable) == (False, False)
    assert "u2" in result.detail


async def test_stale_token_is_replaced_once_and_a_fresh_one_that_is_refused_ends_it(provider):
    tokens = [{**OK, "tenant_access_token": token} for token in ("t-1", "t-2", "t-3")]
    stale = {"code": 99991663, "msg": "token"}
    server = await provider({TOKEN: tokens, BATCH: [OK, stale, OK, stale]})
    async with FeishuSender(SystemClock()) as made:
        results = [await made.send(app(server, users=["u"]), TEXT) for _ in range(3)]

    assert [result.ok for result in results] == [True, True, False]
    assert (results[2].retriable, results[2].refused) == (False, True)
    assert len(server.bodies(TOKEN)) == 3
