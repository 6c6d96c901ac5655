"""Alerts out of log records without code: which records, how many in what time, what the alert says.

`manifest/log_rule.py` reads it, `notify/log_counting.py` counts by it. Pure. A kind of Pelton's own, after
what rules on metrics have elsewhere: an expression, a time, labels, annotations.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pelton.model.component import ComponentSpec

__all__ = ["LogRule", "LogSource", "RuleAlert"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSource:
    """Where records come from: functions of this platform, or a topic.

    Attributes:
        namespace, function: Functions whose output is read; function "" = all of the namespace. Both "" when
            a topic is named.
        topic: Topic of the event bus, or of `component`; "" where the component names its topics itself.
        component: A broker; None = the event bus.
    """

    namespace: str = ""
    function: str = ""
    topic: str = ""
    component: ComponentSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleAlert:
    """What the alert says.

    Attributes:
        name: Label `alertname`; "" = the rule's name.
        labels: Further labels.
        annotations: Texts; `{{ $value }}`, `{{ $log }}` and `{{ $labels.NAME }}` are filled in.
    """

    name: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRule:
    """One rule.

    Attributes:
        name, namespace, labels, annotations: The resource's.
        source: Where records come from; None only in a malformed manifest.
        match: CEL over `record`, `text` and `topic`: whether a record counts.
        group_by: Label -> CEL over the same that gives its value; records with the same values are counted
            together.
        window_s: Seconds within which so many records have to lie, > 0.
        threshold: That many, >= 1.
        resolve_after_s: Seconds without such a record after which the alert is over, > 0.
        alert: What it says; None = only its name.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    source: LogSource | None = None
    match: str = ""
    group_by: dict[str, str] = field(default_factory=dict)
    window_s: float = 60.0
    threshold: int = 1
    resolve_after_s: float = 300.0
    alert: RuleAlert | None = None
