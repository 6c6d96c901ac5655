"""Why an alert went where it went, or did not, and when it goes next: `pelton why alert`'s answer.

Pure: `notify/pipeline.py` calls it with the objects by which it decides, so that the answer is the decision
and not a retelling. What destinations answered is in `notify/records.py`, which the command reads itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pelton.clock import rfc3339
from pelton.model.matching import Matcher
from pelton.model.notification_timing import Timing
from pelton.notify.alert import FIRING, Alert
from pelton.notify.alert_table import Tracked, track
from pelton.notify.groups import Groups, Place, Sent, labels_of
from pelton.notify.muting import KeptBack, Muting
from pelton.notify.routing import Routing, Way
from pelton.notify.silences import PostedSilence

__all__ = ["explain", "explain_all", "repeat_at"]

MOST = 20
"""Alerts that one answer tells of."""


def explain_all(
    wanted: Sequence[Matcher],
    name: str = "",
    *,
    known: Iterable[Tracked],
    identify: Callable[[Alert], Alert],
    routing: Routing,
    muting: Muting,
    groups: Groups,
    posted: Callable[[str], PostedSilence | None],
    now: float,
) -> list[dict[str, Any]]:
    """Explain alerts, the first by fingerprint; see `explain`.

    Args:
        wanted: Picks known alerts. When there is none and all are equalities, they are taken for the labels
            of an alert that is to come.
        name: A fingerprint that picks one instead, or "".
        known: Alerts of the table and of groups.
        identify: Adds what the pipeline adds to an alert.
        routing: Decides where alerts go.
        muting: Decides what keeps them back.
        groups: Where they wait.
        posted: Id -> posted silence.
        now: Unix seconds.
    """
    by_name = {each.alert.fingerprint: each for each in known}
    found = [
        by_name[each]
        for each in sorted(by_name)
        if (each == name if name else all(one.matches(by_name[each].alert.labels) for one in wanted))
    ]
    if not found and wanted and all(each.is_equal and not each.is_regex for each in wanted):
        alert = Alert(status=FIRING, labels={each.name: each.value for each in wanted})
        found = [track(identify(alert), received=now)]
    return [
        explain(
            each,
            routing=routing,
            muting=muting,
            groups=groups,
            name_of=lambda one: by_name[one].alert.labels if one in by_name else {},
            posted=lambda id: _said(posted(id)),
            now=now,
        )
        | {"known": each.alert.fingerprint in by_name}
        for each in found[:MOST]
    ]


def _said(silence: PostedSilence | None) -> dict[str, str]:
    if silence is None:
        return {}
    return {
        "endsAt": rfc3339(silence.ends_at),
        "createdBy": silence.created_by,
        "comment": silence.comment,
    }


def explain(
    tracked: Tracked,
    *,
    routing: Routing,
    muting: Muting,
    groups: Groups,
    name_of: Callable[[str], dict[str, str]],
    posted: Callable[[str], dict[str, str]],
    now: float,
) -> dict[str, Any]:
    """Return the state of an alert and the reasons, as JSON values; times are RFC 3339 or None.

    Args:
        tracked: The alert.
        routing: Decides where it goes.
        muting: Decides what keeps it back.
        groups: Where it waits.
        name_of: Fingerprint -> labels of an alert that inhibits; {} when it is not known.
        posted: Id -> what is to be said of a posted silence.
        now: Unix seconds.
    """
    alert = tracked.alert
    verdict = routing.decide(alert.labels)
    targets = [
        _taken(tracked, way, muting.keeps_back(alert.labels, alert.fingerprint, way.owner), groups, now)
        for way in verdict.ways
    ]
    kept = [target["keptBack"] for target in targets if target["keptBack"]]
    return {
        "fingerprint": alert.fingerprint,
        "labels": alert.labels,
        "annotations": alert.annotations,
        "status": "resolved" if tracked.over(now) else "firing",
        "startsAt": alert.starts_at,
        "endsAt": _moment(tracked.ends),
        "endAssumed": tracked.assumed,
        "receivedAt": _moment(tracked.updated),
        "upstreamGroup": alert.upstream,
        "targets": targets,
        "refused": [
            {"receiver": target.receiver, "block": target.block, "why": why}
            for target, why in verdict.refused
        ],
        "silences": {id: posted(id) for each in kept for id in each["posted"]},
        "inhibitors": {
            each["inhibitedBy"]: name_of(each["inhibitedBy"]) for each in kept if each["inhibitedBy"]
        },
    }


def _taken(tracked: Tracked, way: Way, kept: KeptBack, groups: Groups, now: float) -> dict[str, Any]:
    found: dict[str, Any] = {
        "receiver": way.target.receiver,
        "block": way.target.block,
        "router": way.router,
        "keptBack": _kept(kept),
        "group": None,
        "next": "",
        "nextAt": None,
    }
    place = way.place if way.place is not None and not tracked.alert.upstream else None
    if place is None:
        if not kept:
            found["next"] = "sent as it comes; next when it is received again"
        elif groups.has(way.hold, tracked):
            found["next"] = "held; sent once when nothing keeps it back, if it still fires"
        else:
            found["next"] = "would be held until nothing keeps it back"
        return found
    found["group"], found["next"], found["nextAt"] = _grouped(tracked, place, kept, groups, now)
    return found


def _grouped(
    tracked: Tracked, place: Place, kept: KeptBack, groups: Groups, now: float
) -> tuple[dict[str, Any], str, str | None]:
    labels = labels_of(place, tracked.alert)
    key, group, last = groups.find(place, tracked.alert)
    name = tracked.alert.fingerprint
    told = last is not None and name in last.firing
    shown = {
        "key": key,
        "labels": labels,
        "timing": {**asdict(place.timing), "group_by": list(place.timing.group_by)},
        "alerts": len(group.members) if group is not None else 0,
        "nextLook": _moment(group.next_flush) if group is not None else None,
        "lastTold": _moment(last.at) if last is not None else None,
        "told": told,
    }
    if group is None:
        return shown, "would begin a group, which is told of after its wait", None
    if name not in group.members:
        return shown, "would join its group, told at the next look", _moment(group.next_flush)
    if tracked.over(now):
        if told and place.timing.send_resolved:
            return shown, "told to be over at the next look", _moment(group.next_flush)
        return shown, "over; nobody has to be told", None
    if kept:
        return shown, "told at the first look at which nothing keeps it back", None
    if not told or last is None:
        return shown, "told at the next look", _moment(group.next_flush)
    return (
        shown,
        "repeated, unless there is news of its group before",
        _moment(repeat_at(group.next_flush, last, place.timing)),
    )


def repeat_at(next_flush: float, last: Sent, timing: Timing) -> float:
    """Return the look at which a group repeats when nothing changes, Unix seconds."""
    due = last.at + timing.repeat_interval_s
    looks = math.floor((due - next_flush) / timing.group_interval_s) + 1 if due >= next_flush else 0
    return next_flush + looks * timing.group_interval_s


def _kept(kept: KeptBack) -> dict[str, Any] | None:
    if not kept:
        return None
    return {
        "silences": list(kept.silences),
        "posted": list(kept.posted),
        "inhibitedBy": kept.inhibited_by,
    }


def _moment(seconds: float) -> str:
    return rfc3339(datetime.fromtimestamp(seconds, UTC), fraction=True)
