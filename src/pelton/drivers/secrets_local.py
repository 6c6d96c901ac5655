"""`secretstores.local.file` and `secretstores.local.env`: secrets of this machine.

Implements `ports.SecretStore` twice. The file is read again when it has changed, so that a secret that is
replaced counts without a restart. Dapr's own variables are never handed out.
Source: `dapr-components` contract, section 5.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pelton.clock import Clock
from pelton.errors import ComponentError, NotFoundError
from pelton.model.desired import Component
from pelton.model.settings import ComponentSettings

__all__ = ["EnvironmentSecrets", "FileSecrets"]

_MOST_BYTES: Final = 16 * 1024 * 1024
_WITHHELD: Final = "APP_API_TOKEN"
_WITHHELD_PREFIX: Final = "DAPR_"


class FileSecrets:
    """Secrets of a JSON file.

    Args:
        component: `secretsFile` is required; `nestedSeparator` joins the names of nested objects,
            `multiValued` keeps the first level as secrets with several keys.
        clock: Unused; the file's own times count.

    Raises:
        ComponentError: The metadata cannot be used. A file that cannot be read is an error of each call.
    """

    def __init__(self, component: Component, *, clock: Clock) -> None:
        settings = ComponentSettings(component)
        self._where = settings.where
        self._path = Path(settings.required("secretsFile", "The path of a JSON file."))
        self._separator = settings.text("nestedSeparator", ":")
        self.multiple = settings.flag("multiValued")
        """Whether a secret has several keys."""
        self._read: tuple[tuple[int, int, int], dict[str, dict[str, str]]] | None = None

    async def get(self, name: str, *, metadata: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return one secret; see `ports.SecretStore`."""
        found = self._load().get(name)
        if found is None:
            raise NotFoundError(f"there is no secret {name!r}", where=self._where)
        return dict(found)

    async def get_all(self, *, metadata: Mapping[str, str] | None = None) -> dict[str, dict[str, str]]:
        """Return all secrets; see `ports.SecretStore`."""
        return {name: dict(secret) for name, secret in self._load().items()}

    async def close(self) -> None:
        """Forget what was read."""
        self._read = None

    def _load(self) -> dict[str, dict[str, str]]:
        try:
            with self._path.open("rb") as handle:
                status = os.fstat(handle.fileno())
                stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
                if self._read is not None and self._read[0] == stamp:
                    return self._read[1]
                data = handle.read(_MOST_BYTES + 1)
        except OSError as exc:
            raise ComponentError(
                f"the secrets' file {self._path} cannot be read: {exc.strerror}", where=self._where
            ) from exc
        if len(data) > _MOST_BYTES:
            raise ComponentError(
                f"the secrets' file {self._path} has more than {_MOST_BYTES} bytes", where=self._where
            )
        try:
            tree = json.loads(data)
        except (ValueError, RecursionError):
            # Without the cause: it would carry the file's text into a log.
            raise ComponentError(f"the secrets' file {self._path} is no JSON", where=self._where) from None
        if not isinstance(tree, dict):
            raise ComponentError(f"the secrets' file {self._path} is no JSON object", where=self._where)
        self._read = stamp, self._secrets(tree)
        return self._read[1]

    def _secrets(self, tree: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        if not self.multiple:
            return {name: {name: value} for name, value in self._flat(tree, "")}
        return {
            name: dict(self._flat(value, "")) if isinstance(value, dict | list) else {name: _text(value)}
            for name, value in tree.items()
        }

    def _flat(self, value: Any, path: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for name, inner in items:
                yield from self._flat(inner, f"{path}{self._separator}{name}" if path else str(name))
        else:
            yield path, _text(value)


class EnvironmentSecrets:
    """Environment variables of the runtime process.

    Args:
        component: `prefix` begins the names of all variables; callers leave it out.
        clock: Unused; variables have no times.
        variables: The environment; the process's own by default.
    """

    def __init__(
        self, component: Component, *, clock: Clock, variables: Mapping[str, str] | None = None
    ) -> None:
        self._prefix = ComponentSettings(component).text("prefix")
        self._variables = os.environ if variables is None else variables

    async def get(self, name: str, *, metadata: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return one variable; an unknown one, or one of Dapr's own, is empty."""
        wanted = self._prefix + name
        return {name: "" if _withheld(wanted) else self._variables.get(wanted, "")}

    async def get_all(self, *, metadata: Mapping[str, str] | None = None) -> dict[str, dict[str, str]]:
        """Return all variables that may be had."""
        prefix = self._prefix
        return {
            name.removeprefix(prefix): {name.removeprefix(prefix): value}
            for name, value in self._variables.items()
            if name.startswith(prefix) and not _withheld(name)
        }

    async def close(self) -> None:
        """Do nothing: there is no connection."""


def _withheld(name: str) -> bool:
    return name.upper() == _WITHHELD or name.upper().startswith(_WITHHELD_PREFIX)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
