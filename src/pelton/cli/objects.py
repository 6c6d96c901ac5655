"""`pelton apply|get|describe|delete`: objects, as kubectl treats them.

Manifests are read and checked here first, since only here are file and line known; the API server checks
again. What only `apply` of a Function needs is imported there: every command waits for these imports.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pelton.cli.client import Client, Resource
from pelton.cli.home import Home
from pelton.cli.printing import print_table, print_yaml, progress
from pelton.errors import (
    ManifestError,
    NotFoundError,
    PeltonError,
    SourceError,
    UnservedVersionError,
    UsageError,
)
from pelton.manifest import kinds, text
from pelton.plan.aliases import Aliases

__all__ = [
    "apply",
    "apply_one",
    "complain",
    "delete",
    "describe",
    "get",
    "read_documents",
    "resolve_source",
    "wait_settled",
]

_MANIFESTS: Final = (".yaml", ".yml", ".json")
_SETTLED: Final = ("Running", "Failed", "Timeout", "Canceled", "UnknownRuntime")
_SERVER_SET: Final = (
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "selfLink",
)


def apply(home: Home, files: Sequence[str], *, wait: bool, dry_run: bool, timeout_s: float) -> int:
    """Create or update every object of the files; a bad document does not stop the good ones.

    Returns:
        0 when all were applied (and, with `wait`, are Running); 1 else.
    """
    failed = False
    applied: list[tuple[Resource, dict[str, Any]]] = []
    documents, errors = read_documents(files)
    for error in errors:
        complain(error)
        failed = True
    aliases = Aliases(home.endpoints().aliases)
    with Client(home) as client:
        for document in documents:
            try:
                kind, obj, done = apply_one(client, document, dry_run=dry_run)
            except PeltonError as exc:
                complain(exc)
                failed = True
                continue
            applied.append((kind, obj))
            print(f"{_called(kind)}/{obj['metadata']['name']} {done}")
            for name, address in aliases.within(obj.get("spec")):
                print(f"note: {name} stands for {address} (pelton up --alias)", file=sys.stderr)
        if wait and not dry_run:
            for kind, obj in applied:
                if kind.kind == "Function":
                    failed |= not wait_settled(client, kind, obj, timeout_s=timeout_s)
    if not documents and not errors:
        raise UsageError(f"no objects in {', '.join(files)}", hint="manifests end in .yaml, .yml or .json")
    return 1 if failed else 0


def read_documents(files: Sequence[str]) -> tuple[list[text.Document], list[ManifestError]]:
    """Read manifests from files, directories (their manifests, not below) or `-` for standard input."""
    documents: list[text.Document] = []
    errors: list[ManifestError] = []
    for name, content in _contents(files):
        if isinstance(content, ManifestError):
            errors.append(content)
            continue
        parsed = text.parse(content, name)
        documents += parsed.documents
        errors += parsed.errors
    return documents, errors


def _contents(files: Sequence[str]) -> Iterator[tuple[str, str | ManifestError]]:
    for file in files:
        if file == "-":
            yield "-", sys.stdin.read()
            continue
        path = Path(file)
        if path.is_dir():
            for child in sorted(path.iterdir()):
                if child.suffix in _MANIFESTS and not child.is_dir():
                    yield str(child), _read_one(child)
            continue
        try:
            yield file, path.read_text()
        except (OSError, UnicodeDecodeError) as exc:
            raise UsageError(f"{file} cannot be read: {exc}") from exc


def _read_one(path: Path) -> str | ManifestError:
    """Read one file among others: a bad one must not stop the good ones."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        return ManifestError(f"cannot be read: {exc}", where=str(path), hint="manifests are UTF-8 text")


