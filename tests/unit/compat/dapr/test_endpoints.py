"""Addresses outside that apps invoke: by the name of an HTTPEndpoint, and by URL."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pelton.apiserver import certificates
from pelton.compat.dapr.apps import App
from pelton.compat.dapr.channel import AppUnreachableError
from pelton.compat.dapr.components import Components
from pelton.compat.dapr.endpoints import Endpoints
from pelton.compat.dapr.ports import Drivers
from pelton.errors import ComponentError
from pelton.model.component import MetadataItem, SecretKeyRef
from pelton.model.dapr import ClientTls, HttpEndpoint, TlsValue
from pelton.model.invocation import Invocation

A = App(app_id="a")


class Server:
    """Keeps the heads and bodies of requests; answers each with 201 and a body in pieces."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.context = context
        self.heads: list[str] = []
        self.bodies: list[bytes] = []

    async def __aenter__(self) -> Server:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = {
                    line.partition(": ")[0].lower(): line.partition(": ")[2] for line in head.split("\r\n")
                }
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(int(lines.get("content-length", "0"))))
                writer.write(
                    b"HTTP/1.1 201 Created\r\nx-own: 1\r\ntransfer-encoding: chunked\r\n\r\n"
                    b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def components():
    async def secrets(_namespace: str, name: str) -> dict[str, str] | None:
        return {"token": "t-1"} if name == "prices" else None

    made = Components(Drivers(open={}), secrets=secrets)
    yield made
    await made.close()


@pytest.fixture
async def endpoints(components):
    made = Endpoints(components, {})
    yield made
    await made.close()


def invocation(**changes: Any) -> Invocation:
    values: dict[str, Any] = {
        "id": "1",
        "method": "POST",
        "target": b"/v1/items?x=1",
        "headers": [(b"x-mine", b"2"), (b"dapr-api-token", b"secret"), (b"dapr-caller-app-id", b"a")],
        "body": b"body",
    }
    return Invocation(**(values | changes))


async def whole(reply: Any) -> bytes:
    return b"".join([chunk async for chunk in reply.body])


def known(*endpoints: HttpEndpoint) -> dict[tuple[str, str], HttpEndpoint]:
    return {(each.namespace, each.name): each for each in endpoints}


async def test_named_endpoint_gets_the_call_with_its_own_headers(endpoints):
    async with Server() as server:
        endpoints.known = known(
            HttpEndpoint(
                name="prices",
                base_url=f"http://127.0.0.1:{server.port}/base/",
                headers=(
                    MetadataItem(
                        name="Authorization", secret_key_ref=SecretKeyRef(name="prices", key="token")
                    ),
                ),
            )
        )
        channel = await endpoints.channel(A, "prices")
        reply = await channel.invoke(invocation())
        body = await whole(reply)
        again = await endpoints.channel(A, "prices")

    assert (reply.status, body) == (201, b"onetwo")
    assert (b"x-own", b"1") in reply.headers
    assert server.heads[0].startswith("POST /base/v1/items?x=1 HTTP/1.1")
    assert "Authorization: t-1" in server.heads[0]
    assert "x-mine: 2" in server.heads[0]
    assert "dapr-" not in server.heads[0].lower()
    assert server.bodies == [b"body"]
    assert again is channel


async def test_streamed_body_is_passed_on(endpoints):
    async def pieces():
        yield b"12"
        yield b"345"

    async with Server() as server:
        channel = await endpoints.channel(A, f"http://127.0.0.1:{server.port}")
        headers = [(b"content-length", b"5")]
        await whole(await channel.invoke(invocation(body=b"", stream=pieces(), headers=headers)))

    assert "ransfer-" in server.heads[0]


async def test_url_with_one_slash_is_the_same_as_with_two(endpoints):
    one = await endpoints.channel(A, "http:/127.0.0.1:1/a")
    two = await endpoints.channel(A, "HTTP://127.0.0.1:1/a/")

    assert one is two


async def test_urls_that_callers_make_up_are_kept_within_a_limit(endpoints):
    for port in range(1, 300):
        await endpoints.channel(A, f"http://127.0.0.1:{port}")

    assert len(endpoints._urls) == 100


async def test_address_without_a_server_was_not_touched(endpoints):
    channel = await endpoints.channel(A, "http://127.0.0.1:9")

    with pytest.raises(AppUnreachableError) as raised:
        await channel.invoke(invocation())

    assert raised.value.untouched


async def test_scope_and_other_names_are_no_endpoint(endpoints):
    endpoints.known = known(HttpEndpoint(name="prices", base_url="http://x", scopes=("b",)))

    assert await endpoints.channel(A, "prices") is None
    assert await endpoints.channel(A, "other") is None


async def test_missing_secret_is_told(endpoints):
    header = MetadataItem(name="X", secret_key_ref=SecretKeyRef(name="none"))
    endpoints.known = known(HttpEndpoint(name="prices", base_url="http://x", headers=(header,)))

    with pytest.raises(ComponentError, match="no Secret 'none'"):
        await endpoints.channel(A, "prices")


async def test_change_of_an_endpoint_or_a_secret_makes_a_new_client(endpoints, components):
    endpoints.known = known(HttpEndpoint(name="prices", base_url="http://x"))
    first = await endpoints.channel(A, "prices")
    components.refresh(frozenset({"prices"}))
    second = await endpoints.channel(A, "prices")
    endpoints.known = known(HttpEndpoint(name="prices", base_url="http://y"))

    assert len({id(first), id(second), id(await endpoints.channel(A, "prices"))}) == 3


def client_pair() -> tuple[str, str]:
    """Return a certificate that signs itself, and its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
    now = datetime.now(UTC)
    cert = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    written = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return cert.public_bytes(serialization.Encoding.PEM).decode(), written.decode()


async def test_tls_checks_the_server_and_shows_a_certificate(endpoints, tmp_path):
    files = certificates.ensure(tmp_path, hosts=["127.0.0.1"], now=datetime.now(UTC))
    certificate, key = client_pair()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=certificate)
    context.load_cert_chain(files.cert, files.key)
    context.verify_mode = ssl.CERT_REQUIRED
    ca = TlsValue(value=files.ca.read_text())
    mutual = ClientTls(root_ca=ca, certificate=TlsValue(value=certificate), private_key=TlsValue(value=key))
    async with Server(context) as server:
        url = f"https://127.0.0.1:{server.port}"
        endpoints.known = known(
            HttpEndpoint(name="mutual", base_url=url, tls=mutual),
            HttpEndpoint(name="nameless", base_url=url, tls=ClientTls(root_ca=ca)),
            HttpEndpoint(name="broken", base_url=url, tls=ClientTls(root_ca=TlsValue(value="no PEM"))),
        )
        body = await whole(await (await endpoints.channel(A, "mutual")).invoke(invocation()))
        for other in ("nameless", url):
            with pytest.raises(AppUnreachableError):
                await (await endpoints.channel(A, other)).invoke(invocation())
        with pytest.raises(ComponentError, match="clientTLS"):
            await endpoints.channel(A, "broken")

    assert body == b"onetwo"
