"""Pelton's own kinds as rows: `pelton.manifest.kinds` has their rules, this file brings them to the API.

Called by `cli/`, which gives the rows to the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pelton.apiserver.registry import Checked, Row, Scale
from pelton.apiserver.rules import Obj
from pelton.manifest.kinds import Kind, admit
from pelton.manifest.schema import schema_of

__all__ = ["rows"]


_IGNORED = ": unknown field, ignored"


class _Checks:
    """A kind's verbs as `Checks`, for one of its versions."""

    def __init__(self, kind: Kind, version: str) -> None:
        self._kind = kind
        self._older = f"{kind.group}/{version}" if version != kind.version else ""

    def default(self, obj: Obj, /) -> Obj:
        """Return it as it is: `check` fills in defaults itself, in one pass with its rules."""
        return obj

    def check(self, obj: Obj, old: Obj | None, /, *, subresource: str) -> Checked:
        """Default, prune and validate; status is the platform's own and is not checked."""
        if subresource:
            return Checked(obj=obj)
        admitted = admit(obj)
        checked = self._kind.verbs.convert(admitted.obj, self._older) if self._older else admitted.obj
        told = {f"{path}: unknown field, ignored": path for path in admitted.unknown}
        warnings, unknown = [], []
        for warning in admitted.warnings:
            path, mark, hint = warning.partition(_IGNORED)
            if mark and path + mark in told:
                unknown.append(f'unknown field "{told[path + mark]}"{hint}')
            else:
                warnings.append(warning)
        return Checked(obj=checked, warnings=warnings, unknown=unknown)

    def prune(self, obj: Obj, /) -> tuple[Obj, Sequence[str]]:
        """Drop nothing here: `check` does."""
        return obj, ()

    def read(self, obj: Obj, /) -> Obj:
        """Return it as it is."""
        return obj


class _Convert:
    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    async def convert(self, objects: Sequence[Obj], row: Row, /) -> list[Obj]:
        """Convert with the kind's own verb, without waiting."""
        return [self._kind.verbs.convert(obj, row.api_version) for obj in objects]


def _scale(kind: Kind, replicas: Callable[[Obj], int] | None) -> Scale | None:
    """Return how a kind scales: of a Function, the replicas asked for are the fewest that it keeps."""
    if kind.kind != "Function":
        return None
    fewest = ".spec.serving.scaleOptions.minReplicas"
    return Scale(spec_replicas=fewest, status_replicas=".status.replicas", observed=replicas)


def rows(kinds: Iterable[Kind], *, replicas: Callable[[Obj], int] | None = None) -> list[Row]:
    """Return a row per served version of each kind.

    Args:
        kinds: The table.
        replicas: Counts the instances of a Function, for its scale subresource.
    """
    return [
        Row(
            group=kind.group,
            version=version,
            storage=version == kind.version,
            kind=kind.kind,
            plural=kind.plural,
            singular=kind.singular,
            short_names=kind.short_names,
            namespaced=kind.namespaced,
            categories=kind.categories,
            status=kind.status,
            scale=_scale(kind, replicas),
            columns=kind.columns_of(version),
            schema=schema_of(kind, version),
            checks=_Checks(kind, version),
            conversion=_Convert(kind),
        )
        for kind in kinds
        for version in kind.versions
    ]
