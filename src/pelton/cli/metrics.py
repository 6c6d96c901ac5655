"""`/metrics`: gathers what the parts say of themselves for `controlplane/metrics.py`.

Called by the API server that `cli/control_plane.py` wires; asks node and runtime through `cli/up.py`, Envoy
through its admin socket, the kernel through `/proc`. A part that does not answer leaves a gap, no error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pelton import __version__
from pelton.apiserver.store import ObjectStore
from pelton.targets.local.envoy import gateway_stats

__all__ = ["text"]


async def text(
    observe: Callable[[], Awaitable[dict[str, Any]]], store: ObjectStore, *, admin_socket: str
) -> bytes:
    """Return all metrics in Prometheus' text form.

    Args:
        observe: Returns `parts`, `node` and `runtime`, as `pelton status` has them.
        store: Whose objects are counted.
        admin_socket: Envoy's.
    """
    # Imported with the first scrape: the library costs a tenth of a second, and most platforms need none.
    from pelton.controlplane.metrics import Facts, render, usage_of

    found = await observe()
    workers = [i["pid"] for f in found["node"].get("functions", ()) for i in f["instances"]]
    pids = {part["pid"] for part in found["parts"]}.union(workers) - {0}
    usage = {pid: used for pid in pids if (used := usage_of(pid)) is not None}
    return render(
        Facts(
            parts=tuple(found["parts"]),
            node=found["node"],
            runtime=found["runtime"],
            gateway=await gateway_stats(admin_socket),
            objects=store.counts(),
            usage=usage,
            version=__version__,
        )
    )
