"""The table of hello functions: one for every convention, each writable side by side with itself."""

import pytest

from bench.hellos import HELLOS, PLAIN, PLAIN_ASYNC, write
from bench.table import Row, met
from pelton.builders import detect
from pelton.cli.tables import CONVENTIONS, resolve_convention


def test_every_convention_has_a_hello():
    assert {hello.convention for hello in HELLOS} == set(CONVENTIONS)


def test_names_for_directories_and_functions_are_different():
    assert len({hello.slug for hello in HELLOS}) == len(HELLOS)
    assert all(hello.slug.replace("-", "").isalnum() for hello in HELLOS)


def test_what_others_are_compared_with_has_no_budget():
    assert not PLAIN.budget and not PLAIN_ASYNC.budget
    assert PLAIN in HELLOS and PLAIN_ASYNC in HELLOS


@pytest.mark.parametrize("hello", HELLOS, ids=lambda hello: hello.slug)
def test_its_convention_finds_its_function_and_its_budget_is_understood(hello, tmp_path):
    source = write(hello, tmp_path / hello.slug)
    found = detect.detect(
        source,
        {name: resolve_convention(name) for name in CONVENTIONS},
        detect.Wanted(convention=hello.convention, target=hello.target),
    )
    assert found.convention == hello.convention
    assert met(Row("a", 1.0, 1.0, "1/s", hello.budget)) in (True, None)


def test_a_comment_makes_a_source_differ_and_nothing_else(tmp_path):
    one, other = write(PLAIN, tmp_path / "a", comment="a"), write(PLAIN, tmp_path / "b", comment="b")
    assert (one / "main.py").read_text() == (other / "main.py").read_text()
    assert (one / "README").read_text() != (other / "README").read_text()


def test_requests_are_whole(tmp_path):
    for hello in HELLOS:
        head = hello.request.split(b"\r\n")
        assert head[0].startswith(b"GET " + hello.path.encode()) and head[0].endswith(b" HTTP/1.1")
        assert head[-2:] == [b"", b""]
