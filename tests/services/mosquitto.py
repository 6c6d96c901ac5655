"""Mosquitto, the MQTT broker, with a store that survives a kill."""

from __future__ import annotations

from collections.abc import Sequence

from tests.services.server import HOST, Server, program

__all__ = ["Mosquitto"]


class Mosquitto(Server):
    """One broker that takes anybody."""

    name = "mosquitto"

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
        (self.directory / "mosquitto.conf").write_text(
            f"listener {self.port} {HOST}\nallow_anonymous true\npersistence true\n"
            f"persistence_location {self.directory}/data/\nautosave_interval 1\nautosave_on_changes true\n"
        )
        self._as = self.owned_by("mosquitto")

    def command(self) -> Sequence[str]:
        """Run it in the foreground."""
        return [*self._as, program("mosquitto"), "-c", str(self.directory / "mosquitto.conf")]
