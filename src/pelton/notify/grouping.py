"""Which alerts go to a receiver together, and what they have in common.

Pure. `notify/pipeline.py` calls it once per intake batch and receiver, `notify/timed.py` for a group that is
kept over time; the Group travels on the bus inside
`notify/envelope.py` and is shown by `notify/template.py`. Source: contracts/log-notification.md 6.5, 6.6,
7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pelton.notify.alert import FIRING, RESOLVED, Alert

__all__ = ["Group", "aggregate", "group_of", "split"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Alerts of one notification.

    Attributes:
        alerts: At least one, in the order of the intake.
        group_labels: Values that made the group; labels with an empty value are left out.
        common_labels: Pairs with the same non-empty value in all alerts.
        common_annotations: The same for annotations.
    """

    alerts: list[Alert]
    group_labels: dict[str, str] = field(default_factory=dict)
    common_labels: dict[str, str] = field(default_factory=dict)
    common_annotations: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """`firing` when any alert fires, else `resolved`."""
        return FIRING if any(alert.status == FIRING for alert in self.alerts) else RESOLVED


def aggregate(alerts: Sequence[Alert], *, group_labels: Sequence[str], receiver: str) -> list[Group]:
    """Group one receiver's alerts by the values of `group_labels`; a missing label counts as "".

    The label `receiver` is added where absent, after the common labels are taken: it says where an alert
    went, not what it is about.

    Args:
        alerts: May be empty.
        group_labels: Label names; none puts all alerts into one group.
        receiver: Name for the label.

    Returns:
        Groups in the order of their first alert; together they hold every alert exactly once.
    """
    members: dict[tuple[str, ...], list[Alert]] = {}
    for alert in alerts:
        members.setdefault(tuple(alert.labels.get(name, "") for name in group_labels), []).append(alert)
    return [
        group_of(
            group,
            receiver=receiver,
            group_labels={
                name: value for name, value in zip(group_labels, values, strict=True) if value != ""
            },
        )
        for values, group in members.items()
    ]


def group_of(alerts: Sequence[Alert], *, receiver: str, group_labels: Mapping[str, str]) -> Group:
    """Return the Group of alerts that belong together.

    Args:
        alerts: At least one.
        receiver: Name for the label.
        group_labels: Values that made the group.
    """
    return Group(
        alerts=[_told_to(receiver, alert) for alert in alerts],
        group_labels=dict(group_labels),
        common_labels=_common([alert.labels for alert in alerts]),
        common_annotations=_common([alert.annotations for alert in alerts]),
    )


def _told_to(receiver: str, alert: Alert) -> Alert:
    # Spelt out: dataclasses.replace takes four times as long, and a group may have a hundred thousand.
    return Alert(
        status=alert.status,
        labels={"receiver": receiver} | alert.labels,
        annotations=alert.annotations,
        starts_at=alert.starts_at,
        ends_at=alert.ends_at,
        generator_url=alert.generator_url,
        fingerprint=alert.fingerprint,
        upstream=alert.upstream,
    )


def split(
    alerts: Iterable[Alert], *, max_alerts: int, max_bytes: int, size: Callable[[Alert], int]
) -> list[list[Alert]]:
    """Cut one intake into batches that fit the bus.

    Args:
        alerts: In order.
        max_alerts: Alerts per batch, >= 1.
        max_bytes: Encoded bytes per batch; an alert above it gets a batch of its own.
        size: Encoded bytes of one alert.

    Returns:
        Batches, none empty, in order.
    """
    batches: list[list[Alert]] = []
    room = 0
    for alert in alerts:
        need = size(alert)
        if not batches or need > room or len(batches[-1]) >= max_alerts:
            batches.append([])
            room = max_bytes
        batches[-1].append(alert)
        room -= need
    return batches


def _common(maps: Sequence[Mapping[str, str]]) -> dict[str, str]:
    first, rest = maps[0], maps[1:]
    return {
        name: value
        for name, value in first.items()
        if value != "" and all(other.get(name) == value for other in rest)
    }
