"""The import contracts hold, and each of them would notice; headers and tables name what exists."""

from __future__ import annotations

import ast
import configparser
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pelton.cli import tables

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "pelton"
CONFIG = ROOT / ".importlinter"

# contract -> (file to add to or make, statement that it must notice)
FORBIDDEN = {
    "layers": ("model/build.py", "import pelton.cli.home"),
    "pure": ("plan/names.py", "import asyncio"),
    "targets": ("targets/kubernetes/target.py", "import pelton.targets.local.target"),
    "compat": ("compat/gcf/events.py", "import pelton.compat.openfunction"),
    "drivers": ("drivers/console.py", "import pelton.drivers.webhook"),
    "clients": ("drivers/http.py", "import nats"),
    "light-worker": ("dataplane/zygote.py", "import sqlite3"),
    "acyclic": ("plan/problem.py", "import pelton.plan.function"),
}


def contracts() -> list[str]:
    parser = configparser.ConfigParser()
    parser.read(CONFIG)
    prefix = "importlinter:contract:"
    return [name.removeprefix(prefix) for name in parser.sections() if name.startswith(prefix)]


def lint(source: Path, *contract: str) -> subprocess.CompletedProcess[str]:
    """Run import-linter on a tree, in a process of its own since it imports the root package."""
    limits = [argument for name in contract for argument in ("--contract", name)]
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--config",
            str(CONFIG),
            "--no-cache",
            *limits,
        ],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def test_import_contracts_hold():
    result = lint(SOURCE.parent)

    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


def test_every_contract_has_its_negative_case():
    assert sorted(contracts()) == sorted(FORBIDDEN)


@pytest.mark.parametrize("contract", sorted(FORBIDDEN))
def test_import_contract_notices_a_forbidden_import(contract, tmp_path):
    shutil.copytree(
        SOURCE,
        tmp_path / "pelton",
        ignore=shutil.ignore_patterns("__pycache__"),
        copy_function=shutil.copyfile,
    )
    name, statement = FORBIDDEN[contract]
    path = tmp_path / "pelton" / name
    path.parent.mkdir(exist_ok=True)
    (path.parent / "__init__.py").touch()
    with path.open("a") as file:
        file.write(f"\n{statement}\n")

    result = lint(tmp_path, contract)

    assert result.returncode == 1, result.stdout[-3000:] + result.stderr[-3000:]
    assert "BROKEN" in result.stdout
    injected = path.stem
    assert injected in result.stdout.partition("Broken contracts")[2]


# --- module headers


def modules() -> Iterator[Path]:
    for path in sorted(SOURCE.rglob("*.py")):
        if not path.name.endswith("_pb2.py"):
            yield path


def named_in_header(path: Path) -> set[str]:
    """Return what a header names as a file of the package: `folder/name`, `folder/name.py` or `name.py`."""
    header = ast.get_docstring(ast.parse(path.read_text())) or ""
    found = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+(?:\.py)?|[a-z_]+\.py)(?:\.[a-z_]+)?`", header))
    folders = {each.name for each in SOURCE.iterdir() if each.is_dir()}
    return {name for name in found if "/" not in name or name.split("/")[0] in folders}


def exists(name: str, near: Path) -> bool:
    bare = name.removesuffix(".py")
    places = [SOURCE / bare, near / bare]
    return any(place.with_name(f"{place.name}.py").is_file() or place.is_dir() for place in places)


def test_headers_name_modules_that_exist():
    missing = [
        f"{path.relative_to(SOURCE)}: `{name}`"
        for path in modules()
        for name in sorted(named_in_header(path))
        if name.split("/")[-1] not in ("main.py", "__main__.py", "ports_pb2.py")
        and not exists(name, path.parent)
    ]

    assert missing == []


def test_every_module_has_a_header():
    assert [str(path) for path in modules() if not ast.get_docstring(ast.parse(path.read_text()))] == []


# --- tables


@pytest.mark.parametrize("name", sorted(tables.CONVENTIONS))
def test_convention_in_the_table_has_its_four_names(name):
    module = tables.resolve_convention(name)

    assert name == module.NAME
    assert isinstance(module.IMPLIED, dict)
    assert callable(module.detect)
    assert callable(module.load)


@pytest.mark.parametrize("entry", sorted({*tables.DRIVERS.values(), *tables.SENDERS.values()}))
def test_driver_in_the_table_imports(entry):
    module, _, attribute = entry.partition(":")

    assert callable(getattr(importlib.import_module(module), attribute))
