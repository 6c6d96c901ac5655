"""A tour with the real kubectl on a running platform: every command an engineer tries in the first hour."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.connected, pytest.mark.long]

KUBECTL = Path(sys.executable).parent / "kubectl"
CODE = """
def main(request):
    print("told by the worker")
    return "hello"
"""


class Kubectl:
    """kubectl with the kubeconfig of a platform."""

    def __init__(self, platform):
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(platform.home / "kubeconfig"),
            "HOME": str(platform.root),
        }

    def start(self, *words, **more):
        return subprocess.Popen(
            [KUBECTL, *words],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )

    def __call__(self, *words, stdin="", code=0, editor=""):
        done = subprocess.run(
            [KUBECTL, *words],
            env={**self._environment, "EDITOR": editor},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=45,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def json(self, *words):
        return json.loads(self(*words, "-o", "json"))


@pytest.fixture(scope="module")
def kubectl(shared):
    return Kubectl(shared)


@pytest.fixture(scope="module")
def hello(shared):
    shared.apply("hello", CODE)
    assert shared.request("hello").text == "hello"
    return shared


def test_function_is_seen_from_every_side(kubectl, hello):
    row = kubectl("get", "fn", "hello", "--no-headers").split()
    kubectl("wait", "fn/hello", "--for=jsonpath={.status.serving.state}=Running", "--timeout=20s")
    described = kubectl("describe", "fn", "hello")
    service = kubectl.json("get", "svc", "hello")
    ends = kubectl.json("get", "endpointslices", "-l", "kubernetes.io/service-name=hello")

    assert row[0] == "hello"
    assert "Events:" in described
    assert service["metadata"]["ownerReferences"][0]["kind"] == "Function"
    assert ends["items"][0]["ports"][0]["port"] == service["spec"]["ports"][0]["targetPort"]


def only_pod(kubectl):
    """Return the name of the only instance that is not on its way out, "" while there are others."""
    items = kubectl.json("get", "pods", "-l", "openfunction.io/function=hello")["items"]
    ready = [item for item in items if item["status"]["containerStatuses"][0]["ready"]]
    return ready[0]["metadata"]["name"] if len(items) == len(ready) == 1 else ""


def test_instances_are_pods_with_logs(kubectl, hello):
    kubectl("scale", "fn/hello", "--replicas=1")
    name = hello.until("one pod", lambda: only_pod(kubectl))
    kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=20s")
    hello.request("hello")
    heading, row = kubectl("get", "pods", name).splitlines()
    hello.until("the line", lambda: "told by the worker" in kubectl("logs", name))

    following = kubectl.start("logs", "-f", "--tail=1", "--timestamps", name)
    assert following.stdout is not None
    try:
        first = following.stdout.readline()
        hello.request("hello")
        second = following.stdout.readline()
    finally:
        following.kill()
        following.communicate()

    assert heading.split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert row.split()[:4] == [name, "1/1", "Running", "0"]
    assert first.endswith("Z told by the worker\n")
    assert second.endswith("Z told by the worker\n")
    assert len(kubectl("logs", "--limit-bytes=4", name)) == 4
    assert "previous terminated container" in kubectl("logs", "-p", name, code=1)
    assert "Node:" in kubectl("describe", "pod", name)


def test_scale_changes_the_instances_that_are_kept(kubectl, hello):
    kubectl("scale", "fn/hello", "--replicas=2")
    hello.until("two instances", lambda: len(hello.function("hello")["workers"]) >= 2)
    hello.until("two pods", lambda: len(kubectl.json("get", "pods")["items"]) >= 2)
    scale = json.loads(
        kubectl("get", "--raw", "/apis/core.openfunction.io/v1beta2/namespaces/default/functions/hello/scale")
    )
    kubectl("scale", "fn/hello", "--replicas=0")

    assert scale["spec"] == {"replicas": 2}
    assert scale["status"]["replicas"] >= 2


def test_three_patches_and_an_edit(kubectl, hello):
    del hello
    kubectl("create", "configmap", "c", "--from-literal=a=1")
    kubectl("patch", "cm", "c", "-p", '{"data":{"b":"2"}}')
    kubectl("patch", "cm", "c", "--type=merge", "-p", '{"data":{"a":null}}')
    kubectl("patch", "cm", "c", "--type=json", "-p", '[{"op":"add","path":"/data/c","value":"3"}]')
    kubectl("edit", "cm", "c", editor='sed -i s/\\"3\\"/\\"4\\"/')

    assert kubectl.json("get", "cm", "c")["data"] == {"b": "2", "c": "4"}
    refused = kubectl("patch", "fn", "hello", "--type=strategic", "-p", '{"spec":{}}', code=1)
    assert "is not served" in refused or "not supported" in refused


def test_server_side_apply_shares_an_object_by_fields(kubectl):
    def config(**data):
        return json.dumps(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shared"}, "data": data}
        )

    def apply(manager, *words, code=0, **data):
        return kubectl(
            "apply",
            "--server-side",
            f"--field-manager={manager}",
            *words,
            "-f",
            "-",
            stdin=config(**data),
            code=code,
        )

    apply("one", a="1", b="1")
    apply("two", c="2")
    conflict = apply("two", c="2", a="2", code=1)
    apply("two", "--force-conflicts", c="2", a="2")
    apply("one", b="1")

    assert 'conflict with "one": .data.a' in conflict
    assert kubectl.json("get", "cm", "shared")["data"] == {"a": "2", "b": "1", "c": "2"}


def test_client_side_apply_moves_to_the_server(kubectl):
    def config(**data):
        return json.dumps(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "moved"}, "data": data}
        )

    kubectl("apply", "-f", "-", stdin=config(a="1", b="1"))
    kubectl("apply", "--server-side", "-f", "-", stdin=config(a="2"))
    managers = {
        (entry["manager"], entry["operation"])
        for entry in kubectl.json("get", "cm", "moved", "--show-managed-fields")["metadata"]["managedFields"]
    }

    assert kubectl.json("get", "cm", "moved")["data"] == {"a": "2"}
    assert ("kubectl", "Apply") in managers


def test_apply_diff_and_replace(kubectl):
    manifest: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "two"},
        "spec": {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]},
    }
    kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    manifest["spec"]["ports"][1]["port"] = 82
    changed = kubectl("diff", "-f", "-", stdin=json.dumps(manifest), code=1)
    kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    same = kubectl("diff", "-f", "-", stdin=json.dumps(manifest))
    kubectl("replace", "-f", "-", stdin=json.dumps(manifest))

    assert "+  - name: b" in changed or "+    port: 82" in changed
    assert same == ""
    assert [port["port"] for port in kubectl.json("get", "svc", "two")["spec"]["ports"]] == [80, 82]


def test_strict_validation_refuses_what_it_does_not_know(kubectl):
    odd = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "odd"}, "dtaa": {}}

    refused = kubectl("apply", "-f", "-", stdin=json.dumps(odd), code=1)
    warned = kubectl("apply", "--validate=warn", "-f", "-", stdin=json.dumps(odd))

    assert 'unknown field "dtaa"' in refused
    assert 'unknown field "dtaa"' in warned


def test_objects_of_every_kind_can_be_made(kubectl):
    kubectl("create", "secret", "generic", "s", "--from-literal=k=v")
    kubectl("create", "secret", "generic", "typed", "--type=mine/x", "--from-literal=k=v")
    kubectl("create", "sa", "robot")
    token = kubectl("create", "token", "robot", "--duration=1h").strip()
    kubectl("create", "service", "externalname", "outside", "--external-name=db.example")
    kubectl("label", "secret", "s", "tier=front")
    kubectl("annotate", "secret", "s", "note=x")

    assert kubectl("get", "secret", "-l", "tier in (front)", "-o", "name") == "secret/s\n"
    assert kubectl("get", "secret", "--field-selector", "type=mine/x", "-o", "name") == "secret/typed\n"
    assert kubectl("--token", token, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}").endswith(
        "system:serviceaccount:default:robot"
    )


def test_questions_about_the_api_itself(kubectl):
    names = {line.split()[0] for line in kubectl("api-resources", "--no-headers").splitlines()}

    assert {"configmaps", "endpointslices", "events", "functions", "leases", "pods", "secrets"} <= names
    assert "core.openfunction.io/v1beta2" in kubectl("api-versions")
    assert "FIELDS:" in kubectl("explain", "service.spec")
    assert "Merge" not in kubectl("explain", "cm.data")
    assert kubectl("auth", "can-i", "delete", "fn") == "yes\n"
    assert "pelton:admin" in kubectl("auth", "whoami")


def test_namespace_lives_and_dies_with_its_contents(kubectl):
    kubectl("create", "ns", "shop")
    kubectl("create", "configmap", "c", "-n", "shop")
    kubectl(
        "apply",
        "-n",
        "shop",
        "-f",
        "-",
        stdin=json.dumps(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "held", "finalizers": ["example.com/hold"]},
            }
        ),
    )
    kubectl("delete", "ns", "shop", "--wait=false")
    kubectl("wait", "ns/shop", "--for=jsonpath={.status.phase}=Terminating", "--timeout=10s")
    late = kubectl("create", "configmap", "late", "-n", "shop", code=1)
    kubectl("patch", "cm", "held", "-n", "shop", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    kubectl("wait", "ns/shop", "--for=delete", "--timeout=20s")

    assert "being terminated" in late
    assert "not found" in kubectl("create", "configmap", "c", "-n", "nowhere", code=1)


def test_deletion_waits_for_finalizers_and_watchers_see_all(kubectl):
    watching = kubectl.start(
        "get", "cm", "-w", "--output-watch-events", "-o", "jsonpath={.type} {.object.metadata.name}{'\\n'}"
    )
    assert watching.stdout is not None
    try:
        kubectl(
            "apply",
            "-f",
            "-",
            stdin=json.dumps(
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "f", "finalizers": ["a.b/c"]}}
            ),
        )
        deleting = kubectl.start("delete", "cm", "f")
        kubectl("wait", "cm/f", "--for=jsonpath={.metadata.deletionTimestamp}", "--timeout=20s")
        still = deleting.poll()
        kubectl("patch", "cm", "f", "--type=json", "-p", '[{"op":"remove","path":"/metadata/finalizers"}]')
        deleting.communicate(timeout=20)
        seen = []
        while "DELETED f\n" not in seen:
            seen.append(watching.stdout.readline())
    finally:
        watching.kill()
        watching.communicate()

    assert still is None
    assert next(line for line in seen if line.endswith(" f\n")) == "ADDED f\n"


def test_our_own_commands_work_for_every_kind(shared, kubectl):
    del kubectl
    manifest = json.dumps(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "ours", "namespace": "new"},
            "data": {"a": "1"},
        }
    )
    created = shared.cli("apply", "-f", "-", stdin=manifest)
    again = shared.cli("apply", "-f", "-", stdin=manifest)
    shown = shared.cli("get", "cm", "-n", "new")
    whole = shared.cli("get", "configmap", "ours", "-n", "new", "-o", "yaml")
    told = shared.cli("describe", "cm", "ours", "-n", "new")
    gone = shared.cli("delete", "cm", "ours", "-n", "new")

    assert created.out == "configmap/ours created\n"
    assert again.out == "configmap/ours unchanged\n"
    assert shown.out.splitlines()[1].split()[:2] == ["ours", "1"]
    assert "managedFields" not in whole.out
    assert "Data:" in told.out
    assert gone.out == "configmap/ours deleted\n"


def test_token_of_a_namespace_opens_that_and_nothing_else(shared, kubectl):
    made = shared.cli("token", "create", "--role", "edit", "-n", "default", "--name", "ci", "--ttl", "1h")
    token = made.out.strip()

    kubectl("--token", token, "create", "configmap", "by-ci")
    refused = kubectl("--token", token, "get", "cm", "-A", code=1)
    listed = shared.cli("token", "list").out
    shared.cli("token", "revoke", "ci")
    void = kubectl("--token", token, "get", "cm", code=1)

    assert 'User "pelton:token:ci" cannot list resource "configmaps"' in refused
    assert "ci" in listed and token not in listed
    assert "Unauthorized" in void or "provide credentials" in void or "logged in" in void
