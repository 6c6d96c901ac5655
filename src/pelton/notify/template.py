"""The default words of a notification: Slack, mail, webhook and console.

Pure: Group in, payload out. `notify/render.py` takes these words where no template of the user's applies, and
where one fails.
Lengths are UTF-16 units, which is what Slack counts: an emoji takes two.
Source: contracts/log-notification.md 7, 8, 8.1.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pelton.notify.alert import FIRING, RESOLVED, Alert
from pelton.notify.grouping import Group

__all__ = [
    "RENDERERS",
    "console_payload",
    "cut",
    "email_payload",
    "plain_words",
    "slack_escape",
    "slack_payload",
    "slack_sections",
    "title",
    "webhook_payload",
]

SLACK_TEXT_LIMIT = 40_000
SLACK_SECTION_LIMIT = 3_000
SLACK_BLOCKS_LIMIT = 50

_LINE_LIMIT = 2_000
"""One alert's share of a section, so that a single huge label does not push all others out."""

_SUBJECT_LIMIT = 200
_NAMES_IN_TITLE = 3
_CUT = " …[cut]"
_HIDDEN = frozenset({"rule_id", "receiver"})
"""rule_id means nothing to people; receiver is where this text arrives anyway."""

# Control characters and direction overrides; joiners stay, since emoji are built with them.
_UNSAFE = {
    code: "\N{REPLACEMENT CHARACTER}"
    for codes in (
        range(0x20),
        range(0x7F, 0xA0),
        range(0x202A, 0x202F),
        range(0x2066, 0x206A),
        range(0xD800, 0xE000),
    )
    for code in codes
}

_ENTITIES = ("&amp;", "&lt;", "&gt;")


def title(group: Group) -> str:
    """Return e.g. `[FIRING:2] 404 Request (namespace=shop, severity=warning)`, unescaped.

    The name is the common alertname, else the first few different ones; the brackets hold the other common
    labels.
    """
    states = [
        f"{state.upper()}:{count}"
        for state in (FIRING, RESOLVED)
        if (count := sum(alert.status == state for alert in group.alerts))
    ]
    names = list(dict.fromkeys(alert.labels.get("alertname", "") or "alert" for alert in group.alerts))
    shown = ", ".join(names[:_NAMES_IN_TITLE])
    if len(names) > _NAMES_IN_TITLE:
        shown += f" and {len(names) - _NAMES_IN_TITLE} more"
    rest = _pairs(group.common_labels, without=("alertname",))
    text = f"[{', '.join(states)}] {shown}" + (f" ({', '.join(rest)})" if rest else "")
    return cut(_one_line(text), _LINE_LIMIT)


def slack_payload(group: Group) -> dict[str, Any]:
    """Return `{text, blocks}` for Slack; text within 40,000 units, at most 50 sections of at most 3,000."""
    head = slack_escape(title(group))
    lines = ["• " + slack_escape(line) for line in _lines(group)]
    return {
        "text": cut("\n".join([head, *lines]), SLACK_TEXT_LIMIT),
        "blocks": slack_sections([f"*{cut(head, SLACK_SECTION_LIMIT - 2)}*", *lines]),
    }


def slack_sections(lines: Sequence[str]) -> list[dict[str, Any]]:
    """Return blocks for lines that are escaped already; what does not fit is counted in the last one."""
    return [
        {"type": "section", "text": {"type": "mrkdwn", "text": text}}
        for text in _sections(lines)
        if text.strip()
    ]


def plain_words(group: Group) -> str:
    """Return the title, then a line per alert, for any place that shows text."""
    return "\n".join([title(group), *(f"- {line}" for line in _lines(group))])


def webhook_payload(group: Group) -> dict[str, Any]:
    """Return the contract's default body: alerts, groupLabels, commonLabels, commonAnnotations."""
    return {
        "alerts": [_alert(alert) for alert in group.alerts],
        "groupLabels": group.group_labels,
        "commonLabels": group.common_labels,
        "commonAnnotations": group.common_annotations,
    }


def console_payload(group: Group) -> dict[str, Any]:
    """Return `{text}` for a terminal: the title, then one indented line per alert."""
    return {"text": "\n".join([title(group), *("  • " + line for line in _lines(group))])}


def email_payload(group: Group) -> dict[str, Any]:
    """Return `{subject, text, html}`; what alerts say is escaped in the HTML, and only there."""
    lines = list(_lines(group))
    items = "".join(f"<li>{html.escape(line)}</li>\n" for line in lines)
    return {
        "subject": cut(title(group), _SUBJECT_LIMIT),
        "text": "\n".join([title(group), *(f"  * {line}" for line in lines)]) + "\n",
        "html": f"<p><b>{html.escape(title(group))}</b></p>\n<ul>\n{items}</ul>\n",
    }


RENDERERS: Mapping[str, Callable[[Group], dict[str, Any]]] = {
    "slack": slack_payload,
    "email": email_payload,
    "webhook": webhook_payload,
    "console": console_payload,
}
"""Block of a Receiver -> how its payload is made."""


def slack_escape(text: str) -> str:
    """Escape the three characters that mean something to Slack."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def cut(text: str, limit: int) -> str:
    """Shorten to at most `limit` UTF-16 units and add a marker; never inside a character or Slack entity."""
    if _units(text) <= limit:
        return text
    room = limit - _units(_CUT)
    kept = text.encode("utf-16-le")[: room * 2].decode("utf-16-le", errors="ignore")
    start = kept.rfind("&")
    if start >= 0 and any(entity.startswith(kept[start:]) and entity != kept[start:] for entity in _ENTITIES):
        kept = kept[:start]
    return kept.rstrip() + _CUT


def _units(text: str) -> int:
    return len(text) + sum(character > "\uffff" for character in text)


def _lines(group: Group) -> Iterable[str]:
    mixed = len({alert.status for alert in group.alerts}) > 1
    for alert in group.alerts:
        # Alike alerts carry their state in the title; in a mixture each line has to say it.
        state = f"[{alert.status.upper()}] " if mixed else ""
        pairs = ", ".join(_pairs(alert.labels))
        text = f"{alert.message}: {pairs}" if alert.message and pairs else alert.message or pairs
        yield cut(_one_line(state + text), _LINE_LIMIT)


def _pairs(labels: Mapping[str, str], *, without: Sequence[str] = ()) -> list[str]:
    names = sorted(labels, key=lambda name: (name != "alertname", name))
    return [f"{name}={labels[name]}" for name in names if name not in _HIDDEN and name not in without]


def _one_line(text: str) -> str:
    """Join lines and make control characters visible: a label must not move a terminal's cursor."""
    return " ".join(text.split()).translate(_UNSAFE)


def _sections(lines: Sequence[str]) -> list[str]:
    """Pack lines into sections; what does not fit into the last one is counted there."""
    sections: list[str] = []
    used = 0
    for number, line in enumerate(lines):
        fitted = cut(line, SLACK_SECTION_LIMIT)
        need = _units(fitted)
        if sections and used + 1 + need <= SLACK_SECTION_LIMIT:
            sections[-1] += "\n" + fitted
            used += 1 + need
        elif len(sections) < SLACK_BLOCKS_LIMIT - 1:
            sections.append(fitted)
            used = need
        else:
            sections.append(f"… and {len(lines) - number} more")
            break
    return sections


def _alert(alert: Alert) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "status": alert.status,
        "labels": alert.labels,
        "annotations": alert.annotations,
        "startsAt": alert.starts_at,
        "endsAt": alert.ends_at,
        "fingerprint": alert.fingerprint,
    }
    if alert.generator_url:
        shown["generatorURL"] = alert.generator_url
    return shown
