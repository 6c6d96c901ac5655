"""The actions that one worker serves: their parameters, annotations and functions, and how they are run.

Loads what `manifest.py` describes (or one function) through `code.py`; `front.py` asks it for actions by name
and runs them here: a single one, a sequence, a conductor, or the actions of a trigger.
Source: `faas-conventions` contract, section 6.2. Decided: actions of a package share a process, so modules of
the same name in two action directories are kept apart while they are imported, not afterwards; an action of
another language answers with a developer error.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Final

from pelton.compat.openwhisk import code
from pelton.compat.openwhisk.activation import APPLICATION_ERROR, DEVELOPER_ERROR, SUCCESS, Outcome
from pelton.compat.openwhisk.context import put
from pelton.compat.openwhisk.detection import PACKAGE
from pelton.compat.openwhisk.manifest import (
    DEFAULT,
    ActionSpec,
    Manifest,
    TriggerSpec,
    decode,
    key_of,
    truthy,
)
from pelton.errors import FunctionLoadError
from pelton.model.invocation import LoadRequest
from pelton.sdk import tracebacks

__all__ = ["Action", "Package", "load_package", "merge"]

_NOT_A_RESULT: Final = "The action did not return a dictionary or array."
_MOST_COMPONENTS: Final = 50
"""Components of a sequence or a composition, counted over all that it contains."""
_FLAGS: Final = ("web-export", "raw-http", "final", "web-custom-options", "conductor", "require-whisk-auth")
_OWN: Final = __file__.rpartition("/")[0] + "/"

Step = tuple["Action", Any]


class Action:
    """One action, ready to be run.

    Args:
        spec: What the manifest says.
        namespace: The Function's.
        annotations: The spec's, with the options' over them.

    Attributes:
        key: `package/name`.
        path: `/namespace/package/name`, without the package when it is the default one.
        function: The user's; None for sequences and what cannot be run.
        is_async: Whether it is a coroutine function.
        final: Names of parameters that an invocation may not set.
        web, raw, custom_options: Annotations `web-export`, `raw-http`, `web-custom-options`.
        auth: Annotation `require-whisk-auth`: None, True, or the secret as text.
    """

    def __init__(self, spec: ActionSpec, namespace: str, annotations: Mapping[str, Any]) -> None:
        self.spec = spec
        self.key = spec.key
        self.path = f"/{namespace}/{spec.name}" if spec.package == DEFAULT else f"/{namespace}/{spec.key}"
        self.function: Callable[..., Any] | None = None
        self.is_async = False
        self.simple = not spec.sequence and not truthy(annotations.get("conductor"))
        self.params = {name: _from_environment(value) for name, value in spec.params.items()}
        # Actions may change what they are given: nested values are made anew for each activation.
        nested = any(isinstance(value, dict | list) for value in self.params.values())
        self._text = json.dumps(self.params, default=str) if nested else ""
        defined = {name for name, value in self.params.items() if value not in (None, "", [], {})}
        self.final = frozenset(defined) if truthy(annotations.get("final")) else frozenset()
        self.web = truthy(annotations.get("web-export"))
        self.raw = truthy(annotations.get("raw-http"))
        self.custom_options = truthy(annotations.get("web-custom-options"))
        self.conductor = truthy(annotations.get("conductor")) and not spec.sequence
        self.auth = _auth(annotations.get("require-whisk-auth"))

    def defaults(self) -> dict[str, Any]:
        """Return the package's and the action's parameters, the caller's to change."""
        return json.loads(self._text) if self._text else self.params.copy()


def _auth(value: Any) -> bool | str | None:
    if value is None or value is False or value == "" or str(value).lower() == "false":
        return None
    return True if value is True or str(value).lower() == "true" else str(value)


def _from_environment(value: Any) -> Any:
    """Resolve `$NAME` and `${NAME}`, as wskdeploy does; an unknown name is the empty string."""
    if isinstance(value, str) and value.startswith("$") and len(value) > 1:
        name = value[2:-1] if value.startswith("${") and value.endswith("}") else value[1:]
        return os.environ.get(name, "") if name.isidentifier() else value
    return value


def merge(action: Action, given: Any) -> Any:
    """Return an action's parameters under those of an invocation; a list is taken as it is."""
    if not isinstance(given, dict) or not action.params:
        return given
    return {**action.defaults(), **given}


