"""How runtimes on one machine find each other's apps."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from pelton.cli.dapr_peers import announced, peers
from pelton.compat.dapr.apps import App
from pelton.errors import HomeError

APP = App(app_id="b", port=7000, app_token="shown")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "pelton-dapr"


def test_announced_app_is_found_for_as_long_as_the_block_lasts(place: Path) -> None:
    with announced(APP, http_port=3500):
        [found] = peers("default", "b")

        assert (found.app().port, found.app().app_token, found.runtime) == (7000, "shown", 0)
        assert peers("other", "b") == []
        assert [path.stat().st_mode & 0o777 for path in place.iterdir()] == [0o600]

    assert peers("default", "b") == []
    assert list(place.iterdir()) == []


def test_announced_app_whose_calls_are_counted_is_called_through_its_runtime(place: Path) -> None:
    with announced(App(app_id="b", port=7000, max_concurrency=2, api_token="t"), http_port=3500):
        [found] = peers("default", "b")

    assert (found.runtime, found.runtime_token) == (3500, "t")


def test_announced_app_that_does_not_listen_is_not_announced(place: Path) -> None:
    with announced(App(app_id="b"), http_port=3500):
        assert peers("default", "b") == []


def test_peers_file_of_another_process_with_that_pid_is_removed(place: Path) -> None:
    with announced(APP, http_port=3500):
        [path] = place.iterdir()
        [found] = peers("default", "b")
        stale = place / path.name.replace(str(os.getpid()), "1")
        stale.write_bytes(msgspec.json.encode(msgspec.structs.replace(found, pid=1, started=1)))
        (place / "default~b~junk.json").write_text("no json")

        assert peers("default", "b") == [found]
        assert not stale.exists()


def test_peers_directory_that_others_can_write_is_refused(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)

    with pytest.raises(HomeError):
        peers("default", "b")
