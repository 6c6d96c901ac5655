"""One message in place of many, where a destination takes fewer than there are: counts by alert.

Pure; `notify/sending.py` decides when. The words are ours: a user's template says what one group is about,
not what was left out. Source: contracts, log and notification, sections 8 and 10.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pelton.notify.alert import FIRING, RESOLVED, Alert
from pelton.notify.grouping import Group
from pelton.notify.limits import Limit
from pelton.notify.render import Style, shorten
from pelton.notify.template import slack_escape, slack_sections

__all__ = ["digest_payload", "digest_words"]

_MOST_NAMES = 30


def digest_words(groups: Sequence[Group], limit: Limit) -> str:
    """Return what a digest says: how many notifications and alerts it stands for, then a line per name.

    Args:
        groups: The merged notifications', in order; a later one tells the newer state of an alert.
        limit: Why they were merged.
    """
    alerts: dict[str, Alert] = {}
    for group in groups:
        for alert in group.alerts:
            alerts[alert.fingerprint] = alert
    firing = sum(alert.status == FIRING for alert in alerts.values())
    rates = " and ".join(f"{rate.messages} per {rate.seconds:g} s" for rate in limit.rates)
    why = f"this receiver takes {rates}" if rates else "the receiver asked to wait"
    head = (
        f"[DIGEST] {len(groups)} notifications in one, since {why}: "
        f"{len(alerts)} alerts, {firing} {FIRING}, {len(alerts) - firing} {RESOLVED}"
    )
    counts: Counter[tuple[str, str]] = Counter(
        (alert.labels.get("alertname", "") or "alert", alert.status) for alert in alerts.values()
    )
    names = Counter[str]()
    for (name, _), number in counts.items():
        names[name] += number
    lines = [
        f"- {number} x {name} ({counts[name, FIRING]} {FIRING}, {counts[name, RESOLVED]} {RESOLVED})"
        for name, number in names.most_common(_MOST_NAMES)
    ]
    if len(names) > _MOST_NAMES:
        lines.append(f"- and {len(names) - _MOST_NAMES} more names")
    return "\n".join([head, *(" ".join(line.split()) for line in lines)])


def digest_payload(groups: Sequence[Group], limit: Limit, style: Style) -> dict[str, Any]:
    """Return the message that a Sender of the style's block takes."""
    words = digest_words(groups, limit)
    if style.block == "slack":
        text = slack_escape(words)
        return {"text": text, "blocks": slack_sections(text.splitlines())}
    payload: dict[str, Any] = {"text": words, "title": words.split(":")[0]}
    if style.format in ("text", "markdown"):
        payload["format"] = style.format
    return shorten(payload, style)