class Package:
    """All actions of a worker.

    Args:
        namespace: The Function's.
        name: The Function's; a package and, when there is one action, an action may be called so.
        actions: What is served, with everything that it refers to.
        exposed: Keys of those that clients may name.
        triggers: What events start.

    Attributes:
        only: The one exposed action, or None.
    """

    def __init__(
        self,
        namespace: str,
        name: str,
        actions: Mapping[str, Action],
        exposed: Iterable[str],
        triggers: tuple[TriggerSpec, ...] = (),
    ) -> None:
        self.namespace = namespace
        self.name = name
        self.triggers = triggers
        self._actions = dict(actions)
        self.exposed = {key: actions[key] for key in exposed}
        self.only = next(iter(self.exposed.values())) if len(self.exposed) == 1 else None
        self._named: Action | None = None

    @property
    def blank(self) -> bool:
        """Whether no action is there yet."""
        return not self._actions

    @property
    def mixed(self) -> bool:
        """Whether an action is a coroutine function."""
        return any(action.is_async for action in self._actions.values())

    def put(self, action: Action) -> None:
        """Take the one action of a blank runtime."""
        self._actions = self.exposed = {action.key: action}
        self.only = action

    def find(self, package: str, name: str) -> Action | None:
        """Return an exposed action by its address.

        Args:
            package: Its package, the Function's name for any, or `default`.
            name: Its name; the Function's name for the only one.
        """
        found = self.exposed.get(f"{package}/{name}")
        if found is not None:
            return found
        if self.only is not None and package in {DEFAULT, self.name, self.only.spec.package}:
            return self.only if name in {self.name, self.only.spec.name} else None
        if package in {self.name, DEFAULT}:
            named = [action for action in self.exposed.values() if action.spec.name == name]
            return named[0] if len(named) == 1 else None
        return None

    def all_of(self, keys: Iterable[str]) -> list[Action]:
        """Return the actions of these keys, as far as they are here."""
        return [self._actions[key] for key in keys if key in self._actions]

    def assume_name(self, action: Action | None) -> None:
        """Take __OW_ACTION_NAME as it is for a call of this action; None: write it with the next call."""
        self._named = action

    # --- running ---

    def run(self, action: Action, params: Any) -> Outcome:
        """Run an action to its end; `params` are whole."""
        if action.simple:
            return self._call(action, params)
        steps = _steps(self, action, params, [0])
        try:
            step = next(steps)
            while True:
                step = steps.send(self._call(*step))
        except StopIteration as end:
            return _outcome(end.value)

    async def run_async(self, action: Action, params: Any) -> Outcome:
        """Run an action to its end; plain functions run on a thread."""
        if action.simple:
            return await self._call_async(action, params)
        steps = _steps(self, action, params, [0])
        try:
            step = next(steps)
            while True:
                step = steps.send(await self._call_async(*step))
        except StopIteration as end:
            return _outcome(end.value)

    def _call(self, action: Action, params: Any) -> Outcome:
        if self._named is not action:
            put(b"__OW_ACTION_NAME", action.path)
            self._named = action
        function = action.function
        if function is None:
            return _missing(action)
        try:
            value = function(params)
        except Exception as exc:
            return _raised(exc)
        except SystemExit as exc:
            return _left(exc)
        if type(value) is dict:
            return Outcome(APPLICATION_ERROR if "error" in value else SUCCESS, value)
        return _judged(value)

    async def _call_async(self, action: Action, params: Any) -> Outcome:
        if not action.is_async:
            # An abandoned call still has the process to itself: its place is free when it has ended.
            running = asyncio.ensure_future(asyncio.to_thread(self._call, action, params))
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                await asyncio.wait([running])
                raise
        if self._named is not action:
            put(b"__OW_ACTION_NAME", action.path)
            self._named = action
        assert action.function is not None  # noqa: S101 -- what is a coroutine function is there
        try:
            return _judged(await action.function(params))
        except Exception as exc:
            return _raised(exc)
        except SystemExit as exc:
            return _left(exc)


def _outcome(value: Any) -> Outcome:
    assert isinstance(value, Outcome)  # noqa: S101 -- what _steps returns
    return value


def _judged(value: Any) -> Outcome:
    if isinstance(value, dict):
        return Outcome(APPLICATION_ERROR if "error" in value else SUCCESS, value)
    if isinstance(value, list | tuple):
        return Outcome(SUCCESS, list(value))
    return Outcome(DEVELOPER_ERROR, {"error": _NOT_A_RESULT})


def _missing(action: Action) -> Outcome:
    return Outcome(
        DEVELOPER_ERROR, {"error": f"The runtime of {action.key} is not supported: {action.spec.kind}."}
    )


