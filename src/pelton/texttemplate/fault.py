"""What is wrong with a template, and where: raised by the readers and evaluators of this package.

Caught by `manifest/notification` and `manifest/notification_routing` on admission, and by `notify/render.py`.
"""

from __future__ import annotations

__all__ = ["JINJA_SUFFIXES", "Position", "TemplateFault", "position_of"]

JINJA_SUFFIXES = (".j2", ".jinja", ".jinja2")
"""Ends of names of templates that are Jinja2's; all others are Go's."""

Position = tuple[int, int]
"""Line and column, both from 1."""


class TemplateFault(ValueError):
    """A template that cannot be read or carried out.

    Args:
        message: What is wrong, without a full stop.
        name: Of the template or of the text that it is in.
        position: Line and column, or None when it is not about one place.
    """

    def __init__(self, message: str, *, name: str = "", position: Position | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.name = name
        self.position = position

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.name, *(self.position or ())) if part)
        return f"{place}: {self.message}" if place else self.message


def position_of(text: str, offset: int) -> Position:
    """Return the line and column of an offset in a text."""
    line = text.count("\n", 0, offset) + 1
    return line, offset - (text.rfind("\n", 0, offset) + 1) + 1
