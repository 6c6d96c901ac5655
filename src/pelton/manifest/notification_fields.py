"""Shapes and rules that blocks of Receivers and Configs have in common: credentials, selectors, TLS.

`manifest/notification`, `manifest/notification_chat` and `manifest/notification_routing` build their tables
of these. Source: contracts, log and notification, section 4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pelton.manifest.fields import (
    AnyValue,
    Boolean,
    Field,
    Items,
    Mapped,
    Only,
    Path,
    Problem,
    Reading,
    Record,
    Text,
    describe,
)
from pelton.model import notification as model
from pelton.model.notification import Credential, LabelSelector, compile_pattern
from pelton.texttemplate.fault import JINJA_SUFFIXES, TemplateFault
from pelton.texttemplate.go_run import known_functions
from pelton.texttemplate.go_syntax import parse

__all__ = [
    "CREDENTIAL",
    "SELECTOR",
    "SHARED",
    "TLS",
    "TextOrCredential",
    "credential_problems",
    "selector_problems",
    "template_problems",
    "template_text_problems",
    "url_problems",
]

_DEFINES = re.compile(r"\{\{-?\s*define\s")
_FUNCTIONS = known_functions({"message": len, "translate": len})
_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Match")

_TEXT = Text()
_BOOLEAN = Boolean()

_SECRET_REF = Record(
    model.SecretRef,
    (
        Field("namespace", "namespace", _TEXT, doc="Namespace."),
        Field("name", "name", _TEXT, required=True, doc="Name."),
        Field("key", "key", _TEXT, required=True, doc="Entry in it."),
    ),
)
CREDENTIAL = Record(
    Credential,
    (
        Field("value", "value", _TEXT, keep=True, doc="Literal value."),
        Field(
            "valueFrom",
            "secret",
            Only("secretKeyRef", _SECRET_REF, doc="The Secret."),
            doc="Where the value is kept.",
        ),
    ),
)
"""A secret text: literal, or in a Secret."""


class TextOrCredential(AnyValue):
    """A credential that may also be written as bare text."""

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        """Accept text or a credential object."""
        return Credential(value=value) if isinstance(value, str) else CREDENTIAL.decode(value, path, reading)

    def encode(self, value: Any) -> Any:
        """Write the object form."""
        return CREDENTIAL.encode(value)


SELECTOR = Record(
    LabelSelector,
    (
        Field("matchLabels", "match_labels", Mapped(_TEXT), doc="Labels that must be so."),
        Field(
            "matchExpressions",
            "match_expressions",
            Items(
                Record(
                    model.Requirement,
                    (
                        Field("key", "key", _TEXT, required=True, doc="Entry in it."),
                        Field(
                            "operator",
                            "operator",
                            _TEXT,
                            required=True,
                            doc="In, NotIn, Exists, DoesNotExist or Match.",
                        ),
                        Field("values", "values", Items(_TEXT), doc="Values for In and NotIn."),
                        Field("regexValue", "regex", _TEXT, doc="Pattern for Match."),
                    ),
                )
            ),
            doc="Conditions on labels, all of them.",
        ),
    ),
)
"""Conditions on labels."""
SHARED = (
    Field("enabled", "enabled", _BOOLEAN, doc="Whether it is used; default true."),
    Field("alertSelector", "alert_selector", SELECTOR, doc="Which alerts; default all."),
    Field("template", "template", _TEXT, doc="Template of the message."),
    Field(
        "tmplText",
        "template_source",
        Record(
            model.ConfigMapKey,
            (
                Field("namespace", "namespace", _TEXT, doc="Namespace."),
                Field("name", "name", _TEXT, required=True, doc="Name."),
                Field("key", "key", _TEXT, doc="Entry in it."),
            ),
        ),
        doc="ConfigMap with templates.",
    ),
)
"""Fields that a block of every type has."""


def _tls(
    root_ca: Credential | None = None,
    certificate: dict[str, Credential] | None = None,
    server_name: str = "",
    insecure_skip_verify: bool | None = None,
) -> model.TlsConfig:
    pair = certificate or {}
    return model.TlsConfig(
        root_ca=root_ca,
        client_cert=pair.get("cert"),
        client_key=pair.get("key"),
        server_name=server_name,
        insecure_skip_verify=bool(insecure_skip_verify),
    )


class _TlsRecord(Record):
    """TLS settings, whose client certificate is an object of its own in the manifest."""

    def encode(self, value: Any) -> Any:
        """Write the settings with their nested client certificate."""
        pair = {"cert": value.client_cert, "key": value.client_key}
        written = {
            "rootCA": value.root_ca and CREDENTIAL.encode(value.root_ca),
            "clientCertificate": {
                key: CREDENTIAL.encode(part) for key, part in pair.items() if part is not None
            },
            "serverName": value.server_name,
            "insecureSkipVerify": value.insecure_skip_verify,
        }
        return {key: part for key, part in written.items() if part}


TLS = _TlsRecord(
    _tls,
    (
        Field("rootCA", "root_ca", CREDENTIAL, doc="Authority to trust."),
        Field(
            "clientCertificate",
            "certificate",
            Record(
                dict,
                (
                    Field("cert", "cert", CREDENTIAL, required=True, doc="Certificate."),
                    Field("key", "key", CREDENTIAL, required=True, doc="Entry in it."),
                ),
            ),
            doc="Certificate to show.",
        ),
        Field("serverName", "server_name", _TEXT, doc="Name to expect."),
        Field(
            "insecureSkipVerify", "insecure_skip_verify", _BOOLEAN, doc="Whether any certificate is taken."
        ),
    ),
)
"""TLS towards a destination."""


def credential_problems(path: str, credential: Credential | None) -> Iterator[Problem]:
    """Yield what is wrong with a credential; None has no problem."""
    if credential is not None and (credential.value is None) == (credential.secret is None):
        found = "neither is given" if credential.value is None else "both are given"
        yield Problem(path, f"exactly one of value and valueFrom.secretKeyRef is required, {found}")


def selector_problems(path: str, selector: LabelSelector | None) -> Iterator[Problem]:
    """Yield what is wrong with a selector; None has no problem."""
    for index, item in enumerate(selector.match_expressions if selector is not None else ()):
        here = f"{path}.matchExpressions[{index}]"
        if item.operator and item.operator not in _OPERATORS:
            yield Problem(
                f"{here}.operator",
                f"must be In, NotIn, Exists, DoesNotExist or Match, found {describe(item.operator)}",
            )
        elif item.operator in ("In", "NotIn") and not item.values:
            yield Problem(f"{here}.values", f"required for the operator {item.operator}")
        elif item.operator in ("Exists", "DoesNotExist") and item.values:
            yield Problem(f"{here}.values", f"must be absent for the operator {item.operator}")
        elif item.operator == "Match":
            try:
                compile_pattern(item.regex)
            except ValueError as error:
                yield Problem(f"{here}.regexValue", f"is no regular expression: {error}")


def template_problems(path: str, template: str) -> Iterator[Problem]:
    """Yield what is wrong with a field that names a template or holds one in Go's language."""
    if "{{" not in template:
        return
    try:
        read = parse(template, name="", functions=_FUNCTIONS)
    except TemplateFault as fault:
        line, column = fault.position or (1, 1)
        yield Problem(path, f"line {line}, column {column}: {fault.message}")
        return
    for name in sorted(read.defined):
        yield Problem(path, f"defines the template {describe(name)}: put it into a ConfigMap, for tmplText")


