"""Lease (coordination.k8s.io/v1), by which controllers elect a leader. Pure; row for `builtin/table.py`.

Source: contracts operator-webhook.md 6.6.
"""

from __future__ import annotations

import re

from pelton.apiserver.builtin.core import AGE
from pelton.apiserver.builtin.shapes import Shaped, integer, kind, struct, text
from pelton.apiserver.registry import Cause, Row
from pelton.apiserver.rules import Obj
from pelton.manifest.kinds import Column

__all__ = ["LEASE", "micro_time"]

_SECONDS = re.compile(r"(.*T\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")


def micro_time(value: object) -> object:
    """Return an RFC 3339 time with six fractional digits, as MicroTime is always written."""
    match = _SECONDS.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    return f"{match[1]}.{(match[2] or '.')[1:7]:0<6}{match[3]}"


def _defaults(obj: Obj) -> Obj:
    spec = obj.get("spec")
    if not isinstance(spec, dict):
        return obj
    times = {key: micro_time(spec[key]) for key in ("acquireTime", "renewTime") if key in spec}
    return {**obj, "spec": {**spec, **times}}


def _rules(new: Obj, old: Obj | None) -> list[Cause]:
    spec = new.get("spec") or {}
    causes = [
        Cause(field=f"spec.{key}", message=f"Invalid value: {spec[key]}: must be greater than {low - 1}")
        for key, low in (("leaseDurationSeconds", 1), ("leaseTransitions", 0))
        if key in spec and spec[key] < low
    ]
    if spec.get("strategy") == "" or (spec.get("preferredHolder") and not spec.get("strategy")):
        causes.append(
            Cause(
                field="spec.preferredHolder",
                message="Forbidden: must not be set without a strategy",
                reason="FieldValueForbidden",
            )
        )
    return causes


_SCHEMA = kind(
    "Who holds a role that only one may have, and until when.",
    {
        "spec": struct(
            "The claim.",
            {
                "acquireTime": text("When the holder got it.", form="date-time"),
                "holderIdentity": text("Who holds it; empty when nobody does."),
                "leaseDurationSeconds": integer("How long others wait after renewTime, seconds."),
                "leaseTransitions": integer("How often the holder changed."),
                "preferredHolder": text("Who should get it next."),
                "renewTime": text("When the holder renewed it last.", form="date-time"),
                "strategy": text("How the next holder is picked."),
            },
        )
    },
)
LEASE = Row(
    group="coordination.k8s.io",
    version="v1",
    kind="Lease",
    plural="leases",
    singular="lease",
    generation=False,
    builtin=True,
    columns=(Column("Holder", "string", ".spec.holderIdentity"), AGE),
    schema=_SCHEMA,
    checks=Shaped("Lease", _SCHEMA, defaults=_defaults, rules=_rules),
)
