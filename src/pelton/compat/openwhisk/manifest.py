"""A wskdeploy manifest as plain values: actions, sequences, triggers and rules of its packages. Pure.

`detection.py` reads it out of the source tree and hands it to the worker as one option in JSON, since the
worker reads no YAML; `package.py` makes actions of it.
Source: apache/openwhisk-wskdeploy (specification/html); `faas-conventions` contract, section 6.2. Decided:
an action may be named `action`, `package/action`, `/namespace/package/action` or `/_/package/action`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

__all__ = ["DEFAULT", "ActionSpec", "Manifest", "TriggerSpec", "decode", "encode", "key_of", "read", "truthy"]

DEFAULT: Final = "default"
"""Stands for "no package" in addresses and in manifests."""
_TYPES: Final[Mapping[str, Any]] = {
    "string": "",
    "integer": 0,
    "int": 0,
    "float": 0.0,
    "number": 0,
    "boolean": False,
    "bool": False,
    "json": {},
    "object": {},
    "array": [],
}
_SCHEMA: Final = {"type", "description", "value", "required", "default", "status", "schema", "properties"}
_ANNOTATION_KEYS: Final = ("raw-http", "final", "require-whisk-auth", "web-custom-options", "conductor")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSpec:
    """An action or a sequence.

    Attributes:
        package: Name of its package, `default` for none.
        name: Its name.
        file: Python file, directory or zip, relative to the manifest; "" for inline code and sequences.
        code: Inline source text.
        main: Name of the function.
        kind: Runtime, e.g. `python:3`; `sequence` for sequences; "" where the manifest is silent.
        params: Package's and its own parameters merged, name -> value; `$NAME` stands for a variable.
        annotations: Name -> value.
        timeout_ms: Time limit in milliseconds, 0 for none said.
        sequence: Keys of a sequence's components, in order.
    """

    package: str
    name: str
    file: str = ""
    code: str = ""
    main: str = "main"
    kind: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    annotations: Mapping[str, Any] = field(default_factory=dict)
    timeout_ms: int = 0
    sequence: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """`package/name`."""
        return f"{self.package}/{self.name}"

    @property
    def python(self) -> bool:
        """Whether it is Python, by its runtime or else by its file."""
        if self.kind:
            return self.kind.startswith("python")
        return self.file.endswith((".py", ".zip")) or "." not in self.file.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerSpec:
    """A trigger.

    Attributes:
        name: Its name.
        kind: `cron`, `topic`, or "" for one that only a request fires.
        value: Schedule or topic.
        payload: Parameters of every firing.
        json_data: Whether the message feed was asked for parsed values.
        actions: Keys of the actions that its rules name, in order.
    """

    name: str
    kind: str = ""
    value: str = ""
    payload: Mapping[str, Any] = field(default_factory=dict)
    json_data: bool = False
    actions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All packages of a manifest.

    Attributes:
        actions: Key -> action, in the manifest's order.
        triggers: Those that a rule names.
    """

    actions: Mapping[str, ActionSpec] = field(default_factory=dict)
    triggers: tuple[TriggerSpec, ...] = ()


def key_of(name: str, package: str = DEFAULT) -> str:
    """Return `package/name` for any way to write an action's name; relative names belong to `package`."""
    parts = [part for part in name.strip().split("/") if part]
    if name.strip().startswith("/") and len(parts) > 1:
        parts = parts[1:]
        package = DEFAULT
    if len(parts) > 1:
        return "/".join(parts[-2:])
    return f"{package}/{parts[0] if parts else ''}"


def truthy(value: Any) -> bool:
    """Read a flag as manifests, annotations and options write it."""
    if isinstance(value, str):
        return value.strip().lower() in {"true", "yes", "on", "1", "raw"}
    return bool(value)


def read(document: Any) -> Manifest | None:
    """Return a manifest's content; None for a document that is no manifest or has no action."""
    packages = _packages(document)
    actions: dict[str, ActionSpec] = {}
    triggers: dict[str, TriggerSpec] = {}
    for package, body in packages.items():
        if not isinstance(body, Mapping):
            continue
        shared = _params(body.get("inputs"))
        for name, action in _entries(body, "actions"):
            found = _action(package, name, action, shared)
            actions[found.key] = found
        for name, sequence in _entries(body, "sequences"):
            found = _sequence(package, name, sequence, shared)
            actions[found.key] = found
        for trigger in _triggers(package, body):
            triggers[trigger.name] = trigger
    return Manifest(actions=actions, triggers=tuple(triggers.values())) if actions else None


def _packages(document: Any) -> Mapping[str, Any]:
    if not isinstance(document, Mapping):
        return {}
    project = document.get("project")
    for holder in (document, project if isinstance(project, Mapping) else {}):
        packages = holder.get("packages")
        if isinstance(packages, Mapping):
            return {str(name): body for name, body in packages.items()}
    return {}


def _entries(body: Mapping[str, Any], key: str) -> list[tuple[str, Mapping[str, Any]]]:
    found = body.get(key)
    if not isinstance(found, Mapping):
        return []
    return [(str(name), value if isinstance(value, Mapping) else {}) for name, value in found.items()]