def _raised(exc: BaseException) -> Outcome:
    """Write the traceback where the action's own lines go; the client gets the message."""
    tb = exc.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_OWN):
        tb = tb.tb_next
    sys.stderr.write("".join(traceback.format_exception(type(exc), exc, tb)))
    return Outcome(APPLICATION_ERROR, {"error": tracebacks.message(exc)})


def _left(exc: SystemExit) -> Outcome:
    sys.stderr.write(f"the action called sys.exit({exc.code!r})\n")
    return Outcome(DEVELOPER_ERROR, {"error": "command exited"}, crashed=True)


def _steps(
    package: Package, action: Action, params: Any, count: list[int]
) -> Generator[Step, Outcome, Outcome]:
    """Yield the functions to call, one at a time, and return how it all ended.

    Args:
        package: Where components are found.
        action: What to run.
        params: Its parameters, whole.
        count: [components so far], shared by everything that this one contains.
    """
    if action.spec.sequence:
        return (yield from _sequence(package, action, params, count))
    if action.conductor:
        return (yield from _conductor(package, action, params, count))
    return (yield (action, params))


def _sequence(
    package: Package, action: Action, params: Any, count: list[int]
) -> Generator[Step, Outcome, Outcome]:
    outcome = Outcome(SUCCESS, params)
    for key in action.spec.sequence:
        component = next(iter(package.all_of([key])), None)
        if component is None:
            return Outcome(APPLICATION_ERROR, {"error": f"Sequence component does not exist: {key}."})
        count[0] += 1
        if count[0] > _MOST_COMPONENTS:
            return Outcome(APPLICATION_ERROR, {"error": "Too many actions in the sequence."})
        outcome = yield from _steps(package, component, merge(component, outcome.value), count)
        if outcome.status:
            break
    return outcome


def _conductor(
    package: Package, action: Action, params: Any, count: list[int]
) -> Generator[Step, Outcome, Outcome]:
    """Alternate between the conductor and the components that it names, until it names none."""
    while True:
        outcome = yield (action, params)
        said = outcome.value
        if outcome.status or not isinstance(said, dict):
            return outcome
        given = said.get("params", {})
        given = given if isinstance(given, dict) else {"value": given}
        if "action" not in said:
            return Outcome(SUCCESS, given if "params" in said else said)
        state = said.get("state", {})
        state = state if isinstance(state, dict) else {"state": state}
        name = said["action"]
        if not isinstance(name, str) or not name.strip("/ "):
            shown = json.dumps(name, default=str)
            text = f"Failed to parse action name from json value {shown} during composition."
            return Outcome(APPLICATION_ERROR, {"error": text})
        component = next(iter(package.all_of([key_of(name, action.spec.package), key_of(name)])), None)
        if component is None:
            text = f"Failed to resolve action with name '{name}' during composition."
            return Outcome(APPLICATION_ERROR, {"error": text})
        count[0] += 1
        if count[0] > _MOST_COMPONENTS:
            return Outcome(APPLICATION_ERROR, {"error": "Too many actions in the composition."})
        outcome = yield from _steps(package, component, merge(component, given), count)
        if outcome.status == DEVELOPER_ERROR:
            return outcome
        result = outcome.result
        params = {**(result if isinstance(result, dict) else {"value": result}), **state}


# --- loading ---


def load_package(request: LoadRequest) -> Package:
    """Import what a workload's options and target name.

    Raises:
        FunctionLoadError: An action is missing, or cannot be loaded; user code's own errors pass through.
    """
    text = request.options.get(PACKAGE, "")
    if text:
        try:
            return _of_manifest(request, decode(text))
        except ValueError as exc:
            raise FunctionLoadError(f"option {PACKAGE} cannot be read: {exc}", where=request.bundle) from exc
    folder = request.bundle or request.source.rpartition("/")[0]
    if request.source.rstrip("/") == folder.rstrip("/"):
        if truthy(request.options.get("init", "")):
            return Package(request.namespace, request.name, {}, ())
        raise FunctionLoadError(
            "there is no action in the source",
            where=request.source,
            hint="Put `def main(params)` into __main__.py or main.py. For a blank runtime that takes code "
            "by POST /init, say --annotation init=true.",
        )
    file = request.source.removeprefix(f"{folder.rstrip('/')}/")
    spec = ActionSpec(
        package=DEFAULT, name=request.target or "main", file=file, main=request.target or "main"
    )
    action = Action(spec, request.namespace, _annotations({"web-export": True}, request.options))
    params = request.options.get("params", "")
    if params:
        action = _with_params(action, params, request)
    _load(action, folder, "main__", alone=True)
    return Package(request.namespace, request.name, {action.key: action}, [action.key])


