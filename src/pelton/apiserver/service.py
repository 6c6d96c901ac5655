"""The API as a whole: registry, pipeline, application, and the controllers that belong to an API server.

`cli/control_plane.py` and `pelton.testing` enter it around a store that is open. What it runs beside the
application: the controller of definitions, garbage collection, the emptying of deleted namespaces, the
expiry of events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self

from starlette.applications import Starlette

from pelton.apiserver import crds, webhooks
from pelton.apiserver.builtin import core, events, namespaces, pods, reviews, table
from pelton.apiserver.builtin.core import Issue
from pelton.apiserver.builtin.pods import ReadLog
from pelton.apiserver.collector import Collector
from pelton.apiserver.crd_controller import Definitions
from pelton.apiserver.pipeline import Writer
from pelton.apiserver.registry import Registry, Row
from pelton.apiserver.rest import create_app
from pelton.apiserver.store import ObjectStore
from pelton.apiserver.tokens import Authenticate
from pelton.clock import Clock

__all__ = ["ApiService"]


class ApiService:
    """Serves objects of a store. An async context manager; leaving it ends the controllers.

    Args:
        store: Open; closed by the caller.
        rows: Kinds besides the built-in ones.
        authenticate: Bearer token -> user.
        version: Version of Pelton, for `/version`.
        log: For failures that are ours.
        clock: Time.
        metrics: Returns the text of `/metrics`; without it there is none.
        issue: Makes tokens of ServiceAccounts; without it they have none.
        read_log: Reads logs of Pods; without it they have none.
    """

    def __init__(
        self,
        store: ObjectStore,
        rows: Iterable[Row] = (),
        *,
        authenticate: Authenticate,
        version: str,
        log: logging.Logger,
        clock: Clock,
        metrics: Callable[[], Awaitable[bytes]] | None = None,
        issue: Issue | None = None,
        read_log: ReadLog | None = None,
    ) -> None:
        own = [*table.ROWS, *reviews.rows(lambda: self.registry), crds.ROW, *webhooks.ROWS, *rows]
        self.registry = Registry(own)
        if issue is not None:
            self.registry.add([core.with_tokens(core.SERVICE_ACCOUNT, store, issue)])
        if read_log is not None:
            self.registry.add([pods.with_log(pods.POD, store, read_log)])
        self._caller = webhooks.Caller(store)
        admission = webhooks.Webhooks(store, self.registry, self._caller, log)
        self.writer = Writer(store, self.registry, admission, clock)
        self._definitions = Definitions(store, self.registry, self.writer, self._caller, clock, log)
        self.app: Starlette = create_app(
            store,
            self.registry,
            self.writer,
            authenticate=authenticate,
            version=version,
            log=log,
            clock=clock,
            metrics=metrics,
        )
        self._store = store
        self._clock = clock
        self._log = log
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        store = self._store
        await namespaces.ensure(store, [*namespaces.ALWAYS, *sorted(store.namespaces())])
        rest = (self._store, self.registry, self.writer, self._clock, self._log)
        await self._definitions.reconcile()  # what was defined before is served from the first request on
        self._tasks = [
            asyncio.create_task(self._definitions.run(), name="definitions"),
            asyncio.create_task(Collector(*rest).run(), name="collector"),
            asyncio.create_task(namespaces.Terminator(*rest).run(), name="namespaces"),
            asyncio.create_task(events.Expiry(store, self._clock).run(), name="events"),
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._caller.__aexit__(kind, error, traceback)
