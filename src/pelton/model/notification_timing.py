"""When groups of alerts notify, and which alerts keep others back: options beside the resources' own fields.

`manifest/notification_timing.py` reads these from annotations; `notify/groups.py` decides by a Timing,
`notify/inhibition.py` by InhibitRules. Pure. Source: contracts, log and notification, 9.3 and 9.4.
"""

from __future__ import annotations

from dataclasses import dataclass

from pelton.model.matching import Matcher

__all__ = ["ALL_LABELS", "RESOLVE_TIMEOUT_S", "InhibitRule", "Timing"]

ALL_LABELS = "..."
"""The one entry of `group_by` that makes a group of every label set."""

RESOLVE_TIMEOUT_S = 300.0
"""Seconds after which an alert without an end counts as over, unless it comes again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When a group notifies.

    Attributes:
        group_wait_s: Seconds from a group's first alert to its first notification, >= 0.
        group_interval_s: Seconds between two looks at a group, > 0.
        repeat_interval_s: Seconds after which a group notifies again though nothing has changed, > 0.
        group_by: Labels whose values make groups; `("...",)` = all labels.
        send_resolved: Whether alerts that are over are told of.
    """

    group_wait_s: float = 30.0
    group_interval_s: float = 300.0
    repeat_interval_s: float = 14_400.0
    group_by: tuple[str, ...] = ()
    send_resolved: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class InhibitRule:
    """While a source fires, targets with the same values of the `equal` labels are kept back.

    Attributes:
        source, target: All matchers have to match.
        equal: Labels; a missing one counts as "".
    """

    source: tuple[Matcher, ...]
    target: tuple[Matcher, ...]
    equal: tuple[str, ...] = ()
