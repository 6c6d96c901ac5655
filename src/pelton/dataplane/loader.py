"""From a workload to a callable: enter the function's environment and import its code.

Runs in the worker child after fork (`dataplane/template.py`), in the load check, and in `cli/run.py`. The
order is fixed: resolve the convention's module, `enter_environment`, `load`. Conventions are handed in, so
that this module knows none. Errors become FunctionLoadError with the user's traceback, without Pelton's
frames.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import os
import site
import sys
import sysconfig
from collections.abc import Awaitable, Callable, Sequence
from types import ModuleType
from typing import Final, Protocol

from pelton.errors import FunctionLoadError
from pelton.model.desired import Workload
from pelton.model.invocation import Deferred, Delivered, LoadedFunction, LoadRequest, Output
from pelton.model.state import StateAnswer, StateCall
from pelton.sdk import borrowed, registry, tracebacks

__all__ = ["Convention", "enter_environment", "expose_shims", "leave_packages", "load"]

_LOG_TAIL_LINES: Final = 20
# String work instead of pathlib throughout, which costs a worker 8 ms of imports.
_PELTON: Final = os.path.abspath(__file__).rpartition("/dataplane/")[0]  # noqa: PTH100 -- as above
_SHIMS: Final = f"{_PELTON}/sdk/shims"
# Looked up before the fork: 0.5 ms that no cold start pays.
_STANDARD: Final = tuple(os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))
_SERVED: Final = frozenset({"functions_framework"})
_OWN: Final = frozenset({"functions_framework.context", "functions_framework.openfunction"})


class Convention(Protocol):
    """What this module needs of a convention's module."""

    def load(self, request: LoadRequest) -> LoadedFunction:
        """Import the source and wrap its function."""
        ...


class _Shims(importlib.abc.MetaPathFinder):
    """Finds `pelton` and the packages that Pelton serves under foreign names, wherever `sys.path` leads.

    An installed package of the same name wins, and the shim's directory ends its path: modules that it lacks
    come from there. Only the names in `_OWN` are the shim's in any case, since Pelton makes their objects.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for the served names, None for all others."""
        if fullname == "pelton":
            return importlib.util.spec_from_file_location(
                fullname, f"{_PELTON}/__init__.py", submodule_search_locations=[_PELTON]
            )
        if fullname in _SERVED:
            return _installed(fullname) or _shim(fullname, ())
        if fullname in _OWN:
            return _shim(fullname, path or ())
        return None


class _Installed(importlib.machinery.SourceFileLoader):
    """Loads an installed package of a served name."""

    def exec_module(self, module: ModuleType) -> None:
        """Run it, and hand over what its own server would have set by now."""
        super().exec_module(module)
        if "errorhandler" in vars(module):
            vars(module)["errorhandler"] = registry.errorhandler


def _installed(fullname: str) -> importlib.machinery.ModuleSpec | None:
    found = importlib.machinery.PathFinder.find_spec(fullname)
    if (
        found is None
        or found.origin is None
        or not isinstance(found.loader, importlib.machinery.SourceFileLoader)
    ):
        return None  # nothing there, or a directory that is no package
    return importlib.util.spec_from_file_location(
        fullname,
        found.origin,
        loader=_Installed(fullname, found.origin),
        submodule_search_locations=[*(found.submodule_search_locations or ()), f"{_SHIMS}/{fullname}"],
    )


def _shim(fullname: str, path: Sequence[str]) -> importlib.machinery.ModuleSpec | None:
    folder = f"{_SHIMS}/{fullname.replace('.', '/')}"
    name = fullname.rpartition(".")[2]
    others = [f"{entry}/{name}" for entry in path if f"{entry}/{name}" != folder]
    locations = [folder, *(place for place in others if os.path.isdir(place))]  # noqa: PTH112 -- as above
    return importlib.util.spec_from_file_location(
        fullname, f"{folder}/__init__.py", submodule_search_locations=locations
    )


def expose_shims() -> None:
    """Make the served packages importable; safe to repeat."""
    if not any(isinstance(finder, _Shims) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Shims())


def enter_environment(environment: str, bundle: str) -> None:
    """Give this process the import world of one function; there is no way back.

    Pelton's third-party packages leave `sys.path` and `sys.modules`; Pelton's own modules keep their
    references to them. What stays: the standard library, `pelton`, the shims, then the bundle (first) and the
    environment (last).

    Args:
        environment: The environment's site-packages directory, absolute; "" for none.
        bundle: Directory of the source, absolute; becomes the working directory.
    """
    leave_packages()
    if environment:
        site.addsitedir(environment)
    sys.path.insert(0, bundle)
    sys.argv[:] = [""]
    os.chdir(bundle)
    _free_root_logger()


