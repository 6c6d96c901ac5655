"""The CEL libraries for policies: named formats and the authorizer of admission expressions.

A table read by `library.py`. What the requester may do is asked of a callable that the caller of an
expression binds; nothing here knows of roles. Pure. Source: Kubernetes' Format and Authz libraries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from pelton.cel.overload import Table, global_function, method, traverse
from pelton.cel.types import BOOL, STRING, Type, list_of, opaque, optional_of
from pelton.cel.values import NOTHING, OptionalValue, Timestamp
from pelton.errors import CelEvaluateError

__all__ = ["AUTHORIZER", "POLICIES", "Authorizer", "Decide"]

Decide = Callable[[Mapping[str, str]], tuple[bool, str]]
"""Attributes of a request (verb, group, resource, subresource, namespace, name, path) -> allowed, reason."""

_CHECK_COST = 350_000  # an authorization check may be a call over the network in Kubernetes


@dataclass(frozen=True, slots=True)
class Authorizer:
    """The requester as expressions ask about it; also a check under construction.

    Attributes:
        decide: Answers checks.
        cel_type: Which of the library's types it is at this point of the chain.
        attributes: What was named so far.
        allowed, reason: The decision, once `check` was called.
    """

    decide: Decide
    cel_type: str = "kubernetes.authorization.Authorizer"
    attributes: Mapping[str, str] = field(default_factory=dict)
    allowed: bool = False
    reason: str = ""

    def step(self, kind: str, **attributes: str) -> Authorizer:
        """Return the next link of the chain."""
        return replace(
            self, cel_type=f"kubernetes.authorization.{kind}", attributes={**self.attributes, **attributes}
        )

    def check(self, verb: str) -> Authorizer:
        """Return the decision on a verb."""
        allowed, reason = self.decide({**self.attributes, "verb": verb})
        return replace(self.step("Decision"), allowed=allowed, reason=reason)


def _kind(name: str) -> Type:
    return opaque(f"kubernetes.authorization.{name}")


AUTHORIZER = _kind("Authorizer")
"""Type of the variable `authorizer`."""

_PATH, _GROUP, _RESOURCE, _DECISION = (
    _kind("PathCheck"),
    _kind("GroupCheck"),
    _kind("ResourceCheck"),
    _kind("Decision"),
)


def _check_path(path: str) -> str:
    if not path:
        raise CelEvaluateError("path must not be empty")
    return path


_AUTHORIZATION: Table = {
    "path": (
        method((AUTHORIZER, STRING), _PATH, lambda a, path: a.step("PathCheck", path=_check_path(path))),
    ),
    "group": (method((AUTHORIZER, STRING), _GROUP, lambda a, group: a.step("GroupCheck", group=group)),),
    "serviceAccount": (
        method(
            (AUTHORIZER, STRING, STRING),
            AUTHORIZER,
            lambda a, namespace, name: a.step("Authorizer", user=f"system:serviceaccount:{namespace}:{name}"),
        ),
    ),
    "resource": (method((_GROUP, STRING), _RESOURCE, lambda a, r: a.step("ResourceCheck", resource=r)),),
    "subresource": (
        method((_RESOURCE, STRING), _RESOURCE, lambda a, s: a.step("ResourceCheck", subresource=s)),
    ),
    "namespace": (method((_RESOURCE, STRING), _RESOURCE, lambda a, n: a.step("ResourceCheck", namespace=n)),),
    "name": (method((_RESOURCE, STRING), _RESOURCE, lambda a, n: a.step("ResourceCheck", name=n)),),
    "check": (
        method((_RESOURCE, STRING), _DECISION, Authorizer.check, lambda sizes: _CHECK_COST),
        method((_PATH, STRING), _DECISION, Authorizer.check, lambda sizes: _CHECK_COST),
    ),
    "allowed": (method((_DECISION,), BOOL, lambda decision: decision.allowed),),
    "reason": (method((_DECISION,), STRING, lambda decision: decision.reason),),
    "errored": (method((_DECISION,), BOOL, lambda decision: False),),
    "error": (method((_DECISION,), STRING, lambda decision: ""),),
}


# -- named formats -----------------------------------------------------------------------------------------

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAME_PART = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_UUID = re.compile(r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s]+|/[^\s]*")


def _fits(pattern: re.Pattern[str], longest: int, *, prefix: bool = False) -> Callable[[str], bool]:
    def test(text: str) -> bool:
        # A generated name gets a suffix, so its prefix may end with a dash.
        body = text[:-1] + "a" if prefix and text.endswith("-") else text
        return len(body) <= longest and pattern.fullmatch(body) is not None

    return test


def _qualified_name(text: str) -> bool:
    prefix, slash, name = text.rpartition("/")
    if slash and not (len(prefix) <= 253 and _SUBDOMAIN.fullmatch(prefix)):
        return False
    return len(name) <= 63 and _NAME_PART.fullmatch(name) is not None


def _is_time(text: str) -> bool:
    try:
        Timestamp.parse(text)
    except CelEvaluateError:
        return False
    return True


_FORMATS: dict[str, tuple[Callable[[str], bool], str]] = {
    "dns1123Label": (_fits(_LABEL, 63), "must be a lower-case RFC 1123 label of at most 63 characters"),
    "dns1123Subdomain": (
        _fits(_SUBDOMAIN, 253),
        "must be a lower-case RFC 1123 subdomain of at most 253 characters",
    ),
    "dns1035Label": (_fits(_LABEL_1035, 63), "must be a DNS-1035 label of at most 63 characters"),
    "qualifiedName": (
        _qualified_name,
        "must be a qualified name: a name of at most 63 characters, with an optional DNS subdomain prefix "
        "and '/'",
    ),
    "dns1123LabelPrefix": (_fits(_LABEL, 63, prefix=True), "must be the beginning of an RFC 1123 label"),
    "dns1123SubdomainPrefix": (
        _fits(_SUBDOMAIN, 253, prefix=True),
        "must be the beginning of an RFC 1123 subdomain",
    ),
    "dns1035LabelPrefix": (_fits(_LABEL_1035, 63, prefix=True), "must be the beginning of a DNS-1035 label"),
    "labelValue": (
        lambda text: text == "" or (len(text) <= 63 and _NAME_PART.fullmatch(text) is not None),
        "must be a label value of at most 63 characters",
    ),
    "uri": (lambda text: _URI.fullmatch(text) is not None, "must be a URI"),
    "uuid": (lambda text: _UUID.fullmatch(text) is not None, "does not match the UUID format"),
    "byte": (lambda text: _BASE64.fullmatch(text) is not None, "invalid base64"),
    "date": (lambda text: len(text) == 10 and _is_time(f"{text}T00:00:00Z"), "invalid date"),
    "datetime": (_is_time, "invalid datetime"),
}


@dataclass(frozen=True, slots=True)
class NamedFormat:
    """A format that texts are validated against."""

    name: str
    cel_type: ClassVar[str] = "kubernetes.NamedFormat"

    def validate(self, text: str) -> OptionalValue:
        """Return the faults, or nothing when the text fits."""
        test, message = _FORMATS[self.name]
        return NOTHING if test(text) else OptionalValue([message])


_FORMAT = opaque("kubernetes.NamedFormat")


def _named(name: str) -> OptionalValue:
    return OptionalValue(NamedFormat(name)) if name in _FORMATS else NOTHING


def _constant(name: str) -> Callable[[], NamedFormat]:
    return lambda: NamedFormat(name)


_NAMED: Table = {
    "format.named": (global_function((STRING,), optional_of(_FORMAT), _named),),
    "validate": (
        method(
            (_FORMAT, STRING), optional_of(list_of(STRING)), NamedFormat.validate, lambda s: traverse(s[1])
        ),
    ),
    **{f"format.{name}": (global_function((), _FORMAT, _constant(name)),) for name in _FORMATS},
}

POLICIES: tuple[Table, ...] = (_AUTHORIZATION, _NAMED)
"""Tables of name -> overloads."""
