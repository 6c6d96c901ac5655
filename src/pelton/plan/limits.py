"""What an instance of a Function may take: resources of its container in the template, then annotations.

An annotation wins over the template, as it can say more (processes). What neither says is left to the machine
(`model/limits.py`). Called by `plan/function.py`. Pure.

Source: Kubernetes, resource management for pods and containers (names, and requests up to limits).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pelton.model.function import Function, Serving
from pelton.model.limits import Limits
from pelton.plan.problem import Problem
from pelton.quantity import parse_quantity

__all__ = ["ANNOTATIONS", "instance_limits", "unhonoured_resources"]

_MIB: Final = 1024 * 1024
ANNOTATIONS: Final = {
    "pelton.dev/limit-memory": "memory_bytes",
    "pelton.dev/limit-cpu": "cpu",
    "pelton.dev/limit-pids": "pids",
    "pelton.dev/limit-disk": "disk_bytes",
}
_RESOURCES: Final = {"memory": "memory_bytes", "cpu": "cpu", "ephemeral-storage": "disk_bytes"}
_LEAST: Final[dict[str, tuple[float, str]]] = {
    "memory_bytes": (16 * _MIB, 'a size of 16Mi or more, such as "256Mi"'),
    "cpu": (0.01, 'a number of processors of 10m or more, such as "500m"'),
    "cpu_request": (0.001, 'a number of processors of 1m or more, such as "250m"'),
    "pids": (8, "a whole number, 8 or more"),
    "disk_bytes": (_MIB, 'a size of 1Mi or more, such as "256Mi"'),
}
"""Least value, below which not even an empty function runs -> how to say it."""


def instance_limits(function: Function, serving: Serving) -> tuple[Limits, list[Problem]]:
    """Return limits, 0 for what is not asked for, and what is wrong with what is."""
    found: dict[str, float] = {}
    problems: list[Problem] = []

    def take(name: str, value: Any, path: str, reason: str) -> None:
        least, say = _LEAST[name]
        text = str(value).strip()
        try:
            number = float(parse_quantity(text))
        except ValueError:
            number = -1.0
        if number < least or (name == "pids" and not text.isdecimal()):
            problems.append(Problem(reason=reason, path=path, message=f'"{text}" is not {say}'))
        else:
            found[name] = number

    for path, resources in _resources(serving.template):
        limits, requests = _mapping(resources.get("limits")), _mapping(resources.get("requests"))
        for resource, name in _RESOURCES.items():
            if resource in limits:
                take(name, limits[resource], f"{path}.limits.{resource}", "InvalidResources")
        if "cpu" in requests:
            take("cpu_request", requests["cpu"], f"{path}.requests.cpu", "InvalidResources")
        if "cpu" in found and found.get("cpu_request", 0.0) > found["cpu"]:
            problems.append(
                Problem(
                    reason="InvalidResources",
                    path=f"{path}.requests.cpu",
                    message=f'"{requests["cpu"]}" is more than the limit of "{limits["cpu"]}"',
                )
            )
    for annotation, name in ANNOTATIONS.items():
        for path, notes in (
            ("spec.serving.annotations", serving.annotations),
            ("metadata.annotations", function.annotations),
        ):
            if annotation in notes:
                take(name, notes[annotation], f"{path}[{annotation}]", "InvalidAnnotation")
                break
    return (
        Limits(
            memory_bytes=int(found.get("memory_bytes", 0)),
            cpu=found.get("cpu", 0.0),
            cpu_request=found.get("cpu_request", 0.0),
            pids=int(found.get("pids", 0)),
            disk_bytes=int(found.get("disk_bytes", 0)),
        ),
        problems,
    )


def unhonoured_resources(path: str, resources: Any) -> Iterator[tuple[str, str]]:
    """Return (field path, sentence) for resources of the function's container that have no effect here.

    Args:
        path: Of the field `resources`.
        resources: Its value as written.
    """
    given = _mapping(resources)
    for key in given:
        if key not in {"limits", "requests"}:
            yield f"{path}.{key}", "claims of devices do not apply to a worker process"
    for resource in _mapping(given.get("limits")):
        if resource not in _RESOURCES:
            yield f"{path}.limits.{resource}", "only memory, cpu and ephemeral-storage are limited"
    for resource in _mapping(given.get("requests")):
        if resource != "cpu":
            yield f"{path}.requests.{resource}", "nothing is set aside for a worker process; its limit counts"


def _resources(template: Mapping[str, Any] | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    containers = (template or {}).get("containers")
    for index, container in enumerate(containers if isinstance(containers, list) else []):
        if isinstance(container, dict) and container.get("name") == "function":
            path = f"spec.serving.template.containers[{index}].resources"
            yield path, _mapping(container.get("resources"))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
