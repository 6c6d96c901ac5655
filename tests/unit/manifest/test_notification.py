"""Receivers, and which labels they select."""

from typing import Any

import pytest

from pelton.manifest import notification
from pelton.manifest.kinds import admit
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
    admitted = admit(receiver(feishu={"user": ["a"]}, dingtalk={"any": 1}))

    assert admitted.obj["spec"]["feishu"] == {"user": ["a"]}
    assert [line.partition(":")[0] for line in admitted.warnings] == ["spec.feishu", "spec.dingtalk"]


def test_mails_need_addresses():
    assert paths(email={}) == ["spec.email.to"]
    assert paths(email={"to": ["a@example.org", "nobody", "a@b, c@d"]}) == [
        "spec.email.to[1]",
        "spec.email.to[2]",
    ]


def test_templates_are_named_as_without_effect():
    admitted = admit(receiver(email={"to": ["a@example.org"], "template": "x", "subjectTemplate": "y"}))

    assert [line.partition(":")[0] for line in admitted.warnings] == [
        "spec.email.template",
        "spec.email.subjectTemplate",
    ]


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
