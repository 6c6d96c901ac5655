"""`pelton deploy DIR`: detect what the directory is, write the Function, apply it, wait, print the address.

A directory that has its own Function manifest is applied as it is. Nothing is written into the directory;
`--dry-run -o yaml` prints the manifest for keeping.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pelton.builders import detect
from pelton.cli.client import Client
from pelton.cli.home import Home
from pelton.cli.objects import note_source, read_documents, wait_settled
from pelton.cli.options import PREFIX
from pelton.cli.printing import to_yaml
from pelton.cli.tables import CONVENTIONS, resolve_convention
from pelton.errors import PeltonError, SourceError, UsageError
from pelton.manifest import kinds
from pelton.model.convention import Trigger

__all__ = ["deploy"]

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_GROUP: Final = "core.openfunction.io/"
_BUS: Final = "events"
_CLOCK: Final = "schedule"
_SAMPLE_EVENT: Final = {"specversion": "1.0", "id": "1", "source": "curl", "type": "test"}


def deploy(
    home: Home,
    directory: str,
    *,
    name: str | None,
    namespace: str,
    trigger: str | None,
    convention: str | None,
    target: str | None,
    annotations: Mapping[str, str],
    dry_run: bool,
    output: str,
    timeout_s: float,
) -> int:
    """Deploy a directory; returns 0 when the function is Running."""
    source = Path(directory).resolve()
    if not source.is_dir():
        raise SourceError(
            f"{directory} is not a directory", hint="deploy takes the directory that holds the code"
        )
    serving = _serving(trigger) if trigger else None
    manifest = None if trigger else _own_manifest(source)
    if manifest is None:
        manifest = _compose(
            source,
            name or _name_of(source),
            namespace,
            serving,
            detect.Wanted(
                convention=convention
                or annotations.get("convention")
                or ("process" if "command" in annotations else ""),
                target=target or "",
            ),
        )
    elif name:
        manifest["metadata"]["name"] = name
    noted = manifest["metadata"].setdefault("annotations", {})
    noted.update({f"{PREFIX}{key}": value for key, value in annotations.items()})
    manifest["metadata"].setdefault("namespace", namespace)
    admitted = kinds.admit(manifest)
    if dry_run:
        sys.stdout.write(json.dumps(manifest, indent=2) + "\n" if output == "json" else to_yaml(manifest))
        return 0
    for warning in admitted.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return _apply(home, admitted.obj, timeout_s)


def _apply(home: Home, obj: dict[str, Any], timeout_s: float) -> int:
    kind = kinds.by_resource("functions")
    metadata = obj["metadata"]
    note_source(obj)
    with Client(home) as client:
        try:
            old = client.get(kind, metadata["namespace"], metadata["name"])
        except PeltonError as exc:
            if exc.http_status != 404:
                raise
            new = client.create(kind, obj)
        else:
            annotations = {**old["metadata"].get("annotations", {}), **metadata.get("annotations", {})}
            obj["metadata"] = {**old["metadata"], **metadata, "annotations": annotations}
            obj["status"] = old.get("status", {})
            new = client.update(kind, obj)
        if not wait_settled(client, kind, new, timeout_s=timeout_s):
            return 1
        gateway = client.endpoints.gateway
    _announce(obj, gateway)
    return 0


def _announce(obj: dict[str, Any], gateway: str) -> None:
    namespace, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
    triggers = obj["spec"].get("serving", {}).get("triggers", {})
    print(f"function {namespace}/{name} is Running")
    if "http" in triggers:
        host = f"{name}.{namespace}.localhost"
        port = gateway.rpartition(":")[2]
        print(f"  url    http://{host}:{port}/   (or {gateway}/{namespace}/{name})")
        print(f"  try    curl {gateway}/{namespace}/{name}{_event_flags(obj)}")
    for item in triggers.get("dapr", ()):
        if item.get("topic"):
            print(f"  topic  {item['topic']}")
            print(f'  try    pelton topic publish {item["topic"]} -d \'{{"hello": "world"}}\'')


def _event_flags(obj: dict[str, Any]) -> str:
    """Return what makes a `curl` line post an event, for a function that answers nothing else."""
    if obj["spec"].get("build", {}).get("env", {}).get("FUNC_TYPE") != "cloudevent":
        return ""
    flags = "".join(f" -H 'ce-{k}: {v}'" for k, v in _SAMPLE_EVENT.items())
    return f"{flags} -H 'content-type: application/json' -d '{{\"hello\": \"world\"}}'"


def _own_manifest(source: Path) -> dict[str, Any] | None:
    """Return the directory's only Function manifest, its source resolved; None when it has none."""
    files = [
        str(path)
        for path in sorted(source.glob("*.y*ml"))
        if _GROUP in path.read_text(encoding="utf-8", errors="replace")  # other platforms have files, too
    ]
    documents, errors = read_documents(files) if files else ([], [])
    found = [
        document
        for document in documents
        if document.data.get("kind") == "Function" and str(document.data.get("apiVersion")).startswith(_GROUP)
    ]
    if errors and not found:
        raise errors[0]
    if not found:
        return None
    if len(found) > 1 or len(documents) > 1:
        raise UsageError(
            f"{source} holds {len(documents)} objects",
            hint=f"apply them with: pelton apply -f {source} --wait",
        )
    data = found[0].data
    repo = data.get("spec", {}).get("build", {}).get("srcRepo", {})
    url = repo.get("url", ".")
    if "://" not in url and not url.startswith("file:"):
        repo["url"] = (source / url).resolve().as_uri()
    return data


