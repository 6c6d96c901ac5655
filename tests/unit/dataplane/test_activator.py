"""What the activator itself answers where no instance comes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pelton.clock import SystemClock
from pelton.dataplane.activator import Activator
from pelton.errors import WakeError


async def answer(folder: Path, *headers: str) -> tuple[str, list[str], str]:
    """Return status line, headers and body of the answer to a request for a function that does not start."""

    async def wake(_key: str) -> Any:
        raise WakeError("its module raised")

    activator = Activator(wake=wake, why_gone=lambda key: WakeError(key), listing=list, clock=SystemClock())
    path = folder / "a.sock"
    await activator.start(path)
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
        lines = ["GET /x HTTP/1.1", "host: h", "x-pelton-function: default/b", *headers, "", ""]
        writer.write("\r\n".join(lines).encode())
        async with asyncio.timeout(30):
            got = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
    finally:
        await activator.close()
    head, _, body = got.partition("\r\n\r\n")
    first, *rest = head.split("\r\n")
    return first, rest, body


@pytest.mark.parametrize(
    ("accept", "body"),
    [
        ("text/plain", "its module raised\n"),
        ("application/json", '{"error": "its module raised", "hint": ""}\n'),
    ],
)
async def test_answer_says_why_no_instance_came(tmp_path: Path, accept: str, body: str) -> None:
    first, headers, found = await answer(tmp_path, f"accept: {accept}")

    assert first == f"HTTP/1.1 {WakeError.http_status} Service Unavailable"
    assert "retry-after: 1" in headers
    assert found == body


async def test_answer_to_a_call_of_dapr_is_daprs(tmp_path: Path) -> None:
    first, headers, found = await answer(tmp_path, "Dapr-Callee-App-Id:  b-app ")

    assert first == "HTTP/1.1 500 Internal Server Error"
    assert "content-type: application/json" in headers
    assert json.loads(found) == {
        "errorCode": "ERR_DIRECT_INVOKE",
        "message": "fail to invoke, id: b-app, err: its module raised",
    }
