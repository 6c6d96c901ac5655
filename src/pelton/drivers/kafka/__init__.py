"""Kafka as event bus and binding."""

from pelton.drivers.kafka.bus import KafkaBinding, KafkaBus, PartitionLag

__all__ = ["KafkaBinding", "KafkaBus", "PartitionLag"]
