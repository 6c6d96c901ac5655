"""The default words of notifications."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.notify.alert import FIRING, RESOLVED, Alert
from pelton.notify.grouping import Group, aggregate
from pelton.notify.template import (
    console_payload,
    cut,
    slack_escape,
    slack_payload,
    title,
    webhook_payload,
)


def group(*alerts: Alert) -> Group:
    (made,) = aggregate(alerts, group_labels=(), receiver="ops")
    return made


def alert(status: str = FIRING, annotations: Any = None, **labels: Any) -> Alert:
    return Alert(status=status, labels=labels, annotations=annotations or {}, fingerprint="00")


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


NOT_FOUND: dict[str, Any] = {"alertname": "404 Request", "namespace": "shop", "severity": "warning"}


def test_title_names_state_count_alert_and_common_labels():
    made = group(alert(**NOT_FOUND, path="/a"), alert(**NOT_FOUND, path="/b"))

    assert title(made) == "[FIRING:2] 404 Request (namespace=shop, severity=warning)"


def test_title_counts_both_states_of_a_mixture():
    made = group(alert(**NOT_FOUND), alert(RESOLVED, **NOT_FOUND), alert(**NOT_FOUND))

    assert title(made).startswith("[FIRING:2, RESOLVED:1] 404 Request")


def test_title_lists_a_few_different_names():
    made = group(*(alert(alertname=f"a{i}") for i in range(5)))

    assert title(made) == "[FIRING:5] a0, a1, a2 and 2 more"


def test_title_without_labels_still_says_something():
    assert title(group(alert())) == "[FIRING:1] alert"


def test_slack_line_puts_message_first_then_alertname_then_sorted_labels():
    made = group(
        alert(
            annotations={"summary": "s", "message": "shop answers 404"},
            z="1",
            a="2",
            rule_id="7",
            **NOT_FOUND,
        )
    )

    line = slack_payload(made)["text"].splitlines()[1]
    assert line == ("• shop answers 404: alertname=404 Request, a=2, namespace=shop, severity=warning, z=1")


@pytest.mark.parametrize(
    ("annotations", "words"),
    [({"summary": "sum"}, "sum: a=1"), ({"summaryCn": "cn"}, "cn: a=1"), ({}, "a=1")],
)
def test_slack_line_falls_back_from_message_to_summaries_to_labels(annotations, words):
    assert slack_payload(group(alert(annotations=annotations, a="1")))["text"].endswith(f"• {words}")


def test_slack_line_says_its_state_only_in_a_mixture():
    mixed = slack_payload(group(alert(a="1"), alert(RESOLVED, a="2")))["text"].splitlines()
    alike = slack_payload(group(alert(RESOLVED, a="1")))["text"].splitlines()

    assert mixed[1:] == ["• [FIRING] a=1", "• [RESOLVED] a=2"]
    assert alike == ["[RESOLVED:1] alert (a=1)", "• a=1"]


def test_slack_text_escapes_what_slack_would_read_as_markup():
    text = slack_payload(group(alert(alertname="<!channel> & co")))["text"]

    assert "&lt;!channel&gt; &amp; co" in text
    assert "<" not in text


def test_slack_text_is_cut_at_40000_with_a_marker():
    text = slack_payload(group(*(alert(i=str(i), big="x" * 1500) for i in range(100))))["text"]

    assert units(text) <= 40_000
    assert text.endswith("…[cut]")


def test_slack_blocks_say_how_many_alerts_they_leave_out():
    blocks = slack_payload(group(*(alert(i=str(i), big="x" * 1600) for i in range(100))))["blocks"]

    assert len(blocks) == 50
    shown = sum(block["text"]["text"].count("• ") for block in blocks)
    assert blocks[-1]["text"]["text"] == f"… and {100 - shown} more"


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ["&" * 3000, "😀" * 1800, "<a&b>" * 700, "x" * 50_000, "\n\r\x1b[31m"]
)
_groups = st.lists(
    st.builds(
        Alert,
        status=st.sampled_from([FIRING, RESOLVED]),
        labels=st.dictionaries(_text, _text, max_size=4),
        annotations=st.dictionaries(st.sampled_from(["message", "summary"]), _text),
    ),
    min_size=1,
    max_size=6,
).map(lambda alerts: group(*alerts))


@settings(deadline=None)
@given(_groups)
def test_slack_payload_keeps_every_limit(made):
    payload = slack_payload(made)

    assert units(payload["text"]) <= 40_000
    assert 1 <= len(payload["blocks"]) <= 50
    for block in payload["blocks"]:
        assert 1 <= units(block["text"]["text"]) <= 3_000
    for text in (payload["text"], *(block["text"]["text"] for block in payload["blocks"])):
        assert not re.search(r"&(?!amp;|lt;|gt;)", text)
        assert not re.search("[<>\x00-\x09\x0b-\x1f\x7f]", text)


@given(_groups)
def test_console_payload_has_one_line_per_alert_without_control_characters(made):
    text = console_payload(made)["text"]

    assert len(text.split("\n")) == 1 + len(made.alerts)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(10, 60))
def test_cut_fits_and_keeps_a_prefix(text, limit):
    shorter = cut(slack_escape(text), limit)

    assert units(shorter) <= limit
    assert not re.search(r"&(?!amp;|lt;|gt;)", shorter)
    if units(slack_escape(text)) <= limit:
        assert shorter == slack_escape(text)
    else:
        assert slack_escape(text).startswith(shorter.removesuffix(" …[cut]"))


def test_webhook_payload_is_the_contracts_data_object():
    one = Alert(
        status=FIRING,
        labels=NOT_FOUND,
        annotations={"summary": "s"},
        starts_at="2026-01-02T03:04:05Z",
        fingerprint="0123456789abcdef",
        generator_url="http://here",
    )

    payload = webhook_payload(group(one))

    assert payload == {
        "alerts": [
            {
                "status": "firing",
                "labels": {"receiver": "ops", **NOT_FOUND},
                "annotations": {"summary": "s"},
                "startsAt": "2026-01-02T03:04:05Z",
                "endsAt": "0001-01-01T00:00:00Z",
                "fingerprint": "0123456789abcdef",
                "generatorURL": "http://here",
            }
        ],
        "groupLabels": {},
        "commonLabels": NOT_FOUND,
        "commonAnnotations": {"summary": "s"},
    }