def template_text_problems(name: str, text: str) -> list[str]:
    """Return what is wrong with an entry of a ConfigMap that looks like templates of notifications.

    Args:
        name: The entry's key; its end tells Jinja2's from Go's.
        text: Its text; without a definition it is taken for something else than Go's.
    """
    if name.endswith(JINJA_SUFFIXES):
        from pelton.texttemplate.jinja import JinjaTemplates  # the library is loaded only where it is needed

        faults = JinjaTemplates({name: text}, {"translate": str}).faults()
    elif _DEFINES.search(text):
        try:
            parse(text, name="", functions=_FUNCTIONS)
            return []
        except TemplateFault as fault:
            faults = [fault]
    else:
        return []
    return [
        f"line {line}, column {column}: {fault.message}"
        for fault in faults
        for line, column in [fault.position or (1, 1)]
    ]


def url_problems(path: str, url: str, *, secret: bool = False) -> Iterator[Problem]:
    """Yield what is wrong with an HTTP address; one that is itself a secret is not quoted."""
    if not re.fullmatch(r"https?://[^\s/?#]+([/?#]\S*)?", url):
        found = "" if secret else f", found {describe(url)}"  # an incoming-webhook URL is itself the password
        yield Problem(path, f"must be an http:// or https:// URL{found}")
