"""The descriptor pool in which the messages of `dapr_*.proto` live, apart from protobuf's default one.

An app's own Dapr SDK registers the same full names in the default pool; both in one process would not load.
Well-known types of this pool are classes of their own: fill them through their fields, or make them with
`message_class`. Used by the generated modules of `dapr_*.proto` (`scripts/gen-proto` puts it in) and by
`compat/dapr/`.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import (
    any_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
)

__all__ = ["POOL", "message_class"]

POOL = descriptor_pool.DescriptorPool()
"""Holds the well-known types that Dapr's messages use, and those messages once their modules are imported."""

for _module in (any_pb2, duration_pb2, empty_pb2, struct_pb2, timestamp_pb2):
    POOL.AddSerializedFile(_module.DESCRIPTOR.serialized_pb)


def message_class(name: str) -> type[Any]:
    """Return the class of a message of this pool.

    Args:
        name: Full name, such as `google.protobuf.Any`.

    Raises:
        KeyError: No such message has been imported.
    """
    made: type[Any] = message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))
    return made