_left: dict[str, ModuleType] = {}
"""What left `sys.modules`; kept, since freeing modules costs a cold start 1 ms and copied pages."""


def leave_packages() -> None:
    """Take Pelton's third-party packages out of reach of imports; safe to repeat.

    The zygote does it once for all its children, after it has imported whatever they need.
    """
    expose_shims()
    if _left:
        return
    borrowed.own_entries[:] = [entry for entry in sys.path if entry and not _is_standard(entry)]
    sys.path[:] = [entry for entry in sys.path if entry and _is_standard(entry)]
    for name in list(sys.path_importer_cache):
        if name not in sys.path:
            del sys.path_importer_cache[name]
    # Editable installs and the like add finders of their own; only the interpreter's stay.
    sys.meta_path[:] = [
        finder
        for finder in sys.meta_path
        if isinstance(finder, _Shims) or getattr(finder, "__module__", "").startswith("_frozen_importlib")
    ]
    standard = sys.stdlib_module_names
    for name in list(sys.modules):
        top = name.partition(".")[0]
        if top not in standard and top not in {"pelton", "__main__", "__mp_main__"}:
            _left[name] = sys.modules.pop(name)


def _is_standard(entry: str) -> bool:
    """Tell the standard library's entries from packages, PYTHONPATH and the like."""
    if entry.endswith(".zip"):
        return entry.rpartition("/")[2].startswith("python")
    real = os.path.realpath(entry)
    if real.endswith(("/site-packages", "/dist-packages")):
        return False
    return any(real == root or real.startswith(f"{root}/") for root in _STANDARD)


def _free_root_logger() -> None:
    """Leave the root logger to user code; Pelton's own lines keep their handler."""
    root, own = logging.getLogger(), logging.getLogger("pelton")
    if root.handlers and not own.handlers:
        own.handlers[:] = root.handlers
        own.propagate = False
        own.setLevel(root.level)
    root.handlers.clear()
    root.setLevel(logging.WARNING)


def load(
    workload: Workload,
    convention: Convention,
    send: Callable[[Output], Delivered],
    send_async: Callable[[Output], Awaitable[Delivered]],
    defer: Callable[[Deferred], Awaitable[Delivered]] | None = None,
    *,
    state: Callable[[StateCall], StateAnswer] | None = None,
    state_async: Callable[[StateCall], Awaitable[StateAnswer]] | None = None,
) -> LoadedFunction:
    """Import a workload's code by its convention.

    Args:
        workload: What to load.
        convention: The convention's module.
        send: As in LoadRequest.
        send_async: As in LoadRequest.
        defer: As in LoadRequest.
        state: As in LoadRequest.
        state_async: As in LoadRequest.

    Raises:
        FunctionLoadError: User code raised, exited, has a syntax error, or lacks the function; `log_tail`
            holds the last 20 lines of the user's traceback, if there is one.
    """
    request = LoadRequest(
        source=f"{workload.bundle.rstrip('/')}/{workload.source}".rstrip("/"),
        target=workload.target,
        signature=workload.signature,
        context=workload.context,
        send=send,
        send_async=send_async,
        defer=defer,
        state=state,
        state_async=state_async,
        bundle=workload.bundle,
        namespace=workload.namespace,
        name=workload.name,
        revision=workload.revision,
        options=workload.options,
        timeout_s=workload.request_timeout_s,
        concurrency=workload.concurrency,
        body_limit_bytes=workload.body_limit_bytes,
    )
    try:
        return convention.load(request)
    except FunctionLoadError as exc:
        raise FunctionLoadError(
            exc.message,
            log_tail=exc.log_tail,
            where=tracebacks.relative(exc.where, workload.bundle),
            hint=exc.hint,
        ) from None
    except KeyboardInterrupt:
        raise
    except SystemExit as exc:
        raise _failed(workload, f"called sys.exit({exc.code!r}) while it was imported", exc) from exc
    except SyntaxError as exc:
        raise _failed(workload, f"has a syntax error: {exc.msg}", exc) from exc
    except ModuleNotFoundError as exc:
        hint = "Add it to requirements.txt." if exc.name else ""
        raise _failed(workload, f"needs a module that is not there: {exc}", exc, hint) from exc
    except BaseException as exc:  # user code may raise anything
        text = tracebacks.message(exc).partition("\n")[0]
        raise _failed(workload, f"raised {type(exc).__name__}: {text}", exc) from exc


def _failed(workload: Workload, what: str, exc: BaseException, hint: str = "") -> FunctionLoadError:
    lines = tracebacks.lines(exc, workload.bundle)
    return FunctionLoadError(
        f"{workload.source or 'the source'} {what}",
        log_tail=tuple(lines[-_LOG_TAIL_LINES:]),
        where=tracebacks.place(exc, workload.bundle),
        hint=hint,
    )
