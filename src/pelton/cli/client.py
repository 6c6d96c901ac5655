"""A small client of the platform's API, for our own commands; speaks what kubectl speaks.

Finds the platform through `cli/home.py`. Errors of the server arrive as the PeltonError that fits.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import httpx

from pelton.cli.home import Home
from pelton.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidError,
    ManifestError,
    NotFoundError,
    NotRunningError,
    PeltonError,
    UnservedVersionError,
    UsageError,
)
from pelton.manifest import kinds

__all__ = ["Client", "Resource", "Served"]


class NamespaceNotFoundError(NotFoundError):
    """The namespace of an object does not exist."""


class Resource(Protocol):
    """What the client has to know of a kind: a row of `manifest.kinds`, or what discovery told."""

    @property
    def group(self) -> str:
        """API group, "" for core."""
        ...

    @property
    def version(self) -> str:
        """Version to speak."""
        ...

    @property
    def kind(self) -> str:
        """Kind."""
        ...

    @property
    def plural(self) -> str:
        """As in paths."""
        ...

    @property
    def singular(self) -> str:
        """As in messages."""
        ...

    @property
    def namespaced(self) -> bool:
        """Whether objects live in a namespace."""
        ...

    @property
    def api_version(self) -> str:
        """Group and version as objects have it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A kind that the server told of."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool
    short_names: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """Group and version as objects have it."""
        return f"{self.group}/{self.version}" if self.group else self.version


_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_MERGE_PATCH = "application/merge-patch+json"