def apply_one(
    client: Client, document: text.Document, *, dry_run: bool
) -> tuple[Resource, dict[str, Any], str]:
    """Create or update one object; tells its warnings.

    Returns:
        Its kind, the object as it is now, and `created`, `configured` or `unchanged`.
    """
    try:
        kinds.lookup(document.data.get("apiVersion"), document.data.get("kind"))
    except UnservedVersionError:
        pass  # told below, with file and line
    except ManifestError:
        if (found := _served(client, document)) is not None:
            return _apply_served(client, found, document, dry_run=dry_run)
    admitted = kinds.admit(document.data, where=document.where)
    for warning in admitted.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    kind, obj = admitted.kind, admitted.obj
    metadata = obj.setdefault("metadata", {})
    for name in _SERVER_SET:
        metadata.pop(name, None)
    if kind.namespaced:
        metadata.setdefault("namespace", "default")
    resolve_source(obj, document)
    note_source(obj)
    suffix = " (dry run)" if dry_run else ""
    try:
        old = client.get(kind, metadata.get("namespace", ""), metadata["name"])
    except NotFoundError:
        return kind, client.create(kind, obj, dry_run=dry_run), "created" + suffix
    kept = {key: old["metadata"][key] for key in ("finalizers", "ownerReferences") if key in old["metadata"]}
    obj["metadata"] = {**metadata, **kept, "resourceVersion": old["metadata"]["resourceVersion"]}
    if "status" in old:
        obj["status"] = old["status"]
    new = client.update(kind, obj, dry_run=dry_run)
    same = new["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"]
    return kind, new, ("unchanged" if same else "configured") + suffix


def _served(client: Client, document: text.Document) -> Resource | None:
    """Return the kind of a document that the server alone knows; None when it does not, either."""
    kind = (document.data.get("apiVersion"), document.data.get("kind"))
    return next((row for row in client.served() if (row.api_version, row.kind) == kind), None)


def _apply_served(
    client: Client, kind: Resource, document: text.Document, *, dry_run: bool
) -> tuple[Resource, dict[str, Any], str]:
    """Apply an object of a kind that only the server knows; it validates, warns, and merges on its side."""
    client.warnings.clear()  # those of other kinds have been told with file and line
    try:
        return _merge_served(client, kind, document, dry_run=dry_run)
    finally:
        for warning in client.warnings:
            place = document.where("")
            print(f"warning: {place + ': ' if place else ''}{warning}", file=sys.stderr)


def _merge_served(
    client: Client, kind: Resource, document: text.Document, *, dry_run: bool
) -> tuple[Resource, dict[str, Any], str]:
    metadata = {k: v for k, v in (document.data.get("metadata") or {}).items() if k not in _SERVER_SET}
    if kind.namespaced:
        metadata.setdefault("namespace", "default")
    obj = {**document.data, "metadata": metadata}
    suffix = " (dry run)" if dry_run else ""
    try:
        old = client.get(kind, metadata.get("namespace", ""), metadata["name"])
    except NotFoundError:
        return kind, client.apply(kind, obj, dry_run=dry_run), "created" + suffix
    new = client.apply(kind, obj, dry_run=dry_run)
    same = new["metadata"].get("resourceVersion") == old["metadata"]["resourceVersion"]
    return kind, new, ("unchanged" if same else "configured") + suffix


def resolve_source(obj: dict[str, Any], document: text.Document) -> None:
    """A relative srcRepo.url means relative to the manifest; the server does not know where that is."""
    repo = obj.get("spec", {}).get("build", {}).get("srcRepo", {}) if obj.get("kind") == "Function" else {}
    url = repo.get("url", "")
    if not url or "://" in url or url.startswith(("file:", "git@")):
        return
    base = Path.cwd() if document.file == "-" else Path(document.file).parent
    source = (base / url).resolve()
    if not source.is_dir():
        raise SourceError(
            f"spec.build.srcRepo.url: {url} is not a directory ({source})",
            where=document.where("spec.build.srcRepo.url"),
            hint="give a file: URL or a path relative to the manifest",
        )
    repo["url"] = source.as_uri()


def note_source(obj: dict[str, Any]) -> None:
    """Note what the source directory holds now, so that changed code is a changed object.

    Sources that are not directories of this machine are the server's business.
    """
    spec = obj.get("spec", {}) if obj.get("kind") == "Function" else {}
    url = spec.get("build", {}).get("srcRepo", {}).get("url", "")
    if not url.startswith("file:"):
        return
    from pelton.builders.build import source_directory
    from pelton.builders.bundle import digest_of
    from pelton.model.desired import BuildRun
    from pelton.plan.function import SOURCE_DIGEST

    run = BuildRun(source_url=url, sub_path=spec["build"]["srcRepo"].get("sourceSubPath", ""))
    digest = asyncio.run(digest_of(source_directory(run)))
    obj["metadata"].setdefault("annotations", {})[SOURCE_DIGEST] = digest


