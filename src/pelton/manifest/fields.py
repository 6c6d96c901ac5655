"""The engine under every kind: one table of fields gives decode, encode and warnings about unknown fields.

A kind's file (openfunction_core, dapr, notification) writes tables of `Field`s with the shapes below; reading
an object collects every problem instead of stopping at the first. A hand-written engine because one Function
has to pass in well under a millisecond and warnings have to name the nearest known field. Knows no kind.
Over 600 lines: the shapes are one small language, and none of them is more than a page.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from pelton.errors import InvalidError
from pelton.quantity import format_duration, parse_duration, parse_quantity

__all__ = [
    "METADATA",
    "AnyValue",
    "Boolean",
    "Decoded",
    "Duration",
    "Field",
    "Inlined",
    "Integer",
    "Items",
    "Kept",
    "Mapped",
    "Only",
    "Path",
    "Problem",
    "Quantity",
    "Raw",
    "Reading",
    "Record",
    "Text",
    "copy_json",
    "describe",
    "either",
    "merge_problems",
    "name_problem",
    "nearest",
    "raise_invalid",
    "read_metadata",
    "render_path",
    "write_metadata",
]

Path = tuple[str | int, ...]
"""Field path: object keys as text, list positions as numbers."""

_PLAIN_KEY = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

M = TypeVar("M")


class Problem(NamedTuple):
    """One finding: the field path as text (`spec.outputs[0].dapr.name`), and a sentence about it."""

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Decoded(Generic[M]):
    """What reading an object gave.

    Attributes:
        model: The object in the platform's words; parts with problems have their empty value.
        problems: Wrong types and missing fields, in document order.
        warnings: What was accepted and ignored.
        unknown: Paths of the unknown fields among them.
    """

    model: M
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    unknown: tuple[Path, ...]


@dataclass(slots=True)
class Reading:
    """Collects findings while one object is read."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    unknown: list[Path] = field(default_factory=list)

    def problem(self, path: Path, message: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(render_path(path), message))

    def warn(self, path: Path, message: str) -> None:
        """Note something accepted and ignored."""
        self.warnings.append(Problem(render_path(path), message))

    def unknown_field(self, path: Path, known: Iterable[str]) -> None:
        """Warn about a field that no table has, naming the nearest one that exists beside it."""
        self.unknown.append(path)
        close = nearest(str(path[-1]), known)
        self.warn(path, "unknown field, ignored" + (f"; did you mean {close}?" if close else ""))

    def result(self, model: M) -> Decoded[M]:
        """Close the reading."""
        return Decoded(model, tuple(self.problems), tuple(self.warnings), tuple(self.unknown))


def render_path(path: Path) -> str:
    """Write a path as text: `spec.outputs[0].dapr`, with brackets around keys that are no plain words."""
    text = ""
    for part in path:
        if isinstance(part, int) or not _PLAIN_KEY.fullmatch(part):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word that is most alike, letter case aside, or "" when none is."""
    by_lower = {item.lower(): item for item in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else ""


def describe(value: Any) -> str:
    """Name a JSON value in a sentence: `the number 3`, `true`, `a list`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 40 else f'"{value[:37]}..."'
    return "a list" if isinstance(value, list) else "an object"


def either(words: Sequence[str]) -> str:
    """Join words for a sentence: `a, b or c`; the empty word is left out."""
    words = [word for word in words if word]
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else "".join(words)


def copy_json(value: Any) -> Any:
    """Copy a JSON value deeply; several times faster than `copy.deepcopy`, which has to expect cycles."""
    if type(value) is dict:
        return {key: copy_json(item) for key, item in value.items()}
    if type(value) is list:
        return [copy_json(item) for item in value]
    return value


# ----------------------------------------------------------------------------------------------------- shapes


