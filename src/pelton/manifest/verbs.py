"""The five verbs of a kind whose spec is one table: what most kinds need, written once.

A kind's module makes a `TableVerbs` from its table of fields and gives it what is its own (defaults, rules,
another version's forms); `manifest/kinds` calls it. Fields beside `spec`, such as Dapr's `scopes`, are a
table of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from pelton.errors import UnservedVersionError
from pelton.manifest.fields import (
    Decoded,
    Field,
    Problem,
    Reading,
    Record,
    copy_json,
    describe,
    merge_problems,
    raise_invalid,
    read_metadata,
    render_path,
    write_metadata,
)
from pelton.manifest.versions import Older

__all__ = ["TableVerbs"]

M = TypeVar("M")
Obj = dict[str, Any]


def _nothing(filled: Obj) -> None:
    """Fill in nothing."""


class TableVerbs(Generic[M]):
    """Read and write a kind.

    Args:
        api_version: `<group>/<version>` of the storage version.
        kind: E.g. `Builder`.
        spec: Table of the spec; its `make` also takes name, namespace, labels and annotations.
        default: Fills defaults into a copy that it may change; leaves malformed parts alone.
        rules: Broken rules of a model, in contract order.
        required: Whether an object without spec has a problem of type.
        older: Further served versions.
        moved: Unknown field, with `*` for positions and names, -> what to write instead.
        beside: Fields that stand beside the spec; `make` takes their attributes, too.
    """

    def __init__(
        self,
        api_version: str,
        kind: str,
        spec: Record,
        *,
        default: Callable[[Obj], None] = _nothing,
        rules: Callable[[M], list[Problem]] | None = None,
        required: bool = False,
        older: tuple[Older, ...] = (),
        moved: Mapping[str, str] | None = None,
        beside: tuple[Field, ...] = (),
    ) -> None:
        self.api_version = api_version
        self.kind = kind
        self.spec = spec
        self._default = default
        self._rules = rules
        self._required = required
        self.older = older
        self.beside = beside
        self._moved = {tuple(path.split(".")): field for path, field in (moved or {}).items()}

    def read(self, obj: Obj) -> Decoded[M]:
        """Read an object of the storage version, collecting all problems; `status` is not looked at."""
        reading = Reading()
        values = read_metadata(obj, reading, beside=tuple(row.json for row in self.beside))
        for row in self.beside:
            if obj.get(row.json) is not None:
                values[row.attr] = row.shape.decode(obj[row.json], (row.json,), reading)
        spec = obj.get("spec")
        if spec is None:
            if self._required:
                reading.problem(("spec",), "required")
            spec = {}
            values |= self.spec.values(spec, ("spec",), Reading())
        elif type(spec) is dict:
            values |= self.spec.values(spec, ("spec",), reading)
        else:
            reading.problem(("spec",), f"must be an object, found {describe(spec)}")
            values |= self.spec.values({}, ("spec",), Reading())
        if self._moved and reading.unknown:
            self._name_moved(reading)
        return reading.result(self.spec.make(**values))

    def _name_moved(self, reading: Reading) -> None:
        """Say of unknown fields that another version has what to write here."""
        for path in reading.unknown:
            for pattern, field in self._moved.items():
                if len(pattern) == len(path) and all(
                    part in ("*", at) for part, at in zip(pattern, path, strict=True)
                ):
                    place = render_path(path)
                    reading.warnings = [item for item in reading.warnings if item.path != place]
                    reading.warn(
                        path, f"unknown field, ignored: it is one of an older version; write {field}"
                    )

    def decode(self, obj: Obj) -> tuple[M, list[Problem]]:
        """Return the model and warnings.

        Raises:
            InvalidError: With every wrong type and missing field.
        """
        found = self.read(obj)
        raise_invalid(self.kind, getattr(found.model, "name", ""), found.problems)
        return found.model, list(found.warnings)

    def default(self, obj: Obj) -> Obj:
        """Return a copy with the defaults filled in, those of the table first; idempotent."""
        filled: Obj = copy_json(obj)
        self.spec.fill(filled.get("spec"))
        self._default(filled)
        return filled

    def rules(self, model: M) -> list[Problem]:
        """Return the broken rules of a model, in contract order."""
        return self._rules(model) if self._rules is not None else []

    def validate(self, obj: Obj | M) -> list[Problem]:
        """Return all problems of an object or of a model: types first, then rules."""
        if not isinstance(obj, dict):
            return self.rules(obj)
        found = self.read(obj)
        return merge_problems(found.problems, self.rules(found.model))

    def convert(self, obj: Obj, api_version: str) -> Obj:
        """Return the object in another served version; the storage version is the hub.

        Raises:
            UnservedVersionError: From or to a version that is not served.
            InvalidError: An object of an older version has wrong types.
        """
        group, _, storage = self.api_version.partition("/")
        served = {self.api_version: None, **{f"{group}/{each.version}": each for each in self.older}}
        for version in (str(obj.get("apiVersion")), api_version):
            if version not in served:
                raise UnservedVersionError(
                    f"{self.kind} is served as {' and '.join(served)}, not as {version}"
                )
        source, result = served[str(obj.get("apiVersion"))], served[api_version]
        if source is result:
            return copy_json(obj)  # type: ignore[no-any-return]  # copying an object gives an object
        hub = obj if source is None else source.to_storage(obj, storage)
        return hub if result is None else result.from_storage(hub, storage)

    def encode(self, model: M) -> Obj:
        """Write a model as JSON: absent parts are left out."""
        written = {
            "apiVersion": self.api_version,
            "kind": self.kind,
            "metadata": write_metadata(model),
            "spec": self.spec.encode(model),
        }
        found = ((row, getattr(model, row.attr)) for row in self.beside)
        return written | {row.json: row.shape.encode(value) for row, value in found if value}
