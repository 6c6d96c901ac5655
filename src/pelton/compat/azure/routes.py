"""Azure's route templates: `items/{id:int}`, `{name?}`, `{*rest}`, and the table that finds a function.

Pure. Built once by `app.py`; `Routes.find` is on the path of every request, so routes without parameters are
one dictionary look-up. Literals match in any case. A method that a route does not take is as if the route
were not there: the next one that matches answers, else 404.
Source: `faas-conventions` contract, section 3.1; ASP.NET Core's route templates (precedence, constraints).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

__all__ = ["RouteError", "Routes", "Template", "parse_template"]

_PARAMETER: Final = re.compile(r"(\*{0,2})([^:=?(){}*/]+)(.*)", re.DOTALL)
_CONSTRAINT: Final = re.compile(r":([A-Za-z]+)")
_GUID: Final = re.compile(
    r"[0-9a-f]{32}|[({]?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}[)}]?", re.IGNORECASE
)
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?", re.IGNORECASE)
_DECIMAL: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")

Check = Callable[[str], bool]


class RouteError(ValueError):
    """A template that cannot be read; the message says which part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A route template, ready to match.

    Attributes:
        text: As written, without outer slashes.
        names: Parameters, in the order of the pattern's groups.
        pattern: Matches a decoded path without its leading slash.
        checks: Parameter -> what its value has to satisfy.
        defaults: Parameter -> value when the path leaves it out.
        order: Precedence; lower is more specific.
    """

    text: str
    names: tuple[str, ...]
    pattern: re.Pattern[str]
    checks: tuple[tuple[int, Check], ...]
    defaults: Mapping[str, str]
    order: tuple[int, ...]

    def match(self, path: str) -> dict[str, str] | None:
        """Return the parameters of a decoded path without slashes around it; None when it does not fit."""
        found = self.pattern.fullmatch(path)
        if found is None:
            return None
        groups = found.groups()
        for index, check in self.checks:
            value = groups[index]
            if value is not None and not check(value):
                return None
        given = {name: value for name, value in zip(self.names, groups, strict=True) if value}
        return {**self.defaults, **given} if self.defaults else given


def parse_template(text: str) -> Template:
    """Read a template.

    Raises:
        RouteError: Unbalanced braces, an unknown constraint, a parameter twice.
    """
    reader = _Reader(text.strip("/"))
    return reader.read()


class _Part(NamedTuple):
    """A piece of a segment: literal text, or what is between the braces of a parameter."""

    text: str
    parameter: bool = False


class _Reader:
    """Builds a Template from the parts of a text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: list[str] = []
        self.checks: list[tuple[int, Check]] = []
        self.defaults: dict[str, str] = {}
        self.order: list[int] = []

    def read(self) -> Template:
        pattern, closing = "", ""
        segments = _segments(self.text)
        for number, parts in enumerate(segments):
            if (
                any(part.text.startswith("*") for part in parts if part.parameter)
                and number < len(segments) - 1
            ):
                raise RouteError(f"route {self.text!r}: a catch-all parameter has to come last")
            body, optional = self._segment(parts)
            slash = "/" if number else ""
            if optional:
                pattern += f"(?:{slash}{body}"
                closing += ")?"
            elif closing:
                raise RouteError(
                    f"route {self.text!r}: after an optional parameter nothing required can come"
                )
            else:
                pattern += slash + body
        return Template(
            text=self.text,
            names=tuple(self.names),
            pattern=re.compile(pattern + closing, re.IGNORECASE | re.DOTALL),
            checks=tuple(self.checks),
            defaults=self.defaults,
            order=tuple(self.order),
        )

    def _segment(self, parts: list[_Part]) -> tuple[str, bool]:
        if len(parts) == 1 and parts[0].parameter:
            body, optional, weight = self._parameter(parts[0].text, "[^/]+")
            self.order.append(weight)
            return body, optional
        if not any(part.parameter for part in parts):
            self.order.append(1)
            return "".join(re.escape(part.text) for part in parts), False
        self.order.append(2)
        made = ""
        for index, part in enumerate(parts):
            if not part.parameter:
                made += re.escape(part.text)
                continue
            last = index == len(parts) - 1
            separator = parts[index - 1].text if last and index and not parts[index - 1].parameter else ""
            inside = f"[^/{re.escape(separator[-1])}]+" if separator else "[^/]+"
            body, optional, _ = self._parameter(part.text, inside)
            if optional and separator:
                head = made.removesuffix(re.escape(separator))
                made = f"{head.replace('[^/]+', '[^/]+?')}(?:{re.escape(separator)}{body})?"
            else:
                made += body
        return made, False

    def _parameter(self, text: str, inside: str) -> tuple[str, bool, int]:
        found = _PARAMETER.fullmatch(text)
        if found is None:
            raise RouteError(f"route {self.text!r}: {{{text}}} is not a parameter")
        star, name, rest = found.groups()
        name = name.strip()
        if name.lower() in {known.lower() for known in self.names}:
            raise RouteError(f"route {self.text!r}: the parameter {name!r} occurs twice")
        checks, rest = self._constraints(rest)
        optional = rest == "?"
        if rest.startswith("="):
            self.defaults[name] = rest[1:]
            optional = True
        elif rest and not optional:
            raise RouteError(f"route {self.text!r}: {rest!r} in {{{text}}} is not understood")
        index = len(self.names)
        self.names.append(name)
        self.checks += [(index, check) for check in checks]
        if star:
            return "(.*)", True, 5 if checks else 6
        return f"({inside})", optional, 3 if checks else 4

    def _constraints(self, rest: str) -> tuple[list[Check], str]:
        checks: list[Check] = []
        while rest.startswith(":"):
            found = _CONSTRAINT.match(rest)
            if found is None:
                raise RouteError(f"route {self.text!r}: {rest!r} is not a constraint")
            rest, arguments = rest[found.end() :], ""
            if rest.startswith("("):
                end = _closing(rest)
                if end < 0:
                    raise RouteError(f"route {self.text!r}: a parenthesis is not closed")
                arguments, rest = rest[1:end], rest[end + 1 :]
            try:
                checks.append(_check(found[1].lower(), arguments))
            except (KeyError, ValueError, re.error) as exc:
                why = "unknown" if isinstance(exc, KeyError) else str(exc)
                raise RouteError(f"route {self.text!r}: constraint {found[1]!r}: {why}") from None
        return checks, rest


