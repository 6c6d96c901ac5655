"""The real kubectl against the API over HTTPS, with the real kinds: what users and tools do every day."""

import asyncio
import json
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pelton.apiserver import certificates, manifest_kinds
from pelton.apiserver.server import ApiServer
from pelton.apiserver.store import SqliteStore
from pelton.clock import SystemClock
from pelton.manifest import kinds
from tests.contract import api

pytestmark = pytest.mark.connected

KUBECTL = Path(sys.executable).parent / "kubectl"
FUNCTIONS = "functions.core.openfunction.io"
MANIFEST = """
apiVersion: core.openfunction.io/v1beta2
kind: Function
metadata:
  name: hello
  labels: {app: shop}
spec:
  image: example/hello:v1
  version: v1.0.0
  serving:
    triggers:
      http: {port: 8080}
"""


class Kubectl:
    """Runs kubectl with an own home, so that nothing of the user's is read or written."""

    def __init__(self, home):
        self.home = home

    async def start(self, *arguments, config="kubeconfig"):
        return await asyncio.create_subprocess_exec(
            KUBECTL,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), "KUBECONFIG": str(self.home / config)},
        )

    async def run(self, *arguments, stdin="", config="kubeconfig"):
        process = await self.start(*arguments, config=config)
        async with asyncio.timeout(30):
            out, err = await process.communicate(stdin.encode())
        return process.returncode, out.decode(), err.decode()

    async def __call__(self, *arguments, stdin="", config="kubeconfig"):
        code, out, err = await self.run(*arguments, stdin=stdin, config=config)
        assert code == 0, err
        return out


@pytest.fixture
async def store(tmp_path):
    async with SqliteStore(tmp_path / "store.db", clock=SystemClock()) as store:
        yield store


@pytest.fixture
async def kubectl(tmp_path, store):
    files = certificates.ensure(tmp_path / "pki", now=datetime.now(UTC))
    service = api.service(
        store,
        rows=manifest_kinds.rows(kinds.KINDS),
        authenticate=api.users(admin_token="admin", view_token="view"),
    )
    async with (
        service,
        ApiServer(service.app, socket.create_server(("127.0.0.1", 0)), files.cert, files.key) as server,
    ):
        for name, token in (
            ("kubeconfig", "admin-token"),
            ("viewer", "view-token"),
            ("stranger", "no-token"),
        ):
            text = certificates.kubeconfig(server=server.url, ca_pem=files.ca.read_bytes(), token=token)
            certificates.write_private(tmp_path / name, text.encode())
        yield Kubectl(tmp_path)


async def test_apply_get_and_delete(kubectl, store):
    created = await kubectl("apply", "-f", "-", stdin=MANIFEST)
    unchanged = await kubectl("apply", "-f", "-", stdin=MANIFEST)
    changed = await kubectl("apply", "-f", "-", stdin=MANIFEST.replace("v1.0.0", "v2.0.0"))
    shown = await kubectl("get", "fn")
    raw = await kubectl("get", "--raw", "/apis/core.openfunction.io/v1beta2/namespaces/default/functions")
    deleted = await kubectl("delete", "fn", "hello")

    assert created == "function.core.openfunction.io/hello created\n"
    assert unchanged.endswith("unchanged\n")
    assert changed.endswith("configured\n")
    heading, row = shown.splitlines()
    assert heading.split() == ["NAME", "BUILDSTATE", "SERVINGSTATE", "ADDRESS", "AGE"]
    assert row.startswith("hello ")
    assert json.loads(raw)["items"][0]["spec"]["version"] == "v2.0.0"
    assert "deleted" in deleted
    assert (await store.list(FUNCTIONS))[0] == []


async def test_describe_and_output_formats(kubectl):
    await kubectl("apply", "-f", "-", stdin=MANIFEST)

    described = await kubectl("describe", "function", "hello")
    path = await kubectl("get", "functions", "-o", "jsonpath={.items[*].spec.image}")
    everywhere = await kubectl("get", "functions.core.openfunction.io", "-A", "-o", "wide")

    assert "example/hello:v1" in described
    assert path == "example/hello:v1"
    assert everywhere.splitlines()[1].split()[:2] == ["default", "hello"]


async def test_patches_labels_and_status(kubectl, store):
    await kubectl("apply", "-f", "-", stdin=MANIFEST)

    await kubectl("patch", "fn", "hello", "--type=merge", "-p", '{"spec":{"version":"v3.0.0"}}')
    await kubectl(
        "patch", "fn", "hello", "--type=json", "-p", '[{"op":"replace","path":"/spec/image","value":"x/y:1"}]'
    )
    await kubectl(
        "patch",
        "fn",
        "hello",
        "--subresource=status",
        "--type=merge",
        "-p",
        '{"status":{"serving":{"state":"Running"}}}',
    )
    await kubectl("label", "fn", "hello", "tier=front")
    await kubectl("annotate", "fn", "hello", "note=x")
    selected = await kubectl("get", "fn", "-l", "tier=front,app in (shop)", "-o", "name")

    obj = await store.get(FUNCTIONS, "default", "hello")
    assert (obj["spec"]["version"], obj["spec"]["image"]) == ("v3.0.0", "x/y:1")
    assert obj["status"]["serving"]["state"] == "Running"
    assert obj["metadata"]["generation"] == 3
    assert selected == "function.core.openfunction.io/hello\n"


