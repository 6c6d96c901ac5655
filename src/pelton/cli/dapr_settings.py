"""What flags and environment say about an app, as the runtime takes it.

Plain data, so that it can travel to another process. Used by `dapr_alone.py`.
Source: contracts, Dapr HTTP, sections 5 to 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from pelton.cli.dapr_flags import RUN, Parsed
from pelton.compat.dapr.apps import App, AppHealth
from pelton.model.dapr import DaprConfiguration

__all__ = ["AppSettings", "Served", "settings_of"]


_GRACE_S: Final = 5.0


class AppSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one app.

    Attributes:
        app: Who it is.
        host: Where its ports of the runtime are.
        http, grpc: Their numbers, 0 for free ones.
        sockets: Directory of unix sockets instead; "" for TCP.
        folders: Resources paths, absolute; empty takes what is there anyway.
        configuration: Files with a Configuration, absolute.
        public, public_host: Port for health and metadata only, 0 for none; its address, "" for `host`.
        own_namespace: NAMESPACE, "" where it is not set: whose resources count.
        ask: Whether the app is asked for subscriptions.
        grace_s: Seconds that what is under way has when the runtime ends.
    """

    app: App
    host: str = "127.0.0.1"
    http: int = 0
    grpc: int = 0
    sockets: str = ""
    public: int = 0
    public_host: str = ""
    folders: tuple[str, ...] = ()
    configuration: tuple[str, ...] = ()
    own_namespace: str = ""
    ask: bool = True
    grace_s: float = _GRACE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """An app that is served: where it reaches the runtime, and what tells that the runtime is gone.

    Attributes:
        host, http, grpc: Address and ports.
        ready: Returns once the app has been asked what it wants.
        ended: Returns when the runtime ends: a sentence, "" where the app asked for it.
        place: For people: where the runtime is.
        overdue: Tells afterwards whether something was not done in its time.
    """

    host: str
    http: int
    grpc: int
    ready: Callable[[], Any]
    ended: Callable[[], Any]
    place: str = ""
    overdue: Callable[[], bool] = lambda: False


def settings_of(
    parsed: Parsed, environment: Mapping[str, str], configuration: DaprConfiguration | None = None
) -> AppSettings:
    """Return an app's settings.

    Args:
        parsed: Flags.
        environment: NAMESPACE, DAPR_API_TOKEN and APP_API_TOKEN are looked at.
        configuration: What it may do; None for no rule.
    """
    values: dict[str, Any] = parsed.values
    health = None
    if values["enable-app-health-check"]:
        health = AppHealth(
            path=values["app-health-check-path"],
            interval_s=values["app-health-probe-interval"] or 5.0,
            timeout_s=values["app-health-probe-timeout"] or 0.5,
            threshold=max(1, values["app-health-threshold"]),
        )
    app = App(
        app_id=values["app-id"],
        namespace=environment.get("NAMESPACE") or "default",
        protocol=values["app-protocol"],
        port=values["app-port"],
        address=values["app-channel-address"],
        max_concurrency=values["app-max-concurrency"],
        health=health,
        api_token=environment.get("DAPR_API_TOKEN", ""),
        app_token=environment.get("APP_API_TOKEN", ""),
        configuration=configuration or DaprConfiguration(),
        body_limit_bytes=_size(values, "max-body-size", "dapr-http-max-request-size", 1024 * 1024),
        header_limit_bytes=_size(values, "read-buffer-size", "dapr-http-read-buffer-size", 1024),
        allowed_origins=tuple(each.strip() for each in values.get("allowed-origins", "*").split(",")),
    )
    disabled = {word.strip() for word in str(values.get("disable-init-endpoints", "")).split(",")}
    return AppSettings(
        app=app,
        host=values["dapr-listen-addresses"].split(",")[0].strip() or "127.0.0.1",
        http=values["dapr-http-port"] or 0,
        grpc=values["dapr-grpc-port"] or 0,
        sockets=str(Path(values["unix-domain-socket"]).absolute()) if values["unix-domain-socket"] else "",
        public=values.get("dapr-public-port") or 0,
        public_host=values.get("dapr-public-listen-address", ""),
        folders=tuple(
            str(Path(each).absolute()) for each in (*values["resources-path"], *values["components-path"])
        ),
        configuration=tuple(str(Path(each).absolute()) for each in values["config"]),
        own_namespace=environment.get("NAMESPACE", ""),
        ask="subscribe" not in disabled,
        grace_s=_GRACE_S if (grace := values.get("dapr-graceful-shutdown-seconds", -1)) < 0 else grace,
    )


def _size(values: Mapping[str, Any], name: str, older: str, unit: int) -> int:
    """Return a size in bytes by its flag, or by the older one, which counts units; -1 is the default."""
    size: int = values[name]
    default: int = RUN[name].default
    if size == default and values.get(older, 0) > 0:
        size = values[older] * unit
    return size if size > 0 else default
