"""What a render has to know about a cluster, and how it is read from objects that lie beside the functions.

`Cluster` is filled in by `cli/render.py`: from the ConfigMap `openfunction-config`, from Gateways of
networking.openfunction.io, and from flags. What is in none of these has the values of OpenFunction's own
installation. Pure.

Source: contracts, OpenFunction, sections 5 and 8.1 (end), and autoscaling, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pelton.errors import RenderError
from pelton.manifest import text
from pelton.model.function import Exporter, GatewayRef, Hooks, Tracing, TracingProvider
from pelton.model.openfunction_gateway import OpenFunctionGateway

__all__ = [
    "CONFIG_MAP",
    "DEFAULT_GATEWAY",
    "HTTP_ADD_ON_VERSIONS",
    "INTERNAL_PORT",
    "Cluster",
    "read_config_map",
    "read_plugins",
]

CONFIG_MAP = "openfunction-config"
"""Name of the ConfigMap with OpenFunction's global settings."""
DEFAULT_GATEWAY = OpenFunctionGateway(
    namespace="openfunction",
    name="openfunction",
    domain="ofn.io",
    reference=GatewayRef(namespace="projectcontour", name="contour"),
)
"""What OpenFunction installs."""
INTERNAL_PORT = 80
"""Of the listener for callers inside the cluster, in every Gateway."""
HTTP_ADD_ON_VERSIONS = ("v1alpha1", "v1beta1")
"""Versions of http.keda.sh: HTTPScaledObject, or InterceptorRoute with a ScaledObject of one's own."""

_DEFAULT_PROXY_IMAGE = "openfunction/dapr-proxy:v0.1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Settings of a cluster that are not in a Function.

    Attributes:
        gateways: (namespace, name) -> Gateway, with defaults; OpenFunction's own need not be there.
        hooks, tracing: Around the invocations of all functions; None for none.
        proxy_image: Image of the Dapr proxy.
        http_add_on: Version of http.keda.sh to write, one of HTTP_ADD_ON_VERSIONS.
        http_add_on_namespace: Where KEDA's HTTP add-on is installed.
    """

    gateways: Mapping[tuple[str, str], OpenFunctionGateway] = field(default_factory=dict)
    hooks: Hooks | None = None
    tracing: Tracing | None = None
    proxy_image: str = _DEFAULT_PROXY_IMAGE
    http_add_on: str = HTTP_ADD_ON_VERSIONS[0]
    http_add_on_namespace: str = "keda"


def read_config_map(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Read `openfunction-config`: attributes of Cluster -> values, for the keys that are there.

    Raises:
        RenderError: A value is not the YAML that the key asks for.
    """
    data = {key: value for key, value in _object(obj.get("data")).items() if isinstance(value, str)}
    found: dict[str, Any] = {}
    for key in ("hooks", "plugins"):  # the newer key wins, here and below
        if key in data:
            found["hooks"] = read_plugins(data[key], f"ConfigMap {CONFIG_MAP}: data.{key}")
            break
    for key in ("tracing", "plugins.tracing"):
        if key in data:
            found["tracing"] = _tracing(_yaml(data[key], f"ConfigMap {CONFIG_MAP}: data[{key}]"))
            break
    if data.get("openfunction.dapr-proxy.image"):
        found["proxy_image"] = data["openfunction.dapr-proxy.image"]
    return found


def read_plugins(written: str, where: str) -> Hooks:
    """Read the YAML of plugins: `order` is both ways, `pre` and `post` win over it.

    Args:
        written: The text of the annotation `plugins`, or of that key of the ConfigMap.
        where: For the message.

    Raises:
        RenderError: It is not such YAML.
    """
    found = _yaml(written, where)
    order = _names(found.get("order"), where)
    pre, post = _names(found.get("pre"), where), _names(found.get("post"), where)
    return Hooks(pre=pre or order, post=post or tuple(reversed(order)))


def _names(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RenderError(f"{where} must list names, found {value!r}", hint="write pre: [a, b], post: [c]")
    return tuple(value)


def _yaml(written: str, where: str) -> dict[str, Any]:
    # `parse` takes resources only, hence the wrapping of what is one mapping.
    lines = "\n".join(f"  {line}" for line in written.splitlines())
    head = "apiVersion: v1\nkind: Settings\nmetadata: {name: settings}\nsettings:"
    parsed = text.parse(f"{head}\n{lines}\n", where)
    settings = parsed.documents[0].data.get("settings") if parsed.documents else None
    if parsed.errors or not isinstance(settings, dict | None):
        raise RenderError(f"{where} is not a YAML mapping", hint="write it as OpenFunction reads it")
    return settings or {}


def _tracing(settings: Mapping[str, Any]) -> Tracing:
    provider = _object(settings.get("provider"))
    exporter = _object(provider.get("exporter"))
    return Tracing(
        enabled=settings.get("enabled") is True,
        provider=TracingProvider(
            name=str(provider["name"]),
            oap_server=str(provider.get("oapServer") or ""),
            exporter=Exporter(
                name=str(exporter["name"]),
                endpoint=str(exporter.get("endpoint") or ""),
                **{
                    key: str(exporter[key])
                    for key in ("headers", "compression", "timeout", "protocol")
                    if exporter.get(key)
                },
            )
            if exporter.get("name")
            else None,
        )
        if provider.get("name")
        else None,
        tags={str(key): str(value) for key, value in _object(settings.get("tags")).items()},
        baggage={str(key): str(value) for key, value in _object(settings.get("baggage")).items()},
    )


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
