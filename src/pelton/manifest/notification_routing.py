"""NotificationManager, Config, Router and Silence of notification.kubesphere.io/v2beta2: tables and rules.

Called through `manifest/kinds`; `cli/runtime` decodes with these what `notify/routing` decides by. Fields
without an effect on this platform are accepted and named by the advice. Pelton's extension: `slackApiUrl` in
a Config. Source: contracts, log and notification, sections 4.1, 4.4 and 4.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from pelton.manifest.fields import (
    AnyValue,
    Boolean,
    Duration,
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
    describe,
)
from pelton.manifest.notification import API_VERSION, WEBHOOK, webhook_problems
from pelton.manifest.notification_chat import (
    DINGTALK_CONFIG,
    FEISHU_CONFIG,
    UNDELIVERED_CONFIGS,
    WECHAT_CONFIG,
    config_problems,
)
from pelton.manifest.notification_fields import (
    CREDENTIAL,
    SELECTOR,
    TLS,
    credential_problems,
    selector_problems,
)
from pelton.manifest.notification_options import OPTIONS, TEMPLATE, option_problems
from pelton.manifest.notification_timing import manager_timing_problems, timing_problems
from pelton.manifest.verbs import TableVerbs
from pelton.model import notification_routing as model
from pelton.model.notification import LabelSelector, compile_pattern

__all__ = [
    "CONFIG",
    "NOTIFICATION_MANAGER",
    "ROUTER",
    "SILENCE",
    "config_advice",
    "manager_advice",
]

_TEXT = Text()
_TEXTS = Items(_TEXT)
_LABELS = Mapped(_TEXT)
_TYPES = ("dingtalk", "email", "feishu", "pushover", "sms", "slack", "telegram", "webhook", "wechat")
_ROUTED = (*_TYPES, "console", "discord")


class _Moment(AnyValue):
    """A time such as `2026-01-02T03:04:05Z`."""

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        """Accept RFC 3339 with a zone."""
        try:
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is not None and "T" in value.upper():
                return moment.astimezone(UTC)
        except (TypeError, ValueError, OverflowError):
            pass
        reading.problem(path, f"must be a time such as 2026-01-02T03:04:05Z, found {describe(value)}")
        return None

    def encode(self, value: Any) -> Any:
        """Write it in UTC."""
        return value.isoformat().replace("+00:00", "Z")

    def schema(self) -> dict[str, Any]:
        """Return a string in the format date-time."""
        return {"type": "string", "format": "date-time"}


# ---------------------------------------------------------------------------------------- NotificationManager

_DEPLOYMENT = (
    "affinity",
    "annotations",
    "args",
    "env",
    "image",
    "imagePullPolicy",
    "labels",
    "nodeSelector",
    "portName",
    "replicas",
    "resources",
    "serviceAccountName",
    "sidecars",
    "tolerations",
    "volumeMounts",
    "volumes",
)
_PROCESSING = ("batchMaxSize", "batchMaxWait")


def _manager(
    receivers: dict[str, Any] | None = None, history: Any = None, **values: Any
) -> model.NotificationManager:
    own = dict(receivers or {})
    ineffective = {name: values.pop(name) for name in (*_DEPLOYMENT, *_PROCESSING) if name in values}
    options = own.pop("options", None) or {}
    # What has the wrong type is complained of and kept as it is written.
    everyone = options.get("global")
    cluster = everyone.get("cluster") if isinstance(everyone, dict) else None
    return model.NotificationManager(
        cluster=cluster if isinstance(cluster, str) else "",
        options=options,
        history=history,
        ineffective=ineffective,
        **own,
        **values,
    )


class _ManagerRecord(Record):
    """The spec, whose `receivers` is flat in the model."""

    def encode(self, value: Any) -> Any:
        """Write the nested form."""
        options = dict(value.options)
        if value.cluster:
            options["global"] = {**options.get("global", {}), "cluster": value.cluster}
        receivers = {
            "tenantKey": value.tenant_key,
            "globalReceiverSelector": {"matchLabels": value.global_selector},
            "tenantReceiverSelector": {"matchLabels": value.tenant_selector},
            **({"options": options} if options else {}),
        }
        written = {
            "receivers": receivers,
            "defaultConfigSelector": value.config_selector and SELECTOR.encode(value.config_selector),
            "defaultSecretNamespace": value.secret_namespace,
            "groupLabels": list(value.group_labels),
            "routePolicy": value.route_policy,
            "template": value.template,
            "history": {"webhook": WEBHOOK.encode(value.history)} if value.history is not None else None,
        }
        return {name: part for name, part in written.items() if part} | value.ineffective


def _pairs(matchLabels: dict[str, str] | None = None, **_: Any) -> dict[str, str]:
    return matchLabels or {}


_ANY_PAIR = Record(_pairs, (Field("matchLabels", "matchLabels", _LABELS, doc="Labels; any pair suffices."),))
_MANAGER_SPEC = _ManagerRecord(
    _manager,
    (
        Field(
            "receivers",
            "receivers",
            Record(
                dict,
                (
                    Field(
                        "tenantKey",
                        "tenant_key",
                        Text(min_length=1),
                        required=True,
                        doc="Label whose value names a tenant.",
                    ),
                    Field(
                        "globalReceiverSelector",
                        "global_selector",
                        _ANY_PAIR,
                        required=True,
                        doc="What belongs to everybody.",
                    ),
                    Field(
                        "tenantReceiverSelector",
                        "tenant_selector",
                        _ANY_PAIR,
                        required=True,
                        doc="What belongs to a tenant.",
                    ),
                    Field(
                        "options",
                        "options",
                        OPTIONS,
                        doc="Options of types of receivers.",
                    ),
                ),
            ),
            required=True,
            doc="How receivers are shared out.",
        ),
        Field("defaultConfigSelector", "config_selector", SELECTOR, doc="Configs for everybody."),
        Field(
            "defaultSecretNamespace", "secret_namespace", _TEXT, doc="Of Secrets named without a namespace."
        ),
        Field("groupLabels", "group_labels", _TEXTS, doc="Labels that make groups."),
        Field(
            "routePolicy",
            "route_policy",
            Text(choices=("All", "RouterFirst", "RouterOnly")),
            doc="Who gets an alert that a Router matches.",
            default="All",
        ),
        Field("template", "template", TEMPLATE, doc="Templates and words for all receivers."),
        Field(
            "history",
            "history",
            Only("webhook", WEBHOOK, doc="Where to."),
            doc="Where everything that was sent is told to.",
        ),
        *(Field(name, name, AnyValue(), doc="For clusters; no effect here.") for name in _DEPLOYMENT),
        *(Field(name, name, AnyValue(), doc="Accepted without effect.") for name in _PROCESSING),
    ),
)


def _manager_rules(manager: model.NotificationManager) -> list[Problem]:
    problems = list(selector_problems("spec.defaultConfigSelector", manager.config_selector))
    if manager.history is not None:
        problems += webhook_problems("spec.history.webhook", manager.history)
    problems += manager_timing_problems(manager.annotations)
    return [*problems, *option_problems(manager.options)]


NOTIFICATION_MANAGER: TableVerbs[model.NotificationManager] = TableVerbs(
    API_VERSION, "NotificationManager", _MANAGER_SPEC, rules=_manager_rules, required=True
)
"""The verbs of NotificationManager."""


def manager_advice(manager: model.NotificationManager) -> list[Problem]:
    """Return which fields of a NotificationManager have no effect here."""
    return (
        [
            Problem(f"spec.{name}", "has no effect here: alerts are handled by the platform's own process")
            if name in _DEPLOYMENT
            else Problem(
                f"spec.{name}",
                "has no effect: alerts are sent as they come, or together by the annotations "
                "pelton.dev/group-wait and pelton.dev/group-interval",
            )
            for name in manager.ineffective
        ]
        + [
            Problem(f"spec.history.webhook.{name}", "has no effect: history is told of all, as data")
            for name, value in (
                ("alertSelector", manager.history and manager.history.alert_selector),
                ("template", manager.history and manager.history.template),
                ("tmplText", manager.history and manager.history.template_source),
            )
            if value
        ]
        + [
            Problem(f"spec.receivers.options.{kind}.{name}", "has no effect: " + why)
            for kind, name, why in (
                ("global", "templateFile", "name a ConfigMap in spec.template.text"),
                ("email", "deliveryType", "each address gets a mail of its own"),
                ("email", "maxEmailReceivers", "each address gets a mail of its own"),
            )
            if name in (manager.options.get(kind) or {})
        ]
    )


# ----------------------------------------------------------------------------------------------------- Config


def _config(**values: Any) -> model.Config:
    unused = {name: values.pop(name) for name in UNDELIVERED_CONFIGS if name in values}
    return model.Config(unused=unused, **values)


class _ConfigRecord(Record):
    """The spec, whose blocks without effect are together in the model."""

    def encode(self, value: Any) -> Any:
        """Write all blocks."""
        shapes = {name: self.known[name].shape for name in ("slack", "email", "dingtalk", "feishu", "wechat")}
        blocks = {name: (shape, getattr(value, name)) for name, shape in shapes.items()}
        return {
            name: shape.encode(block) for name, (shape, block) in blocks.items() if block is not None
        } | value.unused


_SLACK = Record(
    model.SlackConfig,
    (
        Field("labels", "labels", _LABELS, doc="Further labels."),
        Field("slackTokenSecret", "token", CREDENTIAL, required=True, doc="Bot token."),
        Field(
            "slackApiUrl",
            "api_url",
            _TEXT,
            doc="Address of the Web API without the method; default https://slack.com/api.",
        ),
    ),
)


def _email(smart_host: dict[str, Any] | None = None, **values: Any) -> model.EmailConfig:
    return model.EmailConfig(**(smart_host or {}), **values)


class _EmailRecord(Record):
    """A mail server, whose address is an object of its own in the manifest."""

    def encode(self, value: Any) -> Any:
        """Write the nested form."""
        smart_host = {"host": value.host, "port": value.port}
        flat = Record(model.EmailConfig, [each for each in _EMAIL_FIELDS if each.json != "smartHost"])
        return {"smartHost": smart_host, **flat.encode(value)}


_SMART_HOST = Record(
    dict,
    (
        Field("host", "host", Text(min_length=1), required=True, doc="Name or address."),
        Field("port", "port", Integer(minimum=1, maximum=65535), required=True, doc="Port; 465 is TLS."),
    ),
)
_EMAIL_FIELDS = (
    Field("labels", "labels", _LABELS, doc="Further labels."),
    Field("from", "sender", Text(min_length=1), required=True, doc="Address of the sender."),
    Field("smartHost", "smart_host", _SMART_HOST, required=True, doc="The mail server."),
    Field("hello", "hello", _TEXT, doc="Name to greet with."),
    Field("authUsername", "username", _TEXT, doc="User; default: no authentication."),
    Field("authIdentify", "identity", _TEXT, doc="Identity to act as."),
    Field("authPassword", "password", CREDENTIAL, doc="Password, for PLAIN and LOGIN."),
    Field("authSecret", "secret", CREDENTIAL, doc="Secret, for CRAM-MD5."),
    Field("requireTLS", "require_tls", Boolean(), doc="Start TLS; default false."),
    Field("tls", "tls", TLS, doc="Whom to trust."),
)
_EMAIL = _EmailRecord(_email, _EMAIL_FIELDS)
_CONFIG_SPEC = _ConfigRecord(
    _config,
    (
        Field("slack", "slack", _SLACK, doc="For Slack channels."),
        Field("email", "email", _EMAIL, doc="For mails."),
        Field("dingtalk", "dingtalk", DINGTALK_CONFIG, doc="For DingTalk conversations."),
        Field("feishu", "feishu", FEISHU_CONFIG, doc="For users and departments of Feishu."),
        Field("wechat", "wechat", WECHAT_CONFIG, doc="For members of WeCom."),
        *(
            Field(name, name, shape, doc=f"For {name}; nothing is sent by it.")
            for name, shape in UNDELIVERED_CONFIGS.items()
        ),
    ),
)


def _config_rules(config: model.Config) -> list[Problem]:
    return list(_config_problems(config))


def _config_problems(config: model.Config) -> Iterator[Problem]:
    blocks = (config.slack, config.email, config.dingtalk, config.feishu, config.wechat)
    if all(block is None for block in blocks) and not config.unused:
        yield Problem("spec", f"at least one block is required: {', '.join(_TYPES)}")
    if config.email is not None:
        yield from credential_problems("spec.email.authPassword", config.email.password)
        yield from credential_problems("spec.email.authSecret", config.email.secret)
    yield from config_problems(config)
    if config.slack is None:
        return
    yield from credential_problems("spec.slack.slackTokenSecret", config.slack.token)
    if config.slack.api_url and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", config.slack.api_url):
        yield Problem(
            "spec.slack.slackApiUrl",
            f"must be an http:// or https:// URL without a query, found {describe(config.slack.api_url)}",
        )


CONFIG: TableVerbs[model.Config] = TableVerbs(
    API_VERSION, "Config", _CONFIG_SPEC, rules=_config_rules, required=True
)
"""The verbs of Config."""


def config_advice(config: model.Config) -> list[Problem]:
    """Return which blocks of a Config nothing is sent by."""
    return [
        Problem(f"spec.{name}", "has no effect: webhooks need no Config")
        if name == "webhook"
        else Problem(f"spec.{name}", "is not delivered: the block is kept and sends nothing")
        for name in config.unused
    ]


# ----------------------------------------------------------------------------------------------------- Router

_ROUTER_SPEC = Record(
    model.Router,
    (
        Field("enabled", "enabled", Boolean(), doc="Whether it counts; default true."),
        Field("alertSelector", "alert_selector", SELECTOR, required=True, doc="Which alerts."),
        Field(
            "receivers",
            "receivers",
            Record(
                model.RouterReceivers,
                (
                    Field("name", "names", _TEXTS, doc="Names of Receivers."),
                    Field("regexName", "regex", _TEXT, doc="Receivers whose name it finds."),
                    Field("selector", "selector", SELECTOR, doc="Receivers by their labels."),
                    Field("type", "type", Text(choices=("", *_ROUTED)), doc="Only blocks of this type."),
                    Field(
                        "channels",
                        "channels",
                        Items(
                            Record(
                                model.TenantChannel,
                                (
                                    Field(
                                        "tenant",
                                        "tenant",
                                        Text(min_length=1),
                                        required=True,
                                        doc="Its receivers.",
                                    ),
                                    Field("type", "types", _TEXTS, doc="Only blocks of these types."),
                                ),
                            )
                        ),
                        doc="Receivers of tenants.",
                    ),
                ),
            ),
            required=True,
            doc="Where they go.",
        ),
    ),
)


def _router_rules(router: model.Router) -> list[Problem]:
    return list(_router_problems(router))


def _router_problems(router: model.Router) -> Iterator[Problem]:
    yield from timing_problems(router.annotations)
    yield from selector_problems("spec.alertSelector", router.alert_selector)
    receivers = router.receivers
    if receivers is None:
        return
    if not (receivers.names or receivers.regex or receivers.selector is not None or receivers.channels):
        yield Problem("spec.receivers", "at least one of name, regexName, selector and channels is required")
    if receivers.regex:
        try:
            compile_pattern(receivers.regex)
        except ValueError as error:
            yield Problem("spec.receivers.regexName", f"is no regular expression: {error}")
    yield from selector_problems("spec.receivers.selector", receivers.selector)


ROUTER: TableVerbs[model.Router] = TableVerbs(
    API_VERSION, "Router", _ROUTER_SPEC, rules=_router_rules, required=True
)
"""The verbs of Router."""

# ---------------------------------------------------------------------------------------------------- Silence

_SILENCE_SPEC = Record(
    model.Silence,
    (
        Field("enabled", "enabled", Boolean(), doc="Whether it counts; default true."),
        Field("matcher", "matcher", SELECTOR, required=True, doc="Alerts that are kept back."),
        Field("startsAt", "starts_at", _Moment(), doc="Start of a silence without schedule."),
        Field(
            "schedule",
            "schedule",
            _TEXT,
            doc="Starts, as cron: five fields, or @daily and kin; in UTC, or behind `TZ=Europe/Berlin`.",
        ),
        Field("duration", "duration_s", Duration(minimum_s=0), doc="How long it lasts; default: no end."),
    ),
)


def _silence_rules(silence: model.Silence) -> list[Problem]:
    return list(_silence_problems(silence))


def _silence_problems(silence: model.Silence) -> Iterator[Problem]:
    matcher = silence.matcher
    yield from selector_problems("spec.matcher", matcher)
    if isinstance(matcher, LabelSelector) and not (matcher.match_labels or matcher.match_expressions):
        yield Problem("spec.matcher", "needs at least one condition: an empty one would silence everything")
    if silence.schedule:
        try:
            model.scheduled_before(silence.schedule, datetime(2026, 1, 1, tzinfo=UTC))
        except (ValueError, KeyError, TypeError) as error:
            yield Problem(
                "spec.schedule",
                f'must be cron such as "0 22 * * *" or @daily, found {describe(silence.schedule)}: {error}',
            )


SILENCE: TableVerbs[model.Silence] = TableVerbs(
    API_VERSION, "Silence", _SILENCE_SPEC, rules=_silence_rules, required=True
)
"""The verbs of Silence."""
