"""Annotations by which groups of alerts are kept over time, and what is wrong with them.

On a NotificationManager they count for all, on a Receiver for what goes there, on a Router for what goes
there through it; the nearer one wins. `manifest/notification.py` and `manifest/notification_routing.py`
report the problems, `notify/routing.py` and `notify/pipeline.py` ask for the values. The resources have no
fields for these. Source of values and defaults: contracts, log and notification, 9.3, 9.4 and 10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from pelton.errors import ProtocolError
from pelton.manifest.fields import Problem, describe
from pelton.model.matching import Matcher, parse_matcher
from pelton.model.notification_timing import ALL_LABELS, RESOLVE_TIMEOUT_S, InhibitRule, Timing
from pelton.quantity import parse_duration

__all__ = [
    "inhibit_rules",
    "manager_timing_problems",
    "resolve_timeout_s",
    "timing",
    "timing_problems",
]

_PREFIX: Final = "pelton.dev/"
_INHIBIT: Final = f"{_PREFIX}inhibit-rules"
_RESOLVE: Final = f"{_PREFIX}resolve-timeout"
_LONGEST_S: Final = 365 * 24 * 3600.0
_LEAST_INTERVAL_S: Final = 0.1
_QUIET: Final = frozenset({"slack", "email", "wechat"})
"""Blocks that are not told of what is over unless they ask for it, as in Alertmanager."""


def timing(
    *annotations: Mapping[str, str], block: str = "", group_labels: Sequence[str] = ()
) -> Timing | None:
    """Return how groups are kept, or None: nothing asks for it, alerts are sent as they come.

    Args:
        *annotations: Of the NotificationManager, the Receiver and the Router, the nearest last. A value that
            cannot be read does not count; admission refuses it.
        block: Of the Receiver; decides whether it is told of what is over.
        group_labels: Labels that make groups unless an annotation says which.
    """
    found: dict[str, Any] = {}
    for each in annotations:
        for name, (field, read) in _TIMING.items():
            if (text := each.get(name)) is not None:
                try:
                    found[field] = read(text)
                except ValueError:
                    continue
    if not found.keys() - {"send_resolved"}:
        return None
    defaults: dict[str, Any] = {"group_by": tuple(group_labels), "send_resolved": block not in _QUIET}
    return Timing(**(defaults | found))


def resolve_timeout_s(annotations: Mapping[str, str]) -> float:
    """Return how long an alert without an end counts, by a NotificationManager's annotations."""
    try:
        return _positive(annotations.get(_RESOLVE, ""))
    except ValueError:
        return RESOLVE_TIMEOUT_S


def inhibit_rules(annotations: Mapping[str, str]) -> tuple[InhibitRule, ...]:
    """Return the rules of a NotificationManager; none where they cannot be read."""
    try:
        return tuple(_rules(annotations.get(_INHIBIT, "")))
    except ValueError:
        return ()


def timing_problems(annotations: Mapping[str, str]) -> Iterator[Problem]:
    """Yield what is wrong with the annotations of a Receiver or Router."""
    yield from _problems(annotations, {name: read for name, (_, read) in _TIMING.items()})


def manager_timing_problems(annotations: Mapping[str, str]) -> Iterator[Problem]:
    """Yield what is wrong with the annotations of a NotificationManager."""
    yield from timing_problems(annotations)
    yield from _problems(annotations, {_RESOLVE: _positive, _INHIBIT: lambda text: [*_rules(text)]})


def _problems(
    annotations: Mapping[str, str], readers: Mapping[str, Callable[[str], Any]]
) -> Iterator[Problem]:
    for name, read in readers.items():
        if (text := annotations.get(name)) is not None:
            try:
                read(text)
            except ValueError as error:
                yield Problem(f"metadata.annotations[{name}]", str(error))


def _seconds(text: str, least_s: float) -> float:
    try:
        seconds = parse_duration(text.strip())
    except (ValueError, IndexError) as error:
        raise ValueError(f"must be a duration such as 30s or 5m, found {describe(text)}") from error
    if not least_s <= seconds <= _LONGEST_S:
        raise ValueError(f"must be from {least_s:g}s to 365 days, found {describe(text)}")
    return seconds


def _wait(text: str) -> float:
    return _seconds(text, 0.0)


def _positive(text: str) -> float:
    return _seconds(text, _LEAST_INTERVAL_S)


def _labels(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if ALL_LABELS in names and len(names) > 1:
        raise ValueError("`...` means all labels and stands alone")
    return names


def _truth(text: str) -> bool:
    if text.strip().lower() not in ("true", "false"):
        raise ValueError(f"must be true or false, found {describe(text)}")
    return text.strip().lower() == "true"


_TIMING: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    f"{_PREFIX}group-by": ("group_by", _labels),
    f"{_PREFIX}group-wait": ("group_wait_s", _wait),
    f"{_PREFIX}group-interval": ("group_interval_s", _positive),
    f"{_PREFIX}repeat-interval": ("repeat_interval_s", _positive),
    f"{_PREFIX}send-resolved": ("send_resolved", _truth),
}


def _rules(text: str) -> Iterator[InhibitRule]:
    # Read here, since most platforms never need a parser of YAML in the process that asks.
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        listed = YAML(typ="safe", pure=True).load(text) if text.strip() else []
    except (YAMLError, RecursionError) as error:
        raise ValueError(f"is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(listed, list):
        raise ValueError(f"must be a list of rules, found {describe(listed)}")  # noqa: TRY004 -- a text's value
    for index, item in enumerate(listed):
        if not isinstance(item, dict):
            raise ValueError(f"[{index}] must be an object, found {describe(item)}")  # noqa: TRY004 -- see above
        if unknown := item.keys() - {"source_matchers", "target_matchers", "equal"}:
            raise ValueError(
                f"[{index}] has the unknown key {sorted(map(str, unknown))[0]}; "
                "known: source_matchers, target_matchers, equal"
            )
        yield InhibitRule(
            source=_matchers(item, index, "source_matchers"),
            target=_matchers(item, index, "target_matchers"),
            equal=_texts(item, index, "equal"),
        )


def _matchers(item: Mapping[str, Any], index: int, key: str) -> tuple[Matcher, ...]:
    texts = _texts(item, index, key)
    if not texts:
        raise ValueError(f"[{index}].{key} needs at least one matcher: without, it would match every alert")
    try:
        return tuple(parse_matcher(text) for text in texts)
    except ProtocolError as error:
        raise ValueError(f"[{index}].{key}: {error.message}") from error


def _texts(item: Mapping[str, Any], index: int, key: str) -> tuple[str, ...]:
    value = item.get(key, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"[{index}].{key} must be a list of texts, found {describe(value)}")
    return tuple(value)
