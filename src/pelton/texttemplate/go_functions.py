"""Functions that Go templates may call, and how values are written, compared and judged true.

Called by `texttemplate/go_run.py`; `notify/template_data.py` adds what is about alerts. A function raises
TemplateFault for arguments that it cannot take; the evaluator adds the place. Source: Go's package
text/template; contracts, log and notification, sections 7 and 9.6.
"""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote_plus

from pelton.cel.regex import Regex, RegexError, compile_regex
from pelton.texttemplate.fault import TemplateFault
from pelton.texttemplate.go_time import GoTime
from pelton.texttemplate.weight import MOST_CHARACTERS

__all__ = ["FUNCTIONS", "SafeHtml", "escape_html", "show", "truth"]

_WIDEST = 1000
_VERB = re.compile(r"%([-+# 0]*)(\d+|\*)?(?:\.(\d+|\*))?([a-zA-Z%])")
_UNITS = (("d", 86400), ("h", 3600), ("m", 60))


class SafeHtml(str):
    """Text that is HTML already."""

    __slots__ = ()


def truth(value: Any) -> bool:
    """Tell whether a value counts as true: anything but false, 0, nothing and what is empty."""
    if isinstance(value, str | bytes | Mapping | list | tuple):
        return len(value) > 0
    return value is not None and value is not False and value != 0