def _with_params(action: Action, text: str, request: LoadRequest) -> Action:
    try:
        params = json.loads(text)
    except ValueError:
        params = None
    if not isinstance(params, dict):
        raise FunctionLoadError(
            "option params is no JSON object", where=request.source, hint='Write it as {"name": "value"}.'
        )
    spec = ActionSpec(
        package=action.spec.package,
        name=action.spec.name,
        file=action.spec.file,
        main=action.spec.main,
        params=params,
    )
    return Action(spec, request.namespace, _annotations({"web-export": True}, request.options))


def _annotations(given: Mapping[str, Any], options: Mapping[str, str]) -> dict[str, Any]:
    return {**given, **{key: options[key] for key in _FLAGS if key in options}}


def _of_manifest(request: LoadRequest, manifest: Manifest) -> Package:
    target = request.target
    exposed = [
        key
        for key, spec in manifest.actions.items()
        if not target or target in {key, spec.name} or key_of(target) == key
    ]
    if not exposed or (target and len(exposed) > 1):
        listed = ", ".join(exposed or manifest.actions)
        raise FunctionLoadError(
            f"{len(exposed)} actions are called {target!r}" if exposed else f"there is no action {target!r}",
            where=request.bundle,
            hint=f"Actions in the manifest: {listed}.",
        )
    actions = {
        key: Action(spec, request.namespace, _annotations(spec.annotations, request.options))
        for key, spec in manifest.actions.items()
        if key in _needed(manifest, exposed)
    }
    runnable = [action for action in actions.values() if not action.spec.sequence]
    if not any(action.spec.python for action in runnable):
        kinds = ", ".join(sorted({action.spec.kind or action.spec.file for action in runnable})) or "none"
        raise FunctionLoadError(
            f"no action of the manifest is written in Python: {kinds}",
            where=request.bundle,
            hint="Serve other languages as a program of its own: --command.",
        )
    for number, action in enumerate(runnable):
        if action.spec.python:
            module = "main__" if len(runnable) == 1 else f"main__{number}"
            _load(action, request.bundle, module, alone=len(runnable) == 1)
    return Package(request.namespace, request.name, actions, exposed, manifest.triggers)


def _needed(manifest: Manifest, exposed: list[str]) -> set[str]:
    """Return the keys of actions that some exposed one may run: a conductor may run any."""
    found: set[str] = set()
    pending = list(exposed)
    while pending:
        key = pending.pop()
        spec = manifest.actions.get(key)
        if key in found or spec is None:
            continue
        found.add(key)
        pending += spec.sequence
        if truthy(spec.annotations.get("conductor")):
            pending += manifest.actions
    return found


def _load(action: Action, bundle: str, module: str, *, alone: bool) -> None:
    spec = action.spec
    try:
        action.function = _function(spec, bundle.rstrip("/"), module, alone=alone)
    except code.CodeError as exc:
        where = f"{bundle}/{spec.file}"
        raise FunctionLoadError(f"action {spec.key}: {exc.message}", where=where) from exc
    action.is_async = inspect.iscoroutinefunction(action.function)


def _function(spec: ActionSpec, bundle: str, module: str, *, alone: bool) -> Callable[..., Any]:
    if spec.code:
        return code.from_text(spec.code, spec.main, module=module, filename=f"<{spec.key}>")
    path = os.path.realpath(f"{bundle}/{spec.file}")
    if not path.startswith(f"{os.path.realpath(bundle)}/"):
        raise code.CodeError(f"its file {spec.file!r} is outside of the source", started=False)
    if path.endswith(".zip"):
        path = code.unzip_once(path)
        if alone:
            os.chdir(path)
    elif path.endswith("/__main__.py"):
        path = path.removesuffix("/__main__.py")
    if os.path.isdir(path):  # noqa: PTH112 -- pathlib costs a worker 8 ms of imports
        before = set(sys.modules)
        found = code.from_directory(path, spec.main, module=module)
        if not alone:
            _set_aside(path, before)
        return found
    stem = path.rpartition("/")[2].removesuffix(".py")
    # Helpers may import the file by its name; a file called json.py must not hide the standard library.
    usual = stem.isidentifier() and stem not in sys.stdlib_module_names and stem not in sys.modules
    return code.from_file(path, spec.main, module=stem if usual else module)


def _set_aside(folder: str, before: set[str]) -> None:
    """Let the next action's directory have a `helper.py` of its own."""
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(f"{folder}/"):
            del sys.modules[name]
    if folder in sys.path:
        sys.path.remove(folder)
