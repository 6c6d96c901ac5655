"""An app of `pelton dapr run` in the platform's runtime, which all apps share.

The connection to the runtime is the app's: it is served for as long as that lasts. Used by `dapr_run.py`,
where a platform runs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from pelton.cli.dapr_flags import Parsed
from pelton.cli.dapr_settings import Served, settings_of
from pelton.cli.home import Home
from pelton.dataplane import wire

__all__ = ["joined"]

_JOIN_S = 30.0


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

    peer = await wire.connect(
        str(home.run_directory() / "runtime.sock"),
        {"dapr-ready": ready, "dapr-shutdown": requested},
        name="runtime",
    )
    try:
        settings = settings_of(parsed, os.environ)
        found = await peer.call("dapr-join", msgspec.to_builtins(settings), timeout=_JOIN_S)

        async def over() -> str:
            waits = [asyncio.create_task(event.wait()) for event in (peer.closed, shut_down)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waits:
                    task.cancel()
            return "" if shut_down.is_set() else "the platform's runtime is gone"

        yield Served(
            host=found["host"],
            http=found["http"],
            grpc=found["grpc"],
            ready=asked.wait,
            ended=over,
            place=f" (runtime of the platform on {home.path})",
        )
    finally:
        await peer.close()
