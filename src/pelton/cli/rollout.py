"""`pelton rollout`: how far a new revision has come, and what is to become of it.

What a command asks for is an annotation (`plan/rollout.py`) that the reconciler takes in; the answer is the
Function's status.
"""

from __future__ import annotations

import json
import time
from typing import Any

from pelton.cli.client import Client
from pelton.cli.home import Home
from pelton.errors import PeltonError, UsageError
from pelton.manifest import kinds
from pelton.plan.rollout import ACTION, Rollout

__all__ = ["VERBS", "act", "action_text", "status"]

VERBS = ("pause", "resume", "abort", "restart")
_ANSWER_S = 15.0


def status(home: Home, name: str, namespace: str, *, watch: bool, output: str) -> int:
    """Print how far a rollout has come; 1 when it was aborted."""
    kind = kinds.by_resource("functions")
    with Client(home) as client:
        function = client.get(kind, namespace, name)
        _print(function, output)
        if watch and _active(function):
            shown = _line(function)
            for _, seen in client.follow(kind, namespace, name=name):
                if _line(seen) != shown:
                    shown, function = _line(seen), seen
                    _print(function, output)
                if not _active(seen):
                    break
    found = Rollout.from_status(function.get("status") or {})
    return 1 if found is not None and found.state == "Aborted" else 0


def act(home: Home, name: str, namespace: str, verb: str) -> int:
    """Ask for something and wait until it is so."""
    kind = kinds.by_resource("functions")
    with Client(home) as client:
        function = client.get(kind, namespace, name)
        before = Rollout.from_status(function.get("status") or {})
        text = action_text(before, verb, where=f"function {namespace}/{name}")
        patch = {"metadata": {"annotations": {ACTION: text}}}
        client.merge_patch(kind, namespace, name, patch)
        deadline = time.monotonic() + _ANSWER_S
        for _, seen in client.watch(kind, namespace, name=name, timeout_s=int(_ANSWER_S)):
            now = Rollout.from_status(seen.get("status") or {})
            if now is not None and before is not None and _changed(before, now):
                _print(seen, "table")
                return 0
            if time.monotonic() > deadline:
                break
    raise PeltonError(
        f"the rollout did not {verb} within {_ANSWER_S:g} s",
        where=f"function {namespace}/{name}",
        hint=f"see: pelton describe function {name} -n {namespace}",
    )


def action_text(rollout: Rollout | None, verb: str, *, where: str) -> str:
    """Return the annotation that asks for something.

    Raises:
        UsageError: There is nothing to which it could apply.
    """
    if rollout is None:
        raise UsageError(
            "nothing is rolled out", where=where, hint="steps come with the annotation pelton.dev/rollout"
        )
    step = f"{rollout.revision} {rollout.step}"
    if verb == "restart" and rollout.state == "Aborted":
        return f"restart {rollout.revision} {rollout.since}"
    if verb == "abort" and rollout.active:
        return f"abort {rollout.revision}"
    if verb == "pause" and rollout.state == "Progressing":
        return f"pause {step}"
    if verb == "resume" and rollout.state == "Paused":
        return f"resume {step}"
    wanted = {
        "restart": "Aborted",
        "abort": "Progressing or Paused",
        "pause": "Progressing",
        "resume": "Paused",
    }
    raise UsageError(
        f"the rollout of {rollout.revision} is {rollout.state}; {verb} is for one that is {wanted[verb]}",
        where=where,
        hint="see: pelton rollout status",
    )


def _changed(before: Rollout, now: Rollout) -> bool:
    return (before.state, before.step, before.revision) != (now.state, now.step, now.revision)


def _active(function: dict[str, Any]) -> bool:
    found = Rollout.from_status(function.get("status") or {})
    return found is not None and found.active


def _line(function: dict[str, Any]) -> str:
    metadata = function["metadata"]
    found = Rollout.from_status(function.get("status") or {})
    head = f"function {metadata['namespace']}/{metadata['name']}: "
    if found is None:
        return head + "nothing is rolled out"
    if found.state == "Aborted":
        return f"{head}Aborted, {found.stable} has all traffic: {found.message}"
    if found.state == "Completed":
        return f"{head}Completed, {found.revision} has all traffic"
    return (
        f"{head}{found.state}, {found.weight}% to {found.revision}, {100 - found.weight}% to {found.stable}, "
        f"step {found.step + 1} of {len(found.steps)}: {', '.join(map(str, found.steps))}"
    )


def _print(function: dict[str, Any], output: str) -> None:
    if output == "json":
        print(json.dumps((function.get("status") or {}).get("rollout") or {}), flush=True)
    else:
        print(_line(function), flush=True)
