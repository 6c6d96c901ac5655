"""The forms in which clients take objects: as they are, as a table of cells, or metadata only. Pure.

`rest.py` and `stream.py` pick one by the Accept header and never look inside objects themselves. Plain
objects are passed on as the stored JSON bytes, so that a list of 10,000 needs no decoding. Source: the
Accept values that kubectl and client-go send (`as=Table`, `as=PartialObjectMetadata[List]`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol

import msgspec

from pelton.apiserver import table
from pelton.apiserver.registry import Row
from pelton.apiserver.status import RefusedError
from pelton.manifest.kinds import Column

__all__ = ["Form", "accepts", "choose", "encode"]

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()
_META = "meta.k8s.io/v1"
_META_VERSIONS = (("meta.k8s.io", "v1"), ("meta.k8s.io", "v1beta1"))


class Form(Protocol):
    """How objects of one resource are shown."""

    def one(self, raw: bytes) -> bytes:
        """Return the answer for a single object."""
        ...

    def head(self, metadata: dict[str, Any]) -> bytes:
        """Return the beginning of a list up to the first item; `metadata` is the list's."""
        ...

    def item(self, raw: bytes) -> bytes:
        """Return one item of a list; items are joined by commas."""
        ...

    def event(self, raw: bytes) -> bytes:
        """Return the object of a watch event."""
        ...


TAIL = b"]}\n"
"""What ends a list in every form."""


def encode(document: Any) -> bytes:
    """Return JSON bytes."""
    return _encoder.encode(document)


def accepts(header: str) -> list[dict[str, str]]:
    """Return the media ranges of an Accept header in the client's order; key "" holds the type."""
    ranges = []
    for part in header.split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        pairs = (parameter.partition("=") for parameter in parameters)
        ranges.append({**{key.strip(): value.strip() for key, _, value in pairs}, "": media.lower()})
    return ranges


def choose(header: str, resource: Row, *, now: datetime, include: str = "") -> Form:
    """Return the first form of an Accept header that is served.

    Args:
        header: The Accept header; "" means anything.
        resource: Whose objects will be shown.
        now: For ages in tables.
        include: Query parameter includeObject: None, Metadata (default) or Object; what a table row carries.

    Raises:
        RefusedError: 406, nothing of what the client accepts is served.
    """
    for accepted in accepts(header or "*/*"):
        if accepted[""] not in ("application/json", "application/*", "*/*"):
            continue
        wanted = accepted.get("as", "")
        if wanted and (accepted.get("g"), accepted.get("v")) not in _META_VERSIONS:
            continue
        if wanted == "Table":
            return _Table(resource, now, include or "Metadata", accepted["v"])
        if wanted in ("PartialObjectMetadata", "PartialObjectMetadataList"):
            return _Metadata()
        if not wanted:
            return _Plain(resource)
    raise RefusedError(
        f"none of the accepted media types is served: {header}", status=406, hint="Accept application/json."
    )


class _Plain:
    def __init__(self, resource: Row) -> None:
        self._kind = {
            "kind": resource.list_kind or f"{resource.kind}List",
            "apiVersion": resource.api_version,
        }

    def one(self, raw: bytes) -> bytes:
        return raw + b"\n"

    def head(self, metadata: dict[str, Any]) -> bytes:
        return encode({**self._kind, "metadata": metadata})[:-1] + b',"items":['

    def item(self, raw: bytes) -> bytes:
        return raw

    def event(self, raw: bytes) -> bytes:
        return raw


def _partial(obj: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "PartialObjectMetadata", "apiVersion": _META, "metadata": obj.get("metadata", {})}


class _Metadata:
    def one(self, raw: bytes) -> bytes:
        return self.item(raw) + b"\n"

    def head(self, metadata: dict[str, Any]) -> bytes:
        kind = {"kind": "PartialObjectMetadataList", "apiVersion": _META, "metadata": metadata}
        return encode(kind)[:-1] + b',"items":['

    def item(self, raw: bytes) -> bytes:
        return encode(_partial(_decoder.decode(raw)))

    def event(self, raw: bytes) -> bytes:
        return self.item(raw)


_COLUMN_TYPES = ("string", "integer", "number", "boolean", "date")
_NAME = Column("Name", "string", ".metadata.name")
_AGE = Column("Age", "date", ".metadata.creationTimestamp")  # what kinds without columns show


class _Table:
    def __init__(self, row: Row, now: datetime, include: str, version: str) -> None:
        self._now = now
        self._include = include
        self._version = f"meta.k8s.io/{version}"
        names = [_NAME] if row.name_column else []
        shown = [*names, *(row.columns or (_AGE,))]
        self._finders = [(column.type, table.find(column.json_path)) for column in shown]
        self._definitions = [
            {
                "name": column.name,
                "type": column.type if column.type in _COLUMN_TYPES else "string",
                "format": "name" if column is _NAME else "",
                "description": column.name,
                "priority": column.priority,
            }
            for column in shown
        ]

    def head(self, metadata: dict[str, Any]) -> bytes:
        start = {
            "kind": "Table",
            "apiVersion": self._version,
            "metadata": metadata,
            "columnDefinitions": self._definitions,
        }
        return encode(start)[:-1] + b',"rows":['

    def one(self, raw: bytes) -> bytes:
        version = _decoder.decode(raw).get("metadata", {}).get("resourceVersion", "")
        return self.head({"resourceVersion": version}) + self.item(raw) + TAIL

    def item(self, raw: bytes) -> bytes:
        obj = _decoder.decode(raw)
        row: dict[str, Any] = {"cells": table.cells(self._finders, obj, self._now)}
        if self._include == "Metadata":
            row["object"] = _partial(obj)
        elif self._include == "Object":
            row["object"] = obj
        return encode(row)

    def event(self, raw: bytes) -> bytes:
        return self.one(raw).rstrip()
