"""Hooks around a function: `spec.serving.hooks` names resolved to classes, made and run per invocation.

A hook is a class with any of `init()`, `exec_pre_hook(context, plugins)`, `exec_post_hook(context, plugins)`,
`get(field)`; around coroutine functions the two may be coroutines themselves. Names: `module.Class` from the
bundle, or the `name` of a class in the function's own file or in the file of that name (`plugin-custom` ->
plugin_custom.py). Hooks run in listed order; a failing one is logged, never fatal; an unknown one is skipped
with a log line. Called by `compat/openfunction.py`.
Source: `openfunction` contract, section 10.2 (the Go framework; the Python original parses hooks only).
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import types
from collections.abc import Sequence
from typing import Any

__all__ = ["Hook", "Hooks"]


class Hook:
    """Optional base class: overrides only what it needs.

    Attributes:
        name: Name in the manifest.
        version: For logs.
    """

    name = ""
    version = "v1"

    def init(self) -> None:
        """Prepare; called once per invocation on a fresh instance."""

    def exec_pre_hook(self, context: Any, plugins: dict[str, Any]) -> None:
        """Run before the function.

        Args:
            context: The UserContext.
            plugins: Name -> instance of every hook of this invocation.
        """

    def exec_post_hook(self, context: Any, plugins: dict[str, Any]) -> None:
        """Run after the function; `context.out` holds its outcome."""

    def get(self, field: str) -> Any:
        """Return a field's value to other hooks, None when there is no such field."""
        return getattr(self, field, None)


class _Example(Hook):
    """The built-in `plugin-example`: adds 1 to what `plugin-custom` exposes as StateC and logs the sum."""

    name = "plugin-example"

    def exec_post_hook(self, context: Any, plugins: dict[str, Any]) -> None:
        """Log `plugin - Result: {"sum":N}`."""
        custom = plugins.get("plugin-custom")
        if custom is not None:
            context.logger.info('plugin - Result: {"sum":%d}', 1 + int(custom.get("StateC")))


_BUILT_IN = {"plugin-example": _Example}


class Hooks:
    """The hooks of one function.

    Args:
        pre, post: Names in order.
        module: The function's module.
        logger: Where failures are logged.
    """

    def __init__(
        self, pre: Sequence[str], post: Sequence[str], module: types.ModuleType, logger: logging.Logger
    ) -> None:
        self._logger = logger
        self._classes: dict[str, type] = {}
        for name in dict.fromkeys((*pre, *post)):
            found = self._resolve(name, module)
            if found is None:
                logger.warning(
                    "hook %r is unknown and skipped; a hook is a class with exec_pre_hook or exec_post_hook, "
                    "of that name beside the function or in a file of that name",
                    name,
                )
            else:
                self._classes[name] = found
        self._pre = [name for name in pre if name in self._classes]
        self._post = [name for name in post if name in self._classes]

    def __bool__(self) -> bool:
        return bool(self._classes)

    def fresh(self) -> dict[str, Any]:
        """Return new instances for one invocation, name -> instance; one whose `init` fails is left out."""
        instances: dict[str, Any] = {}
        for name, cls in self._classes.items():
            try:
                instance = cls()
                init = getattr(instance, "init", None)
                if init is not None:
                    init()
            except Exception:
                self._logger.exception("hook %r failed to start", name)
            else:
                instances[name] = instance
        return instances

    def before(self, context: Any, instances: dict[str, Any]) -> None:
        """Run the pre hooks."""
        self._run(self._pre, "exec_pre_hook", context, instances)

    def after(self, context: Any, instances: dict[str, Any]) -> None:
        """Run the post hooks."""
        self._run(self._post, "exec_post_hook", context, instances)

    async def before_async(self, context: Any, instances: dict[str, Any]) -> None:
        """Run the pre hooks of a coroutine function."""
        await self._run_async(self._pre, "exec_pre_hook", context, instances)

    async def after_async(self, context: Any, instances: dict[str, Any]) -> None:
        """Run the post hooks of a coroutine function."""
        await self._run_async(self._post, "exec_post_hook", context, instances)

    async def _run_async(
        self, names: list[str], method: str, context: Any, instances: dict[str, Any]
    ) -> None:
        for name in names:
            call = getattr(instances.get(name), method, None)
            if call is None:
                continue
            try:
                result = call(context, instances)
                if inspect.isawaitable(result):
                    await result
            except Exception:
                self._logger.exception("hook %r failed in %s", name, method)

    def _run(self, names: list[str], method: str, context: Any, instances: dict[str, Any]) -> None:
        for name in names:
            call = getattr(instances.get(name), method, None)
            if call is None:
                continue
            try:
                result = call(context, instances)
                if inspect.iscoroutine(result):
                    result.close()
                    raise TypeError("this hook is `async def`, which only a coroutine function can have")
            except Exception:
                self._logger.exception("hook %r failed in %s", name, method)

    def _resolve(self, name: str, module: types.ModuleType) -> type | None:
        """Find a hook's class; an error in the user's hook file is logged and counts as unknown."""
        found = _named(module, name)
        if found is not None:
            return found
        if "." in name:
            path, _, attribute = name.rpartition(".")
            candidate = getattr(self._import(path), attribute, None)
            return candidate if isinstance(candidate, type) else None
        file = name.replace("-", "_")
        if file.isidentifier():
            other = self._import(file)
            if other is not None:
                return _named(other, name) or _only(other)
        return _BUILT_IN.get(name)

    def _import(self, name: str) -> types.ModuleType | None:
        try:
            if importlib.util.find_spec(name) is None:
                return None
            return importlib.import_module(name)
        except ModuleNotFoundError as exc:
            if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
                return None
            self._logger.exception("hook file %r could not be imported", name)
        except Exception:
            self._logger.exception("hook file %r could not be imported", name)
        return None


def _own_classes(module: types.ModuleType) -> list[type]:
    return [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]


def _named(module: types.ModuleType, name: str) -> type | None:
    """Return the module's own class that calls itself `name`, or is called so."""
    for cls in _own_classes(module):
        if name in {cls.__name__, vars(cls).get("name")}:
            return cls
    return None


def _only(module: types.ModuleType) -> type | None:
    """Return the module's only class that looks like a hook."""
    found = [c for c in _own_classes(module) if hasattr(c, "exec_pre_hook") or hasattr(c, "exec_post_hook")]
    return found[0] if len(found) == 1 else None
