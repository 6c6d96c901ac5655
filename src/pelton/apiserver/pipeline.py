"""The way of a write: from a decoded object to a committed one, in stages.

    defaults -> mutating admission -> defaults -> pruning and rules of the kind -> generic rules
    -> validating admission -> storage version -> commit, if the stored object is still the one it began with

`rest.py` decodes requests and calls `Writer`; `Admission` is implemented by the webhooks. A stage that has
nothing to do does not wait, and a write in which no stage waits is one turn of the event loop. Where another
write came in between, everything is computed again on the fresh object; a given resourceVersion then fails.

Source: contracts operator-webhook.md 1.3, 4, 5.1, 6.1 and 6.4.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pelton.apiserver import managed, rules
from pelton.apiserver.calls import Call, User
from pelton.apiserver.registry import Checked, Registry, Row
from pelton.apiserver.rules import Obj
from pelton.apiserver.status import FieldsInvalidError, StatusError, unknown_fields
from pelton.apiserver.store import ChangedError, Entry, ObjectStore, decode, name_suffix
from pelton.clock import Clock
from pelton.errors import AlreadyExistsError, ConflictError, InvalidError, NotFoundError

__all__ = ["Admission", "Review", "Writer"]

_TRIES = 10  # of a write without a resourceVersion that meets others


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What admission is asked about.

    Attributes:
        row: Version of the resource that the client used; objects are in it.
        operation: CREATE, UPDATE or DELETE.
        namespace: "" for cluster scope.
        name: "" when it is still to be generated.
        subresource: "" or e.g. "status".
        user: Who asks.
        dry_run: Whether nothing will be stored.
        options: CreateOptions, UpdateOptions or DeleteOptions, with apiVersion and kind.
        object: The new object; None for DELETE.
        old_object: The stored object; None for CREATE.
    """

    row: Row
    operation: str
    namespace: str
    name: str
    subresource: str
    user: User
    dry_run: bool
    options: Obj
    object: Obj | None
    old_object: Obj | None


class Admission(Protocol):
    """Has a say in writes: the admission webhooks."""

    def concerns(self, row: Row, operation: str, subresource: str, /) -> bool:
        """Return whether any hook may match; cheap, asked for every write. False skips both calls below."""
        ...

    async def mutate(self, review: Review, /) -> tuple[Obj | None, Sequence[str]]:
        """Return the object to go on with (None for DELETE) and warnings.

        Raises:
            PeltonError: The write is denied or a hook failed; `StatusError` carries a whole Status.
        """
        ...

    async def validate(self, review: Review, /) -> Sequence[str]:
        """Return warnings. Raises PeltonError as `mutate` does."""
        ...


