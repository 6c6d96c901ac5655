"""Serves `functions_framework.context.function_context`."""

from pelton.sdk.context import Component, DaprTrigger

__all__ = ["Component", "DaprTrigger"]
