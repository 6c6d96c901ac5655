"""`pelton dapr run` and `pelton daprd`: an app beside its runtime, as Dapr's own commands have it.

With a platform running, the app joins its runtime, which all apps share (`dapr_join.py`); without one
the runtime is in this process (`dapr_alone.py`), and others find its app by a file (`dapr_peers.py`).
`dapr_app.py` keeps the program. What is printed is what scripts look for.
Source: contracts, Dapr HTTP, sections 5 to 7.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from pelton.cli import cyclic_gc
from pelton.cli.dapr_app import AppProcess
from pelton.cli.dapr_flags import DAPRD, RUN, Parsed, help_text, parse
from pelton.cli.dapr_settings import Served
from pelton.errors import UsageError

__all__ = ["dapr_run", "daprd"]

_INFO: Final = "\u2139\ufe0f "
_DONE: Final = "✅ "
_FAIL: Final = "❌ "


def dapr_run(arguments: Sequence[str]) -> int:
    """Run an app with a runtime beside it until one of them ends; returns the exit code."""
    parsed = parse(arguments, RUN, command=True)
    if parsed.help:
        print(help_text("pelton dapr run [flags] -- COMMAND", RUN))
        return 0
    if parsed.unknown:
        raise UsageError(f"flag {parsed.unknown[0]} is not known", hint="See `pelton dapr run --help`.")
    if "run-file" in parsed.given:
        raise UsageError(
            "--run-file is not served", hint="Start each app by a `pelton dapr run` of its own; they meet."
        )
    if not parsed.values["app-id"]:
        parsed.values["app-id"] = _made_up()
    _check(parsed)
    return _loop(_run(parsed))


def daprd(arguments: Sequence[str]) -> int:
    """Serve one app until SIGTERM; returns the exit code."""
    parsed = parse(arguments, DAPRD, command=False)
    if parsed.help:
        print(help_text("pelton daprd --app-id ID [flags]", DAPRD))
        return 0
    if parsed.values["version"] or parsed.values["build-info"]:
        from pelton import __version__

        print(__version__)
        return 0
    if not parsed.values["app-id"]:
        raise UsageError("app-id is missing", hint="Say --app-id.")
    _check(parsed)
    return _loop(_daprd(parsed))


def _check(parsed: Parsed) -> None:
    values = parsed.values
    if values["app-protocol"] not in ("http", "grpc", "h2c"):
        hint = "One of: http, grpc, h2c."
        if values["app-protocol"] in ("https", "grpcs"):
            hint += " Apps on this machine are called without TLS."
        raise UsageError(f"--app-protocol {values['app-protocol']!r} is not served", hint=hint)
    if any(char in values["app-id"] for char in "./ "):
        raise UsageError(f"the app id {values['app-id']!r} has a dot, a slash or a blank in it")
    folders = (*values["resources-path"], *values["components-path"])
    for folder in folders:
        if not Path(folder).exists():
            raise UsageError(f"there is no directory {folder}", hint="See --resources-path.")


def _loop(work: Any) -> int:
    import uvloop

    code: int = uvloop.run(work)
    return code


# -- dapr run ------------------------------------------------------------------------------------------------


async def _run(parsed: Parsed) -> int:
    # gRPC's handlers for forks would say on standard error that they are skipped; this process only spawns.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    app_id = parsed.values["app-id"]
    stop = _signals()
    failed = False
    _say(f"{_INFO} Starting Dapr with id {app_id}.")
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(_served(parsed))
        _say(f"{_INFO} HTTP Port: {served.http}. gRPC Port: {served.grpc}{served.place}")
        program: AppProcess | None = None
        waiting: dict[str, asyncio.Task[Any]] = {
            "signal": asyncio.create_task(stop.wait()),
            "runtime": asyncio.create_task(served.ended()),
        }
        if parsed.command:
            program = AppProcess(
                parsed.command, env=_environment(parsed, served, os.environ), prefix="== APP == "
            )
            await program.start()
            stack.push_async_callback(program.stop)
            _say(f"{_INFO} Updating metadata for appPID: {program.pid}")
            waiting["app"] = asyncio.create_task(program.wait())
        both = "both Dapr and your app logs will appear here." if program else "Dapr logs will appear here."
        _say(f"{_DONE} You're up and running! {both[0].upper()}{both[1:]}")
        await asyncio.wait(waiting.values(), return_when=asyncio.FIRST_COMPLETED)
        if waiting["signal"].done():
            _say(f"{_INFO} terminated signal received: shutting down")
        elif waiting["runtime"].done():
            reason = waiting["runtime"].result()
            failed = bool(reason)
            _say(
                f"{_FAIL} The runtime has ended: {reason}"
                if failed
                else f"{_INFO} Shutdown requested via API"
            )
        else:
            code = waiting["app"].result()
            failed = code != 0
            how = f"exit status {code}" if code >= 0 else f"signal: {signal.Signals(-code).name}"
            _say(
                f"{_FAIL} The App process exited with error code: {how}"
                if failed
                else f"{_DONE} Exited App successfully"
            )
        ended = "app" in waiting and waiting["app"].done()
        for task in waiting.values():
            task.cancel()
        await asyncio.gather(*waiting.values(), return_exceptions=True)
        if program is not None and not ended:
            await program.stop()
            _say(f"{_DONE} Exited App successfully")
    _say(f"{_DONE} Exited Dapr successfully")
    return 1 if failed else 0


async def _daprd(parsed: Parsed) -> int:
    from pelton import log

    began = time.monotonic()
    values = parsed.values
    level = {"debug": "DEBUG", "warn": "WARNING", "error": "ERROR", "fatal": "CRITICAL"}
    log.setup("daprd", level.get(values["log-level"].lower(), "INFO"))
    logger = log.get("daprd")
    for flag in parsed.unknown:
        logger.warning("flag %s is not known and has no effect", flag)
    stop, again = _signals(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, again.set)
    while True:
        served = await _serve_until(parsed, stop, again, began)
        if not again.is_set() or stop.is_set():
            break
        again.clear()
        began = time.monotonic()
        logger.info("SIGHUP: beginning anew with what the files say now")
    if served.overdue():
        logger.error("Graceful shutdown timeout exceeded, forcing shutdown")
        return 1
    logger.info("Daprd shutdown gracefully")
    return 0


async def _serve_until(parsed: Parsed, stop: asyncio.Event, again: asyncio.Event, began: float) -> Served:
    """Serve an app until it is over, or to begin anew: `again` is set then, and the ports are the same."""
    from pelton import log

    logger, values = log.get("daprd"), parsed.values
    async with _served(parsed) as served:
        waiting = {
            "signal": asyncio.create_task(stop.wait()),
            "again": asyncio.create_task(again.wait()),
            "runtime": asyncio.create_task(served.ended()),
            "ready": asyncio.create_task(served.ready()),
        }
        logger.info(
            "application %s: HTTP at %s:%d, gRPC at %s:%d",
            values["app-id"], served.host, served.http, served.host, served.grpc,
        )  # fmt: skip
        ending = [task for name, task in waiting.items() if name != "ready"]
        await asyncio.wait(waiting.values(), return_when=asyncio.FIRST_COMPLETED)
        if not any(task.done() for task in ending):
            took = (time.monotonic() - began) * 1000
            logger.info("dapr initialized. Status: Running. Init Elapsed %.0fms", took)
            await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
        if waiting["runtime"].done():
            again.clear()
            logger.info("Shutdown requested via API")
        elif waiting["signal"].done() and values["dapr-block-shutdown-duration"]:
            await asyncio.sleep(values["dapr-block-shutdown-duration"])
        for task in waiting.values():
            task.cancel()
        await asyncio.gather(*waiting.values(), return_exceptions=True)
        values["dapr-http-port"], values["dapr-grpc-port"] = served.http, served.grpc
    return served


# -- the runtime ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def _served(parsed: Parsed) -> AsyncIterator[Served]:
    """Serve the app for as long as the block lasts."""
    async with AsyncExitStack() as stack:
        with cyclic_gc.starting():
            served = await stack.enter_async_context(_runtime(parsed))
        yield served


@asynccontextmanager
async def _runtime(parsed: Parsed) -> AsyncIterator[Served]:
    """Serve the app: by the platform's runtime where there is one, else by one in this process."""
    from pelton.cli.home import Home
    from pelton.errors import NotRunningError

    home = Home()
    try:
        home.endpoints()
    except NotRunningError:
        pass
    else:
        from pelton.cli.dapr_join import joined

        async with joined(home, parsed) as served:
            yield served
        return
    from pelton.cli.dapr_alone import alone

    async with alone(parsed) as served:
        yield served


def _environment(parsed: Parsed, served: Served, given: Mapping[str, str]) -> dict[str, str]:
    """Return the program's environment: ours, and what Dapr tells an app."""
    values = parsed.values
    told = {
        "APP_ID": values["app-id"],
        "DAPR_HTTP_PORT": str(served.http),
        "DAPR_GRPC_PORT": str(served.grpc),
        "DAPR_METRICS_PORT": str(values["metrics-port"]),
        "APP_PROTOCOL": values["app-protocol"],
    }
    if values["app-port"]:
        told["APP_PORT"] = str(values["app-port"])
    return {name: text for name, text in given.items() if name != "GRPC_ENABLE_FORK_SUPPORT"} | told


def _signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _say(text: str) -> None:
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        return


def _made_up() -> str:
    """Return a name like Dapr's made-up ones: two words and a number."""
    first = ("amber", "brisk", "clear", "dusky", "eager", "fleet", "gentle", "hardy")
    second = ("brook", "cascade", "delta", "eddy", "falls", "rapid", "spring", "wheel")
    number = random.randrange(10_000)  # noqa: S311 -- a name, no secret
    return f"{random.choice(first)}-{random.choice(second)}-{number}"  # noqa: S311 -- as above
