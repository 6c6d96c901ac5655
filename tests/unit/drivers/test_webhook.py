"""What a webhook gets, and how its answers are read; against a local server."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import logging
import ssl
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pelton.clock import SystemClock
from pelton.drivers.webhook import WebhookSender, service_url

Answer = tuple[int, dict[str, str], bytes]
OK: Answer = (200, {}, b"")
PAYLOAD = {"alerts": [{"labels": {"a": "ü"}}], "groupLabels": {}}


class Receiver:
    """Answers requests with `answers` in order (status, headers, body), the last for ever; None hangs."""

    def __init__(self, *answers: Answer | None, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.answers = list(answers)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self._handlers: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Receiver:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.url = f"http{'s' if self.tls else ''}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._handlers:
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().split("\r\n")[:-2]
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests.append((first.split(" ")[1], headers, body))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if answer is None:
                    await asyncio.Event().wait()
                else:
                    status, extra, text = answer
                    extra = {"content-length": str(len(text)), **extra}
                    rest = "".join(f"{name}: {value}\r\n" for name, value in extra.items())
                    writer.write(f"HTTP/1.1 {status} x\r\n{rest}\r\n".encode() + text)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client or the test has ended it
        finally:
            self._handlers.discard(task)
            writer.close()


def sender(**options: Any) -> WebhookSender:
    return WebhookSender(SystemClock(), **options)


async def test_webhook_gets_the_payload_as_json_with_a_key_to_drop_repetitions():
    async with Receiver(OK) as hook, sender() as made:
        result = await made.send({"url": hook.url + "/in?x=1", "deliveryId": "d1"}, PAYLOAD)

    assert result.ok
    ((path, headers, body),) = hook.requests
    assert path == "/in?x=1"
    assert headers["content-type"].startswith("application/json")
    assert headers["idempotency-key"] == "d1"
    assert json.loads(body) == PAYLOAD


@pytest.mark.parametrize(
    ("status", "ok", "retriable"),
    [
        (200, True, True),
        (202, True, True),
        (204, True, True),
        (301, False, False),
        (400, False, False),
        (404, False, False),
        (408, False, True),
        (425, False, True),
        (429, False, True),
        (500, False, True),
        (502, False, True),
    ],
)
async def test_webhook_status_decides(status, ok, retriable):
    async with Receiver((status, {}, b"")) as hook, sender() as made:
        result = await made.send({"url": hook.url}, PAYLOAD)

    assert (result.ok, result.retriable) == (ok, retriable)


@pytest.mark.parametrize("status", [429, 503])
async def test_webhook_retry_after_is_passed_on(status):
    async with Receiver((status, {"retry-after": "7"}, b"")) as hook, sender() as made:
        result = await made.send({"url": hook.url}, PAYLOAD)

    assert result.retry_after_s == 7.0


async def test_webhook_redirect_is_not_followed():
    async with Receiver(OK) as other, Receiver((307, {"location": other.url}, b"")) as hook, sender() as made:
        result = await made.send({"url": hook.url}, PAYLOAD)

    assert not result.ok
    assert other.requests == []


async def test_webhook_that_hangs_is_given_up_after_the_timeout():
    async with Receiver(None) as hook, sender(timeout_s=0.05) as made:
        result = await made.send({"url": hook.url}, PAYLOAD)

    assert (result.ok, result.retriable) == (False, True)


async def test_webhook_huge_answer_is_read_only_in_part():
    async with Receiver((500, {}, b"x" * 10_000_000)) as hook, sender() as made:
        result = await made.send({"url": hook.url}, PAYLOAD)

    assert result.detail == "HTTP 500 " + "x" * 200


async def test_webhook_basic_authentication():
    config = {"basicAuth": {"username": "me", "password": "pass"}}
    async with Receiver(OK) as hook, sender() as made:
        await made.send({"url": hook.url, "httpConfig": config}, PAYLOAD)

    expected = "Basic " + base64.b64encode(b"me:pass").decode()
    assert hook.requests[0][1]["authorization"] == expected


async def test_webhook_bearer_token_beats_basic_authentication():
    config = {"basicAuth": {"username": "me", "password": "pass"}, "bearerToken": "t"}
    async with Receiver(OK) as hook, sender() as made:
        await made.send({"url": hook.url, "httpConfig": config}, PAYLOAD)

    assert hook.requests[0][1]["authorization"] == "Bearer t"


async def test_webhook_secrets_show_up_nowhere(caplog):
    caplog.set_level(logging.DEBUG)
    config = {"basicAuth": {"username": "me", "password": "sesame"}, "bearerToken": "tokentoken"}
    path, page = "/hooks/hookhook?key=keykeykey", b"no /hooks/hookhook?key=keykeykey tokentoken sesame"
    async with Receiver((403, {}, page)) as hook, sender() as made:
        result = await made.send({"url": hook.url + path, "httpConfig": config}, PAYLOAD)

    for secret in ("hookhook", "keykeykey", "tokentoken", "sesame"):
        assert secret not in result.detail + caplog.text


@pytest.mark.parametrize(
    ("shape", "config"),
    [
        ("http://{}/", {"basicAuth": {"username": "me", "password": "sesame"}}),
        ("http://me:sesame@{}/", {}),
        ("http://{}/", {"proxyUrl": "http://me:sesame@{}"}),
    ],
)
async def test_webhook_credentials_show_up_nowhere_as_they_travel(caplog, shape, config):
    caplog.set_level(logging.DEBUG)
    travels = base64.b64encode(b"me:sesame").decode()
    async with Receiver((403, {}, f"got {travels}, sesame".encode())) as hook, sender() as made:
        host = hook.url.removeprefix("http://").rstrip("/")
        config = {
            key: value.format(host) if isinstance(value, str) else value for key, value in config.items()
        }
        result = await made.send({"url": shape.format(host), "httpConfig": config}, PAYLOAD)

    assert result.detail == "HTTP 403 got ***, ***"
    assert travels not in caplog.text


@pytest.mark.parametrize(
    ("service", "url"),
    [
        ({"namespace": "n", "name": "s"}, "http://s.n.svc/"),
        (
            {"namespace": "n", "name": "s", "path": "/a/b", "port": 81, "scheme": "https"},
            "https://s.n.svc:81/a/b",
        ),
    ],
)
def test_service_url_is_the_clusters_address(service, url):
    assert service_url(service) == url


async def test_webhook_service_is_located_by_the_platform():
    async with Receiver(OK) as hook, sender(locate=lambda service: f"{hook.url}/{service['name']}") as made:
        result = await made.send({"service": {"namespace": "n", "name": "s"}}, PAYLOAD)

    assert result.ok
    assert hook.requests[0][0] == "/s"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"url": "no address"},
        {"url": "ftp://host/"},
        {"url": "http://127.0.0.1:1/", "httpConfig": {"proxyUrl": "nonsense://x"}},
        {"url": "http://127.0.0.1:1/", "httpConfig": {"tlsConfig": {"rootCA": "not a certificate"}}},
        {"url": "http://127.0.0.1:1/", "httpConfig": {"bearerToken": "ü"}},
    ],
)
async def test_webhook_unusable_settings_are_refused_for_good(settings):
    async with sender() as made:
        result = await made.send(settings, PAYLOAD)

    assert (result.ok, result.retriable) == (False, False)


async def test_sender_used_while_closed_says_so():
    with pytest.raises(RuntimeError):
        await sender().send({"url": "http://127.0.0.1:1/"}, PAYLOAD)


def certificate(name: str) -> tuple[str, str]:
    """Return certificate and key of a self-signed server called `name`, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return (
        cert.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
    )


