"""The string formats that schemas check; any other format is accepted, as an API server does.

Called by `validate.py` and, for the sizes, by `rules.py`. Pure. Source: the formats of Kubernetes' CRD
schemas.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from pelton.cel import DURATION, TIMESTAMP, adapt

__all__ = ["FORMATS", "NUMBERS"]

_EMAIL = re.compile(r"[^@\s<>]+@[^@\s<>]+")
_HOSTNAME = re.compile(
    r"(?=.{1,253}\.?$)[A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9])?)*\.?"
)
_MAC = re.compile(r"([0-9A-Fa-f]{2}([:-])[0-9A-Fa-f]{2}(\2[0-9A-Fa-f]{2}){4,6})")
_UUID = re.compile(r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}")
_CREDITCARD = re.compile(r"[0-9]{13,19}")
_SSN = re.compile(r"\d{3}[- ]?\d{2}[- ]?\d{4}")
_HEX = re.compile(r"#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})")
_RGB = re.compile(r"rgb\(\s*\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}\s*\)")
_ISBN = re.compile(r"[0-9]{9}[0-9Xx]|[0-9]{13}")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def test(text: str) -> bool:
        try:
            parse(text)
        except (ValueError, binascii.Error):
            return False
        return True

    return test


def _address(version: int) -> Callable[[str], bool]:
    def parse(text: str) -> None:
        if ipaddress.ip_address(text).version != version:
            raise ValueError(text)

    return _parses(parse)


def _uri(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme or text.startswith("/")) and not any(ord(c) <= 32 for c in text)


def _cidr(text: str) -> None:
    address, slash, length = text.partition("/")
    ipaddress.ip_address(address)
    if not slash or not length.isdigit():
        raise ValueError(text)
    ipaddress.ip_interface(text)


FORMATS: dict[str, Callable[[str], bool]] = {
    "bsonobjectid": _matches(re.compile(r"[0-9a-fA-F]{24}")),
    "byte": _parses(lambda text: base64.b64decode(text, validate=True)),
    "cidr": _parses(_cidr),
    "creditcard": lambda text: _CREDITCARD.fullmatch(text.replace("-", "").replace(" ", "")) is not None,
    "date": lambda text: len(text) == 10 and not isinstance(adapt(text, TIMESTAMP), str),
    "date-time": lambda text: len(text) > 10 and not isinstance(adapt(text, TIMESTAMP), str),
    "datetime": lambda text: len(text) > 10 and not isinstance(adapt(text, TIMESTAMP), str),
    "duration": lambda text: not isinstance(adapt(text, DURATION), str),
    "email": _matches(_EMAIL),
    "hexcolor": _matches(_HEX),
    "hostname": _matches(_HOSTNAME),
    "ipv4": _address(4),
    "ipv6": _address(6),
    "isbn": lambda text: _ISBN.fullmatch(text.replace("-", "").replace(" ", "")) is not None,
    "isbn10": lambda text: re.fullmatch(r"[0-9]{9}[0-9Xx]", text.replace("-", "")) is not None,
    "isbn13": lambda text: re.fullmatch(r"[0-9]{13}", text.replace("-", "")) is not None,
    "k8s-long-name": lambda text: len(text) <= 253 and all(_LABEL.fullmatch(p) for p in text.split(".")),
    "k8s-short-name": _matches(_LABEL),
    "mac": _matches(_MAC),
    "password": lambda text: True,
    "rgbcolor": _matches(_RGB),
    "ssn": _matches(_SSN),
    "uri": _uri,
    "uuid": _matches(_UUID),
    "uuid3": _matches(
        re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE)
    ),
    "uuid4": _matches(
        re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}", re.IGNORECASE)
    ),
    "uuid5": _matches(
        re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}", re.IGNORECASE)
    ),
}
"""Format -> whether a text has it."""

NUMBERS: dict[str, tuple[float, float]] = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "float": (-3.4028234663852886e38, 3.4028234663852886e38),
    "double": (-1.7976931348623157e308, 1.7976931348623157e308),
}
"""Format -> smallest and largest number, inclusive."""
