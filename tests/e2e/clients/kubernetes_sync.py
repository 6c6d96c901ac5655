"""What a controller does with the client `kubernetes`; run by test_clients.py with KUBECONFIG set."""

# Written as users of it write, who pass dictionaries where models are declared.
# mypy: ignore-errors
import os
from datetime import UTC, datetime

import kubernetes
from kubernetes import client, config, watch

FUNCTION = {
    "apiVersion": "core.openfunction.io/v1beta2",
    "kind": "Function",
    "metadata": {"name": "hello", "namespace": "default", "labels": {"app": "shop"}},
    "spec": {"version": "v1.0.0", "image": "example/hello:v1", "serving": {"triggers": {"http": {}}}},
}
PLACE = ("core.openfunction.io", "v1beta2", "shop", "functions")

connection = config.new_client_from_config(os.environ["KUBECONFIG"])
core, custom = client.CoreV1Api(connection), client.CustomObjectsApi(connection)

core.create_namespace({"metadata": {"name": "shop"}})
core.create_namespaced_config_map("shop", {"metadata": {"generateName": "c-"}, "data": {"a": "1"}})
(made,) = core.list_namespaced_config_map("shop").items
assert made.data == {"a": "1"}
assert made.metadata.name.startswith("c-")

core.create_namespaced_secret("shop", {"metadata": {"name": "s"}, "stringData": {"k": "v"}})
secret = core.read_namespaced_secret("s", "shop")
assert (secret.data, secret.type) == ({"k": "dg=="}, "Opaque")

function = {**FUNCTION, "metadata": {"name": "hello", "namespace": "shop"}}
custom.create_namespaced_custom_object(*PLACE, function)
seen, watching = [], watch.Watch()
for event in watching.stream(custom.list_namespaced_custom_object, *PLACE, timeout_seconds=20):
    seen.append((event["type"], event["object"]["metadata"]["name"]))
    if event["type"] == "ADDED":
        custom.patch_namespaced_custom_object_status(
            *PLACE, "hello", {"status": {"serving": {"state": "Running"}}}
        )
        custom.delete_namespaced_custom_object(*PLACE, "hello")
    elif event["type"] == "DELETED":
        watching.stop()
assert seen == [("ADDED", "hello"), ("MODIFIED", "hello"), ("DELETED", "hello")], seen

lease = client.CoordinationV1Api(connection).create_namespaced_lease(
    "shop",
    client.V1Lease(
        metadata=client.V1ObjectMeta(name="leader"),
        spec=client.V1LeaseSpec(holder_identity="me", renew_time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ),
)
assert lease.spec.renew_time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

dynamic = kubernetes.dynamic.DynamicClient(connection)
maps = dynamic.resources.get(api_version="v1", kind="ConfigMap")
for manager, data in (("one", {"a": "1", "b": "1"}), ("two", {"b": "2"}), ("one", {})):
    applied = dynamic.server_side_apply(
        maps,
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": data},
        namespace="shop",
        field_manager=manager,
        force_conflicts=True,
    )
assert applied.data.to_dict() == {"b": "2"}

try:
    core.read_namespaced_config_map("none", "shop")
except client.ApiException as error:
    assert (error.status, error.reason) == (404, "Not Found")
else:
    raise AssertionError("there is no such object")
print("done")