class AnyValue:
    """Any JSON value, kept as it is."""

    empty: Any = None
    fills: bool = False
    """Whether a table below has defaults."""

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        """Return the model's value; note problems and return `empty` when the JSON value does not fit."""
        return value

    def encode(self, value: Any) -> Any:
        """Return the JSON value."""
        return value

    def fill(self, value: Any) -> None:
        """Write defaults into a JSON value where fields are absent; what has another type is left alone."""

    def schema(self) -> dict[str, Any]:
        """Return the structural OpenAPI v3 schema of the JSON value, without a description."""
        return {"x-kubernetes-preserve-unknown-fields": True}


class Text(AnyValue):
    """A string.

    Args:
        pattern: What the whole text has to match, with `meaning` naming it in the message.
        meaning: E.g. `a host name`.
        max_length: Longest text, characters, inclusive; 0 for any.
        choices: The texts that are allowed; empty for any.
        min_length: 1 where the empty text is none, else 0.
    """

    empty = ""

    def __init__(
        self,
        pattern: str = "",
        meaning: str = "",
        max_length: int = 0,
        choices: tuple[str, ...] = (),
        min_length: int = 0,
    ) -> None:
        self.choices = choices
        self.min_length = min_length
        self.pattern = re.compile(pattern) if pattern else None
        self.meaning = meaning
        self.max_length = max_length

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        """Accept text only; a bare `1.0` or `true` is a frequent slip, so the message says how to mend it."""
        if type(value) is not str:
            fix = ": put it in quotes" if isinstance(value, bool | int | float) else ""
            reading.problem(path, f"must be a string, found {describe(value)}{fix}")
            return ""
        if self.pattern is not None and not self.pattern.fullmatch(value):
            reading.problem(path, f"must be {self.meaning}, found {describe(value)}")
        elif self.max_length and len(value) > self.max_length:
            reading.problem(path, f"must have at most {self.max_length} characters, found {len(value)}")
        elif self.choices and value not in self.choices:
            reading.problem(path, f"must be {either(self.choices)}, found {describe(value)}")
        elif not value and self.min_length:
            reading.problem(path, "must not be empty")
        return value

    def schema(self) -> dict[str, Any]:
        """Return a string with its pattern, lengths and choices."""
        written: dict[str, Any] = {"type": "string"}
        if self.pattern is not None:
            written["pattern"] = f"^({self.pattern.pattern})$"
        if self.min_length:
            written["minLength"] = self.min_length
        if self.max_length:
            written["maxLength"] = self.max_length
        if self.choices:
            written["enum"] = list(self.choices)
        return written


class Integer(AnyValue):
    """A whole number of 32 bits with sign.

    Args:
        minimum, maximum: Bounds, inclusive; None for those of 32 bits.
    """

    def __init__(self, minimum: int | None = None, maximum: int | None = None) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        """Accept int32 within the bounds."""
        if type(value) is not int:
            fix = (
                ": write it without quotes" if isinstance(value, str) and value.lstrip("-").isdigit() else ""
            )
            reading.problem(path, f"must be a whole number, found {describe(value)}{fix}")
            return None
        if not -(2**31) <= value < 2**31:
            reading.problem(path, f"must fit into 32 bits, found {value}")
            return None
        if self.minimum is not None and value < self.minimum:
            low = "must not be negative" if self.minimum == 0 else f"must be at least {self.minimum}"
            reading.problem(path, f"{low}, found {value}")
        elif self.maximum is not None and value > self.maximum:
            reading.problem(path, f"must be at most {self.maximum}, found {value}")
        return value

    def schema(self) -> dict[str, Any]:
        """Return an int32 with its bounds."""
        bounds = {"minimum": self.minimum, "maximum": self.maximum}
        return {
            "type": "integer",
            "format": "int32",
            **{name: bound for name, bound in bounds.items() if bound is not None},
        }


class Boolean(AnyValue):
    """True or false."""

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        """Accept a boolean."""
        if type(value) is not bool:
            reading.problem(path, f"must be true or false, found {describe(value)}")
            return None
        return value

    def schema(self) -> dict[str, Any]:
        """Return a boolean."""
        return {"type": "boolean"}


