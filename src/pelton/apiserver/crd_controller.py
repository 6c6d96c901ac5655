"""The controller of CustomResourceDefinitions: names, conditions, served rows, and the end of a definition.

`service.py` enters it before the first request, so that what was defined before is served at once. It reads
the store's changes, writes only the status of definitions, and gives rows to the registry.
Source: contracts operator-webhook.md section 5.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pelton.apiserver import rules
from pelton.apiserver.calls import internal
from pelton.apiserver.crd_rows import conflicts, rows_of
from pelton.apiserver.crds import APPROVED, FINALIZER, ROW, protected, with_condition
from pelton.apiserver.pipeline import Writer
from pelton.apiserver.registry import Registry, Row
from pelton.apiserver.rules import Obj
from pelton.apiserver.store import ObjectStore, decode
from pelton.apiserver.watch import Change
from pelton.apiserver.webhooks.caller import Caller
from pelton.clock import Clock, rfc3339
from pelton.errors import NotFoundError, PeltonError

__all__ = ["Definitions"]

_USER = "system:serviceaccount:kube-system:customresourcedefinition-controller"
_AGAIN_S = 1.0
_CHUNK = 50  # objects deleted between two turns of the loop

_Conditions = Sequence[Mapping[str, Any]]


class Definitions:
    """Makes definitions served.

    Args:
        store: Where definitions and their objects are.
        registry: Gets the rows.
        writer: Deletes objects of a definition that is deleted.
        caller: Posts conversion reviews.
        clock: Time.
        log: For failures; they are tried again.
    """

    def __init__(
        self,
        store: ObjectStore,
        registry: Registry,
        writer: Writer,
        caller: Caller,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        self._store = store
        self._registry = registry
        self._writer = writer
        self._caller = caller
        self._clock = clock
        self._log = log
        self._own = {(row.group, row.plural) for row in registry.rows()}
        self._served: dict[str, tuple[Any, ...]] = {}  # name -> what its rows were made of
        self._changed = asyncio.Event()
        store.on_change(self._on_change)

    def _on_change(self, resource: str, change: Change) -> None:
        # Objects of definitions too: the last one's end lets its definition go.
        if resource == ROW.key or (resource in self._served and change.type == "DELETED"):
            self._changed.set()

    async def run(self) -> None:
        """Follow the definitions until cancelled; what fails is tried again."""
        while True:
            self._changed.clear()
            try:
                again = await self.reconcile()
            except Exception:
                self._log.exception("definitions are looked at again")
                again = True
            if again:
                try:
                    async with asyncio.timeout(_AGAIN_S):
                        await self._changed.wait()
                except TimeoutError:
                    pass
            else:
                await self._changed.wait()

    async def reconcile(self) -> bool:
        """Bring rows and conditions up to date; returns whether something is still on its way out."""
        definitions = [decode(entry.raw) for entry in self._store.entries(ROW.key)]
        names = {definition["metadata"]["name"] for definition in definitions}
        for gone in self._served.keys() - names:
            self._forget(gone)
        # The oldest has the first choice of names.
        definitions.sort(key=lambda obj: int(obj["metadata"]["resourceVersion"]))
        definitions.sort(key=lambda obj: str(obj["metadata"].get("creationTimestamp", "")))
        unfinished = False
        for definition in definitions:
            try:
                await self._one(definition)
            except Exception:
                # One that an older Pelton stored must not keep the others, or the server, from being served.
                self._log.exception("definition cannot be served name=%s", definition["metadata"]["name"])
                continue
            if rules.being_deleted(definition):
                unfinished |= not await self._finish(definition)
        return unfinished

    async def _one(self, definition: Obj) -> None:
        spec, now = definition["spec"], rfc3339(self._clock.now())
        status = definition.get("status") or {}
        conditions: _Conditions = status.get("conditions") or ()
        own = (spec["group"], spec["names"]["plural"]) in self._own
        reason, message = ("", "") if own else conflicts(spec["names"], self._others(definition))
        accepted = status.get("acceptedNames") if reason else spec["names"]
        established = any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions)
        if reason:
            conditions = with_condition(conditions, "NamesAccepted", "False", reason, message, now=now)
            if not established:
                conditions = with_condition(
                    conditions, "Established", "False", "NotAccepted", "not all names are accepted", now=now
                )
        else:
            conditions = with_condition(
                conditions, "NamesAccepted", "True", "NoConflicts", "no conflicts found", now=now
            )
            told = (
                "Pelton serves this kind itself; the schema of this definition is not used"
                if own
                else "the initial names have been accepted"
            )
            conditions = with_condition(
                conditions, "Established", "True", "InitialNamesAccepted", told, now=now
            )
            established = True
        conditions = _approval(definition, conditions, now)
        if rules.being_deleted(definition):
            conditions = with_condition(
                conditions,
                "Terminating",
                "True",
                "InstanceDeletionInProgress",
                "CustomResource deletion is in progress",
                now=now,
            )
        stored = list(status.get("storedVersions") or ())
        current = next(version["name"] for version in spec["versions"] if version.get("storage"))
        if established and not own:
            self._serve(definition, accepted or spec["names"])
        new = {
            "conditions": list(conditions),
            "acceptedNames": accepted or {"plural": "", "kind": ""},
            "storedVersions": stored if current in stored else [*stored, current],
        }
        if new != status:
            try:
                await self._store.update(ROW.key, {**definition, "status": new}, subresource="status")
            except PeltonError:
                self._changed.set()  # someone else wrote it meanwhile: look again

    def _others(self, definition: Obj) -> list[Row]:
        spec = definition["spec"]
        return [
            row
            for row in self._registry.rows()
            if row.group == spec["group"] and row.plural != spec["names"]["plural"]
        ]

    def _serve(self, definition: Obj, names: Mapping[str, Any]) -> None:
        name, spec = definition["metadata"]["name"], definition["spec"]
        made_of = (
            definition["metadata"]["uid"],
            definition["metadata"].get("generation"),
            rules.being_deleted(definition),
            names,
        )
        if self._served.get(name) == made_of:
            return
        self._registry.add(rows_of({**definition, "spec": {**spec, "names": names}}, self._caller))
        self._served[name] = made_of

    def _forget(self, name: str) -> None:
        plural, _, group = name.partition(".")
        self._registry.remove(group, plural)
        del self._served[name]

    async def _finish(self, definition: Obj) -> bool:
        """Delete the objects of a definition, then let it go; returns whether it is gone."""
        name = definition["metadata"]["name"]
        marks = rules.finalizers(definition)
        if FINALIZER not in marks:
            return False  # others' finalizers hold it
        if name in self._served and not await self._emptied(definition):
            return False
        fresh = await self._store.get(ROW.key, "", name)
        left = [mark for mark in rules.finalizers(fresh) if mark != FINALIZER]
        metadata = {**fresh["metadata"], "finalizers": left}
        await self._store.update(ROW.key, {**fresh, "metadata": metadata})
        return True

    async def _emptied(self, definition: Obj) -> bool:
        name, spec = definition["metadata"]["name"], definition["spec"]
        version = next(each["name"] for each in spec["versions"] if each.get("storage"))
        row = next(
            each
            for each in self._registry.versions(spec["group"], spec["names"]["plural"])
            if each.version == version
        )
        for number, entry in enumerate(self._store.entries(name)):
            if rules.being_deleted(decode(entry.raw)):
                continue  # it waits for its own finalizers
            try:
                await self._writer.delete(internal(row, entry.namespace, entry.name, user=_USER), {})
            except NotFoundError:
                continue
            if number % _CHUNK == _CHUNK - 1:
                await asyncio.sleep(0)
        return not self._store.entries(name)


def _approval(definition: Obj, conditions: _Conditions, now: str) -> _Conditions:
    if not protected(definition["spec"]["group"]):
        return conditions
    value = (definition["metadata"].get("annotations") or {}).get(APPROVED, "")
    name = "KubernetesAPIApprovalPolicyConformant"
    if value.startswith("unapproved"):
        message = f"not approved: {value!r}"
        return with_condition(conditions, name, "False", "UnapprovedAnnotation", message, now=now)
    return with_condition(conditions, name, "True", "ApprovedAnnotation", f"approved in {value}", now=now)
