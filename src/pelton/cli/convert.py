"""`pelton convert`: manifests in another version of their kinds, on standard output.

Converts and checks types, fills in nothing. What does not take effect in the new version is told on standard
error, with file and line. The conversion itself is in `manifest/versions` and in the kinds' own modules.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from pelton.cli.objects import complain, read_documents
from pelton.errors import InvalidError, ManifestError, PeltonError, UnservedVersionError, UsageError
from pelton.manifest import kinds
from pelton.manifest.comments import carried
from pelton.manifest.kinds import Kind
from pelton.manifest.text import Document, write
from pelton.manifest.versions import ANNOTATION

__all__ = ["convert"]

Obj = dict[str, Any]

_MOVED = {"plugins": "spec.serving.hooks", "plugins.tracing": "spec.serving.tracing"}
"""Annotations of v1beta1 whose content v1beta2 has in fields."""


def convert(files: Sequence[str], *, to: str, output: str) -> int:
    """Print every object of the files in another version.

    Args:
        files: As for `pelton apply`.
        to: `<group>/<version>` for the kinds of that group; "" for the version in which each kind is stored.
        output: `yaml` or `json`.

    Returns:
        0 when all could be converted, 1 else; what could is printed in any case.
    """
    _check_version(to)
    documents, errors = read_documents(files)
    for error in errors:
        complain(error)
    failed = bool(errors)
    found: list[tuple[Document, Obj]] = []
    for document in documents:
        try:
            found.append((document, _converted(document, to)))
        except PeltonError as error:
            complain(error)
            failed = True
    if output == "json":
        objects = [obj for _, obj in found]
        whole = objects[0] if len(objects) == 1 else {"apiVersion": "v1", "kind": "List", "items": objects}
        if objects:
            print(json.dumps(whole, indent=2, ensure_ascii=False))
        return 1 if failed else 0
    for number, (document, obj) in enumerate(found):
        text = carried(document, write([obj]))
        sys.stdout.write(f"---\n{text}" if number else text)
    return 1 if failed else 0


def _check_version(to: str) -> None:
    served = sorted({f"{kind.group}/{version}" for kind in kinds.KINDS for version in kind.versions})
    if to and to not in served:
        raise UsageError(f"--to {to}: no kind is served in that version", hint=f"one of: {', '.join(served)}")


def _converted(document: Document, to: str) -> Obj:
    obj = document.data
    try:
        kind = kinds.lookup(obj.get("apiVersion"), obj.get("kind"))
    except UnservedVersionError as error:
        error.where = error.where or document.where("apiVersion")
        raise
    except ManifestError:
        return obj  # another system's object among ours
    target = to if to.partition("/")[0] == kind.group else kind.api_version
    if target.partition("/")[2] not in kind.versions or obj["apiVersion"] == target:
        return obj
    _tell_losses(document, kind)
    try:
        written = kind.verbs.convert(obj, target)
    except InvalidError as error:
        lines = "".join(f"\n  {document.where(path)}: {path}: {text}" for path, text in error.causes)
        raise InvalidError(
            f"{kind.kind} {obj['metadata'].get('name') or '(unnamed)'} cannot be converted:{lines}",
            causes=error.causes,
            where=document.where(error.causes[0][0] if error.causes else ""),
        ) from error
    return _cleaned(document, kind, written)


def _tell_losses(document: Document, kind: Kind) -> None:
    older = next(
        (each for each in kind.older if document.data["apiVersion"] == f"{kind.group}/{each.version}"), None
    )
    if older is None:
        return
    reading = older.read(document.data)
    losses = [] if reading.problems else older.losses(document.data)
    for path, message in [*reading.warnings, *losses]:
        print(f"warning: {document.where(path)}: {path}: {message}", file=sys.stderr)


def _cleaned(document: Document, kind: Kind, obj: Obj) -> Obj:
    """Take off what serves only the way back: a converted file is edited on, not converted back."""
    annotations = obj["metadata"].get("annotations") or {}
    kept = {key: value for key, value in annotations.items() if not key.startswith(ANNOTATION)}
    if kind.group == "core.openfunction.io" and obj["apiVersion"] == kind.api_version:
        for key, field in _MOVED.items():
            if kept.pop(key, None) is not None:
                path = f"metadata.annotations[{key}]"
                print(f"note: {document.where(path)}: {path} is now {field}", file=sys.stderr)
    if kept:
        obj["metadata"]["annotations"] = kept
    else:
        obj["metadata"].pop("annotations", None)
    return obj
