"""Silences that were made over Alertmanager's API: a small book, kept in one file.

`notify/alertmanager.py` writes and lists them, `notify/pipeline.py` asks for the active ones per batch. A
change is on the disk before it is confirmed; the file is replaced as a whole, so a kill leaves the old or the
new state. Silence resources are not here: they come from the store (`notify/routing.py`). Source: contracts,
log and notification, 9.5.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from pelton import log
from pelton.errors import OverloadedError, ProtocolError
from pelton.model.matching import Matcher

__all__ = ["KEPT", "PostedSilence", "SilenceBook", "SilenceIndex", "UnknownSilenceError"]

KEPT = timedelta(hours=120)
"""How long an expired silence is still listed, as Alertmanager's default retention."""

_MOST = 10_000
_EVER = datetime.min.replace(tzinfo=UTC)
_NEVER = datetime.max.replace(tzinfo=UTC)
_log = log.get(__name__)


class UnknownSilenceError(LookupError):
    """There is no silence of that id; a KeyError of our own making is not taken for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostedSilence:
    """One silence; all matchers have to match, from `starts_at` (inclusive) to `ends_at` (exclusive)."""

    id: str
    matchers: tuple[Matcher, ...]
    starts_at: datetime
    ends_at: datetime
    updated_at: datetime
    created_by: str
    comment: str

    def state(self, now: datetime) -> str:
        """Return `pending`, `active` or `expired`."""
        if now >= self.ends_at:
            return "expired"
        return "pending" if now < self.starts_at else "active"

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether it keeps an alert with these labels back while it is active."""
        for matcher in self.matchers:  # noqa: SIM110 -- asked for every alert: a generator takes twice as long
            if not matcher.matches(labels):
                return False
        return True


class SilenceIndex:
    """Silences of a moment, so that a question costs little however many there are.

    Args:
        silences: All that are active then.
    """

    def __init__(self, silences: Sequence[PostedSilence] = ()) -> None:
        self._all = tuple(silences)
        # Most silences name a label's value: only those with the alert's value are asked.
        self._by_value: dict[str, dict[str, list[tuple[int, PostedSilence]]]] = {}
        self._others: list[tuple[int, PostedSilence]] = []
        for number, silence in enumerate(self._all):
            exact = next((each for each in silence.matchers if each.value and _exact(each)), None)
            if exact is None:
                self._others.append((number, silence))
            else:
                values = self._by_value.setdefault(exact.name, {})
                values.setdefault(exact.value, []).append((number, silence))

    def __len__(self) -> int:
        return len(self._all)

    def matching(self, labels: Mapping[str, str]) -> list[PostedSilence]:
        """Return those that keep an alert back, in the order in which they were made."""
        found = [each for each in self._others if each[1].matches(labels)]
        for name, values in self._by_value.items():
            if (value := labels.get(name)) is not None:
                found += [each for each in values.get(value, ()) if each[1].matches(labels)]
        return [silence for _, silence in sorted(found, key=lambda each: each[0])] if found else []


_NONE = (SilenceIndex(), _NEVER, _EVER)
"""An index of no moment, and from and until when it counts."""


def _exact(matcher: Matcher) -> bool:
    return matcher.is_equal and not matcher.is_regex


