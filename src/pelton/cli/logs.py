"""`pelton logs`: lines of all instances of a function, past and present."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from pelton.cli.home import Home
from pelton.clock import SystemClock
from pelton.drivers.logs import follow_logs, read_logs
from pelton.errors import NotFoundError, UsageError
from pelton.quantity import parse_duration

__all__ = ["logs", "seconds_ago"]


def logs(home: Home, name: str, *, namespace: str, follow: bool, since: str | None) -> int:
    """Print `time instance [invocation] line`, oldest first.

    The lines outlive their instances and the platform; they are read from the home, nothing needs to run.
    """
    begin = seconds_ago(since, "--since") if since else 0.0
    written = any((place / namespace / name).is_dir() for place in (home.logs, home.spool))
    if not written and not follow:
        raise NotFoundError(
            f"no function {namespace}/{name} has written anything on {home.path}",
            hint="its name may be another one: pelton get functions -A",
        )
    if follow:
        if not written:
            print(f"waiting for the first line of {namespace}/{name}", file=sys.stderr)
        asyncio.run(_follow(home, namespace, name, begin))
        return 0
    for record in read_logs(str(home.logs), namespace, name, since=begin):
        _print(record)
    return 0


async def _follow(home: Home, namespace: str, name: str, begin: float) -> None:
    async for record in follow_logs(home.logs, namespace, name, SystemClock(), since=begin):
        _print(record)
        sys.stdout.flush()


def seconds_ago(text: str, flag: str) -> float:
    """Return the epoch seconds that `30s`, `5m`, ... ago means."""
    try:
        return SystemClock().now().timestamp() - parse_duration(text)
    except ValueError as exc:
        raise UsageError(f"{flag} {text!r} is not a duration: {exc}", hint="for example 30s, 5m, 2h") from exc


def _print(record: dict[str, Any]) -> None:
    instance = record.get("kubernetes", {}).get("pod_name", "")
    invocation = record.get("invocation_id")
    label = f"{instance} [{invocation}]" if invocation else instance
    print(f"{record.get('time', '')} {label} {record.get('log', '').rstrip(chr(10))}")
