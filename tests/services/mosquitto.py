"""Mosquitto, the MQTT broker, with a store that survives a kill."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.services.server import HOST, Server, program

__all__ = ["Mosquitto"]


class Mosquitto(Server):
    """One broker.

    Args:
        directory: Where it keeps everything.
        users: Name -> password; None takes anybody.
        certificates: (authority, certificate, key), paths of PEM files; None speaks no TLS. Clients need a
            certificate of that authority as well.
    """

    name = "mosquitto"

    def __init__(
        self,
        directory: Path,
        users: Mapping[str, str] | None = None,
        certificates: tuple[Path, Path, Path] | None = None,
    ) -> None:
        super().__init__(directory)
        self._users = users
        self._certificates = certificates

    @classmethod
    def missing(cls) -> str:
        """Say what is not here."""
        return "" if program("mosquitto") else "no mosquitto"

    @property
    def url(self) -> str:
        """URL as MQTT clients write it."""
        return f"tcp://{self.address}"

    def prepare(self) -> None:
        """Write the configuration."""
        (self.directory / "data").mkdir(exist_ok=True)
        who = "allow_anonymous true"
        if self._users is not None:
            who = f"allow_anonymous false\npassword_file {self.directory}/users"
            (self.directory / "users").touch()
            for name, password in self._users.items():
                add = [program("mosquitto_passwd"), "-b", str(self.directory / "users"), name, password]
                subprocess.run(add, check=True, capture_output=True)
        tls = ""
        if self._certificates is not None:
            names = ("ca.pem", "server.pem", "server.key")
            for path, name in zip(self._certificates, names, strict=True):
                (self.directory / name).write_bytes(path.read_bytes())
            tls = (
                f"cafile {self.directory}/ca.pem\ncertfile {self.directory}/server.pem\n"
                f"keyfile {self.directory}/server.key\nrequire_certificate true\n"
            )
        (self.directory / "mosquitto.conf").write_text(
            f"listener {self.port} {HOST}\n{who}\n{tls}persistence true\n"
            f"persistence_location {self.directory}/data/\nautosave_interval 1\nautosave_on_changes true\n"
        )
        self._as = self.owned_by("mosquitto")

    def command(self) -> Sequence[str]:
        """Run it in the foreground."""
        return [*self._as, program("mosquitto"), "-c", str(self.directory / "mosquitto.conf")]
