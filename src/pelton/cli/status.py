"""`pelton status` and `pelton down`: what runs on this home, and ending it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pelton.cli.client import Client
from pelton.cli.home import Home
from pelton.cli.printing import print_columns
from pelton.dataplane import wire
from pelton.errors import NotRunningError, PeltonError
from pelton.manifest import kinds

__all__ = ["collect", "down", "status", "watch"]


def status(home: Home, *, output: str) -> int:
    """Print parts and functions; 0 when every part runs, 1 else."""
    found = collect(home)
    if output == "json":
        print(json.dumps(found, indent=2))
    else:
        _print(home, found)
    return 0 if all(part["state"] == "running" for part in found["parts"]) else 1


def watch(home: Home, *, interval_s: float) -> int:
    """Show the status again and again, with invocations per second, until Ctrl-C or the platform's end.

    On a terminal one screen is kept up to date; elsewhere a block follows whenever something changed.
    """
    shown = ""
    before: dict[str, int] = {}
    at = time.monotonic()
    with _screen() as show:
        while True:
            try:
                found = collect(home)
            except NotRunningError:
                if not shown:
                    raise
                return 0
            now = time.monotonic()
            counts = {f"{f['namespace']}/{f['name']}": f["invocations"] for f in found["functions"]}
            rates = {
                key: max(0, count - before.get(key, count)) / max(now - at, 1e-3)
                for key, count in counts.items()
            }
            before, at = counts, now
            buffer = io.StringIO()
            with contextlib.redirect_stdout(buffer):
                _print(home, found, rates)
            if buffer.getvalue() != shown:
                shown = buffer.getvalue()
                show(shown)
            time.sleep(interval_s)


@contextlib.contextmanager
def _screen() -> Iterator[Callable[[str], None]]:
    """Yield what shows a text: in place on a terminal, one after the other elsewhere."""
    if not sys.stdout.isatty():
        yield lambda text: print(text, flush=True)
        return
    from rich.live import Live
    from rich.text import Text

    with Live(screen=True, auto_refresh=False) as live:
        yield lambda text: live.update(Text(text), refresh=True)


def collect(home: Home) -> dict[str, Any]:
    """Return what runs.

    Shape: `parts[]{name,pid,state,restarts}`, `isolation`, `interceptor` (URL of its admin port, "" while
    nothing is intercepted), `limits{means,missing,default}` and
    `functions[]{namespace,name,state,revision,...}`.
    """
    home.endpoints()
    answer = asyncio.run(_ask(str(home.run_directory() / "up.sock")))
    observed = {(f["namespace"], f["name"]): f for f in answer["node"].get("functions", ())}
    events: dict[tuple[str, str], int] = {}
    for subscription in answer["runtime"].get("subscriptions", ()):
        key = (subscription["namespace"], subscription["function"])
        events[key] = events.get(key, 0) + subscription["pending"]
    with Client(home) as client:
        objects = client.list(kinds.by_resource("functions"), None)["items"]
    functions = [_function(obj, observed, events) for obj in objects]
    node = answer["node"]
    return {
        "parts": answer["parts"],
        "isolation": node.get("isolation", ""),
        "interceptor": node.get("interceptor", {}).get("admin", ""),
        "limits": node.get("limits", {}),
        "functions": functions,
    }


def _function(
    obj: Mapping[str, Any],
    observed: Mapping[tuple[str, str], Mapping[str, Any]],
    events: Mapping[tuple[str, str], int],
) -> dict[str, Any]:
    metadata, state = obj["metadata"], obj.get("status") or {}
    key = (metadata["namespace"], metadata["name"])
    seen = observed.get(key, {})
    build, serving = state.get("build") or {}, state.get("serving") or {}
    instances = seen.get("instances", ())
    return {
        "namespace": key[0],
        "name": key[1],
        "state": "Failed"
        if build.get("state") == "Failed"
        else serving.get("state") or build.get("state") or "Pending",
        "revision": seen.get("revision", ""),
        "instances": sum(instance["state"] in ("ready", "starting") for instance in instances),
        "desired": seen.get("desired", 0),
        "template": seen.get("template", ""),
        "cold_starts": seen.get("cold_starts", 0),
        "invocations": seen.get("invocations", 0),
        "in_flight": sum(instance["in_flight"] for instance in instances),
        "instance_seconds": round(seen.get("instance_seconds", 0.0), 2),
        "pending_events": events.get(key, 0),
        "isolation": seen.get("isolation", ""),
        "limits": seen.get("limits"),
        "last_terminated": seen.get("last_terminated"),
        "decision": seen.get("decision", ""),
        "revisions": [
            {"revision": one["revision"], "instances": one["instances"], "desired": one["desired"]}
            for one in seen.get("revisions", ())
        ],
        "workers": [
            {
                "id": i["id"],
                "pid": i["pid"],
                "state": i["state"],
                "in_flight": i["in_flight"],
                "mode": i["mode"],
            }
            for i in instances
        ],
    }


async def _ask(path: str) -> dict[str, Any]:
    try:
        peer = await wire.connect(path, name="up")
    except OSError as exc:
        raise NotRunningError(
            f"the platform does not answer: {exc.strerror}", hint="it may be starting or stopping; try again"
        ) from exc
    try:
        answer: dict[str, Any] = await peer.call("status", {}, timeout=10)
    except (TimeoutError, ConnectionError) as exc:
        raise PeltonError(
            "the platform did not answer within 10 s", hint="see its log with `pelton up`"
        ) from exc
    finally:
        await peer.close()
    return answer


def _print(home: Home, found: Mapping[str, Any], rates: Mapping[str, float] | None = None) -> None:
    endpoints = home.endpoints()
    print(f"gateway {endpoints.gateway}   api {endpoints.api}   home {home.path}\n")
    print_columns(
        ("PART", "PID", "STATE", "RESTARTS"),
        [(p["name"], str(p["pid"]), p["state"], str(p["restarts"])) for p in found["parts"]],
    )
    limits = found["limits"]
    missing = f" ({limits['missing']})" if limits.get("missing") else ""
    print(f"\nisolation {found['isolation'] or '-'}\nlimits    {limits.get('means') or '-'}{missing}\n")
    if found["interceptor"]:
        print(f"interceptor {found['interceptor']}/queue\n")
    if not found["functions"]:
        print("no functions yet; next: pelton init hello && pelton deploy hello")
        return
    ended = any(f["last_terminated"] for f in found["functions"])
    print_columns(
        (
            "NAMESPACE",
            "FUNCTION",
            "STATE",
            "REVISION",
            "INSTANCES",
            *(["IN FLIGHT", "PER SECOND"] if rates is not None else []),
            "PENDING",
            "TEMPLATE",
            "COLD STARTS",
            "ISOLATION",
            "LIMITS",
            *(["LAST TERMINATED"] if ended else []),
        ),
        [
            (
                f["namespace"],
                f["name"],
                f["state"],
                f["revision"] or "-",
                str(f["instances"]),
                *(_load(f, rates) if rates is not None else []),
                str(f["pending_events"]),
                f["template"] or "-",
                str(f["cold_starts"]),
                f["isolation"].partition(" ")[0] or "-",
                _limits(f["limits"]),
                *([_terminated(f["last_terminated"])] if ended else []),
            )
            for f in found["functions"]
        ],
    )


def _limits(limits: Mapping[str, Any] | None) -> str:
    """Return limits on one line: memory and processors, the two that matter most."""
    if not limits:
        return "-"
    mebibytes = limits["memory_bytes"] / (1 << 20)
    memory = f"{mebibytes:.4g}Mi" if mebibytes < 1000 else f"{mebibytes / 1024:.3g}Gi"
    return f"{memory}, {limits['cpu']:g} cpu" if limits["cpu"] else memory


def _terminated(last: Mapping[str, Any] | None) -> str:
    return f"{last['reason']} ({last['count']})" if last else "-"


def _load(function: Mapping[str, Any], rates: Mapping[str, float]) -> list[str]:
    rate = rates.get(f"{function['namespace']}/{function['name']}", 0.0)
    return [str(function["in_flight"]), f"{rate:.3g}"]


def down(home: Home, *, timeout_s: float = 10.0) -> int:
    """End the platform; returns when it is gone."""
    pid = home.endpoints().pid
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            print("Pelton is down")
            return 0
        if _is_zombie(pid):
            print("Pelton is down")
            return 0
        time.sleep(0.02)
    raise PeltonError(
        f"pid {pid} did not end within {timeout_s:g} s", hint=f"kill -9 {pid} ends it and all its parts"
    )


def _is_zombie(pid: int) -> bool:
    """A process whose parent has not asked for its status yet is over all the same."""
    from pathlib import Path

    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
