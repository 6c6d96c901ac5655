"""What is given up goes onto the bus with its reason, and leads back from there.

Pure. `notify/pipeline.py` and `notify/sending.py` make dead letters; `pelton dlq` (`cli/topic.py`) lists them
and gives them back. Their headers are those of events' dead letters.
"""

from __future__ import annotations

from pelton.ports import Delivery, Message

__all__ = ["DEAD_ALERTS", "DEAD_NOTIFICATIONS", "PROGRESS", "dead_letter", "redriven"]

DEAD_NOTIFICATIONS = "pelton.dead.notifications."
"""Before a receiver's name: topic of its dead letters, kept until they are redriven."""

DEAD_ALERTS = "pelton.dead.alerts."
"""Before the reason's kind: topic of batches that could not be read."""

PROGRESS = "Pelton-Progress"
"""Header: JSON `{sent, done}`: alerts of the group that have arrived, and parts of the destination that have
the next message, too. Kept by dead letters, so that a redrive goes on from there."""

_LONGEST_REASON = 1_000


def dead_letter(
    delivery: Delivery,
    *,
    subscription: str,
    topic: str,
    id: str,
    reason: str,
    attempts: int,
    failed_at: float,
    progress: str = "",
) -> Message:
    """Return the dead-letter record of a message: its data, why, and where it came from.

    The headers are those of events' dead letters, so that `pelton dlq` lists both; `redriven` leads back.

    Args:
        delivery: What failed.
        subscription: What failed on it, as shown to users.
        topic: Where dead letters of that kind go.
        id: Identity of the message's content; the delivery's key is added, since a redriven message that
            fails again within the broker's window must not be taken for a repetition of its first record.
        reason: One line without secrets.
        attempts: Answers that the destination gave.
        failed_at: Unix seconds.
        progress: Text of the header PROGRESS, or "".
    """
    return Message(
        topic=topic,
        data=delivery.message.data,
        headers={
            "Pelton-Subscription": subscription,
            "Pelton-Topic": delivery.message.topic,
            "Pelton-Key": delivery.key,
            "Pelton-Attempts": str(attempts),
            "Pelton-Reason": _header_text(reason) or "no reason given",
            "Pelton-Failed-At": f"{failed_at:.3f}",
            **({PROGRESS: progress} if progress else {}),
        },
        id=f"{id}#dead/{delivery.key}",
    )


def redriven(letter: Message, *, key: str) -> Message | None:
    """Return a dead alert or notification as a fresh message, or None when the dead letter is an event's.

    Args:
        letter: The dead letter, as `dead_letter` made it.
        key: Distinguishes this redrive from others, e.g. the letter's sequence number.
    """
    if not letter.topic.startswith((DEAD_NOTIFICATIONS, DEAD_ALERTS)):
        return None
    progress = letter.headers.get(PROGRESS, "")
    return Message(
        topic=letter.headers["Pelton-Topic"],
        data=letter.data,
        headers={PROGRESS: progress} if progress else {},
        id=f"redriven/{letter.topic}/{key}",
    )


def _header_text(text: str) -> str:
    """Return one line that any broker takes as a header: a destination's answer may hold anything."""
    line = " ".join(text.split())[:_LONGEST_REASON]
    return "".join(character if " " <= character <= "~" else "?" for character in line)