def show(value: Any) -> str:
    """Write a value as Go's `%v` does; what is absent is written as nothing."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{show(key)}:{show(value[key])}' for key in sorted(value))}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(show(item) for item in value)}]"
    return str(value)


def _float(value: float) -> str:
    if math.isinf(value) or math.isnan(value):
        return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN")
    mantissa, _, exponent = f"{value:.17e}".partition("e")
    shortest = repr(value).removesuffix(".0")
    if -4 <= int(exponent) < 6 and "e" not in shortest:
        return shortest
    digits = re.sub(r"[-.]|e.*", "", shortest).strip("0") or mantissa[0]
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e{exponent}"


def escape_html(text: str) -> str:
    """Escape for text and quoted attributes."""
    return html.escape(text).replace("+", "&#43;")


# --- comparing ---


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else type(value).__name__


def _equal(left: Any, right: Any) -> bool:
    if left is None or right is None:
        # An absent entry stands for the zero value of whatever it is compared with.
        return not truth(left) and not truth(right)
    if _kind(left) != _kind(right):
        raise TemplateFault(f"cannot compare {_kind(left)} with {_kind(right)}")
    return bool(left == right)


def _eq(first: Any, *others: Any) -> bool:
    if not others:
        raise TemplateFault("eq needs two arguments at least")
    return any(_equal(first, other) for other in others)


def _less(left: Any, right: Any) -> bool:
    left = "" if left is None and isinstance(right, str) else 0 if left is None else left
    right = "" if right is None and isinstance(left, str) else 0 if right is None else right
    if _kind(left) != _kind(right) or _kind(left) not in ("number", "string"):
        raise TemplateFault(f"cannot order {_kind(left)} and {_kind(right)}")
    return bool(left < right)


# --- collections ---


def _len(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, str):
        return len(value.encode())
    try:
        return len(value)
    except TypeError:
        raise TemplateFault(f"len of {_kind(value)}") from None


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if value is None:
            return None
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list | tuple | str) and isinstance(key, int) and not isinstance(key, bool):
            items = value.encode() if isinstance(value, str) else value
            if not 0 <= key < len(items):
                raise TemplateFault(f"index {key} is out of range: there are {len(items)}")
            value = items[key]
        else:
            raise TemplateFault(f"cannot index {_kind(value)} with {_kind(key)}")
    return value


def _slice(value: Any, *bounds: Any) -> Any:
    if not isinstance(value, list | tuple | str) or not all(isinstance(each, int) for each in bounds):
        raise TemplateFault("slice needs text or a list, and numbers")
    size = _len(value)
    start, end = bounds[0] if bounds else 0, bounds[1] if len(bounds) > 1 else size
    if len(bounds) > 2 or not 0 <= start <= end <= size:
        raise TemplateFault(f"slice bounds are out of range: there are {size}")
    if isinstance(value, str):
        return value.encode()[start:end].decode("utf-8", "replace")
    return value[start:end]


def _append(items: Any, *more: Any) -> list[Any]:
    return [*_items(items), *more]


def _items(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise TemplateFault(f"expected a list, found {_kind(value)}")
    return list(value)


def _dict(*pairs: Any) -> dict[str, Any]:
    if len(pairs) % 2:
        raise TemplateFault("dict needs pairs of key and value")
    return {_text(key): value for key, value in zip(pairs[::2], pairs[1::2], strict=True)}


# --- text ---


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TemplateFault(f"expected text, found {_kind(value)}")
    return value


def _regex(pattern: Any) -> Regex:
    try:
        return compile_regex(_text(pattern))
    except RegexError as error:
        raise TemplateFault(f"{_text(pattern)[:60]!r} is no regular expression: {error}") from None


def _replace(pattern: Any, replacement: Any, text: Any) -> str:
    subject, template, at = _text(text), _text(replacement), 0
    out: list[str] = []
    written = 0
    for found in _regex(pattern).finditer(subject):
        out.append(subject[at : found.start()])
        out.append(_expand(template, found))
        written += len(out[-1])
        _bounded(written)
        at = found.end()
    return "".join(out) + subject[at:]


def _expand(replacement: str, found: Any) -> str:
    """Put groups into `$1`, `${1}` and `$name`, as Go does."""

    def group(mark: re.Match[str]) -> str:
        name = mark[1] or mark[2] or ""
        if mark[0] == "$$":
            return "$"
        try:
            return str(found.group(int(name) if name.isdecimal() else name) or "")
        except (IndexError, KeyError, ValueError):
            return ""

    return re.sub(r"\$\$|\$\{(\w+)\}|\$(\w+)", group, replacement)


def _bounded(size: int) -> None:
    if size > MOST_CHARACTERS:
        raise TemplateFault(f"makes more than {MOST_CHARACTERS} characters")


def _join(separator: Any, items: Any) -> str:
    between, listed = _text(separator), _items(items)
    _bounded(len(between) * len(listed))
    return between.join(show(item) for item in listed)


def _print(*values: Any) -> str:
    out = ""
    for number, value in enumerate(values):
        gap = number and not isinstance(value, str) and not isinstance(values[number - 1], str)
        out += (" " if gap else "") + show(value)
    return out


def _println(*values: Any) -> str:
    return " ".join(show(value) for value in values) + "\n"


def _printf(layout: Any, *values: Any) -> str:
    rest = list(values)
    written = 0

    def take(default: Any = None) -> Any:
        return rest.pop(0) if rest else default

    def one(found: re.Match[str]) -> str:
        nonlocal written
        flags, width, precision, verb = found.groups()
        if verb == "%":
            return "%"
        size, digits = [
            (take(0) if text == "*" else int(text)) if text is not None else None
            for text in (width, precision)
        ]
        if any(isinstance(each, int) and each > _WIDEST for each in (size, digits)):
            raise TemplateFault(f"width above {_WIDEST}")
        written += (size or 0) + (digits or 0)
        _bounded(written)
        if not rest:
            return f"%!{verb}(MISSING)"
        return _padded(_verb(verb, take(), flags, digits), flags, size or 0)

    text = _VERB.sub(one, _text(layout))
    if rest:
        text += f"%!(EXTRA {', '.join(f'{_kind(value)}={show(value)}' for value in rest)})"
    return text


def _verb(verb: str, value: Any, flags: str, digits: int | None) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    sign = "+" if "+" in flags and number else ""
    if verb in "vs":
        text = show(value)
        return sign + text if digits is None or verb == "v" else text[:digits]
    if verb == "q":
        return json.dumps(show(value), ensure_ascii=False)
    if verb == "t" and isinstance(value, bool):
        return show(value)
    if verb == "T":
        return _kind(value)
    if verb == "c" and isinstance(value, int):
        return chr(value) if 0 <= value < 0x110000 else "\ufffd"
    if verb in "xX" and isinstance(value, str):
        text = value.encode().hex()
        return text.upper() if verb == "X" else text
    if verb in "dboxX" and isinstance(value, int) and number:
        return f"{value:{sign}{'#' if '#' in flags else ''}{verb}}"
    if verb in "fFeEgG" and number:
        return (
            f"{float(value):{sign}.{6 if digits is None else digits}{verb}}"
            if (digits is not None or verb not in "gG")
            else sign + _float(float(value))
        )
    return f"%!{verb}({_kind(value)}={show(value)})"


def _padded(text: str, flags: str, size: int) -> str:
    if "-" in flags:
        return text.ljust(size)
    if "0" in flags and re.match(r"[+-]?\d", text):
        sign = text[0] if text[0] in "+-" else ""
        return sign + text[len(sign) :].rjust(size - len(sign), "0")
    return text.rjust(size)


def _title(text: Any) -> str:
    return re.sub(r"(^|[^\w'])(\w)", lambda found: found[1] + found[2].upper(), _text(text))


def _escape(text: Any) -> str:
    return json.dumps(_text(text), ensure_ascii=False)[1:-1]


def _js(*values: Any) -> str:
    text = json.dumps(_print(*values), ensure_ascii=False)[1:-1]
    for mark in "<>&='":
        text = text.replace(mark, f"\\u{ord(mark):04X}" if mark != "'" else "\\'")
    return text


def _safe_url(text: Any) -> str:
    return quote(_text(text), safe="!#$%&'()*+,/:;=?@[]~")


def _base64decode(text: Any) -> str:
    try:
        return base64.b64decode(_text(text), validate=True).decode("utf-8", "replace")
    except ValueError:
        raise TemplateFault("the text is not base64") from None


def _humanize(seconds: Any) -> str:
    try:
        value = float(seconds)
    except (TypeError, ValueError):
        raise TemplateFault("humanizeDuration needs seconds") from None
    if math.isinf(value) or math.isnan(value):
        return show(value)
    if abs(value) < 1 and value:
        unit = next((name for name, size in (("ms", 1e3), ("µs", 1e6)) if abs(value) * size >= 1), "ns")
        return f"{value * {'ms': 1e3, 'µs': 1e6, 'ns': 1e9}[unit]:.4g}{unit}"
    rest = int(abs(value))
    out: list[str] = []
    for unit, size in _UNITS:
        if rest >= size or out:
            out.append(f"{rest // size}{unit}")
            rest %= size
    last = f"{abs(value):.4g}" if not out else str(rest)
    return ("-" if value < 0 else "") + " ".join([*out, f"{last}s"])


def _moment(value: Any) -> GoTime:
    if isinstance(value, GoTime):
        return value
    return GoTime.parse(_text(value))


def _plain(value: Any) -> Any:
    """Return a value for JSON."""
    if isinstance(value, Mapping):
        return {show(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else show(value)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "append": _append,
    "base64decode": _base64decode,
    "base64encode": lambda text: base64.b64encode(_text(text).encode()).decode(),
    "date": lambda layout, moment: _moment(moment).format(_text(layout)),
    "dict": _dict,
    "eq": _eq,
    "escape": _escape,
    "ge": lambda left, right: not _less(left, right),
    "gt": lambda left, right: _less(right, left),
    "html": lambda *values: SafeHtml(html.escape(_print(*values))),
    "humanizeDuration": _humanize,
    "index": _index,
    "join": _join,
    "js": _js,
    "le": lambda left, right: not _less(right, left),
    "len": _len,
    "list": lambda *items: list(items),
    "lt": _less,
    "match": lambda pattern, text: _regex(pattern).search(_text(text)) is not None,
    "ne": lambda left, right: not _equal(left, right),
    "not": lambda value: not truth(value),
    "print": _print,
    "printf": _printf,
    "println": _println,
    "reReplaceAll": _replace,
    "safeHtml": lambda text: SafeHtml(show(text)),
    "safeUrl": _safe_url,
    "slice": _slice,
    "stringSlice": lambda *items: [_text(item) for item in items],
    "title": _title,
    "toJson": lambda value: json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":")),
    "toLower": lambda text: _text(text).lower(),
    "toUpper": lambda text: _text(text).upper(),
    "trimSpace": lambda text: _text(text).strip(),
    "tz": lambda zone, moment: _moment(moment).within(_text(zone)),
    "urlUnescape": lambda text: unquote_plus(_text(text)),
    "urlquery": lambda *values: quote_plus(_print(*values)),
}
"""Name -> function, besides `and`, `or` and `call`, which the evaluator has."""
