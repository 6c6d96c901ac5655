"""A source directory as detection sees it: names, texts, syntax trees, documents; never imported.

Implements `model/convention.Tree` for `builders/detect.py`, read on demand. Bounded: 5,000 files, 1 MiB per
file that is read.
"""

from __future__ import annotations

import ast
import json
import os
import stat
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Final

from pelton.errors import SourceError
from pelton.model.convention import SourceFile

__all__ = ["SourceTree"]

_MOST_FILES: Final = 5_000
_LONGEST_BYTES: Final = 1024 * 1024
_SHOWN: Final = 80
_KEPT: Final = 32 * 1024 * 1024
"""Characters of texts that are kept: several conventions look into the same files."""
_LEFT_OUT: Final = {"node_modules", "__pycache__", "venv", "virtualenv", "site-packages", "build", "dist"}


class SourceTree:
    """One directory.

    Args:
        directory: The directory; has to exist.
        source: The file that the user named, relative; "" for none.
        target: The target that the user asked for; "" for none.
        asked: The convention that the user asked for; "" for none.

    Raises:
        SourceError: The named file is missing, outside of the directory, or no Python.
    """

    def __init__(self, directory: Path, *, source: str = "", target: str = "", asked: str = "") -> None:
        self.directory = directory
        self.target = target
        self.asked = asked
        self._source = source
        self._modules: dict[str, ast.Module | SourceError | None] = {}
        self._documents: dict[str, list[Any]] = {}
        self._texts: dict[str, str] = {}
        self._kept = 0
        if source:
            self._check_named(source)

    def _check_named(self, source: str) -> None:
        path = self.directory / source
        if not path.resolve().is_relative_to(self.directory.resolve()):
            raise SourceError(
                f"the source file {source!r} is outside of the source directory", where=str(self.directory)
            )
        if not path.is_file():
            names = ", ".join(name for name in self.files if name.endswith(".py") and "/" not in name)
            raise SourceError(
                f"there is no file {source!r} in the source",
                where=str(self.directory),
                hint=f"Python files there: {names or 'none'}.",
            )

    @cached_property
    def files(self) -> tuple[str, ...]:
        """See Tree."""
        found: list[str] = []
        pending = [""]
        while pending and len(found) <= _MOST_FILES:
            folder = pending.pop()
            inner: list[str] = []
            for entry in self._entries(folder):
                if entry.name.startswith("."):
                    continue
                name = f"{folder}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in _LEFT_OUT:
                        inner.append(f"{name}/")
                elif _is_regular(entry):  # a pipe or a device would be read for ever
                    found.append(name)
            pending += sorted(inner, reverse=True)
        return tuple(sorted(found[:_MOST_FILES]))

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.directory / folder) as entries:
                return list(entries)
        except OSError as exc:
            if folder:
                return []
            raise SourceError(f"cannot be read: {exc.strerror}", where=str(self.directory)) from exc

    @cached_property
    def sources(self) -> tuple[SourceFile, ...]:
        """See Tree; raises SourceError where the only candidates have syntax errors."""
        if self._source:
            return (SourceFile(name=self._source, module=self._parsed(self._source), entry=True),)
        names = [name for name in self.files if name.endswith(".py") and "/" not in name]
        names.sort(key=lambda name: (name != "main.py", name))
        made: list[SourceFile] = []
        for name in names:
            try:
                module = self._parsed(name)
            except SourceError:
                if names[0] != "main.py" or name == "main.py":
                    raise
                continue  # with a main.py the other files are its business: it may never import this one
            made.append(SourceFile(name=name, module=module, entry=name == "main.py"))
        return tuple(made)

    def text(self, name: str) -> str:
        """See Tree."""
        known = self._texts.get(name)
        if known is not None:
            return known
        try:
            text = (self._bytes(name) or b"").decode()
        except UnicodeDecodeError:
            text = ""
        if self._kept < _KEPT:
            self._kept += len(text)
            self._texts[name] = text
        return text

    def module(self, name: str) -> ast.Module | None:
        """See Tree."""
        try:
            return self._parsed(name)
        except SourceError:
            return None

    def documents(self, name: str) -> list[Any]:
        """See Tree."""
        if name not in self._documents:
            self._documents[name] = _documents(self.text(name))
        return self._documents[name]

    def open(self, name: str) -> IO[bytes] | None:
        """See Tree."""
        path = self.directory / name
        try:
            return path.open("rb") if path.is_file() else None
        except OSError:
            return None

    def executable(self, name: str) -> bool:
        """See Tree."""
        path = self.directory / name
        return path.is_file() and os.access(path, os.X_OK)

    def _bytes(self, name: str) -> bytes | None:
        path = f"{self.directory}/{name}"  # string work: every convention asks for every manifest
        try:
            status = os.stat(path)  # noqa: PTH116 -- as above
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LONGEST_BYTES:
                return None
            with open(path, "rb") as file:  # noqa: PTH123 -- as above
                return file.read()
        except (OSError, ValueError):  # ValueError: a NUL in a name that a manifest gives
            return None

    def _parsed(self, name: str) -> ast.Module:
        if name not in self._modules:
            try:
                self._modules[name] = _parse(self.directory / name)
            except SourceError as exc:
                self._modules[name] = exc
        found = self._modules[name]
        if isinstance(found, SourceError):
            raise found
        assert found is not None  # noqa: S101 -- one of the two was stored above
        return found


def _is_regular(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _parse(path: Path) -> ast.Module:
    try:
        if not path.is_file():
            raise SourceError("this is no regular file", where=str(path))
        return ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as exc:
        shown = (exc.text or "").strip()
        text = f" in `{shown[:_SHOWN]}{'...' if len(shown) > _SHOWN else ''}`" if shown else ""
        where = f"{path}:{exc.lineno}" if exc.lineno else str(path)
        raise SourceError(f"syntax error: {exc.msg}{text}", where=where) from exc
    except (MemoryError, RecursionError) as exc:  # what the parser says of a thousand nested expressions
        raise SourceError("the code is nested too deeply to be parsed", where=str(path)) from exc
    except ValueError as exc:  # null bytes
        raise SourceError(f"not Python: {exc}", where=str(path)) from exc
    except OSError as exc:
        raise SourceError(f"cannot be read: {exc.strerror}", where=str(path)) from exc


def _documents(text: str) -> list[Any]:
    if not text.strip():
        return []
    try:
        return [json.loads(text)]
    except (ValueError, RecursionError):
        pass
    from ruamel.yaml import YAML  # only builds need it
    from ruamel.yaml.error import YAMLError

    reader = YAML(typ="safe", pure=True)
    # CloudFormation writes !Ref, !Sub and the like; what they stand for does not matter here.
    reader.constructor.add_multi_constructor("!", lambda _loader, _suffix, node: getattr(node, "value", None))
    try:
        return [document for document in reader.load_all(text) if document is not None]
    except (YAMLError, ValueError, RecursionError):
        return []
