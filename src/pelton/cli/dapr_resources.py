"""Resources of Dapr from files: every YAML file of the resources paths, and the Configuration.

Used by `pelton dapr run` and `pelton daprd`.
Only the kinds' own tables are loaded, not all that the API server knows: a start is to be quick.
Source: contracts, Dapr components, section 1 (standalone loading).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pelton.errors import ManifestError, PeltonError
from pelton.log import get
from pelton.model.component import ComponentResource
from pelton.model.dapr import DaprConfiguration, DaprSubscription, HttpEndpoint
from pelton.model.dapr_call import CallRules
from pelton.model.resiliency import Resiliency

__all__ = [
    "Resources",
    "call_rules",
    "configuration_of",
    "decoded",
    "default_folder",
    "load_folders",
    "sorted_resources",
    "stamp",
]

_GROUP: Final = "dapr.io"
_TABLES: Final = {
    "Component": ("pelton.manifest.dapr", ""),
    "Subscription": ("pelton.manifest.dapr_subscription", "SUBSCRIPTION"),
    "Configuration": ("pelton.manifest.dapr_configuration", "CONFIGURATION"),
    "HTTPEndpoint": ("pelton.manifest.dapr_endpoint", "HTTP_ENDPOINT"),
    "Resiliency": ("pelton.manifest.dapr_resiliency", "RESILIENCY"),
}
_ADVICE: Final = {
    "Component": ("pelton.manifest.component_types", "component_advice"),
    "Configuration": ("pelton.manifest.dapr_configuration", "configuration_advice"),
    "Resiliency": ("pelton.manifest.dapr_resiliency", "resiliency_advice"),
}
_log = get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What apps have around them."""

    components: tuple[ComponentResource, ...] = ()
    subscriptions: tuple[DaprSubscription, ...] = ()
    resiliencies: tuple[Resiliency, ...] = ()
    endpoints: tuple[HttpEndpoint, ...] = ()


def default_folder(home: Path) -> Path | None:
    """Return `~/.dapr/components` where it is there, else None."""
    folder = home / ".dapr" / "components"
    return folder if folder.is_dir() else None


def decoded(obj: Mapping[str, Any], *, where: str = "", warns: bool = True) -> Any:
    """Return the model of an object of dapr.io; None for a kind that the runtime has no use for.

    Args:
        obj: The object.
        where: Where it stands, for errors.
        warns: Whether what has no effect in it is logged.

    Raises:
        PeltonError: It cannot be read; says where.
    """
    import importlib

    from pelton.manifest.fields import merge_problems, raise_invalid

    entry = _TABLES.get(str(obj.get("kind")))
    group, _, version = str(obj.get("apiVersion")).partition("/")
    if entry is None or group != _GROUP:
        return None
    verbs: Any = importlib.import_module(entry[0])
    if entry[1]:
        verbs = getattr(verbs, entry[1])
    given: Any = dict(obj)
    for older in getattr(verbs, "older", ()):
        if older.version == version:
            given = older.to_storage(given, str(verbs.api_version).partition("/")[2])
    found = verbs.read(verbs.default(given))
    name = str((obj.get("metadata") or {}).get("name", ""))
    problems = merge_problems(found.problems, verbs.rules(found.model))
    try:
        raise_invalid(str(obj.get("kind")), name, problems)
    except PeltonError as exc:
        exc.where = exc.where or where
        raise
    if not warns:
        return found.model
    module, function = _ADVICE.get(str(obj.get("kind")), ("", ""))
    advice = getattr(importlib.import_module(module), function)(found.model) if module else ()
    for warning in (*found.warnings, *advice):
        _log.warning("%s %s: %s %s", obj.get("kind"), name, warning.path, warning.message)
    return found.model


def call_rules(items: Iterable[Mapping[str, Any]]) -> CallRules:
    """Return the objects by which calls between apps are judged; the runtime says which cannot be read."""
    found: list[Any] = []
    for item in items:
        if item.get("kind") in ("Resiliency", "Configuration", "HTTPEndpoint"):
            try:
                found.append(decoded(item, warns=False))
            except PeltonError:
                continue
    return CallRules(
        resiliencies=tuple(one for one in found if isinstance(one, Resiliency)),
        configurations=tuple(one for one in found if isinstance(one, DaprConfiguration)),
        endpoints=tuple(one for one in found if isinstance(one, HttpEndpoint)),
    )


def load_folders(folders: Sequence[Path], *, namespace: str) -> tuple[Resources, list[PeltonError]]:
    """Read all resources of some folders.

    Args:
        folders: Each with `.yaml` and `.yml` files, which may hold several documents; not below it.
        namespace: Where NAMESPACE is set, resources of another one are left out; "" takes all.

    Returns:
        What they hold, with no namespace, and what cannot be used.
    """
    found: list[Any] = []
    errors: list[PeltonError] = []
    seen: dict[tuple[str, str], str] = {}
    for document, error in _documents(folders):
        if error is not None:
            errors.append(error)
            continue
        obj = document.data
        metadata = obj.get("metadata") or {}
        kind, name, own = obj.get("kind"), metadata.get("name"), metadata.get("namespace")
        if kind == "Configuration" or (namespace and own and own != namespace):
            continue
        key = (str(kind), str(name))
        try:
            model = decoded(
                {**obj, "metadata": {**metadata, "namespace": ""}}, where=document.where("metadata.name")
            )
        except PeltonError as exc:
            errors.append(exc)
            continue
        if model is None:
            continue
        if key in seen:
            errors.append(
                ManifestError(
                    f"there are two of {kind} {name!r}; the other is {seen[key]}",
                    where=document.where("metadata.name"),
                    hint="Give one of them another name.",
                )
            )
            continue
        seen[key] = document.where("metadata.name")
        found.append(model)
    return sorted_resources(found), errors


def configuration_of(files: Sequence[Path]) -> DaprConfiguration:
    """Return the Configuration of the last file that holds one; one without rules where there is none.

    Raises:
        PeltonError: A file cannot be read.
    """
    configuration = DaprConfiguration()
    for file in files:
        for document in _read(file):
            if document.data.get("kind") == "Configuration":
                configuration = decoded(document.data, where=document.where("metadata.name"))
    return configuration


def stamp(folders: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """Return what changes when a file of some folders does: (path, time in ns, size) of each."""
    return tuple(
        (str(path), path.stat().st_mtime_ns, path.stat().st_size)
        for folder in folders
        for path in _files(folder)
    )


def sorted_resources(found: Iterable[Any]) -> Resources:
    """Return models by their kinds; a Configuration is none of them."""
    of: dict[type, list[Any]] = {}
    for model in found:
        of.setdefault(type(model), []).append(model)
    return Resources(
        components=tuple(of.get(ComponentResource, ())),
        subscriptions=tuple(of.get(DaprSubscription, ())),
        resiliencies=tuple(of.get(Resiliency, ())),
        endpoints=tuple(of.get(HttpEndpoint, ())),
    )


def _documents(folders: Sequence[Path]) -> Iterable[tuple[Any, PeltonError | None]]:
    for folder in folders:
        for path in _files(folder):
            try:
                for document in _read(path):
                    yield document, None
            except PeltonError as exc:
                yield None, exc


def _files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml") and path.is_file())


def _read(path: Path) -> list[Any]:
    from pelton.manifest.text import parse

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ManifestError(f"{path} cannot be read: {exc}", where=str(path)) from exc
    parsed = parse(text, str(path))
    if parsed.errors:
        raise parsed.errors[0]
    return list(parsed.documents)
