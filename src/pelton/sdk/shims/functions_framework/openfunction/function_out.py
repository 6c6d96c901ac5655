"""Serves `functions_framework.openfunction.function_out`."""

from pelton.sdk.context import FunctionOut

__all__ = ["FunctionOut"]