def _name_of(source: Path) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", source.name.lower()).strip("-")
    if not _NAME.fullmatch(name):
        raise UsageError(f"no function name can be made from {source.name!r}", hint="give one with --name")
    return name


def _compose(
    source: Path, name: str, namespace: str, serving: dict[str, Any] | None, wanted: detect.Wanted
) -> dict[str, Any]:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"--name {name!r} is not a name",
            hint="lower case letters, digits and dashes, at most 63 characters",
        )
    modules = {key: resolve_convention(key) for key in CONVENTIONS}
    match = detect.detect(source, modules, wanted)
    env = {"FUNC_NAME": match.target, "FUNC_TYPE": match.signature}
    if match.source.endswith(".py"):
        env["FUNC_SRC"] = match.source
    manifest: dict[str, Any] = {
        "apiVersion": "core.openfunction.io/v1beta2",
        "kind": "Function",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {"pelton.dev/convention": match.convention},
        },
        "spec": {
            "version": "v1.0.0",
            "image": f"localhost/{name}:latest",
            "build": {
                "builder": "pelton",
                "env": {k: v for k, v in env.items() if v},
                "srcRepo": {"url": source.as_uri()},
            },
            "serving": serving or _declared(match.triggers),
        },
    }
    return manifest


def _declared(triggers: Iterable[Trigger]) -> dict[str, Any]:
    """Return serving for the triggers that the source declares, and HTTP, which everything answers."""
    serving: dict[str, Any] = {"triggers": {"http": {"port": 8080}}}
    for trigger in dict.fromkeys(triggers):
        if trigger.kind == "http":
            continue
        more = _serving(f"{trigger.kind}={trigger.value}")
        for section in ("bindings", "pubsub"):
            for name, component in more.get(section, {}).items():
                # Each schedule is a component of its own; topics share the bus.
                own = f"{name}-{len(serving.get(section, {}))}" if section == "bindings" else name
                serving.setdefault(section, {})[own] = component
                entry = {**more["triggers"]["dapr"][0], "name": own}
                if trigger.name:
                    entry["inputName"] = trigger.name
                serving["triggers"].setdefault("dapr", []).append(entry)
    return serving


def _serving(trigger: str) -> dict[str, Any]:
    kind, _, value = trigger.partition("=")
    if kind == "http" and not value:
        return {"triggers": {"http": {"port": 8080}}}
    if kind == "topic" and value:
        return {
            "triggers": {"dapr": [{"name": _BUS, "type": "pubsub.jetstream", "topic": value}]},
            "pubsub": {_BUS: {"type": "pubsub.jetstream", "version": "v1", "metadata": []}},
        }
    if kind == "cron" and value:
        metadata = [{"name": "schedule", "value": value}]
        return {
            "triggers": {"dapr": [{"name": _CLOCK, "type": "bindings.cron"}]},
            "bindings": {_CLOCK: {"type": "bindings.cron", "version": "v1", "metadata": metadata}},
        }
    raise UsageError(f"--trigger {trigger!r} is not known", hint="one of: http, topic=TOPIC, cron=SCHEDULE")
