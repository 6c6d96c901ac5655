"""What decides where alerts go besides Receivers: NotificationManager, Config, Router, Silence.

`manifest/notification_routing` makes these; `notify/routing` decides by them. Pure. All four kinds are
cluster-scoped. Source: contracts, log and notification, sections 4.1, 4.4, 4.5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import croniter

from pelton.model.notification import Credential, LabelSelector, TlsConfig, WebhookReceiver

__all__ = [
    "Config",
    "DingTalkConfig",
    "EmailConfig",
    "FeishuConfig",
    "NotificationManager",
    "Router",
    "RouterReceivers",
    "Silence",
    "SlackConfig",
    "TenantChannel",
    "WeComConfig",
    "scheduled_before",
]


_ZONE = re.compile(r"(?:CRON_)?TZ=(\S+)\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationManager:
    """How alerts are shared out.

    Attributes:
        name, namespace, labels, annotations: The resource's.
        tenant_key: Label whose value names the tenant of a Receiver, Config or Silence.
        global_selector: Labels, any pair of which makes an object everybody's.
        tenant_selector: Labels, any pair of which makes an object a tenant's.
        config_selector: Labels of default Configs; None = all that belong to nobody.
        cluster: Value for the label `cluster` where an alert has none; "" = the platform's.
        group_labels: Labels whose values make groups within a batch.
        route_policy: `All`, `RouterFirst` or `RouterOnly`.
        secret_namespace: Where a Secret is that is named without a namespace; "" = the platform's default.
        options: Type of receiver, or `global` -> its options as written.
        template: `{text, languagePack, language}` as written: ConfigMaps with templates and words.
        history: Where everything that was sent is told to, or None.
        ineffective: Fields of the spec that change nothing here, as written.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    tenant_key: str = ""
    global_selector: dict[str, str] = field(default_factory=dict)
    tenant_selector: dict[str, str] = field(default_factory=dict)
    config_selector: LabelSelector | None = None
    cluster: str = ""
    group_labels: tuple[str, ...] = ()
    route_policy: str = "All"
    secret_namespace: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    template: dict[str, Any] = field(default_factory=dict)
    history: WebhookReceiver | None = None
    ineffective: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlackConfig:
    """What posting to Slack channels needs.

    Attributes:
        labels: Further labels of the block.
        token: Bot token.
        api_url: Address of the Web API without the method; "" = Slack's own. Pelton's extension.
    """

    labels: dict[str, str] = field(default_factory=dict)
    token: Credential | None = None
    api_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailConfig:
    """A mail server and how to speak to it.

    Attributes:
        labels: Further labels of the block.
        sender: Address in From.
        host, port: The server's; port 465 means TLS from the first byte.
        hello: Name to greet with; "" = `localhost`.
        username: Of the account; "" = no authentication.
        identity: Identity to act as; "" = the user's.
        password, secret: For PLAIN and LOGIN, and for CRAM-MD5; None when absent.
        require_tls: Whether to start TLS, on other ports than 465.
        tls: None when absent.
    """

    labels: dict[str, str] = field(default_factory=dict)
    sender: str = ""
    host: str = ""
    port: int = 0
    hello: str = ""
    username: str = ""
    identity: str = ""
    password: Credential | None = None
    secret: Credential | None = None
    require_tls: bool = False
    tls: TlsConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DingTalkConfig:
    """An application that posts to DingTalk conversations.

    Attributes:
        labels: Further labels of the block.
        app_key, app_secret: The application's.
        api_url: Address of the API without the method; "" = DingTalk's own. Pelton's extension.
    """

    labels: dict[str, str] = field(default_factory=dict)
    app_key: Credential | None = None
    app_secret: Credential | None = None
    api_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeishuConfig:
    """An application that posts to Feishu users and departments.

    Attributes:
        labels: Further labels of the block.
        app_id, app_secret: The application's.
        api_url: Address of the open platform, e.g. Lark's; "" = Feishu's. Pelton's extension.
    """

    labels: dict[str, str] = field(default_factory=dict)
    app_id: Credential | None = None
    app_secret: Credential | None = None
    api_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeComConfig:
    """An application that posts to WeCom members.

    Attributes:
        labels: Further labels of the block.
        corp_id, agent_id: The company's and the application's ids.
        secret: The application's.
        api_url: Address of the API without the method; "" = WeCom's own.
    """

    labels: dict[str, str] = field(default_factory=dict)
    corp_id: str = ""
    agent_id: str = ""
    secret: Credential | None = None
    api_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings that receivers share.

    Attributes:
        name, namespace, labels, annotations: The resource's; labels say whose it is and its `priority`.
        slack, email, dingtalk, feishu, wechat: None when absent.
        unused: Blocks of types that nothing is sent by, type -> block as written.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    slack: SlackConfig | None = None
    email: EmailConfig | None = None
    dingtalk: DingTalkConfig | None = None
    feishu: FeishuConfig | None = None
    wechat: WeComConfig | None = None
    unused: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantChannel:
    """All receivers of a tenant; `types` empty = of every type."""

    tenant: str
    types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterReceivers:
    """Which receivers a Router names; all ways are united, `type` "" = every type."""

    names: tuple[str, ...] = ()
    regex: str = ""
    selector: LabelSelector | None = None
    type: str = ""
    channels: tuple[TenantChannel, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """Sends the alerts of a selector to receivers of its own choice."""

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    enabled: bool = True
    alert_selector: LabelSelector | None = None
    receivers: RouterReceivers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Keeps alerts back for a time.

    Attributes:
        name, namespace, labels, annotations: The resource's; labels say whose it is.
        enabled: Whether it counts.
        matcher: Alerts that it keeps back.
        starts_at: First moment without a schedule; None = since ever.
        schedule: Cron, five fields or `@daily` and kin; UTC unless `TZ=Europe/Berlin` or `CRON_TZ=...` comes
            before them; "" = once.
        duration_s: Seconds from each start; None = without end.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    enabled: bool = True
    matcher: LabelSelector | None = None
    starts_at: datetime | None = None
    schedule: str = ""
    duration_s: float | None = None

    def active(self, now: datetime) -> bool:
        """Tell whether it counts at a moment; the start is inclusive, the end is not."""
        if not self.enabled:
            return False
        if self.schedule:
            if self.duration_s is None:
                return True
            return now - scheduled_before(self.schedule, now) < timedelta(seconds=self.duration_s)
        if self.starts_at is None:
            return True
        if now < self.starts_at:
            return False
        return self.duration_s is None or now - self.starts_at < timedelta(seconds=self.duration_s)


def scheduled_before(schedule: str, now: datetime) -> datetime:
    """Return the latest scheduled moment that is not after `now`, in UTC.

    Raises:
        ValueError: It is no schedule, its zone is unknown, or none of its moments is in the past.
    """
    zone: tzinfo = UTC
    fields = schedule
    if found := _ZONE.match(schedule):
        fields = schedule[found.end() :]
        try:
            zone = ZoneInfo(found[1])
        except (ZoneInfoNotFoundError, OSError) as error:
            raise ValueError(f"there is no time zone {found[1]}") from error
    if len(fields.split()) != 5 and not fields.startswith("@"):
        raise ValueError(f"it has {len(fields.split())} fields, not 5")
    # Schedules count minutes, and the library's previous moment is before its argument, never at it.
    minute = now.astimezone(zone).replace(second=0, microsecond=0) + timedelta(minutes=1)
    moment: datetime = croniter(fields, minute).get_prev(datetime)
    return moment.astimezone(UTC)
