"""One request on a resource: which row, which object, which parameters, and who asks.

`rest.py` makes a `Call` from the path; its verbs and `pipeline.py` read from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from pelton.apiserver.registry import Row
from pelton.errors import ProtocolError

__all__ = ["ADMIN", "EDIT", "ROLES", "VIEW", "Call", "User", "internal", "within_budget"]

Obj = dict[str, Any]

VIEW = "view"
"""Role that may read, but no Secrets."""

EDIT = "edit"
"""Role that may read and write what is in namespaces."""

ADMIN = "admin"
"""Role that may do everything, in its namespace or everywhere."""

ROLES = (VIEW, EDIT, ADMIN)
"""From the least to the most."""

_FIELD_VALIDATIONS = ("Ignore", "Warn", "Strict")


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who asks.

    Attributes:
        name: As admission webhooks and `kubectl auth whoami` show it.
        uid: Stable identity, "" for none.
        groups: Names of groups.
        role: One of ROLES.
        namespace: The only namespace that the role holds for; "" for all and for what has none.
    """

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ("system:authenticated",)
    role: str = ADMIN
    namespace: str = ""


@dataclass(slots=True)
class Call:
    """One request on a resource, its path taken apart; "" for what the path does not name."""

    request: Request
    row: Row
    namespace: str
    name: str
    subresource: str
    user: User
    warnings: list[str] = field(default_factory=list)
    dry_run_asked: bool = False
    unknown_told: bool = False

    @property
    def key(self) -> str:
        """The store's name of the resource."""
        return self.row.key

    @property
    def where(self) -> str:
        """Which object, for messages."""
        return "/".join(part for part in (self.row.name, self.namespace, self.name) if part)

    @property
    def scope(self) -> str | None:
        """Namespace to list, None for all."""
        return self.namespace or None

    @property
    def dry_run(self) -> bool:
        """Whether nothing may be stored; raises ProtocolError for an unknown value."""
        value = self.query("dryRun")
        if self.dry_run_asked:  # in the body of a DELETE
            return True
        if value not in ("", "All"):
            raise ProtocolError(f"dryRun={value} is not known", hint="Use dryRun=All.")
        return value == "All"

    @property
    def field_validation(self) -> str:
        """What becomes of unknown fields: Ignore, Warn (default) or Strict."""
        value = self.query("fieldValidation")
        if value and value not in _FIELD_VALIDATIONS:
            raise ProtocolError(f"fieldValidation={value} is not one of {', '.join(_FIELD_VALIDATIONS)}")
        return value or "Warn"

    @property
    def field_manager(self) -> str:
        """Who is noted as the owner of written fields: fieldManager, else the program of the client."""
        value = self.query("fieldManager")
        if len(value) > 128 or not (value.isprintable() or not value):
            raise ProtocolError("fieldManager has more than 128 or unprintable characters")
        return value or self.request.headers.get("user-agent", "").partition("/")[0][:128] or "unknown"

    def query(self, key: str) -> str:
        """Return a query parameter, "" when it is absent."""
        value: str = self.request.query_params.get(key, "")
        return value

    def flag(self, key: str) -> bool:
        """Return whether a query parameter is true."""
        return self.query(key).lower() in ("true", "1")

    def number(self, key: str) -> int:
        """Return a query parameter as an integer >= 0; 0 when it is absent."""
        value = self.query(key)
        if value and not (value.isascii() and value.isdigit() and len(value) < 19):
            raise ProtocolError(f"{key}={value} is not a whole number")
        return int(value or 0)

    def options(self, operation: str) -> Obj:
        """Return CreateOptions, UpdateOptions or DeleteOptions as admission sees them."""
        options: Obj = {"apiVersion": "meta.k8s.io/v1", "kind": f"{operation.capitalize()}Options"}
        if operation != "DELETE":
            for key in ("fieldManager", "fieldValidation"):
                if value := self.query(key):
                    options[key] = value
        if self.dry_run:
            options["dryRun"] = ["All"]
        return options

    def warn(self, sentences: Iterable[str]) -> None:
        """Add warnings to the answer, each once."""
        self.warnings += [each for each in dict.fromkeys(sentences) if each not in self.warnings]


def internal(row: Row, namespace: str, name: str, *, user: str, method: str = "DELETE") -> Call:
    """Return the call of one of the server's own controllers; `user` is how it is called to admission."""
    scope = {"type": "http", "method": method, "path": "/", "query_string": b"", "headers": []}
    caller = User(name=user, groups=("system:masters", "system:authenticated"))
    return Call(Request(scope), row, namespace, name, "", caller)


def within_budget(warnings: Sequence[str]) -> list[str]:
    """Return the warnings of a request: each once; past 4096 characters in all, each is cut to 256."""
    unique = list(dict.fromkeys(warnings))
    if sum(map(len, unique)) <= 4096:
        return unique
    kept: list[str] = []
    left = 4096
    for each in unique:
        text = each[:256]
        if len(text) > left:
            break
        kept.append(text)
        left -= len(text)
    return kept