class Quantity(AnyValue):
    """A Kubernetes quantity (`250m`, `1.5`, 3), a float in the model."""

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        """Accept a number or the text of one."""
        if type(value) in (int, float):
            return float(value)
        if type(value) is str:
            try:
                return float(parse_quantity(value))
            except ValueError as error:
                reading.problem(path, str(error))
                return None
        reading.problem(path, f'must be a quantity such as "250m", found {describe(value)}')
        return None

    def encode(self, value: Any) -> Any:
        """Write thousandths, as Kubernetes does, where the number is not whole."""
        thousandths = round(value * 1000)
        return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"

    def schema(self) -> dict[str, Any]:
        """Return a number or text."""
        return {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}


class Duration(AnyValue):
    """A Go duration string; seconds in the model.

    Args:
        blank: Whether "" counts as absent (Dapr's initTimeout, which older samples carry empty).
        minimum_s: Shortest, seconds, inclusive; None for any, negative ones too.
    """

    def __init__(self, *, blank: bool = False, minimum_s: float | None = None) -> None:
        self.blank = blank
        self.minimum_s = minimum_s

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        """Accept text such as `30s`."""
        if type(value) is not str:
            reading.problem(path, f'must be a duration such as "30s", found {describe(value)}')
            return None
        if not value and self.blank:
            return None
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            reading.problem(path, str(error))
            return None
        if self.minimum_s is not None and seconds < self.minimum_s:
            low = (
                "not be negative" if self.minimum_s == 0 else f"be at least {format_duration(self.minimum_s)}"
            )
            reading.problem(path, f"must {low}, found {value}")
        return seconds

    def encode(self, value: Any) -> Any:
        """Write the canonical form."""
        return format_duration(value)

    def schema(self) -> dict[str, Any]:
        """Return a string; the grammar of durations is checked on reading."""
        return {"type": "string"}


class Raw(AnyValue):
    """An object of another API (a PodSpec, an HTTPRoute rule), kept as written."""

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        """Accept any object."""
        if type(value) is not dict:
            reading.problem(path, f"must be an object, found {describe(value)}")
            return None
        return value

    def schema(self) -> dict[str, Any]:
        """Return an object with any fields."""
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


class Items(AnyValue):
    """A list, a tuple in the model; entries that decode to None are left out.

    Args:
        shape: Of each entry.
        max_items: Most entries, inclusive; 0 for any.
        min_items: Fewest entries, inclusive.
    """

    empty = ()

    def __init__(self, shape: AnyValue, max_items: int = 0, min_items: int = 0) -> None:
        self.shape = shape
        self.max_items = max_items
        self.min_items = min_items
        self.fills = shape.fills

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        """Accept a list whose entries have the shape."""
        if type(value) is not list:
            reading.problem(path, f"must be a list, found {describe(value)}")
            return ()
        if self.max_items and len(value) > self.max_items:
            reading.problem(path, f"must have at most {self.max_items} entries, found {len(value)}")
        if len(value) < self.min_items:
            entries = "1 entry" if self.min_items == 1 else f"{self.min_items} entries"
            reading.problem(path, f"must have at least {entries}, found {len(value)}")
        decode = self.shape.decode
        read = [decode(item, (*path, index), reading) for index, item in enumerate(value)]
        return tuple(item for item in read if item is not None)

    def encode(self, value: Any) -> Any:
        """Write a list."""
        return [self.shape.encode(item) for item in value]

    def fill(self, value: Any) -> None:
        """Write defaults into every entry."""
        if self.fills and type(value) is list:
            for item in value:
                self.shape.fill(item)

    def schema(self) -> dict[str, Any]:
        """Return an array."""
        written: dict[str, Any] = {"type": "array", "items": self.shape.schema()}
        if self.min_items:
            written["minItems"] = self.min_items
        if self.max_items:
            written["maxItems"] = self.max_items
        return written


