"""Scaler `cron`: a number of replicas from one time to another; needs nothing but the time. Pure.

Source: KEDA, pkg/scalers/cron_scaler.go (contracts, autoscaling section 4.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import croniter

from pelton.autoscale.scalers.parameters import Parameters
from pelton.errors import ScalerError
from pelton.model.scaler import ScalerReading

__all__ = ["CronScaling", "measure", "read_cron"]

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
        if schedule and (len(schedule.split()) != 5 or not croniter.is_valid(schedule)):
            found.refuse(f'{field} is "{schedule}", not a schedule of five fields such as "30 8 * * 1-5"')
    if start and start == end:
        found.refuse("start and end must differ")
    replicas = 0
    if found.required("desiredReplicas"):
        replicas = found.whole("desiredReplicas", 1, 1)
    return CronScaling(
        metric=f"cron-{name}-{start}-{end}".translate(_SIGNS).replace("/", "-").replace(":", "-"),
        zone=zone,
        start=start,
        end=end,
        replicas=replicas,
    )


def measure(settings: CronScaling, now: datetime) -> ScalerReading:
    """Return the metric; inside the window while its end comes no later than its next start.

    Raises:
        ScalerError: A schedule has no next time, such as the 30th of February.
    """
    local = now.astimezone(settings.zone)
    try:
        begins = croniter(settings.start, local).get_next(datetime)
        ends = croniter(settings.end, local).get_next(datetime)
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
