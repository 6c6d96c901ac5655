"""`bindings.localstorage`: files below one directory of this machine.

Implements `ports.Binding`. A file is there whole or not at all; no name leads out of the directory, through
links neither.
Source: `dapr-components` contract, section 4 (`bindings.localstorage`).
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pelton.errors import ComponentError, DeliveryError
from pelton.model.desired import Component
from pelton.model.invocation import Delivered
from pelton.model.settings import ComponentSettings

__all__ = ["LocalStorageBinding"]

_OPERATIONS: Final = ("create", "get", "list", "delete")
_SYSTEM: Final = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr")


class LocalStorageBinding:
    """One directory.

    Args:
        component: `rootPath` is required; made when it is missing. Places of the system are refused.
    """

    def __init__(self, component: Component) -> None:
        settings = ComponentSettings(component)
        self._where = settings.where
        root = Path(settings.required("rootPath", "A directory such as /var/data/files.")).expanduser()
        self._root = Path(os.path.realpath(root))
        system = [Path(place) for place in _SYSTEM]
        if self._root == Path("/") or any(self._root.is_relative_to(place) for place in system):
            raise ComponentError(
                f"metadata `rootPath`: {self._root} belongs to the system",
                where=self._where,
                hint="Name a directory of your own.",
            )

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> Delivered:
        """Carry out one operation; see `ports.Binding`.

        Args:
            operation: create (answers with `{"fileName": path}`), get, list (a JSON array of paths), delete.
            data: Contents of the file.
            metadata: `fileName`, relative to the directory; a random one for create where it is absent.
        """
        name = operation.lower()
        if name not in _OPERATIONS:
            raise ComponentError(
                f"bindings.localstorage has no operation {operation!r}",
                where=self._where,
                hint=f"Use one of {', '.join(_OPERATIONS)}.",
            )
        given = {key.lower(): value for key, value in metadata.items()}.get("filename", "").strip()
        if not given and name in {"get", "delete"}:
            raise ComponentError("the request's metadata have no `fileName`", where=self._where)
        path = self._path(given or ("" if name == "list" else str(uuid.uuid4())))
        try:
            return await asyncio.to_thread(self._perform, name, path, data)
        except FileNotFoundError as exc:
            raise DeliveryError(f"{path} does not exist", where=self._where, retriable=False) from exc
        except OSError as exc:
            raise DeliveryError(f"{path} cannot be used: {exc.strerror}", where=self._where) from exc

    async def close(self) -> None:
        """Do nothing: no file stays open."""

    def _path(self, name: str) -> Path:
        path = Path(os.path.realpath(self._root / name.replace("\0", "/../").lstrip("/")))
        if "\0" in name or not path.is_relative_to(self._root):
            raise ComponentError("`fileName` leads out of the directory", where=self._where)
        return path

    def _perform(self, name: str, path: Path, data: bytes) -> Delivered:
        if name == "create":
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, written = tempfile.mkstemp(dir=path.parent, prefix=".pelton-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(written).replace(path)
            except BaseException:
                Path(written).unlink(missing_ok=True)
                raise
            return Delivered(ok=True, data=json.dumps({"fileName": str(path)}).encode())
        if name == "get":
            return Delivered(ok=True, data=path.read_bytes())
        if name == "delete":
            path.unlink()
            return Delivered(ok=True)
        self._root.mkdir(parents=True, exist_ok=True)
        found = [path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file())
        names = [str(entry) for entry in found if not entry.name.startswith(".pelton-")]
        return Delivered(ok=True, data=json.dumps(names).encode())
