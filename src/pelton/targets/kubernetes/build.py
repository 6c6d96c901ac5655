"""The build of a Function by Shipwright: a Build and the BuildRun that carries it out.

Called by `targets/kubernetes/render`. Pure.

Source: contracts, OpenFunction, section 7.2. Decided where the original loses something: a variable of the
build whose value has `#`, `=`, `%` or blanks is percent-encoded, since its strategy splits the list at them.
"""

from __future__ import annotations

import re
from typing import Any

from pelton.manifest.openfunction_fields import BUILD
from pelton.model.function import Build, Function, Source
from pelton.plan import names
from pelton.plan.function import is_remote
from pelton.plan.partial import OWN_BUILDER
from pelton.quantity import format_duration
from pelton.targets.kubernetes.identity import BUILDER_LABEL, FUNCTION_LABEL, metadata, suffix
from pelton.targets.kubernetes.notes import Notes

__all__ = ["build_objects", "env_vars"]

_API = "shipwright.io/v1alpha1"
_DEFAULT_STRATEGY = {"name": "openfunction", "kind": "ClusterBuildStrategy"}
_UNSAFE = re.compile(r"[%#=\s]")


def build_objects(function: Function, notes: Notes) -> list[dict[str, Any]]:
    """Return the Build and the BuildRun of a Function; none without a build that a cluster can do.

    Args:
        function: With defaults filled in and a namespace.
        notes: Takes what a cluster cannot build, and what nobody carries out without OpenFunction's operator.
    """
    build = function.build
    if build is None:
        return []
    digest = _digest(function, build)
    builder = f"builder-{suffix(digest)}"
    labels = {BUILDER_LABEL: builder, FUNCTION_LABEL: function.name}
    name = f"{builder}-build-{suffix([digest, 'build'])}"
    if not _can_be_built(build, notes):
        return []
    return [
        {
            "apiVersion": _API,
            "kind": "Build",
            "metadata": metadata(name, function.namespace, labels),
            "spec": _spec(function, build, notes),
        },
        {
            "apiVersion": _API,
            "kind": "BuildRun",
            "metadata": metadata(
                f"{builder}-buildrun-{suffix([digest, 'buildrun'])}", function.namespace, labels
            ),
            # An account of its own, so that a later run does not fail on a secret that is gone by then.
            "spec": {"buildRef": {"name": name}, "serviceAccount": {"generate": True}},
        },
    ]


def _digest(function: Function, build: Build) -> str:
    """Name a build's content; limits, ages and times do not make another build of it."""
    written = BUILD.encode(build)
    for name in ("successfulBuildsHistoryLimit", "failedBuildsHistoryLimit", "builderMaxAge", "timeout"):
        written.pop(name, None)
    return names.content_hash(
        [function.namespace, function.name, written, function.image, function.image_credentials]
    )


def _can_be_built(build: Build, notes: Notes) -> bool:
    """Note what a cluster does not carry out; tells whether anything is left that it can."""
    source = build.source or Source()
    possible = True
    if not source.bundle_image and not is_remote(source.url):
        notes.add(
            "spec.build.srcRepo.url",
            f'no Build is written: "{source.url}" is a directory of this machine; give a git URL or '
            "bundleContainer",
        )
        possible = False
    if build.builder == OWN_BUILDER:
        notes.add(
            "spec.build.builder",
            f'no Build is written: "{OWN_BUILDER}" is the builder of `pelton up`; give the image of one',
        )
        possible = False
    for name, given in (
        ("successfulBuildsHistoryLimit", build.successful_builds_history_limit),
        ("failedBuildsHistoryLimit", build.failed_builds_history_limit),
    ):
        if given is not None:
            notes.add(f"spec.build.{name}", "nothing prunes rendered builds: use kubectl apply --prune")
    return possible


def _spec(function: Function, build: Build, notes: Notes) -> dict[str, Any]:
    source = build.source or Source()
    origin: dict[str, Any] = {}
    if source.bundle_image:
        origin["bundleContainer"] = {"image": source.bundle_image}
    elif source.url:
        origin["url"] = source.url
    if source.revision:
        origin["revision"] = source.revision
    if source.sub_path:
        origin["contextDir"] = source.sub_path
    if source.credentials:
        origin["credentials"] = {"name": source.credentials}
    strategy = build.shipwright.strategy if build.shipwright is not None else None
    spec: dict[str, Any] = {"source": origin, "strategy": dict(_DEFAULT_STRATEGY)}
    if strategy is not None:
        spec["strategy"] = {"name": strategy.name, **({"kind": strategy.kind} if strategy.kind else {})}
    if build.builder:
        spec["builder"] = _image(build.builder, build.builder_credentials)
    if build.dockerfile:
        spec["dockerfile"] = build.dockerfile
    parameters = _parameters(build, notes)
    if parameters:
        spec["paramValues"] = parameters
    spec["output"] = _image(function.image, function.image_credentials)
    shipwright_s = build.shipwright.timeout_s if build.shipwright is not None else None
    timeout_s = build.timeout_s if build.timeout_s is not None else shipwright_s
    if timeout_s:
        spec["timeout"] = format_duration(timeout_s)
    if build.builder_max_age_s:
        age = format_duration(build.builder_max_age_s)
        spec["retention"] = {"ttlAfterFailed": age, "ttlAfterSucceeded": age}
    return spec


def _image(image: str, credentials: str | None) -> dict[str, Any]:
    return {"image": image, **({"credentials": {"name": credentials}} if credentials else {})}


def _parameters(build: Build, notes: Notes) -> list[dict[str, Any]]:
    written = BUILD.encode(build).get("shipwright") or {}
    found: list[dict[str, Any]] = list(written.get("params") or ())
    if build.env:
        found.append({"name": "ENV_VARS", "value": env_vars(build.env)})
        encoded = [name for name, value in build.env.items() if _UNSAFE.search(value)]
        if encoded:
            notes.add(
                "spec.build.env",
                f"{', '.join(encoded)}: percent-encoded in ENV_VARS, which is split at # and =; the strategy "
                "has to decode it",
            )
    return found


def env_vars(env: dict[str, str]) -> str:
    """Return the parameter ENV_VARS: `K=V#K=V#`, with `%`, `#`, `=` and white space of values as `%XX`."""
    return "".join(f"{name}={_encoded(value)}#" for name, value in env.items())


def _encoded(value: str) -> str:
    return _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), value)
