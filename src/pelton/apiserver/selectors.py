"""Label and field selectors of list and watch requests. Pure; called by `rest.py`.

Source: contracts operator-webhook.md 6.1 (query parameters); field selectors know metadata.name and
metadata.namespace, as for custom resources.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pelton.errors import ProtocolError

__all__ = ["Selector", "parse"]

_SET = re.compile(r"(?P<key>[^\s!=,()]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)")
_PAIR = re.compile(r"(?P<key>[^\s!=,()]+)\s*(?P<op>==|=|!=)\s*(?P<value>[^\s!=,()]*)")
_BARE = re.compile(r"(?P<not>!?)\s*(?P<key>[^\s!=,()]+)")


@dataclass(frozen=True, slots=True)
class _Rule:
    key: str
    values: frozenset[str] | None  # None: only whether the key is there
    wanted: bool

    def holds(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        found = value is not None and (self.values is None or value in self.values)
        return found is self.wanted


@dataclass(frozen=True, slots=True)
class Selector:
    """What a list or watch asks for; empty selects all."""

    rules: tuple[_Rule, ...] = ()
    fields: tuple[_Rule, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether there is nothing to check."""
        return not self.rules and not self.fields

    def matches(self, namespace: str, name: str, labels: Mapping[str, str]) -> bool:
        """Return whether an object of that place and with those labels is selected."""
        return all(rule.holds(labels) for rule in self.rules) and all(
            rule.holds({"metadata.name": name, "metadata.namespace": namespace}) for rule in self.fields
        )


def parse(labels: str, fields: str) -> Selector:
    """Return the selector of the query parameters labelSelector and fieldSelector ("" for none).

    Raises:
        ProtocolError: Not a selector, or a field that cannot be selected by.
    """
    return Selector(_labels(labels), _fields(fields))


def _labels(text: str) -> tuple[_Rule, ...]:
    rules = []
    rest = text.strip()
    while rest:
        if match := _SET.match(rest):
            values = frozenset(value.strip() for value in match["values"].split(","))
            rules.append(_Rule(match["key"], values, match["op"] == "in"))
        elif match := _PAIR.match(rest):
            rules.append(_Rule(match["key"], frozenset([match["value"]]), match["op"] != "!="))
        elif match := _BARE.match(rest):
            rules.append(_Rule(match["key"], None, not match["not"]))
        else:
            raise ProtocolError(f"label selector {text!r} cannot be read at {rest!r}")
        rest = rest[match.end() :].strip()
        if rest and not rest.startswith(","):
            raise ProtocolError(f"label selector {text!r} lacks a comma before {rest!r}")
        rest = rest[1:].strip()
    return tuple(rules)


def _fields(text: str) -> tuple[_Rule, ...]:
    rules = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = _PAIR.fullmatch(part)
        if not match:
            raise ProtocolError(f"field selector {part!r} is not field=value")
        if match["key"] not in ("metadata.name", "metadata.namespace"):
            raise ProtocolError(
                f"field label not supported: {match['key']}",
                hint="Select by metadata.name or metadata.namespace, or use labels.",
            )
        rules.append(_Rule(match["key"], frozenset([match["value"]]), match["op"] != "!="))
    return tuple(rules)
