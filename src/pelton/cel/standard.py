"""The operators and functions of CEL itself: arithmetic, comparison, conversions, times, optionals.

A table read by `library.py`. Operators are functions with names such as `_+_`; `&&`, `||` and the ternary are
here for their types only, since `evaluator.py` decides what of them is evaluated. Pure.
Source: the CEL language definition (standard definitions).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pelton.cel.overload import Overload, Sizes, Table, global_function, method, size_of, traverse
from pelton.cel.regex import RegexError, compile_regex
from pelton.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    STRING,
    TIMESTAMP,
    UINT,
    Type,
    list_of,
    map_of,
    optional_of,
    param,
    type_of,
)
from pelton.cel.values import (
    NOTHING,
    Duration,
    MapList,
    OptionalValue,
    SetList,
    Timestamp,
    UInt,
    contains_key,
    equal,
    finite_int,
    less,
    parse_duration_ns,
    type_name,
)
from pelton.errors import CelEvaluateError

__all__ = ["STANDARD", "at_index", "matches", "number_text", "to_text"]

_A, _B = param("A"), param("B")
_LIST, _MAP = list_of(_A), map_of(_A, _B)
_MIN, _MAX = -(2**63), 2**63


def _int(number: int) -> int:
    if not _MIN <= number < _MAX:
        raise CelEvaluateError("integer overflow")
    return number


def _uint(number: int) -> UInt:
    if not 0 <= number < 2**64:
        raise CelEvaluateError("unsigned integer overflow")
    return UInt(number)


def _divide(one: int, other: int) -> int:
    if other == 0:
        raise CelEvaluateError("division by zero")
    quotient = abs(one) // abs(other)
    return _int(quotient if (one < 0) == (other < 0) else -quotient)


def _modulus(one: int, other: int) -> int:
    if other == 0:
        raise CelEvaluateError("modulus by zero")
    rest = abs(one) % abs(other)
    return -rest if one < 0 else rest


def _divide_double(one: float, other: float) -> float:
    if other == 0:
        negative = math.copysign(1, one) * math.copysign(1, other) < 0
        return math.nan if one == 0 or math.isnan(one) else (-math.inf if negative else math.inf)
    return one / other


def _concat(one: list[Any], other: list[Any]) -> list[Any]:
    if isinstance(one, SetList):
        result = SetList(one)
        result.extend(item for item in other if not any(equal(item, had) for had in one))
        return result
    if isinstance(one, MapList):
        replaced = {one.key(item): item for item in other}
        had = {one.key(item) for item in one}
        merged = MapList([replaced.get(one.key(item), item) for item in one])
        merged.extend(item for item in other if one.key(item) not in had)
        merged.keys = one.keys
        return merged
    return [*one, *other]


def at_index(container: Any, index: Any) -> Any:
    """Return an element of a list or map; raises CelEvaluateError."""
    if isinstance(container, dict):
        if not contains_key(container, index):
            raise CelEvaluateError(f"no such key: {to_text(index)}")
        return container[index]
    if isinstance(container, list):
        if type(index) is float and index.is_integer():
            index = int(index)
        if type(index) not in (int, UInt):
            raise CelEvaluateError("unsupported index type in list")
        if not 0 <= index < len(container):
            raise CelEvaluateError(f"index out of bounds: {index}")
        return container[index]
    raise CelEvaluateError("no such overload")


def _optional_index(container: Any, index: Any) -> OptionalValue:
    if isinstance(container, OptionalValue):
        return _optional_index(container.value, index) if container.has else NOTHING
    try:
        return OptionalValue(at_index(container, index))
    except CelEvaluateError:
        return NOTHING


def _within(item: Any, container: Any) -> bool:
    if isinstance(container, dict):
        return contains_key(container, item)
    return any(equal(item, entry) for entry in container)


def matches(text: str, pattern: str) -> bool:
    """Return whether an RE2 expression matches anywhere in a text; raises CelEvaluateError."""
    try:
        return compile_regex(pattern).search(text) is not None
    except RegexError as error:
        raise CelEvaluateError(f"error parsing regexp: {error}") from error


# -- conversions -------------------------------------------------------------------------------------------


def number_text(number: float) -> str:
    """Write a double as Go does in its shortest form."""
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "+Inf" if number > 0 else "-Inf"
    if number == int(number) and abs(number) < 1e21:
        return str(int(number)) if number or math.copysign(1, number) > 0 else "-0"
    text = repr(number)
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        return f"{mantissa}e{exponent[0] if exponent[0] in '+-' else '+'}{exponent.lstrip('+-').zfill(2)}"
    return text


def to_text(value: Any) -> str:
    """Return `string(value)`; raises CelEvaluateError for what has no text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return number_text(value)
    if isinstance(value, (str, Timestamp, Duration)):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise CelEvaluateError("invalid UTF-8 in bytes, cannot convert to string") from error
    if hasattr(value, "cel_type"):
        return str(value)
    raise CelEvaluateError(f"no such overload: string({type_name(value)})")