class Mapped(AnyValue):
    """An object used as a map from any name to one shape.

    Args:
        shape: Of each value.
        nullable: Whether null stands for an absent value instead of a missing entry.
    """

    def __init__(self, shape: AnyValue, *, nullable: bool = False) -> None:
        self.shape = shape
        self.nullable = nullable
        self.empty = {}
        self.fills = shape.fills

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        """Accept an object whose values have the shape."""
        if type(value) is not dict:
            reading.problem(path, f"must be an object, found {describe(value)}")
            return {}
        decode = self.shape.decode
        read: dict[str, Any] = {}
        for key, item in value.items():
            if item is None and self.nullable:
                read[key] = None
            elif (result := decode(item, (*path, key), reading)) is not None or self.nullable:
                read[key] = result
        return read

    def encode(self, value: Any) -> Any:
        """Write an object."""
        return {key: self.shape.encode(item) for key, item in value.items()}

    def fill(self, value: Any) -> None:
        """Write defaults into every value."""
        if self.fills and type(value) is dict:
            for item in value.values():
                self.shape.fill(item)

    def schema(self) -> dict[str, Any]:
        """Return a map."""
        inner = self.shape.schema()
        return {
            "type": "object",
            "additionalProperties": {**inner, "nullable": True} if self.nullable else inner,
        }


class Only(AnyValue):
    """An object with one field, replaced by that field's value in the model: `{name: x}` becomes x.

    Args:
        key: The field's name.
        shape: The field's shape.
        missing: Model value when the object lacks it.
        required: Whether lacking it is a problem.
        doc: As in Field.
    """

    def __init__(
        self, key: str, shape: AnyValue, *, missing: Any = None, required: bool = False, doc: str = ""
    ) -> None:
        self.doc = doc
        self.key = key
        self.shape = shape
        self.missing = missing
        self.required = required
        self.fills = shape.fills

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        """Accept an object with that field."""
        if type(value) is not dict:
            reading.problem(path, f"must be an object with the field {self.key}, found {describe(value)}")
            return self.missing
        for key in value:
            if key != self.key:
                reading.unknown_field((*path, key), (self.key,))
        inner = value.get(self.key)
        if inner is None:
            if self.required:
                reading.problem((*path, self.key), "required")
            return self.missing
        return self.shape.decode(inner, (*path, self.key), reading)

    def encode(self, value: Any) -> Any:
        """Write the object."""
        return {} if value == self.missing else {self.key: self.shape.encode(value)}

    def fill(self, value: Any) -> None:
        """Write defaults into the field's value."""
        if self.fills and type(value) is dict:
            self.shape.fill(value.get(self.key))

    def schema(self) -> dict[str, Any]:
        """Return an object with that field."""
        inner = {"description": self.doc} if self.doc else {}
        written: dict[str, Any] = {
            "type": "object",
            "properties": {self.key: inner | self.shape.schema()},
        }
        return {**written, "required": [self.key]} if self.required else written


class Field(NamedTuple):
    """A row of a table.

    Attributes:
        json: Name in the manifest.
        attr: Name in the model's class.
        shape: What its value looks like.
        required: Whether lacking it is a problem.
        keep: Whether an empty text, list or map is written nevertheless (None never is).
        doc: What it is, for whoever writes manifests: the description in the schema.
        default: JSON value that is written where the field is absent; None for none.
        limits: What a rule checks, so that it is reported in the order of its contract, and the schema says,
            too: keywords of the schema (`minimum`, `enum`, ...) and `required`.
    """

    json: str
    attr: str
    shape: AnyValue
    required: bool = False
    keep: bool = False
    doc: str = ""
    default: Any = None
    limits: Mapping[str, Any] | None = None


