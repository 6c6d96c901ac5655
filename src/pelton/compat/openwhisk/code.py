"""An action's code: a file, a directory, a zip or a text becomes a function of this process.

Called by `package.py` for what the source tree holds and by `container.py` for what /init brings. Raises
CodeError with what the original runtime's compiler or launcher would have written to stderr.
Source: `faas-conventions` contract, section 6.1 (zip, virtualenv, missing entry); the layout of a virtualenv
is virtualenv's. Decided: requirements.txt is not installed here, since a worker has no installer; an action
whose packages are importable anyway runs, any other fails with a line that says so.
"""

from __future__ import annotations

import importlib.util
import io
import os
import sys
from collections.abc import Callable
from typing import Any, Final

__all__ = ["CodeError", "from_directory", "from_file", "from_text", "unzip", "unzip_once"]

_ENTRY: Final = "__main__.py"
_EXEC: Final = "exec"
_MODULE: Final = "main__"
_MOST_BYTES: Final = 512 * 1024 * 1024
"""Longest sum of a zip's files; what an action may hold unpacked."""


class CodeError(Exception):
    """Code that cannot become an action.

    Args:
        message: What the log says, without line break.
        started: Whether it failed while it was imported rather than before.
    """

    def __init__(self, message: str, *, started: bool) -> None:
        super().__init__(message)
        self.message = message
        self.started = started


def from_file(path: str, main: str, *, module: str = _MODULE) -> Callable[..., Any]:
    """Import a Python file and return its function `main`.

    Args:
        path: The file, absolute; its directory goes to the front of `sys.path`.
        main: Name of the function.
        module: Name of the module in `sys.modules`.

    Raises:
        CodeError: There is no such file or function.
        BaseException: Whatever the code raises while it is imported.
    """
    if not os.path.isfile(path):  # noqa: PTH113 -- pathlib costs a worker 8 ms of imports
        raise CodeError(f"Zip file does not include {os.path.basename(path)}", started=False)  # noqa: PTH119 -- as above
    _put_first(path.rpartition("/")[0])
    spec = importlib.util.spec_from_file_location(module, path, submodule_search_locations=None)
    if spec is None or spec.loader is None:
        spec = importlib.util.spec_from_loader(module, _loader(module, path))
    if spec is None or spec.loader is None:
        raise CodeError(f"{path.rpartition('/')[2]} is not a Python file", started=False)
    made = importlib.util.module_from_spec(spec)
    sys.modules[module] = made
    try:
        spec.loader.exec_module(made)
    except BaseException:
        sys.modules.pop(module, None)
        raise
    return _function(vars(made), main)


def from_text(text: str, main: str, *, module: str = _MODULE, filename: str = _ENTRY) -> Callable[..., Any]:
    """Run source text as a module and return its function `main`; raises as `from_file`."""
    import types

    made = types.ModuleType(module)
    made.__file__ = filename
    code = compile(text, filename, "exec", dont_inherit=True)
    import linecache  # so that tracebacks show lines of code that is in no file

    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    sys.modules[module] = made
    try:
        exec(code, made.__dict__)  # noqa: S102 -- running code that it is sent is what an action runtime is for
    except BaseException:
        sys.modules.pop(module, None)
        raise
    return _function(vars(made), main)


def from_directory(folder: str, main: str, *, module: str = _MODULE) -> Callable[..., Any]:
    """Import a directory's `__main__.py` (or `exec`) inside its `virtualenv`; raises as `from_file`."""
    activate(folder)
    names = [name for name in (_ENTRY, _EXEC) if os.path.isfile(f"{folder}/{name}")]  # noqa: PTH113 -- as above
    if not names:
        raise CodeError(f"Zip file does not include {_ENTRY}", started=False)
    try:
        return from_file(f"{folder}/{names[0]}", main, module=module)
    except ModuleNotFoundError as exc:
        if os.path.isfile(f"{folder}/requirements.txt"):  # noqa: PTH113 -- as above
            raise CodeError(
                f"No module named {exc.name!r}: requirements.txt is not installed when an action is "
                "initialised. Put the packages into virtualenv/, or into the function's requirements.txt.",
                started=True,
            ) from exc
        raise


