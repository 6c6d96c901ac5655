"""A runtime's apps of Dapr without the runtime around them; no test here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from pelton.cli.dapr_platform import DaprPlatform
from pelton.clock import SystemClock
from pelton.dataplane.event_traces import NO_TRACES
from pelton.drivers.memory import MemoryBus


def bare(folder: Path, **given: Any) -> DaprPlatform:
    """Return one with its files in a folder, and buses and stores that nobody asks."""

    async def nothing(*_: Any) -> Any:
        return None

    return DaprPlatform(
        run=folder,
        stores=cast(Any, SimpleNamespace()),
        kept=folder / "kept.json",
        kubeconfig=folder / "kubeconfig",
        bus_of=nothing,
        ledger=MemoryBus(),
        clock=SystemClock(),
        traces=NO_TRACES,
        wake=nothing,
        on_pending=lambda *_: None,
        **given,
    )
