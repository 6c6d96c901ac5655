"""Kafka as event bus and binding, and the scaler of a group's lag."""

from pelton.drivers.kafka.bus import KafkaBinding, KafkaBus, PartitionLag
from pelton.drivers.kafka.scaler import KafkaScaler

__all__ = ["KafkaBinding", "KafkaBus", "KafkaScaler", "PartitionLag"]
