"""Scalers `redis` and `redis-streams` with their cluster and sentinel forms.

`drivers/redis/scaler.py` asks the server. Pure.

Source: KEDA, pkg/scalers/redis_scaler.go, redis_streams_scaler.go (contracts, autoscaling section 4.3).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pelton.autoscale.scalers.parameters import Parameters, metric_name
from pelton.model.scaler import ScalerReading

__all__ = ["LENGTH_COMMANDS", "RedisScaling", "measure", "read_redis"]

LENGTH_COMMANDS = {
    "none": "LLEN",
    "list": "LLEN",
    "zset": "ZCARD",
    "set": "SCARD",
    "hash": "HLEN",
}
"""Type of a key -> the command that tells its length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisScaling:
    """Settings of one trigger.

    Attributes:
        metric: Name of the metric.
        mode: `list`, `length` (of a stream), `pending` (entries of a group) or `lag` (of a group).
        key: List or stream.
        group: Consumer group; "" for none.
        target, activation: Entries.
        addresses: (host, port) of one server, of a cluster's, or of sentinels.
        kind: `node`, `cluster` or `sentinel`.
        database: Index.
        username, password, sentinel_username, sentinel_password: "" for none. Secret.
        sentinel_master: Name under which sentinels know the server.
        tls, verify: Whether the connection is encrypted, and whether its certificate is checked.
        ca, certificate, key_pem: PEM; "" for none.
    """

    metric: str
    mode: str
    key: str
    group: str = ""
    target: float
    activation: float
    addresses: tuple[tuple[str, int], ...]
    kind: str = "node"
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)
    sentinel_master: str = ""
    tls: bool = False
    verify: bool = True
    ca: str = ""
    certificate: str = ""
    key_pem: str = field(default="", repr=False)


def read_redis(found: Parameters) -> RedisScaling:
    """Read a trigger's metadata; problems are left in `found`."""
    name = found.trigger.type
    streams = name.endswith("-streams")
    kind = next((kind for kind in ("cluster", "sentinel") if f"-{kind}" in name), "node")
    if streams:
        key = found.required("stream")
        group = found.text("consumerGroup")
        mode, parameter = "length", "streamLength"
        if group:
            mode, parameter = (
                ("lag", "lagCount") if found.text("lagCount") else ("pending", "pendingEntriesCount")
            )
        elif found.text("lagCount"):
            found.refuse("lagCount needs consumerGroup")
        target, activation = found.whole(parameter, 5, 1), found.whole("activationLagCount", 0, 0)
        metric = f"redis-streams-{key}"
    else:
        key, group, mode = found.required("listName"), "", "list"
        target, activation = found.whole("listLength", 5, 1), found.whole("activationListLength", 0, 0)
        metric = f"redis-{key}"
    if found.text("enableTLS") and found.text("tls"):
        found.refuse("enableTLS and the authentication's tls cannot both be given")
    encrypted = found.flag("enableTLS") or found.choice("tls", "disable", "enable", "disable") == "enable"
    if kind == "sentinel":
        found.required("sentinelMaster")
    return RedisScaling(
        metric=metric_name(metric),
        mode=mode,
        key=key,
        group=group,
        target=float(target),
        activation=float(activation),
        addresses=_addresses(found, several=kind != "node"),
        kind=kind,
        database=found.whole("databaseIndex", 0, 0),
        username=found.text("username"),
        password=found.text("password"),
        sentinel_username=found.text("sentinelUsername"),
        sentinel_password=found.text("sentinelPassword"),
        sentinel_master=found.text("sentinelMaster"),
        tls=encrypted,
        verify=not found.flag("unsafeSsl"),
        ca=found.text("ca"),
        certificate=found.text("cert"),
        key_pem=found.text("key"),
    )


def _addresses(found: Parameters, *, several: bool) -> tuple[tuple[str, int], ...]:
    texts = found.items("address", "addresses")
    if not texts:
        hosts, ports = found.items("host", "hosts"), found.items("port", "ports")
        if not hosts:
            found.refuse(f"{'addresses or hosts' if several else 'address or host'} is required")
        elif len(hosts) != len(ports):
            found.refuse(f"there are {len(hosts)} hosts and {len(ports)} ports; the numbers must be equal")
        texts = tuple(f"{host}:{port}" for host, port in zip(hosts, ports, strict=False))
    addresses = []
    for text in texts if several else texts[:1]:
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal():
            found.refuse(f'"{text}" is not host:port')
            continue
        addresses.append((host.strip("[]"), int(port)))
    return tuple(addresses)


def measure(settings: RedisScaling, count: int) -> ScalerReading:
    """Return the metric."""
    return ScalerReading(
        metric=settings.metric,
        value=float(count),
        target=settings.target,
        active=count > settings.activation,
    )
