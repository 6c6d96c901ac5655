"""Brings notifications to Feishu or Lark: to groups by a chatbot, to users and departments by an application.

Implements ports.Sender; wired in `cli/`, called by `notify/sending.py`. The bot's address is itself a secret;
it, keys and tokens are never logged. Source: contracts, log and notification, 4.3, 4.4, 8.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pelton.clock import Clock
from pelton.outgoing import ApiClient, Codes, Tokens, judge_code, secrets_in, send_parts
from pelton.ports import SendResult

__all__ = ["FeishuSender", "signature"]

_MOST_IDS = 200
_STALE = frozenset({99991661, 99991663, 99991664, 99991668, 99991671})
_CODES = Codes(
    code="code",
    text="msg",
    limits={9499: 1.0, 11232: 1.0, 99991400: 1.0},
    busy=frozenset({99991401, 2200}),
    # 19021: signature, 19022: address, 19024: keywords; 10003, 10014: id or secret of the application.
    refused=frozenset({19001, 19021, 19022, 19024, 10003, 10014, *_STALE}),
)


def signature(secret: str, timestamp_s: int) -> str:
    """Return the field `sign` of a chatbot's message: time and secret are the key, and nothing is signed."""
    key = f"{timestamp_s}\n{secret}".encode()
    return base64.b64encode(hmac.new(key, b"", hashlib.sha256).digest()).decode()


class FeishuSender(ApiClient):
    """Posts text or rich text.

    Settings: `chatbot {webhook, secret, keywords}`, `users` and `departments` (ids), each optional; ids need
    `appId` and `appSecret`, perhaps `apiBase` and `tokenLifetimeS`, or `appMissing`, a sentence that says why
    they are not there. Payload: `{text}` or `{post}`, the latter locale -> `{title, content}`.

    Args:
        clock: Time, for signatures and tokens.
        timeout_s: Seconds for one call, answer included.
        api_base: Address of the open platform.
    """

    def __init__(
        self, clock: Clock, *, timeout_s: float = 5.0, api_base: str = "https://open.feishu.cn"
    ) -> None:
        self._api_base = api_base
        super().__init__(clock, timeout_s=timeout_s)
        self._tokens = Tokens(clock)

    async def send(self, settings: Mapping[str, Any], payload: Mapping[str, Any]) -> SendResult:
        """Send once; never raises for what Feishu does. Cancelling may leave the message posted."""
        parts = {}
        if bot := settings.get("chatbot"):
            parts["chatbot"] = partial(self._to_bot, settings, bot, payload)
        users, departments = [list(settings.get(key) or ()) for key in ("users", "departments")]
        for start in range(0, max(len(users), len(departments)), _MOST_IDS):
            part = slice(start, start + _MOST_IDS)
            parts[f"ids {start}"] = partial(
                self._to_ids, settings, users[part], departments[part], _content(payload)
            )
        return await send_parts(parts, done=settings.get("done") or ())

    async def _to_bot(
        self, settings: Mapping[str, Any], bot: Mapping[str, Any], payload: Mapping[str, Any]
    ) -> SendResult:
        url, secret = str(bot.get("webhook") or ""), str(bot.get("secret") or "")
        body = _content(payload, keywords=[str(word) for word in bot.get("keywords") or ()])
        if secret:
            now_s = int(self._clock.now().timestamp())
            body |= {"timestamp": str(now_s), "sign": signature(secret, now_s)}
        answer = await self.call(url, body, settings=settings)
        # Older bots have the code in StatusCode, where a newer one has both.
        found = answer.json()
        codes = _CODES
        if "code" not in found and "StatusCode" in found:
            codes = Codes(
                code="StatusCode",
                text="StatusMessage",
                limits=codes.limits,
                busy=codes.busy,
                refused=codes.refused,
            )
        return judge_code(answer.without((*secrets_in(url), secret)), codes)

    async def _to_ids(
        self,
        settings: Mapping[str, Any],
        users: Sequence[str],
        departments: Sequence[str],
        content: Mapping[str, Any],
    ) -> SendResult:
        if missing := settings.get("appMissing"):
            return SendResult(ok=False, detail=str(missing))
        base = str(settings.get("apiBase") or self._api_base).rstrip("/")
        app_id, secret = str(settings.get("appId") or ""), str(settings.get("appSecret") or "")
        account = (base, app_id, secret)
        body = {**content, "user_ids": list(users), "department_ids": list(departments)}
        answer = await self._tokens.use(
            account,
            partial(self._fetch, settings, base, app_id, secret),
            lambda token: self.call(
                f"{base}/open-apis/message/v4/batch_send/", body, settings=settings, token=token
            ),
            stale=lambda answer: answer.json().get("code") in _STALE,
            lifetime_s=float(settings.get("tokenLifetimeS") or 0),
        )
        if isinstance(answer, SendResult):
            return answer
        result = judge_code(answer, _CODES)
        return _unknown_ids(answer.json()) if result.ok else result

    async def _fetch(
        self, settings: Mapping[str, Any], base: str, app_id: str, secret: str
    ) -> tuple[str, float] | SendResult:
        answer = await self.call(
            f"{base}/open-apis/auth/v3/tenant_access_token/internal",
            {"app_id": app_id, "app_secret": secret},
            settings=settings,
        )
        found = answer.json()
        token = str(found.get("tenant_access_token") or "")
        result = judge_code(answer.without((secret, token)), _CODES)
        return (token, float(found.get("expire") or 7200)) if result.ok else result


def _content(payload: Mapping[str, Any], keywords: Sequence[str] = ()) -> dict[str, Any]:
    """Return `{msg_type, content}`; with one of the keywords in it, where there are any."""
    missing = f"[{', '.join(keywords)}]" if keywords and not _has(payload, keywords) else ""
    if "post" not in payload:
        text = str(payload["text"])
        return {"msg_type": "text", "content": {"text": f"{text}\n\n{missing}" if missing else text}}
    post = payload["post"]
    if missing:
        line = [{"tag": "text", "text": missing}]
        post = {
            locale: {**page, "content": [*page.get("content", ()), line]} for locale, page in post.items()
        }
    return {"msg_type": "post", "content": {"post": post}}


def _has(payload: Mapping[str, Any], keywords: Sequence[str]) -> bool:
    texts = _texts(payload.get("post", payload.get("text", "")))
    return any(word in text for text in texts for word in keywords)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for item in value.values() for text in _texts(item)]
    return [text for item in value for text in _texts(item)] if isinstance(value, list | tuple) else []


def _unknown_ids(found: Mapping[str, Any]) -> SendResult:
    """Return success, unless the answer lists ids that do not exist: the others have the message."""
    data = found.get("data")
    if not isinstance(data, Mapping):
        return SendResult(ok=True, detail="HTTP 200")
    wrong = [
        f"{key}: {', '.join(map(str, data[key]))}"
        for key in ("invalid_user_ids", "invalid_department_ids", "invalid_open_ids")
        if data.get(key)
    ]
    if not wrong:
        return SendResult(ok=True, detail="HTTP 200")
    return SendResult(ok=False, retriable=False, detail=f"Unknown to Feishu: {'; '.join(wrong)}"[:400])
