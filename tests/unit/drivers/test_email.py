"""Mails to a real SMTP server in this process."""

from __future__ import annotations

import asyncio
import email
import email.policy
import hmac
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult

from pelton.apiserver.certificates import ensure
from pelton.drivers.email import EmailSender
from pelton.notify.alert import FIRING, Alert
from pelton.notify.grouping import Group
from pelton.notify.template import email_payload
from pelton.testing.clock import FakeClock

PAYLOAD = {"subject": "[FIRING:1] Größe", "text": "plain é\n", "html": "<p>html é</p>\n"}


class Mailbox:
    """Takes mails; answers with `answers` in order, the last for ever."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers) or ["250 ok"]
        self.mails: list[Any] = []
        self.to: list[str] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer.startswith("250"):
            self.to += envelope.rcpt_tos
            self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return answer


Serve = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers: list[asyncio.Server] = []
    transports: list[Any] = []

    class Tracked(SMTP):
        def connection_made(self, transport: Any) -> None:
            transports.append(transport)
            super().connection_made(transport)

    async def start(mailbox: Mailbox, **options: Any) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Tracked(mailbox, **options), "127.0.0.1", 0)
        servers.append(server)
        port = server.sockets[0].getsockname()[1]
        return {"to": ["a@example.org"], "from": "pelton@example.org", "host": "127.0.0.1", "port": port}

    yield start
    for server in servers:
        server.close()
    for transport in transports:
        transport.abort()
    for _ in range(5):  # the loop closes aborted connections in its next rounds
        await asyncio.sleep(0)


def sender(**options: Any) -> EmailSender:
    return EmailSender(FakeClock(), **options)


def authenticator(seen: list[Any]) -> Callable[..., AuthResult]:
    def judge(_server: Any, _session: Any, _envelope: Any, mechanism: str, data: Any) -> AuthResult:
        seen.append((mechanism, data.login, data.password))
        return AuthResult(success=data.password == b"right", handled=False)

    return judge


@pytest.mark.parametrize(
    ("form", "kind", "text"), [("html", "text/html", "html é"), ("text", "text/plain", "plain é")]
)
async def test_each_address_gets_a_mail_with_one_part(serve, form, kind, text):
    box = Mailbox()
    settings = (await serve(box)) | {"to": ["a@example.org", "b@example.org"], "format": form}

    result = await sender().send(settings, PAYLOAD)

    assert result.ok
    assert box.to == ["a@example.org", "b@example.org"]
    mail = box.mails[0]
    assert (mail["Subject"], mail["To"], mail["From"]) == (
        "[FIRING:1] Größe",
        "a@example.org",
        "pelton@example.org",
    )
    assert mail.get_content_type() == "multipart/alternative"
    (part,) = mail.iter_parts()
    assert (part.get_content_type(), part["Content-Transfer-Encoding"]) == (kind, "quoted-printable")
    assert text in part.get_content()
    assert box.mails[0]["Message-Id"] != box.mails[1]["Message-Id"]


async def test_a_repeated_attempt_reaches_only_who_was_missed(serve):
    box = Mailbox("250 ok", "451 later", "250 ok")
    settings = (await serve(box)) | {"to": ["a@example.org", "b@example.org"], "deliveryId": "n1"}
    made = sender()

    first = await made.send(settings, PAYLOAD)
    second = await made.send({**settings, "done": first.done}, PAYLOAD)

    assert (first.ok, first.retriable, second.ok) == (False, True, True)
    assert "451" in first.detail
    assert box.to == ["a@example.org", "b@example.org"]


async def test_a_final_refusal_is_not_repeated(serve):
    result = await sender().send(await serve(Mailbox("554 no spam")), PAYLOAD)

    assert (result.ok, result.retriable) == (False, False)
    assert "554 no spam" in result.detail


async def test_a_server_that_is_not_there_may_come_back():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = {"to": ["a@b.example"], "from": "p@b.example", "host": "127.0.0.1", "port": port}

    result = await sender().send(settings, PAYLOAD)

    assert (result.ok, result.retriable) == (False, True)


async def test_a_silent_server_does_not_hold_on_to_a_mail():
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        gone.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        settings = {"to": ["a@b.example"], "from": "p@b.example", "host": "127.0.0.1", "port": port}
        async with asyncio.timeout(30):
            result = await sender(timeout_s=0.3).send(settings, PAYLOAD)
            await gone.wait()

    assert (result.ok, result.retriable) == (False, True)


async def test_user_and_password_are_sent_on_this_machine(serve):
    seen: list[Any] = []
    box = Mailbox()
    options = {"authenticator": authenticator(seen), "auth_require_tls": False}
    settings = (await serve(box, **options)) | {"username": "me", "password": "right"}

    result = await sender().send(settings, PAYLOAD)
    wrong = await sender().send(settings | {"password": "wr0ng"}, PAYLOAD)

    assert result.ok
    assert seen[0][1:] == (b"me", b"right")
    assert (wrong.ok, wrong.retriable) == (False, False)
    assert "wr0ng" not in wrong.detail
    assert len(box.mails) == 1


@pytest.mark.parametrize("other", ["LOGIN", "PLAIN"])
async def test_a_password_need_not_be_ascii(serve, other):
    seen: list[Any] = []
    options = {"authenticator": authenticator(seen), "auth_require_tls": False}
    settings = await serve(Mailbox(), **options, auth_exclude_mechanism=[other])

    await sender().send(settings | {"username": "mé", "password": "pässwort"}, PAYLOAD)

    assert [each[1:] for each in seen] == [("mé".encode(), "pässwort".encode())]


async def test_a_secret_signs_the_challenge(serve):
    class Challenging(Mailbox):
        async def auth_CRAM__MD5(self, server: Any, _args: list[str]) -> AuthResult:
            said = await server.challenge_auth(b"<1@example.org>")
            digest = hmac.new("gehëim".encode(), b"<1@example.org>", "md5").hexdigest()
            return AuthResult(success=said == b"me " + digest.encode(), handled=False)

    box = Challenging()
    options = {"auth_require_tls": False, "auth_exclude_mechanism": ["LOGIN", "PLAIN"]}
    settings = (await serve(box, **options)) | {"username": "me"}

    result = await sender().send(settings | {"secret": "gehëim"}, PAYLOAD)
    wrong = await sender().send(settings | {"secret": "other"}, PAYLOAD)

    assert (result.ok, wrong.ok, wrong.refused, len(box.mails)) == (True, False, True, 1)


async def test_a_server_that_says_the_password_back_is_not_quoted_with_it(serve):
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            known = line.upper().startswith(b"EHLO")
            writer.write(b"250-here\r\n250 AUTH PLAIN\r\n" if known else b"535 no " + line)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    settings = {
        "to": ["a@example.org"],
        "from": "pelton@example.org",
        "host": "127.0.0.1",
        "port": server.sockets[0].getsockname()[1],
    }

    result = await sender().send(settings | {"username": "me", "password": "sesame"}, PAYLOAD)
    server.close()

    assert result.detail == "The mail server refuses user name or password: 535 no AUTH PLAIN ***"


async def test_what_makes_no_mail_is_refused_for_good(serve):
    settings = (await serve(Mailbox())) | {"from": "a@example.org\r\nBcc: b@example.org"}

    result = await sender().send(settings, PAYLOAD)

    assert (result.ok, result.retriable) == (False, False)


async def test_without_a_way_to_authenticate_nothing_is_sent(serve):
    box = Mailbox()

    result = await sender().send((await serve(box)) | {"username": "me", "password": "p"}, PAYLOAD)

    assert (result.ok, result.retriable, box.mails) == (False, False, [])


async def test_tls_is_started_and_the_certificate_is_looked_at(serve, tmp_path):
    made = ensure(tmp_path / "pki", hosts=["127.0.0.1"], now=datetime.now(UTC))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.cert, made.key)
    box = Mailbox()
    settings = (await serve(box, tls_context=context, require_starttls=True)) | {"requireTLS": True}

    trusting = await sender().send(settings | {"tlsConfig": {"rootCA": made.ca.read_text()}}, PAYLOAD)
    doubting = await sender().send(settings, PAYLOAD)
    careless = await sender().send(settings | {"tlsConfig": {"insecureSkipVerify": True}}, PAYLOAD)

    assert (trusting.ok, doubting.ok, careless.ok) == (True, False, True)
    assert "not trusted" in doubting.detail
    assert len(box.mails) == 2


async def test_a_server_without_tls_is_refused_where_it_is_required(serve):
    result = await sender().send((await serve(Mailbox())) | {"requireTLS": True}, PAYLOAD)

    assert (result.ok, result.retriable) == (False, False)


def test_html_is_escaped_and_text_is_not():
    alert = Alert(status=FIRING, labels={"alertname": "a"}, annotations={"message": "<b>&\r\nBcc: x"})

    payload = email_payload(Group(alerts=[alert], common_labels={"team": "<i>"}))

    assert "<b>& Bcc: x" in payload["text"]
    assert "&lt;b&gt;&amp; Bcc: x" in payload["html"]
    assert "team=&lt;i&gt;" in payload["html"]
    assert "\n" not in payload["subject"]


async def test_copies_get_the_mail_and_are_named_to_all(serve):
    box = Mailbox("250 ok")
    settings = (await serve(box)) | {"to": ["a@example.org", "b@example.org"], "cc": ["c@example.org"]}

    result = await sender().send(settings, PAYLOAD)

    assert result.ok
    assert box.to == ["a@example.org", "b@example.org", "c@example.org"]
    assert {(mail["To"], mail["Cc"]) for mail in box.mails} == {
        ("a@example.org, b@example.org", "c@example.org")
    }
