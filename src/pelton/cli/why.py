"""`pelton why detect DIR`: which convention a source follows, by which rule, and why not the others.

Reads the directory as `pelton run` and `pelton deploy` do, without a platform and without importing anything.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

from pelton.builders import detect
from pelton.cli.printing import print_columns, to_yaml
from pelton.cli.tables import CONVENTIONS, resolve_convention
from pelton.errors import SourceError

__all__ = ["why_detect"]


def why_detect(
    directory: str,
    *,
    convention: str | None,
    target: str | None,
    signature: str | None,
    output: str,
) -> int:
    """Print the outcome and every verdict; 0 when one convention is chosen, else the error's exit code.

    Args:
        directory: Directory, or one Python file.
        convention: What `--convention` would say; None to detect.
        target: What `--target` would say.
        signature: What `--signature` would say.
        output: `table`, `yaml` or `json`.
    """
    path = Path(directory)
    if not path.exists():
        raise SourceError("there is no such source directory or file", where=directory)
    said = detect.from_build_env(os.environ)
    wanted = detect.Wanted(
        source=path.name if path.is_file() else said.source,
        target=target or said.target,
        signature=signature or said.signature,
        convention=convention or "",
    )
    conventions = {name: resolve_convention(name) for name in CONVENTIONS}
    report = detect.examine(path.parent if path.is_file() else path, conventions, wanted)
    if output == "table":
        _show(report)
    else:
        plain = _plain(report)
        sys.stdout.write(json.dumps(plain, indent=2) + "\n" if output == "json" else to_yaml(plain))
    return report.error.exit_code if report.error is not None else 0


def _plain(report: detect.Report) -> dict[str, Any]:
    found, error = report.detected, report.error
    return {
        "detected": None
        if found is None
        else {
            "convention": found.convention,
            "target": found.target,
            "signature": found.signature,
            "source": found.source,
            "rule": found.rule,
            "implied": list(found.implied),
            "options": dict(found.options),
            "triggers": [
                {"kind": trigger.kind, "value": trigger.value, "name": trigger.name}
                for trigger in found.triggers
            ],
        },
        "error": None
        if error is None
        else {"code": error.code, "message": error.message, "where": error.where, "hint": error.hint},
        "considered": [
            {"convention": item.convention, "verdict": item.verdict, "why": item.why}
            for item in report.considered
        ],
    }


def _shortened(text: str, width: int) -> str:
    """Return a text in at most `width` characters; `-o json` shows all of it."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _show(report: detect.Report) -> None:
    found = report.detected
    if found is not None:
        lines = [
            ("convention", found.convention),
            ("target", found.target or "-"),
            ("signature", found.signature),
            ("source", found.source or "-"),
            ("rule", found.rule),
        ]
        if found.implied:
            lines.append(("implied", ", ".join(found.implied)))
        lines += [(f"pelton.dev/{key}", value) for key, value in found.options.items()]
        lines += [
            (f"trigger {trigger.kind}", f"{trigger.value}{f' ({trigger.name})' if trigger.name else ''}")
            for trigger in found.triggers
        ]
        width = max(40, get_terminal_size((100, 24)).columns - 30)
        print_columns(None, [(name, _shortened(value, width)) for name, value in lines])
    elif report.error is not None:
        print(f"error: {report.error}")
    print()
    width = max(40, get_terminal_size((100, 24)).columns - 32)
    rows: list[tuple[str, str, str]] = []
    for item in report.considered:
        first, *more = textwrap.wrap(item.why, width) or [""]
        rows.append((item.convention, item.verdict, first))
        rows += [("", "", line) for line in more]
    print_columns(("CONVENTION", "VERDICT", "WHY"), rows)
