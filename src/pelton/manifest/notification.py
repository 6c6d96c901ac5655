"""Receiver of notification.kubesphere.io/v2beta2: decode, default, validate, convert, encode.

Called through `manifest/kinds`; `notify/` uses `decode`. Delivered by this version: `webhook` (one of url and
service), `slack`, `email`, `console`. Pelton's extensions: block `console: {}` prints alerts, and
`slack.webhook`, an incoming-webhook URL (text or credential {value | valueFrom}); with it `slack.channels`
may be left out, without it channels are required as in the original. Blocks of other types are accepted with
a warning. Source: contracts, log and notification, sections 4 and 4.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pelton.errors import UnservedVersionError
from pelton.manifest.fields import (
    AnyValue,
    Boolean,
    Decoded,
    Field,
    Integer,
    Items,
    Mapped,
    Only,
    Path,
    Problem,
    Reading,
    Record,
    Text,
    copy_json,
    describe,
    merge_problems,
    raise_invalid,
    read_metadata,
    write_metadata,
)
from pelton.manifest.notification_timing import timing_problems
from pelton.model import notification as model
from pelton.model.notification import Credential, LabelSelector, Receiver, compile_pattern

__all__ = [
    "API_VERSION",
    "CREDENTIAL",
    "KIND",
    "SELECTOR",
    "SPEC",
    "TLS",
    "advice",
    "convert",
    "credential_problems",
    "decode",
    "default",
    "encode",
    "read",
    "rules",
    "selector_problems",
    "validate",
]

API_VERSION = "notification.kubesphere.io/v2beta2"
KIND = "Receiver"

_UNDELIVERED = ("dingtalk", "discord", "feishu", "pushover", "sms", "telegram", "wechat")
_DELIVERED = ("webhook", "slack", "email", "console")
_ADDRESS = re.compile(r"[^@\s<>,]+@[^@\s<>,]+")
_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Match")

_TEXT = Text()
_BOOLEAN = Boolean()

_SECRET_REF = Record(
    model.SecretRef,
    (
        Field("namespace", "namespace", _TEXT, doc="Namespace."),
        Field("name", "name", _TEXT, required=True, doc="Name."),
        Field("key", "key", _TEXT, required=True, doc="Entry in it."),
    ),
)
CREDENTIAL = Record(
    Credential,
    (
        Field("value", "value", _TEXT, keep=True, doc="Literal value."),
        Field(
            "valueFrom",
            "secret",
            Only("secretKeyRef", _SECRET_REF, doc="The Secret."),
            doc="Where the value is kept.",
        ),
    ),
)
"""A secret text: literal, or in a Secret."""


class _TextOrCredential(AnyValue):
    """A credential that may also be written as bare text."""

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        """Accept text or a credential object."""
        return Credential(value=value) if isinstance(value, str) else CREDENTIAL.decode(value, path, reading)

    def encode(self, value: Any) -> Any:
        """Write the object form."""
        return CREDENTIAL.encode(value)


SELECTOR = Record(
    LabelSelector,
    (
        Field("matchLabels", "match_labels", Mapped(_TEXT), doc="Labels that must be so."),
        Field(
            "matchExpressions",
            "match_expressions",
            Items(
                Record(
                    model.Requirement,
                    (
                        Field("key", "key", _TEXT, required=True, doc="Entry in it."),
                        Field(
                            "operator",
                            "operator",
                            _TEXT,
                            required=True,
                            doc="In, NotIn, Exists, DoesNotExist or Match.",
                        ),
                        Field("values", "values", Items(_TEXT), doc="Values for In and NotIn."),
                        Field("regexValue", "regex", _TEXT, doc="Pattern for Match."),
                    ),
                )
            ),
            doc="Conditions on labels, all of them.",
        ),
    ),
)
"""Conditions on labels."""
_SHARED = (
    Field("enabled", "enabled", _BOOLEAN, doc="Whether it is used; default true."),
    Field("alertSelector", "alert_selector", SELECTOR, doc="Which alerts; default all."),
    Field("template", "template", _TEXT, doc="Template of the message."),
    Field(
        "tmplText",
        "template_source",
        Record(
            model.ConfigMapKey,
            (
                Field("namespace", "namespace", _TEXT, doc="Namespace."),
                Field("name", "name", _TEXT, required=True, doc="Name."),
                Field("key", "key", _TEXT, doc="Entry in it."),
            ),
        ),
        doc="ConfigMap with templates.",
    ),
)


def _tls(
    root_ca: Credential | None = None,
    certificate: dict[str, Credential] | None = None,
    server_name: str = "",
    insecure_skip_verify: bool | None = None,
) -> model.TlsConfig:
    pair = certificate or {}
    return model.TlsConfig(
        root_ca=root_ca,
        client_cert=pair.get("cert"),
        client_key=pair.get("key"),
        server_name=server_name,
        insecure_skip_verify=bool(insecure_skip_verify),
    )


class _TlsRecord(Record):
    """TLS settings, whose client certificate is an object of its own in the manifest."""

    def encode(self, value: Any) -> Any:
        """Write the settings with their nested client certificate."""
        pair = {"cert": value.client_cert, "key": value.client_key}
        written = {
            "rootCA": value.root_ca and CREDENTIAL.encode(value.root_ca),
            "clientCertificate": {
                key: CREDENTIAL.encode(part) for key, part in pair.items() if part is not None
            },
            "serverName": value.server_name,
            "insecureSkipVerify": value.insecure_skip_verify,
        }
        return {key: part for key, part in written.items() if part}


TLS = _TlsRecord(
    _tls,
    (
        Field("rootCA", "root_ca", CREDENTIAL, doc="Authority to trust."),
        Field(
            "clientCertificate",
            "certificate",
            Record(
                dict,
                (
                    Field("cert", "cert", CREDENTIAL, required=True, doc="Certificate."),
                    Field("key", "key", CREDENTIAL, required=True, doc="Entry in it."),
                ),
            ),
            doc="Certificate to show.",
        ),
        Field("serverName", "server_name", _TEXT, doc="Name to expect."),
        Field(
            "insecureSkipVerify", "insecure_skip_verify", _BOOLEAN, doc="Whether any certificate is taken."
        ),
    ),
)
"""TLS towards a destination."""
_WEBHOOK = Record(
    model.WebhookReceiver,
    (
        *_SHARED,
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
_SLACK = Record(
    model.SlackReceiver,
    (
        *_SHARED,
        Field("slackConfigSelector", "config_selector", SELECTOR, doc="Which Configs apply."),
        Field("channels", "channels", Items(_TEXT), doc="Channels."),
        Field(
            "webhook",
            "webhook",
            _TextOrCredential(),
            doc="Posts alerts to a URL; in slack: its incoming webhook.",
        ),
    ),
)
_EMAIL = Record(
    model.EmailReceiver,
    (
        *_SHARED,
        Field("emailConfigSelector", "config_selector", SELECTOR, doc="Which Configs apply."),
        Field("to", "to", Items(_TEXT), doc="Addresses.", limits={"required": True, "minItems": 1}),
        Field("subjectTemplate", "subject_template", _TEXT, doc="Template of the subject."),
        Field("tmplType", "format", Text(choices=("text", "html")), doc="Form of the mail; default html."),
    ),
)
_CONSOLE = Record(model.ConsoleReceiver, _SHARED)
SPEC = Record(
    Receiver,
    (
        Field("webhook", "webhook", _WEBHOOK, doc="Posts alerts to a URL; in slack: its incoming webhook."),
        Field("slack", "slack", _SLACK, doc="Posts alerts to Slack."),
        Field("email", "email", _EMAIL, doc="Sends mails."),
        Field("console", "console", _CONSOLE, doc="Prints alerts."),
        *(
            Field(name, name, AnyValue(), doc="Kept and not delivered by this version.")
            for name in _UNDELIVERED
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
        undelivered = {name: found.pop(name) for name in [*found] if name in _UNDELIVERED}
        for name in undelivered:
            reading.warn(
                ("spec", name), "not delivered yet by this version; the block is kept and sends nothing"
            )
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
        yield Problem("spec", "at least one block is required: webhook, slack, email or console")
    for name, block in blocks.items():
        if block is not None:
            yield from selector_problems(f"spec.{name}.alertSelector", block.alert_selector)
    if receiver.webhook is not None:
        yield from _webhook(receiver.webhook)
    email = receiver.email
    if email is not None:
        yield from selector_problems("spec.email.emailConfigSelector", email.config_selector)
        if not email.to:
            yield Problem("spec.email.to", "required")
        for index, address in enumerate(email.to):
            if not _ADDRESS.fullmatch(address):
                yield Problem(f"spec.email.to[{index}]", f"must be a mail address, found {describe(address)}")
    slack = receiver.slack
    if slack is not None:
        yield from selector_problems("spec.slack.slackConfigSelector", slack.config_selector)
        if not slack.channels and slack.webhook is None:
            yield Problem("spec.slack.channels", "required unless spec.slack.webhook is given")
        yield from credential_problems("spec.slack.webhook", slack.webhook)
        if slack.webhook is not None and slack.webhook.value:
            yield from _url("spec.slack.webhook", slack.webhook.value, secret=True)


def _webhook(webhook: model.WebhookReceiver) -> Iterator[Problem]:
    path = "spec.webhook"
    yield from selector_problems(f"{path}.webhookConfigSelector", webhook.config_selector)
    if bool(webhook.url) == (webhook.service is not None):
        found = "both are given" if webhook.url else "neither is given"
        yield Problem(path, f"exactly one of url and service is required, {found}")
    if webhook.url:
        yield from _url(f"{path}.url", webhook.url)
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


def _url(path: str, url: str, *, secret: bool = False) -> Iterator[Problem]:
    if not re.fullmatch(r"https?://[^\s/?#]+([/?#]\S*)?", url):
        found = "" if secret else f", found {describe(url)}"  # an incoming-webhook URL is itself the password
        yield Problem(path, f"must be an http:// or https:// URL{found}")


def credential_problems(path: str, credential: Credential | None) -> Iterator[Problem]:
    """Yield what is wrong with a credential; None has no problem."""
    if credential is not None and (credential.value is None) == (credential.secret is None):
        found = "neither is given" if credential.value is None else "both are given"
        yield Problem(path, f"exactly one of value and valueFrom.secretKeyRef is required, {found}")


def selector_problems(path: str, selector: LabelSelector | None) -> Iterator[Problem]:
    """Yield what is wrong with a selector; None has no problem."""
    for index, item in enumerate(selector.match_expressions if selector is not None else ()):
        here = f"{path}.matchExpressions[{index}]"
        if item.operator and item.operator not in _OPERATORS:
            yield Problem(
                f"{here}.operator",
                f"must be In, NotIn, Exists, DoesNotExist or Match, found {describe(item.operator)}",
            )
        elif item.operator in ("In", "NotIn") and not item.values:
            yield Problem(f"{here}.values", f"required for the operator {item.operator}")
        elif item.operator in ("Exists", "DoesNotExist") and item.values:
            yield Problem(f"{here}.values", f"must be absent for the operator {item.operator}")
        elif item.operator == "Match":
            try:
                compile_pattern(item.regex)
            except re.error as error:
                yield Problem(f"{here}.regexValue", f"is no regular expression: {error}")


def advice(receiver: Receiver) -> list[Problem]:
    """Return which templates of a Receiver have no effect."""
    return [
        Problem(f"spec.{name}.{field}", "has no effect in this version: the built-in text is sent")
        for name in _DELIVERED
        for field, attr in (
            ("template", "template"),
            ("tmplText", "template_source"),
            ("subjectTemplate", "subject_template"),
        )
        if getattr(getattr(receiver, name), attr, None)
    ]


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
    spec = {**receiver.undelivered}
    shapes = {"webhook": _WEBHOOK, "slack": _SLACK, "email": _EMAIL, "console": _CONSOLE}
    for name, shape in shapes.items():
        block = getattr(receiver, name)
        if block is not None:
            spec[name] = shape.encode(block)
            if block.enabled:
                del spec[name]["enabled"]
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": write_metadata(receiver), "spec": spec}
