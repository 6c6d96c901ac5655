"""The Runtime API for `awslambdaric` and `bootstrap` programs."""

from __future__ import annotations

from pelton.errors import FunctionLoadError
from pelton.model.invocation import LoadedFunction, LoadRequest

__all__ = ["load"]


def load(request: LoadRequest) -> LoadedFunction:
    """Start the runtime and wrap it."""
    raise FunctionLoadError("runtimes cannot be started yet", where=request.source)
