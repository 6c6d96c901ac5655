"""What a script does with `kr8s`; run by test_clients.py with KUBECONFIG set."""

# Written as users of it write, who pass dictionaries where models are declared.
# mypy: ignore-errors
import asyncio
import os

import kr8s
from kr8s.asyncio.objects import ConfigMap, new_class

FUNCTION = {
    "apiVersion": "core.openfunction.io/v1beta2",
    "kind": "Function",
    "metadata": {"name": "hello", "namespace": "default", "labels": {"app": "shop"}},
    "spec": {"version": "v1.0.0", "image": "example/hello:v1", "serving": {"triggers": {"http": {}}}},
}


async def main():
    """Make, patch, label, list, watch and delete."""
    client = await kr8s.asyncio.api(kubeconfig=os.environ["KUBECONFIG"])
    made = await ConfigMap({"metadata": {"name": "a"}, "data": {"k": "1"}}, api=client)
    await made.create()
    await made.patch({"data": {"k": "2"}})
    await made.label({"tier": "front"})
    found = [each async for each in client.get("configmaps", label_selector={"tier": "front"})]
    assert [each.data for each in found] == [{"k": "2"}]

    kind = new_class("Function", "core.openfunction.io/v1beta2", asyncio=True, plural="functions")
    function = await kind(FUNCTION, api=client)
    await function.create()
    assert await function.exists()

    seen = []
    async with asyncio.timeout(20):
        async for event, obj in client.watch("configmaps"):
            seen.append((event, obj.name))
            if event == "DELETED":
                break
            await made.delete()
    assert seen == [("ADDED", "a"), ("DELETED", "a")], seen


asyncio.run(main())
print("done")
