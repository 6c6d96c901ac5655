"""Python handlers in the worker's own process."""

from __future__ import annotations

from pelton.errors import FunctionLoadError
from pelton.model.invocation import LoadedFunction, LoadRequest

__all__ = ["load"]


def load(request: LoadRequest) -> LoadedFunction:
    """Import the handler and wrap it."""
    raise FunctionLoadError("this convention cannot be loaded yet", where=request.source)
