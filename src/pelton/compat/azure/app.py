"""The functions of an Azure app as data: bindings, parameters, retry policy; read from either model, checked.

A script with decorators (v2) is imported and its single app asked for its functions; each function.json (v1)
is read and its script imported as `__app__.<Folder>`. What follows (`call.py`, `serve.py`) knows no models.
Source: `faas-conventions` contract, section 3.1; azure-functions-python-worker (parameter check).
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pelton.compat.azure.settings import read_json
from pelton.errors import FunctionLoadError
from pelton.sdk.source import import_source

__all__ = ["RETURN", "Binding", "Function", "check", "described", "read_v1", "read_v2"]

RETURN: Final = "$return"
_DURABLE: Final = frozenset({"orchestrationTrigger", "entityTrigger", "activityTrigger", "durableClient"})
_PACKAGE: Final = "__app__"
_OFF: Final = frozenset({"1", "true"})


@dataclass(slots=True, kw_only=True)
class Binding:
    """One binding of a function.

    Attributes:
        name: Parameter name, or `$return`.
        type: E.g. `httpTrigger`, `queue`.
        out: Whether the function writes it.
        fields: As function.json has them, settings not resolved.
        converter: Name in the library's registry: the type, or `generic` where a parameter is a str or bytes.
        wanted: Annotation of the parameter, inside of `Out[...]`; None for none.
    """

    name: str
    type: str
    out: bool
    fields: Mapping[str, Any]
    converter: str = ""
    wanted: Any = None

    @property
    def is_trigger(self) -> bool:
        """Whether it starts the function."""
        return not self.out and self.type.lower().endswith("trigger")

    @property
    def many(self) -> bool:
        """Whether the function takes a list of events."""
        return str(self.fields.get("cardinality", "")).lower() == "many"


@dataclass(slots=True, kw_only=True)
class Function:
    """One function of an app.

    Attributes:
        name: Its name, unique within the app.
        directory: Its directory, absolute; the app's for v2.
        bindings: All of them.
        trigger: The one that starts it.
        user: The user's function; None for custom handlers.
        is_async: Whether that is a coroutine function.
        context: Whether it takes `context`.
        retry: Retry policy with function.json's keys; {} for none.
    """

    name: str
    directory: str
    bindings: tuple[Binding, ...]
    trigger: Binding
    user: Callable[..., Any] | None = None
    is_async: bool = False
    context: bool = False
    retry: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_http(self) -> bool:
        """Whether requests call it."""
        return self.trigger.type == "httpTrigger"


def _error(function: str, what: str, where: str, hint: str = "") -> FunctionLoadError:
    return FunctionLoadError(f"function {function!r}: {what}", where=where, hint=hint)


# --- v2 ---
def read_v2(source: str, env: Mapping[str, str]) -> tuple[Any, list[Function]]:
    """Import a file and return its app and the app's functions.

    Raises:
        FunctionLoadError: Not exactly one app, or a function that does not fit.
    """
    module = import_source(source)
    register = importlib.import_module("azure.functions").FunctionRegister
    found: dict[int, tuple[str, Any]] = {}
    for name, value in vars(module).items():
        if isinstance(value, register):
            found.setdefault(id(value), (name, value))
    if len(found) != 1:
        names = ", ".join(name for name, _ in found.values())
        raise FunctionLoadError(
            f"there are {len(found)} function apps: {names}" if found else "there is no function app",
            where=source,
            hint="Keep one `app = func.FunctionApp()` at the top level; others become func.Blueprint(), "
            "which app.register_functions(blueprint) adds.",
        )
    ((_, app),) = found.values()
    try:
        registered = app.get_functions()
    except ValueError as exc:  # the library's own checks: no trigger, a name twice
        raise FunctionLoadError(str(exc), where=source) from exc
    directory = os.path.dirname(source)  # noqa: PTH120 -- pathlib costs a worker 8 ms of imports
    functions = []
    for item in registered:
        name = str(item.get_function_name())
        if _disabled(name, False, env):
            continue
        bindings = [_binding(json.loads(text), name, source) for text in item.get_raw_bindings()]
        policy = item.get_setting("retry_policy")
        functions.append(
            _function(
                name,
                directory,
                bindings,
                source,
                user=item.get_user_function(),
                retry=_camel(policy.get_dict_repr()) if policy is not None else {},
            )
        )
    return app, functions


def _camel(policy: Mapping[str, Any]) -> dict[str, Any]:
    """Return a retry policy of the decorators with function.json's keys."""
    made = {}
    for key, value in policy.items():
        first, *rest = key.split("_")
        made[first + "".join(part.title() for part in rest)] = value
    return made


