"""Strategic merge patch: a merge patch in which lists merge by the keys that the schema names.

Served for built-in kinds only, as by Kubernetes. Pure; called by `verbs.py`. The schema says how with
`x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key`; directives in the patch itself are `$patch`,
`$retainKeys`, `$setElementOrder/<list>` and `$deleteFromPrimitiveList/<list>`.

Source: contracts operator-webhook.md 6.2; behaviour of kubectl and the API server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pelton.errors import ProtocolError

__all__ = ["strategic_merge"]

Schema = Mapping[str, Any]

_ORDER = "$setElementOrder/"
_DELETE = "$deleteFromPrimitiveList/"


def strategic_merge(schema: Schema, target: Any, patch: Any) -> Any:
    """Return `target` with `patch` merged in; neither is changed.

    Args:
        schema: Of `target`; fields that it does not know merge as in a plain merge patch.
        target: What is there.
        patch: What changes.

    Raises:
        ProtocolError: A directive is not known, or an item lacks its merge key.
    """
    if not isinstance(patch, dict):
        return patch
    directive = patch.get("$patch", "merge")
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    if directive != "merge":
        raise ProtocolError(f"$patch: {directive!r} is not one of replace, merge and delete")
    result = dict(target) if isinstance(target, dict) else {}
    retained = patch.get("$retainKeys")
    if isinstance(retained, list):
        result = {key: value for key, value in result.items() if key in retained}
    for key, gone in patch.items():
        if key.startswith(_DELETE) and isinstance(gone, list):
            name = key.removeprefix(_DELETE)
            result[name] = [item for item in result.get(name) or [] if item not in gone]
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None:
            result.pop(key, None)
            continue
        inner = _child(schema, key)
        if isinstance(value, list) and "merge" in str(inner.get("x-kubernetes-patch-strategy", "")):
            order = patch.get(_ORDER + key)
            result[key] = _merge_list(inner, result.get(key) or [], value, order, key)
        else:
            result[key] = strategic_merge(inner, result.get(key), value)
    for key, order in patch.items():
        name = key.removeprefix(_ORDER)
        if key.startswith(_ORDER) and name not in patch and isinstance(result.get(name), list):
            inner = _child(schema, name)
            result[name] = _ordered(result[name], order, inner.get("x-kubernetes-patch-merge-key"))
    return result


def _child(schema: Schema, key: str) -> Schema:
    found = schema.get("properties", {}).get(key)
    if found is None:
        found = schema.get("additionalProperties")
    return found if isinstance(found, dict) else {}


def _merge_list(
    schema: Schema, target: Sequence[Any], patch: Sequence[Any], order: Any, field: str
) -> list[Any]:
    key = schema.get("x-kubernetes-patch-merge-key")
    if not key:
        joined = [*target, *(item for item in patch if item not in target)]
        return _ordered(joined, order, None)
    items = schema.get("items", {})
    if any(isinstance(item, dict) and item == {"$patch": "replace"} for item in patch):
        return [item for item in patch if item != {"$patch": "replace"}]
    result = list(target)
    for item in patch:
        if not isinstance(item, dict) or key not in item:
            raise ProtocolError(f"an item of {field} does not contain its merge key {key!r}")
        at = next((n for n, old in enumerate(result) if _key(old, key) == item[key]), None)
        if item.get("$patch") == "delete":
            if at is not None:
                del result[at]
        elif at is None:
            result.append(strategic_merge(items, {}, item))
        else:
            result[at] = strategic_merge(items, result[at], item)
    return _ordered(result, order, key)


def _ordered(items: Sequence[Any], order: Any, key: str | None) -> list[Any]:
    """Return the items in the order given; items that it does not name keep their place after the others."""
    if not isinstance(order, list):
        return list(items)
    ranks = [_key(entry, key) if key else entry for entry in order]

    def rank(item: Any) -> int:
        identity = _key(item, key) if key else item
        return ranks.index(identity) if identity in ranks else len(ranks)

    return sorted(items, key=rank)


def _key(item: Any, key: str) -> Any:
    return item.get(key) if isinstance(item, dict) else None