def _action(package: str, name: str, body: Mapping[str, Any], shared: Mapping[str, Any]) -> ActionSpec:
    kind = str(body.get("runtime") or body.get("kind") or "").replace("@", ":")
    if body.get("docker") or truthy(body.get("native")):
        kind = "blackbox"
    limits = body.get("limits")
    timeout = limits.get("timeout") if isinstance(limits, Mapping) else None
    # Only a package that says where it is may hold a path that starts with a slash; it cannot leave the tree.
    file = str(body.get("function") or body.get("location") or "").removeprefix("./").strip("/")
    return ActionSpec(
        package=package,
        name=name,
        file=file,
        code=str(body.get("code") or ""),
        main=str(body.get("main") or "main"),
        kind=kind,
        params={**shared, **_params(body.get("inputs"))},
        annotations=_annotations(body),
        timeout_ms=timeout if isinstance(timeout, int) and not isinstance(timeout, bool) else 0,
    )


def _sequence(package: str, name: str, body: Mapping[str, Any], shared: Mapping[str, Any]) -> ActionSpec:
    listed = body.get("actions")
    names = listed.split(",") if isinstance(listed, str) else listed if isinstance(listed, list) else []
    return ActionSpec(
        package=package,
        name=name,
        kind="sequence",
        params={**shared, **_params(body.get("inputs"))},
        annotations=_annotations(body),
        sequence=tuple(key_of(str(item), package) for item in names if str(item).strip()),
    )


def _annotations(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return annotations with what `web`, `raw-http` and `final` beside them say.

    A web action made by wskdeploy is final.
    """
    given = body.get("annotations")
    found: dict[str, Any] = (
        {str(key): value for key, value in given.items()} if isinstance(given, Mapping) else {}
    )
    for key in _ANNOTATION_KEYS:
        if key in body:
            found[key] = body[key]
    web = body.get("web", body.get("web-export", found.get("web-export")))
    if web is None:
        return found
    found["web-export"] = truthy(web)
    if isinstance(web, str) and web.strip().lower() == "raw":
        found["raw-http"] = True
    if found["web-export"]:
        found.setdefault("final", True)
    return found


def _params(inputs: Any) -> dict[str, Any]:
    if isinstance(inputs, list):  # a list of one-entry mappings means the same
        inputs = {key: value for item in inputs if isinstance(item, Mapping) for key, value in item.items()}
    if not isinstance(inputs, Mapping):
        return {}
    return {str(name): _value(given) for name, given in inputs.items()}


def _value(given: Any) -> Any:
    """Return a parameter's value: said, by default, or the empty one of its type."""
    if isinstance(given, Mapping) and given and set(given) <= _SCHEMA:
        for key in ("value", "default"):
            if given.get(key) is not None:
                return given[key]
        return _TYPES.get(str(given.get("type", "string")).lower(), "")
    if isinstance(given, str) and given.strip().lower() in _TYPES:
        return _TYPES[given.strip().lower()]
    return given


def _triggers(package: str, body: Mapping[str, Any]) -> list[TriggerSpec]:
    bound: dict[str, list[str]] = {}
    for _name, rule in _entries(body, "rules"):
        if rule.get("trigger") and rule.get("action") and str(rule.get("status", "active")) != "inactive":
            trigger = str(rule["trigger"]).rpartition("/")[2]
            bound.setdefault(trigger, []).append(key_of(str(rule["action"]), package))
    return [
        _trigger(name, trigger, tuple(bound[name]))
        for name, trigger in _entries(body, "triggers")
        if name in bound
    ]


def _trigger(name: str, body: Mapping[str, Any], actions: tuple[str, ...]) -> TriggerSpec:
    feed = str(body.get("feed") or body.get("source") or "").rstrip("/")
    inputs = _params(body.get("inputs"))
    if not feed:
        return TriggerSpec(name=name, payload=inputs, actions=actions)
    payload = inputs.get("trigger_payload")
    if isinstance(payload, str):
        try:
            payload = json.loads(payload)
        except ValueError:
            payload = {"payload": payload}
    kind, value = "", ""
    last = feed.rpartition("/")[2]
    if last == "alarm" and inputs.get("cron"):
        kind, value = "cron", str(inputs["cron"])
    elif last == "interval" and str(inputs.get("minutes", "")).isdigit():
        kind, value = "cron", f"@every {int(inputs['minutes'])}m"
    elif last in {"kafkaFeed", "messageHubFeed"} and inputs.get("topic"):
        kind, value = "topic", str(inputs["topic"])
    return TriggerSpec(
        name=name,
        kind=kind,
        value=value,
        payload=payload if isinstance(payload, Mapping) else {},
        json_data=truthy(inputs.get("isJSONData")),
        actions=actions,
    )


def encode(manifest: Manifest) -> str:
    """Return a manifest as JSON text, for an option."""
    plain = {
        "actions": [asdict(action) for action in manifest.actions.values()],
        "triggers": [asdict(trigger) for trigger in manifest.triggers],
    }
    return json.dumps(plain, separators=(",", ":"), default=str)


def decode(text: str) -> Manifest:
    """Return the manifest that `encode` wrote.

    Raises:
        ValueError: It is none.
    """
    try:
        plain = json.loads(text)
        actions = [
            ActionSpec(**{**item, "sequence": tuple(item.get("sequence", ()))}) for item in plain["actions"]
        ]
        triggers = [
            TriggerSpec(**{**item, "actions": tuple(item.get("actions", ()))}) for item in plain["triggers"]
        ]
    except (TypeError, KeyError) as exc:
        raise ValueError(f"not a package: {exc}") from exc
    return Manifest(actions={action.key: action for action in actions}, triggers=tuple(triggers))
