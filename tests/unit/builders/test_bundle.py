import os
import socket

import pytest

from pelton.builders import bundle
from pelton.builders.bundle import snapshot
from pelton.errors import SourceError


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "main.py").write_text("print(1)\n")
    (folder / "pkg").mkdir()
    (folder / "pkg" / "run.sh").write_text("#!/bin/sh\n")
    (folder / "pkg" / "run.sh").chmod(0o700)
    return folder


def names(path):
    found = []
    for folder, _, files in os.walk(path):
        found += [os.path.relpath(os.path.join(folder, name), path) for name in files]
    return sorted(found)


async def test_bundle_holds_the_tree_with_fixed_modes(source, tmp_path):
    made = await snapshot(source, tmp_path / "bundles")

    assert names(made.path) == ["main.py", "pkg/run.sh"]
    assert made.path.endswith(made.digest.removeprefix("sha256:"))
    assert (made.files, made.size_bytes) == (2, 19)
    assert os.stat(made.path).st_mode & 0o777 == 0o755
    assert os.stat(f"{made.path}/pkg").st_mode & 0o777 == 0o755
    assert os.stat(f"{made.path}/main.py").st_mode & 0o777 == 0o644
    assert os.stat(f"{made.path}/pkg/run.sh").st_mode & 0o777 == 0o755


async def test_same_content_gives_the_same_bundle_once(source, tmp_path):
    first = await snapshot(source, tmp_path / "bundles")
    os.utime(source / "main.py", (1, 1))
    second = await snapshot(source, tmp_path / "bundles")

    assert first == second
    assert os.listdir(tmp_path / "bundles") == [first.digest.removeprefix("sha256:")]


@pytest.mark.parametrize("change", ["content", "name", "executable"])
async def test_every_difference_that_counts_changes_the_digest(source, tmp_path, change):
    before = await snapshot(source, tmp_path / "bundles")
    if change == "content":
        (source / "main.py").write_text("print(2)\n")
    elif change == "name":
        (source / "main.py").rename(source / "main2.py")
    else:
        (source / "main.py").chmod(0o755)

    assert (await snapshot(source, tmp_path / "bundles")).digest != before.digest


async def test_rubbish_and_ignored_files_stay_out(source, tmp_path):
    for name in (
        ".git/config",
        "__pycache__/main.pyc",
        ".venv/x",
        "node_modules/x",
        "pkg/old.pyc",
        "data/a.csv",
    ):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("x")
    (source / "secret.env").write_text("x")
    (source / "keep.env").write_text("x")
    (source / ".peltonignore").write_text("# comment\n*.env\n!keep.env\ndata/\n")

    made = await snapshot(source, tmp_path / "bundles")

    assert names(made.path) == [".peltonignore", "keep.env", "main.py", "pkg/run.sh"]


async def test_link_inside_the_tree_is_kept_relative(source, tmp_path):
    (source / "pkg" / "link.py").symlink_to(source / "main.py")

    made = await snapshot(source, tmp_path / "bundles")

    assert os.readlink(f"{made.path}/pkg/link.py") == "../main.py"


@pytest.mark.parametrize(
    ("target", "message"), [("/etc/hostname", "leads out"), ("nowhere", "leads to nothing")]
)
async def test_link_that_leads_outside_or_nowhere_is_refused(source, tmp_path, target, message):
    (source / "link").symlink_to(target)

    with pytest.raises(SourceError, match=message) as raised:
        await snapshot(source, tmp_path / "bundles")

    assert raised.value.where.endswith("/link")


async def test_sockets_and_pipes_are_left_out(source, tmp_path):
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(source / "s"))
        made = await snapshot(source, tmp_path / "bundles")

    assert made.files == 2


async def test_source_over_the_limit_is_refused_and_leaves_nothing(source, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "LIMIT_BYTES", 10)

    with pytest.raises(SourceError, match="larger than"):
        await snapshot(source, tmp_path / "bundles")

    assert not (tmp_path / "bundles").exists()


async def test_missing_and_empty_directories_are_refused(tmp_path):
    with pytest.raises(SourceError, match="no such source directory"):
        await snapshot(tmp_path / "nope", tmp_path / "bundles")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="is empty"):
        await snapshot(tmp_path / "empty", tmp_path / "bundles")