def _segments(text: str) -> list[list[_Part]]:
    """Split at slashes outside of braces, and each segment into literals and `{...}`."""
    segments: list[list[_Part]] = [[]]
    literal, index = "", 0
    while index < len(text):
        char = text[index]
        if char in "{}" and text[index : index + 2] == char * 2:
            literal += char
            index += 2
        elif char == "{":
            end = _parameter_end(text, index + 1)
            if end < 0:
                raise RouteError(f"route {text!r}: a brace is not closed")
            if literal:
                segments[-1].append(_Part(literal))
                literal = ""
            inside = text[index + 1 : end].replace("{{", "{").replace("}}", "}")
            segments[-1].append(_Part(inside, parameter=True))
            index = end + 1
        elif char == "}":
            raise RouteError(f"route {text!r}: a brace is closed that was not opened")
        elif char == "/":
            if literal:
                segments[-1].append(_Part(literal))
                literal = ""
            segments.append([])
            index += 1
        else:
            literal += char
            index += 1
    if literal:
        segments[-1].append(_Part(literal))
    return [segment for segment in segments if segment]


def _parameter_end(text: str, index: int) -> int:
    """Return the index of the brace that ends a parameter, doubled ones skipped; -1 for none."""
    while index < len(text):
        if text[index] in "{}":
            if text[index : index + 2] == text[index] * 2:
                index += 2
                continue
            return index if text[index] == "}" else -1
        index += 1
    return -1


