"""Receivers, and which labels they select."""

import json
from typing import Any

import pytest

from pelton.errors import InvalidError
from pelton.manifest import notification
from pelton.manifest.kinds import admit
from pelton.manifest.notification_fields import template_text_problems
from pelton.manifest.notification_routing import CONFIG, NOTIFICATION_MANAGER
from pelton.model.notification import (
    Credential,
    LabelSelector,
    Requirement,
    SecretRef,
    compile_pattern,
    matches,
)


def receiver(**spec):
    return {
        "apiVersion": "notification.kubesphere.io/v2beta2",
        "kind": "Receiver",
        "metadata": {"name": "r"},
        "spec": spec,
    }


def model(obj) -> Any:
    """Decode; Any, since a test knows which optional parts are there."""
    return notification.decode(obj)[0]


def paths(**spec):
    return [problem.path for problem in notification.validate(receiver(**spec))]


def select(**expression):
    return LabelSelector(match_expressions=(Requirement(**expression),))


def test_slack_incoming_webhook_may_be_text_or_a_credential():
    text = model(receiver(slack={"webhook": "https://hooks.example/x"}))
    reference = {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    secret = model(receiver(slack={"webhook": reference}))

    assert text.slack.webhook == Credential(value="https://hooks.example/x")
    assert secret.slack.webhook == Credential(secret=SecretRef(name="s", key="k"))


def test_slack_without_incoming_webhook_needs_channels():
    assert paths(slack={}) == ["spec.slack.channels"]
    assert paths(slack={"channels": ["a"]}) == []
    assert paths(slack={"webhook": "https://x.example/"}) == []


def test_webhook_needs_exactly_one_destination():
    service = {"namespace": "a", "name": "b"}

    assert paths(webhook={}) == ["spec.webhook"]
    assert paths(webhook={"url": "http://a/", "service": service}) == ["spec.webhook"]
    assert paths(webhook={"url": "http://a/"}) == []
    assert paths(webhook={"service": service}) == []


@pytest.mark.parametrize("url", ["a.example", "ftp://a/", "http://", "https:///x", "http://a b/"])
def test_webhook_url_must_be_http(url):
    assert paths(webhook={"url": url}) == ["spec.webhook.url"]


def test_console_needs_nothing():
    decoded = model(receiver(console={}))

    assert decoded.console.enabled is True
    assert paths(console={}) == []


def test_blocks_of_other_types_are_kept_and_warned_about():
    telegram, discord = {"channels": ["a"]}, {"webhook": {"value": "https://discord.example/x"}}

    admitted = admit(receiver(telegram=telegram, discord=discord))

    assert (admitted.obj["spec"]["telegram"], admitted.obj["spec"]["discord"]) == (telegram, discord)
    assert [line.partition(":")[0] for line in admitted.warnings] == ["spec.telegram", "spec.discord"]


def test_blocks_of_other_types_are_checked():
    assert paths(
        sms={"phoneNumbers": ["+49 170"]},
        pushover={"profiles": [{"userKey": "short", "sound": "drum"}]},
        telegram={"channels": []},
    ) == [
        "spec.sms.phoneNumbers[0]",
        "spec.pushover.profiles[0].userKey",
        "spec.pushover.profiles[0].sound",
        "spec.telegram.channels",
    ]


def test_chats_are_decoded_with_all_their_fields():
    chatbot = {"webhook": {"value": "https://bot.example/x"}, "keywords": ["a"], "secret": {"value": "s"}}
    spec = {
        "dingtalk": {
            "chatbot": {**chatbot, "atMobiles": ["1"], "atUsers": ["u"], "atAll": True},
            "conversation": {"chatids": ["c"]},
            "titleTemplate": "t",
            "tmplType": "markdown",
            "dingtalkConfigSelector": {"matchLabels": {"a": "b"}},
        },
        "feishu": {"user": ["u"], "department": ["d"], "chatbot": chatbot, "tmplType": "text"},
        "wechat": {
            "toUser": ["u"],
            "toParty": ["p"],
            "toTag": ["t"],
            "chatbot": {"webhook": {"value": "https://bot.example/x"}, "atUsers": ["u"]},
        },
    }

    found, warnings = notification.decode(receiver(**spec))

    assert warnings == []
    assert found.dingtalk is not None and found.feishu is not None and found.wechat is not None
    assert (found.dingtalk.chats, found.dingtalk.format, found.dingtalk.title_template) == (
        ("c",),
        "markdown",
        "t",
    )
    assert found.dingtalk.chatbot is not None
    assert (found.dingtalk.chatbot.at_mobiles, found.dingtalk.chatbot.at_all) == (("1",), True)
    assert (found.feishu.users, found.feishu.departments, found.feishu.format) == (("u",), ("d",), "text")
    assert (found.wechat.users, found.wechat.parties, found.wechat.tags) == (("u",), ("p",), ("t",))
    again, _ = notification.decode(notification.encode(found))
    assert again == found


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"dingtalk": {}}, "spec.dingtalk"),
        ({"feishu": {}}, "spec.feishu"),
        ({"wechat": {"tmplType": "text"}}, "spec.wechat"),
        ({"feishu": {"user": ["u"] * 201}}, "spec.feishu.user"),
        ({"dingtalk": {"chatbot": {"keywords": []}}}, "spec.dingtalk.chatbot.webhook"),
        ({"wechat": {"chatbot": {"webhook": {"value": "ftp://x"}}}}, "spec.wechat.chatbot.webhook"),
        ({"feishu": {"user": ["u"], "tmplType": "markdown"}}, "spec.feishu.tmplType"),
    ],
)
def test_chats_need_somebody_to_reach(spec, path):
    assert path in paths(**spec)


