"""Kafka in KRaft mode from jars that `scripts/services` fetched: a node that is broker and controller.

Further brokers may join it. `SASL_USER` and `SASL_PASSWORD` are accepted by SCRAM and PLAIN on the second
listener, TLS on the third when a certificate is given.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.services.server import HOST, NotReadyError, Server, free_port, program

__all__ = ["QUICK", "SASL_PASSWORD", "SASL_USER", "Kafka", "jars"]

SASL_USER, SASL_PASSWORD = "ann", "s3cret"

QUICK: Final[Mapping[str, str]] = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}
"""Settings for brokers that are killed: noticed after 3 s, not 9; before that, none is let in again."""


def jars() -> Path:
    """Return the directory of Kafka's jars; it may not exist."""
    given = os.environ.get("PELTON_KAFKA_JARS")
    return Path(given) if given else Path(sys.prefix) / "share" / "pelton-services" / "kafka"


class Kafka(Server):
    """One node; `address` is its plain listener, `sasl_address` asks for a user, `tls_address` speaks TLS.

    Args:
        directory: See `Server`.
        keystore: PEM file with key and certificate for the TLS listener; None for no such listener.
        settings: Further broker settings.
        joins: A started node: this one becomes a further broker of its cluster, and may be killed while
            the controller there goes on. None makes a cluster of its own.
    """

    name = "kafka"

    def __init__(
        self,
        directory: Path,
        *,
        keystore: Path | None = None,
        settings: Mapping[str, str] | None = None,
        joins: Kafka | None = None,
    ) -> None:
        super().__init__(directory)
        self._controller, self._sasl, self._tls = free_port(), free_port(), free_port()
        self._joins = joins
        self._cluster = _cluster_id()
        self._brokers = 1
        self.node = 1
        if joins is not None:
            joins._brokers += 1
            self.node, self._cluster, self._controller = joins._brokers, joins._cluster, joins._controller
        self._keystore = keystore
        self._settings = dict(settings or {})

    @classmethod
    def missing(cls) -> str:
        """Say what is not here."""
        if not program("java"):
            return "no java"
        return "" if any(jars().glob("kafka_2*.jar")) else "no Kafka jars; scripts/services install kafka"

    @property
    def sasl_address(self) -> str:
        """`host:port` of the listener that asks for SASL_USER and SASL_PASSWORD."""
        return f"{HOST}:{self._sasl}"

    @property
    def tls_address(self) -> str:
        """`host:port` of the TLS listener."""
        return f"{HOST}:{self._tls}"

    def prepare(self) -> None:
        """Write the settings; format the log directory once."""
        properties = self.directory / "server.properties"
        lines = "\n".join(f"{key}={value}" for key, value in self._properties().items())
        properties.write_text(lines + "\n")
        if (self.directory / "data").exists():
            return
        if self._joins is not None:  # all that formatting leaves for a node that is no controller
            (self.directory / "data").mkdir()
            (self.directory / "data" / "meta.properties").write_text(
                f"version=1\ncluster.id={self._cluster}\nnode.id={self.node}\n"
            )
            return
        scram = [
            part
            for kind in ("SCRAM-SHA-256", "SCRAM-SHA-512")
            for part in ("-S", f"{kind}=[name={SASL_USER},password={SASL_PASSWORD}]")
        ]
        words = ["kafka.tools.StorageTool", "format", "-t", self._cluster, "-c", str(properties), *scram]
        done = subprocess.run(
            [*self._java(128), *words], check=False, capture_output=True, text=True, cwd=self.directory
        )
        if done.returncode:
            raise NotReadyError(f"kafka cannot format its directory:\n{done.stdout}{done.stderr}")

    def command(self) -> Sequence[str]:
        """Run the server with a small heap; the quick compiler is enough for tests."""
        return [*self._java(512), "kafka.Kafka", str(self.directory / "server.properties")]

    def _java(self, heap_mb: int) -> list[str]:
        # Warm code is not worth waiting for in tests; PELTON_KAFKA_JIT=1 is for benchmarks.
        quick = [] if os.environ.get("PELTON_KAFKA_JIT") else ["-XX:TieredStopAtLevel=1"]
        jvm = ["-XX:+UseSerialGC", f"-Xmx{heap_mb}m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        return [program("java"), *quick, *jvm, "-cp", f"{jars()}/*"]

    def _properties(self) -> dict[str, str]:
        listeners = {
            "PLAINTEXT": (self.port, "PLAINTEXT"),
            "SASL": (self._sasl, "SASL_PLAINTEXT"),
        }
        tls: dict[str, str] = {}
        if self._keystore is not None:
            listeners["TLS"] = (self._tls, "SSL")
            tls = {
                "listener.name.tls.ssl.keystore.type": "PEM",
                "listener.name.tls.ssl.keystore.location": str(self._keystore),
            }
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule"
        user = f'user_{SASL_USER}="{SASL_PASSWORD}"'
        outside = ",".join(f"{name}://{HOST}:{port}" for name, (port, _) in listeners.items())
        controller = f"CONTROLLER://{HOST}:{self._controller}"
        listeners["CONTROLLER"] = (self._controller, "PLAINTEXT")
        return {
            "process.roles": "broker,controller" if self._joins is None else "broker",
            "node.id": str(self.node),
            "controller.quorum.voters": f"1@{HOST}:{self._controller}",
            "listeners": f"{outside},{controller}" if self._joins is None else outside,
            "advertised.listeners": outside,
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": ",".join(
                f"{name}:{protocol}" for name, (_, protocol) in listeners.items()
            ),
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.sasl.plain.sasl.jaas.config": f"{plain} required {user};",
            "listener.name.sasl.scram-sha-256.sasl.jaas.config": f"{scram} required;",
            "listener.name.sasl.scram-sha-512.sasl.jaas.config": f"{scram} required;",
            "log.dirs": str(self.directory / "data"),
            "num.partitions": "4",
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            # A group of one consumer should not wait for more of them.
            "group.initial.rebalance.delay.ms": "0",
            **tls,
            **self._settings,
        }


def _cluster_id() -> str:
    """Return a new id, with no dash in front: the tool that formats would take it for an option."""
    return "c" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
