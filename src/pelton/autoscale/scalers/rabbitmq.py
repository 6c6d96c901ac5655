"""Scaler `rabbitmq`: messages of a queue or of several, their rates, and what follows from both.

The raw numbers come over AMQP (`drivers/rabbitmq.py`: ready messages alone) or from the management API
(`drivers/scalers/rabbitmq.py`). Pure.

Source: KEDA, pkg/scalers/rabbitmq_scaler.go (contracts, autoscaling section 4.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from pelton.autoscale.scalers.http_login import read_oauth
from pelton.autoscale.scalers.parameters import HTTP_TIMEOUT_S, Parameters, metric_name
from pelton.model.scaler import ScalerReading

__all__ = ["QueueStats", "RabbitMqScaling", "combine", "measure", "read_queue", "read_rabbitmq"]

_MODES = (
    "QueueLength",
    "MessageRate",
    "DeliverGetRate",
    "PublishedToDeliveredRatio",
    "ExpectedQueueConsumptionTime",
)
_DEFAULT_LENGTH = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitMqScaling:
    """Settings of one trigger.

    Attributes:
        metric: Name of the metric.
        mode: One of KEDA's five.
        target, activation: In the unit of the mode.
        queue: Name, or a pattern where `pattern` is set.
        url: AMQP or management URL, with user and password. Secret.
        vhost: Virtual host, `/` for the root.
        http: Whether `url` is the management API's.
        pattern: Whether `queue` is a regular expression.
        page_size: Most queues that a pattern may match.
        operation: How several queues join: `sum`, `avg` or `max`.
        ready_only: Whether what consumers hold does not count.
        timeout_s: Of a request, seconds.
        verify, ca, certificate, key: TLS; PEM texts, "" for none.
        oauth: Of the management API, in place of user and password; see `http_login.HttpLogin`.
    """

    metric: str
    mode: str
    target: float
    activation: float
    queue: str
    url: str = field(repr=False)
    vhost: str
    http: bool
    pattern: bool = False
    page_size: int = 100
    operation: str = "sum"
    ready_only: bool = False
    timeout_s: float = HTTP_TIMEOUT_S
    verify: bool = True
    ca: str = ""
    certificate: str = ""
    key: str = field(default="", repr=False)
    oauth: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def path(self) -> str:
        """Path of the management API, with query."""
        vhost = quote(self.vhost, safe="")
        if not self.pattern:
            return f"/api/queues/{vhost}/{quote(self.queue, safe='')}"
        return (
            f"/api/queues/{vhost}?page=1&use_regex=true&pagination=false"
            f"&name={quote(self.queue, safe='')}&page_size={self.page_size}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """Messages that are there, and messages per second that come and go."""

    messages: float = 0.0
    publish_rate: float = 0.0
    deliver_rate: float = 0.0


def read_rabbitmq(found: Parameters) -> RabbitMqScaling:
    """Read a trigger's metadata; problems are left in `found`."""
    queue, host = found.required("queueName"), found.required("host")
    parts = urlsplit(host)
    protocol = found.choice("protocol", "auto", "auto", "amqp", "http")
    schemes = {"amqp": "amqp", "amqps": "amqp", "http": "http", "https": "http"}
    scheme = schemes.get(parts.scheme, "")
    if host and (not scheme or not parts.hostname):
        found.refuse("host must be a URL that begins with amqp://, amqps://, http:// or https://")
    elif host and protocol not in ("auto", scheme):
        found.refuse(f"protocol is {protocol}, host begins with {parts.scheme}://")
    http = scheme == "http"
    mode, target = _aim(found)
    pattern, ready_only = found.flag("useRegex"), found.flag("excludeUnacknowledged")
    if not http:
        for name, asked in (("useRegex", pattern), ("excludeUnacknowledged", ready_only)):
            if asked:
                found.refuse(f"{name} needs the management API: a host that begins with http:// or https://")
        if mode != "QueueLength":
            found.refuse(f"mode {mode} needs the management API: a host that begins with http:// or https://")
    oauth = read_oauth(found) if found.text("oauthTokenURI") else {}
    if oauth and not http:
        found.refuse("oauthTokenURI needs the management API: a host that begins with http:// or https://")
    vhost = found.text("vhostName") or unquote(parts.path.strip("/") if http else parts.path[1:]) or "/"
    return RabbitMqScaling(
        metric=metric_name(f"rabbitmq-{queue}"),
        mode=mode,
        target=target,
        activation=found.number("activationValue", 0.0),
        queue=queue,
        url=_url(found, parts, vhost, http=http),
        vhost=vhost,
        http=http,
        pattern=pattern,
        page_size=found.whole("pageSize", 100, 1),
        operation=found.choice("operation", "sum", "sum", "avg", "max"),
        ready_only=ready_only,
        timeout_s=found.seconds("timeout", HTTP_TIMEOUT_S),
        verify=not found.flag("unsafeSsl"),
        ca=found.text("ca"),
        certificate=found.text("cert"),
        key=found.text("key"),
        oauth=oauth,
    )


