"""What is served: one row per (group, version, plural), added and removed while the server runs.

A row says how a resource is called, which subresources and columns it has, and through which ports its
objects pass: `Checks` (defaults, pruning, validation), `Conversion` (between its versions). `cli/` adds the
rows of `manifest_kinds.py` and `builtin/`; the controller of CustomResourceDefinitions adds and removes its
own. `rest.py` routes by it, `pipeline.py` writes by it, `discovery.py` describes it.

Source: contracts operator-webhook.md sections 5 and 6.1.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.types import ASGIApp

from pelton.apiserver.rules import Obj
from pelton.apiserver.table import Column

__all__ = [
    "ALL_VERBS",
    "OPEN",
    "Cause",
    "Checked",
    "Checks",
    "Conversion",
    "Open",
    "Registry",
    "Row",
    "Scale",
    "Subresource",
    "version_priority",
]

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
"""What a resource offers unless its row says less."""

_VERSION = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One broken rule.

    Attributes:
        field: Path, e.g. `spec.ports[0].port`.
        message: Sentence, e.g. `Required value`.
        reason: As Kubernetes has it: FieldValueInvalid, FieldValueRequired, FieldValueNotSupported, ...
    """

    field: str
    message: str
    reason: str = "FieldValueInvalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """An object after validation.

    Attributes:
        obj: To store, without unknown fields; a new object where something was dropped.
        causes: Broken rules; the write is refused with 422 when there are any.
        warnings: One sentence each for the user.
        unknown: Paths of the fields that were dropped; `fieldValidation` decides what becomes of them.
    """

    obj: Obj
    causes: Sequence[Cause] = ()
    warnings: Sequence[str] = ()
    unknown: Sequence[str] = ()


class Checks(Protocol):
    """Defaults and rules of one version of a kind. Pure, never waits, never changes what it is given."""

    def default(self, obj: Obj, /) -> Obj:
        """Return the object with defaults; called when a request is decoded and after mutating admission."""
        ...

    def check(self, obj: Obj, old: Obj | None, /, *, subresource: str) -> Checked:
        """Prune and validate.

        Args:
            obj: What is to be stored, with defaults.
            old: What is stored, in the same version; None for a new object.
            subresource: "" or "status".

        Raises:
            PeltonError: Instead of causes, when the kind has an error of its own.
        """
        ...

    def prune(self, obj: Obj, /) -> tuple[Obj, Sequence[str]]:
        """Return the object without unknown fields, and their paths: what admission webhooks are to see."""
        ...

    def read(self, obj: Obj, /) -> Obj:
        """Return a stored object as it is shown; called only when `Row.reads` is set."""
        ...


class Open:
    """Checks that let everything pass."""

    def default(self, obj: Obj, /) -> Obj:
        """Return it as it is."""
        return obj

    def check(self, obj: Obj, old: Obj | None, /, *, subresource: str) -> Checked:
        """Accept it as it is."""
        return Checked(obj=obj)

    def prune(self, obj: Obj, /) -> tuple[Obj, Sequence[str]]:
        """Drop nothing."""
        return obj, ()

    def read(self, obj: Obj, /) -> Obj:
        """Return it as it is."""
        return obj


OPEN = Open()
"""For kinds without rules."""


class Conversion(Protocol):
    """Converts objects of one kind between its versions."""

    async def convert(self, objects: Sequence[Obj], row: Row, /) -> list[Obj]:
        """Return every object in the version of `row`, in the order given; raises PeltonError.

        Objects that are in that version already are never given. Cancelling leaves nothing behind.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The scale subresource (autoscaling/v1 Scale) of a kind, as JSONPaths with a leading dot.

    Attributes:
        spec_replicas: Where the wanted number is, below `.spec`.
        status_replicas: Where the observed number is, below `.status`.
        label_selector: Where the selector text is; "" for none.
        observed: Counts the replicas of an object where its status does not say.
    """

    spec_replicas: str
    status_replicas: str
    label_selector: str = ""
    observed: Callable[[Obj], int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subresource:
    """A subresource that answers by itself, such as `pods/log`.

    Attributes:
        name: As in the path.
        kind: Kind of its answers, with the group and version of that kind.
        verbs: get, create, update, patch, delete: which methods it takes.
        answer: Called with the `Call` (typed as Any: `calls.py` imports this module).
    """

    name: str
    kind: str
    group: str = ""
    version: str = "v1"
    verbs: tuple[str, ...] = ("get",)
    answer: Callable[[Any], Awaitable[ASGIApp]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One version of a resource.

    Attributes:
        group: API group, "" for core.
        version, kind, plural, singular, short_names, categories: As in discovery.
        namespaced: Whether objects live in a namespace.
        storage: Whether objects are kept in this version; exactly one version of a resource is.
        served: Whether clients see it; a stored version may be hidden.
        status: Whether it has a status subresource (then the main path leaves status alone).
        scale: Its scale subresource, None for none.
        subresources: Further subresources.
        columns: Columns of `kubectl get` after the name; the age when there are none.
        name_column: Whether the name is the first column.
        schema: Structural OpenAPI v3 schema of the whole object, None for any content.
        checks: Defaults and rules.
        reads: Whether `checks.read` is called on what was stored (a schema may have changed since).
        conversion: Between versions; None rewrites apiVersion only.
        builtin: A kind of Kubernetes itself: strategic merge patches are served.
        generation: Whether metadata.generation is kept.
        verbs: What it offers.
        selectable: Field selectors besides metadata.name and metadata.namespace -> JSONPath.
        deprecation: Warning for every request, "" for none.
        stored_as: Store's name of the resource when it is not its own: two groups may share objects.
        answer: Answers a create by itself and stores nothing, for kinds that are questions.
        deleted: What a DELETE does first to an object, e.g. a finalizer that a controller removes.
    """

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...] = ()
    namespaced: bool = True
    categories: tuple[str, ...] = ()
    list_kind: str = ""
    storage: bool = True
    served: bool = True
    status: bool = False
    scale: Scale | None = None
    subresources: tuple[Subresource, ...] = ()
    columns: Sequence[Column] = ()
    name_column: bool = True
    schema: Mapping[str, Any] | None = None
    checks: Checks = OPEN
    reads: bool = False
    conversion: Conversion | None = None
    builtin: bool = False
    generation: bool = True
    verbs: tuple[str, ...] = ALL_VERBS
    selectable: Mapping[str, str] = field(default_factory=dict)
    deprecation: str = ""
    stored_as: str = ""
    answer: Callable[[Any, Obj], Awaitable[Obj]] | None = None
    deleted: Callable[[Obj], Obj] | None = None

    @property
    def api_version(self) -> str:
        """`<group>/<version>`, or the version alone for core."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def name(self) -> str:
        """`<plural>.<group>`: what messages call it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def key(self) -> str:
        """The store's name of the resource."""
        return self.stored_as or self.name

    @property
    def prefix(self) -> str:
        """Path of its group and version, without a leading slash."""
        return f"apis/{self.group}/{self.version}" if self.group else f"api/{self.version}"