def _closing(text: str) -> int:
    depth = 0
    for index, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return index
    return -1


def _check(name: str, arguments: str) -> Check:
    simple = _SIMPLE.get(name)
    if simple is not None:
        return simple
    if name == "regex":
        wanted = re.compile(arguments, re.IGNORECASE)
        return lambda value: wanted.search(value) is not None
    numbers = [int(part) for part in arguments.split(",")]
    if name == "length":
        low, high = numbers[0], numbers[-1]
        return lambda value: low <= len(value) <= high
    if name == "range":
        low, high = numbers
        return lambda value: _integer(value) and low <= int(value) <= high
    (limit,) = numbers
    return {
        "minlength": lambda value: len(value) >= limit,
        "maxlength": lambda value: len(value) <= limit,
        "min": lambda value: _integer(value) and int(value) >= limit,
        "max": lambda value: _integer(value) and int(value) <= limit,
    }[name]


def _integer(value: str, bits: int = 64) -> bool:
    return (
        len(value) < 22
        and _INTEGER.fullmatch(value) is not None
        and -(1 << (bits - 1)) <= int(value) < 1 << (bits - 1)
    )


def _moment(value: str) -> bool:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


_SIMPLE: Final[Mapping[str, Check]] = {
    "int": lambda value: _integer(value, 32),
    "long": _integer,
    "bool": lambda value: value.lower() in {"true", "false"},
    "alpha": lambda value: value.isascii() and value.isalpha(),
    "guid": lambda value: _GUID.fullmatch(value) is not None,
    "decimal": lambda value: _DECIMAL.fullmatch(value) is not None,
    "double": lambda value: _NUMBER.fullmatch(value) is not None,
    "float": lambda value: _NUMBER.fullmatch(value) is not None,
    "datetime": _moment,
    "required": bool,
}


def _plain(path: bytes) -> bytes:
    """Return a path as the keys of static routes are written."""
    if b"%" in path:
        path = unquote(path.decode("latin-1").replace("%2F", "%252F").replace("%2f", "%252f")).encode()
    return path.lower().rstrip(b"/") or b"/"


class Routes:
    """Method and path -> whatever was added."""

    def __init__(self) -> None:
        self._static: dict[bytes, list[tuple[frozenset[str], Any]]] = {}
        self._dynamic: list[tuple[Template, frozenset[str], Any]] = []

    def add(self, template: Template, methods: Iterable[str], value: Any) -> None:
        """Add a route.

        Args:
            template: Its template, prefix included.
            methods: Upper case; empty for all.
            value: What `find` returns.
        """
        allowed = frozenset(methods)
        if template.names:
            self._dynamic.append((template, allowed, value))
            self._dynamic.sort(key=lambda entry: entry[0].order)  # stable: the first of equals stays first
        else:
            # the pattern of a template without parameters is its literal text
            path = b"/" + template.text.replace("{{", "{").replace("}}", "}").lower().encode()
            self._static.setdefault(path, []).append((allowed, value))

    def find(self, method: str, target: bytes) -> tuple[Any, dict[str, str]] | None:
        """Return what was added for a request, and its route parameters; None for nothing.

        Args:
            method: Upper case.
            target: Path and query as received.
        """
        path = target.partition(b"?")[0] if b"?" in target else target
        entries = self._static.get(path)
        if entries is None:
            entries = self._static.get(_plain(path), [])
        for allowed, value in entries:
            if not allowed or method in allowed:
                return value, {}
        if not self._dynamic:
            return None
        # %2F stays as it is: a slash in a value does not separate segments
        raw = path.decode("latin-1").replace("%2F", "%252F").replace("%2f", "%252f")
        text = unquote(raw).strip("/") if "%" in raw else raw.strip("/")
        for template, allowed, value in self._dynamic:
            if not allowed or method in allowed:
                values = template.match(text)
                if values is not None:
                    return value, values
        return None
