import pytest

from pelton.cli.init import init
from pelton.errors import UnknownConventionError, UsageError


def test_new_function_has_its_four_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert init("hello") == 0

    assert sorted(path.name for path in (tmp_path / "hello").iterdir()) == [
        "README.md",
        "function.yaml",
        "main.py",
        "requirements.txt",
    ]
    assert "pelton deploy hello" in capsys.readouterr().out


def test_empty_directory_is_taken_and_a_full_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hello").mkdir()
    init("hello")
    before = (tmp_path / "hello" / "main.py").read_text()

    with pytest.raises(UsageError, match="not empty"):
        init("hello", trigger="topic")

    assert (tmp_path / "hello" / "main.py").read_text() == before


def test_unknown_convention_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UnknownConventionError, match="nope"):
        init("hello", convention="nope")

    assert list(tmp_path.iterdir()) == []