def _text_to_int(text: str) -> int:
    try:
        if text.strip() != text or "_" in text:
            raise ValueError(text)
        return _int(int(text))
    except ValueError as error:
        raise CelEvaluateError(f"cannot convert {text!r} to int") from error


def _text_to_uint(text: str) -> UInt:
    return _uint(_text_to_int(text))


def _text_to_double(text: str) -> float:
    try:
        if text.strip() != text or "_" in text:
            raise ValueError(text)
        return float(text)
    except ValueError as error:
        raise CelEvaluateError(f"cannot convert {text!r} to double") from error


def _text_to_bool(text: str) -> bool:
    if text in ("true", "True", "TRUE", "t", "1"):
        return True
    if text in ("false", "False", "FALSE", "f", "0"):
        return False
    raise CelEvaluateError(f"cannot convert {text!r} to bool")


_KINDS = {
    "bool": BOOL,
    "int": INT,
    "uint": UINT,
    "double": DOUBLE,
    "string": STRING,
    "bytes": BYTES,
    "list": list_of(DYN),
    "map": map_of(DYN, DYN),
    "null_type": Type("null_type"),
    "type": type_of(DYN),
    "google.protobuf.Timestamp": TIMESTAMP,
    "google.protobuf.Duration": DURATION,
    "optional_type": optional_of(DYN),
}


def _type(value: Any) -> Type:
    name = type_name(value)
    return _KINDS.get(name) or Type("opaque", name=name)


# -- times -------------------------------------------------------------------------------------------------


def _calendar(read: Callable[[Any], int]) -> Callable[..., int]:
    def run(moment: Timestamp, zone: str = "") -> int:
        return read(moment.local(zone))

    return run


_CALENDAR: dict[str, Callable[[Any], int]] = {
    "getFullYear": lambda t: t.year,
    "getMonth": lambda t: t.month - 1,
    "getDate": lambda t: t.day,
    "getDayOfMonth": lambda t: t.day - 1,
    "getDayOfWeek": lambda t: t.isoweekday() % 7,
    "getDayOfYear": lambda t: t.timetuple().tm_yday - 1,
    "getHours": lambda t: t.hour,
    "getMinutes": lambda t: t.minute,
    "getSeconds": lambda t: t.second,
    "getMilliseconds": lambda t: t.microsecond // 1000,
}
_SPANS = {"getHours": 3600 * 10**9, "getMinutes": 60 * 10**9, "getSeconds": 10**9}


def _span(unit: int) -> Callable[[Duration], int]:
    return lambda span: abs(span.ns) // unit * (-1 if span.ns < 0 else 1)


