"""One HTTP call to a provider, its answer read within limits, and what the answer says of a notification.

What Senders of `drivers/` have in common: they do not know each other. An address or token is never logged
here, and no text of an exception or answer leaves without the caller's secrets replaced. Source: contracts,
log and notification, sections 8 and 10.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from pelton.clock import Clock
from pelton.ports import SendResult

__all__ = [
    "LOCAL",
    "Answer",
    "ApiClient",
    "Codes",
    "Tokens",
    "exchange",
    "excerpt",
    "judge",
    "judge_code",
    "keep_quiet",
    "redact",
    "secrets_in",
    "send_parts",
    "timeout_of",
    "userinfo_of",
    "with_query",
]

LOCAL: Mapping[str, None] = {"all://localhost": None, "all://127.0.0.1": None, "all://[::1]": None}
"""Never through a proxy of the environment: a receiver on this machine is not reachable from there."""

_ANSWER_LIMIT = 64 * 1024
_EXCERPT = 200
_TELLING = 8  # shorter parts of an address are words, not secrets
_TRANSIENT = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back from a call.

    Attributes:
        status: HTTP status; 0 = no answer, -1 = the request cannot be made at all.
        text: Beginning of the body; a sentence where there is no status.
        retry_after_s: Seconds asked for by Retry-After with 429 or 503, or None.
    """

    status: int
    text: str = ""
    retry_after_s: float | None = None

    def json(self) -> dict[str, Any]:
        """Return the body if it is a JSON object, else {}."""
        try:
            found = msgspec.json.decode(self.text)
        except (msgspec.DecodeError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def without(self, secrets: Iterable[str]) -> Answer:
        """Return it with secrets replaced."""
        return replace(self, text=redact(self.text, secrets))


async def exchange(
    client: httpx.AsyncClient, method: str, url: str, *, timeout_s: float, clock: Clock, **request: Any
) -> Answer:
    """Make one request and read the beginning of its answer; never raises for what the other side does.

    Args:
        client: Pool of connections.
        method: HTTP method.
        url: Where to.
        timeout_s: Seconds for all of it.
        clock: Time, for Retry-After given as a date.
        request: As `httpx.AsyncClient.stream` takes them.
    """
    status, retry_after_s, body = 0, None, bytearray()
    try:
        # The client's own limit is per read; a server that drips bytes would hold us for ever.
        async with (
            asyncio.timeout(timeout_s),
            client.stream(method, url, timeout=timeout_s, **request) as answer,
        ):
            status, retry_after_s = answer.status_code, _retry_after(answer, clock)
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) >= _ANSWER_LIMIT:
                    break
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError):
        return Answer(status=-1, text="The address or token cannot be used in an HTTP request.")
    except (httpx.HTTPError, TimeoutError, OSError) as error:
        # Only the kind: the text of a client's error may hold the address. With the status known it counts,
        # whatever became of the rest: to repeat what was accepted would notify twice.
        if status == 0:
            return Answer(status=0, text=f"No answer: {type(error).__name__}.")
    text = bytes(body[:_ANSWER_LIMIT]).decode("utf-8", "replace")
    return Answer(status=status, text=text, retry_after_s=retry_after_s)


def _retry_after(answer: httpx.Response, clock: Clock) -> float | None:
    text = answer.headers.get("retry-after", "").strip()
    if not text or answer.status_code not in {429, 503}:
        return None
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, (parsedate_to_datetime(text) - clock.now()).total_seconds())
    except (ValueError, TypeError):
        return None


