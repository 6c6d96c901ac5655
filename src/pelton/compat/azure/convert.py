"""Values of bindings by the library's own converters, and outputs as the platform takes them.

Everything that needs the package `azure.functions` at run time, except the HTTP request (`http.py`).
Source: azure-functions (`meta`, the registry of converters); azure-functions-python-worker (the `generic`
converter, used for str and bytes and for types that the registry lacks). Decided where it is silent: a list
set on a message binding becomes one message per item; a blob's name travels as metadata `blobName`.
"""

from __future__ import annotations

import importlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pelton.compat.azure.app import Binding
from pelton.compat.azure.values import Collection, Datum
from pelton.model.invocation import Delivered, Output

__all__ = ["Library", "OutputError", "accepted", "expand", "fetch", "fetched", "outputs_of"]

_MESSAGES: Final = frozenset({"queue", "eventHub", "eventGrid", "serviceBus", "kafka"})
_GENERIC: Final = "generic"
_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"
_BYTES: Final = "application/octet-stream"
_PLACE: Final = re.compile(r"\{([A-Za-z0-9_.:-]+)\}")


class OutputError(RuntimeError):
    """A binding's data could not be sent or fetched."""


def accepted(function: str, binding: str, delivered: Delivered) -> Delivered:
    """Return what a destination answered.

    Raises:
        OutputError: It refused, or there is no such output.
    """
    if delivered.ok:
        return delivered
    raise OutputError(
        f"function {function!r}: binding {binding!r}: {delivered.error or 'not accepted'}. Bindings go to "
        "the output of the same name; declare it in spec.serving.outputs."
    )


def expand(text: str, lookup: Mapping[str, Any]) -> str:
    """Fill the binding expressions of a path: `{name}` from the trigger, `{rand-guid}`."""

    def value(found: re.Match[str]) -> str:
        name = found[1].partition(":")[0]
        if name.lower() == "rand-guid":
            return str(uuid.uuid4())
        return str(lookup[name]) if name in lookup else found[0]

    return _PLACE.sub(value, text) if "{" in text else text


class Library:
    """The package `azure.functions` of the function's environment.

    Attributes:
        module: The package.
        abstract: Its abstract classes.
        local: The `thread_local_storage` of every context.
    """

    def __init__(self) -> None:
        self.module: Any = importlib.import_module("azure.functions")
        self.abstract: Any = importlib.import_module("azure.functions._abc")
        meta = importlib.import_module("azure.functions.meta")
        self.local = threading.local()
        self._datum: Callable[..., Any] = meta.Datum
        self._registry: Any = meta.get_binding_registry()
        self._out = _out_class(self.module)

    def out(self) -> Any:
        """Return an empty `Out`."""
        return self._out()

    # --- in ---
    def decode(self, binding: Binding, datum: Datum, metadata: Mapping[str, Datum]) -> Any:
        """Return the object that a function gets for a datum."""
        converter = None if binding.converter == _GENERIC else self._registry.get(binding.converter)
        if converter is None:
            return _generic(datum, binding.wanted)
        found = {name: self._datum(type=kind, value=value) for name, (kind, value) in metadata.items()}
        kind, value = datum
        return converter.decode(self._datum(type=kind, value=value), trigger_metadata=found)

    # --- out ---
    def encode(
        self, function: str, binding: Binding, value: Any, lookup: Mapping[str, Any]
    ) -> Iterator[Output]:
        """Yield what to send for a value; nothing for None.

        Args:
            function: For messages.
            binding: Where it was set.
            value: What was set.
            lookup: For binding expressions.

        Raises:
            OutputError: The value has a type that this binding does not take.
        """
        if value is None:
            return
        several = binding.type in _MESSAGES and isinstance(value, list | tuple)
        for item in value if several else (value,):
            data, content_type = self._encoded(function, binding, item)
            yield _output(binding, data, content_type, lookup)

    def _encoded(self, function: str, binding: Binding, value: Any) -> tuple[bytes, str]:
        if binding.type == "queue" and hasattr(value, "get_body"):
            return _typed("bytes", value.get_body())
        plain = isinstance(value, str | bytes | bytearray)
        converter = None if binding.converter == _GENERIC or plain else self._registry.get(binding.type)
        if converter is None:
            if plain or (binding.type != "kafka" and isinstance(value, dict | list | int | float)):
                return _typed(*_datum_of(value))
        else:
            try:
                datum = converter.encode(value, expected_type=binding.wanted)
            except NotImplementedError:
                datum = None
            if datum is not None and datum.type is not None:
                return _typed(datum.type, datum.value)
        raise OutputError(
            f"function {function!r}: binding {binding.name!r} ({binding.type}) takes no "
            f"{type(value).__name__}; set a str or bytes"
        )


