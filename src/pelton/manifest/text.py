"""YAML and JSON text -> documents that remember on which line each field stands, and back. Opens no file.

Called by `cli/objects` and by whoever reads them. Documents are parsed one by one, so that a broken one does
not hide the others. Scalars are read as Kubernetes reads them (YAML 1.1 booleans, octal numbers, no dates),
which neither loader of ruamel.yaml does; hence an own, small builder on its parser's events. The parser in C
is used where the package `ruamel.yaml.clib` is installed (15 times faster); errors always come from the one
in Python, so that their wording does not depend on the machine.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pelton.errors import ManifestError
from pelton.manifest.fields import copy_json, describe

__all__ = ["Document", "Parsed", "load", "parse", "write"]

_MAX_DEPTH = 100
_MAX_NODES = 1_000_000  # of copied anchors per document: a few lines of nested aliases would fill any memory

_MARKER = re.compile(r"^(---|\.\.\.)(?=\s|$)", re.MULTILINE)
_IDLE = re.compile(r"(\s|#.*$|%.*$)*", re.MULTILINE)  # blank, comments, directives
_PATH_PART = re.compile(r"\[([^\]]*)\]|([^.\[]+)")
_INTEGER = re.compile(r"[-+]?(0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[0-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
}
_BARE = re.compile(r"[A-Za-z_/]([A-Za-z0-9_./@%+=~-]|:(?=[^\s:])|[ ](?=[A-Za-z0-9_/(]))*")  # needs no quotes
_QUOTED = re.compile(r"[ !-&(-~]*\"[ !-&(-~]*")  # double quotes, no single ones, all of it printable ASCII
_LITERAL = re.compile(
    r"(?=.*\n)[!-~]([ -~]*[!-~])?(\n([ -~]*[!-~])?)*?(?<!\n)\n?", re.DOTALL
)  # fits a | block
_UNPRINTABLE = re.compile(r"[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_NUMBER_STARTS = frozenset("+-.0123456789")
_INTERNAL = {  # complaints in which the parser speaks of its own tokens
    "<document start>": "more text follows after the end of the document",
    "<block end>": "this line does not fit under the one above; compare their indentation",
}
_STANDARD_TAG = "tag:yaml.org,2002:"

Marks = dict[str, tuple[int, Any]] | list[tuple[int, Any]] | None
"""Per key or position: line (from 1) and the marks inside; None for scalars."""


class Document:
    """One Kubernetes object out of a text.

    Attributes:
        data: The object; plain dictionaries, lists and scalars, shared with nobody.
        file: Name of the text as given to `parse`.
        line: Line on which the object begins, from 1.
        text: The whole text that it is from; "" for an item of a list.
    """

    __slots__ = ("_marks", "_source", "data", "file", "line", "text")

    def __init__(
        self, data: dict[str, Any], file: str, line: int, *, marks: Marks = None, source: str = ""
    ) -> None:
        self.data = data
        self.file = file
        self.line = line
        self._marks = marks
        self.text = ""
        self._source = source  # JSON: lines are looked up only when someone asks

    def __repr__(self) -> str:
        return f"Document({self.data.get('kind')}, {self.file}:{self.line})"

    def fields(self) -> Iterator[tuple[tuple[str | int, ...], int]]:
        """Yield (path, line from 1) of every field and entry in the order of the text; nothing for JSON."""

        def walk(marks: Marks, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], int]]:
            if marks is None:
                return
            for key, (line, inside) in marks.items() if isinstance(marks, dict) else enumerate(marks):
                yield (*path, key), line
                yield from walk(inside, (*path, key))

        yield from walk(self._marks, ())

    def where(self, path: str) -> str:
        """Return `file:line` of a field, or of the nearest of its ancestors that is written.

        Args:
            path: E.g. `spec.outputs[0].dapr.name`, `annotations[a.b/c]` for keys with dots; "" for the top.
        """
        if self._source:
            self._marks = _marks_of_json(self._source, self.line - 1)
            self._source = ""
        line, marks = self.line, self._marks
        for bracketed, plain in _PATH_PART.findall(path):
            key = bracketed or plain
            if isinstance(marks, dict) and key in marks:
                line, marks = marks[key]
            elif isinstance(marks, list) and key.isdigit() and int(key) < len(marks):
                line, marks = marks[int(key)]
            else:
                break
        return f"{self.file}:{line}"


class Parsed(NamedTuple):
    """What a text holds: usable documents and errors about the others, both in the order of the text."""

    documents: list[Document]
    errors: list[ManifestError]


def parse(text: str, file: str = "-") -> Parsed:
    """Read all documents of a text: YAML with `---`, JSON objects one after another, `kind: List`.

    Args:
        text: Content of a file.
        file: Its name for messages.

    Returns:
        Documents that have apiVersion, kind and a name, and an error for each problem with the others.
    """
    documents: list[Document] = []
    errors: list[ManifestError] = []
    text = text.removeprefix("\ufeff")
    for chunk, offset in _chunks(text):
        blank = chunk.replace("---", "   ", 1) if chunk.startswith("---") else chunk
        if blank.lstrip()[:1] in ("{", "["):
            whole = _json(blank, offset, file)
            if whole is not None:
                for document, found in whole:
                    errors += found
                    if not found:
                        _accept(document, documents, errors)
                continue
        found_document, found_errors = _yaml(chunk, offset, file)
        errors += found_errors
        if found_document is not None and not found_errors:
            found_document.text = text
            _accept(found_document, documents, errors)
    return Parsed(documents, errors)


def load(text: str) -> Any:
    """Read one YAML or JSON value, e.g. out of an annotation; None when there is nothing but comments.

    Raises:
        ManifestError: It cannot be read; `where` counts lines within the text.
    """
    chunks = list(_chunks(text.removeprefix("\ufeff")))
    if not chunks:
        return None
    if len(chunks) > 1:
        raise ManifestError("holds several documents, one is expected")
    found, errors = _yaml(chunks[0][0], chunks[0][1], "line")
    if errors or found is None:
        raise errors[0] if errors else ManifestError("cannot be read")
    return found.data


def _chunks(text: str) -> Iterator[tuple[str, int]]:
    """Split at document markers: text of each document and the number of lines before it.

    A marker at the start of a line is never part of a scalar (YAML 1.2, 9.1.2): this needs no parser.
    """
    start = 0
    offset = 0
    for match in [*_MARKER.finditer(text), None]:
        end = len(text) if match is None else match.start()
        chunk = text[start:end]
        body = chunk[3:] if _MARKER.match(chunk) else chunk
        if not _IDLE.fullmatch(body):
            yield (body if chunk.startswith("...") else chunk), offset
        offset += chunk.count("\n")
        start = end


def _accept(document: Document, documents: list[Document], errors: list[ManifestError]) -> None:
    """Sort a parsed document into objects and errors; lists of objects are taken apart."""
    data: Any = document.data
    if not isinstance(data, dict):
        errors.append(
            ManifestError(
                f"a manifest must be an object with fields, found {describe(data)}", where=document.where("")
            )
        )
        return
    kind, items = data.get("kind"), data.get("items")
    if isinstance(kind, str) and kind.endswith("List") and isinstance(items, list):
        document.where("")  # makes sure that lines are known
        marks = document._marks
        inside = marks.get("items", (document.line, None))[1] if isinstance(marks, dict) else None
        for index, item in enumerate(items):
            line, deeper = inside[index] if isinstance(inside, list) else (document.line, None)
            _accept(Document(item, document.file, line, marks=deeper), documents, errors)
        return
    metadata = data.get("metadata")
    missing = [key for key in ("apiVersion", "kind") if not data.get(key)]
    if not isinstance(metadata, dict) or not (metadata.get("name") or metadata.get("generateName")):
        missing.append("metadata.name")
    errors += [
        ManifestError(
            f"{key} is missing",
            where=document.where(key),
            hint="every object has apiVersion, kind and metadata.name",
        )
        for key in missing
    ]
    if not missing:
        documents.append(document)


# ------------------------------------------------------------------------------------------------------- JSON


class _RepeatedKeyError(Exception):
    """An object has a key twice."""


def _json(chunk: str, offset: int, file: str) -> list[tuple[Document, list[ManifestError]]] | None:
    """Read objects that follow one another; None when the text is not JSON (a YAML flow mapping, say)."""
    repeated: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        read = dict(items)
        if len(read) != len(items):
            seen: set[str] = set()
            repeated.extend(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        return read

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    decoder = json.JSONDecoder(object_pairs_hook=pairs, parse_constant=refuse)
    found: list[tuple[Document, list[ManifestError]]] = []
    position = 0
    while True:
        position += len(chunk[position:]) - len(chunk[position:].lstrip())
        if position >= len(chunk):
            return found
        try:
            value, end = decoder.raw_decode(chunk, position)
        except (ValueError, RecursionError):
            return None
        line = offset + chunk.count("\n", 0, position) + 1
        document = Document(value, file, line, source=chunk[position:end])
        errors = [
            ManifestError(f'the key "{key}" is given twice in one object', where=f"{file}:{line}")
            for key in repeated
        ]
        repeated.clear()
        found.append((document, errors))
        position = end


def _marks_of_json(source: str, offset: int) -> Marks:
    """Find the lines of a JSON text by reading it as YAML, which it is but for tabs between tokens."""
    for fast in (True, False) if _fast_parser() is not None else (False,):
        try:
            return _Builder(offset, "").document(source.replace("\t", " "), fast=fast)[1]
        except (ManifestError, _yaml_error(), RecursionError):
            pass  # an escape or a nesting that YAML does not take: the line of the whole object has to do
    return None


# ------------------------------------------------------------------------------------------------------- YAML


def _yaml_error() -> type[Exception]:
    from ruamel.yaml.error import YAMLError

    return YAMLError


def _yaml(chunk: str, offset: int, file: str) -> tuple[Document | None, list[ManifestError]]:
    failure: ManifestError | None = None
    for fast in (True, False) if _fast_parser() is not None else (False,):
        builder = _Builder(offset, file)
        try:
            value, marks = builder.document(chunk, fast=fast)
        except ManifestError as error:
            return None, [error]
        except _yaml_error() as error:
            failure = _failure(error, chunk, offset, file)
            continue
        except RecursionError:
            return None, [ManifestError("nested too deeply", where=f"{file}:{offset + 1}")]
        return Document(value, file, builder.first_line, marks=marks), builder.errors
    return None, [failure] if failure is not None else []


def _failure(error: Exception, chunk: str, offset: int, file: str) -> ManifestError:
    """Put a parser's complaint into the user's terms."""
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or "")
    line = offset + (mark.line if mark is not None else 0) + 1
    if "'\\t'" in problem:
        return ManifestError(
            "a tab indents this line", where=f"{file}:{line}", hint="YAML is indented with spaces only"
        )
    if not problem:  # the reader's error has no mark, but the position of a character
        line += chunk.count("\n", 0, getattr(error, "position", None) or 0)
        return ManifestError(
            "a control character stands here; YAML does not allow it", where=f"{file}:{line}"
        )
    for internal, plain in _INTERNAL.items():
        if internal in problem:
            return ManifestError(f"not valid YAML: {plain}", where=f"{file}:{line}")
    context, begun = getattr(error, "context", None), getattr(error, "context_mark", None)
    tail = f", {context}" if context else ""
    if tail and begun is not None and begun.line + offset + 1 != line:
        tail += f" that began on line {begun.line + offset + 1}"
    return ManifestError(f"not valid YAML: {problem}{tail}", where=f"{file}:{line}")


def _fast_parser() -> Any:
    """Return the parser class in C, or None where `ruamel.yaml.clib` is not installed."""
    try:
        return importlib.import_module("_ruamel_yaml").CParser
    except (ImportError, AttributeError):
        return None


def _events(text: str, *, fast: bool) -> Iterator[Any]:
    """Yield parser events of one document."""
    from ruamel.yaml import YAML

    parser_class = _fast_parser() if fast else None
    if parser_class is None:
        yield from YAML(typ="safe", pure=True).parse(text)
        return
    parser = parser_class(text)  # not through YAML(), which makes a class per call
    while (event := parser.get_event()) is not None:
        yield event


class _Builder:
    """Builds data and marks of one document from parser events.

    Args:
        offset: Lines before the document.
        file: Name for messages.
    """

    def __init__(self, offset: int, file: str) -> None:
        self.offset = offset
        self.file = file
        self.first_line = offset + 1
        self.errors: list[ManifestError] = []
        self.anchors: dict[str, Any] = {}
        self.copied = 0
        self.depth = 0

    def document(self, text: str, *, fast: bool) -> tuple[Any, Marks]:
        """Read the only document of a text."""
        from ruamel.yaml import events

        self.kinds = events
        stream = _events(text, fast=fast)
        result: tuple[Any, Marks] = (None, None)
        for event in stream:
            kind = type(event)
            if kind not in (
                events.StreamStartEvent,
                events.DocumentStartEvent,
                events.DocumentEndEvent,
                events.StreamEndEvent,
            ):
                self.first_line = event.start_mark.line + self.offset + 1
                result = self.node(event, stream)
        return result

    def node(self, event: Any, stream: Iterator[Any]) -> tuple[Any, Marks]:
        """Read the node that an event begins."""
        kind = type(event)
        marks: Marks = None
        value: Any
        if kind is self.kinds.ScalarEvent:
            value = self.scalar(event)
        elif kind is self.kinds.AliasEvent:
            return self.alias(event), None
        else:
            self.depth += 1
            if self.depth > _MAX_DEPTH:
                raise self.error(event, f"nested more than {_MAX_DEPTH} levels deep")
            value, marks = (
                self.mapping(stream) if kind is self.kinds.MappingStartEvent else self.sequence(stream)
            )
            self.depth -= 1
        if event.anchor is not None:
            self.anchors[event.anchor] = value
        return value, marks

    def sequence(self, stream: Iterator[Any]) -> tuple[list[Any], Marks]:
        """Read entries up to the end of a list."""
        values: list[Any] = []
        marks: list[tuple[int, Any]] = []
        end = self.kinds.SequenceEndEvent
        while type(event := next(stream)) is not end:
            value, deeper = self.node(event, stream)
            values.append(value)
            marks.append((event.start_mark.line + self.offset + 1, deeper))
        return values, marks

    def mapping(self, stream: Iterator[Any]) -> tuple[dict[str, Any], Marks]:
        """Read keys and values up to the end of an object; own keys win over merged ones."""
        values: dict[str, Any] = {}
        marks: dict[str, tuple[int, Any]] = {}
        merged: list[tuple[Any, Any]] = []  # (object, event to point at)
        end = self.kinds.MappingEndEvent
        while type(event := next(stream)) is not end:
            line = event.start_mark.line + self.offset + 1
            merge = type(event) is self.kinds.ScalarEvent and event.value == "<<" and event.implicit[0]
            key = "<<" if merge else self.key(self.node(event, stream)[0], event)
            value, deeper = self.node(next(stream), stream)
            if merge:
                merged += [(item, event) for item in (value if isinstance(value, list) else [value])]
            elif key in values:
                self.errors.append(
                    ManifestError(
                        f'the key "{key}" is given twice in one object, first on line {marks[key][0]}',
                        where=f"{self.file}:{line}",
                        hint="remove one of them",
                    )
                )
            else:
                values[key] = value
                marks[key] = (line, deeper)
        for other, place in merged:
            if not isinstance(other, dict):
                raise self.error(place, f"<< merges objects, found {describe(other)}")
            values = {**other, **values}
        return values, marks

    def key(self, value: Any, event: Any) -> str:
        """Return a key as JSON has it: always text."""
        if isinstance(value, str):
            return value
        if isinstance(value, dict | list):
            raise self.error(event, f"a key must be text, found {describe(value)}")
        return str(event.value)

    def alias(self, event: Any) -> Any:
        """Return a copy of what an anchor names: objects in the data are never shared."""
        if event.anchor not in self.anchors:
            raise self.error(event, f"*{event.anchor} is used before any &{event.anchor} is given")
        value = self.anchors[event.anchor]
        self.copied += _size(value)
        if self.copied > _MAX_NODES:
            raise self.error(event, "its aliases stand for too many values")
        return copy_json(value)

    def scalar(self, event: Any) -> Any:
        """Resolve a scalar as Kubernetes does: only plain ones can be anything but text."""
        text = event.value
        tag = event.tag
        if tag is not None:
            tag = str(tag)
            if tag in ("!", "!!str", "!!binary", f"{_STANDARD_TAG}str", f"{_STANDARD_TAG}binary"):
                return text
            if not tag.startswith((_STANDARD_TAG, "!!")):
                raise self.error(event, f"the tag {tag} has no meaning here")
        elif not event.implicit[0]:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if text[0] not in _NUMBER_STARTS:
            return text
        return self.number(text, event)

    def number(self, text: str, event: Any) -> Any:
        """Read a number, or return the text when it is none (`v1.0.0`, `10.0.0.1`, `6s`)."""
        if _INTEGER.fullmatch(text):
            digits = text.replace("_", "")
            try:
                if re.match(r"[-+]?0[0-9]", digits):
                    return int(digits, 8)
                return int(digits, 0)
            except ValueError:
                pass  # 089: no octal number, so a decimal one as in Go
        if _FLOAT.fullmatch(text):
            number = float(text)
            if number in (float("inf"), float("-inf")):
                raise self.error(event, f"the number {text} is too large")
            return number
        return text

    def error(self, event: Any, message: str) -> ManifestError:
        """Make an error that points at an event."""
        return ManifestError(message, where=f"{self.file}:{event.start_mark.line + self.offset + 1}")


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(_size(item) for item in value.values())
    if isinstance(value, list):
        return 1 + sum(_size(item) for item in value)
    return 1


# ------------------------------------------------------------------------------------------------------ write


def write(objects: Iterable[Any]) -> str:
    """Write JSON values as YAML documents that Kubernetes tools and `parse` read back unchanged.

    An own writer, since ruamel.yaml follows YAML 1.2 and leaves text such as `yes` bare: kubectl takes it
    for true.
    """
    return "---\n".join("".join(_lines(item, "")) for item in objects)


def _lines(value: Any, indent: str) -> Iterator[str]:
    """Yield the lines of a value that stands on lines of its own."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _entry(f"{indent}{_text(key)}:", item, indent, indent + "  ")
    elif isinstance(value, list) and value:
        for item in value:
            if isinstance(item, dict | list) and item:
                inner = list(_lines(item, indent + "  "))
                yield f"{indent}- {inner[0][len(indent) + 2 :]}"
                yield from inner[1:]
            else:
                yield from _entry(f"{indent}-", item, indent + "  ", indent + "  ")
    else:
        yield f"{indent}{_scalar(value)}\n"


def _entry(head: str, value: Any, list_indent: str, indent: str) -> Iterator[str]:
    """Yield what follows a key or a dash; lists under a key are not indented further, as kubectl has it."""
    if isinstance(value, dict | list) and value:
        yield f"{head}\n"
        yield from _lines(value, list_indent if isinstance(value, list) else indent)
    elif isinstance(value, str) and _LITERAL.fullmatch(value):
        yield f"{head} |{'' if value.endswith(chr(10)) else '-'}\n"
        for line in value.removesuffix("\n").split("\n"):
            yield f"{indent}{line}\n" if line else "\n"
    else:
        yield f"{head} {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    return json.dumps(value)


def _text(value: str) -> str:
    if _BARE.fullmatch(value) and value not in _WORDS and value not in ("y", "Y", "n", "N"):
        return value
    if _QUOTED.fullmatch(value):
        return f"'{value}'"  # JSON within YAML stays legible
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
