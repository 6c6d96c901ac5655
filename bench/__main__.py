"""`make bench`: run the sections, print one table. README.md beside this file says how to read it.

Each section runs in a process of its own with a time limit, so that one that fails or hangs costs its own
rows only: the table then has a line that says so.

Usage: python -m bench [SECTION ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.peers import PEERS, describe
from bench.table import Row, as_dict, render

SECTIONS = {
    "worker": 90,
    "conventions": 300,
    "bodies": 90,
    "runtime_api": 120,
    "gateway": 90,
    "functions": 420,
    "coldstart": 240,
    "wakes": 300,
    "bursts": 120,
    "reload": 180,
    "density": 120,
    "api_watch": 60,
    "apply": 300,
    "cel": 60,
    "logs": 60,
    "alerts": 180,
    "elasticity": 120,
    "events": 420,
    "dapr_api": 120,
    "dapr_apps": 120,
    "dapr_gateway": 120,
}
"""Section (module of this package with `rows()`) -> seconds after which it is ended; installs included."""


def main() -> int:
    """Run what the command line asks for; 0 when every section gave its figures, met or not."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--json", metavar="FILE", help="also write the rows to a file")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return _inside(options.inside, Path(options.json))
    unknown = set(options.sections) - SECTIONS.keys()
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    began, load_before = time.monotonic(), os.getloadavg()[0]
    rows: list[Row] = []
    failed = False
    for section in options.sections or SECTIONS:
        print(f"{section} ...", file=sys.stderr, flush=True)
        found, error = _run(section)
        rows += found
        if error:
            failed = True
            rows.append(Row(f"{section}: no figures", None, None, "", note=error))
    print(render(rows))
    print(
        f"\n{time.monotonic() - began:.0f} s; {os.cpu_count()} CPUs; load average before "
        f"{load_before:.2f}, after {os.getloadavg()[0]:.2f}; Python {sys.version.split()[0]}; "
        f"peers {describe(list(PEERS))}"
    )
    if options.json:
        Path(options.json).write_text(json.dumps([as_dict(row) for row in rows], indent=2) + "\n")
    return 1 if failed else 0


def _run(section: str) -> tuple[list[Row], str]:
    """Run one section in a process of its own; returns its rows and what went wrong, if anything."""
    with tempfile.NamedTemporaryFile(suffix=".json") as answer:
        command = [sys.executable, "-m", "bench", "--inside", section, "--json", answer.name]
        process = subprocess.Popen(command, stdout=sys.stderr, start_new_session=True)
        try:
            code = process.wait(SECTIONS[section])
        except subprocess.TimeoutExpired:
            _end(process)
            return [], f"not done within {SECTIONS[section]} s"
        except BaseException:
            _end(process)
            raise
        content = Path(answer.name).read_text()
    if code or not content:
        return [], f"ended with code {code}; the reason is above the table"
    return [Row(**item) for item in json.loads(content)], ""


def _end(process: subprocess.Popen[Any]) -> None:
    """End a section and what it has started; all of it is in the section's own process group."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


def _inside(section: str, answer: Path) -> int:
    rows: list[Row] = importlib.import_module(f"bench.{section}").rows()
    answer.write_text(json.dumps([asdict(row) for row in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
