"""A webhook server for tests: HTTPS on loopback with its own certificate, answering as the test says."""

import asyncio
import base64
import json
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Answer = dict[str, Any] | bytes | int | float
"""A JSON answer, raw bytes, an HTTP status, or seconds to wait (then nothing)."""


def certificate(directory: Path, *names: str) -> tuple[Path, Path, str]:
    """Return certificate, key and caBundle, self-signed for 127.0.0.1 and `names`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "webhook")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.IPAddress(ip_address("127.0.0.1")), *(x509.DNSName(name) for name in names)]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    directory.mkdir(parents=True, exist_ok=True)
    cert_file, key_file = directory / "tls.crt", directory / "tls.key"
    cert_file.write_bytes(pem)
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return cert_file, key_file, base64.b64encode(pem).decode()


def allowed(review: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the AdmissionReview that allows, with further fields of the response."""
    return respond(review, allowed=True, **more)


def respond(review: dict[str, Any], **response: Any) -> dict[str, Any]:
    """Return the AdmissionReview with this response."""
    return {
        "apiVersion": review["apiVersion"],
        "kind": "AdmissionReview",
        "response": {"uid": review["request"]["uid"], **response},
    }


def patching(review: dict[str, Any], *operations: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the AdmissionReview that allows and patches."""
    patch = base64.b64encode(json.dumps(list(operations)).encode()).decode()
    return allowed(review, patch=patch, patchType="JSONPatch", **more)


class HookServer:
    """Serves webhooks. `paths` maps a path to a function of the review; `seen` has (path, query, review).

    Args:
        directory: For its certificate.
        names: DNS names in its certificate.
    """

    def __init__(self, directory: Path, *names: str) -> None:
        self.cert, self.key, self.bundle = certificate(directory, *names)
        self.paths: dict[str, Callable[[dict[str, Any]], Answer]] = {}
        self.seen: list[tuple[str, str, dict[str, Any]]] = []
        self.heads: list[str] = []
        self.port = 0
        self.close_after_answer = False
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def client(self, path: str) -> dict[str, Any]:
        """Return the clientConfig of a path."""
        return {"url": f"https://127.0.0.1:{self.port}{path}", "caBundle": self.bundle}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    int(line.split(":")[1])
                    for line in head.splitlines()
                    if line.lower().startswith("content-length")
                )
                review = json.loads(await reader.readexactly(length))
                target = head.split()[1]
                path, _, query = target.partition("?")
                self.seen.append((path, query, review))
                self.heads.append(head)
                answer = self.paths[path](review)
                if isinstance(answer, float):
                    await asyncio.sleep(answer)
                    return
                status, body = (answer, b"no") if isinstance(answer, int) else (200, answer)
                if isinstance(body, dict):
                    body = json.dumps(body).encode()
                writer.write(
                    f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
                if self.close_after_answer:
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)
