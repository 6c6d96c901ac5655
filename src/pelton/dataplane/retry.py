"""What follows an event's outcome, and how waiting retries and dead letters look on the bus. Pure.

An attempt is a function's outcome (design decision 10). Short waits stay with the broker (NAK with a
delay); long ones, those that would fill the broker's window, and those of a broker that keeps nothing move to
the retry stream, so that a poison event never stops the others. `dispatcher.py` carries the decisions out;
`pelton dlq` reads and redrives through here.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from pelton.model.desired import Subscription
from pelton.ports import EventResult, Message

__all__ = [
    "DEAD_ATTEMPTS",
    "DEAD_FROM",
    "DEAD_REASON",
    "DEAD_TOPICS",
    "Decision",
    "Letter",
    "Parked",
    "backoff",
    "bury",
    "busy_delay",
    "dead_topic",
    "decide",
    "hand_over",
    "letter",
    "park",
    "redrive",
    "retry_topic",
    "unpark",
]

DEAD_TOPICS: Final = "pelton.dead.>"
"""Subject pattern of all dead letters."""

DEAD_FROM: Final = "Pelton-Dead-From"
DEAD_REASON: Final = "Pelton-Dead-Reason"
DEAD_ATTEMPTS: Final = "Pelton-Dead-Attempts"
"""Headers of what a subscription gave up and handed over."""

LONGEST_NAK_S: Final = 5.0
"""Waits up to this many seconds stay with the broker."""

_ORIGINAL: Final = "Pelton-Original-"
_ESCAPED: Final = "Pelton-Escaped-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do with an event.

    Attributes:
        action: `ack`, `nak` (wait at the broker), `park` (wait in the retry stream) or `bury` (dead letter).
        attempts: Attempts made, this one included.
        delay_s: Seconds until the next attempt, for `nak` and `park`.
        reason: Why it failed, one line.
    """

    action: str
    attempts: int = 0
    delay_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """An event from the retry stream: the message as first delivered, its key, attempts, when it is due."""

    message: Message
    key: str
    attempts: int
    not_before: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A dead letter in the user's words; `failed_at` is in epoch seconds, `headers` are the event's own."""

    subscription: str
    topic: str
    reason: str
    attempts: int
    failed_at: float
    data: bytes
    headers: dict[str, str]


def backoff(attempts: int, *, first_s: float, max_s: float, growth: float = 2.0) -> float:
    """Return the wait after the n-th failed attempt: `first_s`, growing, at most `max_s` seconds.

    Example: first_s 0.5, max_s 60: 0.5, 1, 2, 4, 8, 16, 32, 60, 60.
    """
    exponent = min(max(attempts - 1, 0), 60)
    return float(min(max_s, first_s * growth**exponent))


def busy_delay(times: int) -> float:
    """Return the wait after nobody took an event for the n-th time: 0.05 s, doubling, at most 2 s."""
    return backoff(times, first_s=0.05, max_s=2.0)


def decide(
    result: EventResult,
    subscription: Subscription,
    *,
    attempts: int,
    waiting: int,
    parked: bool,
    draw: float = 0.5,
) -> Decision:
    """Return what follows an outcome other than `busy`, which is no attempt and is simply tried again.

    Args:
        result: The function's outcome: `ok`, `error` or `drop`.
        subscription: Bounds and backoff.
        attempts: Attempts before this one.
        waiting: Events of this subscription that wait at the broker for a retry.
        parked: It waits in the retry stream: it came from there, or its broker keeps nothing.
        draw: Random number in [0, 1), which spreads waits where the subscription says so.
    """
    attempts += 1
    if result.outcome == "ok":
        return Decision(action="ack", attempts=attempts)
    if result.outcome == "drop" or attempts >= subscription.max_attempts:
        return Decision(action="bury", attempts=attempts, reason=result.reason)
    delay_s = backoff(
        attempts,
        first_s=subscription.backoff_s,
        max_s=subscription.max_backoff_s,
        growth=subscription.backoff_growth,
    )
    delay_s *= 1 + subscription.backoff_spread * (2 * draw - 1)
    fills = (waiting + 1) * 2 > subscription.max_in_flight
    away = parked or fills or delay_s > LONGEST_NAK_S
    return Decision(
        action="park" if away else "nak", attempts=attempts, delay_s=delay_s, reason=result.reason
    )


def retry_topic(subscription_id: str) -> str:
    """Return the subject on which a subscription's retries wait."""
    return f"pelton.retry.{_word(subscription_id)}"


def dead_topic(subscription_id: str) -> str:
    """Return the subject of a subscription's dead letters."""
    return f"pelton.dead.{_word(subscription_id)}"


