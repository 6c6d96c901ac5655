"""What a CustomResourceDefinition makes served: a row per version, with checks, columns and conversion. Pure.

`crd_controller.py` gives the rows to the registry. Source: contracts operator-webhook.md sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pelton.apiserver.builtin.core import AGE
from pelton.apiserver.builtin.shapes import METADATA, text
from pelton.apiserver.conversion import KNOWN_VERSIONS, RewriteVersion, WebhookConversion
from pelton.apiserver.registry import ALL_VERBS, Conversion, Row, Scale
from pelton.apiserver.rules import Obj, being_deleted
from pelton.apiserver.schema import SchemaChecks
from pelton.apiserver.webhooks.caller import Caller
from pelton.manifest.kinds import Column

__all__ = ["conflicts", "rows_of"]


def rows_of(definition: Obj, caller: Caller) -> list[Row]:
    """Return the rows of a definition that passed its checks.

    Args:
        definition: As stored.
        caller: Posts conversion reviews.
    """
    spec, names = definition["spec"], definition["spec"]["names"]
    group, kind = spec["group"], names["kind"]
    conversion = _conversion(spec.get("conversion") or {}, caller)
    leaving = being_deleted(definition)
    # Objects were all written by today's schema when the definition never changed: reading needs no second
    # look.
    changed = int(definition["metadata"].get("generation") or 1) > 1
    rows = []
    for version in spec["versions"]:
        subresources = version.get("subresources") or {}
        schema = version["schema"]["openAPIV3Schema"]
        status = "status" in subresources
        warning = version.get("deprecationWarning") or f"{group}/{version['name']} {kind} is deprecated"
        rows.append(
            Row(
                group=group,
                version=version["name"],
                kind=kind,
                plural=names["plural"],
                singular=names.get("singular") or kind.lower(),
                list_kind=names.get("listKind") or f"{kind}List",
                short_names=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                namespaced=spec["scope"] == "Namespaced",
                storage=bool(version.get("storage")),
                served=bool(version.get("served")),
                status=status,
                scale=_scale(subresources.get("scale")),
                columns=_columns(version.get("additionalPrinterColumns") or ()),
                schema=_published(schema),
                checks=SchemaChecks(schema, status=status),
                reads=changed,
                conversion=conversion,
                verbs=tuple(verb for verb in ALL_VERBS if not (leaving and verb == "create")),
                selectable={
                    field["jsonPath"].lstrip("."): field["jsonPath"]
                    for field in version.get("selectableFields") or ()
                },
                deprecation=warning if version.get("deprecated") else "",
            )
        )
    return rows


def _conversion(given: Mapping[str, Any], caller: Caller) -> Conversion:
    if given.get("strategy") != "Webhook":
        return RewriteVersion()
    webhook = given["webhook"]
    version = next(each for each in webhook["conversionReviewVersions"] if each in KNOWN_VERSIONS)
    return WebhookConversion(webhook["clientConfig"], version, caller)


def _scale(given: Mapping[str, Any] | None) -> Scale | None:
    if given is None:
        return None
    return Scale(
        spec_replicas=given["specReplicasPath"],
        status_replicas=given["statusReplicasPath"],
        label_selector=given.get("labelSelectorPath") or "",
    )


def _columns(given: Sequence[Mapping[str, Any]]) -> tuple[Column, ...]:
    if not given:
        return (AGE,)
    return tuple(
        Column(each["name"], each["type"], each["jsonPath"], int(each.get("priority") or 0)) for each in given
    )


def _published(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema as it is published, with the identity that every object has."""
    identity = {
        "apiVersion": text("Group and version."),
        "kind": text("Kind."),
        "metadata": METADATA,
    }
    own = {key: value for key, value in (schema.get("properties") or {}).items() if key not in identity}
    return {**schema, "properties": {**identity, **own}}


def conflicts(names: Mapping[str, Any], others: Sequence[Row]) -> tuple[str, str]:
    """Return (reason, message) of the first name that another resource of the group has; ("", "") for none.

    Args:
        names: `spec.names`.
        others: Rows of other resources in the same group.
    """
    taken = {name for row in others for name in (row.plural, row.singular, *row.short_names)}
    kinds = {name for row in others for name in (row.kind, row.list_kind or f"{row.kind}List")}
    candidates = [
        ("PluralConflict", [names.get("plural")], taken),
        ("SingularConflict", [names.get("singular")], taken),
        ("ShortNamesConflict", names.get("shortNames") or [], taken),
        ("KindConflict", [names.get("kind")], kinds),
        ("ListKindConflict", [names.get("listKind")], kinds),
    ]
    for reason, wanted, had in candidates:
        for name in wanted:
            if name in had:
                return reason, f'"{name}" is already in use'
    return "", ""
