"""Dapr's unmodified Node SDK beside `pelton dapr run`: publish, subscribe, invoke, state.

The SDK comes from npm into the checkout's virtual environment, once; what is not there skips the test, or
fails it when PELTON_REQUIRE_SERVICES is set.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.packages import fetched, lacking

VERSION = "3.18.0"
PROGRAM = Path(__file__).parents[1] / "fixtures" / "dapr_node" / "app.js"
RESOURCES = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: bus}
spec: {type: pubsub.in-memory, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: store}
spec: {type: state.in-memory, version: v1}
"""

pytestmark = [pytest.mark.connected, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def modules() -> Path:
    """`node_modules` with the SDK."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        lacking("needs Node.js and npm")
    install = ["npm", "install", "--no-audit", "--no-fund", "--no-save", f"@dapr/dapr@{VERSION}"]
    return fetched(f"dapr-node-{VERSION}", install, timeout_s=90) / "node_modules"


def test_node_sdk_publishes_subscribes_invokes_and_keeps_state(modules: Path, tmp_path: Path) -> None:
    (tmp_path / "resources.yaml").write_text(RESOURCES)
    tmp_path.chmod(0o700)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    done = subprocess.run(
        [
            sys.executable, "-m", "pelton.cli.main", "dapr", "run", "--app-id", "node",
            "--app-port", str(port), "--resources-path", "resources.yaml", "--", "node", str(PROGRAM),
        ],
        cwd=tmp_path,
        env={
            **os.environ, "NODE_PATH": str(modules), "PELTON_HOME": str(tmp_path / "none"),
            "XDG_RUNTIME_DIR": str(tmp_path),
        },
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    said = [line.removeprefix("== APP == ") for line in done.stdout.splitlines() if " INFO " not in line]

    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in said if line.split(" ")[0].isupper()] == [
        'RECEIVED {"n":1}',
        'INVOKED {"got":{"n":2}}',
        'STATE {"n":3}',
        'GONE ""',
        'GRPC "over grpc"',
    ]
