"""What a controller does with `lightkube`; run by test_clients.py with KUBECONFIG set."""

# Written as users of it write, who pass dictionaries where models are declared.
# mypy: ignore-errors
import asyncio
import os

import lightkube
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap
from lightkube.types import PatchType

FUNCTION = {
    "apiVersion": "core.openfunction.io/v1beta2",
    "kind": "Function",
    "metadata": {"name": "hello", "namespace": "default", "labels": {"app": "shop"}},
    "spec": {"version": "v1.0.0", "image": "example/hello:v1", "serving": {"triggers": {"http": {}}}},
}


def config_map(**data):
    return ConfigMap(
        apiVersion="v1", kind="ConfigMap", metadata=ObjectMeta(name="b", namespace="default"), data=data
    )


async def main():
    """Create, apply with a conflict, patch a custom kind, watch."""
    settings = lightkube.KubeConfig.from_file(os.environ["KUBECONFIG"])
    client = lightkube.AsyncClient(settings, field_manager="one")
    await client.create(ConfigMap(metadata=ObjectMeta(name="a"), data={"k": "1"}))
    assert (await client.apply(config_map(x="1"))).data == {"x": "1"}
    try:
        await client.apply(config_map(x="2"), field_manager="two")
    except lightkube.ApiError as error:
        assert error.status.reason == "Conflict"
    else:
        raise AssertionError("a conflict was expected")
    assert (await client.apply(config_map(x="2"), field_manager="two", force=True)).data == {"x": "2"}

    function = create_namespaced_resource("core.openfunction.io", "v1beta2", "Function", "functions")
    await client.create(function(FUNCTION))
    patched = await client.patch(
        function, "hello", {"spec": {"version": "v2.0.0"}}, patch_type=PatchType.MERGE
    )
    assert patched["spec"]["version"] == "v2.0.0"

    seen = []
    async with asyncio.timeout(20):
        async for event, obj in client.watch(ConfigMap):
            seen.append((event, obj.metadata.name))
            if event == "DELETED":
                break
            if len(seen) == 2:
                await client.delete(ConfigMap, "a")
    assert seen == [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a")], seen


asyncio.run(main())
print("done")
