"""Redis with its data in the directory, written at every command, so that a kill loses nothing."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from tests.services.server import HOST, Server, program

__all__ = ["Redis"]


class Redis(Server):
    """One server; asks for a password when one is given.

    Args:
        directory: See `Server`.
        password: "" for none.
        certificates: (authority, certificate, key), paths of PEM files: it speaks TLS only, and clients need
            a certificate of that authority. None for plain text.
    """

    name = "redis"

    def __init__(
        self, directory: Path, *, password: str = "", certificates: tuple[Path, Path, Path] | None = None
    ) -> None:
        super().__init__(directory)
        self.password = password
        self._certificates = certificates

    @classmethod
    def missing(cls) -> str:
        """Say what is not here."""
        return "" if program("redis-server") else "no redis-server"

    def command(self) -> Sequence[str]:
        """Run it with an append-only file."""
        words = [
            program("redis-server"),
            "--bind",
            HOST,
            "--port" if self._certificates is None else "--tls-port",
            str(self.port),
            "--dir",
            str(self.directory),
        ]
        words += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no"]
        if self._certificates is not None:
            names = ("--tls-ca-cert-file", "--tls-cert-file", "--tls-key-file")
            words += ["--port", "0"]
            words += [word for pair in zip(names, map(str, self._certificates), strict=True) for word in pair]
        return words + (["--requirepass", self.password] if self.password else [])

    def ready(self) -> bool:
        """Ask for a pong; an error about the missing password is an answer as well."""
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as sock:
                if self._certificates is not None:
                    return True  # who listens speaks TLS; it asks for a certificate before it answers
                sock.sendall(b"PING\r\n")
                answer = sock.recv(64)
        except OSError:
            return False
        return answer.startswith((b"+PONG", b"-NOAUTH"))
