"""`secretstores.kubernetes`: Secrets of an API server, Pelton's own or a cluster's.

Implements `ports.SecretStore` over HTTPS. Where the server is and who asks comes from a kubeconfig: the one
that `kubeconfigPath` names, else the service account of the pod that this runs in, else `KUBECONFIG`, else
the platform's own.
Source: `dapr-components` contract, section 5; kubeconfig as Kubernetes documents it.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from pelton.certificates import client_context
from pelton.clock import Clock
from pelton.errors import ComponentError, ManifestError, NotFoundError
from pelton.manifest.text import load
from pelton.model.desired import Component
from pelton.model.settings import ComponentSettings

__all__ = ["KubernetesSecrets"]

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_S: Final = 10.0
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class _Server:
    url: str
    tls: ssl.SSLContext | bool
    token_file: Path | None = None
    token: str = ""
    namespace: str = ""

    def headers(self) -> dict[str, str]:
        """Return who asks; a token in a file is read each time, since the cluster replaces it."""
        token = self.token_file.read_text().strip() if self.token_file is not None else self.token
        return {"Authorization": f"Bearer {token}"} if token else {}


class KubernetesSecrets:
    """Secrets of the API server.

    Args:
        component: `kubeconfigPath`, and `defaultNamespace` for requests that name none; else the component's
            own namespace counts.
        clock: Unused.
        kubeconfig: The platform's own, for components that name none.
        variables: The environment; the process's own by default.
    """

    multiple = True
    """A secret has several keys."""

    def __init__(
        self,
        component: Component,
        *,
        clock: Clock,
        kubeconfig: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        settings = ComponentSettings(component)
        self._where = settings.where
        self._variables = os.environ if variables is None else variables
        named = settings.text("kubeconfigPath").strip()
        self._kubeconfig = Path(named) if named else None
        self._own = kubeconfig
        self._namespace = settings.text("defaultNamespace").strip() or self._variables.get("NAMESPACE", "")
        self._fallback = component.namespace
        self._server: _Server | None = None
        self._client: httpx.AsyncClient | None = None

    async def get(self, name: str, *, metadata: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return all keys of a Secret; see `ports.SecretStore`. Metadata: `namespace`."""
        namespace = self._namespace_of(metadata)
        if not name or "/" in name or name in {".", ".."}:
            raise NotFoundError(f"{name!r} is no name of a Secret", where=self._where)
        found = await self._ask(f"/api/v1/namespaces/{namespace}/secrets/{name}")
        if found is None:
            raise NotFoundError(f"there is no Secret {namespace}/{name}", where=self._where)
        return self._values(found)

    async def get_all(self, *, metadata: Mapping[str, str] | None = None) -> dict[str, dict[str, str]]:
        """Return all Secrets of a namespace by name; see `ports.SecretStore`. Metadata: `namespace`."""
        path = f"/api/v1/namespaces/{self._namespace_of(metadata)}/secrets"
        found, more = dict[str, dict[str, str]](), ""
        while True:
            parameters = {"limit": str(_PAGE), **({"continue": more} if more else {})}
            page = await self._ask(path, parameters) or {}
            for item in page.get("items") or ():
                found[item["metadata"]["name"]] = self._values(item)
            more = (page.get("metadata") or {}).get("continue") or ""
            if not more:
                return found

    async def close(self) -> None:
        """Close the connections; safe to repeat."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _namespace_of(self, metadata: Mapping[str, str] | None) -> str:
        given = {key.lower(): value for key, value in (metadata or {}).items()}
        namespace = given.get("namespace") or self._namespace
        if not namespace and self._server is not None:
            namespace = self._server.namespace
        namespace = namespace or self._fallback or "default"
        if "/" in namespace or namespace in {".", ".."}:
            raise NotFoundError(f"{namespace!r} is no name of a namespace", where=self._where)
        return namespace

    async def _ask(self, path: str, parameters: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        try:
            if self._server is None:
                self._server = self._find()
            if self._client is None:
                self._client = httpx.AsyncClient(
                    base_url=self._server.url, verify=self._server.tls, timeout=_TIMEOUT_S, trust_env=False
                )
            answer = await self._client.get(path, params=parameters, headers=self._server.headers())
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
            raise ComponentError(
                f"the API server was not reached: {type(exc).__name__}", where=self._where
            ) from exc
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        if answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            raise ComponentError(
                f"the API server does not let us read Secrets ({answer.status_code})",
                where=self._where,
                hint="Check the token of the kubeconfig and what its role may do.",
            )
        try:
            answer.raise_for_status()
            body = answer.json()
        except (httpx.HTTPStatusError, ValueError) as exc:
            raise ComponentError(
                f"the API server answered {answer.status_code} without a Secret", where=self._where
            ) from exc
        return body if isinstance(body, dict) else {}

    def _values(self, secret: Mapping[str, Any]) -> dict[str, str]:
        found = dict[str, str]()
        for key, value in (secret.get("data") or {}).items():
            try:
                found[key] = base64.b64decode(value, validate=True).decode(errors="replace")
            except (binascii.Error, ValueError, TypeError) as exc:
                raise ComponentError(f"key {key!r} of a Secret is no base64", where=self._where) from exc
        return found

    def _find(self) -> _Server:
        if self._kubeconfig is None:
            host = self._variables.get("KUBERNETES_SERVICE_HOST", "")
            if host and (_ACCOUNT / "token").exists():
                return _Server(
                    url=f"https://{host}:{self._variables.get('KUBERNETES_SERVICE_PORT', '443')}",
                    tls=client_context(where=self._where, ca=str(_ACCOUNT / "ca.crt")),
                    token_file=_ACCOUNT / "token",
                    namespace=(_ACCOUNT / "namespace").read_text().strip(),
                )
        named = self._variables.get("KUBECONFIG", "").split(os.pathsep)[0]
        path = self._kubeconfig or (Path(named) if named else self._own)
        if path is None:
            raise ComponentError(
                "no API server is known", where=self._where, hint="Name a kubeconfig by `kubeconfigPath`."
            )
        return self._read(path)

    def _read(self, path: Path) -> _Server:
        try:
            config = load(path.read_text())
            wanted = config["current-context"]
            context = _named(config["contexts"], wanted)["context"]
            cluster = _named(config["clusters"], context["cluster"])["cluster"]
            user = _named(config["users"], context["user"])["user"] if context.get("user") else {}
            tls: ssl.SSLContext | bool = False
            if cluster["server"].startswith("https:"):
                tls = client_context(
                    where=self._where,
                    ca=_entry(cluster, "certificate-authority", path),
                    cert=_entry(user, "client-certificate", path),
                    key=_entry(user, "client-key", path),
                    verify=not cluster.get("insecure-skip-tls-verify"),
                )
            token_file = user.get("tokenFile")
            return _Server(
                url=cluster["server"],
                tls=tls,
                token_file=path.parent / token_file if token_file else None,
                token=user.get("token", ""),
                namespace=context.get("namespace", ""),
            )
        except OSError as exc:
            raise ComponentError(
                f"the kubeconfig {path} cannot be read: {exc.strerror}", where=self._where
            ) from exc
        except (ManifestError, KeyError, TypeError, AttributeError, ValueError):
            raise ComponentError(
                f"the kubeconfig {path} names no server for its current context", where=self._where
            ) from None


def _named(entries: Any, name: str) -> Any:
    return next(entry for entry in [*entries, {}] if entry.get("name") == name or not entry)


def _entry(entry: Mapping[str, Any], name: str, path: Path) -> str:
    """Return PEM text from `<name>-data`, or the path that `<name>` has, relative to the kubeconfig."""
    if entry.get(f"{name}-data"):
        return base64.b64decode(entry[f"{name}-data"]).decode()
    return str(path.parent / entry[name]) if entry.get(name) else ""