def _times() -> Table:
    table: dict[str, list[Overload]] = {}
    for name, read in _CALENDAR.items():
        run = _calendar(read)
        table[name] = [method((TIMESTAMP,), INT, run), method((TIMESTAMP, STRING), INT, run)]
    for name, unit in _SPANS.items():
        table[name].append(method((DURATION,), INT, _span(unit)))
    table["getMilliseconds"].append(method((DURATION,), INT, lambda d: int(math.fmod(d.ns // 10**6, 1000))))
    return {name: tuple(overloads) for name, overloads in table.items()}


# -- optionals ---------------------------------------------------------------------------------------------


def _value(optional: OptionalValue) -> Any:
    if not optional.has:
        raise CelEvaluateError("optional.none() dereference")
    return optional.value


def _non_zero(value: Any) -> OptionalValue:
    zero = value is None or value in (False, 0, "", b"") or (isinstance(value, (list, dict)) and not value)
    return NOTHING if zero else OptionalValue(value)


_OPT = optional_of(_A)


def _both(sizes: Sizes) -> int:
    return traverse(sizes[0] + sizes[1])


def _shorter(sizes: Sizes) -> int:
    return traverse(min(sizes[0], sizes[1]))


def _total(sizes: Sizes) -> int:
    return sizes[0] + sizes[1]


def _pattern(sizes: Sizes) -> int:
    return traverse(sizes[0] + 1) * max(1, -(-sizes[1] // 4))


def _ordered(test: Callable[[Any, Any], bool]) -> tuple[Overload, ...]:
    numbers = (INT, UINT, DOUBLE)
    pairs = [(one, other) for one in numbers for other in numbers]
    pairs += [(kind, kind) for kind in (BOOL, TIMESTAMP, DURATION)]
    return (
        *(global_function(pair, BOOL, test) for pair in pairs),
        *(global_function((kind, kind), BOOL, test, _shorter) for kind in (STRING, BYTES)),
    )


def _not_nan(one: Any, other: Any) -> bool:
    return bool(one == one and other == other)  # noqa: PLR0124 # NaN is the value that differs from itself


def _size_method(kind: Type) -> tuple[Overload, Overload]:
    return global_function((kind,), INT, size_of), method((kind,), INT, size_of)


STANDARD: Table = {
    "_&&_": (global_function((BOOL, BOOL), BOOL, bool),),
    "_||_": (global_function((BOOL, BOOL), BOOL, bool),),
    "_?_:_": (global_function((BOOL, _A, _A), _A, bool),),
    "!_": (global_function((BOOL,), BOOL, lambda value: not value),),
    "-_": (
        global_function((INT,), INT, lambda number: _int(-number)),
        global_function((DOUBLE,), DOUBLE, lambda number: -number),
    ),
    "_==_": (global_function((_A, _A), BOOL, equal, _shorter),),
    "_!=_": (global_function((_A, _A), BOOL, lambda one, other: not equal(one, other), _shorter),),
    "_<_": _ordered(less),
    "_>_": _ordered(lambda one, other: less(other, one)),
    "_<=_": _ordered(lambda one, other: not less(other, one) and _not_nan(one, other)),
    "_>=_": _ordered(lambda one, other: not less(one, other) and _not_nan(one, other)),
    "_+_": (
        global_function((INT, INT), INT, lambda a, b: _int(a + b)),
        global_function((UINT, UINT), UINT, lambda a, b: _uint(int(a) + int(b))),
        global_function((DOUBLE, DOUBLE), DOUBLE, lambda a, b: a + b),
        global_function((STRING, STRING), STRING, lambda a, b: a + b, _both, _total),
        global_function((BYTES, BYTES), BYTES, lambda a, b: a + b, _both, _total),
        global_function((_LIST, _LIST), _LIST, _concat, None, _total),
        global_function((TIMESTAMP, DURATION), TIMESTAMP, lambda t, d: Timestamp(t.ns + d.ns)),
        global_function((DURATION, TIMESTAMP), TIMESTAMP, lambda d, t: Timestamp(t.ns + d.ns)),
        global_function((DURATION, DURATION), DURATION, lambda a, b: Duration(a.ns + b.ns)),
    ),
    "_-_": (
        global_function((INT, INT), INT, lambda a, b: _int(a - b)),
        global_function((UINT, UINT), UINT, lambda a, b: _uint(int(a) - int(b))),
        global_function((DOUBLE, DOUBLE), DOUBLE, lambda a, b: a - b),
        global_function((TIMESTAMP, TIMESTAMP), DURATION, lambda a, b: Duration(a.ns - b.ns)),
        global_function((TIMESTAMP, DURATION), TIMESTAMP, lambda t, d: Timestamp(t.ns - d.ns)),
        global_function((DURATION, DURATION), DURATION, lambda a, b: Duration(a.ns - b.ns)),
    ),
    "_*_": (
        global_function((INT, INT), INT, lambda a, b: _int(a * b)),
        global_function((UINT, UINT), UINT, lambda a, b: _uint(int(a) * int(b))),
        global_function((DOUBLE, DOUBLE), DOUBLE, lambda a, b: a * b),
    ),
    "_/_": (
        global_function((INT, INT), INT, _divide),
        global_function((UINT, UINT), UINT, lambda a, b: _uint(_divide(int(a), int(b)))),
        global_function((DOUBLE, DOUBLE), DOUBLE, _divide_double),
    ),
    "_%_": (
        global_function((INT, INT), INT, _modulus),
        global_function((UINT, UINT), UINT, lambda a, b: _uint(_modulus(int(a), int(b)))),
    ),
    "@in": (
        global_function((_A, _LIST), BOOL, _within, lambda sizes: sizes[1]),
        global_function((_A, _MAP), BOOL, _within),
    ),
    "_[_]": (
        global_function((_LIST, INT), _A, at_index),
        global_function((_MAP, _A), _B, at_index),
    ),
    "_[?_]": (
        global_function((_LIST, INT), _OPT, _optional_index),
        global_function((_MAP, _A), optional_of(_B), _optional_index),
        global_function((optional_of(_LIST), INT), _OPT, _optional_index),
        global_function((optional_of(_MAP), _A), optional_of(_B), _optional_index),
    ),
    "size": (*_size_method(STRING), *_size_method(BYTES), *_size_method(_LIST), *_size_method(_MAP)),
    "contains": (
        method(
            (STRING, STRING), BOOL, lambda a, b: b in a, lambda s: traverse(s[0]) * max(1, traverse(s[1]))
        ),
    ),
    "startsWith": (method((STRING, STRING), BOOL, str.startswith, lambda sizes: traverse(sizes[1])),),
    "endsWith": (method((STRING, STRING), BOOL, str.endswith, lambda sizes: traverse(sizes[1])),),
    "matches": (
        method((STRING, STRING), BOOL, matches, _pattern),
        global_function((STRING, STRING), BOOL, matches, _pattern),
    ),
    "int": (
        global_function((INT,), INT, lambda number: number),
        global_function((UINT,), INT, lambda number: _int(int(number))),
        global_function((DOUBLE,), INT, finite_int),
        global_function((STRING,), INT, _text_to_int, lambda sizes: traverse(sizes[0])),
        global_function((TIMESTAMP,), INT, lambda moment: moment.ns // 10**9),
        global_function((DURATION,), INT, lambda span: span.ns),
    ),
    "uint": (
        global_function((UINT,), UINT, lambda number: number),
        global_function((INT,), UINT, _uint),
        global_function((DOUBLE,), UINT, lambda number: _uint(finite_int(number))),
        global_function((STRING,), UINT, _text_to_uint, lambda sizes: traverse(sizes[0])),
    ),
    "double": (
        global_function((DOUBLE,), DOUBLE, lambda number: number),
        global_function((INT,), DOUBLE, float),
        global_function((UINT,), DOUBLE, float),
        global_function((STRING,), DOUBLE, _text_to_double, lambda sizes: traverse(sizes[0])),
    ),
    "string": (
        global_function((STRING,), STRING, to_text, None, lambda sizes: sizes[0]),
        global_function((BYTES,), STRING, to_text, lambda s: traverse(s[0]), lambda sizes: sizes[0]),
        *(
            global_function((kind,), STRING, to_text, None, lambda sizes: 32)
            for kind in (BOOL, INT, UINT, DOUBLE, TIMESTAMP, DURATION)
        ),
    ),
    "bytes": (
        global_function((BYTES,), BYTES, lambda octets: octets),
        global_function((STRING,), BYTES, str.encode, lambda s: traverse(s[0]), lambda sizes: 4 * sizes[0]),
    ),
    "bool": (
        global_function((BOOL,), BOOL, lambda value: value),
        global_function((STRING,), BOOL, _text_to_bool, lambda sizes: traverse(sizes[0])),
    ),
    "timestamp": (
        global_function((TIMESTAMP,), TIMESTAMP, lambda moment: moment),
        global_function((STRING,), TIMESTAMP, Timestamp.parse),
        global_function((INT,), TIMESTAMP, lambda seconds: Timestamp(seconds * 10**9)),
    ),
    "duration": (
        global_function((DURATION,), DURATION, lambda span: span),
        global_function((STRING,), DURATION, lambda text: Duration(parse_duration_ns(text))),
        global_function((INT,), DURATION, Duration),
    ),
    "dyn": (global_function((_A,), DYN, lambda value: value),),
    "type": (global_function((_A,), type_of(_A), _type),),
    "optional.of": (global_function((_A,), _OPT, OptionalValue),),
    "optional.ofNonZeroValue": (global_function((_A,), _OPT, _non_zero),),
    "optional.none": (global_function((), _OPT, lambda: NOTHING),),
    "hasValue": (method((_OPT,), BOOL, lambda optional: optional.has),),
    "value": (method((_OPT,), _A, _value),),
    "or": (method((_OPT, _OPT), _OPT, lambda one, other: one if one.has else other),),
    "orValue": (method((_OPT, _A), _A, lambda one, other: one.value if one.has else other),),
    **_times(),
}
"""Name -> overloads."""
