"""Scalers `kafka` and `apache-kafka`: how far a consumer group is behind, as a number of replicas can use it.

`drivers/kafka/scaler.py` fetches offsets; which of them count, and how the sum is bounded by the number of
partitions, is said here. Pure.

Source: KEDA, pkg/scalers/kafka_scaler.go (contracts, autoscaling section 4.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pelton.autoscale.scalers.parameters import Parameters, metric_name
from pelton.model.scaler import ScalerReading

__all__ = ["KafkaScaling", "Offset", "even_factor", "measure", "read_kafka"]

_VERSION = re.compile(r"0(\.\d+){3}|[1-9]\d*(\.\d+){2}")
_MECHANISMS = {"plaintext": "PLAIN", "scram_sha256": "SHA-256", "scram_sha512": "SHA-512"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaScaling:
    """Settings of one trigger.

    Attributes:
        metric: Name of the metric.
        threshold: Records per replica.
        activation: Active above so many.
        connection: The cluster, under the names of a Kafka component's metadata. Holds secrets.
        group: Consumer group.
        topics: Empty for all topics that the group has committed offsets of.
        partitions: Partitions that count; None for all.
        latest: Whether a partition without offset counts as one record, not as all of them.
        idle_consumers: Whether more replicas than partitions are fine.
        zero_on_invalid: Whether a partition without offset counts as none.
        exclude_persistent: Whether lag that nobody works on adds no replicas.
        with_lag_only: Whether only partitions with lag bound the number.
        even: Whether the number has to divide that of the partitions.
    """

    metric: str
    threshold: int = 10
    activation: int = 0
    connection: Mapping[str, str]
    group: str
    topics: tuple[str, ...] = ()
    partitions: frozenset[int] | None = None
    latest: bool = True
    idle_consumers: bool = False
    zero_on_invalid: bool = False
    exclude_persistent: bool = False
    with_lag_only: bool = False
    even: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Offset:
    """One partition: the next offset of the group (-1 for none), and that of the log (None if unknown)."""

    topic: str
    partition: int
    committed: int
    end: int | None


def read_kafka(found: Parameters) -> KafkaScaling:
    """Read a trigger's metadata; problems are left in `found`."""
    group = found.required("consumerGroup")
    topics = found.items("topic")
    if found.trigger.type == "kafka" and len(topics) > 1:
        found.refuse(f'topic is "{",".join(topics)}": several topics need the type apache-kafka')
    idle = found.flag("allowIdleConsumers")
    lag_only = found.flag("limitToPartitionsWithLag")
    even = found.flag("ensureEvenDistributionOfPartitions")
    if idle and lag_only:
        found.refuse("allowIdleConsumers and limitToPartitionsWithLag cannot both be true")
    if lag_only and even:
        found.refuse("limitToPartitionsWithLag and ensureEvenDistributionOfPartitions cannot both be true")
    for name, asked in (("limitToPartitionsWithLag", lag_only), ("ensureEvenDistributionOfPartitions", even)):
        if asked and not topics:
            found.refuse(f"{name} needs topic")
    if not found.flag("fullMetadata", True) and not topics:
        found.refuse("fullMetadata false needs topic")
    version = found.text("version", default="1.0.0")
    if not _VERSION.fullmatch(version):
        found.refuse(f'version is "{version}", not one of Kafka such as 1.0.0')
    name = f"kafka-{topics[0]}" if len(topics) == 1 else f"kafka-{group}-topics"
    if len(topics) > 1:
        name = f"kafka-{','.join(topics)}"
    return KafkaScaling(
        metric=metric_name(name),
        threshold=found.whole("lagThreshold", 10, 1),
        activation=found.whole("activationLagThreshold", 0, 0),
        connection=_connection(found),
        group=group,
        topics=topics,
        partitions=_partitions(found) if topics else None,
        latest=found.choice("offsetResetPolicy", "latest", "latest", "earliest") == "latest",
        idle_consumers=idle,
        zero_on_invalid=found.flag("scaleToZeroOnInvalidOffset"),
        exclude_persistent=found.flag("excludePersistentLag"),
        with_lag_only=lag_only,
        even=even,
    )


