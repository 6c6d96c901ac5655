"""A function on the published `ofn-functions-framework`, in its own environment, beside `pelton dapr run`.

The environment is kept in the checkout's virtual environment between runs; without the package index the test
is skipped, or fails when PELTON_REQUIRE_SERVICES is set.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import httpx
import pytest

from tests.conformance.packages import fetched

pytestmark = [pytest.mark.connected, pytest.mark.long, pytest.mark.timeout(300)]

REQUIREMENTS = (
    # It asks for dapr 1.11.0 but lets its extensions float, which need a newer one.
    "ofn-functions-framework==0.2.0rc1", "dapr-ext-grpc==1.11.0", "dapr-ext-fastapi==1.11.0",
)  # fmt: skip
BUS = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: bus}
spec: {type: pubsub.in-memory, version: v1}
"""
FUNCTION = """
    from functions_framework.context.user_context import UserContext

    def main(context: UserContext):
        data = context.get_topic_event().Data().decode()
        print("FUNCTION GOT", data, flush=True)
        if data.startswith("ask"):
            context.send("bus", "answer to " + data)
"""
KIND = "pubsub.in-memory"


@pytest.fixture(scope="module")
def framework() -> Path:
    """The framework's program `ff`."""
    pip: list[str | Path] = [Path("bin") / "pip", "install", "--quiet", *REQUIREMENTS]
    place = fetched("ofn-0.2.0rc1", [sys.executable, "-m", "venv", "."], pip, timeout_s=110)
    return place / "bin" / "ff"


def test_published_framework_takes_events_and_sends_through_the_runtime(
    framework: Path, tmp_path: Path
) -> None:
    with socket.socket() as first, socket.socket() as second:
        for sock in (first, second):
            sock.bind(("127.0.0.1", 0))
        app_port, http_port = first.getsockname()[1], second.getsockname()[1]
    context = {
        "name": "ofn",
        "version": "v1",
        "port": app_port,
        "triggers": {"dapr": [{"name": "bus", "type": KIND, "topic": topic} for topic in ("in", "out")]},
        "outputs": {"bus": {"componentName": "bus", "componentType": KIND, "topic": "out"}},
    }
    (tmp_path / "main.py").write_text(textwrap.dedent(FUNCTION))
    (tmp_path / "bus.yaml").write_text(BUS)
    tmp_path.chmod(0o700)
    command = subprocess.Popen(
        [
            sys.executable, "-m", "pelton.cli.main", "dapr", "run", "--app-id", "ofn",
            "--app-protocol", "grpc", "--app-port", str(app_port), "--dapr-http-port", str(http_port),
            "-d", "bus.yaml",
            "--", str(framework), "--source", "main.py", "--target", "main",
        ],
        cwd=tmp_path,
        env={
            **os.environ, "FUNC_CONTEXT": json.dumps(context), "PELTON_HOME": str(tmp_path / "none"),
            "XDG_RUNTIME_DIR": str(tmp_path),
        },
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    lines: list[str] = []
    changed = threading.Condition()

    def read() -> None:
        assert command.stdout is not None
        for line in command.stdout:
            with changed:
                lines.append(line)
                changed.notify_all()

    reader = threading.Thread(target=read)
    reader.start()

    def until(text: str) -> None:
        with changed:
            assert changed.wait_for(lambda: any(text in line for line in lines), 30), lines

    try:
        until("You're up and running!")
        url = f"http://127.0.0.1:{http_port}/v1.0/publish/bus/in"
        answer = httpx.post(url, content="ask", headers={"content-type": "text/plain"})

        assert answer.status_code == 204
        until("== APP == FUNCTION GOT ask")
        until('== APP == FUNCTION GOT "answer to ask"')
    finally:
        command.send_signal(signal.SIGTERM)
        assert command.wait(20) == 0
        reader.join(30)
        assert command.stdout is not None
        command.stdout.close()
