"""What in a source tree looks like Google's: decorators, or the usual parameters. Syntax trees only.

Called by `compat/gcf/__init__.py`.
Source: `faas-conventions` contract, section 11, row 11.
"""

from __future__ import annotations

import ast
from typing import Final

from pelton.errors import FunctionLoadError
from pelton.model.convention import Match, Tree

__all__ = ["detect", "only_candidate"]

_DECORATORS: Final = {"http": "http", "cloud_event": "cloudevent", "typed": "typed"}
_FRAMEWORK: Final = frozenset({"functions_framework", "functions_framework.aio"})
_OWN_IMPORTS: Final = ("google.cloud.functions", "google.cloud.functions_v1")
_PARAMETERS: Final = {
    ("request",): "http",
    ("req",): "http",
    ("cloud_event",): "cloudevent",
    ("cloudevent",): "cloudevent",
    ("data", "context"): "event",
    ("event", "context"): "event",
}
_LAMBDA_NAME: Final = "lambda_handler"
# The framework depends on Starlette, and hands its request to these functions.
_AIO: Final = ("starlette>=0.37,<2",)
_AIO_RULE: Final = "decorated with functions_framework.aio."


def detect(tree: Tree, name: str) -> tuple[Match, ...]:
    """Return the functions that look like Google's.

    Args:
        tree: The source tree.
        name: Name of this convention: where the user asked for it, any function of one or two parameters
            will do if nothing looks better.
    """
    asked = tree.asked == name
    return tuple(
        match
        for source in tree.sources
        for match in _matches(source.module, source.name, entry=source.entry, asked=asked)
    )


def only_candidate(source: str) -> tuple[str, str]:
    """Return (target, signature) of the one function of a file that can be meant.

    Raises:
        FunctionLoadError: There is none, or there are several.
    """
    with open(source, "rb") as file:  # noqa: PTH123 -- pathlib costs a worker 8 ms of imports
        matches = _matches(ast.parse(file.read()), source, entry=True, asked=False)
    best = [match for match in matches if match.rank == min(m.rank for m in matches)]
    if len(best) == 1:
        return best[0].target, best[0].signature
    names = ", ".join(match.target for match in best)
    raise FunctionLoadError(
        f"several functions could be meant: {names}" if names else "no function takes a request or an event",
        where=source,
        hint="Choose one with --target, FUNC_NAME or FUNCTION_TARGET.",
    )


def _matches(module: ast.Module, source: str, *, entry: bool, asked: bool) -> list[Match]:
    names, own_import = _imports(module)
    found = []
    for node in module.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        decorated = _by_decorator(node, names)
        implied = _AIO if decorated is not None and decorated[0].startswith(_AIO_RULE) else ()
        said = decorated or (_by_parameters(node) if entry or own_import else None)
        if said is not None and _shared(node) and not (own_import or asked or source.endswith("main.py")):
            continue  # Lambda's and Kubeless' parameters, too: only in main.py are they Google's habit
        if said is None and asked and entry:
            said = _by_count(node)
        if said is None:
            continue
        rule, signature, rank = said
        found.append(
            Match(
                target=node.name,
                signature=signature,
                rule=rule,
                row="11",
                rank=rank,
                source=source,
                line=node.lineno,
                own_import=own_import,
                implied=implied,
            )
        )
    return found


_Def = ast.FunctionDef | ast.AsyncFunctionDef


def _by_decorator(node: _Def, names: dict[str, str]) -> tuple[str, str, int] | None:
    for decorator in node.decorator_list:
        said = names.get(_dotted(decorator.func if isinstance(decorator, ast.Call) else decorator))
        if said:
            return f"decorated with functions_framework.{said}", _DECORATORS[said.rpartition(".")[2]], 0
    return None


def _by_parameters(node: _Def) -> tuple[str, str, int] | None:
    parameters = _parameters(node)
    if parameters == ("event", "context") and node.name == _LAMBDA_NAME:
        return None
    signature = _PARAMETERS.get(parameters)
    if signature is None:
        return None
    return f"def {node.name}({', '.join(parameters)}) in the entry file", signature, 1


def _shared(node: _Def) -> bool:
    return _parameters(node) == ("event", "context")


def _by_count(node: _Def) -> tuple[str, str, int] | None:
    """Accept any function of one or two parameters, for users who said which convention it is."""
    parameters = _parameters(node)
    if len(parameters) not in {1, 2}:
        return None
    annotation = node.args.args[0].annotation if node.args.args else None
    takes_event = isinstance(annotation, ast.Name | ast.Attribute) and _dotted(annotation).endswith(
        "CloudEvent"
    )
    signature = "event" if len(parameters) == 2 else "cloudevent" if takes_event else "http"
    return f"def {node.name}({', '.join(parameters)}), and the convention was named", signature, 2


def _parameters(node: _Def) -> tuple[str, ...]:
    """Return the names of the parameters; () where the function cannot be meant."""
    if node.name.startswith("_") or node.args.vararg or node.args.kwarg or node.args.kwonlyargs:
        return ()
    return tuple(item.arg for item in [*node.args.posonlyargs, *node.args.args])


def _imports(tree: ast.Module) -> tuple[dict[str, str], bool]:
    """Return how this file calls the decorators, and whether it imports Google's own packages at all.

    The names are like {"ff.http": "http", "ff.aio.http": "aio.http", "cloud_event": "cloud_event"}.
    """
    names: dict[str, str] = {}
    own = False
    for node in tree.body:
        if isinstance(node, ast.Import):
            for item in node.names:
                own |= item.name in _FRAMEWORK or item.name.startswith(_OWN_IMPORTS)
                if item.name == "functions_framework" or (item.name in _FRAMEWORK and not item.asname):
                    names.update(_under(item.asname or "functions_framework"))
                elif item.name in _FRAMEWORK:
                    names.update({f"{item.asname}.{name}": f"aio.{name}" for name in _DECORATORS})
        elif isinstance(node, ast.ImportFrom) and node.module:
            own |= node.module in _FRAMEWORK or node.module.startswith(_OWN_IMPORTS)
            if node.module in _FRAMEWORK:
                inside = "aio." if node.module != "functions_framework" else ""
                for item in node.names:
                    if item.name in _DECORATORS:
                        names[item.asname or item.name] = f"{inside}{item.name}"
                    elif item.name == "aio":
                        names.update(
                            {f"{item.asname or 'aio'}.{name}": f"aio.{name}" for name in _DECORATORS}
                        )
    return names, own


def _under(prefix: str) -> dict[str, str]:
    """Return the names that `import functions_framework as prefix` gives the decorators."""
    aio = {f"{prefix}.aio.{name}": f"aio.{name}" for name in _DECORATORS}
    return {f"{prefix}.{name}": name for name in _DECORATORS} | aio


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""