class Record(AnyValue):
    """An object with a table of fields, a dataclass in the model.

    Args:
        make: The dataclass, or a function of the same arguments.
        table: Its fields, in the order in which they are written.
        absent: Tells whether an object counts as absent altogether, e.g. a reference with empty parts.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        table: Sequence[Field],
        *,
        absent: Callable[[dict[str, Any]], bool] | None = None,
    ) -> None:
        self.make = make
        self.table = tuple(table)
        self.known = {row.json: row for row in self.table}
        self.required = tuple(row for row in self.table if row.required)
        self.filled = tuple(row for row in self.table if row.default is not None or row.shape.fills)
        self.fills = bool(self.filled)
        self.absent = absent
        self.fillers: dict[str, Any] = {}
        if isinstance(make, type) and is_dataclass(make):
            rows = {row.attr: row for row in self.table}
            self.fillers = {  # what the class cannot do without: stands in where the manifest lacks it
                item.name: rows[item.name].shape.empty
                for item in fields(make)
                if item.default is MISSING and item.default_factory is MISSING and item.name in rows
            }

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        """Accept an object; null counts as absent, an unknown field gives a warning."""
        if type(value) is not dict:
            reading.problem(path, f"must be an object, found {describe(value)}")
            return None
        if self.absent is not None and self.absent(value):
            return None
        return self.make(**self.values(value, path, reading))

    def values(self, value: dict[str, Any], path: Path, reading: Reading) -> dict[str, Any]:
        """Read the fields of an object: attribute -> value, for those that are there."""
        read = dict(self.fillers)
        known = self.known
        for key, item in value.items():
            row = known.get(key)
            if row is None:
                reading.unknown_field((*path, key), known)
            elif item is not None:
                read[row.attr] = row.shape.decode(item, (*path, key), reading)
        for row in self.required:
            if value.get(row.json) is None:
                reading.problem((*path, row.json), "required")
        return read

    def encode(self, value: Any) -> Any:
        """Write the object without what is absent."""
        return _encode(self.table, value)

    def fill(self, value: Any) -> None:
        """Write the defaults of absent fields, then those below; null counts as absent."""
        if not self.fills or type(value) is not dict:
            return
        for row in self.filled:
            if row.default is not None and value.get(row.json) is None:
                value[row.json] = copy_json(row.default)
            row.shape.fill(value.get(row.json))

    def schema(self) -> dict[str, Any]:
        """Return an object with its fields, their descriptions and defaults."""
        properties: dict[str, Any] = {}
        required = []
        for row in self.table:
            limits = dict(row.limits or {})
            if limits.pop("required", False) or (row.required and self.absent is None):
                required.append(row.json)
            written = {"description": row.doc} if row.doc else {}
            written |= row.shape.schema() | limits
            if row.default is not None:
                written["default"] = copy_json(row.default)
            properties[row.json] = written
        result: dict[str, Any] = {"type": "object", "properties": properties}
        return {**result, "required": required} if required else result


def _encode(table: Iterable[Field], value: Any) -> dict[str, Any]:
    written: dict[str, Any] = {}
    for row in table:
        item = getattr(value, row.attr)
        if item is None or (not row.keep and isinstance(item, str | tuple | dict) and not item):
            continue
        written[row.json] = row.shape.encode(item)
    return written


class Kept(Record):
    """An object that stays in the model as it is written, once its fields are checked.

    Args:
        table: Its fields.
    """

    def __init__(self, table: Sequence[Field]) -> None:
        super().__init__(dict, table)

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        """Accept an object with those fields."""
        return None if super().decode(value, path, reading) is None else value

    def encode(self, value: Any) -> Any:
        """Write it as it was."""
        return value


class Inlined(Record):
    """An object that has the fields of another record among its own; in the model they are one attribute.

    Args:
        make: The dataclass.
        attr: Its attribute for the other record.
        inner: The other record; its attributes are none of `table`'s.
        table: Own fields, written first.
    """

    def __init__(self, make: Callable[..., Any], attr: str, inner: Record, table: Sequence[Field]) -> None:
        super().__init__(make, (*table, *inner.table))
        self.own = tuple(table)
        self.attr = attr
        self.inner = inner
        self.inner_attrs = tuple(row.attr for row in inner.table)

    def values(self, value: dict[str, Any], path: Path, reading: Reading) -> dict[str, Any]:
        """Read the fields, those of the other record gathered under its attribute."""
        read = super().values(value, path, reading)
        inner = {attr: read.pop(attr) for attr in self.inner_attrs if attr in read}
        return {**read, self.attr: self.inner.make(**inner)}

    def encode(self, value: Any) -> Any:
        """Write both side by side."""
        return {**_encode(self.own, value), **self.inner.encode(getattr(value, self.attr))}


# -------------------------------------------------------------------------------------------- whole resources

_STRINGS = Mapped(Text())
METADATA: Mapping[str, AnyValue] = {
    "name": Text(),
    "namespace": Text(),
    "labels": _STRINGS,
    "annotations": _STRINGS,
}
"""The parts of metadata that a user writes and a model keeps."""

_SERVER_SET = frozenset(
    (
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    )
)  # belongs to the API server or to controllers: neither read nor complained about
_TOP = ("apiVersion", "kind", "metadata", "spec", "status")


def read_metadata(obj: dict[str, Any], reading: Reading, *, beside: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read name, namespace, labels and annotations of an object, and look for unknown top-level fields.

    Args:
        obj: The whole object.
        reading: Takes the findings.
        beside: Top-level fields of this kind other than metadata, spec and status.

    Returns:
        Values for the model's attributes of the same names; `name` is always there.
    """
    read: dict[str, Any] = {"name": ""}
    for key in obj:
        if key not in _TOP and key not in beside:
            reading.unknown_field((key,), (*_TOP, *beside))
    metadata = obj.get("metadata")
    if type(metadata) is not dict:
        reading.problem(
            ("metadata",),
            "required" if metadata is None else f"must be an object, found {describe(metadata)}",
        )
        return read
    for key, value in metadata.items():
        shape = METADATA.get(key)
        if shape is None:
            if key not in _SERVER_SET:
                reading.unknown_field(("metadata", key), (*METADATA, *_SERVER_SET))
        elif value is not None:
            read[key] = shape.decode(value, ("metadata", key), reading)
    if not metadata.get("name"):
        if not metadata.get("generateName"):
            reading.problem(("metadata", "name"), "required")
    elif complaint := name_problem(read["name"]):
        reading.problem(("metadata", "name"), complaint)
    return read


