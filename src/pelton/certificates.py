"""TLS towards outside systems: a client's context from PEM text or files, as components' metadata give them.

Secrets bring certificates as text, other settings as paths; both are taken everywhere. Called by the drivers'
constructors; the platform's own certificates are made in `apiserver/certificates.py`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pelton.errors import ComponentError

__all__ = ["PemFiles", "client_context", "is_pem", "pem_text"]

_BEGIN: Final = "-----BEGIN"


def is_pem(text: str) -> bool:
    """Tell whether a setting is PEM text and not a path."""
    return text.lstrip().startswith(_BEGIN)


def pem_text(text: str, *, where: str) -> str:
    """Return PEM text from a setting that is text already or a path; "" for "".

    Raises:
        ComponentError: The file cannot be read.
    """
    if not text.strip() or is_pem(text):
        return text
    try:
        with open(text.strip(), encoding="ascii", errors="replace") as handle:  # noqa: PTH123 -- one read
            return handle.read()
    except OSError as exc:
        raise ComponentError(
            f"a certificate cannot be read: {exc.strerror or type(exc).__name__}", where=where
        ) from exc


def client_context(
    *, where: str, ca: str = "", cert: str = "", key: str = "", verify: bool = True
) -> ssl.SSLContext:
    """Return the context of a client.

    Args:
        where: Whose settings these are, for messages.
        ca: Who may have signed the server's certificate, PEM text or path; "" for the system's authorities.
        cert: The client's own certificate, PEM text or path; "" for none.
        key: Its key; "" when `cert` holds it.
        verify: Whether the server's certificate and name are looked at.

    Raises:
        ComponentError: A certificate or key cannot be read or does not fit; the message shows none of it.
    """
    try:
        context = ssl.create_default_context(cadata=ca if is_pem(ca) else None, cafile=_path(ca))
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if cert.strip():
            with _file(cert) as cert_file, _file(key) as key_file:
                context.load_cert_chain(cert_file or "", key_file)
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "reason", None) or getattr(exc, "strerror", None) or type(exc).__name__
        raise ComponentError(f"a certificate or key cannot be used: {reason}", where=where) from exc
    return context


class PemFiles:
    """Paths for libraries that take no text; they are valid until this is closed."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    def path(self, text: str) -> str | None:
        """Return a path for PEM text or a path; None for ""."""
        if not is_pem(text):
            return _path(text)
        fd = os.memfd_create("pem", os.MFD_CLOEXEC)
        self._fds.append(fd)
        os.write(fd, text.encode())
        return f"/proc/self/fd/{fd}"

    def close(self) -> None:
        """Let go of them; safe to repeat."""
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)


def _path(text: str) -> str | None:
    return text.strip() if text.strip() and not is_pem(text) else None


@contextmanager
def _file(text: str) -> Iterator[str | None]:
    """Yield a path for a setting; keys that came as text never reach a disk, though only files are loaded."""
    files = PemFiles()
    try:
        yield files.path(text)
    finally:
        files.close()
