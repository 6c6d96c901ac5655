"""Prometheus Alertmanager, the peer of differential tests; its configuration is the caller's."""

from __future__ import annotations

import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.services.server import HOST, Server, program

__all__ = ["Alertmanager"]


class Alertmanager(Server):
    """One server without a cluster.

    Args:
        directory: See `Server`.
        config: Its configuration as YAML; the shortest legal one by default.
    """

    name = "alertmanager"

    def __init__(
        self, directory: Path, *, config: str = "route: {receiver: none}\nreceivers: [{name: none}]\n"
    ) -> None:
        super().__init__(directory)
        self.config = config

    @classmethod
    def missing(cls) -> str:
        """Say what is not here."""
        return "" if program("prometheus-alertmanager", "alertmanager") else "no prometheus-alertmanager"

    @property
    def url(self) -> str:
        """URL of its API."""
        return f"http://{self.address}"

    def prepare(self) -> None:
        """Write the configuration."""
        (self.directory / "alertmanager.yml").write_text(self.config)

    def command(self) -> Sequence[str]:
        """Run it."""
        return [
            program("prometheus-alertmanager", "alertmanager"),
            f"--config.file={self.directory}/alertmanager.yml",
            f"--storage.path={self.directory}/data",
            f"--web.listen-address={HOST}:{self.port}",
            "--cluster.listen-address=",
        ]

    def ready(self) -> bool:
        """Ask its readiness."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
