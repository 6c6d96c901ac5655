"""`--command` and `--annotation KEY=VALUE`, which `pelton run` and `pelton deploy` share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pelton.errors import UsageError

__all__ = ["PREFIX", "pelton_annotations"]

PREFIX: Final = "pelton.dev/"


def pelton_annotations(command: str | None, given: Iterable[str]) -> dict[str, str]:
    """Return annotations without their prefix, KEY -> VALUE.

    Args:
        command: Program to run instead of a function, or None.
        given: `KEY=VALUE` each, with or without the prefix.

    Raises:
        UsageError: One has no `=`.
    """
    found = {}
    for item in given:
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise UsageError(f"--annotation {item!r} has no value", hint="Write --annotation KEY=VALUE.")
        found[name.removeprefix(PREFIX)] = value
    if command:
        found["command"] = command
    return found
