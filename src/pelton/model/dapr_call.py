"""Apps of Dapr as the gateway sees them: who calls, who is called, and what judges the calls.

Made by `cli/dapr_programs` for programs that joined and by `plan/dapr_routing` for Functions, which also
makes ways of them; sent between processes as they are. Plain data.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pelton.model.dapr import AccessControl, DaprConfiguration, HttpEndpoint
from pelton.model.resiliency import Resiliency
from pelton.model.routing import Endpoint

__all__ = ["CallRules", "CalledApp", "CallingApp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRules:
    """Resources by which the runtime judges or changes calls between apps."""

    resiliencies: tuple[Resiliency, ...] = ()
    configurations: tuple[DaprConfiguration, ...] = ()
    endpoints: tuple[HttpEndpoint, ...] = ()

    def of_calls(self, namespace: str) -> CallRules:
        """Return what holds for the calls of an app of a namespace, its Configuration apart."""
        here = ("", namespace)
        return CallRules(
            resiliencies=tuple(one for one in self.resiliencies if one.namespace in here),
            endpoints=tuple(one for one in self.endpoints if one.namespace in here),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CallingApp:
    """An app whose HTTP port of the runtime is a port of the gateway.

    Attributes:
        name: Of the port; unique.
        app_id, namespace: Who calls there.
        host: Address of the port.
        port: Its number.
        inner: Port of the runtime's HTTP API for this app, on 127.0.0.1.
        token: What it must show as `dapr-api-token`; "" for nothing. Never logged.
        body_limit_bytes: Largest body; 0 for no limit.
        direct: Whether any of its calls may pass the runtime by.
        rules: What holds for its calls; of the Configurations none.
    """

    name: str
    app_id: str
    namespace: str
    port: int
    inner: int
    host: str = "127.0.0.1"
    token: str = field(default="", repr=False)
    body_limit_bytes: int = 4 * 1024 * 1024
    direct: bool = True
    rules: CallRules = CallRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class CalledApp:
    """An app that the gateway can call.

    Attributes:
        key: Of its cluster: a function's, or that of the upstream that its endpoints make.
        app_id, namespace: Who is called.
        endpoints: Where its programs listen; empty for a function.
        fallback: Unix socket of the runtime that takes a call over that reached no program; "" for none.
        token: What it is shown as `dapr-api-token`; "" for nothing. Never logged.
        access: Who may call it; None for everybody.
    """

    key: str
    app_id: str
    namespace: str
    endpoints: tuple[Endpoint, ...] = ()
    fallback: str = ""
    token: str = field(default="", repr=False)
    access: AccessControl | None = None