def park(message: Message, subscription_id: str, *, key: str, attempts: int, not_before: float) -> Message:
    """Return the message for the retry stream.

    Its id makes a second publish of the same retry harmless: a process may die between publishing and acking.

    Args:
        message: As first delivered.
        subscription_id: Whose retry it is.
        key: The first delivery's key.
        attempts: Attempts made.
        not_before: Epoch seconds before which it must not be tried.
    """
    headers = _packed(message, subscription_id, key, attempts)
    headers["Pelton-Not-Before"] = f"{not_before:.3f}"
    return Message(
        topic=retry_topic(subscription_id),
        data=message.data,
        headers=headers,
        id=_id(message, subscription_id, key, str(attempts)),
    )


def unpark(message: Message) -> Parked:
    """Read a message of the retry stream."""
    headers = message.headers
    return Parked(
        message=_unpacked(message),
        key=headers.get("Pelton-Key", ""),
        attempts=int(headers.get("Pelton-Attempts", "0")),
        not_before=float(headers.get("Pelton-Not-Before", "0")),
    )


def bury(
    message: Message, subscription_id: str, *, key: str, attempts: int, reason: str, failed_at: float
) -> Message:
    """Return the dead letter of an event; arguments as for `park`, `failed_at` in epoch seconds."""
    headers = _packed(message, subscription_id, key, attempts)
    headers["Pelton-Reason"] = " ".join(reason.split())[:1000] or "no reason given"
    headers["Pelton-Failed-At"] = f"{failed_at:.3f}"
    return Message(
        topic=dead_topic(subscription_id),
        data=message.data,
        headers=headers,
        id=_id(message, subscription_id, key, "dead"),
    )


def hand_over(
    message: Message, subscription_id: str, queue: str, *, key: str, attempts: int, reason: str
) -> Message:
    """Return what a subscription gave up as a fresh event, due at once, of the queue of its dead letters.

    Its headers say from where it comes, why, and after how many attempts (`DEAD_FROM` and beside it).

    Args:
        message: As first delivered.
        subscription_id: Who gave it up.
        queue: Id of the subscription that gets it.
        key: The first delivery's key.
        attempts: Attempts made.
        reason: Why the last one failed.
    """
    headers = {
        **message.headers,
        DEAD_FROM: subscription_id,
        DEAD_REASON: " ".join(reason.split())[:1000],
        DEAD_ATTEMPTS: str(attempts),
    }
    given = Message(topic=message.topic, data=message.data, headers=headers)
    return park(given, queue, key=f"{key}:dead", attempts=0, not_before=0.0)


def letter(message: Message) -> Letter:
    """Read a dead letter."""
    headers = message.headers
    return Letter(
        subscription=headers.get("Pelton-Subscription", ""),
        topic=headers.get("Pelton-Topic", ""),
        reason=headers.get("Pelton-Reason", ""),
        attempts=int(headers.get("Pelton-Attempts", "0")),
        failed_at=float(headers.get("Pelton-Failed-At", "0")),
        data=message.data,
        headers=dict(_unpacked(message).headers),
    )


def redrive(message: Message, *, key: str) -> Message:
    """Return a dead letter as a fresh event, due at once, for the one subscription that failed on it.

    It goes through the retry stream rather than the topic, whose other subscribers have handled it already.

    Args:
        message: The dead letter.
        key: Distinguishes this redrive from the event's former life, e.g. the letter's sequence number.
    """
    subscription_id = message.headers.get("Pelton-Subscription", "")
    fresh = f"{message.headers.get('Pelton-Key', '')}:redriven-{key}"
    return park(_unpacked(message), subscription_id, key=fresh, attempts=0, not_before=0.0)


def _packed(message: Message, subscription_id: str, key: str, attempts: int) -> dict[str, str]:
    headers = {
        "Pelton-Subscription": subscription_id,
        "Pelton-Topic": message.topic,
        "Pelton-Key": key,
        "Pelton-Attempts": str(attempts),
    }
    for name, value in message.headers.items():
        # Names from other brokers may hold what a NATS header name may not.
        word = quote(name, safe="!#$&'*+-.^_`|~")
        if value == value.strip() and value.isprintable():
            headers[_ORIGINAL + word] = value
        else:  # line ends and outer spaces would not survive
            headers[_ESCAPED + word] = quote(value, safe="")
    return headers


def _unpacked(message: Message) -> Message:
    headers: Mapping[str, str] = {
        unquote(name.removeprefix(_ORIGINAL)): value
        for name, value in message.headers.items()
        if name.startswith(_ORIGINAL)
    } | {
        unquote(name.removeprefix(_ESCAPED)): unquote(value)
        for name, value in message.headers.items()
        if name.startswith(_ESCAPED)
    }
    return Message(topic=message.headers.get("Pelton-Topic", ""), data=message.data, headers=headers)


def _id(message: Message, subscription_id: str, key: str, step: str) -> str:
    """Name a step of an event: by its data too, for some brokers give a key again in another session."""
    return _word(f"{subscription_id}:{key}:{step}:{zlib.crc32(message.data):08x}")


def _word(text: str) -> str:
    """Return one subject word for any text: readable and unique."""
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "-_") else "_" for char in text)
    return f"{plain[:80]}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
