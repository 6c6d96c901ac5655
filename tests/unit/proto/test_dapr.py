"""Dapr's protocol: every message, number, type, enum and method, and the SDK beside it in one process."""

import importlib
from pathlib import Path

from google.protobuf import descriptor

from pelton.proto import (
    dapr_actors_pb2,
    dapr_common_pb2,
    dapr_conversation_pb2,
    dapr_crypto_pb2,
    dapr_jobs_pb2,
    dapr_runtime_pb2,
    dapr_workflow_pb2,
)
from pelton.proto.dapr_pool import message_class

_TABLE = Path(__file__).parents[2] / "wire" / "dapr" / "protocol.txt"
_RUNTIME = (
    dapr_actors_pb2,
    dapr_conversation_pb2,
    dapr_crypto_pb2,
    dapr_jobs_pb2,
    dapr_runtime_pb2,
    dapr_workflow_pb2,
)
_SCALARS = {
    getattr(descriptor.FieldDescriptor, f"TYPE_{name.upper()}"): name
    for name in ("string", "bytes", "bool", "int32", "int64", "uint32", "uint64", "double")
}


def _table(package: str) -> list[str]:
    found: list[str] = []
    at = ""
    for line in _TABLE.read_text().splitlines():
        if line.startswith("## "):
            at = line[3:]
        elif line and not line.startswith("#") and at == package:
            found.append(line)
    return sorted(found)


def _relative(full: str) -> str:
    """Write a type's name as the table does: nested enums by their last part where a field names them."""
    if full.startswith("google.protobuf."):
        return f"g.{full.removeprefix('google.protobuf.')}"
    return full.removeprefix("dapr.proto.").replace("common.v1.", "common.").removeprefix("runtime.v1.")


def _type(field, owner: str) -> str:
    if field.message_type is not None:
        if field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            return f"map<{_type(key, owner)},{_type(value, owner)}>"
        name = _relative(field.message_type.full_name)
    elif field.enum_type is not None:
        name = _relative(field.enum_type.full_name)
    else:
        return _SCALARS[field.type]
    return name.removeprefix(f"{_relative(owner)}.").removeprefix(_own(owner))


def _own(owner: str) -> str:
    return "common." if owner.startswith("dapr.proto.common.v1.") else "runtime.v1."


def _field(field, owner: str) -> str:
    kind = _type(field, owner)
    repeated = field.is_repeated and not kind.startswith("map<")
    optional = "?" if field.containing_oneof is not None and len(field.containing_oneof.fields) == 1 else ""
    optional = optional if field.containing_oneof and field.containing_oneof.name.startswith("_") else ""
    deprecated = "†" if field.GetOptions().deprecated else ""
    return f"{field.number} {field.name}:{'rep ' if repeated else ''}{kind}{optional}{deprecated}"


def _message(message) -> str:
    parts: list[str] = []
    done: set[str] = set()
    for field in message.fields:
        one = field.containing_oneof
        if one is None or one.name.startswith("_"):
            parts.append(_field(field, message.full_name))
        elif one.name not in done:
            done.add(one.name)
            inside = ", ".join(_field(each, message.full_name) for each in one.fields)
            parts.append(f"oneof {one.name} {{{inside}}}")
    return f"message {message.name}: {'; '.join(parts)}".rstrip()


def _enum(enum) -> str:
    name = f"{enum.containing_type.name}.{enum.name}" if enum.containing_type else enum.name
    return f"enum {name}: {', '.join(f'{value.name}={value.number}' for value in enum.values)}"


def _method(method) -> str:
    def side(message, streaming: bool) -> str:
        return f"{'stream ' if streaming else ''}{_relative(message.full_name)}"

    deprecated = "†" if method.GetOptions().deprecated else ""
    asked = side(method.input_type, method.client_streaming)
    answered = side(method.output_type, method.server_streaming)
    return f"rpc {method.containing_service.name}.{method.name}({asked}) -> {answered}{deprecated}"


def _described(*modules) -> list[str]:
    found: list[str] = []
    for module in modules:
        for message in module.DESCRIPTOR.message_types_by_name.values():
            found.append(_message(message))
            found += [_enum(enum) for enum in message.enum_types]
        found += [_enum(enum) for enum in module.DESCRIPTOR.enum_types_by_name.values()]
        for service in module.DESCRIPTOR.services_by_name.values():
            found += [_method(method) for method in service.methods]
    return sorted(found)


def test_common_messages_are_the_protocols():
    assert _table("dapr.proto.common.v1") == _described(dapr_common_pb2)


def test_runtime_messages_and_services_are_the_protocols():
    assert _table("dapr.proto.runtime.v1") == _described(*_RUNTIME)


def test_packages_and_services_have_the_protocols_names():
    packages = {module.DESCRIPTOR.package for module in _RUNTIME}
    services = sorted(s.full_name for s in dapr_runtime_pb2.DESCRIPTOR.services_by_name.values())

    assert {"dapr.proto.runtime.v1"} == packages
    assert dapr_common_pb2.DESCRIPTOR.package == "dapr.proto.common.v1"
    assert services == [
        "dapr.proto.runtime.v1.AppCallback",
        "dapr.proto.runtime.v1.AppCallbackAlpha",
        "dapr.proto.runtime.v1.AppCallbackHealthCheck",
        "dapr.proto.runtime.v1.Dapr",
    ]


def test_messages_pass_between_the_sdk_and_ours_in_one_process():
    theirs = importlib.import_module("dapr.proto.runtime.v1.dapr_pb2")
    state = importlib.import_module("dapr.proto.runtime.v1.state_pb2")
    request = state.SaveStateRequest(store_name="s")
    request.states.add(key="k", value=b"v").etag.value = "7"

    ours = dapr_runtime_pb2.SaveStateRequest.FromString(request.SerializeToString())

    assert theirs.DESCRIPTOR.services_by_name["Dapr"].full_name == "dapr.proto.runtime.v1.Dapr"
    assert (ours.store_name, ours.states[0].key, ours.states[0].etag.value) == ("s", "k", "7")
    assert request.SerializeToString() == ours.SerializeToString()


def test_well_known_types_work_through_fields_and_by_name():
    event = dapr_runtime_pb2.TopicEventRequest()
    event.extensions.update({"a": {"b": 1}})
    packed = dapr_common_pb2.InvokeRequest(data=message_class("google.protobuf.Any")(value=b"x"))

    assert event.extensions["a"]["b"] == 1
    assert packed.data.value == b"x"
