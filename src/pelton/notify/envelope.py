"""What travels on the bus: an intake batch and a notification for one destination, as JSON.

Pure. Written and read by `notify/pipeline.py` and `notify/sending.py`. JSON, so that `pelton dlq show` is
readable. No settings of a receiver are in it: addresses and tokens stay out of the bus, and a repaired
address counts at once for what waits.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from pelton.errors import ProtocolError
from pelton.notify.alert import Alert
from pelton.notify.grouping import Group

__all__ = ["Batch", "Notification", "decode_batch", "decode_notification", "encode", "encoded_size"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Alerts of one accepted request, or a part of it.

    Attributes:
        id: Random; notification ids derive from it, so a batch that is handled twice notifies once.
        alerts: At least one.
        received_at: Unix seconds at which they came in.
    """

    id: str
    alerts: list[Alert]
    received_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """One group for one block of one receiver.

    Attributes:
        id: `<batch>/<receiver>/<block>/<number of the group>`.
        receiver: Receiver name.
        block: `slack`, `webhook` or `console`.
        created_at: Unix seconds of the first enqueueing.
        group: What to say.
        group_key: The same for all notifications of one group that is kept over time, however often it
            notifies; "" where alerts are sent as they come.
        reason: Why it is sent: `first`, `new alerts`, `all resolved`, `some resolved` or `repeat`; "" where
            alerts are sent as they come.
    """

    id: str
    receiver: str
    block: str
    created_at: float
    group: Group
    group_key: str = ""
    reason: str = ""


_encoder = msgspec.json.Encoder()
_batch = msgspec.json.Decoder(Batch)
_notification = msgspec.json.Decoder(Notification)


def encode(item: Batch | Notification) -> bytes:
    """Return compact JSON."""
    return _encoder.encode(item)


def encoded_size(alert: Alert) -> int:
    """Return the bytes that one alert takes in a batch."""
    return len(_encoder.encode(alert)) + 1


def decode_batch(data: bytes) -> Batch:
    """Read an intake batch; raises ProtocolError when it is none."""
    try:
        return _batch.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError(f"The message is not a batch of alerts: {error}.") from error


def decode_notification(data: bytes) -> Notification:
    """Read a notification; raises ProtocolError when it is none."""
    try:
        return _notification.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError(f"The message is not a notification: {error}.") from error
