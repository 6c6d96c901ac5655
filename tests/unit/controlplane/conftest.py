"""One store and one platform in memory, on which reconcilers come and go."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pelton.controlplane.children import SERVINGS
from pelton.controlplane.reconciler import FUNCTIONS, Reconciler
from pelton.plan.history import REVISION
from pelton.testing.clock import FakeClock
from pelton.testing.memory_store import MemoryStore
from pelton.testing.platform import MemoryPlatform


class World:
    """One store and platform; reconcilers come and go, as processes do."""

    def __init__(self, store: MemoryStore, clock: FakeClock) -> None:
        self.store = store
        self.clock = clock
        self.platform = MemoryPlatform()
        self.pruned = 0
        self.reconciler = self.new()

    def new(self) -> Reconciler:
        return Reconciler(
            store=self.store,
            build=self.platform.build,
            check=self.platform.check,
            target=self.platform,
            clock=self.clock,
            gateway=lambda: "http://127.0.0.1:8080",
            pruned=self._count_pruned,
        )

    def _count_pruned(self) -> None:
        self.pruned += 1

    @asynccontextmanager
    async def running(self):
        self.reconciler = self.new()
        task = asyncio.create_task(self.reconciler.run())
        try:
            yield self.reconciler
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def settle(self) -> None:
        """Wait until the watches were read and nothing is due; polled, since a watch has no end."""
        for _ in range(5):
            for _ in range(20):
                await asyncio.sleep(0)
            await asyncio.wait_for(self.reconciler.idle(), 30)

    async def get(self, name: str = "hello") -> dict[str, Any]:
        return await self.store.get(FUNCTIONS, "default", name)

    async def status(self, name: str = "hello") -> dict[str, Any]:
        return (await self.get(name)).get("status") or {}

    async def change(self, name: str = "hello", **spec: Any) -> None:
        obj = await self.get(name)
        obj["spec"] = {**obj["spec"], **spec}
        await self.store.update(FUNCTIONS, obj)

    async def revision_of(self, serving: str) -> str:
        obj = await self.store.get(SERVINGS, "default", serving)
        return str(obj["metadata"]["annotations"][REVISION])

    async def rebuild_with(self, target: str) -> None:
        obj = await self.get()
        obj["spec"]["build"]["env"]["FUNC_NAME"] = target
        await self.store.update(FUNCTIONS, obj)


@pytest.fixture
async def world():
    clock = FakeClock()
    async with MemoryStore(clock=clock) as store:
        yield World(store, clock)
