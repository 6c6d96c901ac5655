"""Label and field selectors of list and watch requests. Pure; called by `rest.py`.

Source: contracts operator-webhook.md 6.1 (query parameters); field selectors know metadata.name and
metadata.namespace, and what the row of a resource names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from pelton.apiserver.table import find
from pelton.errors import ProtocolError

__all__ = ["Selector", "parse"]

_SET = re.compile(r"(?P<key>[^\s!=,()]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)")
_PAIR = re.compile(r"(?P<key>[^\s!=,()]+)\s*(?P<op>==|=|!=)\s*(?P<value>[^\s!=,()]*)")
_BARE = re.compile(r"(?P<not>!?)\s*(?P<key>[^\s!=,()]+)")
_decoder = msgspec.json.Decoder()


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
    inner: tuple[tuple[_Rule, Callable[[Any], Any]], ...] = ()  # of fields that only the object itself tells

    @property
    def everything(self) -> bool:
        """Whether there is nothing to check."""
        return not self.rules and not self.fields and not self.inner

    def matches(self, namespace: str, name: str, labels: Mapping[str, str], raw: bytes) -> bool:
        """Return whether an object of that place, with those labels and that JSON, is selected."""
        if not all(rule.holds(labels) for rule in self.rules):
            return False
        place = {"metadata.name": name, "metadata.namespace": namespace}
        if not all(rule.holds(place) for rule in self.fields):
            return False
        if not self.inner:
            return True
        obj = _decoder.decode(raw)
        return all(rule.holds({rule.key: _text(value_of(obj))}) for rule, value_of in self.inner)


def parse(labels: str, fields: str, selectable: Mapping[str, str] | None = None) -> Selector:
    """Return the selector of the query parameters labelSelector and fieldSelector ("" for none).

    Args:
        labels: labelSelector.
        fields: fieldSelector.
        selectable: Further fields -> JSONPath of their value.

    Raises:
        ProtocolError: Not a selector, or a field that cannot be selected by.
    """
    place, inner = _fields(fields, selectable or {})
    return Selector(_labels(labels), place, inner)


def _text(value: object) -> str:
    """Return a field's value as selectors compare it; "" where there is none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


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


def _fields(
    text: str, selectable: Mapping[str, str]
) -> tuple[tuple[_Rule, ...], tuple[tuple[_Rule, Callable[[Any], Any]], ...]]:
    place: list[_Rule] = []
    inner: list[tuple[_Rule, Callable[[Any], Any]]] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = _PAIR.fullmatch(part)
        if not match:
            raise ProtocolError(f"field selector {part!r} is not field=value")
        rule = _Rule(match["key"], frozenset([match["value"]]), match["op"] != "!=")
        if rule.key in ("metadata.name", "metadata.namespace"):
            place.append(rule)
        elif rule.key in selectable:
            inner.append((rule, find(selectable[rule.key])))
        else:
            known = ", ".join(["metadata.name", "metadata.namespace", *selectable])
            raise ProtocolError(
                f"field label not supported: {rule.key}", hint=f"Select by {known}, or use labels."
            )
    return tuple(place), tuple(inner)
