"""`bindings.smtp`: one mail per event.

Implements `ports.Binding` with the standard library, on a thread per mail. TLS from the start on port 465,
otherwise when the server offers it.
Source: `dapr-components` contract, section 4 (`bindings.smtp`).
"""

from __future__ import annotations

import asyncio
import json
import smtplib
import ssl
from collections.abc import Mapping
from email.message import EmailMessage
from typing import Final

from pelton.errors import ComponentError, DeliveryError
from pelton.model.desired import Component
from pelton.model.invocation import Delivered
from pelton.model.settings import ComponentSettings

__all__ = ["SmtpBinding"]

_TIMEOUT_S: Final = 30.0
_TLS_PORT: Final = 465
_FIELDS: Final = ("emailFrom", "emailTo", "emailCC", "emailBCC", "subject", "priority")


class SmtpBinding:
    """One mail server.

    Args:
        component: `host` and `port` are required; `user` and `password` come together or not at all.
    """

    def __init__(self, component: Component) -> None:
        settings = ComponentSettings(component)
        self._where = settings.where
        self._host = settings.required("host")
        settings.required("port")
        self._port = settings.number("port", 0)
        self._user, self._password = settings.text("user"), settings.text("password")
        if bool(self._user) != bool(self._password):
            raise ComponentError("metadata `user` and `password` come together", where=self._where)
        self._verify = not settings.flag("skipTLSVerify")
        self._defaults = {name: settings.text(name) for name in _FIELDS}
        # Bounded, so that a server that hangs takes no more threads than these.
        self._sending = asyncio.Semaphore(4)

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> Delivered:
        """Send one mail; see `ports.Binding`.

        Args:
            operation: create.
            data: The body, HTML or text; a JSON string is taken out of its quotes.
            metadata: `emailFrom`, `emailTo`, `emailCC`, `emailBCC` (several separated by `;`), `subject` and
                `priority` (1 to 5) override the component's.
        """
        if operation.lower() != "create":
            raise ComponentError(
                f"bindings.smtp has no operation {operation!r}", where=self._where, hint="Use create."
            )
        mail, recipients = self._mail(data, {key.lower(): value for key, value in metadata.items()})
        async with self._sending:
            try:
                await asyncio.to_thread(self._send, mail, recipients)
            except smtplib.SMTPAuthenticationError as exc:
                raise ComponentError(
                    f"{self._host}:{self._port} rejected the credentials", where=self._where
                ) from exc
            except smtplib.SMTPRecipientsRefused as exc:
                codes = {code for code, _ in exc.recipients.values()}
                raise DeliveryError(
                    f"{self._host}:{self._port} refused all recipients ({', '.join(map(str, codes))})",
                    where=self._where,
                    retriable=any(code < 500 for code in codes),
                ) from exc
            except smtplib.SMTPResponseException as exc:
                raise DeliveryError(
                    f"{self._host}:{self._port} answered {exc.smtp_code}",
                    where=self._where,
                    retriable=exc.smtp_code < 500,
                ) from exc
            except (smtplib.SMTPException, OSError) as exc:
                raise DeliveryError(
                    f"{self._host}:{self._port} was not reached: {type(exc).__name__}", where=self._where
                ) from exc
        return Delivered(ok=True)

    async def close(self) -> None:
        """Do nothing: no connection is kept."""

    def _mail(self, data: bytes, given: Mapping[str, str]) -> tuple[EmailMessage, list[str]]:
        fields = {name: given.get(name.lower(), "") or default for name, default in self._defaults.items()}
        for name in ("emailFrom", "emailTo", "subject"):
            if not fields[name].strip():
                raise ComponentError(f"`{name}` is set neither here nor in the request", where=self._where)
        priority = fields["priority"].strip() or "3"
        if priority not in {"1", "2", "3", "4", "5"}:
            raise ComponentError("`priority` is not 1 to 5", where=self._where)
        mail, recipients = EmailMessage(), list[str]()
        try:
            mail["From"], mail["Subject"] = fields["emailFrom"], fields["subject"]
            for name, header in (("emailTo", "To"), ("emailCC", "Cc"), ("emailBCC", "")):
                addresses = [part.strip() for part in fields[name].split(";") if part.strip()]
                recipients += addresses
                if header and addresses:
                    mail[header] = ", ".join(addresses)
            mail["X-Priority"] = priority
            mail.set_content(_body(data), subtype="html")
        except (ValueError, IndexError) as exc:
            raise ComponentError(f"the mail cannot be made: {exc}", where=self._where) from exc
        return mail, recipients

    def _send(self, mail: EmailMessage, recipients: list[str]) -> None:
        context = ssl.create_default_context()
        if not self._verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self._port == _TLS_PORT:
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                self._host, self._port, timeout=_TIMEOUT_S, context=context
            )
        else:
            server = smtplib.SMTP(self._host, self._port, timeout=_TIMEOUT_S)
        with server:
            server.ehlo()
            if self._port != _TLS_PORT and server.has_extn("starttls"):
                server.starttls(context=context)
                server.ehlo()
            if self._user:
                server.login(self._user, self._password)
            server.send_message(mail, to_addrs=recipients)


def _body(data: bytes) -> str:
    text = data.decode(errors="replace")
    if text.startswith('"'):
        try:
            found = json.loads(text)
        except ValueError:
            return text
        return found if isinstance(found, str) else text
    return text
