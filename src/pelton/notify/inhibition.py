"""Alerts that keep others back: Alertmanager's inhibition.

Pure: `notify/pipeline.py` shows it every alert and asks for each that is about to be sent. Sources are
indexed by the values of a rule's `equal` labels, so that a question costs the same however many fire. Source:
contracts, log and notification, 9.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pelton.model.matching import Matcher
from pelton.model.notification_timing import InhibitRule
from pelton.notify.alert_table import Tracked

__all__ = ["Inhibition"]


class Inhibition:
    """Which alerts keep which back.

    Args:
        rules: As configured; none costs nothing.
        sources: Alerts that were noted by an earlier set of rules.
    """

    def __init__(self, rules: Sequence[InhibitRule] = (), *, sources: Iterable[Tracked] = ()) -> None:
        self.rules = tuple(rules)
        """As configured."""
        # Per rule: values of `equal` -> fingerprint -> (the alert, whether it is a target of the rule, too).
        self._sources: list[dict[tuple[str, ...], dict[str, tuple[Tracked, bool]]]] = [{} for _ in rules]
        for alert in sources:
            self.note(alert)

    def note(self, alert: Tracked) -> bool:
        """Take an alert's present state; returns whether any rule has it as a source."""
        labels = alert.alert.labels
        found = False
        for rule, sources in zip(self.rules, self._sources, strict=True):
            if _fits(rule.source, labels):
                found = True
                values = tuple(labels.get(name, "") for name in rule.equal)
                both = _fits(rule.target, labels)
                sources.setdefault(values, {})[alert.alert.fingerprint] = (alert, both)
        return found

    def inhibited_by(self, labels: Mapping[str, str], fingerprint: str, now: float) -> str:
        """Return the fingerprint of an alert that keeps this one back, or ""."""
        for rule, sources in zip(self.rules, self._sources, strict=True):
            if not sources or not _fits(rule.target, labels):
                continue
            firing = sources.get(tuple(labels.get(name, "") for name in rule.equal))
            if not firing:
                continue
            both = _fits(rule.source, labels)
            for name, (source, source_is_target) in firing.items():
                # What is on both sides of a rule is not kept back by its like, itself included.
                if source.ends > now and name != fingerprint and not (both and source_is_target):
                    return name
        return ""

    def forget(self, now: float) -> None:
        """Drop sources that are over."""
        for sources in self._sources:
            for values in list(sources):
                left = {name: each for name, each in sources[values].items() if each[0].ends > now}
                if left:
                    sources[values] = left
                else:
                    del sources[values]


def _fits(matchers: Sequence[Matcher], labels: Mapping[str, str]) -> bool:
    return all(matcher.matches(labels) for matcher in matchers)
