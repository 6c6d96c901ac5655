"""Receivers of notifications, and which alerts they want.

`manifest/notification` makes these; `notify/` asks `matches` for each alert. Pure. Source: contracts, log and
notification, section 4 (common types, Receiver).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pelton.cel.regex import Regex

__all__ = [
    "BasicAuth",
    "Chatbot",
    "ConfigMapKey",
    "ConsoleReceiver",
    "Credential",
    "DingTalkReceiver",
    "EmailReceiver",
    "FeishuReceiver",
    "HttpConfig",
    "LabelSelector",
    "Receiver",
    "Requirement",
    "SecretRef",
    "ServiceRef",
    "SlackReceiver",
    "TlsConfig",
    "WeComReceiver",
    "WebhookReceiver",
    "compile_pattern",
    "matches",
    "pattern_matches",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A condition on a label: operator In, NotIn, Exists, DoesNotExist, Match (`regex` is in the value)."""

    key: str
    operator: str
    values: tuple[str, ...] = ()
    regex: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSelector:
    """Conditions on labels, all of which have to hold; none at all holds for any labels."""

    match_labels: dict[str, str] = field(default_factory=dict)
    match_expressions: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef:
    """An entry of a Secret; namespace "" means the service's default secret namespace."""

    name: str
    key: str
    namespace: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A secret text, literal or in a Secret. Never logged, hence the short repr.

    Attributes:
        value: Literal text, or None.
        secret: Where it is kept, or None.
    """

    value: str | None = None
    secret: SecretRef | None = None

    def __repr__(self) -> str:
        return (
            f"Credential(value=***, secret={self.secret!r})" if self.value else f"Credential({self.secret!r})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigMapKey:
    """An entry of a ConfigMap; key "" = every entry."""

    name: str
    namespace: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicAuth:
    """HTTP basic authentication."""

    username: str
    password: Credential | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """TLS towards a destination; None or "" where absent."""

    root_ca: Credential | None = None
    client_cert: Credential | None = None
    client_key: Credential | None = None
    server_name: str = ""
    insecure_skip_verify: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """How to speak HTTP to a destination; None or "" where absent."""

    basic_auth: BasicAuth | None = None
    bearer_token: Credential | None = None
    proxy_url: str = ""
    tls: TlsConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRef:
    """A Service as destination; path "" is `/`, port None the scheme's, scheme "" is `http`."""

    namespace: str
    name: str
    path: str = ""
    port: int | None = None
    scheme: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookReceiver:
    """POSTs alerts as Alertmanager's webhook JSON.

    Attributes:
        enabled: Whether it sends.
        alert_selector: Alerts it wants; None = all.
        template: Template name; "" = the platform's choice.
        template_source: ConfigMap with templates, or None.
        url: Destination, or "" when `service` is given.
        service: Destination, or None when `url` is given.
        http: None when absent.
        config_selector: Picks a Config object; None when absent.
    """

    enabled: bool = True
    alert_selector: LabelSelector | None = None
    template: str = ""
    template_source: ConfigMapKey | None = None
    url: str = ""
    service: ServiceRef | None = None
    http: HttpConfig | None = None
    config_selector: LabelSelector | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlackReceiver:
    """Posts to Slack.

    Attributes:
        enabled, alert_selector, template, template_source, config_selector: As in WebhookReceiver.
        channels: Channel names for the token in a Config; empty only when `webhook` is given.
        webhook: Incoming-webhook URL, or None. Pelton's extension: no Config object is needed then.
        follow_up: What becomes of later news of alerts that a message in a channel already tells: `thread`
            brings that message up to date and answers below it, `update` only brings it up to date,
            `message` posts anew; "" = `thread`. Pelton's extension.
    """

    enabled: bool = True
    alert_selector: LabelSelector | None = None
    template: str = ""
    template_source: ConfigMapKey | None = None
    channels: tuple[str, ...] = ()
    webhook: Credential | None = None
    config_selector: LabelSelector | None = None
    follow_up: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailReceiver:
    """Sends mails by the server of a Config.

    Attributes:
        enabled, alert_selector, template, template_source, config_selector: As in WebhookReceiver.
        to: Addresses, each of which gets a mail of its own.
        cc: Further ones, named as copies. Pelton's extension.
        subject_template: Template name; "" = the platform's choice.
        format: `text` or `html`; "" = `html`.
    """

    enabled: bool = True
    alert_selector: LabelSelector | None = None
    template: str = ""
    template_source: ConfigMapKey | None = None
    to: tuple[str, ...] = ()
    cc: tuple[str, ...] = ()
    config_selector: LabelSelector | None = None
    subject_template: str = ""
    format: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chatbot:
    """A bot of a group chat, reached by an address that is itself a secret.

    Attributes:
        webhook: The address.
        secret: Signs messages; None = unsigned. Not of WeCom.
        keywords: Words, one of which a message must have. Not of WeCom.
        at_mobiles: Telephone numbers of members to mention. Not of Feishu.
        at_users: Ids of members to mention. Not of Feishu.
        at_all: Whether everybody is mentioned. DingTalk only.
    """

    webhook: Credential | None = None
    secret: Credential | None = None
    keywords: tuple[str, ...] = ()
    at_mobiles: tuple[str, ...] = ()
    at_users: tuple[str, ...] = ()
    at_all: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DingTalkReceiver:
    """Posts to DingTalk by a chatbot, to conversations by the application of a Config, or both.

    Attributes:
        enabled, alert_selector, template, template_source, config_selector: As in WebhookReceiver.
        chatbot: None when absent.
        chats: Ids of conversations.
        title_template: Template name; "" = the platform's choice.
        format: `text` or `markdown`; "" = `text`.
    """

    enabled: bool = True
    alert_selector: LabelSelector | None = None
    template: str = ""
    template_source: ConfigMapKey | None = None
    config_selector: LabelSelector | None = None
    chatbot: Chatbot | None = None
    chats: tuple[str, ...] = ()
    title_template: str = ""
    format: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeishuReceiver:
    """Posts to Feishu or Lark by a chatbot, to users and departments by the application of a Config, or both.

    Attributes:
        enabled, alert_selector, template, template_source, config_selector: As in WebhookReceiver.
        chatbot: None when absent.
        users, departments: Ids, at most 200 of each.
        format: `text` or `post`; "" = `post`.
    """

    enabled: bool = True
    alert_selector: LabelSelector | None = None
    template: str = ""
    template_source: ConfigMapKey | None = None
    config_selector: LabelSelector | None = None
    chatbot: Chatbot | None = None
    users: tuple[str, ...] = ()
    departments: tuple[str, ...] = ()
    format: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeComReceiver:
    """Posts to WeCom by a chatbot, to members by the application of a Config, or both.

    Attributes:
        enabled, alert_selector, template, template_source, config_selector: As in WebhookReceiver.
        chatbot: None when absent.
        users, parties, tags: Ids of members, departments and tags.
        format: `text` or `markdown`; "" = `text`.
    """

    enabled: bool = True
    alert_selector: LabelSelector | None = None
    template: str = ""
    template_source: ConfigMapKey | None = None
    config_selector: LabelSelector | None = None
    chatbot: Chatbot | None = None
    users: tuple[str, ...] = ()
    parties: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    format: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleReceiver:
    """Prints alerts on the platform's output. Pelton's extension; attributes as in WebhookReceiver."""

    enabled: bool = True
    alert_selector: LabelSelector | None = None
    template: str = ""
    template_source: ConfigMapKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """Where alerts go; one object may have several blocks. Cluster-scoped.

    Attributes:
        name: The resource's.
        labels: Decide whether it is global or a tenant's.
        annotations: As written.
        webhook, slack, email, dingtalk, feishu, wechat, console: None when absent.
        undelivered: Blocks of other types, type -> block as written: accepted, nothing is sent.
    """

    name: str
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    webhook: WebhookReceiver | None = None
    slack: SlackReceiver | None = None
    email: EmailReceiver | None = None
    dingtalk: DingTalkReceiver | None = None
    feishu: FeishuReceiver | None = None
    wechat: WeComReceiver | None = None
    console: ConsoleReceiver | None = None
    undelivered: dict[str, Any] = field(default_factory=dict)


