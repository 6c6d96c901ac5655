"""How groups become messages: users' templates, parts that fit, and plain words where a template fails."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.notify.alert import FIRING, RESOLVED, Alert, fingerprint
from pelton.notify.grouping import Group, aggregate
from pelton.notify.render import DEFAULT_NAMES, Style, TemplateSet, render

NOT_FOUND = {"alertname": "404 Request", "namespace": "shop", "severity": "warning"}


def alert(status: str = FIRING, message: str = "", **labels: str) -> Alert:
    annotations = {"message": message} if message else {}
    return Alert(status=status, labels=labels, annotations=annotations, fingerprint=fingerprint(labels))


def group(*alerts: Alert) -> Group:
    (made,) = aggregate(alerts, group_labels=(), receiver="ops")
    return made


def style(block: str = "wechat", *texts: tuple[str, str], **options) -> Style:
    templates = TemplateSet(texts, language=options.pop("language", ""), words=options.pop("words", None))
    return Style(block=block, receiver="ops", templates=templates, **options)


def one(made: Group, how: Style) -> dict[str, Any]:
    (piece,) = render(made, how)
    assert piece.fault is None
    return piece.payload


TWO = group(
    alert(**NOT_FOUND, path="/a"), alert(RESOLVED, message="it's back & <fine>", **NOT_FOUND, path="/b")
)


def test_default_text_tells_state_name_common_labels_and_each_alert():
    payload = one(TWO, style(format="text"))

    assert payload["text"] == (
        "[FIRING:1] [RESOLVED:1] 404 Request namespace=shop severity=warning\n"
        "- [FIRING] (alertname=404 Request, namespace=shop, path=/a, severity=warning)\n"
        "- [RESOLVED] it's back & <fine> "
        "(alertname=404 Request, namespace=shop, path=/b, severity=warning)"
    )
    assert payload["title"] == "[FIRING:1] [RESOLVED:1] 404 Request namespace=shop severity=warning"


def test_default_post_is_json_whatever_the_alerts_hold():
    made = group(alert(message='say "hi"\n\\ </script>', **NOT_FOUND))

    page = one(made, style("feishu", format="post"))["post"]["zh_cn"]

    assert page["title"] == "[FIRING:1] 404 Request"
    ((item,),) = page["content"]
    assert item == {
        "tag": "text",
        "text": '[FIRING] say "hi"\n\\ </script> (alertname=404 Request, namespace=shop, severity=warning)',
    }


@pytest.mark.parametrize("name", sorted(set(DEFAULT_NAMES.values())))
def test_every_default_template_can_be_named(name):
    assert one(TWO, style(format="text", template=name))["text"]


def test_template_of_the_user_is_run_by_its_name_or_as_a_text():
    texts = ("mine", '{{ define "my.text" }}{{ len .Alerts.Firing }} of {{ len .Alerts }}{{ end }}')

    assert one(TWO, style("console", texts, template="my.text")) == {"text": "1 of 2"}
    assert one(TWO, style("console", texts, template='{{ template "my.text" . }}!')) == {"text": "1 of 2!"}


def test_template_of_the_user_replaces_a_default_one_for_all_blocks_that_use_it():
    texts = ("mine", '{{ define "nm.default.subject" }}S{{ end }}{{ define "nm.default.text" }}T{{ end }}')

    assert one(TWO, style("wechat", texts, format="text"))["text"] == "T"
    assert one(TWO, style("slack", texts))["text"] == "T"
    assert one(TWO, style("email", texts, format="html"))["subject"] == "S"


def test_data_has_the_methods_that_templates_call():
    text = (
        "{{ .Status }} {{ .CommonLabels.Names }} "
        "{{ (.CommonLabels.Remove (stringSlice `severity`)).Values }} "
        "{{ range (index .Alerts 0).Labels.SortedPairs.DefaultFilter }}{{ .Name }}/{{ .Value }} {{ end }}"
        "{{ with index .Alerts 1 }}{{ .Message }}{{ .MessageCN }} {{ .StartsAt.IsZero }}{{ end }} "
        "{{ .Receiver }}"
    )

    assert one(TWO, style("console", template=text))["text"] == (
        "firing [alertname namespace severity] [404 Request shop] "
        "alertname/404 Request namespace/shop path//a receiver/ops severity/warning "
        "it's back & <fine>it's back & <fine> true ops"
    )


def test_language_chooses_words_and_packs_add_to_them():
    words = {"zh-cn": {"firing": "火"}, "german": {"firing": "BRENNT"}}

    made = one(TWO, style(format="text", language="German", words=words))["text"]
    chinese = one(TWO, style(format="text", language="zh-CN", words=words))["text"]

    assert made.startswith("[BRENNT:1] [resolved:1]") or made.startswith("[BRENNT:1] [RESOLVED:1]")
    assert chinese.startswith("[火:1] [已恢复:1]")


def test_jinja_template_is_chosen_by_its_name():
    texts = (
        "t.j2",
        "{{ status }}: {% for a in firing %}{{ a.labels.path }}{% endfor %} {{ 'resolved'|translate }}",
    )

    assert one(TWO, style("console", texts, template="t.j2"))["text"] == "firing: /a RESOLVED"


def test_html_mail_is_escaped_and_text_mail_is_not():
    made = group(alert(message="<b>&", **NOT_FOUND))
    template = "<i>{{ range .Alerts }}{{ .Message }}{{ end }}</i>"

    assert one(made, style("email", format="html", template=template))["html"] == "<i>&lt;b&gt;&amp;</i>"
    assert one(made, style("email", format="text", template=template))["text"] == "<i><b>&</i>"


def test_slack_data_is_escaped_while_the_template_may_format():
    made = group(alert(message="<!channel> & co", **NOT_FOUND))
    template = "*{{ (index .Alerts 0).Message }}* <https://x.example|open>"

    payload = one(made, style("slack", template=template))

    assert payload["text"] == "*&lt;!channel&gt; &amp; co* <https://x.example|open>"
    assert payload["blocks"][0]["text"]["text"] == payload["text"]


def test_webhook_template_is_sent_as_it_is_written():
    assert one(TWO, style("webhook", template='{"n":{{ len .Alerts }}}')) == {"raw": '{"n":2}'}
    assert set(one(TWO, style("webhook", template="webhook.default.message"))) == {
        "alerts",
        "groupLabels",
        "commonLabels",
        "commonAnnotations",
    }


@pytest.mark.parametrize(
    ("block", "options", "key"),
    [
        ("slack", {}, "text"),
        ("email", {"format": "html"}, "html"),
        ("email", {"format": "text"}, "text"),
        ("console", {}, "text"),
        ("dingtalk", {"format": "markdown"}, "text"),
        ("wechat", {"format": "text"}, "text"),
        ("feishu", {"format": "post"}, "text"),
    ],
)
@pytest.mark.parametrize("template", ["no.such", "{{ .Alerts.Nothing }}", "{{ index .Alerts 99 }}", "t.j2"])
def test_template_that_fails_is_replaced_by_plain_words_with_the_reason(block, options, key, template):
    (piece,) = render(TWO, style(block, ("t.j2", "{{ 1 / 0 }}"), template=template, **options))

    assert piece.fault is not None
    assert piece.alerts == 2
    assert "404 Request" in piece.payload[key]
    assert "The template of receiver ops could not be used: " in piece.payload[key]


def test_webhook_whose_template_fails_gets_the_default_body():
    (piece,) = render(TWO, style("webhook", template="{{ .Nothing.X | toUpper | len | index }}"))

    assert piece.fault is not None
    assert len(piece.payload["alerts"]) == 2


def test_post_that_is_no_json_is_replaced_by_plain_words():
    (piece,) = render(TWO, style("feishu", format="post", template='{"zh_cn": {{ len .Alerts }}}'))

    assert "writes no post" in str(piece.fault)
    assert set(piece.payload) == {"text", "title"}


def test_post_that_is_nested_without_end_is_replaced_by_plain_words():
    (piece,) = render(
        TWO, style("feishu", format="post", template="{{ range .Alerts }}{{ end }}" + "[" * 50_000)
    )

    assert "writes no JSON" in str(piece.fault)


@pytest.mark.parametrize("name", ["half.j2", "half"])
def test_half_a_character_in_a_template_keeps_no_message_from_being_sent(name):
    text = "{{ '\\ud800' }}!" if name.endswith("j2") else '{{ "\\ud800" }}!'

    payload = one(TWO, style("dingtalk", (name, text), format="text", template=name, limit=500))

    assert payload["text"] == "?!"
    assert msgspec.json.encode(payload)


def test_faults_of_texts_are_known_without_running_them():
    made = TemplateSet([("a", "{{ define"), ("b", '{{ template "none" }}'), ("c.j2", "{% if %}")])

    assert [str(fault).partition(" ")[0] for fault in made.faults] == ["a:1:1:", "c.j2:1:1:", "b:1:4:"]


def sizes(pieces, how: Style) -> list[int]:
    texts = [piece.payload.get("text", "") for piece in pieces]
    return [len(msgspec.json.encode(text)) - 2 if how.escaped else len(text.encode()) for text in texts]


def test_messages_are_split_between_alerts_below_the_limit():
    made = group(*(alert(**NOT_FOUND, path=f"/p{number}") for number in range(40)))
    how = style(format="text", limit=600)

    pieces = render(made, how)

    assert len(pieces) > 3
    assert all(size < 600 for size in sizes(pieces, how))
    assert sum(piece.alerts for piece in pieces) == 40
    told = [line for piece in pieces for line in piece.payload["text"].splitlines() if "path=" in line]
    assert [line.partition("path=")[2].partition(",")[0] for line in told] == [f"/p{n}" for n in range(40)]


def test_split_goes_on_behind_what_was_sent():
    made = group(*(alert(**NOT_FOUND, path=f"/p{number}") for number in range(40)))
    how = style(format="text", limit=600)
    first = render(made, how)[0]

    rest = render(made, how, skip=first.alerts)

    assert [piece.payload for piece in rest] == [piece.payload for piece in render(made, how)[1:]]


def test_one_alert_above_the_limit_is_cut_with_a_marker():
    made = group(alert(message="é" * 3000, **NOT_FOUND), alert(message="short", **NOT_FOUND, path="/b"))
    how = style(format="text", limit=2048)

    first, second = render(made, how)

    assert first.payload["text"].endswith(" …[cut]")
    assert sizes([first], how)[0] < 2048
    assert "short" in second.payload["text"]


def test_post_above_the_limit_is_split_and_a_huge_alert_becomes_text():
    made = group(
        alert(message="x" * 400, **NOT_FOUND),
        alert(message="y" * 400, **NOT_FOUND, path="/b"),
        alert(message="z" * 2000, **NOT_FOUND, path="/c"),
    )
    pieces = render(made, style("feishu", format="post", limit=900, escaped=True))

    assert [sorted(piece.payload) for piece in pieces] == [["post"], ["post"], ["text"]]
    assert pieces[2].payload["text"].startswith("[FIRING:1]")
    assert pieces[2].payload["text"].endswith(" …[cut]")


@settings(max_examples=40, deadline=None)
@given(
    messages=st.lists(st.text(max_size=300), min_size=1, max_size=12),
    limit=st.integers(200, 2000),
    escaped=st.booleans(),
)
def test_no_alert_is_lost_and_no_message_is_too_large(messages, limit, escaped):
    made = group(*(alert(message=text, alertname="a", n=str(n)) for n, text in enumerate(messages)))
    how = style(format="text", limit=limit, escaped=escaped)

    pieces = render(made, how)

    assert sum(piece.alerts for piece in pieces) == len(messages)
    assert all(size < limit for size in sizes(pieces, how))


def test_payloads_can_be_written_as_json():
    for (block, form), _ in DEFAULT_NAMES.items():
        json.dumps(one(TWO, style(block, format=form)))
