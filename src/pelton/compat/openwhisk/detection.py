"""OpenWhisk functions in a source tree: a wskdeploy manifest, `__main__.py`, or a zip that holds one.

Called by `builders/detect.py` through the package. Reads names, texts and syntax trees only.
Source: `faas-conventions` contract, section 11, row 10. Decided: a manifest is one Pelton function that
serves all its actions, unless a target narrows it (`action` or `package/action`); with `--convention` any
function of one parameter will do, and a tree without one is a blank runtime (`options`: `init=true`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Final, TypeGuard

from pelton.compat.openwhisk.manifest import ActionSpec, Manifest, TriggerSpec, encode, key_of, read
from pelton.model.convention import Match, Tree, Trigger

__all__ = ["PACKAGE", "detect"]

PACKAGE: Final = "openwhisk-package"
"""Option that carries a manifest to the worker."""
_NAME: Final = "openwhisk"
_ENTRY: Final = "__main__.py"
_ROW: Final = "10"
_LONGEST_ENTRY_BYTES: Final = 1024 * 1024


def detect(tree: Tree) -> tuple[Match, ...]:
    """Return the actions that a tree declares; one match for all actions of a manifest."""
    found = _manifests(tree) or _entries(tree) or _zips(tree)
    if found or tree.asked != _NAME:
        return tuple(found)
    by_habit = _functions(tree)
    if by_habit or tree.target:
        return tuple(by_habit)
    blank = "no action in the source: a blank runtime, filled by POST /init"
    return (Match(target="", signature="action", rule=blank, row=_ROW, rank=9),)


def _manifests(tree: Tree) -> list[Match]:
    for name in ("manifest.yml", "manifest.yaml"):
        if name not in tree.files:
            continue
        for document in tree.documents(name):
            manifest = read(document)
            if manifest is not None:
                return _of_manifest(tree, name, manifest)
    return []


def _of_manifest(tree: Tree, name: str, manifest: Manifest) -> list[Match]:
    actions = list(manifest.actions.values())
    chosen: ActionSpec | None = None
    if tree.target:
        named = [a for a in actions if tree.target in {a.name, a.key} or key_of(tree.target) == a.key]
        if len(named) != 1:
            return []
        chosen = named[0]
    elif len(actions) == 1:
        chosen = actions[0]
    options = {PACKAGE: encode(manifest)}
    served = [chosen] if chosen else actions
    timeouts = [action.timeout_ms for action in served if action.timeout_ms]
    if timeouts:
        options["request-timeout"] = f"{max(timeouts)}ms"
    return [
        Match(
            target=tree.target or (chosen.name if chosen else ""),
            signature="sequence" if chosen and chosen.kind == "sequence" else "action",
            rule=f"{name} with {len(actions)} action{'s' if len(actions) != 1 else ''}",
            row=_ROW,
            stage="marker",
            source=chosen.file if chosen and chosen.file.endswith(".py") else "",
            options=options,
            triggers=_triggers(manifest.triggers, {action.key for action in served}),
        )
    ]


def _triggers(declared: Iterable[TriggerSpec], keys: set[str]) -> tuple[Trigger, ...]:
    return tuple(
        Trigger(kind=trigger.kind, value=trigger.value, name=trigger.name)
        for trigger in declared
        if trigger.kind and keys.intersection(trigger.actions)
    )


def _entries(tree: Tree) -> list[Match]:
    names = [name for name in tree.files if name.rpartition("/")[2] == _ENTRY]
    # Below the top it may be any Python package's command line.
    wanted = [_ENTRY] if _ENTRY in names else names if tree.asked == _NAME and len(names) == 1 else []
    found = []
    for name in wanted:
        module = tree.module(name)
        line = _line_of(module, tree.target or "main") if module is not None else 0
        if line:
            found.append(_match(tree.target or "main", f"{name} with main(params)", name, line))
    return found


def _match(target: str, rule: str, source: str, line: int, options: Mapping[str, str] | None = None) -> Match:
    return Match(
        target=target,
        signature="action",
        rule=rule,
        row=_ROW,
        stage="marker",
        rank=1,
        source=source,
        line=line,
        options=options or {},
    )


def _zips(tree: Tree) -> list[Match]:
    names = [name for name in tree.files if name.endswith(".zip")]
    if len(names) != 1:
        return []
    target = tree.target or "main"
    module = _entry_of_zip(tree, names[0])
    if module is None or not _line_of(module, target):
        return []
    return [_match(target, f"{_ENTRY} with main(params) in {names[0]}", names[0], 0)]


def _entry_of_zip(tree: Tree, name: str) -> ast.Module | None:
    import zipfile  # only trees with a zip need it

    file = tree.open(name)
    if file is None:
        return None
    with file:
        try:
            with zipfile.ZipFile(file) as archive:
                if archive.getinfo(_ENTRY).file_size > _LONGEST_ENTRY_BYTES:
                    return None
                return ast.parse(archive.read(_ENTRY))
        except (KeyError, OSError, ValueError, SyntaxError, RuntimeError, zipfile.BadZipFile):
            return None


def _functions(tree: Tree) -> list[Match]:
    """Return functions of one parameter, for trees whose user said that they are for OpenWhisk."""
    found = []
    for source in tree.sources:
        for node in source.module.body:
            if not _takes_params(node) or (node.name.startswith("_") and node.name != tree.target):
                continue
            found.append(
                Match(
                    target=node.name,
                    signature="action",
                    rule=f"def {node.name}({node.args.args[0].arg})",
                    row=_ROW,
                    rank=0 if node.name == "main" else 1,
                    source=source.name,
                    line=node.lineno,
                )
            )
    return found


def _takes_params(node: ast.stmt) -> TypeGuard[ast.FunctionDef | ast.AsyncFunctionDef]:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    arguments = node.args
    required = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
    keywords = any(default is None for default in arguments.kw_defaults)
    return bool(arguments.args) and required <= 1 and not keywords


def _line_of(module: ast.Module, name: str) -> int:
    for node in module.body:
        if _takes_params(node) and node.name == name:
            return node.lineno
    return 0
