"""Brings notifications to Slack: by incoming webhook, or to channels with a token. Implements ports.Sender.

Wired in `cli/`, called by `notify/sending.py`. The webhook's URL is itself the secret: it and the token are
never logged, and no text of an exception or answer leaves here without them being replaced.
Source: contracts/log-notification.md 8, 8.1, 10.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from pelton.clock import Clock
from pelton.ports import SendResult

__all__ = ["SlackSender"]

_ANSWER_LIMIT = 4096
_EXCERPT = 200
_TELLING = 8  # shorter parts of an address are words, not secrets
_REMEMBERED = 4096
_TRANSIENT = frozenset({408, 425, 429})
_TRANSIENT_ERRORS = frozenset(
    {"ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable", "request_timeout"}
)
"""chat.postMessage answers 200 for these too; all others state a fault that a repetition does not mend."""

_LOCAL = {"all://localhost": None, "all://127.0.0.1": None, "all://[::1]": None}
"""Never through a proxy of the environment: a receiver on this machine is not reachable from there."""


class SlackSender:
    """Posts `{text, blocks}`.

    Settings: `{webhook}` (the whole URL), or `{channels, token}` and optionally `apiBase`; `deliveryId` is
    the same for each attempt and keeps a repeated attempt from posting again to channels that already have
    it.

    Args:
        clock: Time, for Retry-After given as a date.
        timeout_s: Seconds for one call, answer included.
        api_base: Address of Slack's Web API, without the method.
    """

    def __init__(
        self, clock: Clock, *, timeout_s: float = 5.0, api_base: str = "https://slack.com/api"
    ) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._api_base = api_base
        self._client: httpx.AsyncClient | None = None
        self._posted: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        _keep_quiet()
        self._client = httpx.AsyncClient(timeout=self._timeout_s, mounts=_LOCAL)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def send(self, settings: Mapping[str, Any], payload: Mapping[str, Any]) -> SendResult:
        """Send once; never raises for what Slack does. Cancelling may leave the message posted."""
        message = {key: payload[key] for key in ("text", "blocks") if key in payload}
        if url := settings.get("webhook"):
            status, retry_after_s, text = await self._post(str(url), message, token="")
            return _judge(status, retry_after_s, _redact(text, _secrets_in(str(url))))
        channels, token = settings.get("channels") or [], settings.get("token") or ""
        if not channels or not token:
            return SendResult(
                ok=False, retriable=False, detail="Neither a webhook nor channels with a token are set."
            )
        return await self._post_to_channels(settings, [str(item) for item in channels], str(token), message)

    async def _post_to_channels(
        self, settings: Mapping[str, Any], channels: list[str], token: str, message: Mapping[str, Any]
    ) -> SendResult:
        base = str(settings.get("apiBase") or self._api_base).rstrip("/")
        delivery = str(settings.get("deliveryId") or "")
        failures: list[tuple[str, SendResult]] = []
        for channel in channels:
            if (delivery, channel) in self._posted:
                continue
            status, retry_after_s, text = await self._post(
                f"{base}/chat.postMessage", {"channel": channel, **message}, token=token
            )
            result = _judge_api(status, retry_after_s, _redact(text, (token,)))
            if not result.ok:
                failures.append((channel, result))
            elif delivery:
                self._remember((delivery, channel))
        if not failures:
            return SendResult(ok=True)
        waits = [result.retry_after_s for _, result in failures if result.retry_after_s is not None]
        return SendResult(
            ok=False,
            # As long as one channel may still take it, the message goes on; the others are told at the end.
            retriable=any(result.retriable for _, result in failures),
            retry_after_s=max(waits, default=None),
            detail="; ".join(f"{channel}: {result.detail}" for channel, result in failures)[:500],
        )

    async def _post(
        self, url: str, message: Mapping[str, Any], *, token: str
    ) -> tuple[int, float | None, str]:
        """Return status (0: no answer, -1: not sendable), Retry-After in seconds, beginning of the answer."""
        if self._client is None:
            raise RuntimeError("SlackSender is used outside `async with`.")
        headers = {"content-type": "application/json; charset=utf-8"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        status, retry_after_s, body = 0, None, bytearray()
        try:
            # The client's own limit is per read; a server that drips bytes would hold us for ever.
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream(
                    "POST", url, content=msgspec.json.encode(message), headers=headers
                ) as answer,
            ):
                status, retry_after_s = answer.status_code, self._retry_after(answer)
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) >= _ANSWER_LIMIT:
                        break
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError):
            return -1, None, "The address or token cannot be used in an HTTP request."
        except (httpx.HTTPError, TimeoutError, OSError) as error:
            # Only the kind: the text of a client's error may hold the address. With the status known it
            # counts, whatever became of the rest: to repeat what was accepted would post it twice.
            if status == 0:
                return 0, None, f"No answer: {type(error).__name__}."
        return status, retry_after_s, bytes(body[:_ANSWER_LIMIT]).decode("utf-8", "replace")

    def _retry_after(self, answer: httpx.Response) -> float | None:
        text = answer.headers.get("retry-after", "").strip()
        if not text or answer.status_code not in {429, 503}:
            return None
        if text.isascii() and text.isdecimal():
            return float(text[:9])
        try:
            return max(0.0, (parsedate_to_datetime(text) - self._clock.now()).total_seconds())
        except (ValueError, TypeError):
            return None

    def _remember(self, post: tuple[str, str]) -> None:
        self._posted[post] = None
        if len(self._posted) > _REMEMBERED:
            self._posted.popitem(last=False)


def _judge(status: int, retry_after_s: float | None, text: str) -> SendResult:
    if 200 <= status < 300:
        return SendResult(ok=True, detail=f"HTTP {status}")
    if status <= 0:
        return SendResult(ok=False, retriable=status == 0, detail=text)
    return SendResult(
        ok=False,
        retriable=status >= 500 or status in _TRANSIENT,
        retry_after_s=retry_after_s,
        detail=f"HTTP {status} {_excerpt(text)}".strip(),
    )


def _judge_api(status: int, retry_after_s: float | None, text: str) -> SendResult:
    if status != 200:
        result = _judge(status, retry_after_s, text)
        # Only 200 carries an `ok`: another 2xx is not Slack's answer but that of something in between.
        return SendResult(ok=False, detail=result.detail) if result.ok else result
    try:
        answer = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return SendResult(ok=False, detail="HTTP 200 without Slack's JSON.")
    if isinstance(answer, dict) and answer.get("ok") is True:
        return SendResult(ok=True, detail="HTTP 200")
    error = str(answer.get("error", "")) if isinstance(answer, dict) else ""
    return SendResult(
        ok=False,
        retriable=error in _TRANSIENT_ERRORS,
        detail=f"HTTP 200 error {_excerpt(error) or 'unknown'}",
    )


def _secrets_in(url: str) -> tuple[str, ...]:
    """Return the URL and its telling parts: an error page may quote any of them."""
    try:
        path = httpx.URL(url).raw_path.decode("ascii", "replace")
    except httpx.InvalidURL:
        path = ""
    parts = (path.strip("/"), *re.split(r"[/?&=]", path))
    return url, *(part for part in parts if len(part) >= _TELLING)


def _redact(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return text


def _excerpt(text: str) -> str:
    return " ".join(text.split())[:_EXCERPT]


def _keep_quiet() -> None:
    # httpx logs each request with its whole URL at INFO.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
