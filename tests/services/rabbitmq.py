"""RabbitMQ with its management API, as one node without a cluster and without the machine's epmd.

User and password are `guest`, which the server accepts from loopback.
"""

from __future__ import annotations

import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.services.server import HOST, Server, free_port, listening, program

__all__ = ["RabbitMq"]


class RabbitMq(Server):
    """One node; `address` is its AMQP listener, `management` its HTTP API."""

    name = "rabbitmq"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._management, self._distribution, self._epmd = free_port(), free_port(), free_port()

    @classmethod
    def missing(cls) -> str:
        """Say what is not here."""
        return "" if program("rabbitmq-server") else "no rabbitmq-server"

    @property
    def url(self) -> str:
        """AMQP URL with user and password."""
        return f"amqp://guest:guest@{self.address}/"

    @property
    def management(self) -> str:
        """URL of the management API."""
        return f"http://guest:guest@{HOST}:{self._management}"

    def prepare(self) -> None:
        """Write configuration and the list of plugins."""
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.default = {HOST}:{self.port}\n"
            f"management.tcp.ip = {HOST}\nmanagement.tcp.port = {self._management}\n"
            "loopback_users.guest = true\nlog.console = true\nlog.file = false\n"
            "management.rates_mode = detailed\ncollect_statistics_interval = 1000\n"
            "disk_free_limit.absolute = 50MB\n"
        )
        (self.directory / "plugins").write_text("[rabbitmq_management].\n")

    def command(self) -> Sequence[str]:
        """Run it in the foreground; the wrapper of the package insists on a user of its own when root."""
        real = "/usr/lib/rabbitmq/bin/rabbitmq-server"
        server = real if Path(real).exists() else program("rabbitmq-server")
        # Left to itself it starts a name daemon that outlives it; this one ends with the group.
        words = ["sh", "-c", 'epmd >/dev/null 2>&1 & exec "$0"', server]
        return [*self.owned_by("rabbitmq"), *words]

    def environment(self) -> Mapping[str, str]:
        """Keep everything in the directory and on loopback."""
        place = str(self.directory)
        return {
            "HOME": place,
            "RABBITMQ_HOME": "",
            "RABBITMQ_NODENAME": f"pelton{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": f"{place}/data",
            "RABBITMQ_LOG_BASE": f"{place}/logs",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": f"{place}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{place}/plugins",
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_PID_FILE": f"{place}/pid",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1",
            "ERL_EPMD_PORT": str(self._epmd),
            "ERL_EPMD_ADDRESS": HOST,
        }

    def keep_free(self, much: str) -> None:
        """Demand free disk such as `50MB`; above what there is, the server takes no more messages."""
        real = "/usr/lib/rabbitmq/bin/rabbitmqctl"
        control = real if Path(real).exists() else program("rabbitmqctl")
        subprocess.run(
            [*self.owned_by("rabbitmq"), control, "set_disk_free_limit", much],
            env={**os.environ, **self.environment()},
            cwd=self.directory,
            check=True,
            capture_output=True,
            timeout=60,
        )

    def ready(self) -> bool:
        """Wait for AMQP and for the management API."""
        if not listening(self.port):
            return False
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self._management}/", timeout=1):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
