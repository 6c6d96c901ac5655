"""Receiver of notification.kubesphere.io/v2beta2: decode, default, validate, convert, encode.

Called through `manifest/kinds`; `notify/` uses `decode`. Blocks of chats and the telephone are in
`manifest/notification_chat`. Pelton's extensions: block `console: {}` prints alerts; `slack.webhook`, an
incoming-webhook URL (text or credential {value | valueFrom}), with which `slack.channels` may be left out;
`slack.followUp`; `email.cc`. Blocks that nothing is sent by are checked and accepted with a warning.
Source: contracts, log and notification, sections 4 and 4.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pelton.errors import UnservedVersionError
from pelton.manifest.fields import (
    Decoded,
    Field,
    Integer,
    Items,
    Problem,
    Reading,
    Record,
    Text,
    copy_json,
    describe,
    either,
    merge_problems,
    raise_invalid,
    read_metadata,
    write_metadata,
)
from pelton.manifest.notification_chat import (
    DINGTALK,
    FEISHU,
    UNDELIVERED,
    WECHAT,
    chat_problems,
    undelivered_problems,
)
from pelton.manifest.notification_fields import (
    CREDENTIAL,
    SELECTOR,
    SHARED,
    TLS,
    TextOrCredential,
    credential_problems,
    selector_problems,
    template_problems,
    url_problems,
)
from pelton.manifest.notification_timing import timing_problems
from pelton.model import notification as model
from pelton.model.notification import Receiver

__all__ = [
    "API_VERSION",
    "KIND",
    "SPEC",
    "WEBHOOK",
    "advice",
    "convert",
    "decode",
    "default",
    "encode",
    "read",
    "rules",
    "validate",
    "webhook_problems",
]

API_VERSION = "notification.kubesphere.io/v2beta2"
KIND = "Receiver"

_DELIVERED = ("webhook", "slack", "email", "dingtalk", "feishu", "wechat", "console")
_TEMPLATES = {
    "template": "template",
    "titleTemplate": "title_template",
    "subjectTemplate": "subject_template",
}
_ADDRESS = re.compile(r"[^@\s<>,]+@[^@\s<>,]+")

_TEXT = Text()

WEBHOOK = Record(
    model.WebhookReceiver,
    (
        *SHARED,
        Field("webhookConfigSelector", "config_selector", SELECTOR, doc="Which Configs apply."),
        Field("url", "url", _TEXT, doc="URL to post to."),
        Field(
            "service",
            "service",
            Record(
                model.ServiceRef,
                (
                    Field("namespace", "namespace", _TEXT, required=True, doc="Namespace."),
                    Field("name", "name", _TEXT, required=True, doc="Name."),
                    Field("path", "path", _TEXT, doc="Path."),
                    Field("port", "port", Integer(), doc="Port."),
                    Field("scheme", "scheme", _TEXT, doc="http or https."),
                ),
            ),
            doc="Service to post to.",
        ),
        Field(
            "httpConfig",
            "http",
            Record(
                model.HttpConfig,
                (
                    Field(
                        "basicAuth",
                        "basic_auth",
                        Record(
                            model.BasicAuth,
                            (
                                Field("username", "username", _TEXT, required=True, doc="User."),
                                Field("password", "password", CREDENTIAL, doc="Password."),
                            ),
                        ),
                        doc="User and password.",
                    ),
                    Field("bearerToken", "bearer_token", CREDENTIAL, doc="Token."),
                    Field("proxyUrl", "proxy_url", _TEXT, doc="Proxy."),
                    Field("tlsConfig", "tls", TLS, doc="Settings of TLS."),
                ),
            ),
            doc="How to call.",
        ),
    ),
)
"""Block `webhook` of a Receiver; also where history is told to."""
_SLACK = Record(
    model.SlackReceiver,
    (
        *SHARED,
        Field("slackConfigSelector", "config_selector", SELECTOR, doc="Which Configs apply."),
        Field("channels", "channels", Items(_TEXT), doc="Channels."),
        Field(
            "webhook",
            "webhook",
            TextOrCredential(),
            doc="Posts alerts to a URL; in slack: its incoming webhook.",
        ),
        Field(
            "followUp",
            "follow_up",
            Text(choices=("", "thread", "update", "message")),
            doc="What becomes of news of alerts that a message tells already: thread (default), update or "
            "message.",
        ),
    ),
)
_EMAIL = Record(
    model.EmailReceiver,
    (
        *SHARED,
        Field("emailConfigSelector", "config_selector", SELECTOR, doc="Which Configs apply."),
        Field("to", "to", Items(_TEXT), doc="Addresses.", limits={"required": True, "minItems": 1}),
        Field("cc", "cc", Items(_TEXT), doc="Further addresses, named as copies."),
        Field("subjectTemplate", "subject_template", _TEXT, doc="Template of the subject."),
        Field("tmplType", "format", Text(choices=("text", "html")), doc="Form of the mail; default html."),
    ),
)
_CONSOLE = Record(model.ConsoleReceiver, SHARED)
SPEC = Record(
    Receiver,
    (
        Field("webhook", "webhook", WEBHOOK, doc="Posts alerts to a URL; in slack: its incoming webhook."),
        Field("slack", "slack", _SLACK, doc="Posts alerts to Slack."),
        Field("email", "email", _EMAIL, doc="Sends mails."),
        Field("dingtalk", "dingtalk", DINGTALK, doc="Posts alerts to DingTalk."),
        Field("feishu", "feishu", FEISHU, doc="Posts alerts to Feishu or Lark."),
        Field("wechat", "wechat", WECHAT, doc="Posts alerts to WeCom."),
        Field("console", "console", _CONSOLE, doc="Prints alerts."),
        *(
            Field(name, name, shape, doc="Checked, kept, and not delivered.")
            for name, shape in UNDELIVERED.items()
        ),
    ),
)


def read(obj: dict[str, Any]) -> Decoded[Receiver]:
    """Read a Receiver, collecting all problems."""
    reading = Reading()
    values = read_metadata(obj, reading)
    values.pop("namespace", None)  # cluster-scoped; a namespace is dropped as an API server would
    spec = obj.get("spec")
    if type(spec) is dict:
        found = SPEC.values(spec, ("spec",), reading)
        undelivered = {name: found.pop(name) for name in [*found] if name in UNDELIVERED}
        for name in undelivered:
            reading.warn(("spec", name), "is not delivered: the block is kept and sends nothing")
        values.update(found, undelivered=undelivered)
    else:
        reading.problem(
            ("spec",), "required" if spec is None else f"must be an object, found {describe(spec)}"
        )
    return reading.result(Receiver(**values))


def decode(obj: dict[str, Any]) -> tuple[Receiver, list[Problem]]:
    """Return the Receiver and warnings.

    Raises:
        InvalidError: With every wrong type and missing field.
    """
    found = read(obj)
    raise_invalid(KIND, found.model.name, found.problems)
    return found.model, list(found.warnings)


def default(obj: dict[str, Any]) -> dict[str, Any]:
    """Return a copy; the original fills in nothing, `enabled` counts as true where it is absent."""
    return copy_json(obj)  # type: ignore[no-any-return]  # copying an object gives an object


def rules(receiver: Receiver) -> list[Problem]:
    """Return the rules that a Receiver breaks, block by block."""
    return list(_rules(receiver))


def _rules(receiver: Receiver) -> Iterator[Problem]:
    yield from timing_problems(receiver.annotations)
    blocks = {name: getattr(receiver, name) for name in _DELIVERED}
    if not any(block is not None for block in blocks.values()) and not receiver.undelivered:
        yield Problem("spec", f"at least one block is required: {either(_DELIVERED)}")
    for name, block in blocks.items():
        if block is not None:
            yield from selector_problems(f"spec.{name}.alertSelector", block.alert_selector)
    if receiver.webhook is not None:
        yield from webhook_problems("spec.webhook", receiver.webhook)
    email = receiver.email
    if email is not None:
        yield from selector_problems("spec.email.emailConfigSelector", email.config_selector)
        if not email.to:
            yield Problem("spec.email.to", "required")
        for name, addresses in (("to", email.to), ("cc", email.cc)):
            for index, address in enumerate(addresses):
                if not _ADDRESS.fullmatch(address):
                    yield Problem(
                        f"spec.email.{name}[{index}]", f"must be a mail address, found {describe(address)}"
                    )
    slack = receiver.slack
    if slack is not None:
        yield from selector_problems("spec.slack.slackConfigSelector", slack.config_selector)
        if not slack.channels and slack.webhook is None:
            yield Problem("spec.slack.channels", "required unless spec.slack.webhook is given")
        yield from credential_problems("spec.slack.webhook", slack.webhook)
        if slack.webhook is not None and slack.webhook.value:
            yield from url_problems("spec.slack.webhook", slack.webhook.value, secret=True)
    for name, block in blocks.items():
        for field, attr in _TEMPLATES.items():
            if text := getattr(block, attr, ""):
                yield from template_problems(f"spec.{name}.{field}", text)
    yield from chat_problems(receiver)
    yield from undelivered_problems(receiver.undelivered)


def webhook_problems(path: str, webhook: model.WebhookReceiver) -> Iterator[Problem]:
    """Yield the rules that a webhook breaks."""
    yield from selector_problems(f"{path}.webhookConfigSelector", webhook.config_selector)
    if bool(webhook.url) == (webhook.service is not None):
        found = "both are given" if webhook.url else "neither is given"
        yield Problem(path, f"exactly one of url and service is required, {found}")
    if webhook.url:
        yield from url_problems(f"{path}.url", webhook.url)
    service = webhook.service
    if service is not None:
        if service.scheme and service.scheme.lower() not in ("http", "https"):
            yield Problem(
                f"{path}.service.scheme", f"must be http or https, found {describe(service.scheme)}"
            )
        if service.port is not None and not 1 <= service.port <= 65535:
            yield Problem(f"{path}.service.port", f"must be from 1 to 65535, found {service.port}")
    http = webhook.http
    if http is None:
        return
    if http.basic_auth is not None:
        yield from credential_problems(f"{path}.httpConfig.basicAuth.password", http.basic_auth.password)
    yield from credential_problems(f"{path}.httpConfig.bearerToken", http.bearer_token)
    if http.tls is not None:
        tls = f"{path}.httpConfig.tlsConfig"
        yield from credential_problems(f"{tls}.rootCA", http.tls.root_ca)
        yield from credential_problems(f"{tls}.clientCertificate.cert", http.tls.client_cert)
        yield from credential_problems(f"{tls}.clientCertificate.key", http.tls.client_key)


def advice(receiver: Receiver) -> list[Problem]:
    """Return which fields of a Receiver have no effect."""
    slack = receiver.slack
    if slack is not None and slack.webhook is not None and slack.follow_up in ("thread", "update"):
        why = "has no effect: Slack does not say where an incoming webhook's messages are"
        return [Problem("spec.slack.followUp", why)]
    return []


def validate(obj: dict[str, Any] | Receiver) -> list[Problem]:
    """Return all problems: types first, then rules."""
    if isinstance(obj, Receiver):
        return rules(obj)
    found = read(obj)
    return merge_problems(found.problems, rules(found.model))


def convert(obj: dict[str, Any], api_version: str) -> dict[str, Any]:
    """Return the object in another version; there is only one."""
    if api_version != API_VERSION or obj.get("apiVersion") != API_VERSION:
        raise UnservedVersionError(f"{KIND} is served as {API_VERSION} only, not as {api_version}")
    return copy_json(obj)  # type: ignore[no-any-return]  # copying an object gives an object


def encode(receiver: Receiver) -> dict[str, Any]:
    """Write a Receiver as JSON; an enabled block is written without `enabled`."""
    spec = {name: UNDELIVERED[name].encode(block) for name, block in receiver.undelivered.items()}
    for name in _DELIVERED:
        shape, block = SPEC.known[name].shape, getattr(receiver, name)
        if block is not None:
            spec[name] = shape.encode(block)
            if block.enabled:
                del spec[name]["enabled"]
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": write_metadata(receiver), "spec": spec}