async def test_server_side_apply_and_its_conflicts(kubectl):
    await kubectl("apply", "--server-side", "-f", "-", stdin=MANIFEST)
    other = ["apply", "--server-side", "--field-manager=other", "-f", "-"]

    code, _, err = await kubectl.run(*other, stdin=MANIFEST.replace("v1.0.0", "v9.0.0"))
    forced = await kubectl(*other, "--force-conflicts", stdin=MANIFEST.replace("v1.0.0", "v9.0.0"))

    assert code == 1
    assert ".spec.version" in err
    assert forced.endswith("serverside-applied\n")


async def test_replace_create_and_dry_run(kubectl, store):
    code, _, err = await kubectl.run("create", "--dry-run=server", "-f", "-", stdin=MANIFEST)
    assert (code, (await store.list(FUNCTIONS))[0]) == (0, []), err

    await kubectl("create", "-f", "-", stdin=MANIFEST)
    await kubectl("replace", "-f", "-", stdin=MANIFEST.replace("v1.0.0", "v2.0.0"))
    code, _, err = await kubectl.run("create", "-f", "-", stdin=MANIFEST)

    assert "AlreadyExists" in err
    assert (await store.get(FUNCTIONS, "default", "hello"))["spec"]["version"] == "v2.0.0"


async def test_exported_object_can_be_applied_again(kubectl):
    await kubectl("apply", "-f", "-", stdin=MANIFEST)
    exported = await kubectl("get", "fn", "hello", "-o", "yaml")
    await kubectl("delete", "fn", "hello")

    assert "created" in await kubectl("create", "-f", "-", stdin=exported)


async def test_watch_shows_changes_as_they_come(kubectl):
    watching = await kubectl.start("get", "fn", "-w", "--no-headers", "-o", "name")
    assert watching.stdout is not None
    try:
        await kubectl("apply", "-f", "-", stdin=MANIFEST)
        async with asyncio.timeout(20):
            assert await watching.stdout.readline() == b"function.core.openfunction.io/hello\n"
            await kubectl("label", "fn", "hello", "a=b")
            assert await watching.stdout.readline() == b"function.core.openfunction.io/hello\n"
    finally:
        watching.kill()
        await watching.communicate()


async def test_wait_returns_when_the_status_says_so(kubectl, store):
    await kubectl("apply", "-f", "-", stdin=MANIFEST)
    waiting = asyncio.create_task(
        kubectl("wait", "fn/hello", "--for=jsonpath={.status.serving.state}=Running", "--timeout=20s")
    )
    obj = await store.get(FUNCTIONS, "default", "hello")

    obj["status"] = {"serving": {"state": "Running"}}
    await store.update(FUNCTIONS, obj, subresource="status")

    assert "condition met" in await waiting


async def test_delete_waits_for_finalizers(kubectl, store):
    await kubectl(
        "apply", "-f", "-", stdin=MANIFEST.replace("name: hello", "name: hello\n  finalizers: [a.b/c]")
    )
    deleting = asyncio.create_task(kubectl("delete", "fn", "hello"))
    async with asyncio.timeout(20):
        async for event in store.watch(FUNCTIONS):
            if event.object["metadata"].get("deletionTimestamp"):
                break
    assert not deleting.done()

    await kubectl("patch", "fn", "hello", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')

    assert "deleted" in await deleting


async def test_list_longer_than_a_page_is_whole(kubectl, store):
    for number in range(1100):  # kubectl asks for 500 at a time
        await store.create(
            FUNCTIONS,
            {
                "apiVersion": "core.openfunction.io/v1beta2",
                "kind": "Function",
                "metadata": {"name": f"f{number:04}", "namespace": "many"},
                "spec": {"image": "x"},
            },
        )

    shown = await kubectl("get", "fn", "-n", "many", "--no-headers")

    assert [line.split()[0] for line in shown.splitlines()] == [f"f{number:04}" for number in range(1100)]


async def test_invalid_and_unknown_manifests_say_what_is_wrong(kubectl):
    code, _, err = await kubectl.run(
        "apply", "-f", "-", stdin=MANIFEST.replace("image: example/hello:v1", "")
    )
    assert code == 1
    assert "spec.image" in err

    code, _, err = await kubectl.run("apply", "-f", "-", stdin=MANIFEST.replace("v1beta2", "v1alpha2"))
    assert code == 1
    assert "no matches for kind" in err

    odd = MANIFEST.replace("  version: v1.0.0", "  version: v1.0.0\n  verzion: x")
    code, _, err = await kubectl.run("apply", "-f", "-", stdin=odd)
    assert code == 1
    assert 'unknown field "spec.verzion"; did you mean version?' in err


async def test_viewer_reads_and_stranger_does_nothing(kubectl):
    await kubectl("apply", "-f", "-", stdin=MANIFEST)

    assert "hello" in await kubectl("get", "fn", config="viewer")
    code, _, err = await kubectl.run("delete", "fn", "hello", config="viewer")
    assert (code, "Forbidden" in err) == (1, True), err
    code, _, err = await kubectl.run("get", "fn", config="stranger")
    assert (code, "Unauthorized" in err or "logged in" in err or "provide credentials" in err) == (
        1,
        True,
    ), err


async def test_api_resources_and_explain_know_the_kinds(kubectl):
    listed = await kubectl("api-resources", "--no-headers")

    assert {kind.kind for kind in kinds.KINDS} <= {line.split()[-1] for line in listed.splitlines()}
    assert "Function" in await kubectl("explain", "fn")
