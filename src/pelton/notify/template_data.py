"""What users' templates see of a group of alerts: the names and methods of the Notification Manager's data.

Made by `notify/render.py`, read by Go templates through the `GO` tables below, and as plain values by Jinja2
templates. Source: contracts, log and notification, section 7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

from pelton.notify.alert import FIRING, RESOLVED, Alert
from pelton.notify.grouping import Group
from pelton.texttemplate.fault import TemplateFault
from pelton.texttemplate.go_time import GoTime

__all__ = ["AlertData", "Alerts", "Data", "Pair", "Pairs", "TextMap", "alert_functions", "jinja_data"]

_UNSAID = ("rule_id", "runbook_url", "message", "summary", "summary_cn")
_FIRST, _HIDDEN = "alertname", "rule_id"


def _same(text: str) -> str:
    return text


class Pair:
    """One name with its value."""

    GO: ClassVar[dict[str, str]] = {"Name": "name", "Value": "value"}

    def __init__(self, name: str, value: str) -> None:
        self.name = name
        self.value = value

    def __str__(self) -> str:
        return f"{{{self.name} {self.value}}}"


class Pairs(list[Pair]):
    """Pairs in order."""

    GO: ClassVar[dict[str, str]] = {
        "Filter": "without",
        "DefaultFilter": "telling",
        "Names": "names",
        "Values": "values",
    }

    def without(self, *names: str) -> Pairs:
        """Return those of other names."""
        return Pairs(pair for pair in self if pair.name not in names)

    def telling(self) -> Pairs:
        """Return those that people want to see beside the message."""
        return self.without(*_UNSAID)

    def names(self) -> list[str]:
        """Return the names."""
        return [pair.name for pair in self]

    def values(self) -> list[str]:
        """Return the values."""
        return [pair.value for pair in self]


class TextMap(dict[str, str]):
    """Labels or annotations."""

    GO: ClassVar[dict[str, str]] = {
        "SortedPairs": "sorted_pairs",
        "Remove": "remove",
        "Names": "names",
        "Values": "texts",
    }

    def sorted_pairs(self) -> Pairs:
        """Return pairs, alertname first, then by name; rule_id means nothing to people."""
        names = sorted(self, key=lambda name: (name != _FIRST, name))
        return Pairs(Pair(name, self[name]) for name in names if name != _HIDDEN)

    def remove(self, names: Iterable[str]) -> TextMap:
        """Return it without some names."""
        dropped = {names} if isinstance(names, str) else set(names)
        return TextMap({name: value for name, value in self.items() if name not in dropped})

    def names(self) -> list[str]:
        """Return the names in the order of the pairs."""
        return self.sorted_pairs().names()

    def texts(self) -> list[str]:
        """Return the values in the order of the pairs."""
        return self.sorted_pairs().values()


class AlertData:
    """One alert.

    Args:
        alert: The alert.
        clean: What is done to each text of it, e.g. escaping for the destination.
    """

    GO: ClassVar[dict[str, str]] = {
        "ID": "id",
        "Status": "status",
        "Labels": "labels",
        "Annotations": "annotations",
        "StartsAt": "starts_at",
        "EndsAt": "ends_at",
        "GeneratorURL": "generator_url",
        "Fingerprint": "fingerprint",
        "Message": "message",
        "MessageCN": "message_cn",
    }

    def __init__(self, alert: Alert, clean: Callable[[str], str] = _same) -> None:
        self.status = alert.status
        self.labels = _texts(alert.labels, clean)
        self.annotations = _texts(alert.annotations, clean)
        self.starts_at = GoTime.parse(alert.starts_at)
        self.ends_at = GoTime.parse(alert.ends_at)
        self.generator_url = clean(alert.generator_url)
        self.fingerprint = alert.fingerprint
        self.id = str(int(alert.fingerprint, 16)) if _is_hex(alert.fingerprint) else alert.fingerprint

    def message(self) -> str:
        """Return the sentence for people: annotation message, else summary, else summaryCn."""
        return self._first("message", "summary", "summaryCn")

    def message_cn(self) -> str:
        """Return the sentence for people, summaryCn first."""
        return self._first("summaryCn", "message", "summary")

    def _first(self, *names: str) -> str:
        return next((text for name in names if (text := self.annotations.get(name))), "")


class Alerts(list[AlertData]):
    """Alerts in order."""

    GO: ClassVar[dict[str, str]] = {"Firing": "firing", "Resolved": "resolved"}

    def firing(self) -> Alerts:
        """Return those that fire."""
        return Alerts(alert for alert in self if alert.status == FIRING)

    def resolved(self) -> Alerts:
        """Return those that are over."""
        return Alerts(alert for alert in self if alert.status == RESOLVED)


class Data:
    """What a template begins with.

    Args:
        group: What to say.
        receiver: Name of the Receiver.
        clean: As in AlertData.
    """

    GO: ClassVar[dict[str, str]] = {
        "Receiver": "receiver",
        "Alerts": "alerts",
        "GroupLabels": "group_labels",
        "CommonLabels": "common_labels",
        "CommonAnnotations": "common_annotations",
        "Status": "status",
        "ExternalURL": "external_url",
    }

    external_url = ""

    def __init__(self, group: Group, *, receiver: str = "", clean: Callable[[str], str] = _same) -> None:
        self.receiver = receiver
        self.alerts = Alerts(AlertData(alert, clean) for alert in group.alerts)
        self.group_labels = _texts(group.group_labels, clean)
        self.common_labels = _texts(group.common_labels, clean)
        self.common_annotations = _texts(group.common_annotations, clean)

    def status(self) -> str:
        """Return `firing` when any alert fires, else `resolved`; "" without alerts."""
        if not self.alerts:
            return ""
        return FIRING if self.alerts.firing() else RESOLVED


def _texts(values: Mapping[str, str], clean: Callable[[str], str]) -> TextMap:
    return TextMap({name: clean(value) for name, value in values.items()})


def _is_hex(text: str) -> bool:
    return bool(text) and all(character in "0123456789abcdef" for character in text)


def alert_functions(words: Mapping[str, str], *, chinese: bool) -> dict[str, Callable[..., Any]]:
    """Return the functions of templates that are about alerts and languages.

    Args:
        words: Lower-cased key -> word of the chosen language.
        chinese: Whether `message` prefers Chinese sentences.
    """

    def message(alert: Any) -> str:
        if not isinstance(alert, AlertData):
            raise TemplateFault("expected an alert")
        return alert.message_cn() if chinese else alert.message()

    def translate(key: Any) -> str:
        text = "" if key is None else str(key)
        return words.get(text.lower(), text)

    return {"message": message, "translate": translate}


def jinja_data(data: Data) -> dict[str, Any]:
    """Return the same as plain values, under the names of the webhook's JSON."""
    return {
        "receiver": data.receiver,
        "status": data.status(),
        "alerts": [dict(_plain(alert)) for alert in data.alerts],
        "firing": [dict(_plain(alert)) for alert in data.alerts.firing()],
        "resolved": [dict(_plain(alert)) for alert in data.alerts.resolved()],
        "groupLabels": dict(data.group_labels),
        "commonLabels": dict(data.common_labels),
        "commonAnnotations": dict(data.common_annotations),
    }


def _plain(alert: AlertData) -> Iterator[tuple[str, Any]]:
    yield from (("id", alert.id), ("status", alert.status), ("fingerprint", alert.fingerprint))
    yield from (("labels", dict(alert.labels)), ("annotations", dict(alert.annotations)))
    for name, moment in (("startsAt", alert.starts_at), ("endsAt", alert.ends_at)):
        yield name, moment.format("2006-01-02T15:04:05.999999999Z07:00")
    yield from (("generatorURL", alert.generator_url), ("message", alert.message()))
