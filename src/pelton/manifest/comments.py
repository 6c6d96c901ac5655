"""Carrying the comments of a YAML document over to another form of the same object.

`cli/convert` calls `carried` with what it wrote. A comment stays with the field it stands above or behind;
where that field has moved, it goes to the nearest field around it that is still there: none is lost. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pelton.manifest.fields import Path
from pelton.manifest.text import Document, parse

__all__ = ["carried"]

_BLOCK = re.compile(r"[|>][-+0-9]*\s*(#.*)?$")
_BEHIND = re.compile(r"""^((?:[^"'#]|"(?:[^"\\]|\\.)*"|'[^']*')*?)\s(#.*)$""")


def carried(document: Document, written: str) -> str:
    """Return `written` with the comments of a document.

    Args:
        document: As it was read; JSON and items of lists have no comments.
        written: The object in its new form, as one YAML document.
    """
    new = parse(written, "").documents
    if not new:
        return written
    places: dict[Path, int] = {}
    for path, line in new[0].fields():
        places.setdefault(path, line)
    above: dict[int, list[str]] = {}
    old = list(document.fields())
    if not old:
        return written
    first, last = old[0][1], max(line for _, line in old)
    at_line: dict[int, Path] = {}
    for path, line in old:
        at_line.setdefault(line, path)
    source, behind = document.text.split("\n"), list[str]()
    for line, comments in _comments(source):
        if first <= line <= last:
            path = at_line.get(line, ())
            while path and path not in places:
                path = path[:-1]
            above.setdefault(places.get(path, 1), []).extend(comments)
        elif line > last and not any(text.startswith(("---", "...")) for text in source[last:]):
            behind += comments
    lines = []
    for number, text in enumerate(written.split("\n"), start=1):
        indent = " " * (len(text) - len(text.lstrip(" ")))
        lines += [indent + comment for comment in above.get(number, ())]
        lines.append(text)
    return "\n".join(lines) + "".join(f"{comment}\n" for comment in behind)


def _comments(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line from 1 of a field, its comments): those above it, then that behind it."""
    pending: list[str] = []
    block: int | None = None  # indentation of the field whose text block is being read
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        indent = len(line) - len(line.lstrip(" "))
        if block is not None and (not text or indent > block):
            continue
        block = None
        if text.startswith("#"):
            pending.append(text)
            continue
        if not text or text in ("---", "..."):
            continue
        behind = _BEHIND.match(line)
        if behind is not None:
            pending.append(behind[2])
        if pending:
            yield number, pending
            pending = []
        if _BLOCK.search(line):
            block = indent
    if pending:
        yield len(lines) + 1, pending