class SilenceBook:
    """All silences of this kind.

    Args:
        path: The file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = asyncio.Lock()
        self._silences: dict[str, PostedSilence] = {}
        self._index = _NONE
        try:
            found = msgspec.json.decode(path.read_bytes(), type=list[PostedSilence])
            self._silences = {silence.id: silence for silence in found}
        except FileNotFoundError:
            pass
        except (msgspec.DecodeError, ProtocolError) as error:
            # Left where it is, so that it can be mended; the first change would overwrite it.
            kept = path.with_suffix(".unreadable")
            path.rename(kept)
            _log.error("silences could not be read, there are none now kept=%s error=%s", kept, error)

    def list(self) -> Sequence[PostedSilence]:
        """Return all, in the order in which they were made."""
        return list(self._silences.values())

    def get(self, id: str) -> PostedSilence | None:
        """Return one, or None."""
        return self._silences.get(id)

    def active(self, now: datetime) -> SilenceIndex:
        """Return those that count at a moment."""
        index, since, until = self._index
        if not since <= now < until:
            silences = self._silences.values()
            edges = [edge for each in silences for edge in (each.starts_at, each.ends_at)]
            since = max((edge for edge in edges if edge <= now), default=_EVER)
            until = min((edge for edge in edges if edge > now), default=_NEVER)
            index = SilenceIndex([each for each in silences if each.state(now) == "active"])
            self._index = (index, since, until)
        return index

    async def put(self, silence: PostedSilence, *, now: datetime, new_id: str) -> str:
        """Make a silence, or change the one of its id; returns the id that it has from now on.

        As in Alertmanager: only the end can change, and the start of one that is pending while it stays in
        the future; else the old one is ended and another made.

        Raises:
            ProtocolError: It would never silence anything, or everything.
            OverloadedError: There are too many.
            UnknownSilenceError: There is none of that id.
        """
        asked_start = silence.starts_at
        silence = replace(silence, starts_at=max(asked_start, now), updated_at=now)
        if not any(not matcher.matches({}) for matcher in silence.matchers):
            raise ProtocolError(
                "At least one matcher must not match an empty value: else everything is silenced."
            )
        if silence.ends_at <= silence.starts_at:
            raise ProtocolError("endsAt must be after startsAt, and in the future.")
        async with self._writing:
            silences = self._kept(now)
            if silence.id:
                old = silences.get(silence.id)
                if old is None:
                    raise UnknownSilenceError(silence.id)
                if _changeable(old, silence, asked_start, now):
                    if old.state(now) == "active":
                        silence = replace(silence, starts_at=old.starts_at)
                else:
                    silences[old.id] = _ended(old, now)
                    silence = replace(silence, id="")
            if not silence.id:
                silence = replace(silence, id=new_id)
            silences[silence.id] = silence
            if len(silences) > _MOST:
                raise OverloadedError(f"There are {_MOST} silences already.")
            await self._write(silences)
        return silence.id

    async def expire(self, id: str, *, now: datetime) -> None:
        """End one; ending an ended one changes nothing.

        Raises:
            UnknownSilenceError: There is none of that id.
        """
        async with self._writing:
            silences = self._kept(now)
            silence = silences.get(id)
            if silence is None:
                raise UnknownSilenceError(id)
            if silence.state(now) == "expired":
                return
            silences[id] = _ended(silence, now)
            await self._write(silences)

    def _kept(self, now: datetime) -> dict[str, PostedSilence]:
        return {id: silence for id, silence in self._silences.items() if now - silence.ends_at < KEPT}

    async def _write(self, silences: dict[str, PostedSilence]) -> None:
        await asyncio.to_thread(_replace, self._path, msgspec.json.encode(list(silences.values())))
        self._silences = silences
        self._index = _NONE


def _changeable(old: PostedSilence, new: PostedSilence, start: datetime, now: datetime) -> bool:
    """Tell whether a silence can become another one and stay itself; `start` is what was asked for."""
    if set(old.matchers) != set(new.matchers):
        return False
    match old.state(now):
        case "active":
            # By whole seconds: not every client keeps what is behind the point.
            return start.replace(microsecond=0) == old.starts_at.replace(microsecond=0)
        case "pending":
            return start >= now
    return False


def _ended(silence: PostedSilence, now: datetime) -> PostedSilence:
    if silence.state(now) == "expired":
        return silence
    return replace(silence, starts_at=min(silence.starts_at, now), ends_at=now, updated_at=now)


def _replace(path: Path, data: bytes) -> None:
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.touch(0o600)
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
