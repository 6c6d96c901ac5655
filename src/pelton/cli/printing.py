"""What people see: tables, YAML, a progress line. Plain text when standard output is not a terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["print_columns", "print_table", "print_yaml", "progress", "tell"]


def tell(text: str) -> None:
    """Write text and its line end to standard error at once: `print` makes two writes of it.

    For processes that share it with others, whose lines would come in between.
    """
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_table(table: dict[str, Any], *, with_namespace: bool, with_heading: bool = True) -> None:
    """Print a Kubernetes Table: its columns of priority 0."""
    shown = [i for i, column in enumerate(table["columnDefinitions"]) if not column.get("priority")]
    shown = shown or [0]
    heading = [table["columnDefinitions"][i]["name"].upper() for i in shown if table["columnDefinitions"]]
    rows = []
    for row in table["rows"]:
        cells = [_cell(row["cells"][i]) for i in shown]
        if with_namespace:
            cells.insert(0, row.get("object", {}).get("metadata", {}).get("namespace", ""))
        rows.append(cells)
    if with_namespace:
        heading.insert(0, "NAMESPACE")
    print_columns(heading if with_heading and heading else None, rows)


def print_columns(heading: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> None:
    """Print rows with aligned columns, three blanks apart, as kubectl does."""
    lines = ([list(heading)] if heading else []) + [list(row) for row in rows]
    if not lines:
        return
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    return "<none>" if value is None or value == "" else str(value)


def print_yaml(obj: Any, *, indent: int = 0) -> None:
    """Print plain data as YAML in block style."""
    sys.stdout.write(to_yaml(obj, indent=indent))


def to_yaml(obj: Any, *, indent: int = 0) -> str:
    """Return plain data as YAML in block style, each line indented by `indent` blanks."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    buffer = io.StringIO()
    yaml.dump(obj, buffer)
    return "".join(" " * indent + line for line in buffer.getvalue().splitlines(keepends=True))


@contextmanager
def progress(subject: str) -> Iterator[Callable[[str], None]]:
    """Show how something goes: one line that is rewritten on a terminal, a line per change elsewhere."""
    live = sys.stderr.isatty()
    last = ""

    def show(text: str) -> None:
        nonlocal last
        if text == last:
            return
        last = text
        line = f"{subject}: {text}"
        sys.stderr.write(f"\r\x1b[K{line}" if live else f"{line}\n")
        sys.stderr.flush()

    try:
        yield show
    finally:
        if live and last:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
