"""What `pelton` loads for a command, and how a command ends."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("typer", "click", "pydantic", "pelton.cel", "pelton.manifest", "httpx")


def ran(*words: str) -> tuple[int, str, list[str]]:
    """Return the exit code of a command, what it printed, and what is loaded at its end."""
    code = f"""
import json, sys
sys.argv = ["pelton", *{list(words)!r}]
from pelton.cli.main import main
try:
    main()
except SystemExit as exc:
    print(json.dumps([exc.code, sorted(sys.modules)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True
    )
    *printed, last = done.stdout.splitlines()
    code_of, modules = json.loads(last)
    return code_of, "\n".join(printed) + done.stderr, modules


@pytest.mark.parametrize("command", [("dapr", "run"), ("daprd",)])
def test_daprs_own_commands_do_not_load_what_reads_no_flag_of_theirs(command: tuple[str, ...]) -> None:
    code, printed, modules = ran(*command, "--help")

    assert code == 0
    assert "--dapr-http-port" in printed
    assert not set(HEAVY) & set(modules)


def test_users_error_of_daprs_own_commands_is_one_message() -> None:
    code, printed, _ = ran("dapr", "run", "--bogus")

    assert code == 2
    assert printed.startswith("error: ")
    assert "--bogus" in printed


@pytest.mark.parametrize("command", [("dapr", "run"), ("daprd",)])
def test_daprs_own_commands_are_listed_with_the_others(command: tuple[str, ...]) -> None:
    _, printed, modules = ran(*command[:-1], "--help")

    assert f" {command[-1]} " in printed
    assert "typer" in modules
