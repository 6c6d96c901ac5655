"""PostgreSQL: user `postgres`, database `postgres`, no password from loopback."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.services.server import HOST, Server, program

__all__ = ["PostgreSql"]


class PostgreSql(Server):
    """One server.

    Args:
        directory: Its files.
        certificates: Paths of the server's certificate and key, PEM; None speaks no TLS.
        disk: Directory for its data, on another filesystem; None keeps them with the rest. What it writes
            before it changes a table comes in files of 1 MB there, so that little room is enough.
    """

    name = "postgresql"

    def __init__(
        self, directory: Path, certificates: tuple[Path, Path] | None = None, disk: Path | None = None
    ) -> None:
        super().__init__(directory)
        self._certificates = certificates
        self._data = (disk or directory) / "data"
        self._small = ["--wal-segsize=1"] if disk else []

    @classmethod
    def missing(cls) -> str:
        """Say what is not here."""
        return "" if _binary("postgres") else "no postgres"

    @property
    def url(self) -> str:
        """Connection URL."""
        return f"postgresql://postgres@{self.address}/postgres"

    def prepare(self) -> None:
        """Make the cluster once."""
        for path, name in zip(self._certificates or (), ("server.pem", "server.key"), strict=False):
            (self.directory / name).write_bytes(path.read_bytes())
            (self.directory / name).chmod(0o600)
        self._as = self.owned_by("postgres")
        if self._data.exists():
            return
        options = ["-D", str(self._data), "-U", "postgres", "--auth=trust", "-N", *self._small]
        words = [_binary("initdb"), *options]
        subprocess.run([*self._as, *words], check=True, capture_output=True, cwd=self.directory)

    def command(self) -> Sequence[str]:
        """Run it in the foreground."""
        options = ["-D", str(self._data), "-h", HOST, "-p", str(self.port)]
        if self._certificates is not None:
            files = {"ssl": "on", "ssl_cert_file": "server.pem", "ssl_key_file": "server.key"}
            for name, value in files.items():
                options += ["-c", f"{name}={value if value == 'on' else self.directory / value}"]
        return [*self._as, _binary("postgres"), *options, "-k", str(self.directory)]

    def ready(self) -> bool:
        """Ask it."""
        words = [_binary("pg_isready"), "-q", "-h", HOST, "-p", str(self.port)]
        return subprocess.run(words, check=False, capture_output=True).returncode == 0


def _binary(name: str) -> str:
    """Return a program of the newest installed version, "" for none."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    return program(name, places=[str(path) for path in reversed(versions)])
