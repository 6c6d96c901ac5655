"""`pelton diff`: what `pelton apply` would change, as kubectl diff shows it.

The server carries out each write as a dry run, so its defaults and admission are part of the answer. Nothing
is stored.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from pelton.cli import objects
from pelton.cli.client import Client
from pelton.cli.home import Home
from pelton.errors import NotFoundError, PeltonError, UsageError
from pelton.manifest.text import Document, write

__all__ = ["diff"]

Obj = dict[str, Any]

_SERVER_SET = ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink")


def diff(home: Home, files: Sequence[str]) -> int:
    """Print the differences between what is stored and what applying the files would store.

    Returns:
        0 when nothing would change, 1 when something would, 2 when that cannot be told of some object.
    """
    documents, errors = objects.read_documents(files)
    for error in errors:
        objects.complain(error)
    if not documents and not errors:
        raise UsageError(f"no objects in {', '.join(files)}", hint="manifests end in .yaml, .yml or .json")
    failed, changed = bool(errors), False
    with Client(home) as client:
        for document in documents:
            try:
                lines = list(_differences(client, document))
            except PeltonError as error:
                objects.complain(error)
                failed = True
                continue
            changed |= bool(lines)
            print("".join(lines), end="")
    return 2 if failed else int(changed)


def _differences(client: Client, document: Document) -> Iterator[str]:
    """Yield the lines of an object's unified diff; none when it would stay as it is."""
    kind, new, _ = objects.apply_one(client, document, dry_run=True)
    metadata = new["metadata"]
    try:
        old: Obj | None = client.get(kind, metadata.get("namespace", ""), metadata["name"])
    except NotFoundError:
        old = None
    if kind.kind == "Secret" and not kind.group:
        old, new = _veiled(old, new)
    before, after = _text(old), _text(new)
    name = ".".join(part for part in (kind.api_version.replace("/", "."), kind.kind) if part)
    name += "." + ".".join(part for part in (metadata.get("namespace", ""), metadata["name"]) if part)
    yield from difflib.unified_diff(before, after, f"live/{name}", f"merged/{name}")


def _text(obj: Obj | None) -> list[str]:
    """Return an object as lines of YAML, without what the server sets anew at each write."""
    if obj is None:
        return []
    metadata = {key: value for key, value in obj["metadata"].items() if key not in _SERVER_SET}
    return write([{**obj, "metadata": metadata}]).splitlines(keepends=True)


def _veiled(old: Obj | None, new: Obj) -> tuple[Obj | None, Obj]:
    """Return a Secret before and after, with values that say no more than whether they differ."""
    before, after = (old or {}).get("data") or {}, new.get("data") or {}
    same = {key for key, value in after.items() if before.get(key, value) == value}

    def veil(data: Obj, when: str) -> Obj:
        return {key: "***" if key in same else f"*** ({when})" for key in data}

    return old and {**old, "data": veil(before, "before")}, {**new, "data": veil(after, "after")}
