"""Functions on texts: the strings extension of CEL as Kubernetes loads it, `format`, and regular expressions.

A table read by `library.py`. Positions count code points from 0. Pure.
Source: cel-go's ext.Strings version 2, Kubernetes' Regex library.
"""

from __future__ import annotations

import math
import re
from typing import Any

from pelton.cel.overload import Sizes, Table, global_function, method, traverse
from pelton.cel.regex import Regex, RegexError, compile_regex
from pelton.cel.standard import number_text, to_text
from pelton.cel.types import DYN, INT, STRING, Type, list_of
from pelton.cel.values import Duration, Timestamp, type_name
from pelton.errors import CelEvaluateError

__all__ = ["STRINGS"]

_TEXTS = list_of(STRING)
_CLAUSE = re.compile(r"%(?:\.(\d+))?(.)?", re.DOTALL)
_LOWER = {code: code + 32 for code in range(65, 91)}
_UPPER = {code: code - 32 for code in range(97, 123)}
_MAX_RESULT = 10_000_000  # code points: replacing can multiply a text by another


def _char_at(text: str, at: int) -> str:
    if not 0 <= at <= len(text):
        raise CelEvaluateError(f"index out of range: {at}")
    return text[at : at + 1]


def _index_of(text: str, part: str, start: int = 0) -> int:
    if start < 0 or (start > len(text) and part):
        raise CelEvaluateError(f"index out of range: {start}")
    return text.find(part, start) if part else start


def _last_index_of(text: str, part: str, end: int | None = None) -> int:
    if end is None:
        return text.rfind(part)
    if not 0 <= end <= len(text):
        raise CelEvaluateError(f"index out of range: {end}")
    return text.rfind(part, 0, end + len(part)) if part else end


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    found = text.count(old) if count < 0 else min(count, text.count(old))
    if len(text) + found * (len(new) - len(old)) > _MAX_RESULT:
        raise CelEvaluateError("the result of replace is too long")
    return text.replace(old, new, count)


def _split(text: str, separator: str, limit: int = -1) -> list[str]:
    if limit == 0:
        return []
    if not separator:
        parts = list(text)
        return (
            parts if limit < 0 or len(parts) <= limit else [*parts[: limit - 1], "".join(parts[limit - 1 :])]
        )
    return text.split(separator, -1 if limit < 0 else limit - 1)


def _join(parts: list[Any], separator: str = "") -> str:
    if not all(isinstance(part, str) for part in parts):
        raise CelEvaluateError("no such overload: join on a list of other than strings")
    return separator.join(parts)


def _substring(text: str, start: int, end: int | None = None) -> str:
    last = len(text) if end is None else end
    if not 0 <= start <= len(text):
        raise CelEvaluateError(f"index out of range: {start}")
    if not 0 <= last <= len(text):
        raise CelEvaluateError(f"index out of range: {last}")
    if start > last:
        raise CelEvaluateError(f"invalid substring range. start: {start}, end: {last}")
    return text[start:last]


_QUOTED = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


def _quote(text: str) -> str:
    body = "".join(_QUOTED.get(c, f"\\{c}" if c in '\\"' else c) for c in text)
    return f'"{body}"'


# -- format ------------------------------------------------------------------------------------------------


def _format(text: str, args: list[Any]) -> str:
    used = 0

    def clause(found: re.Match[str]) -> str:
        nonlocal used
        precision, verb = found.groups()
        if verb == "%":
            return "%"
        if verb is None or verb not in "sdfeboxX":
            raise CelEvaluateError(
                f"could not parse formatting clause: unrecognized formatting clause {found[0]!r}"
            )
        if used >= len(args):
            raise CelEvaluateError(f"index {used} out of range")
        used += 1
        return _formatted(verb, args[used - 1], 6 if precision is None else min(int(precision), 100))

    return _CLAUSE.sub(clause, text)


