"""One Service and one EndpointSlice per Function that answers HTTP: its name, and where it is reached.

The slice points at the gateway, which routes by host; both belong to the Function and go with it. A Service
of the same name that somebody else made is left alone. Run by `cli/control_plane.py`.

Source: contracts, OpenFunction, section 8 (a Service under the Function's name).
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

from pelton import log
from pelton.clock import Clock
from pelton.errors import AlreadyExistsError, NotFoundError, PeltonError
from pelton.ports import Store

__all__ = ["ServiceKeeper"]

FUNCTIONS = "functions.core.openfunction.io"
SERVICES = "services"
SLICES = "endpointslices.discovery.k8s.io"
_FUNCTION = "openfunction.io/function"
_MANAGED = "app.kubernetes.io/managed-by"
_AGAIN_S = 1.0
_log = log.get(__name__)


class ServiceKeeper:
    """Keeps the Services of Functions.

    Args:
        store: Where Functions and Services are.
        gateway: (host, port) on which the gateway listens.
        clock: For waiting after a failure.
    """

    def __init__(self, store: Store, *, gateway: tuple[str, int], clock: Clock) -> None:
        self._store = store
        self._clock = clock
        host, self._port = gateway
        self._address = "127.0.0.1" if host in ("", "0.0.0.0") else "::1" if host == "::" else host
        try:
            self._form = f"IPv{ipaddress.ip_address(self._address).version}"
        except ValueError:
            self._form = "FQDN"
        self._done: dict[str, bool] = {}  # uid of a Function -> whether it had an HTTP trigger

    async def run(self) -> None:
        """Keep them until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._again(self._watch_functions))
            tasks.create_task(self._again(self._watch_services))

    async def _again(self, watch: Any) -> None:
        while True:
            try:
                await watch()
            except PeltonError as error:
                _log.warning("services of functions are read again: %s", error)
            await self._clock.sleep(_AGAIN_S)

    async def _watch_functions(self) -> None:
        self._done.clear()
        async for event in self._store.watch(FUNCTIONS):
            if event.type == "DELETED":
                self._done.pop(event.object["metadata"]["uid"], None)
            else:
                await self.keep(event.object)

    async def _watch_services(self) -> None:
        """Make a Service again that was deleted while its Function lives."""
        async for event in self._store.watch(SERVICES):
            metadata = event.object["metadata"]
            name = (metadata.get("labels") or {}).get(_FUNCTION)
            if event.type != "DELETED" or not name:
                continue
            try:
                function = await self._store.get(FUNCTIONS, metadata["namespace"], name)
            except NotFoundError:
                continue
            self._done.pop(function["metadata"]["uid"], None)
            await self.keep(function)

    async def keep(self, function: dict[str, Any]) -> None:
        """Make the Service and the slice of a Function, or remove them when it has no HTTP trigger."""
        metadata = function["metadata"]
        wanted = _has_http(function)
        if metadata.get("deletionTimestamp") or self._done.get(metadata["uid"]) is wanted:
            return
        for resource, obj in ((SERVICES, self._service(function)), (SLICES, self._slice(function))):
            if wanted:
                await self._ensure(resource, obj)
            else:
                await self._remove(resource, obj)
        self._done[metadata["uid"]] = wanted

    async def _ensure(self, resource: str, obj: dict[str, Any]) -> None:
        metadata = obj["metadata"]
        try:
            await self._store.create(resource, obj)
        except AlreadyExistsError:
            old = await self._store.get(resource, metadata["namespace"], metadata["name"])
            content = [key for key in obj if key not in ("apiVersion", "kind", "metadata")]
            if _is_ours(old, obj) and any(old.get(key) != obj[key] for key in content):
                await self._store.update(resource, {**old, **{key: obj[key] for key in content}})

    async def _remove(self, resource: str, obj: dict[str, Any]) -> None:
        metadata = obj["metadata"]
        try:
            old = await self._store.get(resource, metadata["namespace"], metadata["name"])
            if _is_ours(old, obj):
                await self._store.delete(resource, metadata["namespace"], metadata["name"])
        except NotFoundError:
            return

    def _service(self, function: dict[str, Any]) -> dict[str, Any]:
        port = {"name": "http", "port": 80, "protocol": "TCP", "targetPort": self._port}
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _metadata(function, function["metadata"]["name"]),
            "spec": {
                "type": "ClusterIP",
                "clusterIP": "None",
                "clusterIPs": ["None"],
                "internalTrafficPolicy": "Cluster",
                "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack",
                "ports": [port],
                "sessionAffinity": "None",
            },
        }

    def _slice(self, function: dict[str, Any]) -> dict[str, Any]:
        metadata = _metadata(function, f"{function['metadata']['name']}-gateway")
        metadata["labels"]["kubernetes.io/service-name"] = function["metadata"]["name"]
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata,
            "addressType": self._form,
            "endpoints": [{"addresses": [self._address], "conditions": {"ready": True}}],
            "ports": [{"name": "http", "port": self._port, "protocol": "TCP"}],
        }


def _has_http(function: dict[str, Any]) -> bool:
    serving = (function.get("spec") or {}).get("serving") or {}
    return (serving.get("triggers") or {}).get("http") is not None


def _is_ours(old: dict[str, Any], obj: dict[str, Any]) -> bool:
    uid = obj["metadata"]["ownerReferences"][0]["uid"]
    return any(owner.get("uid") == uid for owner in old["metadata"].get("ownerReferences") or ())


def _metadata(function: dict[str, Any], name: str) -> dict[str, Any]:
    owner = function["metadata"]
    return {
        "name": name,
        "namespace": owner["namespace"],
        "labels": {_FUNCTION: owner["name"], _MANAGED: "pelton"},
        "ownerReferences": [
            {
                "apiVersion": function["apiVersion"],
                "kind": function["kind"],
                "name": owner["name"],
                "uid": owner["uid"],
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