class Client:
    """Talks to the platform that runs on a home.

    Args:
        home: The home; NotRunningError when nothing runs there.
    """

    def __init__(self, home: Home) -> None:
        self.endpoints = home.endpoints()
        self.warnings: list[str] = []
        context = ssl.create_default_context(cafile=self.endpoints.ca)
        self._http = httpx.Client(
            base_url=self.endpoints.api,
            verify=context,
            headers={"authorization": f"Bearer {home.secrets()['token']}"},
            timeout=httpx.Timeout(60.0, connect=5.0),
            trust_env=False,  # the API is on this machine; a proxy has no business in between
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def resource(self, word: str) -> Resource:
        """Return the kind that a user means: plural, singular, short name or kind; `.group` may follow.

        Raises:
            ManifestError: Neither Pelton nor the server knows it.
        """
        try:
            return kinds.by_resource(word)
        except ManifestError:
            name, _, group = word.lower().partition(".")
            for row in self.served():
                names = (row.plural, row.singular, row.kind.lower(), *row.short_names)
                if name in names and group in ("", row.group):
                    return row
            raise

    def lookup(self, api_version: Any, kind: Any) -> Resource:
        """Return the kind of an object; raises ManifestError when neither Pelton nor the server knows it."""
        try:
            return kinds.lookup(api_version, kind)
        except UnservedVersionError:
            raise
        except ManifestError:
            for row in self.served():
                if (row.api_version, row.kind) == (api_version, kind):
                    return row
            raise

    def served(self) -> list[Served]:
        """Return every kind that the server serves now, in its preferred order."""
        found = []
        for path in ("/api", "/apis"):
            for group in self._call("GET", path, headers={"accept": _DISCOVERY})["items"]:
                for version in group["versions"]:
                    found += [
                        Served(
                            group=group["metadata"].get("name", ""),
                            version=version["version"],
                            kind=item["responseKind"]["kind"],
                            plural=item["resource"],
                            singular=item["singularResource"],
                            namespaced=item["scope"] == "Namespaced",
                            short_names=tuple(item.get("shortNames", ())),
                        )
                        for item in version["resources"]
                    ]
        return found

    def apply(self, kind: Resource, obj: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Apply on the server, taking contested fields over; makes the namespace when it does not exist."""
        metadata = obj["metadata"]
        path = f"{_path(kind, metadata.get('namespace'))}/{metadata['name']}?fieldManager=pelton&force=true"
        path += "&dryRun=All" if dry_run else ""
        headers = {"content-type": "application/apply-patch+yaml"}
        try:
            return self._call("PATCH", path, body=obj, headers=headers)
        except NamespaceNotFoundError:
            if dry_run:
                return obj
            self._make_namespace(metadata["namespace"])
            return self._call("PATCH", path, body=obj, headers=headers)

    def get(self, kind: Resource, namespace: str, name: str) -> dict[str, Any]:
        """Return one object; raises NotFoundError."""
        return self._call("GET", f"{_path(kind, namespace)}/{name}")

    def list(self, kind: Resource, namespace: str | None, *, table: bool = False) -> dict[str, Any]:
        """Return a list, or a Table for people; `namespace` None means all."""
        headers = {"accept": _TABLE} if table else {}
        return self._call("GET", _path(kind, namespace), headers=headers)

    def table(self, kind: Resource, namespace: str, name: str) -> dict[str, Any]:
        """Return one object as a Table."""
        return self._call("GET", f"{_path(kind, namespace)}/{name}", headers={"accept": _TABLE})

    def create(self, kind: Resource, obj: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Create, and first the namespace when it does not exist; raises AlreadyExistsError or InvalidError.

        A dry run in a namespace that does not exist returns the object as it was given.
        """
        query = "?dryRun=All" if dry_run else ""
        namespace = obj["metadata"].get("namespace", "")
        try:
            return self._call("POST", _path(kind, namespace) + query, body=obj)
        except NamespaceNotFoundError:
            if dry_run:
                return obj
            self._make_namespace(namespace)
            return self._call("POST", _path(kind, namespace), body=obj)

    def update(self, kind: Resource, obj: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Replace; raises ConflictError when the object changed since its resourceVersion."""
        query = "?dryRun=All" if dry_run else ""
        metadata = obj["metadata"]
        return self._call(
            "PUT", f"{_path(kind, metadata.get('namespace', ''))}/{metadata['name']}{query}", body=obj
        )

    def merge_patch(self, kind: Resource, namespace: str, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        """Apply a JSON merge patch."""
        headers = {"content-type": _MERGE_PATCH}
        return self._call("PATCH", f"{_path(kind, namespace)}/{name}", body=patch, headers=headers)

    def delete(self, kind: Resource, namespace: str, name: str) -> dict[str, Any]:
        """Delete; raises NotFoundError. The object may stay for a while until its finalizers are done."""
        return self._call("DELETE", f"{_path(kind, namespace)}/{name}")

    def watch(
        self, kind: Resource, namespace: str | None, *, name: str = "", since: str = "", timeout_s: int = 600
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Iterate over (type, object); `since` "" starts with what exists. Ends after `timeout_s`."""
        query: dict[str, str] = {"watch": "true", "timeoutSeconds": str(timeout_s)}
        if name:
            query["fieldSelector"] = f"metadata.name={name}"
        if since:
            query["resourceVersion"] = since
        try:
            with self._http.stream(
                "GET", _path(kind, namespace), params=query, timeout=httpx.Timeout(timeout_s + 10.0)
            ) as response:
                if response.status_code != 200:
                    response.read()
                    raise _error(response)
                for line in response.iter_lines():
                    if line:
                        event = json.loads(line)
                        yield event["type"], event["object"]
        except httpx.TransportError as exc:
            raise NotRunningError(f"the API server went away: {exc}", hint="see `pelton status`") from exc

    def follow(
        self, kind: Resource, namespace: str | None, *, name: str = ""
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Iterate over (type, object) without an end: what exists, then every change."""
        since = ""
        while True:
            try:
                for change, obj in self.watch(kind, namespace, name=name, since=since):
                    if change == "ERROR":
                        raise PeltonError(obj.get("message", "the watch failed"))
                    since = obj["metadata"]["resourceVersion"]
                    if change != "BOOKMARK":
                        yield change, obj
            except NotRunningError:
                raise
            except PeltonError:
                if not since:
                    raise
                since = ""  # too far behind to go on from there: begin with what exists

    def _make_namespace(self, name: str) -> None:
        with suppress(AlreadyExistsError):  # someone else was faster
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            self._call("POST", "/api/v1/namespaces", body=body)

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        try:
            content = json.dumps(body).encode() if body is not None else None
            merged = {"content-type": "application/json", **(headers or {})}
            response = self._http.request(method, path, content=content, headers=merged)
        except httpx.TransportError as exc:
            raise NotRunningError(
                f"the API server at {self.endpoints.api} does not answer: {exc}", hint="see `pelton status`"
            ) from exc
        if response.status_code >= 400:
            raise _error(response)
        for warning in response.headers.get_list("warning"):
            text = warning.split('"', 1)[-1].rstrip('"').replace('\\"', '"')
            if text not in self.warnings:
                self.warnings.append(text)
        answer: dict[str, Any] = response.json()
        return answer


def _path(kind: Resource, namespace: str | None) -> str:
    middle = f"namespaces/{namespace}/" if kind.namespaced and namespace else ""
    root = f"apis/{kind.group}" if kind.group else "api"
    return f"/{root}/{kind.version}/{middle}{kind.plural}"


def _error(response: httpx.Response) -> PeltonError:
    """Turn a Status into the error that fits."""
    try:
        status = response.json()
    except ValueError:
        return PeltonError(f"the API server answered {response.status_code}: {response.text[:200]}")
    message, reason = status.get("message", ""), status.get("reason", "")
    if reason == "Invalid":
        causes = status.get("details", {}).get("causes", ())
        return InvalidError(message, causes=tuple((c.get("field", ""), c.get("message", "")) for c in causes))
    if reason == "NotFound" and status.get("details", {}).get("kind") == "namespaces":
        return NamespaceNotFoundError(message)
    kinds: dict[str, type[PeltonError]] = {
        "NotFound": NotFoundError,
        "AlreadyExists": AlreadyExistsError,
        "Conflict": ConflictError,
        "BadRequest": UsageError,
    }
    return kinds.get(reason, PeltonError)(message or f"the API server answered {response.status_code}")
