"""Regular expressions as RE2 has them: linear in time, without lookaround and backreferences.

The only module that imports the `re2` client library; the CEL functions and the `pattern` of schemas use it.
Source: RE2's syntax, which Go's regexp and so Kubernetes share.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol, cast

import re2

__all__ = ["Regex", "RegexError", "compile_regex", "fits"]


class RegexError(ValueError):
    """The text is no RE2 expression; the message says why."""


class Match(Protocol):
    """A match."""

    def group(self, group: int | str = 0, /) -> str:
        """Return a group's text."""
        ...

    def start(self) -> int:
        """Return where it begins."""
        ...

    def end(self) -> int:
        """Return the position behind it."""
        ...


class Regex(Protocol):
    """A compiled expression."""

    def search(self, text: str, /) -> Match | None:
        """Return the first match anywhere in the text."""
        ...

    def fullmatch(self, text: str, /) -> Match | None:
        """Return a match of the whole text."""
        ...

    def findall(self, text: str, /) -> list[str]:
        """Return all matches, leftmost first."""
        ...

    def finditer(self, text: str, /) -> list[Match]:
        """Iterate over all matches."""
        ...


def _options() -> re2.Options:
    options = re2.Options()
    options.log_errors = False  # to stderr, where nobody looks
    options.max_mem = 8 << 20
    return options


def fits(pattern: str, text: str, *, whole: bool) -> bool:
    """Tell whether a pattern is found in a text, or is all of it.

    Raises:
        RegexError: As `compile_regex`.
    """
    # As bytes: positions in characters, which nobody asks for here, take most of the time of a match.
    regex: Any = compile_regex(pattern)
    data = text.encode()
    return (regex.fullmatch(data) if whole else regex.search(data)) is not None


@lru_cache(maxsize=512)
def compile_regex(pattern: str) -> Regex:
    """Compile; results are kept, since schemas and rules use the same patterns over and over.

    Raises:
        RegexError: The pattern is not RE2, or needs more than 8 MiB.
    """
    try:
        return cast(Regex, re2.compile(pattern, options=_options()))
    except re2.error as error:
        reason = error.args[0] if error.args else error
        raise RegexError(reason.decode() if isinstance(reason, bytes) else str(reason)) from error
