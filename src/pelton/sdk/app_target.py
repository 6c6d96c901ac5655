"""Import the ASGI or WSGI application that a target names: `name`, `module:name`, `module:factory()`.

Called by `compat/asgi.py` and `compat/wsgi.py` in the worker; finding targets is `sdk/app_objects.py`.
Source: uvicorn's and gunicorn's notation.
"""

from __future__ import annotations

import ast
import importlib
import os.path
from typing import Any, Final

from pelton.errors import FunctionLoadError
from pelton.model.invocation import LoadRequest
from pelton.sdk.source import import_source

__all__ = ["FACTORY", "USUAL_NAMES", "import_app"]

FACTORY: Final = "factory"
"""Option that says that the target makes the application when it is called without arguments."""

USUAL_NAMES: Final = ("app", "application", "api")
"""What an application is called, most usual first."""


def import_app(request: LoadRequest) -> Any:
    """Import the application that a LoadRequest means; a factory is called.

    Raises:
        FunctionLoadError: No such attribute, or it is no callable.
    """
    module_name, _, expression = request.target.rpartition(":")
    module = _import_module(module_name, request) if module_name else import_source(request.source)
    expression = expression or next((name for name in USUAL_NAMES if name in vars(module)), USUAL_NAMES[0])
    path, called, arguments = _parsed(expression, request)
    found: Any = module
    for name in path:
        try:
            found = getattr(found, name)
        except AttributeError:
            names = ", ".join(
                key for key, value in vars(module).items() if not key.startswith("_") and callable(value)
            )
            raise FunctionLoadError(
                f"there is no {'.'.join(path)!r} in the module {module.__name__!r}",
                where=request.source,
                hint=f"Callables there: {names or 'none'}. Choose one with --target MODULE:ATTRIBUTE.",
            ) from None
    if called or request.options.get(FACTORY, "").lower() == "true":
        found = found(*arguments[0], **arguments[1])
    if not callable(found):
        raise FunctionLoadError(
            f"{expression!r} is a {type(found).__name__}, not an application",
            where=request.source,
            hint="Name the application with --target MODULE:ATTRIBUTE; one that is made by a function needs "
            "`()` behind its name, or the annotation pelton.dev/factory=true.",
        )
    return found


def _import_module(name: str, request: LoadRequest) -> Any:
    path = f"{request.bundle}/{name}.py"
    if "." not in name and os.path.isfile(path):  # noqa: PTH113 -- pathlib costs a worker 8 ms of imports
        return import_source(path)
    return importlib.import_module(name)


def _parsed(
    expression: str, request: LoadRequest
) -> tuple[list[str], bool, tuple[list[Any], dict[str, Any]]]:
    """Split `name`, `a.b`, `factory()` or `factory("prod", debug=True)`."""
    try:
        node = ast.parse(expression, mode="eval").body
        called = isinstance(node, ast.Call)
        arguments: tuple[list[Any], dict[str, Any]] = ([], {})
        if isinstance(node, ast.Call):
            arguments = (
                [ast.literal_eval(item) for item in node.args],
                {item.arg: ast.literal_eval(item.value) for item in node.keywords if item.arg},
            )
            node = node.func
        path: list[str] = []
        while isinstance(node, ast.Attribute):
            path.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            return [node.id, *path], called, arguments
    except (SyntaxError, ValueError):
        pass
    raise FunctionLoadError(
        f"the target {expression!r} is neither a name nor a call with literal arguments",
        where=request.source,
        hint='Write attribute, module:attribute, module:factory() or module:factory("argument").',
    )