def matches(selector: LabelSelector | None, labels: Mapping[str, str] | None) -> bool:
    """Tell whether labels fulfil a selector.

    Args:
        selector: None matches everything.
        labels: Label name -> value; None (no labels at all) fulfils no selector.
    """
    if selector is None:
        return True
    if labels is None:
        return False
    # Loops, since this is asked for every alert and every receiver: generators take three times as long.
    for key, value in selector.match_labels.items():
        if labels.get(key) != value:
            return False
    for item in selector.match_expressions:  # noqa: SIM110 -- see above
        if not _holds(item, labels):
            return False
    return True


def _holds(item: Requirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(item.key)
    match item.operator:
        case "In":
            return value in item.values
        case "NotIn":
            return value not in item.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Match":
            return pattern_matches(item.regex, value or "", whole=False)
    return False  # an unknown operator is refused on admission


def compile_pattern(pattern: str) -> Regex:
    """Compile a pattern as RE2 has them: whoever writes one cannot make a text take for ever.

    Raises:
        ValueError: It does not compile; the text says why.
    """
    from pelton.cel.regex import compile_regex  # the library is loaded only where there are patterns

    return compile_regex(pattern)


def pattern_matches(pattern: str, text: str, *, whole: bool) -> bool:
    """Tell whether a pattern is found in a text, or is all of it; one that does not compile is in none.

    Answers are kept: the same few values are asked again for every alert, and the library takes ten times as
    long.
    """
    if len(text) > _LONGEST_KEPT:
        return _found(pattern, text, whole)
    return _known(pattern, text, whole)


def _found(pattern: str, text: str, whole: bool) -> bool:
    from pelton.cel.regex import RegexError, fits  # as above

    try:
        return fits(pattern, text, whole=whole)
    except RegexError:
        return False


_LONGEST_KEPT = 200  # characters; so that what is kept has a bound in bytes, too
_known = lru_cache(maxsize=16_384)(_found)
