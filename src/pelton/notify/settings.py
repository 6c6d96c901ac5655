"""What a Sender needs to know of a Receiver's block, as a plain mapping in the contract's field names.

Pure: secrets come through a callable. `notify/pipeline.py` makes these, files of `drivers/` read
them. The mappings hold secrets: they are never logged and never put on the bus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pelton.model.notification import (
    ConsoleReceiver,
    Credential,
    EmailReceiver,
    HttpConfig,
    Receiver,
    SecretRef,
    SlackReceiver,
    TlsConfig,
    WebhookReceiver,
)
from pelton.model.notification_routing import Config, EmailConfig

__all__ = ["MISSING", "Block", "SecretLookup", "blocks_of", "settings_of"]

MISSING = "missing"
"""Key of a sentence that says why nothing can be sent yet; absent when all is there."""

Block = SlackReceiver | EmailReceiver | WebhookReceiver | ConsoleReceiver
"""One way out of a Receiver."""

SecretLookup = Callable[[SecretRef], str | None]
"""Returns a secret's text, or None while it does not exist."""


def blocks_of(receiver: Receiver) -> Iterator[tuple[str, Block]]:
    """Iterate over a receiver's enabled blocks as (name, block)."""
    for name, block in (
        ("slack", receiver.slack),
        ("email", receiver.email),
        ("webhook", receiver.webhook),
        ("console", receiver.console),
    ):
        if block is not None and block.enabled:
            yield name, block


def settings_of(block: Block, secret: SecretLookup, config: Config | None = None) -> dict[str, Any]:
    """Return a block's settings with secrets resolved; `config` is the one chosen for it, if any.

    Shapes: slack `{webhook}` or `{channels, token}` and perhaps `apiBase`; webhook `{url}` or `{service}`,
    plus `httpConfig`; email as `drivers/email.py` says; console `{}`. A secret that does not exist leaves its
    key out and says so under `MISSING`.
    """
    texts = _Texts(secret)
    settings: dict[str, Any] = {}
    if isinstance(block, SlackReceiver):
        if block.webhook is not None:
            settings["webhook"] = texts.read(block.webhook)
        else:
            settings["channels"] = list(block.channels)
            if config is None or config.slack is None:
                texts.missing.append(
                    "No Config with a slack block suits this receiver: channels need a token."
                )
            else:
                settings["token"] = texts.read(config.slack.token)
                if config.slack.api_url:
                    settings["apiBase"] = config.slack.api_url
    elif isinstance(block, EmailReceiver):
        settings |= {"to": list(block.to), "format": block.format or "html"}
        if config is None or config.email is None:
            texts.missing.append("No Config with an email block suits this receiver: mail needs a server.")
        else:
            settings |= _mail_server(config.email, texts)
    elif isinstance(block, WebhookReceiver):
        if block.url:
            settings["url"] = block.url
        elif block.service is not None:
            service = block.service
            settings["service"] = {
                "namespace": service.namespace,
                "name": service.name,
                "path": service.path,
                "port": service.port,
                "scheme": service.scheme or "http",
            }
        if block.http is not None:
            settings["httpConfig"] = _http(block.http, texts)
    if texts.missing:
        settings[MISSING] = " ".join(texts.missing)
    return settings


def _mail_server(server: EmailConfig, texts: _Texts) -> dict[str, Any]:
    return {
        "from": server.sender,
        "host": server.host,
        "port": server.port,
        "hello": server.hello,
        "username": server.username,
        "identity": server.identity,
        "password": texts.read(server.password),
        "secret": texts.read(server.secret),
        "requireTLS": server.require_tls,
        "tlsConfig": _tls(server.tls, texts) if server.tls is not None else {},
    }


def _tls(tls: TlsConfig, texts: _Texts) -> dict[str, Any]:
    return {
        "rootCA": texts.read(tls.root_ca),
        "clientCertificate": {"cert": texts.read(tls.client_cert), "key": texts.read(tls.client_key)},
        "serverName": tls.server_name,
        "insecureSkipVerify": tls.insecure_skip_verify,
    }


def _http(http: HttpConfig, texts: _Texts) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if http.basic_auth is not None:
        config["basicAuth"] = {
            "username": http.basic_auth.username,
            "password": texts.read(http.basic_auth.password) or "",
        }
    if http.bearer_token is not None:
        config["bearerToken"] = texts.read(http.bearer_token)
    if http.proxy_url:
        config["proxyUrl"] = http.proxy_url
    if http.tls is not None:
        config["tlsConfig"] = _tls(http.tls, texts)
    return config


class _Texts:
    """Reads credentials and collects what was not there."""

    def __init__(self, secret: SecretLookup) -> None:
        self._secret = secret
        self.missing: list[str] = []

    def read(self, credential: Credential | None) -> str | None:
        if credential is None:
            return None
        if credential.secret is None:
            return credential.value
        text = self._secret(credential.secret)
        if text is None:
            ref = credential.secret
            place = f"{ref.namespace}/{ref.name}" if ref.namespace else ref.name
            self.missing.append(f"Secret {place} with key {ref.key} does not exist.")
        return text
