"""Kubernetes clients of Python against the API, unmodified: what controllers are written with.

Each script of clients/ runs in a process of its own and fails by an assertion; the server is this process.
"""

import asyncio
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

SCRIPTS = sorted((Path(__file__).parent / "clients").glob("*.py"))


@pytest.fixture
async def config(tmp_path):
    """Return the path of a kubeconfig for a server that runs."""
    files = certificates.ensure(tmp_path / "pki", now=datetime.now(UTC))
    async with SqliteStore(tmp_path / "store.db", clock=SystemClock()) as store:
        service = api.service(store, rows=manifest_kinds.rows(kinds.KINDS))
        sock = socket.create_server(("127.0.0.1", 0))
        async with service, ApiServer(service.app, sock, files.cert, files.key) as server:
            text = certificates.kubeconfig(server=server.url, ca_pem=files.ca.read_bytes(), token="t")
            certificates.write_private(tmp_path / "kubeconfig", text.encode())
            yield tmp_path / "kubeconfig"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
async def test_client_works_unmodified(config, script):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        env={**os.environ, "KUBECONFIG": str(config), "HOME": str(config.parent)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(50):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert (process.returncode, output.decode().splitlines()[-1:]) == (0, ["done"]), output.decode()
