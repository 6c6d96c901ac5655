"""Admission webhooks: who is asked about a write, in which order, and what a failure means.

The pipeline calls `Webhooks` through its port `Admission`. Which webhooks a write concerns is decided by
`matching.py`, what is sent and what an answer may be by `review.py`; `caller.py` speaks HTTPS.
Source: contracts operator-webhook.md sections 1 and 2.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pelton.apiserver import authorization, rules
from pelton.apiserver.calls import User
from pelton.apiserver.pipeline import Review
from pelton.apiserver.registry import Registry, Row
from pelton.apiserver.rules import Obj
from pelton.apiserver.scale import scale_of, scaled
from pelton.apiserver.status import RefusedError
from pelton.apiserver.store import ObjectStore, decode
from pelton.apiserver.watch import Change
from pelton.apiserver.webhooks.caller import Caller, CallError
from pelton.apiserver.webhooks.configuration import GROUP, MUTATING, VALIDATING, Webhook, compile_webhooks
from pelton.apiserver.webhooks.matching import conditions_hold, rule_matches, selects
from pelton.apiserver.webhooks.review import (
    Answer,
    BadAnswerError,
    call_failed,
    denial,
    envelope,
    patched,
    read_answer,
    request_of,
)
from pelton.cel import Authorizer
from pelton.errors import CelCostError, CelEvaluateError, NotFoundError

__all__ = ["Webhooks"]

_NAMESPACES = "namespaces"
_SCALE = "scale"


@dataclass(frozen=True, slots=True)
class _Matched:
    hook: Webhook
    row: Row  # the version that its rule names


class Webhooks:
    """The port `Admission`, by the webhook configurations that are stored.

    Args:
        store: Where configurations, namespaces and Services are.
        registry: Which versions resources have.
        caller: Posts reviews.
        log: For failures that a policy ignores.
    """

    def __init__(self, store: ObjectStore, registry: Registry, caller: Caller, log: logging.Logger) -> None:
        self._store = store
        self._registry = registry
        self._caller = caller
        self._log = log
        self._compiled: dict[str, list[Webhook]] = {}
        self._concerns: dict[tuple[str, str, str, str], bool] = {}
        self._revision = -1
        store.on_change(self._on_change)

    def _on_change(self, resource: str, change: Change) -> None:
        if resource in (MUTATING.key, VALIDATING.key):
            self._compiled.pop(resource, None)
            self._concerns.clear()

    def _hooks(self, kind: Row) -> list[Webhook]:
        found = self._compiled.get(kind.key)
        if found is None:
            found = compile_webhooks([decode(entry.raw) for entry in self._store.entries(kind.key)])
            self._compiled[kind.key] = found
        return found

    # -- the port --------------------------------------------------------------------------------------------

    def concerns(self, row: Row, operation: str, subresource: str, /) -> bool:
        """Return whether a rule of any webhook matches."""
        if self._revision != self._registry.revision:
            self._revision = self._registry.revision
            self._concerns.clear()
        key = (row.prefix, row.plural, operation, subresource)
        known = self._concerns.get(key)
        if known is None:
            hooks = [*self._hooks(MUTATING), *self._hooks(VALIDATING)] if row.group != GROUP else []
            known = any(self._row_for(hook, row, operation, subresource) is not None for hook in hooks)
            self._concerns[key] = known
        return known

    async def mutate(self, review: Review, /) -> tuple[Obj | None, Sequence[str]]:
        """Ask mutating webhooks one after the other; see `pelton.apiserver.pipeline.Admission`."""
        obj = review.object
        warnings: list[str] = []
        asked: list[_Matched] = []
        again: list[_Matched] = []
        matched = self._matched(MUTATING, review)
        for each in matched:
            called, changed = await self._mutate_one(each, review, obj, warnings)
            if changed is not obj:
                obj = changed
                again += [before for before in asked if before.hook.again and before not in again]
            if called:
                asked.append(each)
        for each in matched:
            if each in again:
                _, obj = await self._mutate_one(each, review, obj, warnings)
        return obj, warnings

    async def validate(self, review: Review, /) -> Sequence[str]:
        """Ask validating webhooks side by side; see `pelton.apiserver.pipeline.Admission`.

        When several refuse, the first in the order of the configurations is told.
        """
        matched = self._matched(VALIDATING, review)
        results = await asyncio.gather(
            *(self._validate_one(each, review) for each in matched), return_exceptions=True
        )
        warnings: list[str] = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            warnings += result
        return warnings

    # -- one webhook -----------------------------------------------------------------------------------------

    async def _mutate_one(
        self, matched: _Matched, review: Review, obj: Obj | None, warnings: list[str]
    ) -> tuple[bool, Obj | None]:
        """Return whether the webhook was called, and the object: the same one when nothing changed."""
        if not self._selected(matched.hook, review, obj):
            return False, obj
        new, old = await self._seen(matched.row, review, obj)
        answer = await self._ask(matched, review, new, old, mutating=True)
        if answer is None:
            return False, obj
        warnings += answer.warnings
        if not answer.allowed:
            raise denial(matched.hook.name, answer.status)
        if not answer.patch:
            return True, obj
        changed = patched(new, answer.patch, matched.hook.name)
        if rules.same(changed, new or {}):
            return True, obj
        if review.subresource == _SCALE and obj is not None:
            return True, scaled(review.row, obj, changed)
        (result, _) = await self._versions(review.row, changed, None)
        return True, review.row.checks.default(result or changed)

    async def _validate_one(self, matched: _Matched, review: Review) -> Sequence[str]:
        if not self._selected(matched.hook, review, review.object):
            return ()
        new, old = await self._seen(matched.row, review, review.object)
        answer = await self._ask(matched, review, new, old, mutating=False)
        if answer is None:
            return ()
        if not answer.allowed:
            raise denial(matched.hook.name, answer.status)
        return answer.warnings

    async def _ask(
        self, matched: _Matched, review: Review, new: Obj | None, old: Obj | None, *, mutating: bool
    ) -> Answer | None:
        """Return the answer of a webhook; None when it is not to be asked or its failure is ignored."""
        hook = matched.hook
        uid = str(uuid.uuid4())
        request = request_of(review, uid, matched.row, new, old)
        try:
            if hook.conditions:
                bindings = _bindings(request, review, self._registry)
                if not conditions_hold(hook.conditions, bindings):
                    return None
            if review.dry_run and not hook.dry_run_safe:
                raise RefusedError(f'admission webhook "{hook.name}" does not support dry run', status=400)
            given = await self._caller.post(
                hook.client, envelope(hook.review_version, request), timeout_s=hook.timeout_s
            )
            return read_answer(given, uid=uid, version=hook.review_version, mutating=mutating)
        except CallError as error:
            reason = f"failed to call webhook: {error.message}" + (f" ({error.hint})" if error.hint else "")
        except BadAnswerError as error:
            reason = f"received invalid webhook response: {error.message}"
        except (CelEvaluateError, CelCostError) as error:
            reason = f"matchConditions: {error.message}"
        if not hook.ignore:
            raise call_failed(hook.name, reason)
        self._log.warning("webhook failed open name=%s reason=%s", hook.name, reason)
        return None

    # -- matching --------------------------------------------------------------------------------------------

    def _matched(self, kind: Row, review: Review) -> list[_Matched]:
        if review.row.group == GROUP:
            return []
        found = []
        for hook in self._hooks(kind):
            row = self._row_for(hook, review.row, review.operation, review.subresource)
            if row is not None:
                found.append(_Matched(hook, row))
        return found

    def _row_for(self, hook: Webhook, row: Row, operation: str, subresource: str) -> Row | None:
        """Return the version in which a webhook is asked, None when it is not."""
        rules_ = hook.rules
        if any(rule_matches(rule, row, operation, subresource) for rule in rules_):
            return row
        if hook.exact:
            return None
        for other in self._registry.versions(row.group, row.plural):
            if other.served and any(rule_matches(rule, other, operation, subresource) for rule in rules_):
                return other
        return None

    def _selected(self, hook: Webhook, review: Review, obj: Obj | None) -> bool:
        labels = self._namespace_labels(review, obj)
        if labels is not None and not selects(hook.namespaces, labels):
            return False
        if not hook.objects:
            return True
        return any(
            selects(hook.objects, _labels(each)) for each in (obj, review.old_object) if each is not None
        )

    def _namespace_labels(self, review: Review, obj: Obj | None) -> Mapping[str, str] | None:
        """Return the labels that namespaceSelector is about; None for what it never skips."""
        row = review.row
        if (row.group, row.plural) == ("", _NAMESPACES):
            return _labels(obj if obj is not None else review.old_object)
        if not review.namespace:
            return None
        try:
            return self._store.entry(_NAMESPACES, "", review.namespace).labels
        except NotFoundError:
            return {"kubernetes.io/metadata.name": review.namespace}

    async def _seen(self, row: Row, review: Review, obj: Obj | None) -> tuple[Obj | None, Obj | None]:
        """Return the new and the old object as a webhook sees them: in its version, a scale as a Scale."""
        new, old = await self._versions(row, obj, review.old_object)
        if review.subresource != _SCALE:
            return new, old
        return (new and scale_of(row, new)), (old and scale_of(row, old))

    async def _versions(self, row: Row, new: Obj | None, old: Obj | None) -> tuple[Obj | None, Obj | None]:
        """Return both objects in a version."""
        result: list[Obj | None] = [new, old]
        other = [
            at
            for at, obj in enumerate(result)
            if obj is not None and obj.get("apiVersion") != row.api_version
        ]
        objects = [obj for at in other if (obj := result[at]) is not None]
        if objects and row.conversion is not None:
            objects = await row.conversion.convert(objects, row)
        for at, obj in zip(other, objects, strict=True):
            result[at] = {**obj, "apiVersion": row.api_version}
        return result[0], result[1]


def _labels(obj: Obj | None) -> Mapping[str, str]:
    labels = rules.metadata_of(obj or {}).get("labels")
    return labels if isinstance(labels, dict) else {}


def _bindings(request: Obj, review: Review, registry: Registry) -> dict[str, Any]:
    visible = {key: value for key, value in request.items() if key not in ("object", "oldObject", "uid")}
    visible.setdefault("name", "")
    visible.setdefault("namespace", "")
    visible.setdefault("subResource", "")
    visible.setdefault("requestSubResource", "")
    authorizer = Authorizer(lambda asked: _may(review.user, asked, registry))
    resource = authorizer.step(
        "ResourceCheck",
        group=review.row.group,
        resource=review.row.plural,
        subresource=review.subresource,
        namespace=review.namespace,
        name=review.name,
    )
    return {
        "object": request["object"],
        "oldObject": request["oldObject"],
        "request": visible,
        "authorizer": authorizer,
        "authorizer.requestResource": resource,
    }


def _may(user: User, asked: Mapping[str, str], registry: Registry) -> tuple[bool, str]:
    """Answer an authorization check of an expression, as the requester's own requests are answered."""
    if "user" in asked:
        return False, "service accounts are known by their tokens only"
    if "path" in asked:
        return asked["verb"] in ("get", "head"), f"role {user.role}"
    group, resource = asked.get("group", ""), asked.get("resource", "")
    versions = registry.versions(group, resource)
    request = authorization.Asked(
        verb=asked["verb"],
        group=group,
        resource=resource,
        subresource=asked.get("subresource", ""),
        namespace=asked.get("namespace", ""),
        namespaced=versions[0].namespaced if versions else True,
        name=asked.get("name", ""),
    )
    return authorization.may(user, request), f"role {user.role}"