def version_priority(version: str) -> tuple[int, int, int, str]:
    """Return a sort key: the highest priority sorts first (v2, v1, v1beta2, v1beta1, v1alpha1, others)."""
    match = _VERSION.fullmatch(version)
    if match is None:
        return (3, 0, 0, version)
    stage = {None: 0, "beta": 1, "alpha": 2}[match[2]]
    return (stage, -int(match[1]), -int(match[3] or 0), version)


class Registry:
    """The rows being served.

    Args:
        rows: To begin with.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows: dict[tuple[str, str, str], Row] = {}
        self.revision = 0
        """Grows with every change; documents made from the rows are kept by it."""
        self.add(rows)

    def add(self, rows: Iterable[Row]) -> None:
        """Serve these rows; rows of the same resources that are not among them are served no longer.

        Raises:
            ValueError: A resource has not exactly one storage version among the rows given.
        """
        given = list(rows)
        resources = {(row.group, row.plural) for row in given}
        for group, plural in resources:
            stored = [r for r in given if (r.group, r.plural) == (group, plural) and r.storage]
            if len(stored) != 1:
                raise ValueError(f"{plural}.{group} has {len(stored)} storage versions, not one")
        self._rows = {k: row for k, row in self._rows.items() if (row.group, row.plural) not in resources}
        self._rows |= {(row.group, row.version, row.plural): row for row in given}
        self.revision += 1

    def remove(self, group: str, plural: str) -> None:
        """Serve a resource no longer, in any version; its objects stay where they are."""
        self._rows = {k: row for k, row in self._rows.items() if (row.group, row.plural) != (group, plural)}
        self.revision += 1

    def find(self, group: str, version: str, plural: str) -> Row | None:
        """Return the row of a path, None when that is not served."""
        row = self._rows.get((group, version, plural))
        return row if row is not None and row.served else None

    def storage(self, row: Row) -> Row:
        """Return the row of the version in which objects of this resource are kept."""
        if row.stored_as:
            return next(r for r in self._rows.values() if r.storage and r.name == row.stored_as)
        if row.storage:
            return row
        return next(r for r in self._rows.values() if r.storage and (r.group, r.plural) == _resource(row))

    def versions(self, group: str, plural: str) -> list[Row]:
        """Return all rows of a resource, hidden ones too, highest version first."""
        found = [row for row in self._rows.values() if (row.group, row.plural) == (group, plural)]
        return sorted(found, key=lambda row: version_priority(row.version))

    def by_kind(self, group: str, version: str, kind: str) -> Row | None:
        """Return the served row of a kind, None when there is none."""
        return next(
            (r for r in self.rows() if (r.group, r.version, r.kind) == (group, version, kind)),
            None,
        )

    def rows(self) -> list[Row]:
        """Return the served rows in the order in which they came."""
        return [row for row in self._rows.values() if row.served]

    def stored(self) -> dict[str, Row]:
        """Return the storage row of every resource that keeps objects, by the store's name."""
        return {
            row.key: row
            for row in self._rows.values()
            if row.storage and not row.stored_as and not row.answer
        }


def _resource(row: Row) -> tuple[str, str]:
    return row.group, row.plural
