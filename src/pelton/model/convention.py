"""What a convention is: what it says about a source tree, and the facts that users compare conventions by.

Each module of `compat/` offers NAME, IMPLIED, FACTS, `detect(tree)` and `load(request)`; `builders/detect.py`
walks the tree and weighs the matches. Plain data and protocols.
Source: `faas-conventions` contract, sections 1 and 11.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final, Protocol

__all__ = [
    "ALIASES",
    "DEFERRED",
    "MAX_CONCURRENCY",
    "SERIAL",
    "Facts",
    "Match",
    "SourceFile",
    "Tree",
    "Trigger",
    "serial_limit",
]

SERIAL: Final = frozenset({"lambda", "openwhisk"})
"""Conventions whose code may keep per-process state: one invocation at a time, HTTP and events together."""

MAX_CONCURRENCY: Final = "AWS_LAMBDA_MAX_CONCURRENCY"
"""Variable by which a Lambda runtime says that it takes several invocations at once."""


def serial_limit(convention: str, env: Mapping[str, str]) -> int:
    """Return how many invocations a convention takes at once unless more is asked for; 0 for any number."""
    if convention not in SERIAL:
        return 0
    several = env.get(MAX_CONCURRENCY, "")
    return int(several) if convention == "lambda" and several.isdecimal() and int(several) > 0 else 1


DEFERRED: Final[Mapping[str, tuple[int, float, float]]] = {
    "lambda": (3, 60.0, 120.0),
    "openwhisk": (1, 1.0, 1.0),
    "fission": (3, 1.0, 60.0),
}
"""Conventions whose platforms take an invocation now and carry it out later, durably: attempts, seconds
before the second one, longest pause. Source: `faas-conventions` contract, 2.5, 5.2 and 6.2."""

ALIASES: Final[Mapping[str, str]] = {
    "aws": "lambda",
    "aws-lambda": "lambda",
    "azure-functions": "azure",
    "functions-framework": "gcf",
    "google": "gcf",
    "knative": "knative-func",
    "ow": "openwhisk",
}
"""Other names that users write for a convention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A Python file that syntax rules look at.

    Attributes:
        name: Path relative to the tree.
        module: Its syntax tree.
        entry: Whether it is main.py, or the file that the user named.
    """

    name: str
    module: ast.Module
    entry: bool


class Tree(Protocol):
    """A source directory, read on demand. Names are relative paths with `/`."""

    @property
    def files(self) -> Sequence[str]:
        """All files, sorted; hidden directories, environments, node_modules and caches are left out."""
        ...

    @property
    def sources(self) -> Sequence[SourceFile]:
        """The Python files that syntax rules look at: the one the user named, else those at the top."""
        ...

    @property
    def target(self) -> str:
        """The target that the user asked for, or ""; a match that resolves it has it as its own target."""
        ...

    @property
    def asked(self) -> str:
        """The convention that the user asked for, or "": then looser rules may apply."""
        ...

    def text(self, name: str) -> str:
        """Return a file's text; "" when it is missing, longer than 1 MiB, or no UTF-8."""
        ...

    def module(self, name: str) -> ast.Module | None:
        """Return a file's syntax tree; None when it is missing or no Python."""
        ...

    def documents(self, name: str) -> list[Any]:
        """Return the documents of a YAML or JSON file as plain data; [] when it is missing or neither."""
        ...

    def open(self, name: str) -> IO[bytes] | None:
        """Open a file of any size for reading bytes; None when it is missing."""
        ...

    def executable(self, name: str) -> bool:
        """Return whether the file is there and may be executed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """A trigger that the source itself declares, for `pelton deploy` and `pelton run`.

    Attributes:
        kind: `http`, `cron` or `topic`.
        value: Schedule for `cron`, topic for `topic`, path for `http`.
        name: What the source calls it; "" for none.
    """

    kind: str
    value: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One function that a convention recognises in a source tree.

    Attributes:
        target: Name of the function as `--target` would say it.
        signature: Signature type, e.g. `http`, `cloudevent`, `openfunction`.
        rule: The rule that matched, as a sentence fragment, e.g. `decorated with functions_framework.http`.
        row: Row of the contract's table, e.g. "11"; "openfunction", "asgi", "wsgi" for the rules before it.
        stage: `marker` (a file says which platform), `object` (an object or annotation says so), or `source`
            (looks of a function).
        rank: Strength of the rule within its stage, lower is stronger; 0 = said outright, 1 = by habit.
        source: File relative to the tree; "" when there is no single one.
        line: Line of the `def`, 0 for none.
        own_import: Whether the file imports the platform's own package, which decides a tie of `source`
            rules.
        options: What the tree says about how to serve it; the same keys as `pelton.dev/...` annotations,
            without the prefix. Annotations win.
        triggers: Triggers that the source declares.
        implied: Requirements that the platform preinstalls whether the source imports them or not.
    """

    target: str
    signature: str
    rule: str
    row: str = ""
    stage: str = "source"
    rank: int = 0
    source: str = ""
    line: int = 0
    own_import: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    triggers: tuple[Trigger, ...] = ()
    implied: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A convention in one screen; the reference page is generated from these. No full stops.

    Attributes:
        title: Name that its users know, e.g. `AWS Lambda`.
        looks_for: What detection looks for, e.g. `def f(event, context) named lambda_handler or handler`.
        triggers: What can call a function there.
        input: What code is handed.
        output: What code gives back.
        address: Who listens where, in the original.
        protocol: What is spoken there, in the original.
        port: Port in the original.
        code: Default file, entry name, signature.
        forms: Trigger -> form in which Pelton hands it over; keys `http`, `cloudevent`, `timer`, `record`.
        failure: What a client sees of an exception, a timeout, a refused payload.
        concurrency: Invocations per process.
        implied: What its platform preinstalls.
    """

    title: str
    looks_for: str
    triggers: str
    input: str
    output: str
    address: str
    protocol: str
    port: str
    code: str
    forms: Mapping[str, str]
    failure: str
    concurrency: str
    implied: str = ""