def activate(folder: str) -> None:
    """Enter a directory's `virtualenv`, if it has one.

    Raises:
        CodeError: It has no activate_this.py.
    """
    place = f"{folder}/virtualenv"
    if not os.path.isdir(place):  # noqa: PTH112 -- as above
        return
    for script in (f"{place}/bin/activate_this.py", f"{place}/Scripts/activate_this.py"):
        if os.path.isfile(script):  # noqa: PTH113 -- as above
            with open(script, "rb") as file:  # noqa: PTH123 -- as above
                code = compile(file.read(), script, "exec", dont_inherit=True)
            exec(code, {"__file__": script, "__name__": "activate_this"})  # noqa: S102 -- the virtualenv's own script
            return
    raise CodeError(
        "Invalid virtualenv. Zip file does not include /virtualenv/bin/activate_this.py", started=True
    )


def unzip(data: bytes | str, folder: str) -> None:
    """Unpack a zip into an existing directory.

    Args:
        data: The zip's bytes or its path.
        folder: Where to; absolute. Nothing is written outside of it.

    Raises:
        CodeError: It is no zip, or longer than 512 MiB unpacked.
    """
    import zipfile  # only zipped actions pay for it

    try:
        with zipfile.ZipFile(io.BytesIO(data) if isinstance(data, bytes) else data) as archive:
            if sum(item.file_size for item in archive.infolist()) > _MOST_BYTES:
                raise CodeError(f"Zip file is longer than {_MOST_BYTES} bytes unpacked", started=False)
            archive.extractall(folder)  # drops `..` and leading slashes itself
    except (zipfile.BadZipFile, zipfile.LargeZipFile, RuntimeError, OSError, NotImplementedError) as exc:
        raise CodeError(f"Zip file cannot be read: {exc}", started=False) from exc


def unzip_once(path: str) -> str:
    """Unpack a zip file of the bundle into a directory that its content names, and return that directory.

    Instances of the same code share it; a template's children go on using it.
    """
    import hashlib
    import shutil
    import tempfile

    with open(path, "rb") as file:  # noqa: PTH123 -- as above
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:24]
    parent = tempfile.gettempdir()
    place = f"{parent}/pelton-action-{os.geteuid()}-{digest}"
    if _is_own(place):
        return place
    fresh = tempfile.mkdtemp(prefix="pelton-action-", dir=parent)
    try:
        unzip(path, fresh)
        try:
            os.rename(fresh, place)  # noqa: PTH104 -- as above; somebody may have been faster, or taken the name
        except OSError:
            if not _is_own(place):
                return fresh
            shutil.rmtree(fresh, ignore_errors=True)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return place


def _is_own(place: str) -> bool:
    """Tell a directory of ours from one that somebody else put where we would look for it."""
    import stat

    try:
        status = os.lstat(place)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _loader(module: str, path: str) -> Any:
    """Return a loader for a Python file without the suffix .py, such as `exec`."""
    from importlib.machinery import SourceFileLoader

    return SourceFileLoader(module, path)


def _put_first(folder: str) -> None:
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)


def _function(names: dict[str, Any], main: str) -> Callable[..., Any]:
    found = names.get(main)
    if callable(found):
        return found  # type: ignore[no-any-return]  # checked to be callable, which is all there is to know
    kinds = [name for name, value in names.items() if not name.startswith("_") and hasattr(value, "__code__")]
    what = f"{main!r} is a {type(found).__name__}" if main in names else f"cannot import name {main!r}"
    raise CodeError(f"{what}; functions in the action: {', '.join(kinds) or 'none'}", started=True)