def server_context(tmp_path, cert: str, key: str, client_ca: str = "") -> ssl.SSLContext:
    (tmp_path / "pem").write_text(cert + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_ca)
    return context


@pytest.mark.parametrize(
    ("tls", "ok"),
    [
        ({}, False),
        ({"insecureSkipVerify": True}, True),
        ({"rootCA": "server", "serverName": "hook.example"}, True),
        ({"rootCA": "server", "serverName": "other.example"}, False),
        ({"rootCA": "server"}, False),
    ],
    ids=["unknown-ca", "skip-verify", "own-ca", "wrong-name", "no-name"],
)
async def test_webhook_tls_settings_are_honoured(tmp_path, tls, ok):
    cert, key = certificate("hook.example")
    tls = {name: cert if value == "server" else value for name, value in tls.items()}
    async with Receiver(OK, tls=server_context(tmp_path, cert, key)) as hook, sender() as made:
        result = await made.send({"url": hook.url, "httpConfig": {"tlsConfig": tls}}, PAYLOAD)

    assert result.ok is ok, result


async def test_webhook_client_certificate_is_shown_to_the_server(tmp_path):
    cert, key = certificate("hook.example")
    client_cert, client_key = certificate("client.example")
    context = server_context(tmp_path, cert, key, client_ca=client_cert)
    tls = {
        "rootCA": cert,
        "serverName": "hook.example",
        "clientCertificate": {"cert": client_cert, "key": client_key},
    }
    async with Receiver(OK, tls=context) as hook, sender() as made:
        result = await made.send({"url": hook.url, "httpConfig": {"tlsConfig": tls}}, PAYLOAD)

    assert result.ok, result
