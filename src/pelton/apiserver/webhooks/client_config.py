"""The clientConfig of a webhook: its schema and rules, shared by admission and conversion webhooks. Pure.

`configuration.py` and the controller of definitions call `check`; `caller.py` calls what passed.
Source: contracts operator-webhook.md section 2 and 1.2.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509

from pelton.apiserver.builtin.shapes import integer, struct, text
from pelton.apiserver.registry import Cause
from pelton.apiserver.schema.problems import invalid_value, required

__all__ = ["CLIENT_CONFIG", "check"]

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

CLIENT_CONFIG = struct(
    "How to call the webhook: by url or by service.",
    {
        "url": text("https address, without user, query and fragment."),
        "service": struct(
            "A Service in this API server.",
            {
                "namespace": text("Its namespace."),
                "name": text("Its name."),
                "path": text("Path of the request."),
                "port": integer("Its port; 443 when absent."),
            },
            required=("namespace", "name"),
        ),
        "caBundle": text(
            "PEM certificates that the server's must come from; the system's when empty.", form="byte"
        ),
    },
)
"""Schema of a clientConfig."""


def check(config: Mapping[str, Any], path: str) -> list[Cause]:
    """Return the broken rules of a clientConfig.

    Args:
        config: As written, of the right types.
        path: Where it is.
    """
    causes: list[Cause] = []
    url, service = config.get("url"), config.get("service")
    if (url is None) == (service is None):
        causes.append(required(path, "exactly one of url or service is required"))
    elif url is not None:
        causes += _url(url, f"{path}.url")
    elif service is not None:
        causes += _service(service, f"{path}.service")
    bundle = config.get("caBundle")
    if bundle:
        try:
            certificates = x509.load_pem_x509_certificates(base64.b64decode(bundle, validate=True))
        except (ValueError, binascii.Error) as error:
            reason = f"unable to load root certificates: {error}"
            causes.append(Cause(field=f"{path}.caBundle", message=f"Invalid value: {reason}"))
        else:
            if not certificates:
                causes.append(
                    Cause(field=f"{path}.caBundle", message="Invalid value: it holds no certificate")
                )
    return causes


def _url(url: str, path: str) -> list[Cause]:
    form = 'desired format: "https://host[/path]"'
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        return [invalid_value(path, url, f"url must be a valid URL: {error}; {form}")]
    causes = []
    if parts.scheme != "https":
        causes.append(invalid_value(path, parts.scheme, f"'https' is the only allowed URL scheme; {form}"))
    if not parts.hostname:
        causes.append(invalid_value(path, "", f"host must be specified; {form}"))
    if parts.username is not None or parts.password is not None:
        causes.append(invalid_value(path, "", "user information is not permitted in the URL"))
    if parts.fragment:
        causes.append(invalid_value(path, parts.fragment, "fragments are not permitted in the URL"))
    if parts.query:
        causes.append(invalid_value(path, parts.query, "query parameters are not permitted in the URL"))
    return causes


def _service(service: Mapping[str, Any], path: str) -> list[Cause]:
    causes = [required(f"{path}.{key}") for key in ("name", "namespace") if not service.get(key)]
    port = service.get("port", 443)
    if not 1 <= port <= 65535:
        causes.append(
            invalid_value(f"{path}.port", port, "port is not valid: must be between 1 and 65535, inclusive")
        )
    route = service.get("path")
    if not route or route == "/":
        return causes
    if not route.startswith("/"):
        return [*causes, invalid_value(f"{path}.path", route, "must start with a '/'")]
    for at, step in enumerate(route.removesuffix("/").split("/")[1:]):
        if not step:
            causes.append(invalid_value(f"{path}.path", route, f"segment[{at}] may not be empty"))
        elif len(step) > 253 or not _SUBDOMAIN.fullmatch(step):
            causes.append(
                invalid_value(
                    f"{path}.path", route, f"segment[{at}]: a lowercase RFC 1123 subdomain is required"
                )
            )
    return causes