def _connection(found: Parameters) -> dict[str, str]:
    """Return the cluster and the login in the words of a Kafka component's metadata."""
    known = ("none", "plaintext", "scram_sha256", "scram_sha512", "oauthbearer", "gssapi")
    own = ("aws_msk_iam",) if found.trigger.type == "apache-kafka" else ()
    sasl = found.choice("sasl", "none", *known, *own)
    encrypted = found.choice("tls", "disable", "enable", "disable") == "enable"
    made = {"brokers": found.required("bootstrapServers"), "clientID": "pelton-scaler"}
    if sasl in _MECHANISMS:
        made |= {
            "authType": "password",
            "saslUsername": found.required("username"),
            "saslPassword": found.required("password"),
            "saslMechanism": _MECHANISMS[sasl],
        }
    elif sasl == "oauthbearer" and found.text("saslTokenProvider", default="bearer") == "bearer":
        made |= {
            "authType": "oidc",
            "oidcClientID": found.required("username"),
            "oidcClientSecret": found.required("password"),
            "oidcTokenEndpoint": found.required("oauthTokenEndpointUri"),
            "oidcScopes": found.text("scopes"),
            "oidcExtensions": found.text("oauthExtensions"),
        }
    elif sasl != "none":
        found.refuse(f"sasl {sasl} cannot be used here: plaintext, scram_sha256, scram_sha512, oauthbearer")
    certificate, key = found.text("cert"), found.text("key")
    if encrypted:
        if bool(certificate) != bool(key):
            found.refuse("cert and key have to be given together")
        if found.text("keyPassword"):
            found.refuse("keyPassword cannot be used here: give the key without a password")
        if sasl == "none":
            made["authType"] = "mtls" if certificate and key else "certificate"
        made |= {"caCert": found.text("ca"), "clientCert": certificate, "clientKey": key}
        made["skipVerify"] = "true" if found.flag("unsafeSsl") else "false"
    else:
        made["disableTls"] = "true"
    return {name: value for name, value in made.items() if value}


def _partitions(found: Parameters) -> frozenset[int] | None:
    """Read `1,2,5-8`; None for all."""
    chosen: set[int] = set()
    for part in found.items("partitionLimitation"):
        first, dash, last = part.partition("-")
        ends = (first.strip(), last.strip() if dash else first.strip())
        if not all(end.isdecimal() for end in ends) or int(ends[0]) > int(ends[1]):
            found.refuse(f'partitionLimitation has "{part}", which is no partition and no range such as 5-8')
            return None
        if int(ends[1]) - int(ends[0]) > 100_000:
            found.refuse(f'partitionLimitation has "{part}": more than 100000 partitions')
            return None
        chosen.update(range(int(ends[0]), int(ends[1]) + 1))
    return frozenset(chosen) or None


def measure(
    settings: KafkaScaling, offsets: Iterable[Offset], before: dict[tuple[str, int], int]
) -> ScalerReading:
    """Return the metric; `before` (partition -> offset of the last look) is kept up to date.

    Args:
        settings: Of the trigger.
        offsets: All partitions that count.
        before: Empty at the first look.
    """
    total = everything = partitions = lagging = 0
    for offset in offsets:
        counted, persistent = _lag(settings, offset, before)
        total += counted
        everything += persistent
        partitions += 1
        lagging += counted > 0
    if not settings.idle_consumers or settings.with_lag_only or settings.even:
        if settings.even:
            total = even_factor(partitions, total, settings.threshold) * settings.threshold
        upper = lagging if settings.with_lag_only else partitions
        if total // settings.threshold > upper:
            total = upper * settings.threshold
    return ScalerReading(
        metric=settings.metric,
        value=float(total),
        target=float(settings.threshold),
        active=everything > settings.activation,
    )


def _lag(settings: KafkaScaling, offset: Offset, before: dict[tuple[str, int], int]) -> tuple[int, int]:
    """Return (records that count for scaling, records that count for activation)."""
    if offset.committed < 0 and settings.latest:
        whole = 0 if settings.zero_on_invalid else 1
        return whole, whole
    if offset.end is None:
        return 0, 0
    if offset.committed < 0:
        whole = 0 if settings.zero_on_invalid else offset.end
        return whole, whole
    lag = max(0, offset.end - offset.committed)
    if settings.exclude_persistent:
        place = (offset.topic, offset.partition)
        last = before.get(place)
        before[place] = offset.committed
        if last == offset.committed:
            return 0, lag
    return lag, lag


def even_factor(partitions: int, lag: int, threshold: int) -> int:
    """Return the smallest divisor of `partitions` that is enough for the lag; all of them if none is."""
    for factor in range(1, partitions + 1):
        if partitions % factor == 0 and factor * threshold >= lag:
            return factor
    return partitions
