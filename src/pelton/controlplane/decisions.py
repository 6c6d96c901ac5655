"""The record of scaling: every change of a function's number of instances, and the decision behind it.

The node (`cli/node.py`) notes changes as they happen, `controlplane/trigger_targets.py` those of Deployments
and StatefulSets; `pelton why scale` (`cli/why_scale.py`) reads them, also when no platform runs. One JSON
line per change, one file per function, rotated once, so that a function keeps its last thousand changes or so
whatever its neighbours do. A disk that takes no more costs records, never a decision.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pelton.autoscale.decision import Decision
from pelton.clock import rfc3339
from pelton.log import get

__all__ = ["DecisionLog", "in_effect", "read_changes", "target_key"]

LIMIT_BYTES: Final = 256 * 1024
"""Size from which a file makes room for the next one; one older file is kept."""
_log = get(__name__)


class DecisionLog:
    """Writes the changes of all functions.

    Args:
        directory: Holds `<namespace>/<name>.jsonl`; made when it is needed.
        now: The time of day.
    """

    def __init__(self, directory: Path, now: Callable[[], datetime]) -> None:
        self._directory = directory
        self._now = now
        self._last: dict[str, int] = {}  # key -> number in effect
        self.dropped = 0

    def note(self, key: str, decision: Decision, inputs: Mapping[str, int]) -> bool:
        """Keep a decision if it changes the number of a function; return whether it did.

        Args:
            key: `namespace/name`, with `:revision` for one that serves beside the first.
            decision: What was decided.
            inputs: What was seen, name -> count; `instances` says that a wake was quicker than this decision.
        """
        before = self._last.get(key)
        if before is None:
            before = self._known(key)
        self._last[key] = decision.desired
        if before == decision.desired:
            return False
        if before == 0 and inputs.get("instances", 0) > 0:
            decision = replace(decision, steps=(("woken",), *decision.steps))
        moment = self._now()
        record = {
            "time": rfc3339(moment, fraction=True),
            "at": moment.timestamp(),
            "key": key,
            "from": before,
            "to": decision.desired,
            "inputs": dict(inputs),
            "decision": decision.to_dict(),
        }
        self._append(_path(self._directory, key), json.dumps(record, separators=(",", ":")) + "\n")
        return True

    def _known(self, key: str) -> int:
        """Return the number that an earlier run left in effect; 0 for a function without a record."""
        for record in _backwards(_path(self._directory, key)):
            if record["key"] == key:
                return int(record["to"])
        return 0

    def _append(self, path: Path, line: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with path.open("a", encoding="utf-8") as file:
                size = file.tell()
                file.write(line)
            if size > LIMIT_BYTES:
                path.replace(_older(path))
        except OSError as exc:
            if not self.dropped:
                _log.warning("changes of scaling are not recorded: %s", exc)
            self.dropped += 1

    def rename(self, keys: Mapping[str, str]) -> None:
        """Let numbers follow their revisions to other keys: old key -> new key; all move at once."""
        moved = {new: self._last.pop(old) for old, new in keys.items() if old in self._last}
        self._last.update(moved)

    def forget(self, key: str) -> None:
        """Drop all of a function that is gone."""
        name = key.partition(":")[0]
        for known in [known for known in self._last if known.partition(":")[0] == name]:
            del self._last[known]
        path = _path(self._directory, key)
        for file in (path, _older(path)):
            file.unlink(missing_ok=True)


def target_key(kind: str, target: str) -> str:
    """Return under which key changes of another target's number are recorded: `default/deployment.web`.

    Args:
        kind: Of the target.
        target: `namespace/name`.
    """
    namespace, _, name = target.partition("/")
    return f"{namespace}/{kind.lower()}.{name}"


def read_changes(directory: Path, key: str) -> list[dict[str, Any]]:
    """Return all recorded changes of a function, oldest first; empty when there are none.

    Args:
        directory: As given to DecisionLog.
        key: `namespace/name`; changes of all its revisions are returned.
    """
    return list(_backwards(_path(directory, key)))[::-1]


def in_effect(changes: list[dict[str, Any]], moment: datetime) -> dict[str, Any] | None:
    """Return the change that was in effect at a moment, or None when it is older than all of them."""
    when = moment.timestamp()
    return next((change for change in reversed(changes) if change["at"] <= when), None)


def _path(directory: Path, key: str) -> Path:
    namespace, _, name = key.partition(":")[0].partition("/")
    return directory / namespace / f"{name}.jsonl"


def _older(path: Path) -> Path:
    return path.with_suffix(".1.jsonl")


def _backwards(path: Path) -> Iterator[dict[str, Any]]:
    """Yield records, newest first; a line that a crash cut off is left out."""
    for file in (path, _older(path)):
        try:
            lines = file.read_bytes().splitlines()
        except OSError:
            continue
        for line in reversed(lines):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and {"at", "key", "from", "to"} <= record.keys():
                yield record
