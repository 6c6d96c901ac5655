"""Names and labels of what one Function becomes; every renderer beside this file asks it.

Where OpenFunction has the API server generate a name (`serving-` and five characters), a render derives the
characters from the content: the same input gives the same names everywhere, changed input gives new ones, so
that nothing immutable is ever updated in place. Pure.

Source: contracts, OpenFunction, sections 6, 7.2, 8.1 and 8.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pelton.plan import names
from pelton.plan.history import FUNCTION_LABEL

__all__ = [
    "BUILDER_LABEL",
    "FUNCTION_LABEL",
    "MANAGED_LABEL",
    "PROXY_LABEL",
    "SERVING_LABEL",
    "VERSION_LABEL",
    "Identity",
    "label_value",
    "metadata",
    "suffix",
]

SERVING_LABEL = "openfunction.io/serving"
BUILDER_LABEL = "openfunction.io/builder"
MANAGED_LABEL = "openfunction.io/managed"
PROXY_LABEL = "openfunction.io/proxy"
VERSION_LABEL = "app.kubernetes.io/version"

_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # those of Kubernetes' generated names: no vowels, so no words
_LENGTH = 5
# `serving-xxxxx-statefulset-<version>-xxxxx` has to leave room for the hash in a pod's label: 63 - 11.
_VERSION_LENGTH = 20
_COMPONENT_LENGTH = 34  # `serving-xxxxx-bindings-<name>-xxxxx` within 63


def suffix(content: Any) -> str:
    """Return five characters that stand for plain data, in the alphabet of Kubernetes' generated names."""
    number = int(names.content_hash(content)[:16], 16)
    found = ""
    for _ in range(_LENGTH):
        number, rest = divmod(number, len(_LETTERS))
        found += _LETTERS[rest]
    return found


def slug(text: str, length: int) -> str:
    """Return a text as part of a DNS label: lower case, `-` for what is not allowed, cut to `length`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:length].strip("-") or "x"


def label_value(text: str) -> str:
    """Return a text as a label's value: `_` for what is not allowed, at most 63 characters."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:63].strip("._-")


def metadata(
    name: str,
    namespace: str,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the metadata of an object; labels and annotations are left out when there are none."""
    found: dict[str, Any] = {"name": name, "namespace": namespace}
    if labels:
        found["labels"] = dict(labels)
    if annotations:
        found["annotations"] = dict(annotations)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One serving revision of a Function.

    Attributes:
        namespace, function: The Function's.
        version: As the Function says it.
        digest: Hash of everything that its objects are made of, 64 hex digits.
        app_id: Dapr app id: `<function>-<namespace>`, unless an annotation says another.
        cluster_domain: Last part of host names inside the cluster.
    """

    namespace: str
    function: str
    version: str
    digest: str
    app_id: str
    cluster_domain: str

    def workload(self, kind: str) -> str:
        """Return `<serving>-<kind>-<version without dots>-<5>`."""
        return f"{self.serving}-{kind}-{self.short_version}-{self._suffix(kind)}"

    def part(self, kind: str) -> str:
        """Return `<serving>-<kind>-<5>`."""
        return f"{self.serving}-{kind}-{self._suffix(kind)}"

    def component(self, prefix: str, name: str) -> str:
        """Return `<serving>-<prefix>-<logical name>-<5>`; a name that DNS does not allow is made to fit."""
        return f"{self.serving}-{prefix}-{slug(name, _COMPONENT_LENGTH)}-{self._suffix(f'{prefix}/{name}')}"

    def _suffix(self, part: str) -> str:
        return suffix([self.digest, part])

    @property
    def serving(self) -> str:
        """Name of the revision: `serving-<5>`."""
        return f"serving-{suffix(self.digest)}"

    @property
    def short_version(self) -> str:
        """The version as it is in names: `v1.0.0` is `v100`."""
        return slug(self.version.replace(".", ""), _VERSION_LENGTH)

    @property
    def labels(self) -> dict[str, str]:
        """Labels of every object of this revision."""
        return {MANAGED_LABEL: "true", SERVING_LABEL: self.serving, FUNCTION_LABEL: self.function}

    @property
    def selector(self) -> dict[str, str]:
        """Labels that only the function's own pods have."""
        return {SERVING_LABEL: self.serving}

    @property
    def dapr_host(self) -> str:
        """Name of the Service that Dapr makes for the proxy's sidecar."""
        return f"{self.app_id}-dapr.{self.inside('')}"

    def inside(self, name: str) -> str:
        """Return the host name of a Service of this namespace, or the part after its name for ""."""
        tail = f"{self.namespace}.svc.{self.cluster_domain}"
        return f"{name}.{tail}" if name else tail
