"""Removes bundles and environments that no revision needs any more.

`cli/control_plane.py` calls `Collector.sweep` with what is needed, after revisions were dropped. Nothing goes
at once: instances of a dropped revision may still finish their requests, and `pelton run` uses environments
of the same home without telling anybody.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Collection
from pathlib import Path
from uuid import uuid4

from pelton import log
from pelton.clock import Clock

__all__ = ["BUNDLE_GRACE_S", "ENVIRONMENT_GRACE_S", "Collector"]

BUNDLE_GRACE_S = 600.0
"""Seconds that a bundle stays after it was first seen unneeded; draining instances have ended by then."""
ENVIRONMENT_GRACE_S = 7 * 24 * 3600.0
"""Seconds that an unneeded environment stays after its last use (`builders/environment.py` notes uses)."""
_log = log.get(__name__)


class Collector:
    """Knows since when what is unneeded.

    Args:
        bundles_dir: Where bundles live.
        environments_dir: Where environments live.
        clock: Time.
    """

    def __init__(self, bundles_dir: Path, environments_dir: Path, clock: Clock) -> None:
        self._bundles = bundles_dir
        self._environments = environments_dir
        self._clock = clock
        self._since: dict[Path, float] = {}

    @property
    def waiting_for_bundles(self) -> bool:
        """Whether an unneeded bundle was seen that goes soon; environments wait for a later occasion."""
        return any(place.parent == self._bundles for place in self._since)

    async def sweep(self, needed: Collection[str]) -> list[Path]:
        """Remove what has been unneeded for long enough; returns what was removed.

        What goes is renamed before anything is awaited, so that nobody finds half of it.

        Args:
            needed: Absolute paths that revisions refer to, inside or equal to what is to stay.
        """
        now = self._clock.monotonic()
        unneeded = {*_places(self._bundles), *_places(self._environments)}
        for path in needed:
            unneeded.difference_update((Path(path), *Path(path).parents))
        self._since = {place: self._since.get(place, now) for place in unneeded}
        due = [place for place, since in self._since.items() if self._is_due(place, now - since)]
        gone: list[Path] = []
        for place in due:
            trash = place.with_name(f".gone-{uuid4().hex[:12]}")
            try:
                place.rename(trash)
            except OSError as error:
                _log.warning("%s cannot be removed: %s", place, error)
                continue
            del self._since[place]
            gone.append(place)
        left = [trash for root in (self._bundles, self._environments) for trash in root.glob(".gone-*")]
        for trash in left:  # also what a restart kept from being removed
            await asyncio.to_thread(shutil.rmtree, trash, ignore_errors=True)
        for place in gone:
            _log.info("%s was removed: no revision needs it", place)
        return gone

    def _is_due(self, place: Path, unneeded_s: float) -> bool:
        if unneeded_s < BUNDLE_GRACE_S:
            return False
        if place.parent == self._bundles:
            return True
        try:
            used_s = self._clock.now().timestamp() - place.stat().st_mtime
        except OSError:
            return False
        return used_s >= ENVIRONMENT_GRACE_S


def _places(root: Path) -> list[Path]:
    """Return the directories of a folder that are finished; those that are being made begin with a dot."""
    if not root.is_dir():
        return []
    return [place for place in root.iterdir() if not place.name.startswith(".") and place.is_dir()]
