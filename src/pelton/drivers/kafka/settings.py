"""What a Kafka component's metadata means for the client library: names, defaults, logins, refusals.

Text in, settings out, but for certificates that are named by their files; `bus.py`, `consumer.py` and
`records.py` beside it use them. Keys compare case-insensitively. `version` and the schema registry's keys are
known and ignored with a note: the protocol version is negotiated, and values pass as they are.
Source: `dapr-components` contract, section 2 (Kafka keys).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pelton import errors
from pelton.certificates import pem_text
from pelton.quantity import parse_duration

__all__ = ["KafkaSettings"]

_TRUE: Final = frozenset({"true", "1", "yes", "on", "y", "t"})
_DEFAULT_MESSAGE_BYTES: Final = 1_000_000
# librdkafka's own lower bound; samples carry the 1024 of Dapr's documentation.
_LEAST_MESSAGE_BYTES: Final = 1000
_MECHANISMS: Final[Mapping[str, str]] = {
    "": "PLAIN",
    "plaintext": "PLAIN",
    "plain": "PLAIN",
    "sha-256": "SCRAM-SHA-256",
    "sha-512": "SCRAM-SHA-512",
    "scram-sha-256": "SCRAM-SHA-256",
    "scram-sha-512": "SCRAM-SHA-512",
}
# Sarama's "sticky" has no exact counterpart; the cooperative one has the same aim.
_STRATEGIES: Final[Mapping[str, str]] = {
    "range": "range",
    "roundrobin": "roundrobin",
    "sticky": "cooperative-sticky",
}
_IGNORED: Final = (
    "version",
    "schemaregistryurl",
    "schemaregistryapikey",
    "schemaregistryapisecret",
    "awsregion",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """One component's settings.

    Attributes:
        brokers: `host:port`, comma separated.
        client: Settings of both producer and consumer, by librdkafka's names. Holds secrets: never logged.
        consumer: Further settings of consumers.
        producer: Further settings of the producer.
        group: Consumer group that the component names; "" for none.
        newest: A group without offsets begins with what comes after it joined.
        topics: Topics of an input binding.
        publish_topic: Topic of an output binding; "" for none.
        max_message_bytes: Largest record that is published.
        escape_headers: Keys and header values that are read are percent-encoded, so that any of them can be
            an HTTP header of an app.
        exclude_headers: Finds names of metadata that become no headers, and of headers that become no
            metadata; None for none.
        notes: What is known and has no effect, one sentence each.
    """

    brokers: str
    client: dict[str, str | int | float | bool]
    consumer: dict[str, str | int | float | bool]
    producer: dict[str, str | int | float | bool]
    group: str = ""
    newest: bool = True
    topics: tuple[str, ...] = ()
    publish_topic: str = ""
    max_message_bytes: int = _DEFAULT_MESSAGE_BYTES
    escape_headers: bool = False
    exclude_headers: re.Pattern[str] | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def admin(self) -> dict[str, str | int | float | bool]:
        """Settings of admin clients, which only look; as it is, to ask for a topic would make it."""
        return {**self.client, "allow.auto.create.topics": False}

    @classmethod
    def of(cls, metadata: Mapping[str, str], *, where: str) -> KafkaSettings:
        """Read a component's metadata.

        Raises:
            ComponentError: A key is missing, has no valid value, or asks for what cannot be done here.
        """
        return _Reader(metadata, where).read()


class _Reader:
    def __init__(self, metadata: Mapping[str, str], where: str) -> None:
        self._given = {key.lower(): value.strip() for key, value in metadata.items()}
        self._where = where

    def read(self) -> KafkaSettings:
        if self._get("valueschematype").lower() == "avro":
            raise self._error('"valueSchemaType" Avro cannot be used here', "Values pass as they are.")
        brokers = ",".join(part.strip() for part in self._get("brokers").split(",") if part.strip())
        if not brokers:
            raise self._error('"brokers" is required', 'Name at least one, such as "kafka:9092".')
        acks = self._choice("producerRequiredAcks", {"all": "all", "none": "0", "leader": "1", "": "all"})
        largest = max(self._number("maxMessageBytes", _DEFAULT_MESSAGE_BYTES), _LEAST_MESSAGE_BYTES)
        newest = self._choice("initialOffset", {"": "newest", "newest": "newest", "oldest": "oldest"})
        group = self._get("consumergroup") or self._get("consumerid")
        return KafkaSettings(
            brokers=brokers,
            client={
                "bootstrap.servers": brokers,
                "client.id": self._get("clientid") or self._get("consumerid") or "pelton",
                "socket.connection.setup.timeout.ms": self._ms("dialTimeout", 30),
                "socket.keepalive.enable": self._ms("clientConnectionKeepAliveInterval", 0) > 0,
                "log_level": 2,  # errors come by callbacks; the library would print them besides
                "reconnect.backoff.ms": 50,
                "reconnect.backoff.max.ms": 1000,
                **self._security(),
            },
            consumer={
                "session.timeout.ms": self._ms("sessionTimeout", 10),
                "heartbeat.interval.ms": self._ms("heartbeatInterval", 3),
                "fetch.min.bytes": max(1, self._number("consumerFetchMin", 1)),
                "max.partition.fetch.bytes": max(1, self._number("consumerFetchDefault", 1_048_576)),
                "partition.assignment.strategy": self._choice(
                    "consumerGroupRebalanceStrategy", {"": "range", **_STRATEGIES}
                ),
                # New topics of a pattern and new partitions are found at this pace.
                "topic.metadata.refresh.interval.ms": self._ms(
                    "clientConnectionTopicMetadataRefreshInterval", 10
                ),
            },
            producer={
                "acks": acks,
                "enable.idempotence": acks == "all",
                "compression.type": self._choice(
                    "compression",
                    {name: name or "none" for name in ("", "none", "gzip", "snappy", "lz4", "zstd")},
                ),
                "message.max.bytes": largest,
                "linger.ms": 1,
                "delivery.timeout.ms": 30_000,
                **({} if acks == "all" else {"retries": self._number("producerRetryMax", 5)}),
            },
            group=group,
            newest=newest == "newest",
            topics=tuple(part.strip() for part in self._get("topics").split(",") if part.strip()),
            publish_topic=self._get("publishtopic"),
            max_message_bytes=largest,
            escape_headers=self._flag("escapeHeaders"),
            exclude_headers=self._pattern("excludeHeaderMetaRegex"),
            notes=tuple(
                f'"{name}" has no effect: '
                + ("the version is negotiated" if name == "version" else "values pass as they are")
                for name in _IGNORED
                if self._given.get(name)
            ),
        )

    def _security(self) -> dict[str, str | int | float | bool]:
        kind = self._get("authtype").lower()
        if not kind:  # the form before `authType`, which OpenFunction's EventSource still writes
            required = self._flag("authRequired")
            kind = "password" if required or self._get("saslusername") else "none"
        found: dict[str, str | int | float | bool] = {}
        if kind == "password":
            if not self._get("saslusername") or not self._get("saslpassword"):
                raise self._error('authType "password" needs "saslUsername" and "saslPassword"')
            found["sasl.mechanism"] = self._choice("saslMechanism", _MECHANISMS)
            found["sasl.username"] = self._get("saslusername")
            found["sasl.password"] = self._get("saslpassword")
        elif kind == "oidc":
            found |= {
                "sasl.mechanism": "OAUTHBEARER",
                "sasl.oauthbearer.method": "oidc",
                "sasl.oauthbearer.client.id": self._get("oidcclientid"),
                "sasl.oauthbearer.client.secret": self._get("oidcclientsecret"),
                "sasl.oauthbearer.token.endpoint.url": self._get("oidctokenendpoint"),
                "sasl.oauthbearer.scope": self._get("oidcscopes").replace(",", " ") or "openid",
            }
            if extensions := self._get("oidcextensions"):
                found["sasl.oauthbearer.extensions"] = extensions
            missing = [key for key, value in found.items() if not value]
            if missing:
                raise self._error(
                    'authType "oidc" needs "oidcTokenEndpoint", "oidcClientID" and "oidcClientSecret"'
                )
        elif kind in {"mtls", "certificate"}:
            if kind == "mtls" and not (self._get("clientcert") and self._get("clientkey")):
                raise self._error('authType "mtls" needs "clientCert" and "clientKey"')
        elif kind != "none":
            raise self._error(
                f'authType "{kind}" cannot be used here',
                'Use "none", "password", "mtls" or "oidc".',
            )
        encrypted = not self._flag("disableTls") and (kind != "none" or bool(self._get("cacert")))
        if encrypted:
            found |= self._tls()
        name = {(False, False): "plaintext", (False, True): "ssl"}.get(
            ("sasl.mechanism" in found, encrypted), "sasl_ssl" if encrypted else "sasl_plaintext"
        )
        return {"security.protocol": name, **found}

    def _tls(self) -> dict[str, str | int | float | bool]:
        found: dict[str, str | int | float | bool] = {}
        for key, name in (
            ("cacert", "ssl.ca.pem"),
            ("clientcert", "ssl.certificate.pem"),
            ("clientkey", "ssl.key.pem"),
        ):
            if value := pem_text(self._get(key), where=self._where):
                found[name] = value
        if self._flag("skipVerify"):
            found["enable.ssl.certificate.verification"] = False
            found["ssl.endpoint.identification.algorithm"] = "none"
        return found

    def _get(self, key: str) -> str:
        return self._given.get(key, "")

    def _flag(self, key: str) -> bool:
        return self._get(key.lower()).lower() in _TRUE

    def _number(self, key: str, default: int) -> int:
        text = self._get(key.lower())
        if not text:
            return default
        if not text.isdecimal():
            raise self._error(f'"{key}" is {text!r}, not a whole number')
        return int(text)

    def _ms(self, key: str, default_s: float) -> int:
        text = self._get(key.lower())
        if not text:
            return int(default_s * 1000)
        try:
            seconds = float(text) if text.isdecimal() else parse_duration(text)
        except ValueError as exc:
            raise self._error(f'"{key}" is {text!r}, not a duration', 'Such as "10s".') from exc
        return max(0, int(seconds * 1000))

    def _pattern(self, key: str) -> re.Pattern[str] | None:
        text = self._get(key.lower())
        try:
            return re.compile(text) if text else None
        except re.error as exc:
            raise self._error(f'"{key}" is no regular expression: {exc}') from exc

    def _choice(self, key: str, known: Mapping[str, str]) -> str:
        text = self._get(key.lower()).lower()
        if text not in known:
            names = ", ".join(sorted(name for name in known if name))
            raise self._error(f'"{key}" is {text!r}', f"Known: {names}.")
        return known[text]

    def _error(self, message: str, hint: str = "") -> errors.ComponentError:
        return errors.ComponentError(message, where=self._where, hint=hint)