def wait_settled(client: Client, kind: Resource, obj: dict[str, Any], *, timeout_s: float) -> bool:
    """Wait until a Function is Running or Failed in its newest generation; tells how it goes.

    Returns:
        Whether it is Running.
    """
    from pelton.manifest import openfunction_core
    from pelton.plan.function import SOURCE_DIGEST, build_hash

    metadata = obj["metadata"]
    namespace, name, generation = metadata["namespace"], metadata["name"], metadata.get("generation", 1)
    digest = metadata.get("annotations", {}).get(SOURCE_DIGEST, "")
    # With new code under an unchanged spec, the status at hand is still about the old code; attempts at that
    # may go on meanwhile, so it is not enough that the status changed.
    content = build_hash(openfunction_core.decode(openfunction_core.default(obj))[0])
    deadline = time.monotonic() + timeout_s
    with progress(f"function {namespace}/{name}") as line:
        for change, seen in client.watch(kind, namespace, name=name, timeout_s=max(1, int(timeout_s))):
            if change == "DELETED":
                raise NotFoundError(f"function {namespace}/{name} was deleted meanwhile")
            status = seen.get("status") or {}
            observed = int(status.get("observedGeneration", 0))
            build, serving = status.get("build") or {}, status.get("serving") or {}
            line(f"build {build.get('state') or 'pending'}, serving {serving.get('state') or 'pending'}")
            if observed >= generation and build.get("resourceHash", content) == content:
                if build.get("state") in ("Failed", "Timeout", "Canceled"):
                    _explain(namespace, name, build)
                    return False
                if build.get("state") == "Building" or (digest and digest != _built_digest(status)):
                    continue
                if serving.get("state") in _SETTLED:
                    if serving["state"] != "Running":
                        _explain(namespace, name, serving)
                    return bool(serving["state"] == "Running")
                if serving.get("state") == "Skipped":
                    return True
            if time.monotonic() > deadline:
                break
    raise PeltonError(
        f"function {namespace}/{name} was neither Running nor Failed within {timeout_s:g} s",
        hint=f"see: pelton describe function {name} -n {namespace}",
    )


def _built_digest(status: dict[str, Any] | None) -> str:
    revision = (status or {}).get("revision") or {}
    return str(revision.get("imageDigest", ""))


def _explain(namespace: str, name: str, condition: dict[str, Any]) -> None:
    reason, message = condition.get("reason", ""), condition.get("message", "")
    print(f"error: function {namespace}/{name}: {reason}: {message}", file=sys.stderr)


def get(home: Home, word: str, name: str, *, namespace: str | None, output: str, watch: bool) -> int:
    """Print one object, a list, or lists of several kinds; `namespace` None means all namespaces.

    Args:
        home: Of the platform.
        word: Kind, `KIND/NAME`, or kinds with commas between them.
        name: The object; "" for all.
        namespace: Where.
        output: `table`, `yaml` or `json`.
        watch: Whether to go on with changes.
    """
    if "," in word:
        if name or watch or "/" in word:
            raise UsageError("several kinds are listed whole: no name, no --watch")
        return _get_several(home, word.split(","), namespace=namespace, output=output)
    if "/" in word and not name:
        word, _, name = word.partition("/")
    with Client(home) as client:
        kind = client.resource(word)
        if watch:
            return _watch(client, kind, name, namespace=namespace, output=output)
        if output == "table":
            table = (
                client.table(kind, namespace or "default", name)
                if name
                else client.list(kind, namespace, table=True)
            )
            if not table["rows"]:
                scope = f" in namespace {namespace}" if namespace and kind.namespaced else ""
                print(f"no {kind.plural}{scope}", file=sys.stderr)
            else:
                print_table(table, with_namespace=kind.namespaced and namespace is None)
            return 0
        found = client.get(kind, namespace or "default", name) if name else client.list(kind, namespace)
    _print(found, output)
    return 0


def _get_several(home: Home, words: list[str], *, namespace: str | None, output: str) -> int:
    """Print a table of each kind that has objects, as kubectl does, or one list of all of them."""
    with Client(home) as client:
        kinds = [client.resource(word.strip()) for word in words]
        found = [client.list(kind, namespace, table=output == "table") for kind in kinds]
    if output != "table":
        items = [item for each in found for item in each["items"]]
        _print({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}, output)
        return 0
    filled = [(kind, table) for kind, table in zip(kinds, found, strict=True) if table["rows"]]
    if not filled:
        print("nothing found", file=sys.stderr)
    for index, (kind, table) in enumerate(filled):
        if index:
            print()
        for row in table["rows"]:
            row["cells"][0] = f"{kind.singular}/{row['cells'][0]}"
        print_table(table, with_namespace=kind.namespaced and namespace is None)
    return 0


