"""Builder and Serving objects: what they say, and which of them are kept.

One Builder records one build, one Serving one revision; `controlplane/children` stores them, `controlplane/
building` and `controlplane/serving` decide when. Pure.

Source: contracts, OpenFunction, sections 2.6, 6 and 7.1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pelton.model.build import BuildResult
from pelton.plan.rollout import OWN

__all__ = [
    "API_VERSION",
    "CONTENT",
    "FUNCTION_LABEL",
    "FUNCTION_SPEC",
    "FUNCTION_VERSION",
    "REVISION",
    "Child",
    "as_written",
    "builder_object",
    "builder_status",
    "expired",
    "image",
    "pruned_builders",
    "pruned_revisions",
    "serving_object",
    "serving_status",
    "written",
]

API_VERSION = "core.openfunction.io/v1beta2"
FUNCTION_LABEL = "openfunction.io/function"
"""Label of Builders and Servings: their Function's name."""
REVISION = "pelton.dev/revision"
"""Annotation of a Serving: the revision that it records."""
CONTENT = "pelton.dev/content"
"""Annotation of a Builder: hash of what is built."""
FUNCTION_VERSION = "pelton.dev/function-version"
"""Annotation of both: the Function's resourceVersion that they were made from; their order in a second."""
FUNCTION_SPEC = "pelton.dev/function-spec"
"""Annotation of a Serving: the Function's spec as JSON, for `pelton rollback`."""

_SPEC_LIMIT = 100_000  # all annotations of an object may have 256 KiB
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_UNFINISHED = ("", "Created", "Building", "Starting")


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """What is remembered of a Builder or Serving.

    Attributes:
        name: Its name.
        state: status.state.
        created: metadata.creationTimestamp.
        function_version: The Function's resourceVersion that it was made from, 0 when unknown.
        revision: The revision of a Serving; "" for Builders.
        content: Hash of what a Builder builds; "" for Servings.
        cancelled: Whether spec.state asks to end it.
        max_age_s: Seconds after which a completed Builder goes; 0 for never.
    """

    name: str
    state: str = ""
    created: str = ""
    function_version: int = 0
    revision: str = ""
    content: str = ""
    cancelled: bool = False
    max_age_s: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether its state is final."""
        return self.state not in _UNFINISHED

    @property
    def order(self) -> tuple[str, int, str]:
        """Sorts by age, the oldest first."""
        return self.created, self.function_version, self.name

    def age_s(self, now: datetime) -> float:
        """Return seconds since it was created, 0 while that is unknown."""
        try:
            began = datetime.fromisoformat(self.created)
        except ValueError:
            return 0.0
        return max(0.0, (now - began) / timedelta(seconds=1))


def builder_object(function: dict[str, Any], *, content: str) -> dict[str, Any]:
    """Return the Builder for a Function with a build, its status `Building`; its name is generated.

    Args:
        function: The stored Function with defaults filled in.
        content: Hash of what is built.
    """
    spec = function["spec"]
    return {
        **_child(function, "Builder", {CONTENT: content}),
        "spec": {**(spec.get("build") or {}), **_image_of(spec)},
        "status": {"phase": "Build", "state": "Building", "reason": "Building"},
    }


def serving_object(function: dict[str, Any], *, revision: str, digest: str) -> dict[str, Any]:
    """Return the Serving for a Function, its status `Starting`; its name is generated.

    Args:
        function: The stored Function with defaults filled in.
        revision: The revision that it records.
        digest: `sha256:...` of its build; "" without one.
    """
    spec = function["spec"]
    notes = {REVISION: revision}
    text = json.dumps(spec, separators=(",", ":"), sort_keys=True)
    if len(text.encode()) <= _SPEC_LIMIT:
        notes[FUNCTION_SPEC] = text
    given = function["metadata"].get("annotations") or {}
    kept = {key: value for key, value in given.items() if key != _LAST_APPLIED and key not in OWN}
    serving = {**(spec.get("serving") or {}), "version": spec.get("version", "latest"), **_image_of(spec)}
    serving["image"] = image(str(spec.get("image", "")), digest)
    return {
        **_child(function, "Serving", {**kept, **notes}),
        "spec": serving,
        "status": {"phase": "Serving", "state": "Starting", "reason": "Starting"},
    }


def written(function: dict[str, Any]) -> dict[str, Any]:
    """Return what of a Function makes its revision: spec, labels, annotations."""
    metadata = function["metadata"]
    return {
        "spec": function["spec"],
        "labels": metadata.get("labels") or {},
        "annotations": metadata.get("annotations") or {},
    }


def as_written(function: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
    """Return a Function with what `written` returned of an earlier state of it."""
    notes = {key: then.get(key) or {} for key in ("labels", "annotations")}
    return {**function, "metadata": {**function["metadata"], **notes}, "spec": then.get("spec") or {}}


def _child(function: dict[str, Any], kind: str, annotations: dict[str, str]) -> dict[str, Any]:
    metadata = function["metadata"]
    owner = {
        "apiVersion": API_VERSION,
        "kind": "Function",
        "name": metadata["name"],
        "uid": metadata.get("uid", ""),
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {
            "namespace": metadata["namespace"],
            "generateName": f"{kind.lower()}-",
            "labels": {FUNCTION_LABEL: _label(metadata["name"])},
            "annotations": {**annotations, FUNCTION_VERSION: str(metadata.get("resourceVersion", 0))},
            "ownerReferences": [owner],
        },
    }


def _label(name: str) -> str:
    """Return a name as a label's value, which is shorter than a name may be."""
    return name[:63].rstrip("-_.")


