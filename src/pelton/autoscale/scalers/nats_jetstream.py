"""Scaler `nats-jetstream`: messages that a consumer has not finished, out of the server's monitoring pages.

`drivers/scalers/nats_jetstream.py` fetches `/jsz` and `/varz`. Pure.

Source: KEDA, pkg/scalers/nats_jetstream_scaler.go (contracts, autoscaling section 4.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pelton.autoscale.scalers.parameters import Parameters, metric_name
from pelton.errors import ScalerError
from pelton.model.scaler import ScalerReading

__all__ = [
    "Consumer",
    "NatsJetStreamScaling",
    "cluster_size",
    "find_consumer",
    "measure",
    "neighbours",
    "read_nats_jetstream",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsJetStreamScaling:
    """Settings: the monitoring endpoint's URL, whose consumer, and messages per replica."""

    metric: str
    url: str
    account: str
    stream: str
    consumer: str
    threshold: int = 10
    activation: int = 0

    @property
    def path(self) -> str:
        """Path of the page that lists consumers, without the account."""
        return "/jsz?config=true&consumers=true&acc="


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """What a server says of a consumer: messages that are not finished, and who leads it ("" for nobody)."""

    waiting: int
    leader: str


def read_nats_jetstream(found: Parameters) -> NatsJetStreamScaling:
    """Read a trigger's metadata; problems are left in `found`."""
    account = found.text("accountID", "account")
    if not account:
        found.refuse("account or accountID is required")
    scheme = "https" if found.flag("useHttps") else "http"
    stream = found.required("stream")
    return NatsJetStreamScaling(
        metric=metric_name(f"nats-jetstream-{stream}"),
        url=f"{scheme}://{found.required('natsServerMonitoringEndpoint')}",
        account=account,
        stream=stream,
        consumer=found.required("consumer"),
        threshold=found.whole("lagThreshold", 10, 1),
        activation=found.whole("activationLagThreshold", 0, 0),
    )


def cluster_size(page: Any) -> int:
    """Return how many servers share the streams, by a `/jsz` page; 0 or 1 for one alone."""
    meta = page.get("meta_cluster") if isinstance(page, dict) else None
    return int((meta or {}).get("cluster_size") or 0)


def find_consumer(settings: NatsJetStreamScaling, page: Any) -> Consumer:
    """Return the consumer on a `/jsz` page.

    Raises:
        ScalerError: Something is missing there.
    """
    accounts = (page.get("account_details") or ()) if isinstance(page, dict) else ()
    # Asked for one account, the server lists only that one, by whatever it calls it.
    account = next((a for a in accounts if settings.account in (a.get("id"), a.get("name"))), None)
    if account is None:
        raise ScalerError(
            f"the server has no account {settings.account} with streams",
            hint='check account; a server without accounts calls its only one "$G"',
        )
    streams = account.get("stream_detail") or ()
    stream = next((one for one in streams if one.get("name") == settings.stream), None)
    if stream is None:
        listed = ", ".join(sorted(str(one.get("name")) for one in streams)) or "none"
        raise ScalerError(
            f"account {settings.account} has no stream {settings.stream}",
            hint=f"check stream; there are: {listed}",
        )
    consumers = stream.get("consumer_detail") or ()
    consumer = next((one for one in consumers if one.get("name") == settings.consumer), None)
    if consumer is None:
        listed = ", ".join(sorted(str(one.get("name")) for one in consumers)) or "none"
        raise ScalerError(
            f"stream {settings.stream} has no consumer {settings.consumer}",
            hint=f"check consumer; there are: {listed}",
        )
    return Consumer(
        waiting=int(consumer.get("num_pending") or 0) + int(consumer.get("num_ack_pending") or 0),
        leader=str((consumer.get("cluster") or {}).get("leader") or ""),
    )


def neighbours(settings: NatsJetStreamScaling, page: Any) -> tuple[str, ...]:
    """Return monitoring URLs of the cluster's servers, out of a `/varz` page; the port is our own's."""
    scheme, _, address = settings.url.partition("://")
    port = address.rpartition(":")[2] if ":" in address else "8222"
    listed = page.get("connect_urls") or (page.get("cluster") or {}).get("urls") or ()
    return tuple(f"{scheme}://{str(url).rpartition(':')[0] or url}:{port}" for url in listed)


def measure(settings: NatsJetStreamScaling, waiting: int) -> ScalerReading:
    """Return the metric."""
    return ScalerReading(
        metric=settings.metric,
        value=float(waiting),
        target=float(settings.threshold),
        active=waiting > settings.activation,
    )