def outputs_of(function: str, binding: Binding, value: Any, lookup: Mapping[str, Any]) -> Iterator[Output]:
    """Yield what to send for a plain value (of a custom handler); arguments as `Library.encode`."""
    several = binding.type in _MESSAGES and isinstance(value, list)
    for item in value if several else (value,):
        data, content_type = _typed(*_datum_of(item))
        yield _output(binding, data, content_type, lookup)


def _out_class(module: Any) -> Any:
    class Out(module.Out):  # type: ignore[misc]  # the library has no types here
        """An output parameter; see `azure.functions.Out`."""

        def __init__(self) -> None:
            self.value: Any = None

        def set(self, val: Any) -> None:
            self.value = val

        def get(self) -> Any:
            return self.value

    return Out


def _generic(datum: Datum, wanted: Any) -> Any:
    _, value = datum
    if isinstance(value, Collection):
        return value.string or value.bytes or value.sint64
    if wanted is bytes and isinstance(value, str):
        return value.encode()
    return value


def _datum_of(value: Any) -> Datum:
    if isinstance(value, str):
        return "string", value
    if isinstance(value, bytes | bytearray):
        return "bytes", bytes(value)
    return "json", json.dumps(value, ensure_ascii=False)


def _typed(kind: str | None, value: Any) -> tuple[bytes, str]:
    """Return a datum as payload and media type; text that is a JSON document counts as one."""
    if isinstance(value, bytes):
        return value, _BYTES if not _is_json(value) else _JSON
    text = str(value) if not isinstance(value, str) else value
    data = text.encode()
    return data, _JSON if kind == "json" or _is_json(data) else _TEXT


def _is_json(data: bytes) -> bool:
    if data[:1] not in {b"{", b"["}:
        return False
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


def _output(binding: Binding, data: bytes, content_type: str, lookup: Mapping[str, Any]) -> Output:
    if binding.type.startswith("dapr") and content_type == _JSON:
        return _dapr_output(binding, data)
    metadata = {}
    path = str(binding.fields.get("path") or "").partition("/")[2]
    if binding.type == "blob" and path:
        metadata["blobName"] = expand(path, lookup)
    return Output(name=binding.name, data=data, content_type=content_type, metadata=metadata)


def _dapr_output(binding: Binding, data: bytes) -> Output:
    """Open the envelope that Dapr's extension takes: `payload`, or `data` with operation and metadata."""
    content = json.loads(data)
    if not isinstance(content, dict) or not content.keys() & {"payload", "data"}:
        return Output(name=binding.name, data=data)
    kind, value = _datum_of(content["payload"] if "payload" in content else content["data"])
    body, content_type = _typed(kind, value)
    metadata = content.get("metadata")
    return Output(
        name=binding.name,
        data=body,
        content_type=content_type,
        operation=str(content.get("operation") or ""),
        metadata={str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {},
    )


def fetch(binding: Binding, lookup: Mapping[str, Any]) -> Output:
    """Return the request that fetches an input binding's data."""
    path = str(binding.fields.get("path") or "").partition("/")[2]
    metadata = {"blobName": expand(path, lookup)} if path else {}
    if binding.fields.get("key"):
        metadata["key"] = expand(str(binding.fields["key"]), lookup)
    return Output(name=binding.name, data=b"", operation="get", metadata=metadata)


def fetched(binding: Binding, delivered: Delivered) -> Datum:
    """Return the datum that such a request brought."""
    if binding.type in {"cosmosDB", "sql", "mysql"}:
        return "json", delivered.data.decode()
    if binding.wanted is bytes or binding.type == "blob":
        return "bytes", delivered.data
    try:
        return "string", delivered.data.decode()
    except UnicodeDecodeError:
        return "bytes", delivered.data