def _aim(found: Parameters) -> tuple[str, float]:
    """Return mode and target."""
    old, mode, value = found.text("queueLength"), found.text("mode"), found.text("value")
    if old and (mode or value):
        found.refuse("queueLength cannot be given beside mode and value")
    if old:
        return "QueueLength", found.number("queueLength", above=0.0)
    if not mode and not value:
        return "QueueLength", _DEFAULT_LENGTH
    if not mode or not value:
        found.refuse("mode and value have to be given together")
        return "QueueLength", _DEFAULT_LENGTH
    return found.choice("mode", "QueueLength", *_MODES), found.number("value", above=0.0)


def _url(found: Parameters, parts: SplitResult, vhost: str, *, http: bool) -> str:
    """Return the URL with the login from the authentication, if there is one, and the virtual host."""
    user, password = found.text("username"), found.text("password")
    place = parts.netloc.rpartition("@")[2]
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else parts.netloc.rpartition("@")[0]
    if not user and login:
        login += "@"
    path = "" if http else f"/{quote(vhost, safe='')}"
    return urlunsplit((parts.scheme, f"{login}{place}", path, "", ""))


def read_queue(settings: RabbitMqScaling, item: Any) -> QueueStats:
    """Return the numbers of one queue as the management API writes it."""
    stats = item.get("message_stats") or {}
    ready = float(item.get("messages_ready") or 0)
    unacknowledged = 0.0 if settings.ready_only else float(item.get("messages_unacknowledged") or 0)
    return QueueStats(
        messages=ready + unacknowledged,
        publish_rate=float((stats.get("publish_details") or {}).get("rate") or 0.0),
        deliver_rate=float((stats.get("deliver_get_details") or {}).get("rate") or 0.0),
    )


def combine(settings: RabbitMqScaling, queues: Sequence[QueueStats]) -> QueueStats:
    """Join several queues; none are as one that is empty."""
    if not queues:
        return QueueStats()
    columns = (
        [one.messages for one in queues],
        [one.publish_rate for one in queues],
        [one.deliver_rate for one in queues],
    )
    if settings.operation == "max":
        messages, publish, deliver = (max(column) for column in columns)
    else:
        messages, publish, deliver = (sum(column) for column in columns)
    if settings.operation == "avg":
        count = len(queues)
        messages, publish, deliver = float(int(messages) // count), publish / count, deliver / count
    return QueueStats(messages=messages, publish_rate=publish, deliver_rate=deliver)


def measure(settings: RabbitMqScaling, stats: QueueStats) -> ScalerReading:
    """Return the metric of the mode."""
    messages, publish, deliver = stats.messages, stats.publish_rate, stats.deliver_rate
    least = settings.activation
    if settings.mode == "MessageRate":
        value, active = publish, publish > least or messages > least
    elif settings.mode == "DeliverGetRate":
        value, active = deliver, deliver > least
    elif settings.mode == "PublishedToDeliveredRatio":
        stuck = publish > 0 and deliver == 0
        value = publish / deliver if deliver else (least if stuck else 0.0)
        active = value > least or stuck
    elif settings.mode == "ExpectedQueueConsumptionTime":
        value = 0.0
        if messages > 0:
            value = (publish - deliver) / deliver + messages / deliver if deliver else least
        active = value > least or (deliver == 0 and messages > 0)
    else:
        value, active = messages, messages > least
    return ScalerReading(metric=settings.metric, value=value, target=settings.target, active=active)
