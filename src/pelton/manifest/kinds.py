"""The table of served kinds, and the one front through which every manifest comes in: `admit`.

The API server and `pelton apply` call `admit`; discovery and tables of `get` read `KINDS`. A kind's five
verbs are in the module that its row names. Adding a kind is adding a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, cast

from pelton.errors import InvalidError, ManifestError, UnservedVersionError
from pelton.manifest import dapr, notification, openfunction_core, openfunction_revisions
from pelton.manifest.fields import Decoded, Path, Problem, describe, merge_problems, nearest

__all__ = ["KINDS", "Admitted", "Column", "Kind", "Verbs", "admit", "by_resource", "lookup"]


class Verbs(Protocol):
    """What a kind's module offers; models differ per kind, hence Any."""

    def read(self, obj: dict[str, Any], /) -> Decoded[Any]:
        """Return the model with problems of type and warnings; never raises for what the object holds."""
        ...

    def decode(self, obj: dict[str, Any], /) -> tuple[Any, list[Problem]]:
        """Return the model and warnings, or raise InvalidError with all problems of type."""
        ...

    def default(self, obj: dict[str, Any], /) -> dict[str, Any]:
        """Return a copy with defaults filled in; idempotent."""
        ...

    def rules(self, model: Any, /) -> list[Problem]:
        """Return the broken rules of a model, in contract order."""
        ...

    def validate(self, obj: Any, /) -> list[Problem]:
        """Return all problems of an object or of a model."""
        ...

    def convert(self, obj: dict[str, Any], api_version: str, /) -> dict[str, Any]:
        """Return the object in another served version, or raise UnservedVersionError."""
        ...

    def encode(self, model: Any, /) -> dict[str, Any]:
        """Write a model as JSON."""
        ...


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `get`.

    Attributes:
        name: Heading.
        type: `string`, `integer`, `boolean` or `date`.
        json_path: JSONPath of Kubernetes, with a leading dot.
        priority: 0 for columns that are always shown, 1 for those of `-o wide`.
    """

    name: str
    type: str
    json_path: str
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A served kind.

    Attributes:
        group, version, kind: Its names; together `<group>/<version>` is the apiVersion.
        plural, singular, short_names: As in paths and on the command line, lower case.
        namespaced: Whether its objects live in a namespace.
        categories: Names that stand for several kinds, e.g. `all`.
        status: Whether it has a status subresource.
        columns: Columns of `get` after the name.
        verbs: The module that reads and writes it.
    """

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...] = ()
    namespaced: bool = True
    categories: tuple[str, ...] = ()
    status: bool = False
    columns: tuple[Column, ...] = ()
    verbs: Verbs

    @property
    def api_version(self) -> str:
        """`<group>/<version>`."""
        return f"{self.group}/{self.version}"

    @property
    def resource(self) -> str:
        """`<plural>.<group>`, the name under which a Store keeps it."""
        return f"{self.plural}.{self.group}"

    @property
    def list_kind(self) -> str:
        """Kind of a list of it."""
        return f"{self.kind}List"


_AGE = Column("Age", "date", ".metadata.creationTimestamp")

KINDS: tuple[Kind, ...] = (
    Kind(
        group="core.openfunction.io",
        version="v1beta2",
        kind="Function",
        plural="functions",
        singular="function",
        short_names=("fn",),
        status=True,
        columns=(
            Column("BuildState", "string", ".status.build.state"),
            Column("ServingState", "string", ".status.serving.state"),
            # Whole mappings: the original prints them, nobody can read them, so only `-o wide` shows them.
            Column("Builder", "string", ".status.build.resourceRef", 1),
            Column("Serving", "string", ".status.serving.resourceRef", 1),
            Column("Address", "string", '.status.addresses[?(@.type=="Internal")].value'),
            _AGE,
        ),
        verbs=cast(Verbs, openfunction_core),
    ),
    Kind(
        group="core.openfunction.io",
        version="v1beta2",
        kind="Builder",
        plural="builders",
        singular="builder",
        short_names=("fb",),
        status=True,
        columns=(
            Column("Phase", "string", ".status.phase"),
            Column("State", "string", ".status.state"),
            Column("Reason", "string", ".status.reason"),
            Column("BuildDuration", "string", ".status.buildDuration"),
            _AGE,
        ),
        verbs=cast(Verbs, openfunction_revisions.BUILDER),
    ),
    Kind(
        group="core.openfunction.io",
        version="v1beta2",
        kind="Serving",
        plural="servings",
        singular="serving",
        status=True,
        columns=(
            Column("Phase", "string", ".status.phase"),
            Column("State", "string", ".status.state"),
            _AGE,
        ),
        verbs=cast(Verbs, openfunction_revisions.SERVING_KIND),
    ),
    Kind(
        group="dapr.io",
        version="v1alpha1",
        kind="Component",
        plural="components",
        singular="component",
        columns=(_AGE,),
        verbs=cast(Verbs, dapr),
    ),
    Kind(
        group="notification.kubesphere.io",
        version="v2beta2",
        kind="Receiver",
        plural="receivers",
        singular="receiver",
        short_names=("nr",),
        namespaced=False,
        categories=("notification-manager",),
        status=True,
        columns=(_AGE,),
        verbs=cast(Verbs, notification),
    ),
)

