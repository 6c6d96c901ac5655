"""Borrowed packages come from Pelton's entries and are hidden again."""

import sys

import pytest

from pelton.sdk import borrowed


@pytest.fixture
def worlds(tmp_path, monkeypatch):
    """Pelton's packages in one directory, the function's in another; only the latter is on the path."""
    for name in ("ours", "theirs"):
        package = tmp_path / name / "lent"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"whose = {name!r}\n")
        (package / "part.py").write_text("import lent\nfrom lent.inner import whose\n")
        (package / "inner.py").write_text(f"whose = {name!r}\n")
        (package / "broken.py").write_text("import lent.inner\nraise ValueError('broken')\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "theirs"), *sys.path])
    monkeypatch.setattr(borrowed, "own_entries", [str(tmp_path / "ours")])
    monkeypatch.setattr(borrowed, "_kept", {})
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "lent"]:
        del sys.modules[name]


def test_borrowed_package_is_ours_and_user_code_imports_its_own(worlds):
    path = list(sys.path)

    (part,) = borrowed.borrow("lent.part", tops=["lent"])

    assert (part.whose, part.lent.whose) == ("ours", "ours")
    assert sys.path == path
    import lent.part  # type: ignore[import-not-found]  # made by the fixture

    assert (lent.whose, lent.part.whose) == ("theirs", "theirs")


def test_what_user_code_has_imported_stays_the_same_object(worlds):
    import lent

    before = lent

    (part,) = borrowed.borrow("lent.part", tops=["lent"])

    assert part.lent is not before
    assert sys.modules["lent"] is before
    assert "lent.part" not in sys.modules


def test_package_is_imported_once(worlds):
    first = borrowed.borrow("lent.part", tops=["lent"])
    (inner,) = borrowed.borrow("lent.inner", tops=["lent"])

    assert borrowed.borrow("lent.part", tops=["lent"]) == first
    assert inner.whose == "ours"


def test_failed_import_leaves_nothing_behind(worlds):
    path = list(sys.path)

    with pytest.raises(ValueError, match="broken"):
        borrowed.borrow("lent.broken", tops=["lent"])

    assert sys.path == path
    assert not any(name.startswith("lent") for name in sys.modules)


def test_before_packages_left_they_are_simply_imported(monkeypatch):
    monkeypatch.setattr(borrowed, "own_entries", [])
    import wsproto

    assert borrowed.borrow("wsproto", tops=["wsproto"]) == [wsproto]
