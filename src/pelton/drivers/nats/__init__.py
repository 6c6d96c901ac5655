"""NATS JetStream as event bus."""

from pelton.drivers.nats.bus import ATTEMPTS_BUCKET, MAX_PAYLOAD_BYTES, JetStreamBus, Lag, is_embedded

__all__ = ["ATTEMPTS_BUCKET", "MAX_PAYLOAD_BYTES", "JetStreamBus", "Lag", "is_embedded"]
