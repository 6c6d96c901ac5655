"""Scaler `cron`: a number of replicas from one time to another; needs nothing but the time. Pure.

Source: KEDA, pkg/scalers/cron_scaler.go (contracts, autoscaling section 4.5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import croniter

from pelton.autoscale.scalers.parameters import Parameters, metric_name
from pelton.errors import ScalerError
from pelton.model.scaler import ScalerReading

__all__ = ["CronScaling", "measure", "read_cron"]

_NAMES = frozenset(
    "jan feb mar apr may jun jul aug sep oct nov dec sun mon tue wed thu fri sat".split()  # noqa: SIM905
)
_WORD = re.compile("[A-Za-z]+")
_OTHERS = frozenset("#_;@")
"""Signs of schedules that KEDA's do not have."""
_SIGNS = str.maketrans({" ": "", "*": "x", "/": "Sl", "?": "Qm", ",": "Cm"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CronScaling:
    """Settings: a window by two schedules of five fields in a time zone, and the replicas within it."""

    metric: str
    zone: tzinfo
    start: str
    end: str
    replicas: int


def read_cron(found: Parameters) -> CronScaling:
    """Read a trigger's metadata; problems are left in `found`."""
    zone: tzinfo = ZoneInfo("UTC")
    name = found.required("timezone")
    if name:
        try:
            zone = ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            found.refuse(f'timezone is "{name}", which is no time zone such as Europe/Berlin')
    start, end = found.required("start"), found.required("end")
    for field, schedule in (("start", start), ("end", end)):
        if schedule and not _valid(schedule):
            found.refuse(f'{field} is "{schedule}", not a schedule of five fields such as "30 8 * * 1-5"')
    if start and start == end:
        found.refuse("start and end must differ")
    replicas = 0
    if found.required("desiredReplicas"):
        replicas = found.whole("desiredReplicas", 1, 1)
    return CronScaling(
        metric=metric_name(f"cron-{name}-{start.translate(_SIGNS)}-{end.translate(_SIGNS)}"),
        zone=zone,
        start=start,
        end=end,
        replicas=replicas,
    )


def _valid(schedule: str) -> bool:
    """Return whether a text is a schedule: five fields, no words but names of days and months."""
    words = {word.lower() for word in _WORD.findall(schedule)}
    if len(schedule.split()) != 5 or words - _NAMES or _OTHERS & set(schedule):
        return False
    return bool(croniter.is_valid(schedule))


def _next(schedule: str, after: datetime) -> datetime:
    """Return the next time; a day has to fit both its fields when one begins with `*`, as in KEDA's cron."""
    found: datetime = croniter(schedule, after, implement_cron_bug=True).get_next(datetime)
    return found


def measure(settings: CronScaling, now: datetime) -> ScalerReading:
    """Return the metric; inside the window while its end comes no later than its next start.

    Raises:
        ScalerError: A schedule has no next time, such as the 30th of February.
    """
    local = now.astimezone(settings.zone)
    try:
        begins, ends = _next(settings.start, local), _next(settings.end, local)
    except (ValueError, KeyError) as error:
        raise ScalerError(
            f"a schedule never comes due: {error}", hint="correct start and end of the cron trigger"
        ) from error
    inside = ends <= begins
    return ScalerReading(
        metric=settings.metric,
        value=float(settings.replicas if inside else 0),
        target=1.0,
        active=inside,
    )