def name_problem(name: str) -> str:
    """Return what is wrong with a resource's name (lower-case DNS name, at most 253 characters), or ""."""
    if not name or (len(name) <= 253 and _DNS_SUBDOMAIN.fullmatch(name)):
        return ""
    fixed = re.sub(r"[^a-z0-9.-]+", "-", name.lower())[:253].strip("-.")
    close = f"; {fixed} would do" if _DNS_SUBDOMAIN.fullmatch(fixed) else ""
    return (
        f"must be lower-case letters, digits, '-' and '.', at most 253 of them, found {describe(name)}{close}"
    )


def write_metadata(model: Any) -> dict[str, Any]:
    """Write name, namespace, labels and annotations of a model, leaving out what is empty."""
    found = {key: getattr(model, key, None) for key in METADATA}
    return {key: dict(value) if isinstance(value, dict) else value for key, value in found.items() if value}


def merge_problems(types: Sequence[Problem], rules: Sequence[Problem]) -> list[Problem]:
    """Join problems of type and broken rules, without rules about fields that a problem of type covers."""
    wrong = {problem.path for problem in types}
    return [*types, *(problem for problem in rules if not _parents(problem.path) & wrong)]


def _parents(path: str) -> set[str]:
    """Return a path and all that it lies in: a.b[0].c -> a, a.b, a.b[0], a.b[0].c."""
    return {path[: match.start()] for match in re.finditer(r"[.\[]", path)} | {path}


def raise_invalid(kind: str, name: str, problems: Sequence[Problem], where: str = "") -> None:
    """Raise InvalidError with all problems, or return when there are none."""
    if not problems:
        return
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    listing = "; ".join(f"{path}: {message}" for path, message in problems)
    raise InvalidError(
        f"{kind} {name or '(unnamed)'} has {count}: {listing}",
        causes=tuple((path, message) for path, message in problems),
        where=where,
    )
