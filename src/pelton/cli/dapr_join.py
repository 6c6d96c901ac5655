"""An app of `pelton dapr run` in the platform's runtime, which all apps share.

The connection to the runtime is the app's: it is served for as long as that lasts, and joins the next runtime
where one dies. Used by `dapr_run.py` where a platform runs.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from pelton.cli.dapr_flags import Parsed
from pelton.cli.dapr_settings import AppSettings, Served, settings_of
from pelton.cli.home import Home
from pelton.clock import SystemClock
from pelton.dataplane import wire
from pelton.errors import NotRunningError, PeltonError
from pelton.log import get

__all__ = ["joined"]

_JOIN_S: Final = 30.0
_AGAIN_WITHIN_S: Final = 30.0
_PAUSE_S: Final = 0.1
_log = get(__name__)


@asynccontextmanager
async def joined(home: Home, parsed: Parsed) -> AsyncIterator[Served]:
    """Have the platform's runtime serve an app for as long as the block lasts.

    Raises:
        PeltonError: A port is taken, a resource cannot be used, or the app id is somebody else's.
        OSError: The runtime process is not there.
    """
    asked, shut_down = asyncio.Event(), asyncio.Event()

    async def ready(_peer: wire.Peer, _body: Any) -> None:
        asked.set()

    async def requested(_peer: wire.Peer, _body: Any) -> None:
        shut_down.set()

    handlers = {"dapr-ready": ready, "dapr-shutdown": requested}
    path, settings = str(home.run_directory() / "runtime.sock"), settings_of(parsed, os.environ)

    async def join(wanted: AppSettings) -> tuple[wire.Peer, dict[str, Any]]:
        peer = await wire.connect(path, handlers, name="runtime")
        try:
            told: dict[str, Any] = await peer.call("dapr-join", msgspec.to_builtins(wanted), timeout=_JOIN_S)
        except BaseException:
            await peer.close()
            raise
        return peer, told

    peer, found = await join(settings)
    await _tell_what_waits(home, settings)
    # The program has these ports in its environment: a runtime that comes back has to have them again.
    same = msgspec.structs.replace(settings, http=found["http"], grpc=found["grpc"])

    async def until_gone() -> str:
        """Join again whatever runtime the platform has; return when there is no platform any more."""
        nonlocal peer
        while True:
            await peer.closed.wait()
            deadline = time.monotonic() + _AGAIN_WITHIN_S
            while True:
                try:
                    home.endpoints()
                    peer, _ = await join(same)
                    break
                except NotRunningError:
                    return "the platform is gone"
                except (PeltonError, OSError) as exc:
                    if time.monotonic() > deadline:
                        return f"the platform's runtime does not come back: {exc}"
                await asyncio.sleep(_PAUSE_S)

    keeping = asyncio.create_task(until_gone())
    try:

        async def over() -> str:
            shutting = asyncio.create_task(shut_down.wait())
            try:
                await asyncio.wait({keeping, shutting}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                shutting.cancel()
            return "" if shut_down.is_set() else keeping.result()

        yield Served(
            host=found["host"],
            http=found["http"],
            grpc=found["grpc"],
            ready=asked.wait,
            ended=over,
            place=f" (runtime of the platform on {home.path})",
        )
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await peer.close()


async def _tell_what_waits(home: Home, settings: AppSettings) -> None:
    """Say what an earlier run without a platform left, which this runtime does not have."""
    folder = home.dapr_ledger(settings.app.namespace, settings.app.app_id)
    if not folder.exists():
        return
    from pelton.drivers.ledger import SqliteLedger

    try:
        async with SqliteLedger(folder, clock=SystemClock()) as ledger:
            retries, letters = await ledger.counts()
    except PeltonError as exc:
        _log.warning("%s", exc)
        return
    if retries or letters:
        _log.warning(
            "%d retries and %d dead letters of runs without a platform stay in %s: the former go on in the "
            "next such run, `pelton dlq list --app-id %s` shows the latter",
            retries, letters, folder, settings.app.app_id,
        )  # fmt: skip
