"""A Dapr component as a resource says it: secrets still referenced, values still of their JSON type.

`manifest/dapr` and `manifest/openfunction_core` make these; `plan/` resolves them into `desired.Component`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ComponentResource", "ComponentSpec", "MetadataItem", "SecretKeyRef"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretKeyRef:
    """An entry of a Secret: `name` of the Secret, `key` inside it ("" = the Secret's own name)."""

    name: str
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataItem:
    """One setting of a component; at most one source is used, in the order secret, environment, value.

    Attributes:
        name: Setting name, e.g. `brokers`.
        value: JSON value as written; None when absent.
        secret_key_ref: Where the value is kept, or None.
        env_ref: Environment variable that holds the value, or "".
    """

    name: str
    value: Any = None
    secret_key_ref: SecretKeyRef | None = None
    env_ref: str = ""

    @property
    def text(self) -> str:
        """The value as drivers see it: text as it is, others as compact JSON (`true`, `1`); "" for none."""
        if self.value is None:
            return ""
        if isinstance(self.value, str):
            return self.value
        return json.dumps(self.value, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSpec:
    """What a component is.

    Attributes:
        type: `<category>.<name>`, e.g. `pubsub.kafka`, `bindings.cron`.
        version: Version of the type; "" means `v1`.
        metadata: Settings in written order; names may repeat, the last one counts.
        ignore_errors: Whether a failing start of the component is tolerated; None when absent (no).
        init_timeout_s: Seconds allowed for its start; None when absent (5 s).
    """

    type: str
    version: str = ""
    metadata: tuple[MetadataItem, ...] = ()
    ignore_errors: bool | None = None
    init_timeout_s: float | None = None

    @property
    def category(self) -> str:
        """Part before the first dot: `bindings`, `pubsub`, `state`, `secretstores`, ..."""
        return self.type.partition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentResource:
    """A standalone Component.

    Attributes:
        namespace, name: Which; namespace "" when the manifest does not say.
        labels, annotations: As written.
        spec: What it is.
        secret_store: Component that resolves its secret references, "" for the platform's own Secrets.
        scopes: App ids that may use it; empty = all.
    """

    name: str
    spec: ComponentSpec
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    secret_store: str = ""
    scopes: tuple[str, ...] = ()
