"""HTTPEndpoint of dapr.io/v1alpha1: an address outside that apps invoke by its name.

Called through `manifest/kinds`. Source: contracts, Dapr components, section 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from pelton.manifest import dapr
from pelton.manifest.fields import AnyValue, Field, Items, Problem, Record, Text, describe, render_path
from pelton.manifest.verbs import TableVerbs
from pelton.model import dapr as model
from pelton.model.component import MetadataItem

__all__ = ["HTTP_ENDPOINT"]

_TEXT = Text()
_PEM = Record(
    model.TlsValue,
    (
        Field("value", "value", _TEXT, doc="PEM."),
        Field("secretKeyRef", "secret_key_ref", dapr.SECRET_KEY_REF, doc="Secret that holds it."),
    ),
)
_TLS = Record(
    model.ClientTls,
    (
        Field("rootCA", "root_ca", _PEM, doc="Who the other side is trusted by."),
        Field("certificate", "certificate", _PEM, doc="The client's certificate."),
        Field("privateKey", "private_key", _PEM, doc="Its key."),
        Field(
            "renegotiation",
            "renegotiation",
            Text(choices=("Never", "OnceAsClient", "FreelyAsClient", "RenegotiateNever")),
            doc="Accepted; TLS 1.3 has none.",
        ),
    ),
)
_HEADER = Record(
    MetadataItem,
    (
        Field("name", "name", _TEXT, required=True, doc="Header."),
        Field("value", "value", AnyValue(), keep=True, doc="Its value."),
        Field("secretKeyRef", "secret_key_ref", dapr.SECRET_KEY_REF, doc="Secret that holds the value."),
        Field("envRef", "env_ref", _TEXT, doc="Variable of the platform that holds the value."),
    ),
)
_SPEC = Record(
    model.HttpEndpoint,
    (
        Field("baseUrl", "base_url", _TEXT, required=True, doc="http:// or https:// address."),
        Field("headers", "headers", Items(_HEADER), doc="Sent with every request."),
        Field("clientTLS", "tls", _TLS, doc="The client's side of TLS."),
    ),
)


def _rules(endpoint: model.HttpEndpoint) -> list[Problem]:
    return list(_problems(endpoint))


def _problems(endpoint: model.HttpEndpoint) -> Iterator[Problem]:
    scheme, mark, rest = endpoint.base_url.partition("://")
    if not endpoint.base_url:
        yield Problem("spec.baseUrl", "required")
    elif not mark or scheme.lower() not in {"http", "https"} or not rest:
        yield Problem(
            "spec.baseUrl", f"must be an http:// or https:// address, found {describe(endpoint.base_url)}"
        )
    for index, header in enumerate(endpoint.headers):
        yield from dapr.check_env_ref(header, render_path(("spec", "headers", index)))


HTTP_ENDPOINT: TableVerbs[model.HttpEndpoint] = TableVerbs(
    "dapr.io/v1alpha1", "HTTPEndpoint", _SPEC, rules=_rules, required=True, beside=dapr.BESIDE
)
"""The verbs of HTTPEndpoint."""
