"""Platforms that detection recognises and Pelton does not run: OpenFaaS and Nuclio.

Recognising them keeps their functions from being taken for somebody else's. Called by `builders/detect.py`.
Source: `faas-conventions` contract, section 11, rows 8, 9 and 14.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pelton.model.convention import Match, Tree

__all__ = ["UNSUPPORTED", "Rule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How a platform is recognised.

    Attributes:
        title: Its name.
        looks_for: What `detect` looks for.
        detect: Returns the functions found.
    """

    title: str
    looks_for: str
    detect: Callable[[Tree], tuple[Match, ...]]


def _openfaas(tree: Tree) -> tuple[Match, ...]:
    for name in ("stack.yml", "stack.yaml"):
        for document in tree.documents(name):
            provider = document.get("provider") if isinstance(document, dict) else None
            if isinstance(provider, dict) and provider.get("name") == "openfaas":
                rule = f"{name} with provider.name openfaas"
                return (
                    Match(
                        target="handle", signature="openfaas", rule=rule, row="9", stage="marker", source=name
                    ),
                )
    found = []
    for source in tree.sources:
        if source.name.rpartition("/")[2] != "handler.py":
            continue
        for node in _functions(source.module):
            parameters = _parameters(node)
            if node.name == "handle" and parameters is not None and len(parameters) in {1, 2}:
                rule = f"handler.py with def handle({', '.join(parameters)})"
                found.append(
                    Match(
                        target="handle",
                        signature="openfaas",
                        rule=rule,
                        row="9",
                        source=source.name,
                        line=node.lineno,
                    )
                )
    return tuple(found)


def _nuclio(tree: Tree) -> tuple[Match, ...]:
    for name in tree.files:
        manifest = name.endswith((".yaml", ".yml")) and "NuclioFunction" in tree.text(name)
        if manifest and any(
            isinstance(document, dict) and document.get("kind") == "NuclioFunction"
            for document in tree.documents(name)
        ):
            rule = f"{name} with kind NuclioFunction"
            return (Match(target="", signature="nuclio", rule=rule, row="8", stage="marker", source=name),)
        if name.endswith(".py") and "@nuclio.configure" in tree.text(name):
            rule = "a @nuclio.configure block"
            return (Match(target="", signature="nuclio", rule=rule, row="8", stage="marker", source=name),)
    return tuple(
        Match(
            target=node.name,
            signature="nuclio",
            rule=f"def {node.name}(context, event)",
            row="14",
            source=source.name,
            line=node.lineno,
            own_import=any(_imports_nuclio(top) for top in source.module.body),
        )
        for source in tree.sources
        for node in _functions(source.module)
        if _parameters(node) == ("context", "event")
    )


def _functions(module: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, ...] | None:
    """Return the positional parameters; None when there are others."""
    arguments = node.args
    if arguments.vararg or arguments.kwarg or arguments.kwonlyargs:
        return None
    return tuple(item.arg for item in [*arguments.posonlyargs, *arguments.args])


def _imports_nuclio(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import):
        return any(item.name.partition(".")[0] in {"nuclio", "nuclio_sdk"} for item in node.names)
    return isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in {
        "nuclio",
        "nuclio_sdk",
    }


UNSUPPORTED: Final[Mapping[str, Rule]] = {
    "openfaas": Rule(
        title="OpenFaaS",
        looks_for="stack.yml with provider openfaas, or handler.py with def handle of one or two parameters",
        detect=_openfaas,
    ),
    "nuclio": Rule(
        title="Nuclio",
        looks_for="kind NuclioFunction, @nuclio.configure, or def f(context, event)",
        detect=_nuclio,
    ),
}
