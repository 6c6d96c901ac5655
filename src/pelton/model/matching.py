"""Alertmanager's matchers: `name="value"`, `!=`, `=~`, `!~`, and the reading of their text form.

Pure. `notify/silences.py` and `notify/inhibition.py` keep alerts back by them, `notify/alertmanager.py`
filters lists, `manifest/notification_timing.py` reads those of inhibition. Regular
expressions cover the whole value; a missing label counts as "". Source: contracts, log and notification,
9.3, 9.5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pelton.errors import ProtocolError
from pelton.model.notification import compile_pattern

__all__ = ["Matcher", "parse_matcher"]

_TEXT = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(=~|!~|!=|=)\s*(.*?)\s*", re.DOTALL)


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
            except re.error as error:
                raise ProtocolError(
                    f"The matcher of {self.name} is no regular expression: {error}."
                ) from error

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether labels fulfil it."""
        value = labels.get(self.name, "")
        found = (
            compile_pattern(self.value).fullmatch(value) is not None if self.is_regex else value == self.value
        )
        return found is self.is_equal


def parse_matcher(text: str) -> Matcher:
    """Read `alertname="DiskFull"`; the quotes may be left out.

    Raises:
        ProtocolError: It is no matcher.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ProtocolError(f'{text[:80]!r} is no matcher; expected e.g. severity="critical".')
    name, operator, value = found.groups()
    if value.startswith('"'):
        try:
            value = json.loads(value, strict=False)
        except ValueError as error:
            raise ProtocolError(f"The quoted value in {text[:80]!r} cannot be read: {error}.") from error
        if not isinstance(value, str):
            raise ProtocolError(f"The value in {text[:80]!r} is no text.")
    return Matcher(name=name, value=value, is_regex="~" in operator, is_equal=operator[0] == "=")
