"""Alertmanager's matchers: `name="value"`, `!=`, `=~`, `!~`, and the reading of their text form.

Pure. `notify/silences.py` and `notify/inhibition.py` keep alerts back by them, `notify/alertmanager.py`
filters lists, `manifest/notification_timing.py` reads those of inhibition. Regular
expressions cover the whole value; a missing label counts as "". Source: contracts, log and notification,
9.3, 9.5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pelton.errors import ProtocolError
from pelton.model.notification import compile_pattern, pattern_matches

__all__ = ["Matcher", "parse_matcher"]

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_TEXT = re.compile(
    # Whatever is none of the language's own marks may be in a name without quotes: `app.kubernetes.io/name`.
    rf"\s*({_QUOTED}|[^\s{{}}!=~,\\\"'`]+)\s*(=~|!~|!=|=)\s*(.*?)\s*",
    re.DOTALL,
)
_BALANCED = re.compile(rf'{_QUOTED}|(?:[^"\\]|\\.?)*', re.DOTALL)
_ESCAPE = re.compile(r'\\(["\\n])')


@dataclass(frozen=True, slots=True, kw_only=True)
class Matcher:
    """One condition on a label.

    Attributes:
        name: Label.
        value: Text, or a regular expression over the whole value when `is_regex`.
        is_regex: See above.
        is_equal: False turns the condition round.

    Raises:
        ProtocolError: No name, or an expression that does not compile.
    """

    name: str
    value: str
    is_regex: bool = False
    is_equal: bool = True

    def __post_init__(self) -> None:
        """Refuse what could never be asked."""
        if not self.name:
            raise ProtocolError("A matcher needs the name of a label.")
        if self.is_regex:
            try:
                compile_pattern(self.value)
            except ValueError as error:
                raise ProtocolError(
                    f"The matcher of {self.name} is no regular expression: {error}."
                ) from error

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether labels fulfil it."""
        value = labels.get(self.name, "")
        found = pattern_matches(self.value, value, whole=True) if self.is_regex else value == self.value
        return found is self.is_equal


def parse_matcher(text: str) -> Matcher:
    """Read `alertname="DiskFull"`; the quotes may be left out, names may have them, braces be around it all.

    Raises:
        ProtocolError: It is no matcher.
    """
    inner = text.strip()
    if inner.startswith("{") and inner.endswith("}"):
        inner = inner[1:-1]
    found = _TEXT.fullmatch(inner)
    if found is None:
        raise ProtocolError(f'{text[:80]!r} is no matcher; expected e.g. severity="critical".')
    name, operator, value = found.groups()
    return Matcher(
        name=_unquoted(name, text),
        value=_unquoted(value, text),
        is_regex="~" in operator,
        is_equal=operator[0] == "=",
    )


def _unquoted(part: str, text: str) -> str:
    """Take quotes and escapes away; a backslash before anything else stays, as patterns have it."""
    if not _BALANCED.fullmatch(part):
        raise ProtocolError(f"The quotes in {text[:80]!r} do not close, or need a backslash inside a text.")
    if part.startswith('"'):
        part = part[1:-1]
    return _ESCAPE.sub(lambda found: "\n" if found[1] == "n" else found[1], part)