def test_address_of_a_bot_is_a_secret_and_in_no_message():
    with pytest.raises(InvalidError) as raised:
        admit(receiver(wechat={"chatbot": {"webhook": {"value": "gopher://key=693a91f6"}}}))

    assert "693a91f6" not in str(raised.value)


def test_mails_need_addresses():
    assert paths(email={}) == ["spec.email.to"]
    assert paths(email={"to": ["a@example.org", "nobody", "a@b, c@d"]}) == [
        "spec.email.to[1]",
        "spec.email.to[2]",
    ]


def test_templates_of_the_receiver_are_read_on_admission():
    with pytest.raises(InvalidError) as raised:
        admit(
            receiver(
                email={
                    "to": ["a@example.org"],
                    "template": "x\n{{ range .Alerts }}",
                    "subjectTemplate": "nm.x",
                },
                slack={"webhook": "https://x.example/y", "template": "{{ .Status | upper }}"},
            )
        )

    assert raised.value.causes == (
        ("spec.slack.template", "line 1, column 14: function upper is not defined"),
        ("spec.email.template", "line 2, column 1: has no {{end}}"),
    )


def test_unknown_blocks_are_dropped_with_the_nearest_name():
    admitted = admit(receiver(console={}, slak={}))

    assert admitted.warnings == ("spec.slak: unknown field, ignored; did you mean slack?",)
    assert "slak" not in admitted.obj["spec"]


def test_encode_gives_back_what_decode_read():
    obj = receiver(
        webhook={
            "enabled": False,
            "url": "https://x.example/",
            "httpConfig": {
                "basicAuth": {"username": "u", "password": {"value": "p"}},
                "tlsConfig": {
                    "rootCA": {"value": "c"},
                    "clientCertificate": {"cert": {"value": "c"}, "key": {"value": "k"}},
                },
            },
        },
        slack={"channels": ["c"], "alertSelector": {"matchLabels": {"a": "b"}}},
        email={"to": ["a@example.org"], "tmplType": "text"},
        console={},
        sms={"phoneNumbers": ["1"]},
    )

    assert notification.encode(notification.decode(obj)[0]) == obj


def test_credential_needs_exactly_one_source():
    reference = {"secretKeyRef": {"name": "a", "key": "b"}}

    assert paths(slack={"webhook": {}}) == ["spec.slack.webhook"]
    assert paths(slack={"webhook": {"value": "https://x/", "valueFrom": reference}}) == ["spec.slack.webhook"]


def test_secrets_are_not_shown():
    problems = notification.validate(receiver(slack={"webhook": "no-url-s3cret"}))

    assert "s3cret" not in str(problems)
    assert "s3cret" not in repr(Credential(value="s3cret"))


