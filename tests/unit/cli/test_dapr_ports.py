"""Ports of apps: the same over restarts, different for each, and none for what is no app."""

from __future__ import annotations

import socket
from pathlib import Path

from pelton.cli.dapr_ports import AppPortBook
from pelton.cli.home import Home
from pelton.model.function import Function


def function(name: str, enabled: str = "true") -> Function:
    return Function(
        name=name, namespace="default", version="v1", image="i", annotations={"dapr.io/enabled": enabled}
    )


def home(path: Path) -> Home:
    made = Home(path)
    made.prepare()
    return made


def test_of_gives_each_app_ports_of_its_own_and_the_same_again(tmp_path: Path) -> None:
    book = AppPortBook(home(tmp_path / "h"))
    one, two = book.of(function("one")), book.of(function("two"))
    again = AppPortBook(Home(tmp_path / "h")).of(function("one"))

    assert one is not None and two is not None
    assert len({one.http, one.grpc, one.inner, two.http, two.grpc, two.inner}) == 6
    assert one.token != two.token
    assert again == one


def test_of_is_nothing_for_a_function_that_is_no_app(tmp_path: Path) -> None:
    assert AppPortBook(home(tmp_path / "h")).of(function("one", "false")) is None


def test_of_leaves_out_what_somebody_listens_on(tmp_path: Path) -> None:
    first = AppPortBook(home(tmp_path / "h")).of(function("one"))
    assert first is not None
    (tmp_path / "h" / "state.json").unlink()
    with socket.create_server(("127.0.0.1", first.grpc)):
        second = AppPortBook(Home(tmp_path / "h")).of(function("one"))

    assert second is not None
    assert first.grpc not in (second.http, second.grpc, second.inner)
