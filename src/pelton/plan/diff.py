"""What has to be done so that what runs becomes what should run.

`controlplane/reconciler` carries the actions out in order. No action means: converged. Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields, replace

from pelton.model.desired import Desired, Workload

__all__ = ["Action", "Apply", "Check", "Remove", "diff"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Load a revision once in a short-lived child before any traffic meets it."""

    workload: Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Make the target run this; `changes` says what differs, for logs, e.g. ("scaling", "route")."""

    desired: Desired
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """Take all of a Function's parts away."""

    namespace: str
    name: str


Action = Check | Apply | Remove

_PARTS = tuple(field.name for field in fields(Desired) if field.name != "partial")


def diff(
    observed: Desired | None, wanted: Desired | None, *, checked: Collection[str] = ()
) -> tuple[Action, ...]:
    """Return the actions in order; empty when nothing differs.

    Args:
        observed: What the target was told last; None for nothing.
        wanted: What should be; None for nothing.
        checked: Revisions that are known to load; they are not checked again.
    """
    if wanted is None:
        if observed is None:
            return ()
        return (Remove(namespace=observed.workload.namespace, name=observed.workload.name),)
    # Which fields are not honoured is told in the status and changes nothing on the target.
    if observed is not None and replace(observed, partial=()) == replace(wanted, partial=()):
        return ()
    changes = ("created",) if observed is None else tuple(_changes(observed, wanted))
    running = [one.workload for one in _all(observed)]
    unknown = [
        one.workload for one in _all(wanted) if one.workload not in running and one.revision not in checked
    ]
    return (*(Check(workload=workload) for workload in unknown), Apply(desired=wanted, changes=changes))


def _all(desired: Desired | None) -> tuple[Desired, ...]:
    return (desired, *desired.others) if desired is not None else ()


def _changes(observed: Desired, wanted: Desired) -> list[str]:
    return [part for part in _PARTS if getattr(observed, part) != getattr(wanted, part)]