# --- v1 ---
def described(bundle: str, env: Mapping[str, str]) -> list[tuple[Function, Mapping[str, Any]]]:
    """Return the functions that function.json files describe, without code, and the files' contents.

    Raises:
        FunctionLoadError: A file is no JSON, or describes no function.
    """
    found: list[tuple[Function, Mapping[str, Any]]] = []
    for entry in sorted(os.listdir(bundle)):  # noqa: PTH208 -- as above
        path = f"{bundle}/{entry}/function.json"
        document = read_json(path)
        if not isinstance(document.get("bindings"), list) or _disabled(entry, document.get("disabled"), env):
            continue
        bindings = [_binding(item, entry, path) for item in document["bindings"]]
        retry = document.get("retry")
        directory = f"{bundle}/{entry}"
        function = _function(
            entry, directory, bindings, path, user=None, retry=retry if isinstance(retry, dict) else {}
        )
        found.append((function, document))
    return found


def read_v1(bundle: str, env: Mapping[str, str]) -> list[Function]:
    """Return the functions that function.json files describe, with their code.

    Raises:
        FunctionLoadError: As `described`, or a script or entry point is missing.
    """
    if bundle not in sys.path:
        sys.path.insert(0, bundle)
    package = types.ModuleType(_PACKAGE)
    package.__path__ = [bundle]
    sys.modules[_PACKAGE] = package
    functions = []
    for function, document in described(bundle, env):
        script = _script(bundle, function.name, document)
        module = importlib.import_module(_module_name(bundle, script))
        entry = str(document.get("entryPoint") or "main")
        user = getattr(module, entry, None)
        if not callable(user):
            raise _error(
                function.name,
                f"there is no {entry}() in its script",
                script,
                'Define it, or name another function with "entryPoint" in function.json.',
            )
        function.user = user
        functions.append(function)
    return functions


def _script(bundle: str, folder: str, document: Mapping[str, Any]) -> str:
    """Return the path of a function's script."""
    inside = f"{bundle}/{folder}"
    named = document.get("scriptFile")
    if isinstance(named, str) and named:
        path = os.path.normpath(f"{inside}/{named}")
        if not path.startswith(f"{bundle}/") or not os.path.isfile(path):  # noqa: PTH113 -- as above
            raise _error(folder, f"there is no script {named!r}", f"{inside}/function.json")
        return path
    files = sorted(name for name in os.listdir(inside) if name.endswith(".py"))  # noqa: PTH208 -- as above
    for usual in ("__init__.py", "main.py"):
        if usual in files:
            return f"{inside}/{usual}"
    if len(files) == 1:
        return f"{inside}/{files[0]}"
    raise _error(
        folder,
        "its script is not clear",
        f"{inside}/function.json",
        'Name it with "scriptFile", e.g. "main.py".',
    )


def _module_name(bundle: str, script: str) -> str:
    inside = script.removeprefix(f"{bundle}/").removesuffix(".py").removesuffix("/__init__")
    return f"{_PACKAGE}.{inside.replace('/', '.')}"


def _disabled(name: str, written: Any, env: Mapping[str, str]) -> bool:
    said = env.get(f"AzureWebJobs.{name}.Disabled") or env.get(f"AzureWebJobs_{name}_Disabled")
    if said is not None:
        return said.lower() in _OFF
    if isinstance(written, str):  # the name of a setting
        return env.get(written.strip("%"), written).lower() in _OFF
    return bool(written)


