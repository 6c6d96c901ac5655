"""Kafka lag; the numbered cases are the contract's (autoscaling, sections 4.1 and 7)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelton.autoscale.scalers.kafka import Offset, even_factor, measure
from pelton.autoscale.scalers.table import read_settings
from pelton.errors import ScalerError
from pelton.model.scaler import ScalerTrigger

BASE = {"bootstrapServers": "k:9092", "consumerGroup": "g", "topic": "t"}


def trigger(kind="kafka", params=None, **metadata):
    return ScalerTrigger(name="s0", type=kind, metadata={**BASE, **metadata}, params=params or {})


def settings(**metadata):
    return read_settings(trigger(**metadata))


def offsets(*pairs, topic="t"):
    return [
        Offset(topic=topic, partition=number, committed=committed, end=end)
        for number, (committed, end) in enumerate(pairs)
    ]


def test_defaults_are_the_contracts():
    made = settings()

    assert made.metric == "kafka-t"
    assert (made.threshold, made.activation, made.latest) == (10, 0, True)
    assert made.connection == {"brokers": "k:9092", "clientID": "pelton-scaler", "disableTls": "true"}


def test_lag_of_100_over_4_partitions_asks_for_4_replicas():
    reading = measure(settings(), offsets((0, 25), (0, 25), (0, 25), (0, 25)), {})

    assert (reading.value, reading.target, reading.active) == (40.0, 10.0, True)


def test_idle_consumers_lift_the_bound():
    reading = measure(settings(allowIdleConsumers="true"), offsets((0, 50), (0, 50), (0, 0), (0, 0)), {})

    assert reading.value == 100.0


@pytest.mark.parametrize(
    ("lag", "factor"), [(10, 1), (20, 2), (40, 4), (50, 5), (99, 10), (100, 10), (101, 20)]
)
def test_even_distribution_over_100_partitions(lag, factor):
    assert even_factor(100, lag, 10) == factor

    spread = offsets((0, lag), *((0, 0) for _ in range(99)))
    reading = measure(settings(ensureEvenDistributionOfPartitions="true"), spread, {})
    assert reading.value == factor * 10


def test_partitions_with_lag_alone_bound_the_number():
    reading = measure(
        settings(limitToPartitionsWithLag="true"), offsets((0, 90), (0, 30), (5, 5), (5, 5)), {}
    )

    assert reading.value == 20.0


@pytest.mark.parametrize(
    ("metadata", "value"),
    [
        ({}, 1.0),
        ({"offsetResetPolicy": "earliest"}, 40.0),
        ({"scaleToZeroOnInvalidOffset": "true"}, 0.0),
        ({"scaleToZeroOnInvalidOffset": "true", "offsetResetPolicy": "earliest"}, 0.0),
    ],
)
def test_partition_without_offset(metadata, value):
    made = replace(settings(**metadata), idle_consumers=True)

    reading = measure(made, offsets((-1, 40)), {})

    assert reading.value == value
    assert reading.active is (value > 0)


def test_partition_without_end_counts_as_none():
    assert measure(settings(), [Offset(topic="t", partition=0, committed=3, end=None)], {}).value == 0.0


def test_persistent_lag_activates_but_does_not_scale():
    made = settings(excludePersistentLag="true")
    before: dict[tuple[str, int], int] = {}

    first = measure(made, offsets((5, 9)), before)
    stuck = measure(made, offsets((5, 9)), before)
    moved = measure(made, offsets((7, 9)), before)

    assert [(one.value, one.active) for one in (first, stuck, moved)] == [(4, True), (0, True), (2, True)]


def test_activation_goes_by_the_uncapped_lag():
    made = settings(lagThreshold="1", activationLagThreshold="99")

    assert measure(made, offsets((0, 100)), {}) == replace(
        measure(made, offsets((0, 100)), {}), value=1.0, active=True
    )
    assert not measure(made, offsets((0, 99)), {}).active


def test_partitions_can_be_chosen():
    assert settings(partitionLimitation="1,2,5-8").partitions == frozenset({1, 2, 5, 6, 7, 8})
    assert settings(partitionLimitation="1", topic="").partitions is None


def test_all_problems_are_told_at_once():
    with pytest.raises(ScalerError) as caught:
        read_settings(
            trigger(
                consumerGroup="",
                lagThreshold="0",
                allowIdleConsumers="true",
                limitToPartitionsWithLag="true",
                sasl="gssapi",
                partitionLimitation="8-5",
            )
        )

    message = caught.value.message
    for part in ("consumerGroup is required", "lagThreshold", "cannot both be true", "gssapi", '"8-5"'):
        assert part in message


def test_several_topics_need_apache_kafka():
    with pytest.raises(ScalerError, match="apache-kafka"):
        settings(topic="a,b")
    assert read_settings(trigger("apache-kafka", topic="a,b")).topics == ("a", "b")


def test_password_login_comes_from_the_authentication():
    made = read_settings(
        trigger(
            params={"sasl": "scram_sha512", "username": "u", "password": "p", "tls": "enable", "ca": "PEM"}
        )
    )

    assert made.connection == {
        "brokers": "k:9092",
        "clientID": "pelton-scaler",
        "authType": "password",
        "saslUsername": "u",
        "saslPassword": "p",
        "saslMechanism": "SHA-512",
        "caCert": "PEM",
        "skipVerify": "false",
    }


@given(
    lags=st.lists(st.integers(0, 10_000), min_size=1, max_size=20),
    threshold=st.integers(1, 500),
)
def test_whole_thresholds_never_exceed_partitions(lags, threshold):
    """Whole ones: KEDA's division truncates, so that what is left over may ask for one replica more."""
    reading = measure(settings(lagThreshold=str(threshold)), offsets(*((0, lag) for lag in lags)), {})

    assert reading.value <= max(sum(lags), 0)
    assert reading.value // threshold <= len(lags)
    assert reading.active == (sum(lags) > 0)


def test_partition_without_offset_and_without_leader_counts_as_one_record():
    offsets = [Offset(topic="t", partition=0, committed=-1, end=None)]

    assert measure(settings(), offsets, {}).value == 1.0
    assert measure(settings(offsetResetPolicy="earliest"), offsets, {}).value == 0.0
    assert measure(settings(scaleToZeroOnInvalidOffset="true"), offsets, {}).value == 0.0


@pytest.mark.parametrize(
    ("version", "fine"), [("0.10.2.0", True), ("3.9.0", True), ("3.9", False), ("x", False)]
)
def test_version_has_kafkas_form(version, fine):
    if fine:
        settings(version=version)
        return
    with pytest.raises(ScalerError, match="version is"):
        settings(version=version)