def _watch(client: Client, kind: Resource, name: str, *, namespace: str | None, output: str) -> int:
    first = True
    for change, obj in client.follow(kind, namespace, name=name):
        if output == "table":
            print_table(
                client.table(kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
                if change != "DELETED"
                else {"columnDefinitions": [], "rows": [{"cells": [f"{obj['metadata']['name']} deleted"]}]},
                with_namespace=False,
                with_heading=first,
            )
        else:
            _print(obj, output)
        first = False
        sys.stdout.flush()
    return 0


def describe(home: Home, word: str, name: str, *, namespace: str) -> int:
    """Print everything about one object, conditions in words."""
    with Client(home) as client:
        kind = client.resource(word)
        obj = client.get(kind, namespace, name)
    metadata, status = obj["metadata"], obj.get("status") or {}
    print(f"Name:       {metadata['name']}")
    if kind.namespaced:
        print(f"Namespace:  {metadata['namespace']}")
    print(f"Kind:       {kind.kind} ({kind.api_version})")
    print(f"Created:    {metadata.get('creationTimestamp', '')}   generation {metadata.get('generation', 1)}")
    for address in status.get("addresses", ()):
        print(f"Address:    {address['value']}  ({address['type']})")
    for part in ("build", "serving"):
        found = status.get(part)
        if found:
            message = found.get("message", "").replace("\n", "\n              ")
            print(f"{part.capitalize() + ':':<12}{found.get('state', '')}  {found.get('reason', '')}")
            if message:
                print(f"              {message}")
    for condition in status.get("conditions", ()):
        print(
            f"Condition:  {condition['type']}={condition['status']}  {condition.get('reason', '')}"
            f"  {condition.get('message', '').replace(chr(10), chr(10) + ' ' * 14)}"
        )
    for field, value in obj.items():
        if field not in ("apiVersion", "kind", "metadata", "status"):
            print(f"{field[:1].upper()}{field[1:]}:")
            print_yaml(value, indent=2)
    return 0


def delete(
    home: Home,
    word: str,
    names: Sequence[str],
    *,
    files: Sequence[str],
    namespace: str,
    wait: bool,
    timeout_s: float,
) -> int:
    """Delete objects by name or by manifest; with `wait`, return when they are gone."""
    targets: list[tuple[Resource, str, str]] = []
    failed = False
    with Client(home) as client:
        if files:
            documents, errors = read_documents(files)
            for document in documents:
                try:
                    kind = client.lookup(document.data.get("apiVersion"), document.data.get("kind"))
                except ManifestError as exc:
                    errors.append(exc)
                    continue
                metadata = document.data["metadata"]
                targets.append((kind, metadata.get("namespace", "default"), metadata["name"]))
            for error in errors:
                complain(error)
            failed = bool(errors)
        else:
            kind = client.resource(word)
            targets += [(kind, namespace, name) for name in names]
        for kind, space, name in targets:
            try:
                client.delete(kind, space, name)
                if wait:
                    _wait_gone(client, kind, space, name, timeout_s)
            except PeltonError as exc:
                complain(exc)
                failed = True
                continue
            print(f"{_called(kind)}/{name} deleted")
    return 1 if failed else 0


def _wait_gone(client: Client, kind: Resource, namespace: str, name: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            client.get(kind, namespace, name)
        except NotFoundError:
            return
        time.sleep(0.05)
    raise PeltonError(f"{kind.singular} {name} is still being deleted after {timeout_s:g} s")


def _called(kind: Resource) -> str:
    return f"{kind.singular}.{kind.group}" if kind.group else kind.singular


def _print(obj: dict[str, Any], output: str) -> None:
    """Print an object or a list, without the record of who wrote which field."""
    for one in obj.get("items") or [obj]:
        one.get("metadata", {}).pop("managedFields", None)
    if output == "json":
        print(json.dumps(obj, indent=2))
    else:
        print_yaml(obj)


def complain(error: PeltonError) -> None:
    """Print an error that does not end the command."""
    print(f"error: {error}", file=sys.stderr)