_BY_KIND = {(kind.group, kind.kind): kind for kind in KINDS}


def lookup(api_version: Any, kind: Any) -> Kind:
    """Return the row of a kind.

    Args:
        api_version: `<group>/<version>` as a manifest has it.
        kind: E.g. `Function`.

    Raises:
        UnservedVersionError: The kind is known, that version of it is not served.
        ManifestError: The kind is not known.
    """
    group, slash, version = api_version.partition("/") if isinstance(api_version, str) else ("", "", "")
    found = _BY_KIND.get((group, kind)) if isinstance(kind, str) else None
    if found is not None and version == found.version:
        return found
    if found is not None:
        raise UnservedVersionError(
            f"{kind} of {group} is served as version {found.version}, not as {version or '(none)'}",
            hint=f"write apiVersion: {found.api_version}, and adapt the fields to it",
        )
    served = [f"{row.kind} ({row.api_version})" for row in _nearest_kinds(group if slash else "", str(kind))]
    raise ManifestError(
        f"no kind {describe(kind)} in {describe(api_version)} is known here",
        hint=f"served: {', '.join(served)}",
    )


def _nearest_kinds(group: str, kind: str) -> list[Kind]:
    """Return kinds of that name in other groups, else the most similar name, else the whole table."""
    close = nearest(kind, (row.kind for row in KINDS))
    return (
        [row for row in KINDS if row.kind == close]
        or [row for row in KINDS if row.group == group]
        or list(KINDS)
    )


def by_resource(word: str) -> Kind:
    """Return the row that a user means: plural, singular, short name or kind; `.group` may follow.

    Raises:
        ManifestError: Nothing has that name.
    """
    name, _, group = word.lower().partition(".")
    for row in KINDS:
        if name in (row.plural, row.singular, *row.short_names) and group in ("", row.group):
            return row
    close = nearest(name, (item for row in KINDS for item in (row.plural, row.singular, *row.short_names)))
    raise ManifestError(
        f"no kind {describe(word)} is known here" + (f"; did you mean {close}?" if close else ""),
        hint=f"known: {', '.join(row.plural for row in KINDS)}",
    )


@dataclass(frozen=True, slots=True)
class Admitted:
    """An object that may be stored.

    Attributes:
        obj: With defaults, without unknown fields; a new object.
        warnings: Sentences for the user, each with file and line (if known) and field path.
        kind: Its row.
    """

    obj: dict[str, Any]
    warnings: tuple[str, ...]
    kind: Kind


def admit(obj: dict[str, Any], *, where: Callable[[str], str] | None = None) -> Admitted:
    """Look up, default, decode and validate an object.

    Args:
        obj: As written; not changed.
        where: Field path -> `file:line`, e.g. `Document.where`; None when there is no file.

    Raises:
        UnservedVersionError: Another version of the kind is served.
        ManifestError: The kind is not known.
        InvalidError: With all problems: wrong types, then broken rules in contract order. `causes` has the
            bare sentences, the message and `where` have file and line too.
    """
    locate = where or _nowhere
    try:
        kind = lookup(obj.get("apiVersion"), obj.get("kind"))
    except ManifestError as error:
        error.where = error.where or locate(
            "apiVersion" if isinstance(error, UnservedVersionError) else "kind"
        )
        raise
    filled = kind.verbs.default(obj)
    found = kind.verbs.read(filled)
    problems = merge_problems(found.problems, kind.verbs.rules(found.model))
    if problems:
        raise _invalid(kind, found, problems, locate)
    for path in found.unknown:
        _prune(filled, path)
    return Admitted(filled, tuple(_located(found.warnings, locate)), kind)


def _nowhere(path: str) -> str:
    return ""


def _located(findings: Iterable[Problem], locate: Callable[[str], str]) -> list[str]:
    lines = []
    for path, message in findings:
        place = locate(path)
        lines.append(f"{place}: {path}: {message}" if place else f"{path}: {message}")
    return lines


def _invalid(
    kind: Kind, found: Decoded[Any], problems: list[Problem], locate: Callable[[str], str]
) -> InvalidError:
    """Make the error; its message has the warnings too: a misspelt field is often why another is missing."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [*_located(problems, locate), *(f"note: {line}" for line in _located(found.warnings, locate))]
    return InvalidError(
        f"{kind.kind} {found.model.name or '(unnamed)'} has {count}:"
        + "".join(f"\n  {line}" for line in lines),
        causes=tuple((path, message) for path, message in problems),
        where=locate(problems[0].path),
    )


def _prune(obj: dict[str, Any], path: Path) -> None:
    """Drop an unknown field, as an API server with a schema does; positions in lists never shift by this."""
    target: Any = obj
    for part in path[:-1]:
        target = target[part]
    target.pop(path[-1], None)