def judge(answer: Answer) -> SendResult:
    """Return what a status says where it says all: 2xx is success, others may mend with time or not."""
    if 200 <= answer.status < 300:
        return SendResult(ok=True, detail=f"HTTP {answer.status}")
    if answer.status <= 0:
        return SendResult(ok=False, retriable=answer.status == 0, detail=answer.text)
    return SendResult(
        ok=False,
        retriable=answer.status >= 500 or answer.status in _TRANSIENT,
        retry_after_s=answer.retry_after_s,
        refused=answer.status in {401, 403},
        detail=f"HTTP {answer.status} {excerpt(answer.text)}".strip(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """How an API that answers 200 with a code of its own tells success from failure.

    Attributes:
        code: Key of the code; 0 is success.
        text: Key of the sentence beside it.
        limits: Code that says we were too fast -> seconds to wait.
        busy: Codes that time may mend.
        refused: Codes that say our credentials are not accepted.
    """

    code: str
    text: str
    limits: Mapping[int, float]
    busy: frozenset[int]
    refused: frozenset[int]


def judge_code(answer: Answer, codes: Codes) -> SendResult:
    """Return what an answer of such an API says."""
    if answer.status != 200:
        result = judge(answer)
        # Another 2xx is not the API's answer but that of something in between.
        return SendResult(ok=False, detail=result.detail) if result.ok else result
    found = answer.json()
    code = found.get(codes.code)
    if not isinstance(code, int) or isinstance(code, bool):
        return SendResult(ok=False, detail=f"HTTP 200 without a {codes.code}.")
    if code == 0:
        return SendResult(ok=True, detail="HTTP 200")
    return SendResult(
        ok=False,
        retriable=code in codes.limits or code in codes.busy,
        retry_after_s=codes.limits.get(code),
        refused=code in codes.refused,
        detail=f"HTTP 200 {codes.code} {code} {excerpt(str(found.get(codes.text) or ''))}".strip(),
    )


async def send_parts(
    parts: Mapping[str, Callable[[], Awaitable[SendResult]]], *, done: Iterable[str], named: bool = True
) -> SendResult:
    """Send to each part of a destination that is not done yet, one after the other, and join the results.

    Once a part asks to wait, those after it are left for the next attempt.

    Args:
        parts: Name -> sends to it.
        done: Names of parts that need nothing.
        named: Whether details name the part that they are about.
    """
    reached = [part for part in parts if part in set(done)]
    failures: dict[str, SendResult] = {}
    receipts: dict[str, Mapping[str, str]] = {}
    said = ""
    for name, send in parts.items():
        if name in reached:
            continue
        if any(result.retry_after_s is not None for result in failures.values()):
            break
        result = await send()
        if result.ok:
            said = result.detail
            reached.append(name)
            receipts.update(result.receipts)
        else:
            failures[name] = result
    if not failures:
        return SendResult(ok=True, detail=said, done=tuple(reached), receipts=receipts)
    waits = [result.retry_after_s for result in failures.values() if result.retry_after_s is not None]
    details = [f"{name}: {result.detail}" if named else result.detail for name, result in failures.items()]
    return SendResult(
        ok=False,
        # As long as one part may still take it, the message goes on; the others are told at the end.
        retriable=any(result.retriable for result in failures.values()),
        retry_after_s=max(waits, default=None),
        refused=any(result.refused for result in failures.values()),
        detail="; ".join(dict.fromkeys(details))[:500],
        done=tuple(reached),
        receipts=receipts,
    )


class Tokens:
    """Access tokens by account, each fetched once and kept until shortly before it ends.

    Args:
        clock: Time.
    """

    _EARLY_S = 120.0  # a token that ends on its way would cost an attempt

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[tuple[str, ...], tuple[str, float]] = {}
        self._fetching: dict[tuple[str, ...], asyncio.Lock] = {}

    async def get(
        self,
        account: tuple[str, ...],
        fetch: Callable[[], Awaitable[tuple[str, float] | SendResult]],
        *,
        lifetime_s: float = 0.0,
    ) -> str | SendResult:
        """Return a token, or why there is none.

        Args:
            account: What it belongs to, secret included, so that a changed secret has a token of its own.
            fetch: Returns a fresh token and the seconds that it is good for, or what went wrong.
            lifetime_s: Upper bound of that time; 0 for none.
        """
        async with self._fetching.setdefault(account, asyncio.Lock()):
            token, ends = self._kept.get(account, ("", 0.0))
            if token and self._clock.monotonic() < ends:
                return token
            found = await fetch()
            if isinstance(found, SendResult):
                return found
            token, seconds = found
            if lifetime_s > 0:
                seconds = min(seconds, lifetime_s)
            self._kept[account] = token, self._clock.monotonic() + max(seconds - self._EARLY_S, seconds / 2)
            return token

    async def use(
        self,
        account: tuple[str, ...],
        fetch: Callable[[], Awaitable[tuple[str, float] | SendResult]],
        call: Callable[[str], Awaitable[Answer]],
        *,
        stale: Callable[[Answer], bool],
        lifetime_s: float = 0.0,
    ) -> Answer | SendResult:
        """Make a call with a token, and once more with a new one when the API does not take the kept one.

        Args:
            account: As in `get`; its last part is replaced in the answer, as the token is.
            fetch: As in `get`.
            call: Makes the call.
            stale: Whether an answer says that the token is not good.
            lifetime_s: As in `get`.

        Returns:
            The answer, or why there is no token.
        """
        while True:
            known = account in self._kept
            token = await self.get(account, fetch, lifetime_s=lifetime_s)
            if isinstance(token, SendResult):
                return token
            answer = (await call(token)).without((token, account[-1]))
            if not stale(answer):
                return answer
            self.forget(account)
            if not known:  # it was fresh
                return answer

    def forget(self, account: tuple[str, ...]) -> None:
        """Fetch a new one next time: the API did not take the last."""
        self._kept.pop(account, None)


def excerpt(text: str) -> str:
    """Return the beginning of a text as one line."""
    return " ".join(text.split())[:_EXCERPT]


def redact(text: str, secrets: Iterable[str]) -> str:
    """Replace every occurrence of secrets by `***`; empty ones are left out."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return text


def secrets_in(url: str) -> tuple[str, ...]:
    """Return a URL and its telling parts, longest first: an error page may quote any of them."""
    try:
        path = httpx.URL(url).raw_path.decode("ascii", "replace")
    except httpx.InvalidURL:
        path = ""
    parts = (path.strip("/"), *re.split(r"[/?&=]", path))
    return url, *(part for part in parts if len(part) >= _TELLING), *userinfo_of(url)


def userinfo_of(url: str) -> tuple[str, ...]:
    """Return the password that a URL has before its host, as written, plain and as it travels; () without."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return ()
    if not parsed.password:
        return ()
    pair = base64.b64encode(f"{parsed.username}:{parsed.password}".encode()).decode()
    return parsed.userinfo.decode("ascii", "replace"), pair, parsed.password


def with_query(url: str, **values: str) -> str:
    """Return a URL with parameters added to those that it has."""
    return str(httpx.URL(url).copy_merge_params(values))


def timeout_of(settings: Mapping[str, Any], default_s: float) -> float:
    """Return the seconds that one call may take."""
    return float(settings.get("timeoutS") or default_s)


def keep_quiet() -> None:
    """Stop the HTTP client's logger, which writes each request with its whole URL at INFO."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


class ApiClient:
    """A pool of connections for JSON APIs; an async context manager.

    Args:
        clock: Time, for Retry-After given as a date.
        timeout_s: Seconds for one call, answer included.
    """

    def __init__(self, clock: Clock, *, timeout_s: float) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        """Open the pool."""
        keep_quiet()
        self._client = httpx.AsyncClient(timeout=self._timeout_s, mounts=dict(LOCAL))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def call(
        self,
        url: str,
        body: Any = None,
        *,
        settings: Mapping[str, Any],
        token: str = "",
        method: str = "POST",
    ) -> Answer:
        """Send `body` as JSON and return the answer.

        Args:
            url: Where to.
            body: JSON value; None = no body.
            settings: The receiver's; `timeoutS` is seconds for one call where it differs from the client's.
            token: For `Authorization: Bearer`; "" = without.
            method: HTTP method.
        """
        if self._client is None:
            raise RuntimeError("The client is used outside `async with`.")
        headers = {}
        if body is not None:
            headers["content-type"] = "application/json; charset=utf-8"
        if token:
            headers["authorization"] = f"Bearer {token}"
        return await exchange(
            self._client,
            method,
            url,
            timeout_s=timeout_of(settings, self._timeout_s),
            clock=self._clock,
            content=None if body is None else msgspec.json.encode(body),
            headers=headers,
        )
