"""Brings notifications to Slack: by incoming webhook, or to channels with a token. Implements ports.Sender.

Wired in `cli/`, called by `notify/sending.py`. The webhook's URL is itself the secret: it and the token are
never logged, and no text of an exception or answer leaves here without them being replaced.
Source: contracts/log-notification.md 8, 8.1, 10.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from pelton.clock import Clock
from pelton.outgoing import Answer, ApiClient, excerpt, judge, secrets_in, send_parts
from pelton.ports import SendResult

__all__ = ["SlackSender"]

_TRANSIENT = frozenset(
    {"ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable", "request_timeout"}
)
"""The API answers 200 for these too; all others state a fault that a repetition does not mend."""

_REFUSED = frozenset(
    {"invalid_auth", "not_authed", "token_revoked", "token_expired", "account_inactive", "missing_scope"}
)
_GONE = frozenset({"message_not_found", "cant_update_message", "edit_window_closed", "thread_not_found"})


class SlackSender(ApiClient):
    """Posts `{text, blocks}`.

    Settings: `{webhook}` (the whole URL), or `{channels, token}` and optionally `apiBase`. Where the payload
    has `posts` (channel -> `{channel, ts}` of an earlier message of the same alerts), that message is changed
    to the payload's `current {text, blocks}`, and with `followUp` `thread` the rest is an answer below it. A
    channel's receipt says where its message is.

    Args:
        clock: Time, for Retry-After given as a date.
        timeout_s: Seconds for one call, answer included.
        api_base: Address of Slack's Web API, without the method.
    """

    def __init__(
        self, clock: Clock, *, timeout_s: float = 5.0, api_base: str = "https://slack.com/api"
    ) -> None:
        super().__init__(clock, timeout_s=timeout_s)
        self._api_base = api_base

    async def send(self, settings: Mapping[str, Any], payload: Mapping[str, Any]) -> SendResult:
        """Send once; never raises for what Slack does. Cancelling may leave the message posted."""
        message = _message(payload)
        if url := settings.get("webhook"):
            return judge(
                (await self.call(str(url), message, settings=settings)).without(secrets_in(str(url)))
            )
        channels, token = settings.get("channels") or [], settings.get("token") or ""
        if not channels or not token:
            return SendResult(
                ok=False, retriable=False, detail="Neither a webhook nor channels with a token are set."
            )
        posts = payload.get("posts") or {}
        parts = {
            str(channel): partial(self._follow, settings, str(channel), posts[channel], payload)
            if channel in posts
            else partial(
                self._api, settings, "chat.postMessage", {"channel": str(channel), **message}, channel
            )
            for channel in channels
        }
        return await send_parts(parts, done=settings.get("done") or ())

    async def _follow(
        self, settings: Mapping[str, Any], channel: str, post: Mapping[str, str], payload: Mapping[str, Any]
    ) -> SendResult:
        """Bring an earlier message up to date and answer below it; where it is gone, post anew."""
        place = {"channel": post["channel"], "ts": post["ts"]}
        result = await self._api(
            settings, "chat.update", {**place, **_message(payload.get("current") or payload)}
        )
        if result.ok and payload.get("followUp") == "thread":
            answer = {"channel": post["channel"], "thread_ts": post["ts"], **_message(payload)}
            result = await self._api(settings, "chat.postMessage", answer)
        if not result.ok and any(result.detail.endswith(error) for error in _GONE):
            message = {"channel": channel, **_message(payload)}
            result = await self._api(settings, "chat.postMessage", message, channel)
        return result

    async def _api(
        self, settings: Mapping[str, Any], method: str, body: Mapping[str, Any], part: str = ""
    ) -> SendResult:
        """Call a method; `part` names the channel that a new message is in."""
        base, token = str(settings.get("apiBase") or self._api_base).rstrip("/"), str(settings["token"])
        answer = (await self.call(f"{base}/{method}", body, settings=settings, token=token)).without((token,))
        return _judge(answer, part)


def _message(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {key: payload[key] for key in ("text", "blocks") if key in payload}


def _judge(answer: Answer, part: str) -> SendResult:
    if answer.status != 200:
        result = judge(answer)
        # Only 200 carries an `ok`: another 2xx is not Slack's answer but that of something in between.
        return SendResult(ok=False, detail=result.detail) if result.ok else result
    found = answer.json()
    if not found:
        return SendResult(ok=False, detail="HTTP 200 without Slack's JSON.")
    if found.get("ok") is True:
        place = {key: str(found[key]) for key in ("channel", "ts") if found.get(key)}
        return SendResult(
            ok=True, detail="HTTP 200", receipts={part: place} if part and len(place) == 2 else {}
        )
    error = str(found.get("error", ""))
    return SendResult(
        ok=False,
        retriable=error in _TRANSIENT,
        refused=error in _REFUSED,
        detail=f"HTTP 200 error {excerpt(error) or 'unknown'}",
    )
