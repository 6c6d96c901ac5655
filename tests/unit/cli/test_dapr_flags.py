"""Flags of `dapr run` and `daprd` in all their spellings."""

from __future__ import annotations

import pytest

from pelton.cli.dapr_flags import DAPRD, RUN, parse
from pelton.cli.dapr_settings import settings_of
from pelton.errors import UsageError


@pytest.mark.parametrize(
    "words",
    [
        ["--app-id", "a", "--app-port", "3000", "--", "python3", "-u", "app.py"],
        ["--app-id=a", "--app-port=3000", "python3", "-u", "app.py"],
        ["-a", "a", "-p", "3000", "python3", "-u", "app.py"],
    ],
)
def test_parse_run_spellings_mean_the_same(words: list[str]) -> None:
    parsed = parse(words, RUN, command=True)

    assert (parsed.values["app-id"], parsed.values["app-port"]) == ("a", 3000)
    assert parsed.command == ["python3", "-u", "app.py"]


@pytest.mark.parametrize(
    ("words", "body", "head"),
    [
        ([], 4 * 1024 * 1024, 4096),
        (["--max-body-size=-1", "--read-buffer-size=-1"], 4 * 1024 * 1024, 4096),
        (["--max-body-size=1Ki", "--read-buffer-size=8Ki"], 1024, 8192),
        (["--dapr-http-max-request-size=16", "--dapr-http-read-buffer-size=8"], 16 * 1024 * 1024, 8192),
    ],
)
def test_sizes_may_be_written_by_the_older_flags_and_minus_one_is_the_default(
    words: list[str], body: int, head: int
) -> None:
    for flags in (RUN, DAPRD):
        app = settings_of(parse(words, flags, command=False), {}).app

        assert (app.body_limit_bytes, app.header_limit_bytes) == (body, head)


def test_parse_daprd_single_dash_and_unknown_flags_are_taken() -> None:
    words = ["-app-id", "a", "--bogus", "x", "--other=1", "-dapr-http-port", "3501", "--enable-metrics=false"]

    parsed = parse(words, DAPRD, command=False)

    assert (parsed.values["app-id"], parsed.values["dapr-http-port"]) == ("a", 3501)
    assert parsed.unknown == ["--bogus", "--other=1"]


def test_parse_defaults_are_daprs() -> None:
    values = parse([], DAPRD, command=False).values

    assert (values["dapr-http-port"], values["dapr-grpc-port"], values["app-max-concurrency"]) == (
        3500,
        50001,
        -1,
    )
    assert (values["app-health-probe-interval"], values["app-health-probe-timeout"]) == (5.0, 0.5)


@pytest.mark.parametrize(
    ("word", "name", "value"),
    [
        ("--app-health-probe-interval=3", "app-health-probe-interval", 3.0),
        ("--app-health-probe-interval=1500ms", "app-health-probe-interval", 1.5),
        ("--app-health-probe-timeout=200", "app-health-probe-timeout", 0.2),
        ("--max-body-size=4Mi", "max-body-size", 4 * 1024 * 1024),
        ("--max-body-size=10MB", "max-body-size", 10_000_000),
        ("--max-body-size=16", "max-body-size", 16),
        ("--enable-app-health-check", "enable-app-health-check", True),
        ("--enable-app-health-check=false", "enable-app-health-check", False),
    ],
)
def test_parse_value_is_read_in_its_unit(word: str, name: str, value: object) -> None:
    assert parse([word], RUN, command=True).values[name] == value


def test_parse_list_flags_add_up() -> None:
    parsed = parse(["-d", "one", "--resources-path=two"], RUN, command=True)

    assert parsed.values["resources-path"] == ("one", "two")


@pytest.mark.parametrize(
    "words", [["--app-port", "many"], ["--app-port"], ["--max-body-size=4Q"], ["--bogus", "value"]]
)
def test_parse_run_what_makes_no_sense_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(words, RUN, command=True)


def test_parse_daprd_takes_no_command() -> None:
    with pytest.raises(UsageError):
        parse(["--app-id", "a", "--", "python3"], DAPRD, command=False)
