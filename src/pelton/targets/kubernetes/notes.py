"""What a render could not write, or wrote differently than the manifest might make one expect.

Renderers beside this file add to Notes; `cli/render.py` prints them. Nothing is dropped silently. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Notes"]


@dataclass(slots=True)
class Notes:
    """Sentences about one Function, in the order in which they came up.

    Attributes:
        entries: (field path, sentence).
    """

    entries: list[tuple[str, str]] = field(default_factory=list)

    def add(self, path: str, sentence: str) -> None:
        """Add a sentence once."""
        if (path, sentence) not in self.entries:
            self.entries.append((path, sentence))

    def merged(
        self, path: str, over: Mapping[str, str], under: Mapping[str, str], *, kept: frozenset[str]
    ) -> dict[str, str]:
        """Return labels of a user over the platform's, except those that selectors depend on.

        Args:
            path: Field path of `over`.
            over: The user's.
            under: The platform's.
            kept: Names that stay the platform's; a user's other value for one is noted.
        """
        found = dict(under)
        for name, value in over.items():
            if name in kept and name in under and under[name] != value:
                self.add(f"{path}[{name}]", "selectors depend on it, so it keeps the platform's value")
            else:
                found[name] = value
        return found
