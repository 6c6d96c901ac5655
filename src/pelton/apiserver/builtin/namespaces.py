"""Namespaces: the row, and what makes sure that they exist.

Objects can only be created in a namespace that exists; `default` always does. Called by `cli/`, which
ensures them at the start, and by `builtin/table.py`.

Source: contracts operator-webhook.md 6.1 and 7; behaviour of Kubernetes' namespace lifecycle.
"""

from __future__ import annotations

from collections.abc import Iterable

from pelton.apiserver.registry import ALL_VERBS, Checked, Row
from pelton.apiserver.rules import Obj, metadata_of
from pelton.apiserver.store import ObjectStore
from pelton.errors import NotFoundError
from pelton.manifest.kinds import Column

__all__ = ["ALWAYS", "ROW", "ensure"]

ALWAYS = ("default",)
"""Namespaces that are made again when they are missing."""

_NAME_LABEL = "kubernetes.io/metadata.name"


class _Checks:
    def default(self, obj: Obj, /) -> Obj:
        """Add the label of its name, the finalizer of its contents and the phase."""
        metadata = metadata_of(obj)
        name = metadata.get("name")
        if not isinstance(name, str):
            return obj
        labels = metadata.get("labels")
        labels = {**labels, _NAME_LABEL: name} if isinstance(labels, dict) else {_NAME_LABEL: name}
        return {
            **obj,
            "metadata": {**metadata, "labels": labels},
            "spec": {"finalizers": ["kubernetes"]},
            "status": obj.get("status") or {"phase": "Active"},
        }

    def check(self, obj: Obj, old: Obj | None, /, *, subresource: str) -> Checked:
        """Accept it."""
        return Checked(obj=obj)

    def read(self, obj: Obj, /) -> Obj:
        """Return it as it is."""
        return obj


def _terminating(obj: Obj) -> Obj:
    """Return what a DELETE makes of a namespace: it stays until it is empty."""
    return {**obj, "status": {**(obj.get("status") or {}), "phase": "Terminating"}}


ROW = Row(
    group="",
    version="v1",
    kind="Namespace",
    plural="namespaces",
    singular="namespace",
    short_names=("ns",),
    namespaced=False,
    generation=False,
    builtin=True,
    columns=(
        Column("Status", "string", ".status.phase"),
        Column("Age", "date", ".metadata.creationTimestamp"),
    ),
    checks=_Checks(),
    verbs=tuple(verb for verb in ALL_VERBS if verb != "deletecollection"),
    selectable={"status.phase": ".status.phase"},
    deleted=_terminating,
)


async def ensure(store: ObjectStore, names: Iterable[str]) -> None:
    """Create the namespaces that do not exist."""
    for name in names:
        try:
            store.entry(ROW.key, "", name)
        except NotFoundError:
            obj: Obj = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            await store.create(ROW.key, ROW.checks.default(obj), keep_status=True)
