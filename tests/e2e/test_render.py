"""What `pelton render` writes, applied by the real kubectl to Pelton's API server."""

import asyncio
import json
import os
import re
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pelton.apiserver import certificates, manifest_kinds
from pelton.apiserver.builtin import namespaces
from pelton.apiserver.server import ApiServer
from pelton.apiserver.store import SqliteStore
from pelton.cli.render import ClusterOptions, kubernetes_objects, read_inputs
from pelton.clock import SystemClock
from pelton.manifest import kinds, text
from tests.contract import api

pytestmark = [pytest.mark.connected, pytest.mark.long, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
KUBECTL = Path(sys.executable).parent / "kubectl"
# A case per kind of object; unit tests hold the output of all cases against the same checks.
CASES = (
    "async-job-scaled-job",
    "async-stateful-set",
    "async-without-keda-triggers",
    "build-strategy-and-parameters",
    "http-gateway-made-here",
    "keda-http",
    "keda-http-interceptor-route",
    "params-and-template",
)
NAMESPACES = ("default", "store", "shop", "keda", "add-on", "ingress")
DEFINITIONS = ("services.serving.knative.dev", "builds.shipwright.io", "buildruns.shipwright.io")


@pytest.fixture
async def kubectl(tmp_path):
    files = certificates.ensure(tmp_path / "pki", now=datetime.now(UTC))
    async with SqliteStore(tmp_path / "store.db", clock=SystemClock()) as store:
        await namespaces.ensure(store, NAMESPACES)
        service = api.service(
            store, rows=manifest_kinds.rows(kinds.KINDS), authenticate=api.users(admin_token="admin")
        )
        async with (
            service,
            ApiServer(service.app, socket.create_server(("127.0.0.1", 0)), files.cert, files.key) as server,
        ):
            config = certificates.kubeconfig(
                server=server.url, ca_pem=files.ca.read_bytes(), token="admin-token"
            )
            certificates.write_private(tmp_path / "kubeconfig", config.encode())

            async def run(*arguments, stdin=""):
                process = await asyncio.create_subprocess_exec(
                    KUBECTL,
                    *arguments,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    env={
                        "PATH": os.environ["PATH"],
                        "HOME": str(tmp_path),
                        "KUBECONFIG": str(tmp_path / "kubeconfig"),
                    },
                )
                async with asyncio.timeout(60):
                    out, err = await process.communicate(stdin.encode())
                assert process.returncode == 0, err.decode()
                return out.decode()

            await run("apply", "-f", str(ROOT / "deploy" / "testing"))
            await run(
                "wait",
                "--for=condition=Established",
                "--timeout=20s",
                *(f"customresourcedefinition/{name}" for name in DEFINITIONS),
            )
            yield run


def rendered():
    """Return what the cases become, each in the version of the add-on's objects that it asks for."""
    found = []
    for case in CASES:
        file = ROOT / "tests" / "golden" / "render" / f"{case}.txt"
        written = re.split(r"^-{20,}\n", file.read_text(), maxsplit=1, flags=re.MULTILINE)[0]
        inputs = read_inputs(text.parse(written, file.name).documents, namespace="default", local=False)
        options = ClusterOptions(http_add_on="v1beta1" if "v1beta1" in written.partition("\n")[0] else "")
        found += kubernetes_objects(inputs, options)
    return found


async def test_kubectl_applies_what_is_rendered_and_finds_it_unchanged(kubectl):
    # Cases name their functions alike; the last object of a name stands for the others.
    apart = {
        (obj["apiVersion"], obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"]): obj
        for obj in rendered()
    }
    manifest = text.write(apart.values())

    applied = await kubectl("apply", "-f", "-", stdin=manifest)
    again = await kubectl("apply", "-f", "-", stdin=manifest)
    taken = await kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=manifest)

    assert len(applied.splitlines()) == len(apart) > 30
    assert {line.rpartition(" ")[2] for line in again.splitlines()} == {"unchanged"}
    assert {line.rpartition(" ")[2] for line in taken.splitlines()} == {"serverside-applied"}


async def test_one_functions_objects_are_found_by_its_label(kubectl):
    example = ROOT / "examples" / "15-render-kubernetes" / "objects.yaml"
    await kubectl("apply", "-f", str(example))
    sought = (
        "deployments,services,ksvc,components.dapr.io,scaledobjects.keda.sh,"
        "httproutes.gateway.networking.k8s.io"
    )

    async def found(function):
        words = ("get", sought, "-n", "shop", "-l", f"openfunction.io/function={function}", "-o", "json")
        return sorted(item["kind"] for item in json.loads(await kubectl(*words))["items"])

    assert await found("orders") == [
        "Component",
        "Component",
        "Deployment",
        "Deployment",
        "ScaledObject",
        "Service",
    ]
    assert await found("greeter") == ["HTTPRoute", "Service", "Service"]
