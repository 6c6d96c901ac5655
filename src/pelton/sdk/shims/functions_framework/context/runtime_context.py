"""Serves `functions_framework.context.runtime_context`."""

from pelton.sdk.context import RuntimeContext

__all__ = ["RuntimeContext"]