def _image_of(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: spec[key] for key in ("image", "imageCredentials") if key in spec}


def image(name: str, digest: str) -> str:
    """Return `<image>@<digest>`: a digest is replaced, a tag is kept; the image itself without a digest."""
    return f"{name.partition('@')[0]}@{digest}" if digest and name else name


def builder_status(
    state: str,
    *,
    reason: str = "",
    message: str = "",
    duration_s: float = 0.0,
    result: BuildResult | None = None,
) -> dict[str, Any]:
    """Return the status of a Builder that has ended."""
    status: dict[str, Any] = {
        "phase": "Build",
        "state": state,
        "reason": reason or state,
        "message": message,
        "buildDuration": f"{int(duration_s)}s",
    }
    if result is not None:
        status["resourceRef"] = result.to_refs()
        status["output"] = {"digest": result.digest}
        if result.size_bytes:
            status["output"]["size"] = result.size_bytes
        status["sources"] = [{"name": "default", "bundle": {"digest": result.digest}}]
    return {key: value for key, value in status.items() if value}


def serving_status(state: str, *, reason: str = "", message: str = "", service: str = "") -> dict[str, Any]:
    """Return the status of a Serving; `url` is the name of the service, as the contract has it."""
    status = {
        "phase": "Serving",
        "state": state,
        "reason": reason or state,
        "message": message,
        "url": service,
    }
    return {key: value for key, value in status.items() if value}


def pruned_builders(
    builders: Iterable[Child], *, successful: int, failed: int, keep: Iterable[str] = ()
) -> list[str]:
    """Return the names of completed Builders to delete: the newest of each kind stay.

    Args:
        builders: All Builders of a Function.
        successful: How many that succeeded may stay.
        failed: How many that completed otherwise may stay.
        keep: Names that stay in any case.
    """
    left = [successful, failed]
    gone = []
    for child in sorted(builders, key=lambda child: child.order, reverse=True):
        if not child.finished or child.name in keep:
            continue
        kind = 0 if child.state == "Succeeded" else 1
        if left[kind] > 0:
            left[kind] -= 1
        else:
            gone.append(child.name)
    return gone


def expired(builders: Iterable[Child], *, now: datetime) -> list[str]:
    """Return the names of completed Builders that are older than their builderMaxAge."""
    return [child.name for child in builders if child.finished and 0 < child.max_age_s < child.age_s(now)]


def pruned_revisions(kept: Sequence[str], *, in_use: Iterable[str], limit: int) -> list[str]:
    """Return the revisions to drop: beside those in use the newest `limit` stay.

    Args:
        kept: Names, the oldest first.
        in_use: Those that serve, have a tag, or are referred to.
        limit: Further ones to keep, 0 or more.
    """
    used = set(in_use)
    spare = [name for name in kept if name not in used]
    return spare[: max(0, len(spare) - limit)]
