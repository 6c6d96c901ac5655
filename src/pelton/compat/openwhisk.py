"""OpenWhisk: detection and loading.

Source: `faas-conventions` contract.
"""

from __future__ import annotations

from typing import Final

from pelton.errors import FunctionLoadError
from pelton.model.convention import Facts, Match, Tree
from pelton.model.invocation import LoadedFunction, LoadRequest

__all__ = ["FACTS", "IMPLIED", "NAME", "detect", "load"]

NAME: Final = "openwhisk"
IMPLIED: Final[dict[str, str]] = {}
FACTS: Final = Facts(
    title="OpenWhisk",
    looks_for="",
    triggers="",
    input="",
    output="",
    address="",
    protocol="",
    port="",
    code="",
    forms={},
    failure="",
    concurrency="",
)


def detect(tree: Tree) -> tuple[Match, ...]:
    """Return the functions that it recognises."""
    del tree
    return ()


def load(request: LoadRequest) -> LoadedFunction:
    """Import the source and wrap its function."""
    raise FunctionLoadError("this convention cannot be loaded yet", where=request.source)
