"""LogRule of pelton.dev/v1alpha1: table and rules.

Called through `manifest/kinds`; `cli/runtime.py` decodes what `notify/log_rules.py` carries out. Expressions
are compiled here, so that a wrong one is refused when it is applied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pelton.cel import BOOL, DYN, STRING, compile_cel
from pelton.errors import CelCompileError
from pelton.manifest.dapr import STANDALONE_SPEC
from pelton.manifest.fields import Duration, Field, Integer, Mapped, Problem, Record, Text, describe
from pelton.manifest.verbs import TableVerbs
from pelton.model import log_rule as model

__all__ = ["API_VERSION", "LOG_RULE", "VARIABLES"]

API_VERSION: Final = "pelton.dev/v1alpha1"
VARIABLES: Final = {"record": DYN, "text": STRING, "topic": STRING}
"""What expressions see: the record as JSON, its text, and the topic that it came by."""

_TEXT = Text()
_NAME = Text(min_length=1)
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_PLACEHOLDER: Final = re.compile(r"\{\{(.*?)\}\}")
_KNOWN: Final = re.compile(r"\s*\$(value|log|labels\.([a-zA-Z_][a-zA-Z0-9_]*))\s*")
_MOST_THRESHOLD: Final = 10_000
"""What is kept per group grows with it."""
_LEAST_S: Final = 0.1


def _source(
    functions: dict[str, str] | None = None, topic: str = "", component: object = None
) -> model.LogSource:
    named = functions or {}
    return model.LogSource(
        namespace=named.get("namespace", ""),
        function=named.get("name", ""),
        topic=topic,
        component=component,  # type: ignore[arg-type]  # the table's Record makes a ComponentSpec
    )


class _SourceRecord(Record):
    """The source, whose functions are an object of their own in the manifest."""

    def encode(self, value: model.LogSource) -> dict[str, object]:
        """Write the nested form."""
        functions = {"namespace": value.namespace, "name": value.function}
        written = {
            "functions": {key: part for key, part in functions.items() if part},
            "topic": value.topic,
            "component": value.component and STANDALONE_SPEC.encode(value.component),
        }
        return {key: part for key, part in written.items() if part}


_SOURCE = _SourceRecord(
    _source,
    (
        Field(
            "functions",
            "functions",
            Record(
                dict,
                (
                    Field("namespace", "namespace", _NAME, required=True, doc="Their namespace."),
                    Field("name", "name", _TEXT, doc="One function; default: all of the namespace."),
                ),
            ),
            doc="Functions of this platform, whose output is read.",
        ),
        Field("topic", "topic", _TEXT, doc="Topic of the event bus, or of the component."),
        Field("component", "component", STANDALONE_SPEC, doc="Broker that has the topic."),
    ),
)
_SPEC = Record(
    model.LogRule,
    (
        Field("source", "source", _SOURCE, required=True, doc="Where records come from."),
        Field(
            "match",
            "match",
            _NAME,
            required=True,
            doc="CEL over record, text and topic: whether a record counts.",
        ),
        Field(
            "groupBy",
            "group_by",
            Mapped(_TEXT),
            doc="Label -> CEL that gives its value; records are counted per values.",
        ),
        Field(
            "window",
            "window_s",
            Duration(minimum_s=_LEAST_S),
            doc="Time within which so many records have to lie.",
            default="1m",
        ),
        Field(
            "threshold",
            "threshold",
            Integer(minimum=1, maximum=_MOST_THRESHOLD),
            doc="How many records it takes.",
            default=1,
        ),
        Field(
            "resolveAfter",
            "resolve_after_s",
            Duration(minimum_s=_LEAST_S),
            doc="Time without such a record after which the alert is over.",
            default="5m",
        ),
        Field(
            "alert",
            "alert",
            Record(
                model.RuleAlert,
                (
                    Field("name", "name", _TEXT, doc="Label alertname; default: the rule's name."),
                    Field("labels", "labels", Mapped(_TEXT), doc="Further labels."),
                    Field("annotations", "annotations", Mapped(_TEXT), doc="Texts for people."),
                ),
            ),
            doc="What the alert says.",
        ),
    ),
)


def _rules(rule: model.LogRule) -> list[Problem]:
    return list(_problems(rule))


def _problems(rule: model.LogRule) -> Iterator[Problem]:
    if rule.source is not None:
        yield from _source_problems(rule.source)
    if rule.match:
        yield from _expression("spec.match", rule.match, "boolean")
    for label, expression in rule.group_by.items():
        yield from _label(f"spec.groupBy.{label}", label)
        yield from _expression(f"spec.groupBy.{label}", expression, "text")
    alert = rule.alert or model.RuleAlert()
    for label in alert.labels:
        yield from _label(f"spec.alert.labels.{label}", label)
        if label in rule.group_by:
            yield Problem(f"spec.alert.labels.{label}", "is given by groupBy as well")
    labels = {"alertname", *alert.labels, *rule.group_by}
    for name, text in alert.annotations.items():
        yield from _placeholders(f"spec.alert.annotations.{name}", text, labels)


def _source_problems(source: model.LogSource) -> Iterator[Problem]:
    if source.namespace:
        if source.topic or source.component is not None:
            yield Problem("spec.source", "either functions or a topic is required, both are given")
    elif source.component is None and not source.topic:
        yield Problem("spec.source", "either functions or a topic is required, neither is given")
    elif source.component is not None and not source.component.type:
        yield Problem("spec.source.component.type", "required")


def _expression(path: str, expression: str, wanted: str) -> Iterator[Problem]:
    try:
        program = compile_cel(expression, VARIABLES)
    except CelCompileError as error:
        yield Problem(path, error.message)
        return
    # A field of a record may be anything until it is seen.
    if program.result.kind != "dyn" and program.result != (BOOL if wanted == "boolean" else STRING):
        yield Problem(path, f"must give {'true or false' if wanted == 'boolean' else 'text'}")


def _label(path: str, name: str) -> Iterator[Problem]:
    if not _LABEL.fullmatch(name):
        yield Problem(path, "a label's name has letters, digits and _, and begins with no digit")
    elif name == "alertname":
        yield Problem(path, "the alert's name is spec.alert.name")


def _placeholders(path: str, text: str, labels: set[str]) -> Iterator[Problem]:
    for found in _PLACEHOLDER.finditer(text):
        known = _KNOWN.fullmatch(found[1])
        if known is None:
            yield Problem(
                path,
                f"must be $value, $log or $labels.NAME between braces, found {describe(found[1].strip())}",
            )
        elif known[2] is not None and known[2] not in labels:
            yield Problem(path, f"the alert has no label {known[2]}")


LOG_RULE: TableVerbs[model.LogRule] = TableVerbs(API_VERSION, "LogRule", _SPEC, rules=_rules, required=True)
"""The verbs of LogRule."""
