"""The mail driver against a real SMTP server."""

import email
import email.policy

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from pelton.drivers.smtp import SmtpBinding
from pelton.errors import ComponentError, DeliveryError
from pelton.model.desired import Component
from tests.contract.binding import BindingContract
from tests.services.server import free_port

SECRET = "correct-horse"
MAIL = {"emailFrom": "a@shop.test", "emailTo": "b@shop.test", "subject": "Größe"}


class Box:
    """Keeps mails; refuses recipients named nobody."""

    def __init__(self):
        self.mails = []

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody"):
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        self.mails.append(
            (envelope.rcpt_tos, email.message_from_bytes(envelope.content, policy=email.policy.default))
        )
        return "250 OK"


@pytest.fixture
def server():
    def allowed(server, session, envelope, mechanism, data):
        return AuthResult(success=data.password == SECRET.encode(), handled=False)

    controller = Controller(
        Box(), hostname="127.0.0.1", port=free_port(), authenticator=allowed, auth_require_tls=False
    )
    controller.start()
    yield controller
    controller.stop()


def open_binding(port, **metadata):
    metadata = {"host": "127.0.0.1", "port": str(port), **MAIL, **metadata}
    return SmtpBinding(Component(namespace="shop", name="mail", type="bindings.smtp", metadata=metadata))


class TestSmtpBinding(BindingContract):
    @pytest.fixture
    def binding(self, server):
        return open_binding(server.port)

    @pytest.fixture
    def unreachable(self):
        return open_binding(free_port())

    async def test_mail_has_body_addresses_and_priority(self, binding, server):
        more = {"emailTo": "c@shop.test; d@shop.test", "emailCC": "e@shop.test", "emailBCC": "f@shop.test"}
        await binding.invoke("create", '"<b>ä</b>\\n"'.encode(), {**more, "priority": "1"})

        ((recipients, mail),) = server.handler.mails
        assert recipients == [f"{name}@shop.test" for name in "cdef"]
        assert (mail["From"], mail["To"], mail["Cc"]) == (
            "a@shop.test",
            "c@shop.test, d@shop.test",
            "e@shop.test",
        )
        assert (mail["Subject"], mail["X-Priority"], mail["Bcc"]) == ("Größe", "1", None)
        assert mail.get_content_type() == "text/html"
        assert mail.get_content().strip() == "<b>ä</b>"

    async def test_refused_recipient_is_not_tried_again(self, binding):
        with pytest.raises(DeliveryError, match="550") as caught:
            await binding.invoke("create", b"x", {"emailTo": "nobody@shop.test"})
        assert not caught.value.retriable

    async def test_wrong_password_is_told_and_never_shown(self, server, caplog):
        await open_binding(server.port, user="u", password=SECRET).invoke("create", b"x", {})
        assert len(server.handler.mails) == 1
        with pytest.raises(ComponentError, match="rejected the credentials") as caught:
            await open_binding(server.port, user="u", password="wrong-battery").invoke("create", b"x", {})
        assert "battery" not in f"{caught.value} {caplog.text}"

    @pytest.mark.parametrize("given", [{"priority": "9"}, {"subject": "a\nBcc: evil@x.test"}], ids=str)
    async def test_mail_that_cannot_be_made_is_refused(self, binding, given):
        with pytest.raises(ComponentError, match=r"priority|cannot be made"):
            await binding.invoke("create", b"x", given)


@pytest.mark.parametrize("metadata", [{"host": ""}, {"port": "smtp"}, {"user": "u"}], ids=str)
def test_bad_settings_are_refused_with_their_name(metadata):
    with pytest.raises(ComponentError, match=next(iter(metadata))):
        open_binding(**{"port": "25", **metadata})
