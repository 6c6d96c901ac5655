"""Comments stay with their fields."""

import pytest

from pelton.manifest.comments import carried
from pelton.manifest.text import parse, write


def carry(source, obj):
    (document,) = parse(source).documents
    return carried(document, write([obj]))


HEAD = "apiVersion: v1\nkind: K\nmetadata:\n  name: x\n"


def test_comments_stay_above_their_fields_and_come_from_behind_them():
    source = (
        "# top\n" + HEAD + "spec:\n  # about a\n  a: 1 # behind a\n\n  # about b\n  b:\n  # item\n  - 2\n"
    )

    assert carry(source, {**parse(source).documents[0].data}) == (
        "# top\n" + HEAD + "spec:\n  # about a\n  # behind a\n  a: 1\n  # about b\n  b:\n  # item\n  - 2\n"
    )


def test_comment_of_a_field_that_is_gone_goes_to_the_field_around_it():
    source = HEAD + "spec:\n  inner:\n    # why\n    gone: 1\n"

    found = carry(
        source, {"apiVersion": "v1", "kind": "K", "metadata": {"name": "x"}, "spec": {"inner": {"new": 2}}}
    )

    assert found == HEAD + "spec:\n  # why\n  inner:\n    new: 2\n"


@pytest.mark.parametrize(
    "value", ['"a # b"', "'a # b'", "a#b", "|\n    # no comment\n    text", '"it\'s # not" ']
)
def test_what_only_looks_like_a_comment_is_none(value):
    source = HEAD + f"spec:\n  a: {value}\n"
    data = parse(source).documents[0].data

    assert carry(source, data) == write([data])


def test_comments_of_other_documents_stay_there():
    source = "# first\n" + HEAD + "---\n# second\n" + HEAD
    first, second = parse(source).documents

    assert carried(first, write([first.data])) == "# first\n" + HEAD
    assert carried(second, write([second.data])) == "# second\n" + HEAD


def test_comments_at_the_end_stay_at_the_end():
    source = "# first\n" + HEAD + "# between\n---\n" + HEAD + "# last\n"
    first, second = parse(source).documents

    assert carried(first, write([first.data])) == "# first\n" + HEAD
    assert carried(second, write([second.data])) == "# between\n" + HEAD + "# last\n"


def test_json_has_no_comments():
    source = '{"apiVersion": "v1", "kind": "K", "metadata": {"name": "#x"}}'
    data = parse(source).documents[0].data

    assert carry(source, data) == write([data])