# --- both ---
def _binding(fields: Any, function: str, where: str) -> Binding:
    if not isinstance(fields, Mapping) or not fields.get("type") or not fields.get("name"):
        raise _error(function, f"a binding lacks its type or name: {fields!r}", where)
    direction = str(fields.get("direction") or "in").lower()
    name = str(fields["name"])
    if direction not in {"in", "out"}:
        raise _error(
            function,
            f"binding {name!r} has direction {direction!r}",
            where,
            "Use in or out; Python functions have no other direction.",
        )
    return Binding(name=name, type=str(fields["type"]), out=direction == "out", fields=fields)


def _function(
    name: str,
    directory: str,
    bindings: list[Binding],
    where: str,
    *,
    user: Callable[..., Any] | None,
    retry: Mapping[str, Any],
) -> Function:
    durable = next((item.type for item in bindings if item.type in _DURABLE), "")
    if durable:
        raise _error(name, f"{durable} belongs to Durable Functions, which are not supported", where)
    triggers = [item for item in bindings if item.is_trigger]
    if len(triggers) != 1:
        listed = ", ".join(f"{item.name} ({item.type})" for item in triggers)
        raise _error(
            name,
            f"it has {len(triggers)} triggers: {listed}" if triggers else "it has no trigger",
            where,
            "A function has exactly one trigger; split it into several functions."
            if triggers
            else "Give it one, e.g. an httpTrigger.",
        )
    for item in bindings:
        if item.name == RETURN and not item.out:
            raise _error(name, "the binding $return has to have direction out", where)
    return Function(
        name=name,
        directory=directory,
        bindings=tuple(bindings),
        trigger=triggers[0],
        user=user,
        retry=retry,
    )


def check(function: Function, where: str) -> None:
    """Compare a function's parameters with its bindings, and note what the annotations want.

    Args:
        function: Its `context`, `is_async` and its bindings' `converter` and `wanted` are filled in.
        where: For messages.

    Raises:
        FunctionLoadError: A parameter without a binding, a binding without a parameter, or `Out[...]` where
            the direction is in, or the other way round.
    """
    user = function.user
    assert user is not None  # noqa: S101 -- custom handlers have none and are not checked
    parameters = dict(inspect.signature(user).parameters)
    try:
        hints = typing.get_type_hints(user)
    except Exception:  # annotations that only a type checker can resolve
        hints = {}
    bound = {item.name: item for item in function.bindings if item.name != RETURN}
    if "context" in parameters and "context" not in bound:
        function.context = True
        del parameters["context"]
    function.is_async = inspect.iscoroutinefunction(user)
    _same_names(function.name, set(parameters), set(bound), where)
    for item in function.bindings:
        hint = hints.get("return" if item.name == RETURN else item.name)
        is_out = getattr(typing.get_origin(hint) or hint, "__name__", "") == "Out"
        if hint is not None and item.name != RETURN and is_out != item.out:
            said, wanted = ("out", "func.Out[...]") if item.out else ("in", "no func.Out")
            raise _error(
                function.name,
                f"the binding {item.name!r} has direction {said}, its parameter's annotation is {hint!r}",
                where,
                f"Annotate it as {wanted}, or change the binding's direction.",
            )
        arguments = typing.get_args(hint)
        item.wanted = arguments[0] if is_out and arguments else hint
        item.converter = "generic" if item.wanted in (str, bytes) and item.name != RETURN else item.type


def _same_names(function: str, parameters: set[str], bound: set[str], where: str) -> None:
    if parameters - bound:
        names = ", ".join(sorted(parameters - bound))
        raise _error(
            function,
            f"parameters without a binding: {names}",
            where,
            f"Name them like bindings ({', '.join(sorted(bound))}); `context` needs none.",
        )
    if bound - parameters:
        names = ", ".join(sorted(bound - parameters))
        raise _error(
            function,
            f"bindings without a parameter: {names}",
            where,
            "The function has to take each binding but $return as a parameter of that name.",
        )
