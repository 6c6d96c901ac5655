"""Whether a Function is an app of Dapr, by the annotations that Dapr's injector reads. Pure.

Called by `plan/function`, which hands in where the app reaches the runtime; without that (on a cluster, where
the injector does it) nothing is said here. Source: contracts, Dapr HTTP, section 8. The app listens at the
port that it is given, so that `app-port` is accepted and counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pelton.model.dapr_app import DaprApp, DaprPorts
from pelton.model.function import Function
from pelton.model.settings import truthy
from pelton.plan.problem import Problem
from pelton.quantity import parse_bytes

__all__ = ["ENABLED", "app_env", "dapr_app", "is_enabled"]

ENABLED: Final = "dapr.io/enabled"
_PREFIX: Final = "dapr.io/"
_ASKED: Final = frozenset({"process", "asgi", "wsgi"})
_PROTOCOLS: Final = ("http", "grpc", "h2c")


def is_enabled(function: Function) -> bool:
    """Tell whether a Function asks to be an app."""
    return truthy(_annotations(function).get(ENABLED, ""))


def dapr_app(
    function: Function, ports: DaprPorts | None, *, convention: str, problems: list[Problem]
) -> DaprApp | None:
    """Return the app that a Function is, None for one that is none.

    Args:
        function: The Function.
        ports: Where it reaches the runtime; None where nobody serves it.
        convention: Of its code.
        problems: Gets what is wrong with the annotations.
    """
    if ports is None or not is_enabled(function):
        return None
    notes = _annotations(function)

    def read(name: str, convert: Callable[[str], Any], default: Any, say: str) -> Any:
        text = notes.get(_PREFIX + name, "").strip()
        if not text:
            return default
        try:
            return convert(text)
        except ValueError:
            place = "spec.serving" if _in_serving(function, _PREFIX + name) else "metadata"
            problems.append(
                Problem(
                    reason="InvalidAnnotation",
                    path=f"{place}.annotations[{_PREFIX}{name}]",
                    message=f'"{text}" is not {say}',
                )
            )
            return default

    protocol = read("app-protocol", _one_of, "http", f"one of {', '.join(_PROTOCOLS)}")
    probed = read("enable-app-health-check", _flag, False, "true or false")
    path = notes.get(_PREFIX + "app-health-check-path", "").strip() or "/healthz"
    return DaprApp(
        app_id=notes.get(_PREFIX + "app-id", "").strip() or function.name,
        ports=ports,
        protocol="grpc" if protocol == "grpc" else "http",
        asked=convention in _ASKED,
        max_concurrency=read("app-max-concurrency", int, -1, "a whole number"),
        configuration=notes.get(_PREFIX + "config", "").strip(),
        health_path=path if probed else "",
        health_interval_s=read("app-health-probe-interval", _positive, 5.0, "a number of seconds"),
        health_timeout_s=read("app-health-probe-timeout", _positive, 500.0, "a number of ms") / 1000,
        health_threshold=int(read("app-health-threshold", _positive, 3, "a whole number")),
        body_limit_bytes=read("max-body-size", parse_bytes, 4 * 1024 * 1024, 'a size such as "4Mi"'),
    )


def app_env(app: DaprApp) -> dict[str, str]:
    """Return the variables by which an app finds its runtime, as Dapr's injector sets them."""
    return {
        "APP_ID": app.app_id,
        "APP_PROTOCOL": app.protocol,
        "DAPR_HTTP_PORT": str(app.ports.http),
        "DAPR_GRPC_PORT": str(app.ports.grpc),
        "DAPR_API_TOKEN": app.ports.token,
    }


def _annotations(function: Function) -> Mapping[str, str]:
    serving = function.serving
    return {**function.annotations, **(serving.annotations if serving is not None else {})}


def _in_serving(function: Function, name: str) -> bool:
    return function.serving is not None and name in function.serving.annotations


def _one_of(text: str) -> str:
    if text.lower() not in _PROTOCOLS:
        raise ValueError(text)
    return text.lower()


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise ValueError(text)
    return number
