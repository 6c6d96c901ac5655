"""Paths into JSON in GJSON's syntax, as the scaler `metrics-api` takes them.

Keys with `*` and `?`, escapes by a backslash, indices, `#` for a length or for every element, queries such as
`#(name=="x").value` and `#(age>40)#`, `|` in place of a dot. Modifiers (`@reverse`), multipaths and nested
queries are refused. Used by `metrics_api.py` beside this file. Pure.

Source: GJSON's description of its syntax (contracts, autoscaling section 4.10).
"""

from __future__ import annotations

import re
from typing import Any, Final

from pelton.errors import ScalerError

__all__ = ["MISSING", "lookup"]


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING: Final = _Missing()
"""What `lookup` returns where the path leads nowhere."""

_QUERY: Final = re.compile(r"(.*?)\s*(==|!=|<=|>=|!%|<|>|%|$)\s*(.*)", re.DOTALL)


def lookup(data: Any, path: str) -> Any:
    """Return what a path leads to, MISSING where there is nothing.

    Raises:
        ScalerError: The path is not one.
    """
    return _follow(data, _parts(path))


def _parts(path: str) -> list[str]:
    """Split at dots and pipes that are neither escaped nor within a query."""
    parts, part, depth, quoted, index = [], "", 0, False, 0
    while index < len(path):
        letter = path[index]
        if letter == "\\" and index + 1 < len(path):
            part += path[index : index + 2]
            index += 2
            continue
        if letter == '"' and depth:
            quoted = not quoted
        elif not quoted and letter == "(":
            depth += 1
        elif not quoted and letter == ")":
            depth -= 1
        if letter in ".|" and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += letter
        index += 1
    parts.append(part)
    if depth or quoted or not all(parts) or parts[0][0] in "@{[!":
        raise ScalerError(
            f'valueLocation is "{path}", which cannot be followed',
            hint='write a GJSON path of keys, indices, # and queries, such as queues.#(name=="a").length',
        )
    return parts


def _follow(value: Any, parts: list[str]) -> Any:
    for place, part in enumerate(parts):
        rest = parts[place + 1 :]
        if part.startswith("#") and isinstance(value, list):
            if part == "#":
                return len(value) if not rest else _each(value, rest)
            every = part.endswith("#")
            condition = part[2 : -2 if every else -1]
            matching = [item for item in value if _matches(item, condition)]
            if every:
                return _each(matching, rest) if rest else matching
            value = matching[0] if matching else MISSING
        else:
            value = _step(value, part)
        if value is MISSING:
            return MISSING
    return value


def _each(items: list[Any], rest: list[str]) -> Any:
    if rest == ["#"]:
        return len(items)
    found = (_follow(item, rest) for item in items)
    return [item for item in found if item is not MISSING]


def _step(value: Any, part: str) -> Any:
    if isinstance(value, list):
        return value[int(part)] if part.isdecimal() and int(part) < len(value) else MISSING
    if not isinstance(value, dict):
        return MISSING
    plain = re.sub(r"\\(.)", r"\1", part)
    if plain in value:
        return value[plain]
    if re.search(r"(?<!\\)[*?]", part):
        pattern = _pattern(part)
        return next((item for key, item in value.items() if pattern.fullmatch(key)), MISSING)
    return MISSING


def _pattern(text: str) -> re.Pattern[str]:
    """Return `*` and `?` as a regular expression; a backslash takes their meaning away."""
    made = ""
    for escaped, letter in re.findall(r"\\(.)|(.)", text, re.DOTALL):
        if escaped:
            made += re.escape(escaped)
        else:
            made += {"*": ".*?", "?": "."}.get(letter) or re.escape(letter)
    return re.compile(made, re.DOTALL)


def _matches(item: Any, condition: str) -> bool:
    match = _QUERY.fullmatch(condition)
    if match is None:  # the expression takes any text
        return False
    path, sign, wanted = match[1].strip(), match[2], match[3].strip()
    found = lookup(item, path) if path else item
    if found is MISSING:
        return False
    if not sign:
        return True
    text = wanted.startswith('"') and wanted.endswith('"') and len(wanted) > 1
    other = wanted[1:-1].replace('\\"', '"') if text else wanted
    if sign in ("%", "!%"):
        return isinstance(found, str) and bool(_pattern(other).fullmatch(found)) == (sign == "%")
    if isinstance(found, bool):
        left, right = str(found).lower(), other
    elif isinstance(found, int | float) and not text:
        try:
            return _compare(float(found), sign, float(other))
        except ValueError:
            return False
    elif found is None:
        left, right = "null", other
    elif isinstance(found, str):
        left, right = found, other
    else:
        return False
    return _compare(left, sign, right)


def _compare(left: Any, sign: str, right: Any) -> bool:
    results = {
        "==": left == right,
        "!=": left != right,
        "<": left < right,
        "<=": left <= right,
        ">": left > right,
        ">=": left >= right,
    }
    return bool(results[sign])