@pytest.mark.parametrize(
    ("selector", "labels", "wanted"),
    [
        (None, None, True),
        (None, {}, True),
        (LabelSelector(), None, False),
        (LabelSelector(), {}, True),
        (LabelSelector(match_labels={"a": "b"}), {"a": "b", "c": "d"}, True),
        (LabelSelector(match_labels={"a": "b", "c": "x"}), {"a": "b", "c": "d"}, False),
        (select(key="a", operator="In", values=("b", "c")), {"a": "c"}, True),
        (select(key="a", operator="In", values=("b",)), {}, False),
        (select(key="a", operator="NotIn", values=("b",)), {"a": "b"}, False),
        (select(key="a", operator="NotIn", values=("b",)), {}, True),
        (select(key="a", operator="Exists"), {"a": ""}, True),
        (select(key="a", operator="Exists"), {}, False),
        (select(key="a", operator="DoesNotExist"), {}, True),
        (select(key="a", operator="DoesNotExist"), {"a": "b"}, False),
        (select(key="a", operator="Match", regex="o+"), {"a": "foo"}, True),
        (select(key="a", operator="Match", regex="^o"), {"a": "foo"}, False),
        (select(key="a", operator="Match", regex="^$"), {}, True),
        (select(key="a", operator="Match", regex="^[[:digit:]]+\\z"), {"a": "12"}, True),
        (select(key="a", operator="Match", regex="x"), None, False),
        (select(key="a", operator="Other"), {"a": "b"}, False),
    ],
)
def test_matches(selector, labels, wanted):
    assert matches(selector, labels) is wanted


def test_compile_pattern_is_kept_for_the_next_alert():
    assert compile_pattern("a+") is compile_pattern("a+")


@pytest.mark.parametrize(
    ("name", "text", "problems"),
    [
        (
            "a.tmpl",
            '{{ define "x" }}\n{{ .A | upper }}{{ end }}',
            ["line 2, column 9: function upper is not defined"],
        ),
        ("a.tmpl", '{{ define "x" }}{{ end }}', []),
        ("chart.tpl", '{{ include "helm.name" . | nindent 4 }}', []),
        ("a.j2", "x\n{% if %}", ["line 2, column 1: Expected an expression, got 'end of statement block'"]),
        ("a.j2", "{{ firing|length }} {{ 'x'|translate }}", []),
    ],
)
def test_entries_of_config_maps_that_look_like_templates_are_read(name, text, problems):
    assert template_text_problems(name, text) == problems


@pytest.mark.parametrize("odd", [5, [], "x", True, {"a": 5}, [[]]], ids=str)
@pytest.mark.parametrize(
    ("verbs", "spec"),
    [
        (CONFIG, {"sms": "ODD"}),
        (CONFIG, {"sms": {"defaultProvider": "ODD", "providers": {"aws": {}}}}),
        (CONFIG, {"sms": {"defaultProvider": "aws", "providers": "ODD"}}),
        (CONFIG, {"sms": {"providers": {"aws": "ODD"}}}),
        (CONFIG, {"sms": {"providers": {"aws": {"accessKeyId": "ODD"}}}}),
        (CONFIG, {"telegram": {"telegramTokenSecret": {"valueFrom": "ODD"}}}),
        (notification, {"discord": "ODD"}),
        (notification, {"discord": {"webhook": "ODD"}}),
        (notification, {"telegram": {"channels": ["c"], "alertSelector": "ODD"}}),
        (notification, {"telegram": {"channels": ["c"], "alertSelector": {"matchExpressions": "ODD"}}}),
        (NOTIFICATION_MANAGER, {"receivers": {"options": "ODD"}}),
        (NOTIFICATION_MANAGER, {"receivers": {"options": {"global": "ODD"}}}),
        (NOTIFICATION_MANAGER, {"receivers": {"options": {"global": {"cluster": "ODD"}}}}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_what_has_the_wrong_type_is_complained_of_and_stops_no_rule(verbs, spec, odd):
    written = json.loads(json.dumps(spec).replace('"ODD"', json.dumps(odd)))

    assert isinstance(verbs.validate({"metadata": {"name": "x"}, "spec": written}), list)
