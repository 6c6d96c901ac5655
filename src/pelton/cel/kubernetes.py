"""The CEL libraries that Kubernetes adds: lists, sets, URLs, quantities, IP addresses and networks, versions.

A table read by `library.py`; named formats and the authorizer are in `policies.py`. Pure.
Source: Kubernetes' CEL libraries.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

from pelton.cel.overload import Overload, Sizes, Table, global_function, method, traverse
from pelton.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    INT,
    STRING,
    TIMESTAMP,
    UINT,
    Type,
    list_of,
    map_of,
    opaque,
    param,
)
from pelton.cel.values import Duration, UInt, equal, less
from pelton.errors import CelEvaluateError
from pelton.quantity import parse_quantity

__all__ = ["KUBERNETES"]

_A = param("A")
_LIST = list_of(_A)


def _length(sizes: Sizes) -> int:
    return sizes[0]


def _text(sizes: Sizes) -> int:
    return traverse(sizes[0])


# -- lists and sets ----------------------------------------------------------------------------------------


def _is_sorted(items: list[Any]) -> bool:
    return not any(less(after, before) for before, after in itertools.pairwise(items))


def _sum(items: list[Any]) -> Any:
    if not items:
        return 0
    first = items[0]
    if isinstance(first, Duration):
        return Duration(sum(item.ns for item in items))
    if isinstance(first, bool) or not isinstance(first, (int, float)):
        raise CelEvaluateError("no such overload: sum")
    total = sum(items)
    if isinstance(first, UInt):
        total = UInt(total)
    if isinstance(total, int) and not -(2**63) <= total < 2 ** (64 if isinstance(first, UInt) else 63):
        raise CelEvaluateError("integer overflow")
    return total


def _extreme(items: list[Any], better: Callable[[Any, Any], bool], name: str) -> Any:
    if not items:
        raise CelEvaluateError(f"{name} called on empty list")
    best = items[0]
    for item in items[1:]:
        if better(item, best):
            best = item
    return best


def _list_index(items: list[Any], wanted: Any) -> int:
    return next((at for at, item in enumerate(items) if equal(item, wanted)), -1)


def _list_last_index(items: list[Any], wanted: Any) -> int:
    return next((at for at in range(len(items) - 1, -1, -1) if equal(items[at], wanted)), -1)


_ORDERED = (BOOL, INT, UINT, DOUBLE, STRING, BYTES, DURATION, TIMESTAMP)


def _per_kind(
    kinds: tuple[Type, ...], result: Type | None, run: Callable[[list[Any]], Any]
) -> tuple[Overload, ...]:
    return tuple(method((list_of(kind),), result or kind, run, _length) for kind in kinds)


def _slice(items: list[Any], start: int, end: int) -> list[Any]:
    if not 0 <= start <= end <= len(items):
        raise CelEvaluateError(f"cannot slice({start}, {end}), list is length {len(items)}")
    return items[start:end]


def _flatten(items: list[Any], depth: int = 1) -> list[Any]:
    if depth < 0:
        raise CelEvaluateError("level must be non-negative")
    result: list[Any] = []
    for item in items:
        if isinstance(item, list) and depth > 0:
            result += _flatten(item, depth - 1)
        else:
            result.append(item)
    return result


def _distinct(items: list[Any]) -> list[Any]:
    result: list[Any] = []
    for item in items:
        if not any(equal(item, had) for had in result):
            result.append(item)
    return result


def _sort(items: list[Any]) -> list[Any]:
    _is_sorted(items)  # raises where the items have no common order
    return sorted(items, key=lambda item: item.ns if hasattr(item, "ns") else item)


def _sets_contains(items: list[Any], others: list[Any]) -> bool:
    return all(any(equal(item, other) for item in items) for other in others)


def _product(sizes: Sizes) -> int:
    return sizes[0] * sizes[1]


def _square(sizes: Sizes) -> int:
    return sizes[0] * sizes[0]


_LISTS: Table = {
    "isSorted": _per_kind(_ORDERED, BOOL, _is_sorted),
    "sum": _per_kind((INT, UINT, DOUBLE, DURATION), None, _sum),
    "min": _per_kind(_ORDERED, None, lambda items: _extreme(items, less, "min")),
    "max": _per_kind(_ORDERED, None, lambda items: _extreme(items, lambda a, b: less(b, a), "max")),
    "indexOf": (method((_LIST, _A), INT, _list_index, _length),),
    "lastIndexOf": (method((_LIST, _A), INT, _list_last_index, _length),),
    "slice": (method((_LIST, INT, INT), _LIST, _slice, _length, _length),),
    "flatten": (
        method((list_of(_LIST),), _LIST, _flatten, _length),
        method((_LIST, INT), list_of(Type("dyn")), _flatten, _length),
    ),
    "distinct": (method((_LIST,), _LIST, _distinct, _square, _length),),
    "sort": tuple(method((list_of(kind),), list_of(kind), _sort, _square, _length) for kind in _ORDERED),
    "sets.contains": (global_function((_LIST, _LIST), BOOL, _sets_contains, _product),),
    "sets.equivalent": (
        global_function(
            (_LIST, _LIST), BOOL, lambda a, b: _sets_contains(a, b) and _sets_contains(b, a), _product
        ),
    ),
    "sets.intersects": (
        global_function((_LIST, _LIST), BOOL, lambda a, b: any(equal(x, y) for x in a for y in b), _product),
    ),
}


# -- quantities --------------------------------------------------------------------------------------------


class Quantity:
    """A Kubernetes quantity."""

    cel_type: ClassVar[str] = "kubernetes.Quantity"
    __slots__ = ("number",)

    def __init__(self, number: Decimal) -> None:
        self.number = number

    @classmethod
    def parse(cls, text: str) -> Quantity:
        """Read a quantity; raises CelEvaluateError."""
        try:
            return cls(parse_quantity(text))
        except ValueError as error:
            raise CelEvaluateError(str(error)) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and self.number == other.number

    def __hash__(self) -> int:
        return hash(self.number)

    def integer(self) -> int:
        """Return the number when it is whole and fits int64; raises CelEvaluateError."""
        whole = int(self.number)
        if whole != self.number or not -(2**63) <= whole < 2**63:
            raise CelEvaluateError("cannot convert value to integer")
        return whole


def _succeeds(run: Callable[[Any], Any]) -> Callable[[Any], bool]:
    def test(value: Any) -> bool:
        try:
            run(value)
        except CelEvaluateError:
            return False
        return True

    return test


def _compare(one: Any, other: Any) -> int:
    return int(one > other) - int(one < other)


_Q = opaque("kubernetes.Quantity")

_QUANTITIES: Table = {
    "quantity": (global_function((STRING,), _Q, Quantity.parse, _text),),
    "isQuantity": (global_function((STRING,), BOOL, _succeeds(Quantity.parse), _text),),
    "sign": (method((_Q,), INT, lambda q: _compare(q.number, 0)),),
    "isInteger": (method((_Q,), BOOL, _succeeds(Quantity.integer)),),
    "asInteger": (method((_Q,), INT, Quantity.integer),),
    "asApproximateFloat": (method((_Q,), DOUBLE, lambda q: float(q.number)),),
    "add": (
        method((_Q, _Q), _Q, lambda a, b: Quantity(a.number + b.number)),
        method((_Q, INT), _Q, lambda a, b: Quantity(a.number + b)),
    ),
    "sub": (
        method((_Q, _Q), _Q, lambda a, b: Quantity(a.number - b.number)),
        method((_Q, INT), _Q, lambda a, b: Quantity(a.number - b)),
    ),
}


# -- versions ----------------------------------------------------------------------------------------------

_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?"
)


class Semver:
    """A semantic version."""

    cel_type: ClassVar[str] = "kubernetes.Semver"
    __slots__ = ("order", "text")

    def __init__(self, text: str, order: tuple[Any, ...]) -> None:
        self.text = text
        self.order = order

    @classmethod
    def parse(cls, text: str, normalize: bool = False) -> Semver:  # CEL's signature
        """Read a version; `normalize` allows a leading v, missing parts and leading zeros."""
        written = text
        if normalize:
            body, mark, rest = re.fullmatch(
                r"([^-+]*)([-+]?)(.*)", text.removeprefix("v"), re.DOTALL
            ).groups()  # type: ignore[union-attr] # matches any text
            parts = [part.lstrip("0") or "0" if part else part for part in body.split(".")]
            written = ".".join([*parts, "0", "0"][: max(3, len(parts))]) + mark + rest
        match = _SEMVER.fullmatch(written)
        if match is None:
            raise CelEvaluateError(f"{text!r} is not a semantic version")
        before = match[4]
        # A release comes after its pre-releases; numbers come before words.
        marks = (
            tuple((0, int(m), "") if m.isdigit() else (1, 0, m) for m in before.split(".")) if before else ()
        )
        return cls(written, (*(int(match[n]) for n in (1, 2, 3)), 0 if before else 1, marks))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Semver) and self.order == other.order

    def __hash__(self) -> int:
        return hash(self.order)

    def __str__(self) -> str:
        return self.text


_V = opaque("kubernetes.Semver")

_VERSIONS: Table = {
    "semver": (
        global_function((STRING,), _V, Semver.parse, _text),
        global_function((STRING, BOOL), _V, Semver.parse, _text),
    ),
    "isSemver": (
        global_function((STRING,), BOOL, _succeeds(Semver.parse), _text),
        global_function(
            (STRING, BOOL),
            BOOL,
            lambda text, normalize: _succeeds(lambda given: Semver.parse(given, normalize))(text),
            _text,
        ),
    ),
    "major": (method((_V,), INT, lambda version: version.order[0]),),
    "minor": (method((_V,), INT, lambda version: version.order[1]),),
    "patch": (method((_V,), INT, lambda version: version.order[2]),),
}


def _comparing(name: str, test: Callable[[int], Any], result: Type) -> Table:
    return {
        name: (
            method((_Q, _Q), result, lambda a, b: test(_compare(a.number, b.number))),
            method((_V, _V), result, lambda a, b: test(_compare(a.order, b.order))),
        )
    }


_COMPARISONS: Table = {
    **_comparing("compareTo", lambda order: order, INT),
    **_comparing("isLessThan", lambda order: order < 0, BOOL),
    **_comparing("isGreaterThan", lambda order: order > 0, BOOL),
}


# -- URLs --------------------------------------------------------------------------------------------------


class Url:
    """An absolute URL, or a reference that begins with a slash."""

    cel_type: ClassVar[str] = "kubernetes.URL"
    __slots__ = ("parts", "text")

    def __init__(self, text: str, parts: SplitResult) -> None:
        self.text = text
        self.parts = parts

    @classmethod
    def parse(cls, text: str) -> Url:
        """Read a URL; raises CelEvaluateError."""
        try:
            parts = urlsplit(text)
            _ = parts.port  # raises when it is no number
            bad = any(ord(c) <= 32 or ord(c) == 127 for c in text)
            if bad or not (parts.scheme or text.startswith("/")):
                raise ValueError("neither absolute nor a path")
        except ValueError as error:
            raise CelEvaluateError(
                f"URL parse error during conversion from string: {text!r}: {error}"
            ) from error
        return cls(text, parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def host(self) -> str:
        """Return host and port as written, without user."""
        return self.parts.netloc.rpartition("@")[2]

    def hostname(self) -> str:
        """Return the host without port and brackets."""
        host = self.host()
        if host.startswith("["):
            return host[1:].partition("]")[0]
        return host.partition(":")[0]


_U = opaque("kubernetes.URL")

_URLS: Table = {
    "url": (global_function((STRING,), _U, Url.parse, _text),),
    "isURL": (global_function((STRING,), BOOL, _succeeds(Url.parse), _text),),
    "getScheme": (method((_U,), STRING, lambda url: url.parts.scheme),),
    "getHost": (method((_U,), STRING, Url.host),),
    "getHostname": (method((_U,), STRING, Url.hostname),),
    "getPort": (method((_U,), STRING, lambda url: str(url.parts.port or "")),),
    "getEscapedPath": (method((_U,), STRING, lambda url: quote(url.parts.path, safe="/%:@!$&'()*+,;=~")),),
    "getQuery": (
        method(
            (_U,),
            map_of(STRING, list_of(STRING)),
            lambda url: parse_qs(url.parts.query, keep_blank_values=True),
        ),
    ),
}


# -- addresses ---------------------------------------------------------------------------------------------


class Ip:
    """An IPv4 or IPv6 address."""

    cel_type: ClassVar[str] = "net.IP"
    __slots__ = ("address",)

    def __init__(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        self.address = address

    @classmethod
    def parse(cls, text: str) -> Ip:
        """Read an address; raises CelEvaluateError."""
        try:
            address = ipaddress.ip_address(text)
            if "%" in text or getattr(address, "ipv4_mapped", None) is not None:
                raise ValueError("zones and IPv4-mapped addresses are not allowed")
        except ValueError as error:
            raise CelEvaluateError(
                f"IP Address {text!r} parse error during conversion from string: {error}"
            ) from error
        return cls(address)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ip) and self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __str__(self) -> str:
        return str(self.address)


class Cidr:
    """An address with the length of its prefix."""

    cel_type: ClassVar[str] = "net.CIDR"
    __slots__ = ("interface",)

    def __init__(self, interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> None:
        self.interface = interface

    @classmethod
    def parse(cls, text: str) -> Cidr:
        """Read `address/length`; raises CelEvaluateError."""
        address, slash, length = text.partition("/")
        try:
            Ip.parse(address)
            if not slash or not length.isdigit() or str(int(length)) != length:
                raise ValueError("the prefix length is missing or no number")
            return cls(ipaddress.ip_interface(text))
        except (ValueError, CelEvaluateError) as error:
            raise CelEvaluateError(
                f"network address parse error during conversion from string: {text!r}"
            ) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cidr) and self.interface == other.interface

    def __hash__(self) -> int:
        return hash(self.interface)

    def __str__(self) -> str:
        return str(self.interface)

    def masked(self) -> Cidr:
        """Return the network itself, its host bits zero."""
        return Cidr(ipaddress.ip_interface(str(self.interface.network)))

    def holds_ip(self, ip: Ip | str) -> bool:
        """Return whether an address is inside."""
        address = (Ip.parse(ip) if isinstance(ip, str) else ip).address
        return address.version == self.interface.version and address in self.interface.network

    def holds(self, other: Cidr | str) -> bool:
        """Return whether a network is inside."""
        inner = (Cidr.parse(other) if isinstance(other, str) else other).interface.network
        outer = self.interface.network
        return (
            inner.version == outer.version
            and inner.prefixlen >= outer.prefixlen
            and inner.network_address in outer
        )


_I, _C = opaque("net.IP"), opaque("net.CIDR")


def _flag(name: str) -> tuple[Overload, ...]:
    return (method((_I,), BOOL, lambda ip: bool(getattr(ip.address, name))),)


_ADDRESSES: Table = {
    "ip": (
        global_function((STRING,), _I, Ip.parse, _text),
        method((_C,), _I, lambda cidr: Ip(cidr.interface.ip)),
    ),
    "isIP": (global_function((STRING,), BOOL, _succeeds(Ip.parse), _text),),
    "ip.isCanonical": (global_function((STRING,), BOOL, lambda text: str(Ip.parse(text)) == text, _text),),
    "family": (method((_I,), INT, lambda ip: ip.address.version),),
    "isUnspecified": _flag("is_unspecified"),
    "isLoopback": _flag("is_loopback"),
    "isLinkLocalUnicast": _flag("is_link_local"),
    "isLinkLocalMulticast": (
        method(
            (_I,),
            BOOL,
            lambda ip: (
                ip.address in ipaddress.ip_network("224.0.0.0/24" if ip.address.version == 4 else "ff02::/16")
            ),
        ),
    ),
    "isGlobalUnicast": (
        method(
            (_I,),
            BOOL,
            # Go's definition: private addresses count, broadcast does not.
            lambda ip: (
                not (
                    ip.address.is_unspecified
                    or ip.address.is_loopback
                    or ip.address.is_multicast
                    or ip.address.is_link_local
                    or str(ip.address) == "255.255.255.255"
                )
            ),
        ),
    ),
    "cidr": (global_function((STRING,), _C, Cidr.parse, _text),),
    "isCIDR": (global_function((STRING,), BOOL, _succeeds(Cidr.parse), _text),),
    "containsIP": (method((_C, _I), BOOL, Cidr.holds_ip), method((_C, STRING), BOOL, Cidr.holds_ip, _text)),
    "containsCIDR": (method((_C, _C), BOOL, Cidr.holds), method((_C, STRING), BOOL, Cidr.holds, _text)),
    "masked": (method((_C,), _C, Cidr.masked),),
    "prefixLength": (method((_C,), INT, lambda cidr: cidr.interface.network.prefixlen),),
}

KUBERNETES: tuple[Table, ...] = (
    _LISTS,
    _QUANTITIES,
    _VERSIONS,
    _COMPARISONS,
    _URLS,
    _ADDRESSES,
    # `string(ip)` and `string(cidr)`; quantities have no text in CEL.
    {"string": tuple(global_function((kind,), STRING, str, None, lambda sizes: 50) for kind in (_I, _C))},
)
"""Tables of name -> overloads; a name may be in several."""
