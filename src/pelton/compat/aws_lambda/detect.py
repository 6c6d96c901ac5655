"""Which Lambda functions a source tree holds: templates, `def f(event, context)`, a `bootstrap`.

`templates.py` reads the templates (row 5); syntax rules (row 12) and the executable (row 15) are here.
Source: `faas-conventions` contract, section 11. Decided where it is silent: a target is a handler string,
`FILE.FUNCTION`; a bare function name, a template's logical id and a module that only assigns or imports the
name are understood when they are asked for.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from pelton.compat.aws_lambda import templates
from pelton.errors import SourceError
from pelton.model.convention import Match, SourceFile, Tree

__all__ = ["detect"]

_NAMES = frozenset({"lambda_handler", "handler"})
_FILE = "lambda_function.py"
_OWN = ("aws_lambda_powertools", "awslambdaric")
_KUBELESS = frozenset({"data", "extensions"})


def detect(tree: Tree) -> tuple[Match, ...]:
    """Return the functions that look like Lambda's.

    Raises:
        SourceError: The user asked for Lambda and for a handler whose file lacks it.
    """
    found = [*templates.matches(tree), *_bootstrap(tree)]
    if found and not tree.asked and not tree.target:
        return tuple(found)  # syntax rules cannot outweigh a file that says it
    for source in tree.sources:
        found += _by_syntax(source, tree)
    if tree.target and not any(match.target == tree.target for match in found):
        found += _named(tree)
    return tuple(found)


def _bootstrap(tree: Tree) -> Iterator[Match]:
    if tree.executable("bootstrap"):
        yield Match(
            target=tree.target or "bootstrap",
            signature="runtime",
            rule="an executable named bootstrap",
            row="15",
            stage="marker",
            source="bootstrap",
        )


def _by_syntax(source: SourceFile, tree: Tree) -> Iterator[Match]:
    own_import = _imports_own(source.module)
    for node in source.module.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        parameters = _parameters(node)
        is_file = source.name.rpartition("/")[2] == _FILE
        if parameters == ("event", "context"):
            if node.name in _NAMES or is_file:
                rank = 0
            elif _indexes_kubeless(node):
                continue
            else:
                rank = 1
        elif tree.asked and parameters is not None and len(parameters) == 2:
            rank = 0 if node.name in _NAMES else 1
        else:
            continue
        dotted = f"{source.name.removesuffix('.py')}.{node.name}"
        text = f"def {node.name}({', '.join(parameters)})"
        yield Match(
            target=node.name if tree.target == node.name else dotted,
            signature="handler",
            rule=f"{text} in {_FILE}" if is_file and node.name not in _NAMES else text,
            row="12",
            rank=rank,
            source=source.name,
            line=node.lineno,
            own_import=own_import,
        )


def _named(tree: Tree) -> Iterator[Match]:
    """Resolve a handler string that no rule above came up with."""
    module, _, name = tree.target.rpartition(".")
    if not module:
        return
    file = f"{module.replace('.', '/')}.py"
    if file not in tree.files:
        file = f"{module.replace('.', '/')}/__init__.py"
    parsed = tree.module(file) if file in tree.files else None
    if parsed is None:
        return
    lines, complete = _defined(parsed)
    line = lines.get(name, 0)
    if not line and not (tree.asked and not complete):
        if tree.asked:
            raise SourceError(
                f"the handler {tree.target!r} names nothing: there is no {name!r} in {file}",
                where=file,
                hint=f"Names there: {', '.join(lines) or 'none'}.",
            )
        return
    yield Match(
        target=tree.target,
        signature="handler",
        rule=f"the handler {tree.target}",
        row="12",
        source=file,
        line=line,
        own_import=_imports_own(parsed),
    )


def _defined(module: ast.Module) -> tuple[dict[str, int], bool]:
    """Return the names that a module binds at its top with their lines, and whether these are all."""
    found: dict[str, int] = {}
    complete = True
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = node.lineno
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for item in node.names:
                complete = complete and item.name != "*"
                found[item.asname or item.name.partition(".")[0]] = node.lineno
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                found.update({n.id: node.lineno for n in ast.walk(target) if isinstance(n, ast.Name)})
        elif isinstance(node, ast.If | ast.Try | ast.With):
            complete = False  # names bound in there are not worth the search
    return found, complete


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, ...] | None:
    """Return the positional parameters; None when there are others."""
    arguments = node.args
    if arguments.vararg or arguments.kwarg or arguments.kwonlyargs:
        return None
    return tuple(item.arg for item in [*arguments.posonlyargs, *arguments.args])


def _indexes_kubeless(node: ast.AST) -> bool:
    """Tell whether a body reads event['data'] or event['extensions']."""
    return any(
        isinstance(item, ast.Subscript)
        and isinstance(item.value, ast.Name)
        and item.value.id == "event"
        and isinstance(item.slice, ast.Constant)
        and item.slice.value in _KUBELESS
        for item in ast.walk(node)
    )


def _imports_own(module: ast.Module) -> bool:
    for node in module.body:
        names = []
        if isinstance(node, ast.Import):
            names = [item.name for item in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        if any(name.partition(".")[0] in _OWN for name in names):
            return True
    return False
