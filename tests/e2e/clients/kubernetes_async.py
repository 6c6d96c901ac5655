"""What a controller does with `kubernetes_asyncio`; run by test_clients.py with KUBECONFIG set."""

# Written as users of it write, who pass dictionaries where models are declared.
# mypy: ignore-errors
import asyncio
import os

from kubernetes_asyncio import client, config, watch


async def main():
    """List, watch from there, and see one's own writes."""
    await config.load_kube_config(os.environ["KUBECONFIG"])
    async with client.ApiClient() as connection:
        core = client.CoreV1Api(connection)
        listed = await core.list_namespaced_config_map("default")
        seen = []
        async with asyncio.timeout(20), watch.Watch() as watching:
            await core.create_namespaced_config_map("default", {"metadata": {"name": "a"}})
            async for event in watching.stream(
                core.list_namespaced_config_map,
                "default",
                resource_version=listed.metadata.resource_version,
            ):
                seen.append((event["type"], event["object"].data))
                if len(seen) == 1:
                    await core.patch_namespaced_config_map("a", "default", {"data": {"k": "v"}})
                else:
                    break
    assert seen == [("ADDED", None), ("MODIFIED", {"k": "v"})], seen


asyncio.run(main())
print("done")