class Writer:
    """Writes objects.

    Args:
        store: Where they are kept.
        registry: Which versions they have.
        admission: Asked about writes; None for nobody.
        clock: For creation and deletion times.
    """

    def __init__(
        self, store: ObjectStore, registry: Registry, admission: Admission | None, clock: Clock
    ) -> None:
        self._store = store
        self._registry = registry
        self._admission = admission
        self._clock = clock

    # -- reading in a version --------------------------------------------------------------------------------

    async def shown(self, row: Row, raws: Sequence[tuple[str, bytes]]) -> list[Obj]:
        """Return stored objects in the version of `row`.

        Args:
            row: The version asked for.
            raws: (apiVersion, JSON) of each.

        Raises:
            PeltonError: They cannot be converted.
        """
        objects = await self._converted(row, [decode(raw) for _, raw in raws])
        return [row.checks.read(obj) for obj in objects] if row.reads else objects

    def as_stored(self, row: Row, api_version: str) -> bool:
        """Return whether an object kept in `api_version` is shown by `row` byte for byte."""
        return api_version == row.api_version and not row.reads

    async def _converted(self, row: Row, objects: list[Obj]) -> list[Obj]:
        other = [at for at, obj in enumerate(objects) if obj.get("apiVersion") != row.api_version]
        if not other:
            return objects
        if row.conversion is None:
            for at in other:
                objects[at] = {**objects[at], "apiVersion": row.api_version}
            return objects
        new = await row.conversion.convert([objects[at] for at in other], row)
        for at, obj in zip(other, new, strict=True):
            objects[at] = obj
        return objects

    # -- writing ---------------------------------------------------------------------------------------------

    async def create(self, call: Call, given: Obj, *, tracked: bool = False) -> Obj:
        """Store a new object; returns it in the version of the request.

        Args:
            call: Names the resource and the namespace.
            given: The object.
            tracked: Whether its managedFields are up to date already, as after an apply.

        Raises:
            AlreadyExistsError: An object of that name exists.
            InvalidError: With all problems.
            PeltonError: Admission refuses, or the disk does.
        """
        row = call.row
        self._check_namespace(call)
        obj = row.checks.default(given)
        if not tracked:
            obj = self._tracked(call, None, {**obj, "metadata": _unmanaged(obj)})
        obj = await self._mutate(call, "CREATE", obj, None)
        obj = self._check(call, obj, None)
        for left in reversed(range(8)):  # a generated name may be taken
            new = rules.created(
                obj,
                uid=str(uuid.uuid4()),
                now=self._clock.now(),
                suffix=name_suffix(),
                where=call.where,
                keep_status=not row.status,
                generation=row.generation,
            )
            await self._validate(call, "CREATE", new, None)
            try:
                return await self._insert(call, new)
            except AlreadyExistsError:
                if not left or obj["metadata"].get("name"):
                    raise
        raise AssertionError("unreachable")

    def _check_namespace(self, call: Call) -> None:
        """Refuse objects in a namespace that does not exist or is being emptied."""
        if not call.namespace or self._registry.find("", "v1", "namespaces") is None:
            return
        try:
            namespace = decode(self._store.entry("namespaces", "", call.namespace).raw)
        except NotFoundError as error:
            raise StatusError(
                404,
                "NotFound",
                f'namespaces "{call.namespace}" not found',
                details={"name": call.namespace, "group": "", "kind": "namespaces"},
            ) from error
        if rules.being_deleted(namespace):
            cause = {
                "reason": "NamespaceTerminating",
                "message": f"namespace {call.namespace} is being terminated",
                "field": "metadata.namespace",
            }
            raise StatusError(
                403,
                "Forbidden",
                f'{call.row.name} "{call.name}" is forbidden: unable to create new content in namespace '
                f"{call.namespace} because it is being terminated",
                details={"causes": [cause]},
            )

    async def _insert(self, call: Call, new: Obj) -> Obj:
        (stored,) = await self._converted(self._registry.storage(call.row), [new])
        if call.dry_run:
            namespace, name = rules.locate(new)
            try:
                self._store.entry(call.key, namespace, name)
            except NotFoundError:
                return new
            raise AlreadyExistsError(f'{call.row.name} "{name}" already exists', where=call.where)
        written = self._store.insert(call.key, stored)
        return _with_version(new, written)

    async def update(self, call: Call, change: Callable[[Obj], Obj], *, tracked: bool = False) -> Obj:
        """Change an object; returns it in the version of the request.

        Args:
            call: Names the object, and the subresource that is written.
            change: Stored object in the version of the request -> the one that is wanted; called again when
                another write came in between. A resourceVersion in its result must be the stored one.
            tracked: Whether managedFields of its result are up to date already, as after an apply.

        Raises:
            NotFoundError: No such object.
            ConflictError: resourceVersion or uid are stale, or others write without a pause.
            InvalidError: With all problems.
            PeltonError: Admission refuses, or the disk does.
        """
        for left in reversed(range(_TRIES)):
            entry = self._store.entry(call.key, call.namespace, call.name)
            (old,) = await self.shown(call.row, [(entry.api_version, entry.raw)])
            new = await self._changed(call, old, change(old), tracked)
            if rules.being_deleted(new) and not rules.finalizers(new):
                return await self._discard(call, entry, new)
            storage = self._registry.storage(call.row)
            if call.dry_run or (rules.same(new, old) and entry.api_version == storage.api_version):
                return new
            (stored,) = await self._converted(storage, [new])
            try:
                return _with_version(new, self._store.swap(call.key, entry, stored))
            except ChangedError:
                if not left:
                    raise
        raise AssertionError("unreachable")

    async def _changed(self, call: Call, old: Obj, given: Obj, tracked: bool) -> Obj:
        row, status = call.row, call.subresource == "status"

        def prepared(obj: Obj) -> Obj:
            if status:
                return rules.with_status(old, obj, where=call.where)
            return rules.replaced(
                old, obj, where=call.where, keep_status=not row.status, generation=row.generation
            )

        new = prepared(row.checks.default(given))
        if not tracked:
            new = self._tracked(call, old, new)
        mutated = await self._mutate(call, "UPDATE", new, old)
        checked = self._check(call, mutated, old)
        # Again: hooks and pruning may have changed what the generic rules decided upon.
        new = prepared(checked) if checked is not new else new
        await self._validate(call, "UPDATE", new, old)
        return new

    async def _discard(self, call: Call, entry: Entry, last: Obj) -> Obj:
        if call.dry_run:
            return last
        (stored,) = await self._converted(self._registry.storage(call.row), [last])
        return _with_version(last, self._store.discard(call.key, entry, stored))

    async def delete(self, call: Call, options: Obj) -> tuple[Obj, bool]:
        """Delete an object, or mark it while finalizers remain.

        Args:
            call: Names the object.
            options: DeleteOptions; {} for none.

        Returns:
            The object as it last was or as it is marked now, and whether it is gone.

        Raises:
            NotFoundError: No such object.
            ConflictError: A precondition fails.
            PeltonError: Admission refuses, or the disk does.
        """
        row = call.row
        for left in reversed(range(_TRIES)):
            entry = self._store.entry(call.key, call.namespace, call.name)
            (old,) = await self.shown(row, [(entry.api_version, entry.raw)])
            _check_preconditions(options.get("preconditions"), old, call)
            await self._mutate(call, "DELETE", None, old)
            await self._validate(call, "DELETE", None, old)
            asked = row.deleted(old) if row.deleted else old
            marked = rules.deleted(
                asked, now=self._clock.now(), propagation=str(options.get("propagationPolicy") or "")
            )
            if marked is None and asked is not old:
                marked = rules.marked_for_deletion(asked, now=self._clock.now())
            try:
                if marked is None:
                    return await self._discard(call, entry, old), True
                if call.dry_run or rules.same(marked, old):
                    return marked, False
                (stored,) = await self._converted(self._registry.storage(row), [marked])
                return _with_version(marked, self._store.swap(call.key, entry, stored)), False
            except ChangedError:
                if not left:
                    raise
        raise AssertionError("unreachable")

    def _tracked(self, call: Call, old: Obj | None, new: Obj) -> Obj:
        return managed.updated(
            call.row,
            old,
            new,
            manager=call.field_manager,
            subresource=call.subresource,
            now=self._clock.now(),
        )

    # -- stages ----------------------------------------------------------------------------------------------

    async def _mutate(self, call: Call, operation: str, obj: Obj | None, old: Obj | None) -> Obj:
        if self._admission is None or not self._admission.concerns(call.row, operation, call.subresource):
            return obj or {}
        if obj is not None:
            # Pruned before, so that hooks see what will be stored; told here, so that what hooks add is not.
            obj, unknown = call.row.checks.prune(obj)
            call.unknown_told = True
            if unknown:
                unknown_fields(call.field_validation, unknown, call.warn)
        new, warnings = await self._admission.mutate(self._review(call, operation, obj, old))
        call.warn(warnings)
        if new is None or new is obj:
            return obj or {}
        return call.row.checks.default(new)

    async def _validate(self, call: Call, operation: str, obj: Obj | None, old: Obj | None) -> None:
        if self._admission is None or not self._admission.concerns(call.row, operation, call.subresource):
            return
        call.warn(await self._admission.validate(self._review(call, operation, obj, old)))

    def _review(self, call: Call, operation: str, obj: Obj | None, old: Obj | None) -> Review:
        metadata = rules.metadata_of(obj or old or {})
        return Review(
            row=call.row,
            operation=operation,
            namespace=call.namespace,
            name=str(call.name or metadata.get("name") or ""),
            subresource=call.subresource,
            user=call.user,
            dry_run=call.dry_run,
            options=call.options(operation),
            object=obj,
            old_object=old,
        )

    def _check(self, call: Call, obj: Obj, old: Obj | None) -> Obj:
        """Return the pruned object; raises FieldsInvalidError, RefusedError for a strict unknown field."""
        # A scale is a change of the object itself.
        part = "status" if call.subresource == "status" else ""
        checked: Checked = call.row.checks.check(obj, old, subresource=part)
        if checked.unknown and not call.unknown_told:
            unknown_fields(call.field_validation, checked.unknown, call.warn)
        call.warn(checked.warnings)
        if checked.causes:
            name = str(call.name or rules.metadata_of(obj).get("name") or "")
            raise FieldsInvalidError(call.row, name, checked.causes)
        return checked.obj


def _with_version(obj: Obj, stored: Obj) -> Obj:
    version = stored["metadata"]["resourceVersion"]
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": version}}


def _unmanaged(obj: Obj) -> Obj:
    """Return the metadata without managedFields: a new object has no history."""
    return {key: value for key, value in rules.metadata_of(obj).items() if key != "managedFields"}


def _check_preconditions(given: object, stored: Obj, call: Call) -> None:
    if given is None:
        return
    if not isinstance(given, dict):
        raise InvalidError("preconditions is not a mapping", causes=(("preconditions", "must be a mapping"),))
    for key in ("uid", "resourceVersion"):
        if given.get(key) and given[key] != stored["metadata"].get(key):
            raise ConflictError(
                f"precondition failed: {key} {given[key]} is not {stored['metadata'].get(key)}",
                where=call.where,
            )
