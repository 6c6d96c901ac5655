"""Brings notifications to WeCom: to a group by its bot, to members, departments and tags by an application.

Implements ports.Sender; wired in `cli/`, called by `notify/sending.py`. The bot's address is itself a secret;
it, keys and tokens are never logged. Source: contracts, log and notification, 4.3, 4.4, 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pelton.clock import Clock
from pelton.outgoing import ApiClient, Codes, Tokens, judge_code, secrets_in, send_parts, with_query
from pelton.ports import SendResult

__all__ = ["WeComSender"]

_MOST_USERS, _MOST_PARTIES, _MOST_TAGS = 1000, 100, 100
_STALE = frozenset({40014, 42001})
_CODES = Codes(
    code="errcode",
    text="errmsg",
    limits={45009: 60.0, 45033: 1.0},
    busy=frozenset({-1}),
    # 40001: secret, 40013: company, 40056 and 301002: application, 93000: the bot's address.
    refused=frozenset({40001, 40013, 40056, 41001, 301002, 93000, 93008, *_STALE}),
)


class WeComSender(ApiClient):
    """Posts text or markdown.

    Settings: `chatbot {webhook, atUsers, atMobiles}`, `users`, `parties` and `tags` (ids), each optional; ids
    need `corpId`, `agentId` and `appSecret`, perhaps `apiBase` and `tokenLifetimeS`, or `appMissing`, a
    sentence that says why they are not there. Payload: `{text, format}`.

    Args:
        clock: Time, for tokens.
        timeout_s: Seconds for one call, answer included.
        api_base: Address of the API without the method.
    """

    def __init__(
        self, clock: Clock, *, timeout_s: float = 5.0, api_base: str = "https://qyapi.weixin.qq.com/cgi-bin/"
    ) -> None:
        self._api_base = api_base
        super().__init__(clock, timeout_s=timeout_s)
        self._tokens = Tokens(clock)

    async def send(self, settings: Mapping[str, Any], payload: Mapping[str, Any]) -> SendResult:
        """Send once; never raises for what WeCom does. Cancelling may leave the message posted."""
        parts = {}
        if bot := settings.get("chatbot"):
            parts["chatbot"] = partial(self._to_bot, settings, bot, payload)
        users, parties, tags = [list(settings.get(key) or ()) for key in ("users", "parties", "tags")]
        rounds = max(
            -(-len(ids) // most)
            for ids, most in ((users, _MOST_USERS), (parties, _MOST_PARTIES), (tags, _MOST_TAGS))
        )
        for number in range(rounds):
            parts[f"ids {number}"] = partial(
                self._to_ids,
                settings,
                _nth(users, number, _MOST_USERS),
                _nth(parties, number, _MOST_PARTIES),
                _nth(tags, number, _MOST_TAGS),
                payload,
            )
        return await send_parts(parts, done=settings.get("done") or ())

    async def _to_bot(
        self, settings: Mapping[str, Any], bot: Mapping[str, Any], payload: Mapping[str, Any]
    ) -> SendResult:
        url, text = str(bot.get("webhook") or ""), str(payload["text"])
        users, mobiles = [list(bot.get(key) or ()) for key in ("atUsers", "atMobiles")]
        if payload.get("format") == "markdown":
            mentions = "".join(f"<@{user}>" for user in users)
            body: dict[str, Any] = {
                "msgtype": "markdown",
                "markdown": {"content": f"{text}\n{mentions}" if mentions else text},
            }
        else:
            content = {"content": text, "mentioned_list": users, "mentioned_mobile_list": mobiles}
            body = {"msgtype": "text", "text": content}
        answer = await self.call(url, body, settings=settings)
        return judge_code(answer.without(secrets_in(url)), _CODES)

    async def _to_ids(
        self,
        settings: Mapping[str, Any],
        users: Sequence[str],
        parties: Sequence[str],
        tags: Sequence[str],
        payload: Mapping[str, Any],
    ) -> SendResult:
        if missing := settings.get("appMissing"):
            return SendResult(ok=False, detail=str(missing))
        base = str(settings.get("apiBase") or self._api_base).rstrip("/")
        corp, secret = str(settings.get("corpId") or ""), str(settings.get("appSecret") or "")
        kind = "markdown" if payload.get("format") == "markdown" else "text"
        body = {
            "touser": "|".join(users),
            "toparty": "|".join(parties),
            "totag": "|".join(tags),
            "agentid": str(settings.get("agentId") or ""),
            "safe": "0",
            "msgtype": kind,
            kind: {"content": str(payload["text"])},
        }
        account = (base, corp, secret)
        answer = await self._tokens.use(
            account,
            partial(self._fetch, settings, base, corp, secret),
            lambda token: self.call(
                with_query(f"{base}/message/send", access_token=token), body, settings=settings
            ),
            stale=lambda answer: answer.json().get("errcode") in _STALE,
            lifetime_s=float(settings.get("tokenLifetimeS") or 0),
        )
        if isinstance(answer, SendResult):
            return answer
        result = judge_code(answer, _CODES)
        return _unknown_ids(answer.json()) if result.ok else result

    async def _fetch(
        self, settings: Mapping[str, Any], base: str, corp: str, secret: str
    ) -> tuple[str, float] | SendResult:
        answer = await self.call(
            with_query(f"{base}/gettoken", corpid=corp, corpsecret=secret), settings=settings, method="GET"
        )
        found = answer.json()
        token = str(found.get("access_token") or "")
        result = judge_code(answer.without((secret, token)), _CODES)
        return (token, float(found.get("expires_in") or 7200)) if result.ok else result


def _nth(ids: Sequence[str], number: int, most: int) -> Sequence[str]:
    return ids[number * most : (number + 1) * most]


def _unknown_ids(found: Mapping[str, Any]) -> SendResult:
    """Return success, unless the answer lists ids that do not exist: the others have the message."""
    wrong = [
        f"{key}: {str(found[key])[:120]}"
        for key in ("invaliduser", "invalidparty", "invalidtag")
        if found.get(key)
    ]
    if not wrong:
        return SendResult(ok=True, detail="HTTP 200")
    return SendResult(ok=False, retriable=False, detail=f"Unknown to WeCom: {'; '.join(wrong)}")
