"""Serves `functions_framework.context`."""
