"""Dapr Components of a function's inline bindings, pub/sub and states, and the names they get.

Called by `targets/kubernetes/render` first: contexts name Components as they are called in the cluster.
Written by `manifest/dapr`, so secrets stay references. Pure.

Source: contracts, OpenFunction, section 8.1; Dapr components, section 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pelton.manifest import dapr
from pelton.model.component import ComponentResource, ComponentSpec
from pelton.model.function import Function, Serving
from pelton.plan.eventing import Facts, Link, input_links, links, state_links
from pelton.targets.kubernetes.identity import Identity
from pelton.targets.kubernetes.notes import Notes
from pelton.targets.kubernetes.pod import Links

__all__ = ["components", "find_links", "rename"]

_JETSTREAM = "pubsub.jetstream"
_LOGS = "bindings.logs"


def components(function: Function, identity: Identity, notes: Notes) -> list[dict[str, Any]]:
    """Return a Component for each one declared inline, used or not, for the function's app id only."""
    serving = function.serving or Serving()
    for name, spec in serving.pubsub.items():
        if spec.type == _JETSTREAM and "natsurl" not in {item.name.lower() for item in spec.metadata}:
            notes.add(
                f"spec.serving.pubsub.{name}.metadata",
                "without natsURL it means the bus of `pelton up`; a cluster needs the URL of a server",
            )
    for name, spec in serving.bindings.items():
        if spec.type == _LOGS:
            notes.add(
                f"spec.serving.bindings.{name}.type",
                f"Dapr has no {_LOGS}: run `pelton ship-logs` on the nodes and take its topic",
            )
    return [
        dapr.encode(
            ComponentResource(
                name=identity.component(prefix, name),
                namespace=identity.namespace,
                labels=identity.labels,
                spec=spec if spec.version else replace(spec, version="v1"),
                scopes=(identity.app_id,),
            )
        )
        for prefix, specs in _declared(serving)
        for name, spec in specs.items()
        if spec is not None
    ]


def _declared(serving: Serving) -> tuple[tuple[str, Mapping[str, ComponentSpec | None]], ...]:
    """Return (prefix of names, logical name -> component), in the order in which names are looked up."""
    return (("bindings", serving.bindings), ("pubsub", serving.pubsub), ("state", serving.states))


def find_links(function: Function, facts: Facts, notes: Notes) -> Links:
    """Resolve all references; what leads nowhere is noted: the cluster may have what the files have not.

    Names are the logical ones; `rename` gives them their names in the cluster.
    """
    triggers, outputs = links(function, facts)
    found = Links(
        triggers=triggers,
        inputs=input_links(function, facts),
        outputs=outputs,
        states=state_links(function, facts),
    )
    for each in (found.triggers, found.inputs, found.outputs, found.states):
        for link in each.values():
            _note(link, notes)
    return found


def _note(link: Link, notes: Notes) -> None:
    reason = link.why[0] if link.why is not None else ""
    if reason == "ComponentNotFound":
        typed = "" if link.type else "; write its type on the reference, since the function is told it"
        notes.add(
            link.path, f'Component "{link.name}" is not in these files: the cluster has to have it{typed}'
        )
    elif reason == "ComponentOutOfScope":
        notes.add(link.path, link.why[1] if link.why is not None else "")


def rename(found: Links, function: Function, identity: Identity) -> Links:
    """Return links with the names that inline components have in the cluster; others keep theirs."""
    serving = function.serving or Serving()
    declared = dict(_declared(serving))

    def named(link: Link, prefixes: tuple[str, ...]) -> Link:
        prefix = next((each for each in prefixes if declared[each].get(link.name) is not None), "")
        return replace(link, name=identity.component(prefix, link.name)) if prefix else link

    def all_of(links: Mapping[str, Link]) -> dict[str, Link]:
        return {name: named(link, ("bindings", "pubsub", "state")) for name, link in links.items()}

    return Links(
        triggers=all_of(found.triggers),
        inputs=all_of(found.inputs),
        outputs=all_of(found.outputs),
        states={name: named(link, ("state",)) for name, link in found.states.items()},
    )
