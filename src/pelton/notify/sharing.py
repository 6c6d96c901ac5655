"""What becomes of the alerts of a batch: sent as they come, put into groups, held back, wanted by nobody.

Pure: `notify/pipeline.py` calls `share_out` and carries out what it returns. Source: contracts, log and
notification, 6.2 to 6.5 and 10.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pelton.notify.alert import FIRING, Alert
from pelton.notify.alert_table import Tracked, shown
from pelton.notify.groups import Place
from pelton.notify.inhibition import Inhibition
from pelton.notify.muting import Muting
from pelton.notify.routing import Routing

__all__ = ["Shares", "share_out"]


@dataclass(slots=True)
class Shares:
    """The outcome for a batch.

    Attributes:
        direct: (receiver, block) -> alerts that are sent now.
        placed: Alerts and the groups' places that they go to, in order; held ones among them.
        released: Alerts that are held no longer.
        keep: Alerts to remember for themselves, since they keep others back.
        kept_back: Alerts that something keeps back from every target at present.
        unwanted: Alerts that no receiver wants.
    """

    direct: dict[tuple[str, str], list[Alert]] = field(default_factory=dict)
    placed: list[tuple[Place, Tracked]] = field(default_factory=list)
    released: list[tuple[Place, Tracked]] = field(default_factory=list)
    keep: list[Tracked] = field(default_factory=list)
    kept_back: int = 0
    unwanted: int = 0


def share_out(
    alerts: Sequence[Tracked],
    *,
    routing: Routing,
    inhibition: Inhibition,
    muting: Callable[[], Muting],
    held: Callable[[Place, Tracked], bool],
    now: float,
) -> Shares:
    """Decide for each alert of a batch.

    Args:
        alerts: In the order of the intake.
        routing: Where alerts go.
        inhibition: Is shown every alert before any is decided on.
        muting: Returns what keeps alerts back; asked after that.
        held: Whether an alert is held at a place.
        now: Unix seconds.
    """
    shares = Shares()
    shares.keep.extend(tracked for tracked in alerts if inhibition.note(tracked))
    snapshot = muting()
    for tracked in alerts:
        labels = tracked.alert.labels
        ways = routing.decide(labels).ways
        if not ways:
            shares.unwanted += 1
            continue
        passed = False
        direct: Alert | None = None
        for way in ways:
            if way.place is not None and not tracked.alert.upstream:
                # Whether something keeps it back is asked when the group is looked at.
                shares.placed.append((way.place, tracked))
                passed = passed or not snapshot.keeps_back(labels, tracked.alert.fingerprint, way.owner)
                continue
            if snapshot.keeps_back(labels, tracked.alert.fingerprint, way.owner):
                if not tracked.over(now):
                    shares.placed.append((way.hold, tracked))
                elif held(way.hold, tracked):
                    shares.released.append((way.hold, tracked))  # nobody was told that it fired
                continue
            waiting = held(way.hold, tracked)
            if waiting:
                shares.released.append((way.hold, tracked))
            direct = direct or shown(tracked, now)
            passed = True
            if waiting and direct.status != FIRING:
                continue
            shares.direct.setdefault((way.target.receiver, way.target.block), []).append(direct)
        shares.kept_back += not passed
    return shares