def _formatted(verb: str, value: Any, precision: int) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if verb == "s":
        return _shown(value)
    if verb == "d" and whole:
        return str(int(value))
    if verb in "fe" and (whole or isinstance(value, float)):
        number = float(value)
        if not math.isfinite(number):
            return {"+Inf": "Infinity", "-Inf": "-Infinity"}.get(number_text(number), "NaN")
        return f"{number:.{precision}{verb}}"
    if verb == "b" and isinstance(value, int):
        return f"{int(value):b}"
    if verb == "o" and whole:
        return f"{value:o}"
    if verb in "xX":
        if whole:
            return f"{value:{verb}}"
        if isinstance(value, (str, bytes)):
            text = (value.encode() if isinstance(value, str) else value).hex()
            return text.upper() if verb == "X" else text
    raise CelEvaluateError(f"error during formatting: %{verb} cannot be used on {type_name(value)}")


def _shown(value: Any, *, quoted: bool = False) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return _quote(value) if quoted else value
    if isinstance(value, list):
        return "[" + ", ".join(_shown(item, quoted=True) for item in value) + "]"
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(
                sorted(f"{_shown(k, quoted=True)}:{_shown(v, quoted=True)}" for k, v in value.items())
            )
            + "}"
        )
    if isinstance(value, Type):
        return str(value)
    if quoted and isinstance(value, (Timestamp, Duration)):
        return f'{"timestamp" if isinstance(value, Timestamp) else "duration"}("{value}")'
    return to_text(value)


# -- regular expressions -----------------------------------------------------------------------------------


def _regex(pattern: str) -> Regex:
    try:
        return compile_regex(pattern)
    except RegexError as error:
        raise CelEvaluateError(f"error parsing regexp: {error}") from error


def _find(text: str, pattern: str) -> str:
    found = _regex(pattern).search(text)
    return found.group() if found else ""


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    if limit == 0:
        return []
    found: list[str] = []
    for match in _regex(pattern).finditer(text):
        found.append(match.group())
        if len(found) == limit:
            break
    return found


def _first(sizes: Sizes) -> int:
    return traverse(sizes[0])


def _keep(sizes: Sizes) -> int:
    return sizes[0]


def _pattern(sizes: Sizes) -> int:
    return traverse(sizes[0] + 1) * max(1, -(-sizes[1] // 4))


def _product(sizes: Sizes) -> int:
    return max(1, traverse(sizes[0])) * max(1, traverse(sizes[1]))


def _replaced(sizes: Sizes) -> int:
    return min(_MAX_RESULT, sizes[0] * max(1, sizes[2]))


STRINGS: Table = {
    "charAt": (method((STRING, INT), STRING, _char_at, _first, lambda sizes: 1),),
    "indexOf": (
        method((STRING, STRING), INT, _index_of, _product),
        method((STRING, STRING, INT), INT, _index_of, _product),
    ),
    "lastIndexOf": (
        method((STRING, STRING), INT, _last_index_of, _product),
        method((STRING, STRING, INT), INT, _last_index_of, _product),
    ),
    "join": (
        method((_TEXTS,), STRING, _join, lambda sizes: sizes[0]),
        method((_TEXTS, STRING), STRING, _join, lambda sizes: sizes[0]),
    ),
    "lowerAscii": (method((STRING,), STRING, lambda text: text.translate(_LOWER), _first, _keep),),
    "upperAscii": (method((STRING,), STRING, lambda text: text.translate(_UPPER), _first, _keep),),
    "replace": (
        method((STRING, STRING, STRING), STRING, _replace, _first, _replaced),
        method((STRING, STRING, STRING, INT), STRING, _replace, _first, _replaced),
    ),
    "split": (
        method((STRING, STRING), _TEXTS, _split, _first, _keep),
        method((STRING, STRING, INT), _TEXTS, _split, _first, _keep),
    ),
    "substring": (
        method((STRING, INT), STRING, _substring, _first, _keep),
        method((STRING, INT, INT), STRING, _substring, _first, _keep),
    ),
    "trim": (method((STRING,), STRING, str.strip, _first, _keep),),
    "strings.quote": (global_function((STRING,), STRING, _quote, _first, lambda sizes: 2 * sizes[0] + 2),),
    "format": (method((STRING, list_of(DYN)), STRING, _format, _first, lambda s: s[0] + 100 * s[1]),),
    "find": (method((STRING, STRING), STRING, _find, _pattern, _keep),),
    "findAll": (
        method((STRING, STRING), _TEXTS, _find_all, _pattern, _keep),
        method((STRING, STRING, INT), _TEXTS, _find_all, _pattern, _keep),
    ),
}
"""Name -> overloads."""
