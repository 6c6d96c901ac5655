from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelton.compat.azure.routes import RouteError, Routes, parse_template


def routes(*templates):
    made = Routes()
    for template in templates:
        text, _, methods = template.partition(" ")
        made.add(parse_template(text), methods.split(), template)
    return made


@pytest.mark.parametrize(
    ("template", "path", "values"),
    [
        ("api/hello", "/api/hello", {}),
        ("api/hello", "/API/Hello/", {}),
        ("items/{id}", "/items/a%20b", {"id": "a b"}),
        ("items/{id}", "/items/a%2Fb", {"id": "a%2Fb"}),
        ("items/{id}", "/items/", None),
        ("items/{id?}", "/items", {}),
        ("items/{id?}", "/items/7", {"id": "7"}),
        ("items/{id=1}", "/items", {"id": "1"}),
        ("items/{id=1}", "/items/2", {"id": "2"}),
        ("a/{b?}/{c?}", "/a/1/2", {"b": "1", "c": "2"}),
        ("a/{b?}/{c?}", "/a/1", {"b": "1"}),
        ("{*rest}", "/", {}),
        ("{*rest}", "/a/b", {"rest": "a/b"}),
        ("files/{**rest}", "/files/a/b", {"rest": "a/b"}),
        ("{name}.{ext?}", "/readme", {"name": "readme"}),
        ("{name}.{ext?}", "/a.b.md", {"name": "a.b", "ext": "md"}),
        ("v{major}-{minor}/x", "/v1-2/x", {"major": "1", "minor": "2"}),
        ("{{literal}}/{id}", "/{literal}/1", {"id": "1"}),
        ("caf\u00e9", "/caf%C3%A9", {}),
        ("", "/", {}),
    ],
)
def test_template_matches_as_written(template, path, values):
    found = routes(template).find("GET", path.encode())

    assert (found and found[1]) == values


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        ("int", ["1", "-5", "2147483647"], ["x", "1.0", "2147483648", "\u0661"]),
        ("long", ["9223372036854775807"], ["9223372036854775808", "1" * 500]),
        ("bool", ["true", "False"], ["1"]),
        ("alpha", ["abc"], ["a1", "\u00e9"]),
        ("guid", ["0f8fad5b-d9cb-469f-a165-70867728950e"], ["0f8fad5b"]),
        ("decimal", ["1.5"], ["1e5"]),
        ("double", ["1e5"], ["x"]),
        ("datetime", ["2026-01-02"], ["today"]),
        ("length(2,3)", ["ab", "abc"], ["a", "abcd"]),
        ("length(2)", ["ab"], ["abc"]),
        ("minlength(2)", ["ab"], ["a"]),
        ("maxlength(2)", ["ab"], ["abc"]),
        ("min(3)", ["3"], ["2", "x"]),
        ("max(3)", ["3"], ["4"]),
        ("range(1,3)", ["2"], ["0", "4"]),
        (r"regex(^\\d{{3}}$)", ["123"], ["12"]),
        ("int:min(3)", ["3"], ["2"]),
    ],
)
def test_constraint_decides_whether_a_route_matches(constraint, good, bad):
    table = routes("{value:" + constraint.replace("\\\\", "\\") + "}")

    for value in good:
        assert table.find("GET", f"/{quote(value)}".encode()) is not None, value
    for value in bad:
        assert table.find("GET", f"/{quote(value)}".encode()) is None, value


def test_more_specific_route_wins_whatever_the_order():
    templates = ["{*all}", "a/{x}", "a/{x:int}", "a/b", "a/v{x}"]
    for order in (templates, templates[::-1]):
        table = routes(*order)

        found = [table.find("GET", path)[0] for path in (b"/a/b", b"/a/1", b"/a/v1", b"/a/c", b"/z/y")]
        assert found == ["a/b", "a/{x:int}", "a/v{x}", "a/{x}", "{*all}"]


def test_method_that_a_route_does_not_take_goes_to_the_next_one_that_matches():
    table = routes("a GET", "a POST", "{x} PUT")

    assert table.find("POST", b"/a?x=1") == ("a POST", {})
    assert table.find("PUT", b"/a") == ("{x} PUT", {"x": "a"})
    assert table.find("DELETE", b"/a") is None


@pytest.mark.parametrize(
    "template",
    [
        "{a",
        "a}",
        "{}",
        "{a:nope}",
        "{a:int(}",
        "{a}/{A}",
        "{*a}/b",
        "{a?}/b",
        "{a:length(x)}",
        "{a:regex([)}",
    ],
)
def test_template_that_cannot_be_read_is_refused(template):
    with pytest.raises(RouteError, match="route"):
        parse_template(template)


@given(st.text(max_size=40))
@settings(max_examples=300)
def test_any_text_is_a_template_or_refused(text):
    try:
        template = parse_template(text)
    except RouteError:
        return
    template.match("a/b")


segment = st.text(st.characters(codec="utf-8", exclude_characters="/%"), min_size=1, max_size=8).filter(
    lambda text: text.strip("/") == text
)


@given(segment, st.lists(segment, min_size=1, max_size=3))
def test_values_come_back_decoded(value, rest):
    table = routes("x/{value}/y/{*rest}")
    path = f"/x/{quote(value, safe='')}/y/{'/'.join(quote(item, safe='') for item in rest)}"

    assert table.find("GET", path.encode()) == (
        "x/{value}/y/{*rest}",
        {"value": value, "rest": "/".join(rest)},
    )
