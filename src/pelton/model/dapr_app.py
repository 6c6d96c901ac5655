"""A Function that is an app of Dapr: what its annotations say, and where it reaches the runtime.

Made by `plan/dapr_app`, part of `model/desired`; the runtime process serves it. Plain data.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["DaprApp", "DaprPorts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DaprPorts:
    """Where one app reaches the runtime on this machine, and by what it is known there.

    Attributes:
        http, grpc: Ports on 127.0.0.1.
        inner: Port of the runtime's HTTP API where `http` is a port of the gateway; 0 where it is not.
        token: What it shows as `dapr-api-token`. Never logged.
    """

    http: int
    grpc: int
    token: str = field(repr=False)
    inner: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DaprApp:
    """One app.

    Attributes:
        app_id: Its name among apps of its namespace.
        protocol: `http` or `grpc`: how it is called.
        asked: Whether its code is asked for subscriptions; a function of a convention would take the question
            for a request.
        max_concurrency: Most calls that an instance gets at once; -1 for no limit.
        configuration: Name of its Configuration; "" for none.
        health_path: Where it is probed; "" where it is not.
        health_interval_s, health_timeout_s: Times of the probes, seconds.
        health_threshold: Failures in a row that make it unhealthy.
        body_limit_bytes: Largest body.
        ports: Where it reaches the runtime.
    """

    app_id: str
    ports: DaprPorts
    protocol: str = "http"
    asked: bool = True
    max_concurrency: int = -1
    configuration: str = ""
    health_path: str = ""
    health_interval_s: float = 5.0
    health_timeout_s: float = 0.5
    health_threshold: int = 3
    body_limit_bytes: int = 4 * 1024 * 1024
