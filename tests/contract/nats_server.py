"""A real NATS server of a test's own, on a free port, with its store in the test's directory."""

import os
import subprocess
from pathlib import Path

from pelton.drivers.nats import JetStreamBus
from pelton.targets.local import nats as server


class NatsServer:
    """Starts, kills and restarts one server; the port stays."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self, *, monitoring_port: int | None = None) -> None:
        text = server.config(
            store_dir=str(self.directory / "store"),
            user="pelton",
            password='se"cret',
            port=self.port,
            ports_file_dir=str(self.directory),
            monitoring_port=monitoring_port,
        )
        path = self.directory / "nats.conf"
        path.write_text(text)
        with (self.directory / "nats.log").open("ab") as log:
            self.process = subprocess.Popen(server.command(str(path)), stderr=log)
        _, self.port = await server.wait_ready(
            pid=self.process.pid, ports_file_dir=str(self.directory), port=self.port
        )

    def bus(self, **options) -> JetStreamBus:
        return JetStreamBus(server.url("127.0.0.1", self.port), user="pelton", password='se"cret', **options)

    def kill(self) -> None:
        if self.process is not None:
            os.kill(self.process.pid, 9)
            self.process.wait()
            self.process = None
