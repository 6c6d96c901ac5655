"""Serves `functions_framework.openfunction`."""

from pelton.sdk.context import FunctionOut

__all__ = ["FunctionOut"]
