"""An API server for the tests of operators and controllers: real HTTPS, nothing kept, up in a moment.

    async with ApiServer() as api:          # in this event loop
        client = MyClient(kubeconfig=api.kubeconfig)

    with ApiServer() as api:                # in a thread of its own, for tests that are not async
        subprocess.run(["kubectl", "--kubeconfig", api.kubeconfig, "get", "ns"])

It is the platform's API without the platform: definitions, webhooks, garbage collection and namespaces
work, no function and no Deployment runs. Uses `apiserver/standalone.py` and `testing/memory_store.py`.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import shutil
import socket
import tempfile
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from pelton import __version__
from pelton.apiserver import manifest_kinds
from pelton.apiserver.standalone import Standalone
from pelton.clock import Clock, SystemClock
from pelton.manifest import kinds
from pelton.testing.memory_store import MemoryStore

__all__ = ["ApiServer"]

_START_S = 30.0


class ApiServer:
    """The API server on a free port of 127.0.0.1; a context manager, async or not, usable once.

    Args:
        clock: Time; the machine's when None.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._directory = Path()
        self._server: Standalone | None = None
        self._stack = AsyncExitStack()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    # -- what clients need ---------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where it listens, e.g. `https://127.0.0.1:40123`."""
        return self._entered.url

    @property
    def kubeconfig(self) -> Path:
        """The file for KUBECONFIG, `kubectl --kubeconfig` and client libraries."""
        return self._entered.kubeconfig

    @property
    def token(self) -> str:
        """Bearer token of the administrator."""
        return self._entered.token

    @property
    def ca(self) -> Path:
        """The authority's certificate, PEM; `ca_bundle` has it as webhook configurations want it."""
        return self._entered.certificates.ca

    @property
    def cert(self) -> Path:
        """A certificate for localhost, 127.0.0.1 and ::1 that webhooks may serve with, PEM."""
        return self._entered.certificates.cert

    @property
    def key(self) -> Path:
        """Its key, PEM."""
        return self._entered.certificates.key

    @property
    def ca_bundle(self) -> str:
        """The authority's certificate in base64, for `clientConfig.caBundle`."""
        return base64.b64encode(self.ca.read_bytes()).decode()

    @property
    def _entered(self) -> Standalone:
        if self._server is None:
            raise RuntimeError("the server is not running: use it as a context manager")
        return self._server

    # -- in this event loop --------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="pelton-api-"))
        self._stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
        try:
            store = await self._stack.enter_async_context(MemoryStore(clock=self._clock))
            self._server = await self._stack.enter_async_context(
                Standalone(
                    store,
                    self._directory,
                    socket.create_server(("127.0.0.1", 0)),
                    rows=manifest_kinds.rows(kinds.KINDS),
                    version=__version__,
                    host="127.0.0.1",
                    clock=self._clock,
                    log=logging.getLogger("pelton.apiserver"),
                )
            )
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server = None
        await self._stack.aclose()

    # -- in a thread -----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        started = threading.Event()
        failed: list[BaseException] = []

        async def serve() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            async with self:
                started.set()
                await self._stop.wait()

        def run() -> None:
            try:
                asyncio.run(serve())
            except BaseException as error:  # told to the thread that waits
                failed.append(error)
            finally:
                started.set()

        self._thread = threading.Thread(target=run, name="pelton-api", daemon=True)
        self._thread.start()
        if not started.wait(_START_S):
            raise TimeoutError(f"the API server did not start within {_START_S:g} s")
        if failed:
            raise failed[0]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            self._thread.join(_START_S)
