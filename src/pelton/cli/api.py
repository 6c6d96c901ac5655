"""`pelton api`: the API server alone, for operators and controllers that are developed or tested.

Wires `apiserver/standalone.py` with a store in a directory, or in a temporary one that goes away at the end.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import uvloop

from pelton import __version__, log
from pelton.apiserver import manifest_kinds
from pelton.apiserver.standalone import Standalone
from pelton.apiserver.store import SqliteStore
from pelton.cli.ports_owner import claim
from pelton.clock import SystemClock
from pelton.errors import HomeError
from pelton.manifest import kinds

__all__ = ["api"]


def api(address: tuple[str, int], directory: str | None) -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit code.

    Args:
        address: Host and port, 0 for a free one.
        directory: Where objects, kubeconfig and certificates are kept; None keeps nothing.
    """
    log.setup("api", "WARNING" if sys.stderr.isatty() else "INFO")
    path = Path(directory).absolute() if directory else Path(tempfile.mkdtemp(prefix="pelton-api-"))
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HomeError(f"the directory cannot be made: {error.strerror}", where=str(path)) from error
    try:
        return uvloop.run(_serve(address, path))
    finally:
        if not directory:
            shutil.rmtree(path, ignore_errors=True)


async def _serve(address: tuple[str, int], path: Path) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    sock = claim(*address, "--listen")
    clock = SystemClock()
    async with SqliteStore(path / "store.db", clock=clock) as store:
        server = Standalone(
            store,
            path,
            sock,
            rows=manifest_kinds.rows(kinds.KINDS),
            version=__version__,
            host=address[0],
            clock=clock,
            log=log.get("pelton.apiserver"),
        )
        async with server:
            print(f"The API server listens on {server.url}")
            print(f"  kubectl     export KUBECONFIG={server.kubeconfig}")
            print(
                f"  webhooks    may serve with {server.certificates.cert} and tls.key beside it", flush=True
            )
            await stop.wait()
    return 0
