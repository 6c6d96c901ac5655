"""`pelton why detect`: the outcome and everybody's verdict, for people and for programs."""

import json

import pytest

from pelton.cli.why import why_detect
from pelton.errors import SourceError


def ask(directory, output="table", **said):
    return why_detect(
        str(directory), **{"convention": None, "target": None, "signature": None, "output": output, **said}
    )


def test_outcome_is_told_with_every_verdict(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "main.py").write_text("def f(request): ...\n")

    assert ask(tmp_path) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("convention   gcf\n")
    assert "gcf            chosen     row 11: def f(request) in the entry file (main.py:1)" in shown
    assert "nuclio         no match" in shown
    assert ask(tmp_path, "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["detected"]["target"] == "f" and found["error"] is None
    assert {item["convention"] for item in found["considered"]} >= {"gcf", "lambda", "process", "openfaas"}


def test_tie_has_the_exit_code_of_a_source_that_cannot_be_served(tmp_path, capsys):
    (tmp_path / "main.py").write_text("def handler(event, context): ...\n")

    assert ask(tmp_path) == 2
    shown = capsys.readouterr().out
    assert "2 conventions fit" in shown and "--convention gcf|lambda" in shown
    assert shown.count("  candidate  ") == 2
    assert ask(tmp_path, convention="lambda") == 0


def test_file_and_missing_directory(tmp_path, capsys):
    (tmp_path / "app.py").write_text("def f(request): ...\n")

    assert ask(tmp_path / "app.py", "yaml") == 0
    assert "convention: gcf" in capsys.readouterr().out
    with pytest.raises(SourceError, match="no such"):
        ask(tmp_path / "nothing")


def test_long_values_are_cut_in_the_table_only(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    actions = "".join(f"      action{n}: {{function: a.py}}\n" for n in range(40))
    (tmp_path / "manifest.yaml").write_text(f"packages:\n  p:\n    actions:\n{actions}")
    (tmp_path / "a.py").write_text("def main(args): ...\n")

    assert ask(tmp_path) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) < 120
    ask(tmp_path, "json")
    assert "action39" in capsys.readouterr().out
