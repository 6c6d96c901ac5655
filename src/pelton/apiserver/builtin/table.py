"""The table of built-in kinds; `cli/` gives it to the registry."""

from __future__ import annotations

from pelton.apiserver.builtin import coordination, core, events, namespaces, network, pods, workloads
from pelton.apiserver.registry import Row

__all__ = ["ROWS"]

ROWS: tuple[Row, ...] = (
    namespaces.ROW,
    core.CONFIG_MAP,
    core.SECRET,
    core.SERVICE_ACCOUNT,
    pods.POD,
    network.SERVICE,
    network.ENDPOINT_SLICE,
    events.EVENT,
    events.EVENTS,
    coordination.LEASE,
    workloads.DEPLOYMENT,
    workloads.STATEFUL_SET,
    workloads.JOB,
)
