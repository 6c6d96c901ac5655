"""Brings notifications to DingTalk: to a group by its chatbot, to conversations by an application.

Implements ports.Sender; wired in `cli/`, called by `notify/sending.py`. The bot's address is itself a secret;
it, keys and tokens are never logged. Source: contracts, log and notification, 4.3, 4.4, 8.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from functools import partial
from typing import Any

from pelton.clock import Clock
from pelton.outgoing import Answer, ApiClient, Codes, Tokens, judge_code, secrets_in, send_parts, with_query
from pelton.ports import SendResult

__all__ = ["DingTalkSender", "signature"]

_STALE = frozenset({40001, 40014, 42001})
_CODES = Codes(
    code="errcode",
    text="errmsg",
    # Too many by this bot in a minute; too many calls of an application in a second.
    limits={130101: 60.0, 90018: 1.0, 88: 1.0},
    busy=frozenset({-1}),
    # 310000: the bot's own checks (signature, keywords, addresses) refuse the message.
    refused=frozenset({310000, 300001, 40035, 40078, 40089, 40096, *_STALE}),
)


def signature(secret: str, timestamp_ms: int) -> str:
    """Return the parameter `sign` of a chatbot's address, not yet URL-encoded."""
    text = f"{timestamp_ms}\n{secret}".encode()
    return base64.b64encode(hmac.new(secret.encode(), text, hashlib.sha256).digest()).decode()


class DingTalkSender(ApiClient):
    """Posts text or markdown.

    Settings: `chatbot {webhook, secret, keywords, atMobiles, atUsers, atAll}` and `chats` (ids), each
    optional; chats need `appKey` and `appSecret`, perhaps `apiBase` and `tokenLifetimeS`, or `appMissing`, a
    sentence that says why they are not there. Payload: `{text, title, format}`.

    Args:
        clock: Time, for signatures and tokens.
        timeout_s: Seconds for one call, answer included.
        api_base: Address of the API without the method.
    """

    def __init__(
        self, clock: Clock, *, timeout_s: float = 5.0, api_base: str = "https://oapi.dingtalk.com"
    ) -> None:
        self._api_base = api_base
        super().__init__(clock, timeout_s=timeout_s)
        self._tokens = Tokens(clock)

    async def send(self, settings: Mapping[str, Any], payload: Mapping[str, Any]) -> SendResult:
        """Send once; never raises for what DingTalk does. Cancelling may leave the message posted."""
        parts = {}
        if bot := settings.get("chatbot"):
            parts["chatbot"] = partial(self._to_bot, settings, bot, payload)
        for chat in settings.get("chats") or ():
            parts[f"chat {chat}"] = partial(self._to_chat, settings, str(chat), payload)
        return await send_parts(parts, done=settings.get("done") or ())

    async def _to_bot(
        self, settings: Mapping[str, Any], bot: Mapping[str, Any], payload: Mapping[str, Any]
    ) -> SendResult:
        url, secret = str(bot.get("webhook") or ""), str(bot.get("secret") or "")
        mobiles, users = [list(bot.get(key) or ()) for key in ("atMobiles", "atUsers")]
        words = [str(word) for word in bot.get("keywords") or ()]
        text = str(payload["text"])
        if words and not any(word in text for word in words):
            text += f"\n\n[{', '.join(words)}]"
        markdown = payload.get("format") == "markdown"
        if markdown and (mobiles or users):
            # In markdown only those are mentioned whom the text names.
            text += "\n\n" + " ".join(f"@{who}" for who in [*mobiles, *users])
        body = {
            **_message(payload, text),
            "at": {"atMobiles": mobiles, "atUserIds": users, "isAtAll": bool(bot.get("atAll"))},
        }
        target = url
        if secret:
            now_ms = int(self._clock.now().timestamp() * 1000)
            try:
                target = with_query(url, timestamp=str(now_ms), sign=signature(secret, now_ms))
            except ValueError:
                return SendResult(ok=False, retriable=False, detail="The bot's address is no URL.")
        answer = await self.call(target, body, settings=settings)
        return _judge(answer.without((target, *secrets_in(url), secret)))

    async def _to_chat(
        self, settings: Mapping[str, Any], chat: str, payload: Mapping[str, Any]
    ) -> SendResult:
        if missing := settings.get("appMissing"):
            return SendResult(ok=False, detail=str(missing))
        base = str(settings.get("apiBase") or self._api_base).rstrip("/")
        key, secret = str(settings.get("appKey") or ""), str(settings.get("appSecret") or "")
        account = (base, key, secret)
        body = {"chatid": chat, "msg": _message(payload, str(payload["text"]))}
        answer = await self._tokens.use(
            account,
            partial(self._fetch, settings, base, key, secret),
            lambda token: self.call(
                with_query(f"{base}/chat/send", access_token=token), body, settings=settings
            ),
            stale=lambda answer: answer.json().get("errcode") in _STALE,
            lifetime_s=float(settings.get("tokenLifetimeS") or 0),
        )
        if isinstance(answer, SendResult):
            return answer
        return _judge(answer)

    async def _fetch(
        self, settings: Mapping[str, Any], base: str, key: str, secret: str
    ) -> tuple[str, float] | SendResult:
        answer = await self.call(
            with_query(f"{base}/gettoken", appkey=key, appsecret=secret), settings=settings, method="GET"
        )
        found = answer.json()
        result = judge_code(answer.without((secret, str(found.get("access_token") or ""))), _CODES)
        if not result.ok:
            return result
        return str(found.get("access_token") or ""), float(found.get("expires_in") or 7200)


def _message(payload: Mapping[str, Any], text: str) -> dict[str, Any]:
    if payload.get("format") == "markdown":
        return {"msgtype": "markdown", "markdown": {"title": str(payload.get("title") or ""), "text": text}}
    return {"msgtype": "text", "text": {"content": text}}


def _judge(answer: Answer) -> SendResult:
    result = judge_code(answer, _CODES)
    status = answer.json().get("status", 0) if result.ok else 0
    if status != 0:
        return SendResult(ok=False, detail=f"HTTP 200 status {str(status)[:20]}")
    return result
