"""Serves `functions_framework.context.user_context`."""

from pelton.sdk.context import UserContext

__all__ = ["UserContext"]
