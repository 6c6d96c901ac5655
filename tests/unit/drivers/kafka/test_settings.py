import pytest

from pelton.drivers.kafka.settings import KafkaSettings
from pelton.errors import ComponentError

PEM = "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----"


def of(**metadata):
    return KafkaSettings.of({"brokers": "a:1, b:2", **metadata}, where="component default/k")


def test_defaults_are_daprs():
    found = of(authType="none")

    assert found.brokers == "a:1,b:2"
    assert found.newest
    assert found.client["security.protocol"] == "plaintext"
    assert found.consumer["session.timeout.ms"] == 10_000
    assert found.consumer["heartbeat.interval.ms"] == 3_000
    assert found.producer["acks"] == "all"
    assert found.producer["enable.idempotence"] is True
    assert found.max_message_bytes == 1_000_000


def test_keys_compare_without_regard_to_case_and_durations_are_gos():
    found = of(
        AUTHTYPE="none", SessionTimeout="6s", ConsumerGroup="g", initialoffset="Oldest", dialTimeout="5"
    )

    assert found.consumer["session.timeout.ms"] == 6_000
    assert found.client["socket.connection.setup.timeout.ms"] == 5_000
    assert found.group == "g"
    assert not found.newest


@pytest.mark.parametrize(
    ("metadata", "protocol", "mechanism"),
    [
        ({"authRequired": "false"}, "plaintext", None),
        ({"authRequired": "true", "saslUsername": "u", "saslPassword": "p"}, "sasl_ssl", "PLAIN"),
        (
            {"authType": "password", "saslUsername": "u", "saslPassword": "p", "disableTls": "true"},
            "sasl_plaintext",
            "PLAIN",
        ),
        (
            {"authType": "password", "saslUsername": "u", "saslPassword": "p", "saslMechanism": "SHA-512"},
            "sasl_ssl",
            "SCRAM-SHA-512",
        ),
        ({"authType": "mtls", "clientCert": PEM, "clientKey": PEM}, "ssl", None),
        ({"authType": "none", "caCert": PEM}, "ssl", None),
        (
            {
                "authType": "oidc",
                "oidcTokenEndpoint": "https://t",
                "oidcClientID": "i",
                "oidcClientSecret": "s",
            },
            "sasl_ssl",
            "OAUTHBEARER",
        ),
    ],
)
def test_login_decides_the_protocol(metadata, protocol, mechanism):
    client = of(**metadata).client

    assert client["security.protocol"] == protocol
    assert client.get("sasl.mechanism") == mechanism


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"brokers": " "}, '"brokers" is required'),
        ({"authType": "password"}, "saslUsername"),
        ({"authType": "mtls"}, "clientCert"),
        ({"authType": "awsiam"}, "cannot be used here"),
        ({"authType": "none", "initialOffset": "middle"}, "initialOffset"),
        ({"authType": "none", "maxMessageBytes": "big"}, "not a whole number"),
        ({"authType": "none", "sessionTimeout": "soon"}, "not a duration"),
        ({"authType": "none", "compression": "rar"}, "compression"),
        ({"authType": "none", "excludeHeaderMetaRegex": "("}, "no regular expression"),
        ({"authType": "none", "caCert": "/nowhere/ca.pem"}, "cannot be read"),
        ({"authType": "none", "valueSchemaType": "Avro"}, "valueSchemaType"),
    ],
)
def test_unusable_metadata_is_refused_in_words(metadata, said):
    with pytest.raises(ComponentError, match=said) as caught:
        of(**metadata)
    assert caught.value.where == "component default/k"


def test_certificates_may_be_named_by_their_files(tmp_path):
    path = tmp_path / "ca.pem"
    path.write_text(PEM)

    assert of(authType="none", caCert=str(path)).client["ssl.ca.pem"] == PEM


def test_what_has_no_effect_is_told_and_small_limits_are_raised_to_the_least():
    found = of(authType="none", version="2.0.0.0", maxMessageBytes="1024", producerRequiredAcks="leader")

    assert any('"version"' in note for note in found.notes)
    assert found.max_message_bytes == 1024
    assert found.producer["enable.idempotence"] is False
    assert of(authType="none", maxMessageBytes="1").max_message_bytes == 1000
