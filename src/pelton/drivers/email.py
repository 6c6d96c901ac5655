"""Brings notifications to mailboxes over SMTP. Implements ports.Sender.

Wired in `cli/`, called by `notify/sending.py`. The standard library's client blocks, so a mail is sent on a
thread, within a deadline. Passwords never leave here: not in a result, not over a connection in the clear.
Source: contracts/log-notification.md 4.4, 8.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import smtplib
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from email.message import EmailMessage
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any

from pelton.clock import Clock
from pelton.outgoing import redact, send_parts, timeout_of
from pelton.ports import SendResult

__all__ = ["EmailSender"]

_IMPLICIT_TLS = 465
_EXCERPT = 200


class EmailSender:
    """Sends one mail per address.

    Settings: `{to, from, host, port}`, optionally `hello`, `username`, `identity`, `password`, `secret`,
    `requireTLS`, `tlsConfig` (as a webhook's), `format` (`html`, the default, or `text`) and `cc`, addresses
    that get it as well and are named to all. `done` are addresses that have it. Payload:
    `{subject, text, html}`.

    Args:
        clock: Time of day for the Date header.
        timeout_s: Seconds for one mail, connecting included.
    """

    def __init__(self, clock: Clock, *, timeout_s: float = 15.0) -> None:
        self._clock = clock
        self._timeout_s = timeout_s

    async def send(self, settings: Mapping[str, Any], payload: Mapping[str, Any]) -> SendResult:
        """Send to all addresses that do not have it yet; never raises for what the server does."""
        addresses = [str(address) for address in (*(settings.get("to") or ()), *(settings.get("cc") or ()))]
        try:
            mails = {address: _mail(settings, address, payload, self._clock) for address in addresses}
        except ValueError:  # the library's text may quote what cannot be in a header
            return SendResult(ok=False, retriable=False, detail="The addresses or the subject make no mail.")
        parts = {address: partial(self._send_one, settings, address, mail) for address, mail in mails.items()}
        return await send_parts(parts, done=settings.get("done") or (), named=False)

    async def _send_one(self, settings: Mapping[str, Any], address: str, mail: EmailMessage) -> SendResult:
        result = await self._try_one(settings, address, mail)
        return replace(result, detail=redact(result.detail, _secrets_of(settings)))

    async def _try_one(self, settings: Mapping[str, Any], address: str, mail: EmailMessage) -> SendResult:
        timeout_s = timeout_of(settings, self._timeout_s)
        call = _Call(settings, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.to_thread(call.run, address, mail)
        except TimeoutError:
            call.close()  # wakes the thread
            return SendResult(ok=False, detail="The mail server did not answer in time.")
        except smtplib.SMTPRecipientsRefused as error:
            code, text = next(iter(error.recipients.values()))
            return _refused(code, text, "the address")
        except smtplib.SMTPAuthenticationError as error:
            return replace(_refused(error.smtp_code, error.smtp_error, "user name or password"), refused=True)
        except smtplib.SMTPResponseException as error:
            return _refused(error.smtp_code, error.smtp_error, "the mail")
        except (_Unusable, smtplib.SMTPNotSupportedError) as error:
            return SendResult(ok=False, retriable=False, detail=str(error))
        except ssl.SSLCertVerificationError as error:
            return SendResult(
                ok=False,
                retriable=False,
                detail=f"The mail server's certificate is not trusted: {error.verify_message}.",
            )
        except (smtplib.SMTPException, OSError) as error:
            return SendResult(ok=False, detail=f"No answer of the mail server: {type(error).__name__}.")
        return SendResult(ok=True, detail="250")


class _Unusable(Exception):
    """Something that a repetition does not mend."""


class _Call:
    """One connection, used on a thread; `close` may come from another."""

    def __init__(self, settings: Mapping[str, Any], timeout_s: float) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._client: smtplib.SMTP | None = None

    def close(self) -> None:
        """Cut the connection."""
        client = self._client
        if client is not None:
            client.close()

    def run(self, address: str, mail: EmailMessage) -> None:
        """Connect, authenticate where there is a user name, send, and leave."""
        settings = self._settings
        host, port = str(settings["host"]), int(settings["port"])
        hello = str(settings.get("hello") or "localhost")
        context = _context(settings.get("tlsConfig") or {})
        if port == _IMPLICIT_TLS:
            client: smtplib.SMTP = smtplib.SMTP_SSL(
                local_hostname=hello, timeout=self._timeout_s, context=context
            )
        else:
            client = smtplib.SMTP(local_hostname=hello, timeout=self._timeout_s)
        self._client = client
        # The name for SNI and the certificate; set as by a client that connects on construction.
        client._host = str((settings.get("tlsConfig") or {}).get("serverName") or host)  # type: ignore[attr-defined]
        try:
            code, text = client.connect(host, port)
            if code != 220:
                raise smtplib.SMTPConnectError(code, text)
            client.ehlo_or_helo_if_needed()
            secured = port == _IMPLICIT_TLS
            if not secured and settings.get("requireTLS"):
                client.starttls(context=context)
                client.ehlo_or_helo_if_needed()
                secured = True
            if settings.get("username"):
                self._log_in(client, secured=secured or _loopback(host))
            client.send_message(mail, from_addr=str(settings["from"]), to_addrs=[address])
            try:
                client.quit()
            except (smtplib.SMTPException, OSError):
                pass  # it has the mail
        finally:
            client.close()

    def _log_in(self, client: smtplib.SMTP, *, secured: bool) -> None:
        settings = self._settings
        user, password = str(settings["username"]), str(settings.get("password") or "")
        for mechanism in client.esmtp_features.get("auth", "").upper().split():
            if mechanism == "CRAM-MD5" and settings.get("secret"):
                _authenticate(client, mechanism, user, str(settings["secret"]))
                return
            if mechanism not in ("PLAIN", "LOGIN") or not password:
                continue
            if not secured:
                raise _Unusable("The password is not sent in the clear: set requireTLS in the Config.")
            _authenticate(client, mechanism, user, password, identity=str(settings.get("identity") or ""))
            return
        raise _Unusable("The mail server offers no way of authentication that the Config has a secret for.")


def _authenticate(
    client: smtplib.SMTP, mechanism: str, user: str, secret: str, *, identity: str = ""
) -> None:
    """Authenticate in UTF-8; the library's own way knows ASCII only."""
    first = {"PLAIN": f"{identity}\0{user}\0{secret}", "LOGIN": user}.get(mechanism)
    code, said = client.docmd("AUTH", mechanism if first is None else f"{mechanism} {_base64(first)}")
    if code == 334 and mechanism == "CRAM-MD5":
        try:
            challenge = base64.b64decode(said)
        except ValueError:
            raise smtplib.SMTPAuthenticationError(code, "the challenge cannot be read") from None
        code, said = client.docmd(
            _base64(f"{user} {hmac.new(secret.encode(), challenge, 'md5').hexdigest()}")
        )
    elif code == 334 and mechanism == "LOGIN":
        code, said = client.docmd(_base64(secret))
    if code not in (235, 503):
        raise smtplib.SMTPAuthenticationError(code, said)


def _secrets_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a server might say back: the passwords, plain and as they travel."""
    user, password = str(settings.get("username") or ""), str(settings.get("password") or "")
    plain = f"{settings.get('identity') or ''}\0{user}\0{password}"
    travel = (_base64(plain), _base64(password)) if password else ()
    return *travel, password, str(settings.get("secret") or "")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _context(tls: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=tls.get("rootCA") or None)
    pair = tls.get("clientCertificate") or {}
    if pair.get("cert") and pair.get("key"):
        with tempfile.TemporaryDirectory() as directory:  # the library reads them from files only
            cert, key = Path(directory, "cert"), Path(directory, "key")
            cert.write_text(pair["cert"])
            key.write_text(pair["key"])
            context.load_cert_chain(cert, key)
    if tls.get("insecureSkipVerify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _mail(
    settings: Mapping[str, Any], address: str, payload: Mapping[str, Any], clock: Clock
) -> EmailMessage:
    mail = EmailMessage()
    sender = str(settings["from"])
    copies = [str(each) for each in settings.get("cc") or ()]
    mail["From"], mail["Subject"] = sender, str(payload["subject"])
    # Whoever gets a copy should see whom it was for; without copies nobody sees the others.
    mail["To"] = ", ".join(map(str, settings.get("to") or ())) if copies else address
    if copies:
        mail["Cc"] = ", ".join(copies)
    mail["Date"] = format_datetime(clock.now())
    # The same for each attempt, so that a mailbox can tell a repetition.
    digest = hashlib.sha256(f"{settings.get('deliveryId')}/{address}".encode()).hexdigest()[:32]
    mail["Message-Id"] = f"<{digest}@{sender.rpartition('@')[2].strip('>') or 'localhost'}>"
    plain = settings.get("format") == "text"
    mail.set_content(
        str(payload["text" if plain else "html"]),
        subtype="plain" if plain else "html",
        charset="utf-8",
        cte="quoted-printable",
    )
    mail.make_alternative()
    return mail


def _refused(code: int, text: bytes | str, what: str) -> SendResult:
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return SendResult(
        ok=False,
        retriable=400 <= code < 500,
        detail=f"The mail server refuses {what}: {code} {' '.join(said.split())[:_EXCERPT]}",
    )
