"""Import the user's source file and find the function in it; shared by the conventions in `compat/`.

Errors that user code raises pass through untouched: `dataplane/loader.py` turns them into a
FunctionLoadError.
"""

from __future__ import annotations

import importlib.util
import os.path
import sys
import types
from collections.abc import Callable
from typing import Any

from pelton.errors import FunctionLoadError

__all__ = ["find_function", "functions_of", "import_source"]


def import_source(path: str) -> types.ModuleType:
    """Import a file as the module of its stem, its directory on `sys.path`, and return the module.

    Raises:
        FunctionLoadError: There is no such file.
    """
    if not os.path.isfile(path):  # noqa: PTH113 -- pathlib costs a worker 8 ms of imports
        raise FunctionLoadError(
            f"there is no file {os.path.basename(path)!r} in the source",  # noqa: PTH119 -- as above
            where=path,
            hint="Name the file with FUNC_SRC or FUNCTION_SOURCE; the default is main.py.",
        )
    folder, file = os.path.split(path)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = os.path.splitext(file)[0]  # noqa: PTH122 -- as above
    if name in sys.stdlib_module_names or not name.isidentifier():
        name = f"function_{name}"  # a file called json.py must not hide the standard library
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FunctionLoadError(f"{file} is not a Python file", where=path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def functions_of(module: types.ModuleType) -> list[str]:
    """Return the names of the plain functions that a module has, in order of definition."""
    return [name for name, value in vars(module).items() if isinstance(value, types.FunctionType)]


def find_function(module: types.ModuleType, target: str) -> Callable[..., Any]:
    """Return the function called `target`.

    Raises:
        FunctionLoadError: It is missing (the names that exist are listed) or it is no plain function.
    """
    where = getattr(module, "__file__", None) or module.__name__
    found = vars(module).get(target)
    if isinstance(found, types.FunctionType):
        return found
    names = ", ".join(functions_of(module)) or "none"
    if found is not None or target in vars(module):
        raise FunctionLoadError(
            f"{target!r} is a {type(found).__name__}, not a function",
            where=where,
            hint=f"Functions in this file: {names}.",
        )
    raise FunctionLoadError(
        f"there is no function {target!r}",
        where=where,
        hint=f"Functions in this file: {names}. Choose one with --target, FUNC_NAME or FUNCTION_TARGET.",
    )
